"""Real PDFs of many kinds, fetched and never committed: what the stage makes of each, and how fast.

Run     python -m bench.real_pdfs FOLDER [--repositories FOLDER_OF_CLONES] [--truth FILE] [--rows FILE]
        (needs apt-get and dpkg-deb for Debian's; --repositories holds clones named owner+name, bare or not, of which
        the PDFs below are taken; what is not there is left out and said)
Prints  a table by document: pages, pages a second (CPU), questions, those that the gates
        keep, kept ones a page; with --truth precision and recall against labelled rows. --rows writes all kept rows, to
        be read and labelled
--truth (bench/pdf_truth.jsonl) is JSON Lines of {"file", "page", "question", "answer_hash", "good"}: a row that was
read and found good or not, known by the hash of its answer, since the documents' licences don't let us keep their text;
or, with no page and no hash, a question that the document asks and that no row had. A kept row that nobody read counts
for neither figure, and the table says how many those are. So far five documents are labelled, 238 rows of them; what
they ask and nobody got was looked for in the Debian FAQ alone (by its table of contents) and in one table of the
redpaper: elsewhere recall is of what was found.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stages.lib.data.comparison import hash_of, letters
from stages.lib.pdf_qa.clarity import unclear
from stages.lib.pdf_qa.document_questions import Pair, document_questions
from stages.lib.pdf_qa.grounding import ungrounded
from stages.lib.pdf_qa.pdf_pages import PdfRefused, read_pdf
from stages.lib.schema.data import PdfLimits

PACKAGES = {
    "debian-faq.pdf": ("debian-faq", "debian-faq.en.pdf.gz"),
    "install-ko.pdf": ("installation-guide-amd64", "install.ko.pdf"),
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


def fetch(folder: Path, clones: Path | None) -> list[str]:
    """Put what isn't in `folder` yet there; the names of what could not be had."""
    missing = []
    for name, (package, file) in PACKAGES.items():
        if (folder / name).is_file():
            continue
        unpacked = folder / package
        if not unpacked.is_dir():
            done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True)
            archives = list(folder.glob(f"{package}_*.deb"))
            if done.returncode or not archives:
                missing.append(name)
                continue
            subprocess.run(["dpkg-deb", "-x", archives[0], unpacked], check=True)
        found = next((path for path in sorted(unpacked.rglob(file)) if path.is_file()), None)
        if found is None:
            missing.append(name)
        else:
            content = found.read_bytes()
            (folder / name).write_bytes(gzip.decompress(content) if file.endswith(".gz") else content)
    for name, (repository, path) in REPOSITORIES.items():
        if (folder / name).is_file():
            continue
        clone = clones / repository.replace("/", "+") if clones else None
        git = (
            next((place for place in (clone / ".git", clone / "repo", clone) if place.is_dir()), None)
            if clone
            else None
        )
        command = ["git", f"--git-dir={git}", "cat-file", "blob", f"HEAD:{path}"]
        done = subprocess.run(command, capture_output=True) if git else None
        if done is None or done.returncode:
            missing.append(name)
        else:
            (folder / name).write_bytes(done.stdout)
    return missing


def kept(pairs: list[Pair]) -> list[Pair]:
    """The pairs that the gates of grounding and clarity let pass."""
    return [
        pair
        for pair in pairs
        if not ungrounded(pair.answer, pair.source)[0] and not unclear(pair.question, pair.answer, True)[0]
    ]


def judged(name: str, pairs: list[Pair], truth: list[dict[str, Any]]) -> str:
    """Precision over the kept rows that a person read, recall of the good rows, and how many nobody read."""
    labels = {(letters(row["question"]), row["answer_hash"]): row for row in truth if row["file"] == name}
    if not labels:
        return "| - | - | "
    keys = [(letters(pair.question), answer_hash(pair.answer)) for pair in pairs]
    read = [labels[key] for key in keys if key in labels]
    right = sum(row["good"] for row in read)
    good = sum(row["good"] for row in labels.values())
    return f"| {right / max(len(read), 1):.2f} | {right / max(good, 1):.2f} | {len(pairs) - len(read)} "


def answer_hash(answer: str) -> str:
    """What a label knows an answer by, its spacing and punctuation aside."""
    return f"{hash_of(letters(answer)) % 2**64:016x}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repositories", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--rows", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    missing = fetch(folder, arguments.repositories)
    truth = (
        [json.loads(line) for line in arguments.truth.read_text(encoding="utf-8").splitlines()]
        if arguments.truth
        else []
    )
    print("| document | pages | pages/s (CPU) | questions | kept | kept a page | precision | recall | not read |")
    print("| --- " * 9 + "|")
    rows = []
    for path in sorted(folder.glob("*.pdf")):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
        try:
            pages = read_pdf(path, PdfLimits())
        except PdfRefused as refused:
            print(f"| {path.name} | {refused.reason} | | | | | | | |")
            continue
        found = list(document_questions(pages, path.stem))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + time.process_time() - started
        good = kept(found)
        rows += [
            {"file": path.name, "page": pair.page, "question": pair.question, "answer": pair.answer} for pair in good
        ]
        print(f"| {path.name} | {len(pages)} | {len(pages) / used:.0f} | {len(found)} | {len(good)} "
              f"| {len(good) / len(pages):.2f} {judged(path.name, good, truth)}|", flush=True)  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"the reading process took at most {peak:.0f} MiB; not to be had: {', '.join(missing) or 'none'}")
    if arguments.rows:
        arguments.rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    sys.exit(peak > 200)


if __name__ == "__main__":
    main()
