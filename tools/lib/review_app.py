"""The review's server: the rows in short, one row whole, its page, and decisions.

GET  /api/rows                       {"rows": [{"key": "3f…", "question": "…", "split": "train", "state": "open"}]}
GET  /api/row?key=3f…                {"question": "…", "answer": "…", "reason": "", "acceptable": true, …}
GET  /api/picture?key=3f…            the page as PNG
GET  /api/marks?key=3f…              {"text": "…", "span": [120, 164], "boxes": [[0.1, 0.2, 0.5, 0.02]]}
POST /api/decide {"key": "3f…", "decision": "edit", "question": "…", "answer": "…"}      {"state": "edit", "counts": …}
POST /api/undo {}                    {"key": "3f…", "state": "open", "counts": …}
"""

from typing import Any, Literal

from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stages.lib.pdf_qa.pdf_pages import PdfRefused
from tools.lib.local_page import LocalPage, application, body
from tools.lib.page_pictures import PagePictures
from tools.lib.review_rows import ReviewDesk, Row

OURS = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
"""Headers of what another site's page must not show either, as pictures may be without asking."""


class DecideRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    key: str
    decision: Literal["accept", "edit", "reject"]
    question: str = ""
    answer: str = ""


class UndoRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class ReviewPage:
    """What the requests share: the rows with their decisions, and the pictures of their pages."""

    def __init__(self, desk: ReviewDesk, pictures: PagePictures) -> None:
        self.desk = desk
        self.pictures = pictures

    async def rows(self, request: Request) -> Response:
        await run_sync(self.desk.refresh)
        rows = [self.short(row) for row in self.desk.rows.values()]
        return JSONResponse({"rows": rows, "counts": self.desk.counts(), "kept_in": str(self.desk.file)}, headers=OURS)

    async def row(self, request: Request) -> Response:
        row = self.desk.find(request.query_params.get("key", ""))
        pending = self.desk.pending(row)
        edit = [pending.new_question, pending.new_answer] if pending and pending.decision == "edit" else []
        return JSONResponse({
            **self.short(row), "answer": row.answer, "id": row.id, "detail": row.detail, "where": row.where,
            "text": row.text, "acceptable": row.acceptable, "edit": edit,
            "page_known": await run_sync(self.pictures.path, row.source) is not None,
        }, headers=OURS)  # fmt: skip

    async def picture(self, request: Request) -> Response:
        row = self.desk.find(request.query_params.get("key", ""))
        try:
            picture = await run_sync(self.pictures.picture, row.source)
        except PdfRefused as refused:
            return JSONResponse({"error": str(refused)}, 404, headers=OURS)
        if picture is None:
            return JSONResponse({"error": "found no page of this row"}, 404, headers=OURS)
        return Response(picture.png, media_type="image/png", headers=OURS)

    async def marks(self, request: Request) -> Response:
        row = self.desk.find(request.query_params.get("key", ""))
        return JSONResponse(await run_sync(self.pictures.marks, row.source), headers=OURS)

    async def decide(self, request: Request) -> Response:
        asked = DecideRequest.model_validate(await body(request))
        row = self.desk.find(asked.key)
        await run_sync(self.desk.decide, row, asked.decision, asked.question.strip(), asked.answer.strip())
        return self.answer(row)

    async def undo(self, request: Request) -> Response:
        UndoRequest.model_validate(await body(request))
        undone = await run_sync(self.desk.undo)
        if undone is None:
            return JSONResponse({"error": "nothing_to_undo"})
        return self.answer(self.desk.row_of(undone))

    def answer(self, row: Row | None) -> Response:
        """How a row, and all of them, stand now. Equal rows have the same state."""
        same = [one for one in self.desk.rows.values()
                if row and (one.question, one.answer) == (row.question, row.answer)]  # fmt: skip
        states = {one.key: self.desk.state(one) for one in same}
        return JSONResponse({"key": row.key if row else "", "states": states, "counts": self.desk.counts()})

    def short(self, row: Row) -> dict[str, Any]:
        """What lists and filters need of a row."""
        return {
            "key": row.key, "question": row.question or row.text[:200], "split": row.split, "reason": row.reason,
            "file": row.file, "page": row.source.get("page"), "state": self.desk.state(row), "readable": row.readable,
        }  # fmt: skip


def review_application(page: ReviewPage, hosts: list[str]) -> Starlette:
    """The app. `hosts` are the names it answers to, as names_of has them."""
    routes = [
        Route("/api/rows", page.rows),
        Route("/api/row", page.row),
        Route("/api/picture", page.picture),
        Route("/api/marks", page.marks),
        Route("/api/decide", page.decide, methods=["POST"]),
        Route("/api/undo", page.undo, methods=["POST"]),
    ]
    return application(LocalPage("review.html", pictures=True), routes, hosts)
