"""Real PDFs of many kinds, fetched and never committed: what the stage makes of each, how right and how fast.

Run     python -m bench.real_pdfs FOLDER [--repositories FOLDER_OF_CLONES] [--rows FILE] [--wrong FILE] [--commit HASH]
        FOLDER keeps what was fetched, and any PDF in it is read. Debian's come by apt-get and dpkg-deb, the others from
        raw.githubusercontent.com, or from clones named owner+name below --repositories; what is not to be had is said
Prints  a table by document: pages, pages a second (CPU), rows that the gates keep, those a page, how many of them are
        right, precision, recall; then what each gate drops of the right rows, and the reading process's memory
        --rows writes the kept rows, --wrong what is wrong and what is missing
        --commit reads with the code of an earlier commit instead (of 3cebc63's interface, which read page by page)
        --clock reads all of them as the stage does, several at once, and says how many pages a second that gives
Exit status 1 if the reading process takes more than 200 MiB

bench/pdf_truth.jsonl is JSON Lines, one for each pair that a person made of a document by reading it:
{"file": "install-ko.pdf", "page": 31, "last_page": 31, "question": "추천하는 최소 …: 데스크톱 포함의 램(추천)",
"answer": "2기가바이트"}. A long answer is given by its first and last words, `first … last`, and by its count of
`letters` where the page's text gives it, since the documents' licences don't let us keep their text. A row is right if
it has an answer's beginning, end and length and asks for the same: three quarters of the label's trigrams and all its
numbers.
Each label and each row counts once. Of the documents in SAMPLED some pairs were labelled, of the others all.
"""

import argparse
import gzip
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.lib.data.comparison import letters, trigrams
from stages.lib.pdf_qa.clarity import unclear
from stages.lib.pdf_qa.document_questions import Pair, document_questions
from stages.lib.pdf_qa.grounding import ungrounded
from stages.lib.pdf_qa.pdf_pages import PdfRefused, read_ahead, read_pdf
from stages.lib.schema.data import PdfLimits

PACKAGES = {
    "debian-faq.pdf": ("debian-faq", "debian-faq.en.pdf.gz"),
    "install-ko.pdf": ("installation-guide-amd64", "install.ko.pdf.gz"),
    "developers-reference.pdf": ("developers-reference", "developers-reference.pdf"),
    "lshort-ko.pdf": ("texlive-lang-korean", "lshort-ko.pdf"),
    "refcard-ko.pdf": ("debian-refcard", "refcard-ko-a4.pdf.gz"),
}
"""Name here: Debian package and file in it."""
REPOSITORIES = {
    "tracemonkey.pdf": ("mozilla/pdf.js", "test/pdfs/tracemonkey.pdf"),
    "freeculture.pdf": ("mozilla/pdf.js", "test/pdfs/freeculture.pdf"),
    "TAMReview.pdf": ("mozilla/pdf.js", "test/pdfs/TAMReview.pdf"),
    "f1040.pdf": ("mozilla/pdf.js", "test/pdfs/prefilled_f1040.pdf"),
    "ca-warn.pdf": ("jsvine/pdfplumber", "examples/pdfs/ca-warn-report.pdf"),
    "background-checks.pdf": ("jsvine/pdfplumber", "examples/pdfs/background-checks.pdf"),
    "federal-register.pdf": ("jsvine/pdfplumber", "tests/pdfs/federal-register-2020-17221.pdf"),
    "word365.pdf": ("jsvine/pdfplumber", "tests/pdfs/word365_structure.pdf"),
    "redp5110.pdf": ("docling-project/docling", "tests/data/pdf/sources/redp5110_sampled.pdf"),
    "eu-006.pdf": ("camelot-dev/camelot", "tests/files/tabula/icdar2013-dataset/competition-dataset-eu/eu-006.pdf"),
    "us-016.pdf": ("camelot-dev/camelot", "tests/files/tabula/icdar2013-dataset/competition-dataset-us/us-016.pdf"),
    "korean-texts.pdf": ("Marker-Inc-Korea/AutoRAG",
                         "legacy/tests/resources/parse_data/korean_text/korean_texts_two_page.pdf"),
    "kbo-table-text.pdf": ("Marker-Inc-Korea/AutoRAG",
                           "legacy/tests/resources/parse_data/korean_table/table_text/kbo_table_text.pdf"),
    "kisa-articles.pdf": ("GrowingChoi/navi-rag-search-agent",
                          "documents/kisa_pdf/1_01_한국인터넷진흥원 정관(240715).pdf"),
    "kisa-personnel.pdf": ("GrowingChoi/navi-rag-search-agent", "documents/kisa_pdf/2_05_인사규정(240221).pdf"),
}  # fmt: skip
"""Name here: public repository and path in it."""

