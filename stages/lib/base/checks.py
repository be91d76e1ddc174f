"""Is what was loaded a language model that can be tuned? Asked of weights and tokenizer once they are in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.base.files import refuse_missing_tokenizer
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

SHOWN = 4
AHEAD = 0.25
"""Of what the first token changes at later ones, what the last may change at earlier ones (rounding). A causal model's
are equal to the bit, an encoder's change as much."""


SAMPLE = "Could you? Certainly, gladly: 417."
"""What any tokenizer gives back, but for case and spaces. Where files are missing, transformers may make up one."""


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens a model has embeddings for."""
    return model.get_input_embeddings().num_embeddings  # type: ignore[return-value]


def refuse_misfits(name: str, found: Mapping[str, Iterable[object]]) -> None:
    """Raise UserError unless the weights are exactly those that config.json describes; `found` is transformers' own
    report. It would only warn, and give missing weights random values."""
    problems = {}
    for kind, keys in found.items():
        names = sorted(map(str, keys))
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            problems[kind.replace("_", " ")] = ", ".join(names[:SHOWN]) + more
    if problems:
        told = "; ".join(f"{kind}: {names}" for kind, names in problems.items())
        raise UserError(
            f"{name}: the weights don't fit config.json ({told}); needed exactly the weights that it describes. Take "
            "config.json and weights from the same commit"
        )


def refuse_broken_numbers(name: str, model: PreTrainedModel) -> None:
    """Raise UserError for weights that are NaN or infinite."""
    broken = [key for key, parameter in model.named_parameters() if not parameter.detach().float().sum().isfinite()]
    if broken:
        raise UserError(
            f"{name}: found NaN or infinite numbers in {', '.join(broken[:SHOWN])} ({len(broken)} tensors in all); "
            "needed weights that a model can compute with. Download it anew, or take another one"
        )


def refuse_what_sees_ahead(name: str, model: PreTrainedModel, ids: list[int]) -> None:
    """Raise UserError for a model in which a token's logits depend on later tokens: encoders, diffusion models.

    `ids` are a few tokens; the last one is replaced, and the first. Trained to continue text, such a model copies what
    follows.
    """
    import torch

    other = next(token for token in ids if token not in (ids[0], ids[-1]))
    with torch.inference_mode():
        said, last, first = (
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0].float()
            for row in (ids, [*ids[:-1], other], [other, *ids[1:]])
        )
    ahead, behind = (said - last)[:-1].abs().max(), (said - first)[1:].abs().max()
    if not ahead <= AHEAD * behind:
        raise UserError(
            f"{name}: what it says at a token depends on later ones, as in an encoder or a diffusion model; needed a "
            "decoder-only language model"
        )


def load_tokenizer_that_fits(name: str, directory: Path, rows: int, scratch: Path) -> Any:
    """The tokenizer in a directory, without special tokens for which the model has no embedding.

    `rows` are the embeddings'. Gemma-3's small models, which read text alone, come with a token for images that lies
    behind them. Raises UserError for a missing or broken tokenizer, a slow one, and other tokens without embedding.
    """
    from transformers import AutoTokenizer

    refuse_missing_tokenizer(name, directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        beyond = {number: token for number, token in tokenizer.added_tokens_decoder.items() if number >= rows}
        if beyond and all(token.special for token in beyond.values()):
            copy = without_tokens(directory, {token.content for token in beyond.values()}, scratch / "tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
            names = on_one_line(", ".join(token.content for token in beyond.values()))
            print(f"prepare-base: the tokenizer's {names} has no embedding: taken out", flush=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{name}: transformers can't load the tokenizer: {reason}. Needed a tokenizer.json, which "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…) makes where its packages are installed"
        ) from None
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer has no fast version; needed a tokenizer.json")
    back = str(tokenizer.decode(tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]))
    if "".join(back.lower().split()) != "".join(SAMPLE.lower().split()):
        raise UserError(
            f"{name}: its tokenizer loses text: {SAMPLE!r} comes back as {back!r}; needed the tokenizer.json that the "
            "model was trained with"
        )
    lost = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if lost:
        raise UserError(
            f"{name}: its tokenizer has {len(lost)} tokens more than the model has embeddings ({rows}), such as "
            f"{lost[0][1]!r}; needed the tokenizer that the model was trained with: an added token would be untrained"
        )
    return tokenizer


def without_tokens(directory: Path, tokens: set[str], out: Path) -> Path:
    """A copy of a tokenizer's files in which `tokens` are no longer special; returns `out`."""
    out.mkdir(parents=True)
    for path in directory.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt"):
            shutil.copyfile(path, out / path.name)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (out / name).is_file():
            content = json.loads((out / name).read_text(encoding="utf-8"))
            (out / name).write_text(json.dumps(pruned(content, tokens), ensure_ascii=False), encoding="utf-8")
    return out


def pruned(content: object, tokens: set[str]) -> Any:
    """JSON without the strings and token descriptions that stand for `tokens`."""
    if isinstance(content, dict):
        kept = {key: pruned(value, tokens) for key, value in content.items() if key not in tokens}
        return {key: value for key, value in kept.items() if not stands_for(content[key], tokens)}
    if isinstance(content, list):
        return [pruned(value, tokens) for value in content if not stands_for(value, tokens)]
    return content


def stands_for(value: object, tokens: set[str]) -> bool:
    """Whether a JSON value is one of `tokens` or describes it, as {"content": …}."""
    return (value in tokens) if isinstance(value, str) else isinstance(value, dict) and value.get("content") in tokens
