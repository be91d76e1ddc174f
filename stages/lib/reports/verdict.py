"""What the scores mean, in words: Korean and English sentences made of metrics/eval_detail.json alone.

A step counts as useful if a figure that it is for got better beyond chance: the 95 % interval of the paired difference
to the model that it started from has 0 outside. A step that earns nothing is named, with what to try.
"""

from stages.lib.family import BESIDE, NAMES, STARTED_FROM, TUNED
from stages.lib.reports.bilingual import Words
from stages.lib.reports.numbers import Cell, Detail, Sets, judgement, signed

AS_BEFORE = 1.10
"""Perplexity of a control set, times the base's, up to which a model is said to speak as before."""

AIMS = {
    ("seen", "key_exact"): ("사실 정답률", "facts stated"),
    ("unanswerable", "refusal_rate"): ("답이 없는 질문의 거절", "refusals of what it can't know"),
    ("preferences", "accuracy"): ("선호 정확도", "preference accuracy"),
}
"""What tuning is for: set and figure, in Korean and in English."""
OTHERS = {("seen", "over_refusal_rate"): ("답이 있는 질문의 거절", "refusals of what it can answer")}
"""What must not get worse beside them, and the perplexity of the control sets."""

TRY = {
    "sft": (
        "sft.num_train_epochs나 sft.learning_rate를 올리거나, 사실마다 물음을 늘려 보세요. 무엇을 배우는지는 "
        "metrics/sft_preview.html에 있습니다.",
        "try more sft.num_train_epochs, a higher sft.learning_rate or more wordings of each fact; "
        "metrics/sft_preview.html shows what is learned",
    ),
    "dpo": (
        "dpo.max_steps나 dpo.learning_rate를 올리거나, 모델 자신의 틀린 답으로 쌍을 만들어 보세요. 그때까지는 "
        "models/sft-merged를 써도 차이가 없습니다.",
        "try more dpo.max_steps, a higher dpo.learning_rate or pairs of the model's own wrong answers; until then "
        "models/sft-merged does the same",
    ),
    **dict.fromkeys(
        BESIDE,
        (
            "preference.num_train_epochs나 preference.learning_rate를 올려 보세요.",
            "try more preference.num_train_epochs or a higher preference.learning_rate",
        ),
    ),
    "rl": (
        "rl.max_steps나 rl.learning_rate를 올려 보세요. metrics/rl_log.csv의 보상이 오르지 않으면 배운 것이 없습니다.",
        "try more rl.max_steps or a higher rl.learning_rate; nothing is learned while the reward in "
        "metrics/rl_log.csv stays",
    ),
    "healed": (
        "heal.num_train_epochs나 heal.learning_rate를 올리거나 prune.layers를 줄여 보세요.",
        "try more heal.num_train_epochs, a higher heal.learning_rate or fewer prune.layers",
    ),
}
"""What may help a step that earned nothing. Pruning is for size: there is nothing to earn."""


def changes(detail: Detail, step: str, wanted: int) -> list[tuple[str, str]]:
    """Set and figure of what a step made better (1) or worse (-1) beyond chance, of what it is for or must not harm."""
    found = detail["steps"][step]
    cared = [*AIMS] if wanted > 0 else [*AIMS, *OTHERS, *((split, "perplexity") for split in forgotten(detail, step))]
    return [(split, name) for split, name in cared if judgement(found.get(split, {}).get(name), split, name) == wanted]


def forgotten(detail: Detail, step: str) -> list[str]:
    """The control sets whose perplexity a step raised by more than is said to be as before."""
    before, after = detail["models"][before_of(detail, step)], detail["models"][step]
    return [name for name in controls(after)
            if after[name]["perplexity"]["value"] > AS_BEFORE * before[name]["perplexity"]["value"]]  # fmt: skip


def idle_steps(detail: Detail) -> list[Words]:
    """A sentence for each step that made nothing better that it is for, with what to try."""
    said = []
    for step, before in steps(detail):
        measured = any(name in detail["steps"][step].get(split, {}) for split, name in AIMS)
        if step in TRY and measured and not changes(detail, step, 1):
            ko, en = TRY[step]
            said.append(
                Words(
                    f"{step} 단계는 {before}보다 나아진 것이 없습니다(우연을 넘는 차이가 없음). {ko}",
                    f"{step} earned nothing: no aim is better than {before}'s beyond chance; {en}",
                )
            )
    return said