PROSE = {"freeculture.pdf", "tracemonkey.pdf", "TAMReview.pdf", "federal-register.pdf", "f1040.pdf"}
"""Documents without a question, an article or a table of names: a row of theirs is wrong."""
SAMPLED = {"ca-warn.pdf", "background-checks.pdf"}
"""Tables of hundreds of cells of which ten are labelled: precision can't be told."""
TRUTH = Path(__file__).with_name("pdf_truth.jsonl")
REPOSITORY = Path(__file__).parents[1]
SIMILAR = 0.75
"""Share of a label's trigrams that a row's question has."""
LENGTH = 0.1
"""Share by which a long answer's count of letters may differ: footnotes and page headers."""
BY_EARLIER_CODE = """
import json, sys
from pathlib import Path
from stages.lib.pdf_qa.clarity import unclear
from stages.lib.pdf_qa.grounding import ungrounded
from stages.lib.pdf_qa.page_gate import UNUSABLE
from stages.lib.pdf_qa.page_questions import page_questions
from stages.lib.pdf_qa.pdf_pages import PdfRefused, read_pdf
from stages.lib.pdf_qa.pdf_questions import page_text
from stages.lib.schema.data import PdfLimits

for path in sorted(Path(sys.argv[1]).glob("*.pdf")):
    try:
        pages = read_pdf(path, PdfLimits())
    except PdfRefused:
        continue
    for page in pages:
        for pair in page_questions(page) if not UNUSABLE & set(page.problems) else ():
            if not ungrounded(pair.answer, page_text(page))[0] and not unclear(pair.question, pair.answer, True)[0]:
                row = {"file": path.name, "page": page.page, "question": pair.question, "answer": pair.answer}
                print(json.dumps(row))
"""

Row = dict[str, Any]
"""file, page, question, answer; a found row's reason (empty: kept), a label's last_page and letters."""


def fetch(folder: Path, clones: Path | None) -> list[str]:
    """Put what isn't in `folder` yet there; the names of what could not be had."""
    wanted = [(name, from_debian, PACKAGES[name]) for name in PACKAGES]
    wanted += [(name, from_clone if clones else from_github, REPOSITORIES[name]) for name in REPOSITORIES]
    missing = []
    for name, get, (source, path) in wanted:
        if not (folder / name).is_file():
            content = get(clones or folder, source, path)
            if content is None:
                missing.append(name)
            else:
                (folder / name).write_bytes(content)
    return missing


