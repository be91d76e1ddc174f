"""Is a directory a model that can be tuned? Asked of its files before anything of it is loaded.

Every refusal is one sentence that says what the directory is and what to do.
"""

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""No pointer of git-lfs is longer."""

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")


def refuse_unsuitable_files(name: str, directory: Path) -> "PreTrainedConfig":
    """Raise UserError for a directory that holds no whole, plain, decoder-only model; returns its configuration.

    `name` is what people know the directory by.
    """
    refuse_other_formats(name, directory)
    refuse_pointers(name, directory)
    content = read_object(name, directory / "config.json")
    refuse_quantized(name, directory, content)
    config = read_config(name, directory, content)
    refuse_other_kinds(name, config)
    refuse_broken_weights(name, directory)
    return config


def refuse_other_formats(name: str, directory: Path) -> None:
    """Raise UserError for an adapter, GGUF files, or a directory without config.json."""
    ggufs = [directory] if directory.suffix == ".gguf" else sorted(directory.glob("*.gguf"))
    if (directory / "adapter_config.json").is_file():
        base = read_object(name, directory / "adapter_config.json").get("base_model_name_or_path") or "its base"
        raise UserError(
            f"{name}: found adapter_config.json: an adapter, not a model; needed a whole one. Merge it into {base} "
            "first (peft's merge_and_unload), or tune that"
        )
    if ggufs and not (directory / "config.json").is_file():
        raise UserError(
            f"{name}: found {ggufs[0].name}: GGUF, which is for running a model; needed the directory with "
            "config.json and *.safetensors that it was made of"
        )
    if not (directory / "config.json").is_file():
        raise UserError(f"{name}: found no config.json in {directory}, needed a model directory")


def refuse_pointers(name: str, directory: Path) -> None:
    """Raise UserError for files of which git-lfs left only a pointer."""
    pointers = [
        path.name
        for path in sorted(directory.iterdir())
        if path.is_file() and path.stat().st_size <= POINTER_BYTES and path.read_bytes().startswith(POINTER)
    ]
    if pointers:
        raise UserError(
            f"{name}: found pointers of git-lfs in place of {', '.join(pointers)}; needed the files themselves. Run "
            "`git lfs pull` there, or download the repository anew"
        )


def read_object(name: str, path: Path) -> dict[str, Any]:
    """A file that holds a JSON object. Raises UserError for one that doesn't, naming the place."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{name}: {path.name} is not JSON: {error}. It was truncated or edited; download it anew"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{name}: {path.name} holds a {type(content).__name__}, needed an object. Download it anew")
    return content


def refuse_quantized(name: str, directory: Path, content: dict[str, Any]) -> None:
    """Raise UserError for weights that are quantised already: what is learned would round away at the merge."""
    found = content.get("quantization_config") or content.get("compression_config") or content.get("quantization")
    found = found or (content.get("text_config") or {}).get("quantization_config")
    method = found.get("quant_method") or found.get("format") or "MLX" if isinstance(found, dict) else None
    for file, made_by in (("quantize_config.json", "gptq"), ("hf_quant_config.json", "ModelOpt")):
        if (directory / file).is_file():
            method = method or made_by
    if method:
        raise UserError(
            f"{name}: its weights are quantised already ({method}); needed 16 bits, or what is learned would round "
            "away in the merge. Take the model that it was made of, and sft.quantization=nf4 where memory is short"
        )


def read_config(name: str, directory: Path, content: dict[str, Any]) -> "PreTrainedConfig":
    """The configuration. Raises UserError for a model type that transformers doesn't know, or values it refuses."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = content.get("model_type")
    known = f"transformers {version('transformers')}"
    if kind is None:
        raise UserError(f"{name}: config.json has no model_type; needed a model of {known}'s kinds")
    if kind not in CONFIG_MAPPING and content.get("auto_map"):
        raise UserError(
            f"{name}: model_type {kind!r} needs code that its repository ships (auto_map), which is never run; needed "
            f"a model that {known} knows by itself"
        )
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{name}: {known} doesn't know model_type {kind!r}; needed one of its own. A newer transformers may"
        )
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{name}: {known} can't read config.json of model_type {kind!r}: {' '.join(str(error).split())}"
        ) from None


def refuse_other_kinds(name: str, config: "PreTrainedConfig") -> None:
    """Raise UserError for encoders, encoder-decoders, classifiers and other models that don't continue text."""
    needed = "needed a decoder-only language model, such as a …ForCausalLM"
    if config.is_encoder_decoder:
        raise UserError(f"{name}: {config.model_type} is an encoder-decoder; {needed}")
    if not speaking_classes(config):
        raise UserError(f"{name}: transformers has no class for {config.model_type} that continues text; {needed}")
    named = config.architectures or []
    if named and not set(named) & set(speaking_classes(config)):
        raise UserError(f"{name}: config.json says {', '.join(named)}, which doesn't continue text; {needed}")


def speaking_classes(config: "PreTrainedConfig") -> list[str]:
    """transformers' classes that continue text, by name, if `config`'s kind or the text part of it has any."""
    from transformers.models.auto import modeling_auto as auto

    kinds = {config.model_type, config.get_text_config().model_type}
    registered = type(config) in auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if not registered and not any(kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES for kind in kinds):
        return []
    several = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    names: Iterable[Any] = (value for mapping in several for value in mapping.values())
    known = [each for value in names for each in ([value] if isinstance(value, str) else value)]
    own: Any = auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if registered else None
    return [*known, own.__name__] if registered else known


def refuse_broken_weights(name: str, directory: Path) -> None:
    """Raise UserError for safetensors files that are missing or not whole, and where there are only pickles."""
    from safetensors import SafetensorError, safe_open

    for path in weight_files(name, directory):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{name}: {path.name} is damaged or truncated ({error}); needed it whole. Download it anew"
            ) from None


def weight_files(name: str, directory: Path) -> list[Path]:
    """The files that transformers would read the weights from. Raises UserError if some are missing."""
    present = sorted(directory.glob("*.safetensors"))
    if not present:
        found = ", ".join(sorted(path.name for path in directory.glob("*.bin"))) or "no weights"
        raise UserError(f"{name}: found {found}, needed *.safetensors; pickled weights run code when loaded")
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise UserError(
            f"{name}: found {', '.join(path.name for path in present)} and no {INDEX}, which says what is in which "
            "file; needed both. Download the repository anew"
        )
    mapping = read_object(name, directory / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{name}: {INDEX} has no weight_map; download it anew")
    files = sorted(set(mapping.values()))
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise UserError(
            f"{name}: found {len(files) - len(missing)} of the {len(files)} files that {INDEX} names; missing are "
            f"{', '.join(missing)}. Download them too"
        )
    return [directory / file for file in files]


def refuse_missing_tokenizer(name: str, directory: Path) -> None:
    """Raise UserError for a directory without tokenizer files, or with broken ones."""
    refuse_pointers(name, directory)
    if not any((directory / file).is_file() for file in TOKENIZER):
        raise UserError(
            f"{name}: found no tokenizer, such as tokenizer.json; needed the one that the model was trained with. Put "
            "its files there, or name its repository in prepare_base.tokenizer_id"
        )
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (directory / file).is_file():
            read_object(name, directory / file)
