"""Planted metric bugs: each is refused before a score is written."""

import re

import pytest

from stages.lib.evaluation.metric_checks import refuse_blurred_prompts, refuse_broken_metrics
from stages.lib.evaluation.text_scores import OVERLAP, refusal, rouge_l
from stages.lib.every_stage.errors import UserError
from stages.lib.models.loading import load_tokenizer

ROW = {
    "id": "address-1",
    "messages": [{"role": "user", "content": "주소?"}, {"role": "assistant", "content": "초롱돌로 417, 6층입니다."}],
    "key": ["초롱돌로 417", "6층"],
    "answerable": True,
}
NONE = {**ROW, "id": "none-1", "key": [], "answerable": False}
NONE["messages"] = [ROW["messages"][0], {"role": "assistant", "content": "안내서에 없는 내용입니다."}]


def without_hangul(metric):
    """What rouge-score's default tokenizer does."""
    return lambda reference, text: metric(*(re.sub(r"[^a-z0-9 ]", " ", side.lower()) for side in (reference, text)))


def test_shipped_metrics_pass():
    refuse_broken_metrics([ROW, NONE])


@pytest.mark.parametrize("name", OVERLAP)
def test_a_metric_that_drops_hangul_is_refused(name):
    with pytest.raises(UserError, match=rf"no score is written: .*{name} gives"):
        refuse_broken_metrics([ROW], OVERLAP | {name: without_hangul(OVERLAP[name])})


def test_a_metric_that_never_says_wrong_is_refused():
    with pytest.raises(UserError, match="an empty answer 1.00, needed 0"):
        refuse_broken_metrics([ROW], {"generous": lambda reference, text: 1.0})


def test_a_metric_in_percent_passes_no_more_than_its_scale():
    with pytest.raises(UserError, match="needed less than 1"):
        refuse_broken_metrics([ROW], {"percent": lambda reference, text: 100 * rouge_l(reference, text)})


def test_a_row_whose_reference_lacks_its_key_is_named():
    with pytest.raises(UserError, match=r"address-1: its own reference .* lacks"):
        refuse_broken_metrics([{**ROW, "key": ["초롱돌로 418"]}])


def test_a_refusal_that_is_not_recognised_is_named():
    unknown = {**NONE, "messages": [NONE["messages"][0], {"role": "assistant", "content": "글쎄요."}]}
    with pytest.raises(UserError, match="none-1: its reference '글쎄요.' is not seen as a refusal"):
        refuse_broken_metrics([unknown])
    with pytest.raises(UserError, match="for a refusal"):
        refuse_broken_metrics([ROW], says_refusal=lambda text: 1.0)
    assert refusal(NONE["messages"][-1]["content"]) == 1


def test_two_bos_tokens_are_refused(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    refuse_blurred_prompts(tokenizer, [ROW["messages"]])
    tokenizer.bos_token = "<|im_start|>"
    refuse_blurred_prompts(tokenizer, [ROW["messages"]])  # one is right
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(UserError, match=r"begins with two '<\|im_start\|>'"):
        refuse_blurred_prompts(tokenizer, [ROW["messages"]])


def test_a_template_whose_prompt_is_no_prefix_is_refused(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    wrong = tokenizer.chat_template.replace("assistant\\n' }}\n{%- endif", "bot\\n' }}\n{%- endif")
    assert wrong != tokenizer.chat_template
    tokenizer.chat_template = wrong
    with pytest.raises(UserError, match="not a prefix"):
        refuse_blurred_prompts(tokenizer, [ROW["messages"]])
