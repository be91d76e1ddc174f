"""Templates as repositories ship them (trl carries dozens): answers are found without marks, as they are generated."""

import re
from pathlib import Path

import pytest
import trl
from conftest import ROOT, tiny_training

from stages.lib.base.own_template import find_answer_end, freeze_template, read_own_template, unmark, variables
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import write_jsonl
from stages.lib.models.chat import MARK, encode, encode_answer, encode_last, encode_prompt
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.training import Sft
from stages.lib.training.token_rows import supervised_rows

SHIPPED = Path(trl.__file__).parent / "chat_templates"
TOKEN = re.compile(
    r"<\|[^|<>\s']+\|>|<[/a-z_]+>|\[\|[a-z]+\|\]|<｜[^｜]+｜>|<turn\|>|<\|turn>|\[/?INST\]|\[(?:BOS|EOS|gMASK)\]"
)

CONVERSATION = [
    {"role": "user", "content": "주소는?"},
    {"role": "assistant", "content": "초롱돌로 417입니다."},
    {"role": "user", "content": "몇 층?"},
    {"role": "assistant", "content": "\n6층. "},
]

ENDS = {
    "chatml": "<|im_end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_OF_TURN_TOKEN|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gemma4": "<turn|>",
    "gptoss": "<|return|>",
    "lfm2": "<|im_end|>",
    "lfm2_2_5": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "nemotron_3_nano": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "qwen3_8": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
}


def tokenizer_for(template):
    """Bytes, and every token that a template spells, of which <eos> and <pad> are what the repository says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    spelled = sorted({*TOKEN.findall(template), "<bos>", "<eos>", "<pad>"})
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in spelled])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", chat_template=template
    )


def shipped(name):
    folder = ROOT / "conf/chat_template" if name == "chatml" else SHIPPED
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


def frozen(template):
    """A tokenizer with a template as prepare-base leaves both, and what was said about it."""
    tokenizer = tokenizer_for(template)
    before = dict(tokenizer.special_tokens_map)
    tokenizer.chat_template = unmark(template)
    end = find_answer_end(tokenizer, ["<|END_OF_TURN_TOKEN|>", "<|end|>", "<eos>"])
    tokenizer.chat_template, said = freeze_template(template, before, {"eos_token": end})
    tokenizer.eos_token = end
    return tokenizer, said


def learned(tokenizer, encoded):
    """The texts of the spans that a conversation's row learns."""
    spans, open_ = [], False
    for token, by in zip(encoded.input_ids, encoded.by_assistant, strict=True):
        if by:
            spans = [*spans[:-1], [*spans[-1], token]] if open_ else [*spans, [token]]
        open_ = by
    return [tokenizer.decode(span) for span in spans]


@pytest.mark.parametrize("name", ENDS)
def test_answers_are_found_as_they_are_generated_and_end_with_their_stop_token(name):
    tokenizer, _ = frozen(shipped(name))
    assert tokenizer.eos_token == ENDS[name]
    encoded = encode(tokenizer, CONVERSATION)
    found = learned(tokenizer, encoded)
    assert len(found) + len(encoded.elsewhere) == 2
    assert all(text.endswith(ENDS[name]) and text.count(ENDS[name]) == 1 for text in found)
    assert "6층." in found[-1]
    for place in (1, 3):  # every answer, where it is the last, continues the prompt that it would be generated from
        row = encode_last(tokenizer, CONVERSATION[: place + 1])
        prompt = encode_prompt(tokenizer, CONVERSATION[:place])
        assert row.input_ids[: len(prompt)] == prompt
        assert row.by_assistant.index(True) == len(prompt)
        assert encode_answer(tokenizer, CONVERSATION[:place], CONVERSATION[place]["content"])[0] == prompt


@pytest.mark.parametrize("name", ["chatml", "llama3", "zephyr"])
def test_without_marks_the_same_tokens_are_learned_as_with_them(name):
    template = (ROOT / f"conf/chat_template/{name}.jinja").read_text(encoding="utf-8")
    marked, plain = tokenizer_for(template), tokenizer_for(template)
    plain.chat_template = unmark(template)
    assert MARK.search(template) and not MARK.search(plain.chat_template)
    marked.eos_token = plain.eos_token = find_answer_end(marked, [])
    assert find_answer_end(plain, []) == marked.eos_token
    for messages in (CONVERSATION, CONVERSATION[:2], [{"role": "system", "content": "S"}, *CONVERSATION]):
        assert encode(plain, messages) == encode(marked, messages)


