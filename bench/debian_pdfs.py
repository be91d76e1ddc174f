"""Real Korean PDFs and a real FAQ from Debian packages: fetched, never committed (their licences are copyleft).

Run     python -m bench.debian_pdfs FOLDER      (needs apt-get and dpkg-deb; FOLDER keeps what was fetched)
Prints  F1 of the installation guide's 151 pages against its HTML twin, what the page gate says of each PDF, and
        writes FOLDER/debian-faq-ko.jsonl, the Debian FAQ's headings in question form with their answers
"""

import argparse
import gzip
import html.parser
import json
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

from stages.lib.pdf_pages import PdfRefused, read_pdf
from stages.lib.schema import PdfLimits

PACKAGES = ["installation-guide-amd64", "debian-history", "debian-refcard", "debian-faq-ko", "texlive-lang-korean"]
GUIDE = "installation-guide-amd64/usr/share/doc/installation-guide-amd64/ko"
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
    """The text of an HTML page, and its parts by tag."""

    BLOCKS = frozenset({"p", "div", "li", "dt", "dd", "h1", "h2", "h3", "h4", "pre", "td", "th", "tr", "br", "title"})
    LEFT_OUT = frozenset({"script", "style", "title"})

    def __init__(self, left_out: set[str]) -> None:
        super().__init__()
        self.words: list[str] = []
        self.stack: list[str] = []
        self.left_out_classes = left_out

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "link", "img", "br", "hr", "input", "col"):
            self.words.append("\n")
            return
        classes = set((dict(attributes).get("class") or "").split())
        self.stack.append("left out" if tag in self.LEFT_OUT or classes & self.left_out_classes else tag)
        if tag in self.BLOCKS:
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self.stack:
            self.stack.pop()
        if tag in self.BLOCKS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if "left out" not in self.stack:
            self.words.append(data)


def text_of(path: Path, left_out: set[str]) -> str:
    """The text of an HTML file without the parts whose class is in `left_out`."""
    parser = Text(left_out)
    parser.feed(path.read_text(encoding="utf-8"))
    return "".join(parser.words)


def f1(found: list[str], gold: list[str]) -> float:
    """F1 of two lists of words, each word counted as often as it stands there."""
    ours, theirs = Counter(found), Counter(gold)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def korean_words(text: str) -> list[str]:
    """Runs of two or more syllables.

    The guide's typesetter printed each Korean syllable of a listing as b'…', on the page itself: as words those would
    be counted against whoever reads the page right.
    """
    return re.findall("[가-힣]{2,}", text)


def guide_f1(folder: Path) -> tuple[float, float]:
    """F1 of the installation guide's Korean words and of all that stands between spaces, against its HTML twin."""
    found = "\n".join(page.text for page in read_pdf(folder / GUIDE / "install.ko.pdf", PdfLimits()))
    gold = "\n".join(text_of(path, {"navheader", "navfooter"}) for path in sorted((folder / GUIDE).glob("*.html")))
    return f1(korean_words(found), korean_words(gold)), f1(found.split(), gold.split())


def faq_rows(folder: Path) -> list[dict[str, str]]:
    """The FAQ's headings in question form, and all that stands below each up to the next heading."""
    rows = []
    for path in sorted((folder / FAQ).glob("*.html")):
        page = path.read_text(encoding="utf-8")
        for section in re.split(r'<h[1-4] class="title"[^>]*>', page)[1:]:
            heading, _, body = re.sub("</h[1-4]>", "</h>", section).partition("</h>")
            question = re.sub(r"^[\d.\s]+", "", " ".join(html.unescape(re.sub("<[^>]+>", "", heading)).split()))
            parser = Text({"navfooter", "navheader"})
            parser.feed(body)
            answer = re.sub(r"\s*\n\s*", "\n", "".join(parser.words)).strip()
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
    korean, everything = guide_f1(folder)
    print(
        f"installation guide against its HTML: F1 {korean:.3f} of Korean words, {everything:.3f} of all between spaces"
    )
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


if __name__ == "__main__":
    main()
