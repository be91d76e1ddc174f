"""GGUF files: a model directory converted by llama.cpp's own program, and quantised by its own library."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.quantizing import quantize_child
from stages.lib.quantizing.children import command_of, end_of, environment
from stages.lib.schema.choices import GgufFormat

if TYPE_CHECKING:
    from gguf import GGUFReader

PACKAGES = ("cyllama", "sentencepiece", "xllamacpp")
"""llama.cpp's quantisation, what its converter reads some tokenizers by, and its server."""
CONVERTER = Path(sys.prefix) / "converter" / "convert_hf_to_gguf.py"
"""Where `make setup` and `make gguf` put it."""
DTYPES = {"bfloat16": GgufFormat.bf16, "float16": GgufFormat.f16}
"""What a merged model's 16-bit weights are to llama.cpp, bit for bit."""
BOS = "tokenizer.ggml.add_bos_token"


def refuse_missing_packages() -> None:
    """Raise UserError unless llama.cpp and its converter are installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    missing += [] if CONVERTER.is_file() else [str(CONVERTER)]
    if missing:
        raise UserError(
            f"quantize.enabled: {' and '.join(missing)}: not installed; needed llama.cpp and its converter: make gguf"
        )


def own_format(directory: Path) -> GgufFormat:
    """The format that holds a merged model's weights as they are. Raises UserError for weights of another type."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    found = config.get("dtype") or config.get("torch_dtype")
    if found not in DTYPES:
        raise UserError(f"{directory}: its weights are {found}, needed bfloat16 or float16, as merges write them")
    return DTYPES[found]


def convert(directory: Path, file: Path, own: GgufFormat, name: str, bos: bool) -> None:
    """Write a model directory as a GGUF file of its own 16-bit weights. `bos` says whether its prompts begin with BOS.

    A tokenizer's own word on BOS, which the converter would copy, is about raw text; training follows the template
    alone. Raises UserError with the converter's own words for a model that llama.cpp doesn't know: an architecture, or
    a tokenizer whose way of splitting text isn't on its list.
    """
    with TemporaryDirectory() as folder:
        source = Path(folder) / name  # the file's metadata say this name
        source.mkdir()
        for path in directory.resolve().iterdir():
            (source / path.name).symlink_to(path)
        config = source / "tokenizer_config.json"
        spoken = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        config.unlink(missing_ok=True)
        config.write_text(json.dumps({**spoken, "add_bos_token": bos}), encoding="utf-8")
        said = failure([sys.executable, str(CONVERTER), str(source), "--outfile", str(file), "--outtype", own.value])
    if said or not file.is_file():
        raise UserError(
            f"{directory}: llama.cpp's converter can't write it as GGUF: {said}. Set quantize.enabled=false, and serve "
            "the directory itself: docs/serving.md"
        )


def quantize_file(source: Path, out: Path, form: GgufFormat, threads: int) -> None:
    """Write a GGUF file of 16-bit weights again in another format. Raises UserError with llama.cpp's own words."""
    words = command_of(quantize_child.__name__, str(source), str(out), form.value, "--threads", str(threads))
    if said := failure(words):
        raise UserError(
            f"{source}: llama.cpp can't write it as {form.value}: {said}. Leave {form.value} out of quantize.formats"
        )


def failure(words: list[str]) -> str:
    """The end of what a program said before it failed; "" where it didn't."""
    with TemporaryFile() as log:
        done = subprocess.run(words, env=environment(), stdout=subprocess.DEVNULL, stderr=log)
        return end_of(log) if done.returncode else ""


def versions() -> dict[str, str]:
    """What made the files, for their lineage."""
    found = {name: version(name) for name in PACKAGES}
    (converter,) = CONVERTER.parent.glob("convert_hf_to_gguf-*.dist-info")
    return {**found, "converter": converter.name.removesuffix(".dist-info")}


def read_gguf(file: Path) -> GGUFReader:
    """A GGUF file's metadata and tensors, mapped into memory. Raises UserError for a file that isn't whole."""
    import gguf

    try:
        return gguf.GGUFReader(file)
    except ValueError as error:
        raise UserError(f"{file}: found no whole GGUF file ({error}); make it again: dvc repro quantize") from None


def puts_bos(file: Path) -> bool:
    """Whether the file has the runtime put a BOS token before all texts."""
    field = read_gguf(file).get_field(BOS)
    return field is not None and bool(field.contents())


def stop_token(file: Path) -> int:
    """The id of the token that ends an answer, by the file. Raises UserError where it names none."""
    field = read_gguf(file).get_field("tokenizer.ggml.eos_token_id")
    if field is None:
        raise UserError(f"{file}: it names no stop token (tokenizer.ggml.eos_token_id); needed the template's")
    return int(field.contents())


def bits_per_weight(file: Path) -> float:
    """Bits of all tensors by the number of their weights, scales and what stayed in 16 or 32 bits included.

    A row must divide into blocks of 32 or 256 weights: one that doesn't is held in a larger format than was asked for.
    """
    tensors = read_gguf(file).tensors
    return 8 * sum(int(tensor.n_bytes) for tensor in tensors) / sum(int(tensor.n_elements) for tensor in tensors)
