"""Look at questions and answers one by one, beside the page they come from: accept, edit or reject them.

Reads   data/prepared/pdf_qa, its dropped rows too; the PDFs, for pictures of their pages
Writes  data/raw/pdf_qa/review/decisions.jsonl, a line a decision as it is made; the next `dvc repro` applies them
Run     graft review [--port 8766]           then open the address that it prints
        graft review --terminal [--split train] [--file guide.pdf] [--reason language]
"""

import argparse
import readline
from collections.abc import Callable

from omegaconf import OmegaConf

from stages.lib.every_stage.entry import exit_on_user_error, locked_section
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.pdf_qa.review_decisions import FILE
from stages.lib.schema.data import PreparePdfQa
from tools.lib.command_line import parser_of
from tools.lib.doorkeeper import names_of
from tools.lib.review_rows import DROPPED, OPEN, SPLITS, ReviewDesk, Row

HELP = "a accept, r reject, e edit, s skip for now, u undo, q stop"
NAMES = {"a": "accept", "r": "reject", "e": "edit", "s": "skip", "u": "undo", "q": "stop"}


def main() -> None:
    parser = parser_of("review", __doc__)
    parser.add_argument("--terminal", action="store_true", help="ask in this terminal instead of a page")
    parser.add_argument("--split", choices=[*SPLITS, DROPPED], help="terminal: rows of this split, or dropped ones")
    parser.add_argument("--file", help="terminal: rows from this file")
    parser.add_argument("--reason", help="terminal: rows dropped for this reason")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets whoever reaches this machine read and decide")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name by which browsers reach this machine"
    )
    parser.add_argument("--port", type=int, default=8766, help="0: any free one")
    given = parser.parse_args()
    start = in_terminal if given.terminal else serve
    exit_on_user_error("review", lambda: start(given), interrupted=f"every decision is kept in {FILE}")


def serve(given: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from tools.lib.local_page import listening
        from tools.lib.local_page import serve as serve_page
        from tools.lib.page_pictures import PagePictures
        from tools.lib.review_app import ReviewPage, review_application
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, and this needs it: pip install -e '.[chat]', or --terminal without it"
        ) from None
    desk = ReviewDesk()
    section = OmegaConf.to_object(locked_section("prepare_pdf_qa"))
    assert isinstance(section, PreparePdfQa)
    page = ReviewPage(desk, PagePictures(section.pdfs, section.limits))
    with listening(given.host, given.port) as server:
        serve_page("review", review_application(page, names_of(given.host, given.allow_host)), server)


def in_terminal(given: argparse.Namespace) -> None:
    """Ask about the open rows that the options leave, and say how to go on."""
    desk = ReviewDesk()
    rows = [
        row for row in desk.rows.values()
        if row.readable and row.split == (given.split or row.split) and row.file == (given.file or row.file)
        and row.reason == (given.reason or row.reason) and (row.split != DROPPED or given.split or given.reason)
    ]  # fmt: skip
    review(desk, rows, ask_line, lambda text: print(shown(text)))
    print("\n" + ", ".join(f"{count} {name}" for name, count in desk.counts().items()))
    print(f"Kept in {desk.file}; `dvc repro` applies them.")


def review(desk: ReviewDesk, rows: list[Row], ask: Callable[[str, str], str], say: Callable[[str], None]) -> None:
    """Ask for a decision on each row that has none yet.

    `ask` gets a prompt and the text to begin with, and returns what was typed; EOFError ends the review as `q` does.
    """
    number = 0
    while number < len(rows):
        row = rows[number]
        if desk.state(row) != OPEN:
            number += 1
            continue
        place = f"{row.file} page {row.source['page']}" if "page" in row.source else f"{row.file} {row.id}"
        say(f"\n{number + 1} of {len(rows)}   {row.split}   {place}\nQ  {row.question}\nA  {row.answer}")
        if row.reason:
            say(f"dropped: {row.reason}: {row.detail}")
        try:
            decision = decide(desk, row, ask)
        except UserError as error:
            say(str(error))
            continue
        except EOFError:
            return
        if decision == "stop":
            return
        if decision == "undo":
            undone = desk.undo()
            say(f"taken back: {undone.decision} of {undone.row}" if undone else "found no decision to take back")
            number = next((n for n, one in enumerate(rows) if undone and desk.row_of(undone) is one), number)
        else:
            number += 1


def decide(desk: ReviewDesk, row: Row, ask: Callable[[str, str], str]) -> str:
    """Ask about one row and keep what is decided. Raises what desk.decide does.

    An edit begins with the present text, where the terminal can offer it; an empty line keeps it too.
    """
    typed = ask(f"[{HELP}] ", "").strip().lower()
    while typed not in NAMES:
        typed = ask(f"{typed!r} is none of: {HELP} ", "").strip().lower()
    decision = NAMES[typed]
    if decision == "edit":
        question = ask("Q> ", row.question).strip() or row.question
        answer = ask("A> ", row.answer).strip() or row.answer
        desk.decide(row, decision, question, answer)
    elif decision in ("accept", "reject"):
        desk.decide(row, decision)
    return decision


def ask_line(prompt: str, text: str) -> str:
    """A line typed in the terminal, which begins with `text`, to be changed there."""
    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook()


if __name__ == "__main__":
    main()
