"""The right words for small tables whose meaning is known."""

from typing import Any

from stages.lib.reports.verdict import idle_steps, in_words


def cell(value: float, n: int = 44, low: float | None = None, high: float | None = None) -> dict[str, float]:
    low, high = (value - 0.15 if low is None else low), (value + 0.15 if high is None else high)
    return {"value": value, "low": low, "high": high, "n": n, "groups": n}


def figures(exact: float, refused: float, over: float, accuracy: float, en: float, ko: float) -> dict[str, Any]:
    return {
        "seen": {"key_exact": cell(exact, 90), "over_refusal_rate": cell(over, 90)},
        "unanswerable": {"refusal_rate": cell(refused)},
        "control_en": {"perplexity": cell(en)},
        "control_ko": {"perplexity": cell(ko)},
        "preferences": {"accuracy": cell(accuracy, 72)},
    }


def step(before: dict[str, Any], after: dict[str, Any], width: float = 0.1) -> dict[str, Any]:
    """Paired differences that are sure to `width`."""
    return {
        split: {
            name: cell(change := round(after[split][name]["value"] - held["value"], 4), held["n"],
                       change - width, change + width)
            for name, held in cells.items()
        }
        for split, cells in before.items()
    }  # fmt: skip


def table(sft: dict[str, Any], dpo: dict[str, Any], known: tuple[int, int, int] = (0, 26, 27)) -> dict[str, Any]:
    base = figures(0.0, 0.0, 0.0, 0.5, 23.3, 31.0)
    return {
        "models": {"base": base, "dpo": dpo, "sft": sft},  # as JSON sorts them
        "steps": {"sft": step(base, sft), "dpo": step(sft, dpo)},
        "facts": {
            name: {"known": count, "asked": 30} for name, count in zip(("base", "sft", "dpo"), known, strict=True)
        },
    }


LEARNED = figures(0.86, 12 / 44, 0.0, 0.7, 23.5, 30.9)
REFUSES = figures(0.85, 36 / 44, 2 / 90, 0.85, 24.0, 31.4)


def test_what_was_learned_kept_and_refused_is_said_in_both_languages() -> None:
    detail = table(LEARNED, REFUSES)
    assert in_words(detail, "en") == (
        "dpo: learned 27 of 30 facts, right in most wordings (base knew 0); still speaks as before (perplexity en 23.3 "
        "-> 24.0, ko 31.0 -> 31.4); refuses 36 of 44 questions it can't know (sft alone 12) and 2 of 90 that it can; "
        "sft's gain over base: facts stated +0.86 [+0.76, +0.96], refusals of what it can't know +0.27 [+0.17, +0.37], "
        "preference accuracy +0.20 [+0.10, +0.30]; dpo's gain over sft: refusals of what it can't know +0.55 [+0.45, "
        "+0.65], preference accuracy +0.15 [+0.05, +0.25]."
    )
    assert in_words(detail, "ko") == (
        "dpo: 사실 30개 가운데 27개를 절반 넘는 표현에서 맞힙니다(base는 0개); 다른 주제의 대화 능력은 "
        "그대로입니다(perplexity en 23.3 -> 24.0, ko 31.0 -> 31.4); 답이 없는 질문 44개 가운데 36개를 "
        "거절합니다(sft만으로는 12개), 답이 있는 질문은 90개 가운데 2개를 거절합니다; base보다 sft가 나아진 점: "
        "사실 정답률 +0.86 [+0.76, +0.96], 답이 없는 질문의 거절 +0.27 [+0.17, +0.37], 선호 정확도 +0.20 "
        "[+0.10, +0.30]; sft보다 dpo가 나아진 점: 답이 없는 질문의 거절 +0.55 [+0.45, +0.65], 선호 정확도 +0.15 "
        "[+0.05, +0.25]."
    )
    assert idle_steps(detail) == []


def test_a_step_that_earns_nothing_is_named_with_what_to_try() -> None:
    detail = table(LEARNED, LEARNED)
    (words,) = idle_steps(detail)
    assert words.en.startswith("dpo earned nothing: no aim is better than sft's beyond chance; try more dpo.max_steps")
    assert words.ko.startswith("dpo 단계는 sft보다 나아진 것이 없습니다") and "models/sft-merged" in words.ko
    assert "dpo's gain over sft: none." in in_words(detail, "en")
    assert "sft보다 dpo가 나아진 점: 없음." in in_words(detail, "ko")


def test_a_gain_within_chance_is_no_gain() -> None:
    better = figures(0.90, 14 / 44, 0.0, 0.75, 23.5, 30.9)
    assert [words.en.split()[0] for words in idle_steps(table(LEARNED, better))] == ["dpo"]
    surer = table(LEARNED, better)
    surer["steps"]["dpo"] = step(LEARNED, better, width=0.03)
    assert idle_steps(surer) == []


def test_nothing_measurable_is_said_so() -> None:
    base = figures(0.0, 0.0, 0.0, 0.5, 23.3, 31.0)
    detail = table(base, base, known=(0, 0, 0))
    assert in_words(detail, "en") == "dpo: changed nothing measurable."
    assert in_words(detail, "ko") == "dpo: 측정되는 것은 아무것도 달라지지 않았습니다."
    assert [words.en.split()[0] for words in idle_steps(detail)] == ["sft", "dpo"]


def test_what_was_forgotten_and_what_a_step_cost_is_said() -> None:
    ruined = figures(0.60, 40 / 44, 0.4, 0.7, 23.6, 62.0)
    said = in_words(table(LEARNED, ruined), "en")
    assert "forgot how to chat (perplexity en 23.3 -> 23.6, ko 31.0 -> 62.0)" in said
    assert said.endswith(
        "its cost: facts stated -0.26 [-0.36, -0.16], refusals of what it can answer +0.40 [+0.30, +0.50], perplexity "
        "of control_ko +31.10 [+31.00, +31.20]."
    )
    assert "다른 주제의 대화 능력을 잃었습니다" in in_words(table(LEARNED, ruined), "ko")


def test_sets_that_there_are_not_are_not_spoken_of() -> None:
    """Own data may have no unanswerable question, one wording a fact, and no held-out pair."""
    base, after = ({"control_en": {"perplexity": cell(value)}} for value in (23.0, 30.0))
    detail = {
        "models": {"base": base, "sft": after, "dpo": after},
        "steps": {"sft": step(base, after), "dpo": step(after, after)},
        "facts": {name: {"known": 0, "asked": 0} for name in ("base", "sft", "dpo")},
    }
    assert idle_steps(detail) == []
    assert in_words(detail, "en").startswith("dpo: forgot how to chat (perplexity en 23.0 -> 30.0); sft's gain")
