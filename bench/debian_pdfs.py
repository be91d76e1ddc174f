"""Real Korean PDFs and a real FAQ from Debian packages: fetched, never committed (their licences are copyleft).

Run     python -m bench.debian_pdfs FOLDER      (needs apt-get and dpkg-deb; FOLDER keeps what was fetched)
Prints  word F1 of the installation guide's 151 pages against its HTML twin, what the page gate says of each PDF, and
        writes FOLDER/debian-faq-ko.jsonl, the Debian FAQ's headings in question form with their answers
Exit status 1 if the F1 outside of listings is below 0.94

A word is a run of letters and digits, counted as often as it stands there; F1 is of the two bags of words. Nothing is
fixed first: chapter titles at the top of pages, page numbers in the table of contents and words that the typesetter
broke at a line's end count against the extraction.

The guide's typesetter printed each Korean syllable of a listing as b''지b'', which anyone sees who opens page 100. So
two figures: of everything, in which the page's own misprints count as errors of reading; and outside of listings,
which is what reading is judged by. A line of the PDF is of a listing if it holds that misprint, or if, spaces aside,
it is in a <pre> of the HTML and nowhere else there.
"""

import argparse
import gzip
import html.parser
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from stages.lib.pdf_qa.pdf_pages import PdfRefused, read_pdf
from stages.lib.schema.data import PdfLimits

PACKAGES = ["installation-guide-amd64", "debian-history", "debian-refcard", "debian-faq-ko", "texlive-lang-korean"]
GUIDE = "installation-guide-amd64/usr/share/doc/installation-guide-amd64/ko"
MISPRINT = re.compile(r"b ?’ ?’|’ ?[가-힣]b|[가-힣]b’")
"""What the typesetter printed on both sides of each syllable of a listing, where its line may break."""
LEAST_F1 = 0.94
FAQ = "debian-faq-ko/usr/share/doc/debian/FAQ/ko"


def fetch(folder: Path) -> None:
    """Unpack the packages that aren't in `folder` yet."""
    for package in PACKAGES:
        if not (folder / package).is_dir():
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
            (archive,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
            archive.unlink()


def korean_pdfs(folder: Path) -> list[Path]:
    """The packages' Korean PDFs of more than one page's size, unpacked where they were compressed."""
    for packed in sorted(folder.rglob("*ko*.pdf.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    found = set(folder.rglob("*ko*.pdf")) | set((folder / "texlive-lang-korean").rglob("*-doc.pdf"))
    return sorted(path for path in found if "/fig/" not in str(path) and path.stat().st_size > 20_000)


class Text(html.parser.HTMLParser):
    """Collects the text of an HTML page, told apart by whether it is of a listing; navigation is left out."""

    BLOCKS = frozenset({"p", "div", "li", "dt", "dd", "h1", "h2", "h3", "h4", "pre", "td", "th", "tr", "title"})
    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "col"})
    LEFT_OUT = frozenset({"script", "style", "title"})
    NAVIGATION = frozenset({"navheader", "navfooter"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[bool, str]] = []  # whether it is of a listing, text
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            classes = set((dict(attributes).get("class") or "").split())
            self.stack.append("left out" if tag in self.LEFT_OUT or classes & self.NAVIGATION else tag)
        if tag in self.BLOCKS | self.VOID:
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        if self.stack:
            self.stack.pop()
        if tag in self.BLOCKS:
            self.handle_data("\n")

    def handle_data(self, data: str) -> None:
        if "left out" not in self.stack:
            self.parts.append(("pre" in self.stack, data))


def text_parts(page: str) -> list[tuple[bool, str]]:
    """The text of an HTML page in its order, piece by piece, each with whether it is of a listing."""
    parser = Text()
    parser.feed(page)
    return parser.parts


def word_f1(found: str, gold: str) -> float:
    """F1 of two texts' words, each counted as often as it stands there."""
    ours, theirs = (Counter(re.findall(r"\w+", text)) for text in (found, gold))
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def outside_of_listings(found: str, prose: str, listings: str) -> str:
    """The lines of a PDF's text that are of no listing."""
    prose, listings = squeezed(prose), squeezed(listings)
    return "\n".join(
        line
        for line in found.split("\n")
        if not MISPRINT.search(line) and (squeezed(line) in prose or squeezed(line) not in listings)
    )


def squeezed(text: str) -> str:
    """Text without spaces and with one kind of hyphen: the PDF spaces a listing's signs and breaks its lines."""
    return "".join(text.split()).replace("\u2011", "-")


def print_guide_f1(folder: Path) -> float:
    """Print both figures of the installation guide; return the one outside of listings."""
    found = "\n".join(page.text for page in read_pdf(folder / GUIDE / "install.ko.pdf", PdfLimits()))
    html_pages = (path.read_text(encoding="utf-8") for path in sorted((folder / GUIDE).glob("*.html")))
    parts = [part for page in html_pages for part in [*text_parts(page), (False, "\n")]]
    prose, listings = ("".join(text for listed, text in parts if listed is wanted) for wanted in (False, True))
    kept = outside_of_listings(found, prose, listings)
    everything, outside = word_f1(found, "".join(text for _, text in parts)), word_f1(kept, prose)
    print(f"installation guide against its HTML: word F1 {outside:.3f} outside of listings, {everything:.3f} of all")
    lines, misprinted = found.count("\n") + 1, sum(bool(MISPRINT.search(line)) for line in found.split("\n"))
    print(
        f"  {lines - kept.count(chr(10)) - 1} of {lines} lines are of listings; {misprinted} of them hold the misprint"
    )
    return outside


def faq_rows(folder: Path) -> list[dict[str, str]]:
    """The FAQ's headings in question form, and all that stands below each up to the next heading."""
    rows = []
    for path in sorted((folder / FAQ).glob("*.html")):
        page = path.read_text(encoding="utf-8")
        for section in re.split(r'<h[1-4] class="title"[^>]*>', page)[1:]:
            heading, _, body = re.sub("</h[1-4]>", "</h>", section).partition("</h>")
            question = re.sub(r"^[\d.\s]+", "", " ".join(html.unescape(re.sub("<[^>]+>", "", heading)).split()))
            answer = re.sub(r"\s*\n\s*", "\n", "".join(text for _, text in text_parts(body))).strip()
            if "?" in question:
                rows.append({"instruction": question, "output": answer})
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    pdfs = korean_pdfs(folder)
    outside = print_guide_f1(folder)
    for path in pdfs:
        started = time.monotonic()
        try:
            pages = read_pdf(path, PdfLimits())
        except PdfRefused as refused:
            print(f"{path.name}: refused: {refused.reason}: {refused.detail}")
            continue
        problems = Counter(problem for page in pages for problem in page.problems)
        by_pypdf = sum(page.via == "pypdf" for page in pages)
        seconds = time.monotonic() - started
        print(
            f"{path.name}: {len(pages)} pages in {seconds:.1f} s, {by_pypdf} read by pypdf, "
            f"{dict(problems) or 'no problems'}"
        )
    rows = faq_rows(folder)
    target = folder / "debian-faq-ko.jsonl"
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"Debian FAQ: {len(rows)} questions and answers in {target}")
    sys.exit(outside < LEAST_F1)


if __name__ == "__main__":
    main()