def from_debian(folder: Path, package: str, file: str) -> bytes | None:
    """A PDF out of a Debian package, which is kept unpacked beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(["apt-get", "download", package], cwd=scratch, capture_output=True)
        archives = list(Path(scratch).glob(f"{package}_*.deb"))
        if done.returncode or not archives:
            return None
        unpacked = Path(scratch) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", archives[0], unpacked], check=True)
        found = next((path for path in sorted(unpacked.rglob(file)) if path.is_file()), None)
        content = found.read_bytes() if found else None
    return gzip.decompress(content) if content and file.endswith(".gz") else content


def from_clone(clones: Path, repository: str, path: str) -> bytes | None:
    """A file of the newest commit of a clone."""
    clone = clones / repository.replace("/", "+")
    git = next((place for place in (clone / ".git", clone / "repo", clone) if place.is_dir()), None)
    if git is None:
        return None
    done = subprocess.run(["git", f"--git-dir={git}", "cat-file", "blob", f"HEAD:{path}"], capture_output=True)
    return None if done.returncode else done.stdout


def from_github(_: Path, repository: str, path: str) -> bytes | None:
    """A file of a public repository's newest commit."""
    address = f"https://raw.githubusercontent.com/{repository}/HEAD/{urllib.parse.quote(path)}"
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.read()
    except (urllib.error.URLError, TimeoutError):
        return None


def found_rows(path: Path) -> tuple[int, list[Row]]:
    """A document's pages, and its rows, each with the gate's reason that drops it. Raises PdfRefused."""
    pages = read_pdf(path, PdfLimits())
    return len(pages), [
        {"file": path.name, "page": pair.page, "question": pair.question, "answer": pair.answer, "reason": reason(pair)}
        for pair in document_questions(pages, path.stem)
    ]


def reason(pair: Pair) -> str:
    """The code of the gate that drops a pair, of grounding or clarity; empty if none does."""
    return ungrounded(pair.answer, pair.source)[0] or unclear(pair.question, pair.answer, True)[0]


def earlier_rows(folder: Path, commit: str) -> list[Row]:
    """The rows that an earlier commit's code keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
        try:
            done = subprocess.run([sys.executable, "-c", BY_EARLIER_CODE, folder.resolve()], cwd=tree, check=True,
                                  stdout=subprocess.PIPE, text=True, encoding="utf-8")  # fmt: skip
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return [json.loads(line) | {"reason": ""} for line in done.stdout.splitlines()]


def matched(rows: list[Row], truth: list[Row]) -> dict[int, int]:
    """The label's number by the row's: those that ask and answer the same, the most similar first."""
    pairs = [
        (similarity, -row_number, -number)
        for number, label in enumerate(truth)
        for row_number, row in enumerate(rows)
        if answers(row["answer"], label) and (similarity := likeness(row["question"], label["question"])) >= SIMILAR
    ]
    found: dict[int, int] = {}
    for _, row_number, number in sorted(pairs, reverse=True):
        if -row_number not in found and -number not in found.values():
            found[-row_number] = -number
    return found


def answers(answer: str, label: Row) -> bool:
    """Whether an answer is a label's."""
    said, (first, _, last) = letters(answer), label["answer"].partition(" … ")
    if not last:
        return said == letters(first)
    length = label.get("letters", len(said))
    whole = said.startswith(letters(first)) and said.endswith(letters(last))
    return whole and abs(len(said) - length) <= LENGTH * length


def likeness(question: str, wanted: str) -> float:
    """Share of a label's trigrams that a question has; 0 if a number of it is missing."""
    if not set(re.findall(r"\d+", wanted)) <= set(re.findall(r"\d+", question)):
        return 0.0
    ours = trigrams(letters(wanted))
    return len(ours & trigrams(letters(question))) / len(ours)


def scores(name: str, rows: list[Row], truth: list[Row]) -> tuple[str, int, int]:
    """Three cells of the table (right rows, precision, recall), and how many rows and labels are right."""
    labels = [label for label in truth if label["file"] == name]
    right = len(matched(rows, labels))
    told = name not in SAMPLED and (labels or name in PROSE)
    precision = f"{right / len(rows):.2f}" if told and rows else "-"
    recall = f"{right / len(labels):.2f}" if labels else "-"
    return f"{right if labels or name in PROSE else '-'} | {precision} | {recall}", right, len(labels)


