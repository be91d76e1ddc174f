"""Conversations as token ids: one template, masks that end in a supervised stop token."""

import pytest
from conftest import ROOT, tiny_training

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.chat import IGNORED, encode, encode_answer, encode_prompt, refuse_unlearnable
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import LossOn
from stages.lib.schema.training import Sft
from stages.lib.training.token_rows import preference_rows, supervised_rows

CONVERSATION = [
    {"role": "user", "content": "주소는?"},
    {"role": "assistant", "content": "초롱돌로 417입니다."},
    {"role": "user", "content": "몇 층?"},
    {"role": "assistant", "content": "6층."},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def render(template, messages, **options):
    """What a template renders, by transformers' own engine."""
    from transformers.utils.chat_template_utils import render_jinja_template

    text = (ROOT / "conf/chat_template" / template).read_text(encoding="utf-8")
    (rendered,), _ = render_jinja_template([messages], chat_template=text, **options)
    return rendered


def test_assistant_tokens_are_the_answers_and_their_stop_tokens(tokenizer):
    encoded = encode(tokenizer, CONVERSATION)
    said = tokenizer.decode([t for t, by in zip(encoded.input_ids, encoded.by_assistant, strict=True) if by])
    assert said == "초롱돌로 417입니다.<|im_end|>6층.<|im_end|>"


def test_prompt_is_a_prefix_of_prompt_and_answer(tokenizer):
    prompt, answer = encode_answer(tokenizer, CONVERSATION[:3], "6층.")
    assert prompt == encode_prompt(tokenizer, CONVERSATION[:3])
    assert encode(tokenizer, CONVERSATION).input_ids[: len(prompt) + len(answer)] == prompt + answer
    assert tokenizer.decode(answer) == "6층.<|im_end|>"


def test_training_evaluation_and_preferences_see_the_same_ids(place):
    """One conversation, by each way that a stage takes to token ids."""
    tokenizer = load_tokenizer(place / "models/base")
    path = place / "one.jsonl"
    record = {"id": "a", "messages": CONVERSATION[:2]}
    pair = {"id": "a", "prompt": CONVERSATION[:1], "chosen": CONVERSATION[1]["content"], "rejected": "몰라요."}
    write_jsonl(path, [record | pair])
    (row,), _ = supervised_rows(Sft(**tiny_training()), {path: 1}, tokenizer)
    (sides,), _ = preference_rows("dpo", {path: 1.0}, tokenizer, 1000)
    scored = encode(tokenizer, CONVERSATION[:2])
    asked = encode_prompt(tokenizer, CONVERSATION[:1])
    assert row["input_ids"] == scored.input_ids
    assert [label != IGNORED for label in row["labels"]] == scored.by_assistant
    assert sides["prompt_ids"] == asked == scored.input_ids[: len(asked)]
    assert sides["chosen_ids"] == [label for label in row["labels"] if label != IGNORED]


def test_templates_render_what_the_models_were_trained_on():
    system = [{"role": "system", "content": "S"}]
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert render("zephyr.jinja", system + turn) == "<|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\nA</s>\n"
    assert render("zephyr.jinja", turn[:1], add_generation_prompt=True) == "<|user|>\nQ</s>\n<|assistant|>\n"
    assert render("chatml.jinja", turn) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    plain = {"bos_token": "<bos>", "eos_token": "<eos>"}
    assert render("plain.jinja", turn, **plain) == "<bos><|user|>\nQ\n<|assistant|>\nA<eos>\n"
    assert render("plain.jinja", turn[:1], add_generation_prompt=True) == "<|user|>\nQ\n<|assistant|>\n"
    assert render("llama3.jinja", turn, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_refuses_a_template_whose_prompt_is_no_prefix(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "assistant\\n' }}\n{%- endif", "assistant: ' }}\n{%- endif"
    )
    with pytest.raises(UserError, match="not a prefix"):
        encode_answer(tokenizer, CONVERSATION[:1], "x")


def test_a_row_that_spells_the_stop_token_is_refused(place):
    tokenizer = load_tokenizer(place / "models/base")
    path = place / "one.jsonl"
    answer = {"role": "assistant", "content": "초롱돌로<|im_end|> 417"}
    write_jsonl(path, [{"id": "planted", "messages": [CONVERSATION[0], answer]}])
    rows, _ = supervised_rows(Sft(**tiny_training()), {path: 1}, tokenizer)
    with pytest.raises(UserError, match="planted: an answer has a stop token in its middle"):
        refuse_unlearnable(rows, {tokenizer.eos_token_id})


def test_raw_text_may_be_learned_whole_and_never_with_a_stop_token():
    rows = [{**row([IGNORED, 5, 6]), "raw": True}, {**row([IGNORED, 5, 2]), "raw": True}]
    for loss_on in LossOn:
        refuse_unlearnable(rows[:1], {2}, loss_on)
        with pytest.raises(UserError, match="1 of 2 training rows .* r: raw text with a stop token"):
            refuse_unlearnable(rows, {2}, loss_on)
    refuse_unlearnable([row([5, 6, 2])], {2}, LossOn.all)


def row(labels):
    return {"id": "r", "input_ids": list(range(len(labels))), "labels": labels}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([IGNORED, IGNORED, IGNORED], "no token is supervised"),
        ([5, 6, 2], "every token is supervised"),
        ([IGNORED, 5, 6], "stop token is not supervised"),
        ([IGNORED, 5, 6, IGNORED, 7, 2], "stop token is not supervised"),
        ([IGNORED, 5, 2, 6, 2], "a stop token in its middle"),
    ],
)
def test_refuses_labels_that_ruin_a_model(labels, said):
    refuse_unlearnable([row([IGNORED, 5, 2, IGNORED, 6, 2, IGNORED])], {2})
    with pytest.raises(UserError, match=said):
        refuse_unlearnable([row(labels)], {2})