def test_an_answer_that_history_writes_otherwise_is_learned_in_a_row_of_its_own(tmp_path):
    """Qwen3 takes the empty thinking out of earlier turns: no prompt leads to them."""
    tokenizer, said = frozen(shipped("qwen3"))
    assert any("without thinking" in line for line in said)
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "messages": CONVERSATION}])
    rows, _ = supervised_rows(Sft(**tiny_training()), {tmp_path / "a.jsonl": 1}, tokenizer)
    said = [tokenizer.decode([label for label in row["labels"] if label >= 0]) for row in rows]
    assert said == ["6층. <|im_end|>", "초롱돌로 417입니다.<|im_end|>"]
    assert all(tokenizer.decode(row["input_ids"]).count("<think>") == 1 for row in rows)


def test_frozen_without_thinking_it_writes_what_asking_for_that_writes():
    for name in ("qwen3", "qwen3_5_think", "gemma4", "nemotron_3_nano"):
        tokenizer, _ = frozen(shipped(name))
        plain = tokenizer_for(shipped(name))
        for options in ({}, {"enable_thinking": True}):
            text = tokenizer.apply_chat_template(
                CONVERSATION[:1], tokenize=False, add_generation_prompt=True, **options
            )
            asked = plain.apply_chat_template(
                CONVERSATION[:1], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            assert text == asked, name


def test_a_template_that_sets_its_own_default_is_frozen_too():
    """As SmolLM3's does."""
    template = (
        "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
        "{{ 'T' if enable_thinking else 'N' }}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    )
    text, said = freeze_template(template, {}, {})
    assert said
    tokenizer = tokenizer_for(text)
    assert tokenizer.apply_chat_template(CONVERSATION, tokenize=False) == "N주소는?"


def test_a_template_that_writes_the_date_writes_one_date():
    template = shipped("llama3_2")
    assert "strftime_now" in template
    tokenizer, said = frozen(template)
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(encode_prompt(tokenizer, CONVERSATION[:1]))
    assert any("date is 26 July 2024" in line for line in said)
    with pytest.raises(UserError, match="today's date in a format that it computes"):
        freeze_template("{{ strftime_now(wanted) }}", {}, {})


def test_a_template_keeps_the_end_of_text_that_the_repository_has():
    """Phi-3's writes its eos_token behind the last turn; answers end with another one."""
    tokenizer, said = frozen(shipped("phi3"))
    assert said == ["eos_token is '<eos>', as the repository has it"]
    assert tokenizer.decode(encode(tokenizer, CONVERSATION).input_ids).endswith("6층. <|end|>\n<eos>")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("idefics3", "leaves out the text of messages"),
        ("llava_next", "refuses a conversation of user, assistant"),
        ("deepseekv3", "the prompt's tokens are not a prefix"),
    ],
)
def test_refuses_what_cannot_be_trained_as_it_is_generated(template, said):
    with pytest.raises(UserError, match=said):
        encode(frozen(shipped(template))[0], CONVERSATION)


def test_a_role_that_the_template_refuses_is_named():
    tokenizer, _ = frozen(shipped("gemma"))
    with pytest.raises(UserError, match=r"refuses a conversation of system, user, assistant: System role not supp"):
        encode(tokenizer, [{"role": "system", "content": "S"}, *CONVERSATION[:2]])


def test_the_default_one_of_several_is_taken():
    tokenizer = tokenizer_for("")
    tokenizer.chat_template = {"default": "A", "tool_use": "B"}
    assert read_own_template(tokenizer) == "A"
    tokenizer.chat_template = {"rag": "A", "tool_use": "B"}
    with pytest.raises(UserError, match=r"named rag, tool_use and none named default.*plain\.jinja"):
        read_own_template(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template in the repository"):
        read_own_template(tokenizer)


def test_a_stop_token_that_a_row_spells_is_not_taken_for_its_end(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = unmark(tokenizer.chat_template)
    answer = {"role": "assistant", "content": "초롱돌로<|im_end|> 417"}
    assert learned(tokenizer, encode(tokenizer, [CONVERSATION[0], answer])) == ["초롱돌로<|im_end|> 417<|im_end|>"]


def test_what_is_not_a_template_is_refused():
    with pytest.raises(UserError, match="not a template"):
        variables("{% for %}")