def verdict(detail: Detail) -> list[Words]:
    """What came of the tuning, thing by thing; one sentence if it changed nothing that is measured."""
    if not any(changes(detail, step, wanted) for step, _ in steps(detail) for wanted in (1, -1)):
        return [Words("측정되는 것은 아무것도 달라지지 않았습니다", "changed nothing measurable")]
    said = [facts(detail, TUNED), manner(detail, TUNED), refusals(detail, TUNED)]
    return [*(words for words in said if words), *(gains(detail, step, before) for step, before in steps(detail))]


def in_words(detail: Detail, language: str) -> str:
    """The verdict as one line in a language, ko or en."""
    said = [getattr(words, language) for words in verdict(detail)]
    return f"{TUNED}: {'; '.join(said)}."


def steps(detail: Detail) -> list[tuple[str, str]]:
    """The steps that were scored, each with the model that it started from."""
    return [(step, before_of(detail, step)) for step in NAMES if step in detail["steps"]]


def before_of(detail: Detail, step: str) -> str:
    """The model that a step's training started from; that of the model beside the chain is chosen by its section."""
    return STARTED_FROM[step] if step in STARTED_FROM else detail["started_from"][step]


def controls(figures: Sets) -> list[str]:
    """Names of the control sets."""
    return sorted(split for split in figures if split.startswith("control_"))


def facts(detail: Detail, model: str) -> Words | None:
    """How many facts were learned; None where none was asked for."""
    found, before = detail["facts"][model], detail["facts"]["base"]
    if not found["asked"]:
        return None
    known, asked = found["known"], found["asked"]
    return Words(
        f"사실 {asked}개 가운데 {known}개를 절반 넘는 표현에서 맞힙니다(base는 {before['known']}개)",
        f"learned {known} of {asked} facts, right in most wordings (base knew {before['known']})",
    )


def manner(detail: Detail, model: str) -> Words | None:
    """Whether it still speaks as the base does, by the perplexity of other chats."""
    base, after = detail["models"]["base"], detail["models"][model]
    pairs = [
        (split.removeprefix("control_"), base[split]["perplexity"]["value"], after[split]["perplexity"]["value"])
        for split in controls(after)
    ]
    if not pairs:
        return None
    told = ", ".join(f"{name} {old:.1f} -> {new:.1f}" for name, old, new in pairs)
    if all(new <= AS_BEFORE * old for _, old, new in pairs):
        return Words(
            f"다른 주제의 대화 능력은 그대로입니다(perplexity {told})", f"still speaks as before (perplexity {told})"
        )
    return Words(f"다른 주제의 대화 능력을 잃었습니다(perplexity {told})", f"forgot how to chat (perplexity {told})")


def refusals(detail: Detail, model: str) -> Words | None:
    """How many questions are refused: those that can't be known, and those that can."""
    figures = detail["models"]
    cell = figures[model].get("unanswerable", {}).get("refusal_rate")
    if not cell:
        return None
    alone = figures["sft"]["unanswerable"]["refusal_rate"] if "sft" in figures and model != "sft" else None
    ko = f"답이 없는 질문 {cell['n']}개 가운데 {count(cell)}개를 거절합니다"
    en = f"refuses {count(cell)} of {cell['n']} questions it can't know"
    if alone:
        ko, en = f"{ko}(sft만으로는 {count(alone)}개)", f"{en} (sft alone {count(alone)})"
    if over := figures[model].get("seen", {}).get("over_refusal_rate"):
        ko += f", 답이 있는 질문은 {over['n']}개 가운데 {count(over)}개를 거절합니다"
        en += f" and {count(over)} of {over['n']} that it can"
    return Words(ko, en)


def gains(detail: Detail, step: str, before: str) -> Words:
    """What a step made better and worse beyond chance, with intervals."""
    found = detail["steps"][step]

    def told(wanted: int, language: int) -> str:
        cells = [(name_of(split, name)[language], found[split][name]) for split, name in changes(detail, step, wanted)]
        return ", ".join(f"{words} {signed(cell)}" for words, cell in cells)

    ko = f"{before}보다 {step}가 나아진 점: {told(1, 0) or '없음'}"
    en = f"{step}'s gain over {before}: {told(1, 1) or 'none'}"
    if told(-1, 1):
        ko, en = f"{ko}, 나빠진 점: {told(-1, 0)}", f"{en}, its cost: {told(-1, 1)}"
    return Words(ko, en)


def name_of(split: str, name: str) -> tuple[str, str]:
    """A figure's name in Korean and in English."""
    return {**AIMS, **OTHERS}.get((split, name), (f"{split}의 {name}", f"{name} of {split}"))


def count(cell: Cell) -> int:
    """How many rows a share is of."""
    return round(cell["value"] * cell["n"])