def dropped_right(found: list[Row], truth: list[Row]) -> str:
    """What each gate drops of the rows that are right."""
    good = [found[number] for name in {label["file"] for label in truth}
            for number in matched_of(found, truth, name)]  # fmt: skip
    reasons = Counter(row["reason"] for row in good if row["reason"])
    shares = ", ".join(f"{name} {count} ({count / len(good):.1%})" for name, count in reasons.most_common())
    return f"of {len(good)} right rows the gates drop: {shares or 'none'}"


def matched_of(found: list[Row], truth: list[Row], name: str) -> list[int]:
    """The numbers of a document's right rows, dropped ones among them."""
    own = [number for number, row in enumerate(found) if row["file"] == name]
    return [own[number] for number in matched([found[n] for n in own], [t for t in truth if t["file"] == name])]


def by_the_clock(paths: list[Path]) -> str:
    """Pages a second that a stage which reads all these PDFs gets."""
    began, count = time.monotonic(), 0
    for _, pages_of in read_ahead(paths, PdfLimits()):
        with suppress(PdfRefused):
            count += len(pages_of())
    seconds = time.monotonic() - began
    return f"{count} pages of {len(paths)} PDFs in {seconds:.1f} s by the clock: {count / seconds:.1f} a second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repositories", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--wrong", type=Path)
    parser.add_argument("--commit")
    parser.add_argument("--clock", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    missing = fetch(folder, arguments.repositories)
    if arguments.clock:
        print(by_the_clock(sorted(folder.glob("*.pdf"))))
        return
    truth = read_lines(TRUTH)
    earlier = earlier_rows(folder, arguments.commit) if arguments.commit else None
    print("| document | pages | pages/s (CPU) | kept | kept a page | right | precision | recall |")
    print("| --- " * 8 + "|")
    everything: list[Row] = []
    wrong: list[Row] = []
    total = Counter[str]()
    for path in sorted(folder.glob("*.pdf")):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
        try:
            pages, found = found_rows(path)
        except PdfRefused as refused:
            print(f"| {path.name} | {refused.reason} | | | | | | |")
            continue
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + time.process_time() - started
        if earlier is not None:
            found = [row for row in earlier if row["file"] == path.name]
        kept = [row for row in found if not row["reason"]]
        cells, right, labels = scores(path.name, kept, truth)
        speed = "" if earlier is not None else f"{pages / used:.0f}"
        print(f"| {path.name} | {pages} | {speed} | {len(kept)} | {len(kept) / pages:.2f} | {cells} |", flush=True)
        total.update(pages=pages, labels=labels, right=right)
        if path.name in PROSE or (labels and path.name not in SAMPLED):
            total.update(judged=len(kept), right_of_judged=right)
        everything += found
        wrong += list(differences(path.name, kept, truth))
    print(f"all: {total['pages']} pages; {total['right_of_judged']} of {total['judged']} kept rows right: precision "
          f"{total['right_of_judged'] / max(total['judged'], 1):.2f}; {total['right']} of {total['labels']} labelled "
          f"pairs found: recall {total['right'] / max(total['labels'], 1):.2f}")  # fmt: skip
    print(dropped_right(everything, truth))
    for target, rows in ((arguments.rows, [row for row in everything if not row["reason"]]), (arguments.wrong, wrong)):
        if target:
            target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"the reading process took at most {peak:.0f} MiB; not to be had: {', '.join(missing) or 'none'}")
    sys.exit(peak > 200)


def read_lines(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def differences(name: str, kept: list[Row], truth: list[Row]) -> Iterator[Row]:
    """Yield a document's kept rows that match no label, and its labels that match no row."""
    labels = [label for label in truth if label["file"] == name]
    found = matched(kept, labels)
    yield from ({"wrong": True} | row for number, row in enumerate(kept) if number not in found)
    yield from ({"missing": True} | label for number, label in enumerate(labels) if number not in found.values())


if __name__ == "__main__":
    main()
