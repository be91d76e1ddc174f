"""The web page's server: one static page, answers as lines of JSON while they are made, votes.

POST /api/chat {"model": "dpo", "messages": [{"role": "user", "content": "…"}]}
  {"text": "달여울"} … {"end": "stop"}
POST /api/battle {"question": "…", "models": ["dpo", "base"]}         models left out: any two
  {"battle": "5f0c…"} {"side": "first", "text": "…"} … {"side": "first", "end": "stop"} … {"ready": true}
POST /api/vote {"battle": "5f0c…", "verdict": "first"}
  {"first": "dpo", "second": "base", "votes": …}
POST /api/undo {"battle": "5f0c…"}           takes that vote back; its models are known now, so it is over
  {"votes": …}
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stages.lib.data.comparison import hash_of, letters
from stages.lib.evaluation.verdicts import IDENTICAL, by_models, judged
from stages.lib.every_stage.errors import UserError
from stages.lib.preferences.votes import FILE, Vote, read_votes
from stages.lib.quantizing.sampling import TEMPERATURES
from tools.lib.append_only import append, take_back
from tools.lib.chat_models import ChatModel, Piece, Sampling, TooLong
from tools.lib.local_page import LocalPage, application, body
from tools.lib.suggestions import suggestions

PERSON = "person"
OPEN_BATTLES = 100
"""Battles that wait for a vote; older ones are forgotten."""
RESAMPLES, SEED = 2000, 42


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Turn(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    role: Literal["user", "assistant"]
    content: Text


class ChatRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    model: str
    messages: list[Turn] = Field(min_length=1)


class BattleRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    question: Text
    models: list[str] = []


class VoteRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    battle: str
    verdict: Literal["first", "second", "tie", "both_bad"]


class UndoRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    battle: str


@dataclass
class Battle:
    """A question that two models answer; who stands on which side is told after the vote."""

    question: str
    sides: dict[str, ChatModel]  # first, second
    answers: dict[str, str] = field(default_factory=lambda: {"first": "", "second": ""})
    stopped: dict[str, bool] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def vote(self, verdict: str, by: str, sampling: Sampling) -> Vote:
        """The vote as it is kept."""
        row: dict[str, Any] = {"id": self.id, "question": self.question, "verdict": verdict, "by": by}
        row["fact_id"] = f"{hash_of(letters(self.question)) % 2**64:016x}"
        for side, model in self.sides.items():
            row[side] = model.name
            row[f"{side}_characters"] = len(self.answers[side])
            row[f"{side}_answer"] = self.answers[side]
            row[f"{side}_stopped"] = self.stopped[side]
            row[f"{side}_weights_sha256"] = model.weights_sha256
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return Vote.model_validate({**row, **asdict(sampling), "time": now})


class Arena:
    """What the requests share: the models, of which one answers at a time, and the battles that wait for a vote."""

    def __init__(self, models: list[ChatModel], folder: Path, sampling: Sampling, temperature: float | None) -> None:
        self.models = {model.name: model for model in models}
        self.folder = folder
        self.sampling = sampling
        """Of both sides of a battle; a chat has its model's own temperature unless one is asked for."""
        self.temperature = temperature
        self.battles: dict[str, Battle] = {}
        self.turn = asyncio.Lock()

    async def state(self, request: Request) -> Response:
        told = {"models": list(self.models), "votes": self.standing(), "suggestions": suggestions().as_json()}
        return JSONResponse(told)

    async def chat(self, request: Request) -> Response:
        asked = ChatRequest.model_validate(await body(request))
        model = self.find(asked.model)
        temperature = TEMPERATURES[model.name] if self.temperature is None else self.temperature
        sampling = Sampling(temperature, self.sampling.top_p, self.sampling.max_new_tokens)
        turns = [turn.model_dump() for turn in asked.messages]
        messages, dropped = await run_sync(model.fit, turns, sampling.max_new_tokens)

        async def lines() -> AsyncIterator[dict[str, Any]]:
            if dropped:
                yield {"dropped": dropped}
            async with self.turn, aclosing(stepwise(model.answer(messages, sampling))) as pieces:
                async for piece in pieces:
                    yield {"text": piece.text, **({"end": piece.end} if piece.end else {})}

        return self.stream(lines())

    async def battle(self, request: Request) -> Response:
        asked = BattleRequest.model_validate(await body(request))
        names = asked.models or random.sample(list(self.models), min(2, len(self.models)))
        if len(set(names)) != 2:
            raise UserError(f"found {names}, needed two different models to compare")
        names = random.sample(names, 2)
        battle = Battle(asked.question, dict(zip(("first", "second"), map(self.find, names), strict=True)))
        messages = [{"role": "user", "content": battle.question}]
        for model in battle.sides.values():
            await run_sync(model.fit, messages, self.sampling.max_new_tokens)  # or it is too long for one of them

        async def lines() -> AsyncIterator[dict[str, Any]]:
            yield {"battle": battle.id}
            answers = (model.answer(messages, self.sampling) for model in battle.sides.values())
            async with self.turn, aclosing(stepwise(in_turn(*answers))) as pieces:
                async for side, piece in pieces:
                    battle.answers[side] += piece.text
                    if piece.end:
                        battle.answers[side] = battle.answers[side].strip()
                        battle.stopped[side] = piece.end == "stop"
                    yield {"side": side, "text": piece.text, **({"end": piece.end} if piece.end else {})}
            if battle.answers["first"] == battle.answers["second"]:
                append(battle.vote("tie", IDENTICAL, self.sampling), self.folder / FILE, "vote")
                yield {"identical": True, **self.reveal(battle)}
                return
            self.battles[battle.id] = battle
            for forgotten in list(self.battles)[:-OPEN_BATTLES]:
                del self.battles[forgotten]
            yield {"ready": True}

        return self.stream(lines())

    async def vote(self, request: Request) -> Response:
        asked = VoteRequest.model_validate(await body(request))
        if asked.battle not in self.battles:
            return JSONResponse({"error": "unknown_battle"})
        battle = self.battles[asked.battle]
        append(battle.vote(asked.verdict, PERSON, self.sampling), self.folder / FILE, "vote")
        del self.battles[battle.id]
        return JSONResponse(self.reveal(battle))

    async def undo(self, request: Request) -> Response:
        asked = UndoRequest.model_validate(await body(request))
        if not take_back(asked.battle, self.folder / FILE, "vote"):
            return JSONResponse({"error": "nothing_to_undo"})
        return JSONResponse({"votes": self.standing()})

    def find(self, name: str) -> ChatModel:
        """A model by name. Raises UserError naming those that there are."""
        if name not in self.models:
            raise UserError(f"{name}: no such model here; found {', '.join(self.models)}")
        return self.models[name]

    def reveal(self, battle: Battle) -> dict[str, Any]:
        """Who stood where, and how the votes stand now."""
        return {**{side: model.name for side, model in battle.sides.items()}, "votes": self.standing()}

    def standing(self) -> dict[str, Any]:
        """Figures of the votes so far, as the report will have them."""
        votes = [vote for vote in read_votes(self.folder) if isinstance(vote, Vote)]
        pairs = by_models(votes, {model.weights_sha256 for model in self.models.values()})
        figures = {":".join(pair): judged(pair, rows, RESAMPLES, SEED) for pair, rows in pairs.items()}
        return {"count": len(votes), "pairs": figures}

    def stream(self, lines: AsyncIterator[dict[str, Any]]) -> Response:
        """Lines of JSON as they come; a first one says if another answer is being made."""
        waiting = self.turn.locked()

        async def encoded() -> AsyncIterator[bytes]:
            if waiting:
                yield b'{"waiting": true}\n'
            try:
                async for line in lines:
                    yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
            except UserError as error:  # the status has gone out already
                yield json.dumps({"error": str(error)}).encode() + b"\n"

        return StreamingResponse(encoded(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


async def stepwise(steps: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    """What an iterator yields, each step computed in a thread. Closed early, it closes the iterator."""
    with closing(steps):
        while (step := await run_sync(next, steps, None)) is not None:
            yield step


def in_turn(first: Iterator[Piece], second: Iterator[Piece]) -> Generator[tuple[str, Piece], None, None]:
    """Pieces of two answers by turns, so that neither is seen to be quicker."""
    for pieces in zip_longest(first, second):
        for side, piece in zip(("first", "second"), pieces, strict=True):
            if piece is not None:
                yield side, piece


def too_long(request: Request, error: Exception) -> Response:
    """A message that a model has no room for is nobody's faulty request, but an answer."""
    assert isinstance(error, TooLong)
    return JSONResponse({"error": "too_long", "tokens": error.tokens, "room": error.room})


def arena_application(arena: Arena, hosts: list[str]) -> Starlette:
    """The app. `hosts` are the names it answers to, as names_of has them."""
    routes = [
        Route("/api/state", arena.state),
        Route("/api/chat", arena.chat, methods=["POST"]),
        Route("/api/battle", arena.battle, methods=["POST"]),
        Route("/api/vote", arena.vote, methods=["POST"]),
        Route("/api/undo", arena.undo, methods=["POST"]),
    ]
    return application(LocalPage("arena.html"), routes, hosts, {TooLong: too_long})
