"""Which tokens end an answer and which one fills rows up: as set, or derived from the repository's files.

The rule. Stop tokens: the one that the chat template ends an answer with, then those of eos_token_id in
generation_config.json (or else config.json), then the tokenizer's eos_token. Of the configurations special tokens count
alone: a piece of ordinary text, as some hold a class's default, would cut answers short. Padding: the tokenizer's own
pad_token if it is no stop token; or else the first special token, by number, with "pad" in its name; the unknown token;
one that is reserved or unused; any special one that the template doesn't write. No embedding is added: it would be
untrained.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from stages.lib.base.checks import embedding_rows
from stages.lib.base.own_template import find_answer_end, freeze_template, unmark
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import stop_ids
from stages.lib.schema.data import AUTO, OWN, PrepareBase

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def settle_template_and_tokens(
    section: PrepareBase, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: str
) -> dict[str, Any]:
    """Give model and tokenizer a chat template, stop tokens and a padding token that fit each other.

    `template` is what prepare_base.chat_template names. Returns what was decided, for people and the lineage. Raises
    UserError for tokens without an embedding, where no token is left to pad with, or a template that can't be learned.
    """
    own = section.chat_template == OWN
    before = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    tokenizer.chat_template = unmark(template) if own else template
    known = configured_stops(model, tokenizer)
    end = find_answer_end(tokenizer, section.stop_tokens or known)
    stops = section.stop_tokens or list(dict.fromkeys([end, *known] if end else known))
    if not stops:
        raise UserError(
            "prepare_base.stop_tokens: the repository's files name none; needed the token that ends an answer"
        )
    rows = embedding_rows(model)
    pad = section.pad_token if section.pad_token != AUTO else choose_padding(tokenizer, rows, stops, template)
    set_special_tokens(model, tokenizer, pad, stops)
    if end in stops:
        tokenizer.eos_token = end
    fixed: list[str] = []
    if own:
        changed = {"eos_token": tokenizer.eos_token, "pad_token": pad}
        tokenizer.chat_template, fixed = freeze_template(template, before, changed)
    return {"chat_template": section.chat_template, "fixed": fixed, "stop_tokens": stops, "pad_token": pad}


def configured_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens that a repository's configurations say generation ends on."""
    rows = embedding_rows(model)
    generation = model.generation_config
    found = stop_ids(generation) if generation is not None and generation.eos_token_id is not None else set()
    ids = sorted(found or stop_ids(model.config.get_text_config()) - {None})
    specials = tokenizer.added_tokens_decoder
    named = [specials[number].content for number in ids if number in specials and number < rows]
    return list(dict.fromkeys([*named, *([tokenizer.eos_token] if tokenizer.eos_token else [])]))


def choose_padding(tokenizer: PreTrainedTokenizerBase, rows: int, stops: list[str], template: str) -> str:
    """The token to pad with, by the rule at the top. Raises UserError where none is left."""

    def usable(token: str | None) -> bool:
        if token is None or token in stops or token == tokenizer.bos_token:
            return False
        return tokenizer.get_vocab().get(token, rows) < rows

    specials = [each.content for _, each in sorted(tokenizer.added_tokens_decoder.items()) if each.special]
    free = [token for token in specials if usable(token) and token not in template]
    candidates = [
        *([tokenizer.pad_token] if usable(tokenizer.pad_token) else []),
        *(token for token in free if re.search("pad", token, re.IGNORECASE)),
        *([tokenizer.unk_token] if usable(tokenizer.unk_token) else []),
        *(token for token in free if re.search("reserved|unused", token, re.IGNORECASE)),
        *free,
    ]
    if not candidates:
        raise UserError(
            "prepare_base.pad_token: found no special token that could fill rows up (no stop token, none that the "
            "template writes); set it to a token of the vocabulary that texts hardly hold"
        )
    return candidates[0]


def set_special_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pad_token: str, stop_tokens: list[str]
) -> None:
    """Make model and tokenizer agree on padding and on what ends an answer.

    No embedding is resized: Raises UserError for a token that is not in the vocabulary or has no embedding.
    """
    vocabulary = tokenizer.get_vocab()
    rows = embedding_rows(model)
    for token in [pad_token, *stop_tokens]:
        if vocabulary.get(token, rows) >= rows:
            raise UserError(
                f"prepare_base: found no embedding for the token {token!r}, needed one of the vocabulary's "
                f"{rows}; an added token would be untrained"
            )
    tokenizer.pad_token, tokenizer.eos_token = pad_token, stop_tokens[0]
    tokenizer.padding_side = "left"
    stops = [vocabulary[token] for token in stop_tokens]
    model.config.pad_token_id, model.config.eos_token_id = vocabulary[pad_token], stops[0]
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = vocabulary[pad_token], stops
    model.config.name_or_path = ""  # a local path would change the hash from machine to machine
