"""BERTScore on a tiny real encoder."""

import pytest
from transformers import BertConfig, BertModel

from stages.lib.evaluation.bertscore import bert_scores
from stages.lib.every_stage.errors import UserError


def test_equal_texts_score_full_and_others_less(tiny_model, tmp_path):
    import shutil

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, tmp_path / name)
    BertModel(
        BertConfig(vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    ).save_pretrained(tmp_path)
    texts = ["초롱돌로 417, 6층입니다.", "네.", "달무리길 276", ""]
    equal, other, empty = (
        bert_scores(tmp_path, ["초롱돌로 417, 6층입니다."] * 2, ["초롱돌로 417, 6층입니다."] * 2)[0],
        bert_scores(tmp_path, texts[:1], ["The library opens at nine."])[0],
        bert_scores(tmp_path, texts[:1], [""])[0],
    )
    assert equal == pytest.approx(1, abs=1e-5)
    assert other < 0.95
    assert empty == 0
    together = bert_scores(tmp_path, texts[:3], [texts[0], texts[2], texts[1]])
    alone = [bert_scores(tmp_path, [r], [t])[0] for r, t in zip(texts[:3], [texts[0], texts[2], texts[1]], strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"evaluate.bertscore_model: found no config.json"):
        bert_scores(tmp_path, ["a"], ["a"])
