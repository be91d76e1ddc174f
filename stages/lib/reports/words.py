"""What the page says, in Korean and in English."""

from stages.lib.reports.bilingual import Words
from stages.lib.reports.evidence import SETS
from stages.lib.reports.numbers import MARKS

HEADINGS = {
    "figures": Words("점수", "Figures"),
    "learning": Words("학습 과정", "Learning"),
    "before_and_after": Words("튜닝 전과 후", "Before and after"),
    "worst": Words("가장 많이 틀린 답", "The worst answers"),
    "regressions": Words("나빠진 답", "Regressions"),
    "judge": Words("심사 모델", "Judge"),
    "people": Words("사람의 투표", "People"),
    "benchmark": Words("벤치마크", "Benchmarks"),
    "data": Words("데이터: 단계마다 남은 행", "Data: rows left after each step"),
    "lineage": Words("출처와 설정", "Lineage and settings"),
    "caveats": Words("주의할 점", "Caveats"),
}

CURVES = [
    ("sft", "loss", Words("SFT: 손실", "SFT: loss")),
    ("sft", "token_accuracy", Words("SFT: 맞힌 토큰의 비율", "SFT: share of tokens predicted")),
    ("sft", "kl_to_base", Words("SFT: 원래 모델과 비교한 KL divergence, 토큰당 nat",
                                "SFT: KL divergence to the base on held chats, nats a token")),
    ("dpo", "loss", Words("DPO: 손실", "DPO: loss")),
    ("dpo", "reward_margin", Words("DPO: 보상 마진", "DPO: reward margin")),
    ("dpo", "reward_accuracy", Words("DPO: 더 나은 답이 앞선 쌍의 비율",
                                     "DPO: share of pairs with the better answer ahead")),
]  # fmt: skip
"""Stage, column of its log, and the chart's title."""

FUNNELS = {
    "conversations": Words("대화", "conversations"),
    "questions and answers": Words("질문과 답", "questions and answers"),
    "preference pairs": Words("선호 쌍", "preference pairs"),
}

MEANINGS = {
    "seen": Words("학습한 사실을 학습 때 없던 표현으로 물은 문항", SETS["seen"]),
    "unseen": Words("학습하지 않은 사실: 맞으면 운이고, 틀리면 지어낸 것", SETS["unseen"]),
    "unanswerable": Words("학습에 없던 주제로, 문서에 답이 없는 질문: 모른다고 해야 맞음", SETS["unanswerable"]),
    "control": Words("학습에 쓰지 않은 대화: 튜닝으로 무엇을 잊었는지 보여 줌", SETS["control"]),
    "preferences": Words("나은 답과 못한 답의 쌍, 학습에 쓰지 않은 것", SETS["preferences"]),
}
BETTER_AND_WORSE = Words(
    "▲ 나아짐, ▼ 나빠짐: 같은 문항끼리 견준 차이의 95 % 구간에 0이 없어 우연으로 보기 어려운 것", MARKS
)

SEEN = Words("배운 사실을 정확히 답한 비율", "seen facts stated exactly")
REFUSED = Words("답이 없는 질문을 거절한 비율", "unanswerable questions refused")
PREFERRED = Words("선호 정확도(학습에 쓰지 않은 쌍)", "preference accuracy on held-out pairs")
SET, FIGURE = Words("문항", "set"), Words("지표", "figure")
ALL_FIGURES = Words("모든 지표", "All figures")
WANTED, EMPTY, NONE = Words("정답", "wanted"), Words("(빈 답)", "(empty)"), Words("없음", "None")
HOW_SCORED = Words("채점 방법", "How it was scored")
MODEL, KIND, MADE_OF = Words("모델", "model"), Words("종류", "kind"), Words("무엇으로 만들었나", "made of")
WHAT, VALUE = Words("항목", "what"), Words("값", "value")
JUDGED = [
    Words("모델 쌍", "pair"),
    Words("승 / 무 / 패", "win / tie / loss"),
    Words("승률", "win rate"),
    Words("길이가 비슷할 때", "of like length"),
    Words("판정이 엇갈림", "inconsistent"),
    Words("앞의 답을 고름", "prefers first"),
    Words("더 긴 답을 고름", "prefers longer"),
    Words("읽을 수 없는 판정", "unreadable"),
]
VOTED = [
    *JUDGED[:4],
    Words("왼쪽을 고름", "prefer the left"),
    Words("더 긴 답을 고름", "prefer longer"),
]
TASK = Words("과제", "task")


def title(name: str) -> Words:
    """What the page is about, by the base model's name."""
    return Words(f"{name} 튜닝 결과", f"{name}, tuned: what it learned")


def perplexity_of(name: str) -> Words:
    """A card's caption for a control set."""
    return Words(f"다른 대화의 perplexity({name})", f"perplexity on other chats ({name})")


def how_asked(tokens: int) -> Words:
    """How answers and intervals came about."""
    return Words(
        f"답은 그리디 디코딩, 최대 {tokens}토큰. 구간은 사실 단위의 95 % 구간이며 비율은 Wilson, 나머지는 부트스트랩. "
        "차이는 같은 문항끼리 견준 것입니다.",
        f"Greedy answers, at most {tokens} new tokens; 95 % intervals over facts, Wilson's of shares, else bootstrap; "
        "differences paired.",
    )


def wrong(count: int, model: str) -> Words:
    """How many trained facts are answered wrongly."""
    return Words(
        f"배운 사실을 물은 문항 가운데 {model} 모델이 틀리거나 빠뜨린 것: {count}개",
        f"{count} of {model}'s answers on seen facts are wrong or incomplete",
    )


def lost(before: str, after: str, count: int) -> Words:
    """How many answers got worse from one model to another."""
    return Words(f"{before}는 맞히고 {after}는 틀린 것: {count}", f"Right by {before}, wrong by {after}: {count}")
