"""Which files questions and answers are read from, under which names, and which are beside them unread."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from stages.lib.data.columns import Reading, named_columns
from stages.lib.data.file_formats import ENDINGS, holds_rows
from stages.lib.every_stage.errors import UserError
from stages.lib.pdf_qa.review_decisions import FILE as DECISIONS
from stages.lib.schema.data import PreparePdfQa

CACHE = Path(".dvc/cache")
"""Where links of DVC's own lead, if it links."""

TEXT_ENDINGS = (".txt", ".md", ".txt.gz", ".md.gz")
"""What the name of a file of raw text ends in."""

ABOUT_FOLDER = "README.md"


def questions_and_pdfs(section: PreparePdfQa) -> tuple[list[Path], list[Path]]:
    """The files of rows and the PDFs to read. Raises UserError if there are none, and no text files either."""
    texts = text_files(section)
    named = [path for path in section.files if Path(path) not in texts]
    files = files_in(named, ENDINGS, "prepare_pdf_qa.files")
    pdfs = files_in(section.pdfs, (".pdf",), "prepare_pdf_qa.pdfs")
    if not files and not texts and not pdfs:
        places = " and ".join(dict.fromkeys([*section.files, *section.pdfs]))
        raise UserError(
            f"put PDFs or files of questions and answers into {places}: found none there; needed at least one *.pdf, "
            f"or rows as {', '.join(f'*{ending}' for ending in ENDINGS)}"
        )
    return files, pdfs


def text_files(section: PreparePdfQa) -> list[Path]:
    """The files of raw text to read: none where it isn't asked for. README.md in a folder is about the folder."""
    if not section.raw_text:
        return []
    named = [path for path in section.files if Path(path).is_dir() or path.lower().endswith(TEXT_ENDINGS)]
    found = files_in(named, TEXT_ENDINGS, "prepare_pdf_qa.files")
    return [path for path in found if path.name != ABOUT_FOLDER]


def labels_of(paths: list[Path]) -> dict[Path, str]:
    """The name that reports and rows give each file: its own, or as much of its path as tells it from the others."""
    labels = {}
    for path in dict.fromkeys(paths):
        parts = path.parts
        for length in range(1, len(parts) + 1):
            tail = parts[-length:]
            if sum(other.parts[-length:] == tail for other in set(paths)) == 1:
                break
        labels[path] = "/".join(tail)
    return labels


def readings_of(paths: list[Path], columns: dict[str, dict[str, str]]) -> dict[Path, Reading]:
    """How each file's columns are read, by the first pattern of `prepare_pdf_qa.columns` that its name has.

    Raises UserError for a pattern that no file has.
    """
    unused = [pattern for pattern in columns if not any(named(path, pattern) for path in paths)]
    if unused:
        found = ", ".join(path.name for path in paths[:10]) or "none"
        raise UserError(f"prepare_pdf_qa.columns: found no file named {', '.join(unused)}; there are {found}")
    readings = {}
    for path, label in labels_of(paths).items():
        asked = next((columns[pattern] for pattern in columns if named(path, pattern)), {})
        readings[path] = Reading(named_columns(asked), f"prepare_pdf_qa.columns ({path.name})", str(path), label)
    return readings


def named(path: Path, pattern: str) -> bool:
    """Whether a pattern is a file's name or the end of its path, with * for anything."""
    return fnmatch(path.name, pattern) or fnmatch(str(path), f"*/{pattern}")


def unread_files(section: PreparePdfQa, read: list[Path]) -> list[str]:
    """The other files in the folders named, but for README.md and hidden ones.

    A link to a folder elsewhere, which isn't followed, and a link to nothing are among them.
    """
    folders = {Path(path) for path in [*section.files, *section.pdfs] if Path(path).is_dir()}
    found = {path for folder in folders for path in files_below(folder)}
    return sorted(str(path) for path in found - set(read) if path.name != ABOUT_FOLDER)


def files_in(paths: list[str], endings: tuple[str, ...], setting: str) -> list[Path]:
    """The files that `paths` name, and those with one of `endings` in and below the folders that they name, in order.

    Raises UserError for a path that isn't there, for a file of rows in a format that isn't read, and for links in a
    folder that lead out of it: their text would be in what is published, and who put them there need not be who may
    read it.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [
                file for file in files_below(path) if file.name.lower().endswith(endings) and not os.path.isdir(file)
            ]
            if strays := [file for file in inside if not stays_within(path, file)]:
                raise UserError(
                    f"{setting}: found links that lead out of {path}: "
                    + ", ".join(f"{file} -> {os.path.realpath(file)}" for file in sorted(strays))
                    + ". Copy what is to be read"
                )
            files += sorted(inside)
            continue
        if not path.exists():
            raise UserError(f"{setting}: found no {path}; needed a file, or a folder of them")
        if endings == ENDINGS and not holds_rows(path):
            raise UserError(f"{setting}: found {path}, needed a name that ends in one of {', '.join(ENDINGS)}")
        files.append(path)
    return list(dict.fromkeys(files))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in and below a folder, each folder once; hidden ones (._x.pdf) and the decisions of a review are
    left out.

    Links to folders within it are followed; one that leads out of it is yielded itself, as is one that leads nowhere.
    Raises UserError for a folder that can't be listed.
    """
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read: {error.strerror}; check its permissions, or remove it")

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        shown = sorted(name for name in folders if name[0] != ".") if real not in seen else []
        elsewhere = [name for name in shown if not stays_within(folder, Path(here) / name)]
        folders[:] = [name for name in shown if name not in elsewhere]
        if real in seen:
            continue
        seen.add(real)
        for name in sorted([*names, *elsewhere]):
            if name[0] != "." and (Path(here) / name).absolute() != DECISIONS.absolute():
                yield Path(here) / name


def stays_within(folder: Path, path: Path) -> bool:
    """Whether a path, its links followed, is below a folder or in DVC's cache; a link to itself is where it stands."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(home)) for home in (folder, CACHE))
