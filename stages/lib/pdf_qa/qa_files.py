"""Which files questions and answers are read from, and which lie beside them unread."""

from pathlib import Path

from stages.lib.errors import UserError
from stages.lib.schema.data import PreparePdfQa

CACHE = Path(".dvc/cache")
"""Where links of DVC's own lead, if it links."""

DECISIONS = ".decisions"
"""Ending of the file in which tools/review keeps its decisions, beside the rows."""


def questions_and_pdfs(section: PreparePdfQa) -> tuple[list[Path], list[Path]]:
    """The JSONL files and the PDFs to read. Raises UserError if there are none."""
    files = files_in(section.files, ".jsonl", "prepare_pdf_qa.files")
    pdfs = files_in(section.pdfs, ".pdf", "prepare_pdf_qa.pdfs")
    if not files and not pdfs:
        places = ", ".join([*section.files, *section.pdfs])
        raise UserError(f"found no *.jsonl and no *.pdf in {places}; needed at least one. Put yours there")
    return files, pdfs


def unread_files(section: PreparePdfQa, read: list[Path]) -> list[str]:
    """The other files in the folders named, but for README.md, the decisions of a review and hidden ones.

    A link to a folder, which isn't followed, and a link to nothing are among them.
    """
    folders = {Path(path) for path in [*section.files, *section.pdfs] if Path(path).is_dir()}
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return sorted(
        str(path)
        for path in found - set(read)
        if path.name != "README.md" and path.suffix != DECISIONS and path.name[0] != "."
    )


def files_in(paths: list[str], suffix: str, setting: str) -> list[Path]:
    """The files that `paths` name, and those with `suffix` in and below the folders that they name, in order.

    Raises UserError for a path that isn't there, and for links in a folder that lead out of it: their text would stand
    in what is published, and who put them there need not be who may read it.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{setting}: found no {path}; needed a file, or a folder of *{suffix}")
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() == suffix and not file.is_dir())
        homes = [path.resolve(), CACHE.resolve()]
        strays = [file for file in inside if not any(file.resolve().is_relative_to(home) for home in homes)]
        if strays:
            raise UserError(
                f"{setting}: found links that lead out of {path}: "
                + ", ".join(f"{file} -> {file.resolve()}" for file in strays)
                + ". Copy what is to be read"
            )
        files += inside
    return files
