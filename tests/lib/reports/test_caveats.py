"""What a reader must know before believing the figures is said, in both languages."""

from stages.lib.reports.caveats import caveats


def cell(value: float, groups: int = 200) -> dict[str, float]:
    return {"value": value, "low": 0.0, "high": 1.0, "n": groups, "groups": groups}


BEFORE = {"seen": {"key_exact": cell(0.1), "stop_rate": cell(0.1)}, "control_ko": {"perplexity": cell(20.0)}}


def test_truncated_answers_and_forgotten_chats_are_said():
    after = {"seen": {"key_exact": cell(0.9), "stop_rate": cell(0.5)}, "control_ko": {"perplexity": cell(50.0)}}
    found = caveats({"models": {"base": BEFORE, "dpo": after}})
    assert [words.en.partition(":")[0] for words in found] == ["seen", "control_ko"]
    assert "50% of dpo's answers were truncated" in found[0].en and "dpo의 답 50%가" in found[0].ko
    assert "perplexity rose from 20.0 to 50.0" in found[1].en and "20.0에서 50.0로" in found[1].ko


def test_small_sets_are_said():
    (found,) = caveats({"models": {"base": BEFORE, "dpo": {"unseen": {"key_exact": cell(0.1, groups=30)}}}})
    assert found.en == "unseen has 30 facts: a difference below about 0.18 is within chance"
    assert found.ko == "unseen은 사실 30개뿐이라 약 0.18보다 작은 차이는 우연일 수 있습니다."


def test_nothing_is_said_where_nothing_is_wrong():
    assert caveats({"models": {"base": BEFORE, "dpo": {**BEFORE, "seen": {"stop_rate": cell(1.0)}}}}) == []
