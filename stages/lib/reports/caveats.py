"""What a reader of the figures must know before believing them, from metrics/eval_detail.json alone."""

from stages.lib.family import TUNED
from stages.lib.reports.bilingual import Words
from stages.lib.reports.numbers import Detail

SMALL_SET = 100
"""Below so many facts a 95 % interval of a share is up to 0.2 wide: bench/power.py."""

STOPPED = 0.9
"""Share of answers that end by themselves, below which the rest is said to be truncated."""

FORGOTTEN = 1.5
"""Perplexity of a control set, times the base's, above which the reader is told what to try."""


def caveats(detail: Detail) -> list[Words]:
    """Sets too small to tell, answers that were truncated, and other chats that were forgotten."""
    said = []
    before, after = detail["models"]["base"], detail["models"][TUNED]
    for split in ("seen", "unseen", "unanswerable"):
        cell = after.get(split, {}).get("key_exact")
        if cell and cell["groups"] < SMALL_SET:
            facts, chance = int(cell["groups"]), 0.98 / cell["groups"] ** 0.5
            said.append(
                Words(
                    f"{split}은 사실 {facts}개뿐이라 약 {chance:.2f}보다 작은 차이는 우연일 수 있습니다.",
                    f"{split} has {facts} facts: a difference below about {chance:.2f} is within chance",
                )
            )
        stops = after.get(split, {}).get("stop_rate")
        if stops and stops["value"] < STOPPED:
            cut = f"{1 - stops['value']:.0%}"
            said.append(
                Words(
                    f"{split}: {TUNED}의 답 {cut}가 max_new_tokens에서 잘렸습니다.",
                    f"{split}: {cut} of {TUNED}'s answers were truncated at max_new_tokens",
                )
            )
    for split in sorted(name for name in after if name.startswith("control_")):
        old, new = (side.get(split, {}).get("perplexity") for side in (before, after))
        if old and new and new["value"] > FORGOTTEN * old["value"]:
            rose = (f"{old['value']:.1f}", f"{new['value']:.1f}")
            said.append(
                Words(
                    f"{split}: perplexity가 {rose[0]}에서 {rose[1]}로 올랐습니다. 튜닝으로 기존 능력을 잊은 것이니 "
                    "대화 데이터를 더 섞거나 학습률을 낮추세요.",
                    f"{split}: perplexity rose from {rose[0]} to {rose[1]}: tuning made the model forget; mix in more "
                    "chats or lower the learning rate",
                )
            )
    return said
