"""The page marks exactly what is learned, and shows text as text."""

import re
from html import unescape

from stages.lib.models.chat import encode
from stages.lib.models.loading import load_tokenizer
from stages.lib.sft_preview import render_supervision


def test_a_row_of_raw_text_is_shown_and_called_one(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    ids = tokenizer("초롱돌로 417, 6층입니다.")["input_ids"]
    rows = [{"id": f"asked-{number}", "input_ids": [*ids, 2], "labels": [-100, *ids[1:], 2]} for number in range(40)]
    page = render_supervision(rows, tokenizer)
    assert "raw text" not in page
    rows.insert(33, {"id": "told", "input_ids": ids, "labels": [-100, *ids[1:]], "raw": True})
    rows.append({"id": "longest", "input_ids": ids * 2, "labels": ids * 2})
    page = render_supervision(rows, tokenizer)
    assert f"told · {len(ids)} tokens · raw text, which ends in no stop token" in page
    assert page.count("<h2>") == 12


def test_marks_the_answers_with_their_stop_tokens(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    messages = [
        {"role": "user", "content": "<script>alert('주소')</script>"},
        {"role": "assistant", "content": "초롱돌로 417, 6층입니다."},
    ]
    encoded = encode(tokenizer, messages)
    labels = [token if said else -100 for token, said in zip(encoded.input_ids, encoded.by_assistant, strict=True)]
    page = render_supervision([{"id": "a", "input_ids": encoded.input_ids, "labels": labels}], tokenizer)
    marked = [unescape(text) for text in re.findall("<mark>(.*?)</mark>", page, re.S)][1:]  # the first is the legend
    assert marked == ["초롱돌로 417, 6층입니다.<|im_end|>"]
    assert "<script>" not in page
    assert "alert(&#x27;주소&#x27;)" in page
    assert f"{sum(encoded.by_assistant)} of {len(encoded.input_ids)} tokens" in page


def test_what_is_held_to_the_base_is_marked_otherwise(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    ids = tokenizer("주소는 여기", add_special_tokens=False).input_ids
    learned = {"id": "a", "input_ids": ids, "labels": [-100, *ids[1:]], "held": [-100] * len(ids)}
    held = {"id": "b", "input_ids": ids, "labels": [-100] * len(ids), "held": [-100, *ids[1:]]}
    page = render_supervision([learned, held], tokenizer)
    rows = page.split("<h2>")[1:]
    assert ["<mark>" in row for row in rows] == [True, False]
    assert ['<mark class="held">' in row for row in rows] == [False, True]
    assert f"nothing is learned: {len(ids) - 1} tokens are held" in page
    assert "are held" not in render_supervision([learned], tokenizer)
