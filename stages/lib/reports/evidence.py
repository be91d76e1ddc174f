"""The evaluation as people read it: the short table, and metrics/eval_report.md."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stages.lib.every_stage.foreign_text import in_markdown
from stages.lib.family import BESIDE, NAMES, SMALLER, STARTED_FROM, TUNED
from stages.lib.reports.bilingual import Words
from stages.lib.reports.caveats import caveats
from stages.lib.reports.numbers import MARKS, Detail, Sets, counted, figure, marked
from stages.lib.reports.verdict import before_of, idle_steps, in_words

Row = dict[str, Any]

UNKNOWN = "unknown"
"""The licence of a base model whose files name none, in the Hub's spelling."""

SHOWN = [
    ("seen", "key_exact"),
    ("seen", "key_recall"),
    ("seen", "chrf"),
    ("seen", "stop_rate"),
    ("seen", "over_refusal_rate"),
    ("unseen", "key_exact"),
    ("unanswerable", "refusal_rate"),
    ("seen", "perplexity"),
    ("control", "perplexity"),
    ("preferences", "accuracy"),
    ("preferences", "margin"),
]
"""Set and figure of each line of the short table; `control` stands for every control set."""

SETS = {
    "seen": "trained facts, asked in words that training never saw",
    "unseen": "facts that training never saw: a right answer is luck, a wrong one is made up",
    "unanswerable": "questions that the documents don't answer, on topics that training never saw: refusing is right",
    "control": "chats not trained on: what tuning made the model forget",
    "preferences": "held-out pairs of a better and a worse answer",
}
"""What each set holds. Control sets have a name after the word, such as control_ko."""


@dataclass
class Evidence:
    """All that a report is made of, as the stages before wrote it."""

    detail: Detail  # metrics/eval_detail.json
    predictions: list[Row]
    judge: dict[str, Any]
    benchmark: dict[str, Any]  # model -> task -> figure -> value, n, low, high
    logs: dict[str, list[dict[str, float]]]  # stage -> logged steps
    funnels: dict[str, list[tuple[str, int]]]  # data set -> step, rows left
    lineages: dict[str, dict[str, Any]]  # model directory -> lineage.json
    made: str = ""  # when, and on which commit

    @property
    def models(self) -> list[str]:
        """Names of the models, the untuned one first. (JSON's keys are sorted; this is the order of tuning.)"""
        return [name for name in NAMES if name in self.detail["models"]]

    @property
    def tuned(self) -> str:
        """The model that the pipeline is for: DPO's. That of stage preference is an alternative shown beside it."""
        return TUNED

    @property
    def compared(self) -> list[str]:
        """The differences that tables show: of the tuned model to the untuned one, and to the one it started from."""
        return [f"{self.tuned} - {self.models[0]}", f"{self.tuned} - {STARTED_FROM[self.tuned]}"]

    @property
    def warnings(self) -> list[Words]:
        """What to know before believing the figures. What a judge is warned of is said in English alone."""
        judged = [Words(line, line) for line in self.judge.get("warnings", [])]
        return [*self.unknown_origin, *idle_steps(self.detail), *caveats(self.detail), *judged]

    @property
    def unknown_origin(self) -> list[Words]:
        """What isn't known of the base model, and must be before anything made of it is passed on."""
        base = self.lineages["base"]
        if base["license"] != UNKNOWN:
            return []
        return [
            Words(
                f"베이스 모델: {base['name']}의 라이선스가 어디에도 적혀 있지 않습니다. 이 모델로 만든 것을 공개하기 "
                "전에 확인하고 prepare_base.origin에 적으세요.",
                f"base model: nothing says under which licence {base['name']} is: find out before you publish what is "
                "made of it, and set prepare_base.origin",
            )
        ]

    @property
    def judged(self) -> dict[str, Any]:
        """The judge's figures by pair of models."""
        return {pair: cells for pair, cells in self.judge.items() if pair not in ("people", "warnings")}

    @property
    def people(self) -> dict[str, Any]:
        """Figures of people's votes by pair of models."""
        return self.judge.get("people", {})

    def answers(self, model: str) -> dict[str, Row]:
        """A model's answered rows by id."""
        return {row["id"]: row for row in self.predictions if row["model"] == model and "prediction" in row}


def kind_of(split: str) -> str:
    """The set of SETS that one is, such as control for control_ko."""
    return next((kind for kind in SETS if split == kind or split.startswith(f"{kind}_")), split)


def sets_in(figures: Sets) -> list[str]:
    """The sets that a model was scored on, in the order of SETS."""
    order = list(SETS)
    return sorted(figures, key=lambda split: (order.index(kind_of(split)), split))


def shown_in(figures: Sets) -> list[tuple[str, str]]:
    """Set and figure of each line of the short table, of those that a model was scored on."""
    sets = sets_in(figures)
    return [
        (split, name) for kind, name in SHOWN for split in sets if kind_of(split) == kind and name in figures[split]
    ]


def table(evidence: Evidence) -> str:
    """The short table: the models side by side and the last one's difference to the first, in Markdown."""
    models, detail = evidence.models, evidence.detail
    header = ["set", "figure", "n", *models, *evidence.compared]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for split, name in shown_in(detail["models"][models[0]]):
        cells = [detail["models"][model].get(split, {}).get(name) for model in models]
        n = next(cell["n"] for cell in cells if cell)
        change = detail["differences"][evidence.tuned].get(split, {}).get(name)
        step = detail["steps"][evidence.tuned].get(split, {}).get(name)
        line = [
            split,
            name,
            str(n),
            *(figure(cell) for cell in cells),
            marked(change, split, name),
            marked(step, split, name),
        ]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def wrong_answers(evidence: Evidence) -> list[Row]:
    """The last model's wrong answers on seen facts, the worst first."""
    rows = [row for row in evidence.answers(evidence.tuned).values() if row["split"] == "seen"]
    wrong = [row for row in rows if not row["scores"].get("key_exact", 1)]
    return sorted(wrong, key=lambda row: (row["scores"]["key_recall"], row["scores"]["chrf"], row["id"]))


def lost_answers(evidence: Evidence, before: str, after: str) -> list[tuple[Row, Row]]:
    """Facts that `before` states correctly and `after` doesn't: every regression, as pairs of rows."""
    new = evidence.answers(after)
    return [
        (row, new[name])
        for name, row in evidence.answers(before).items()
        if row["scores"].get("key_exact", 0) > new[name]["scores"].get("key_exact", 0)
    ]


def learned_answers(evidence: Evidence, count: int = 5) -> list[dict[str, Row]]:
    """Rows of every model on the first questions that the first model gets wrong and the last right."""
    by_model = {model: evidence.answers(model) for model in evidence.models}
    first, last = by_model[evidence.models[0]], by_model[evidence.tuned]
    names = [
        name for name in first if first[name]["scores"].get("key_exact", 1) < last[name]["scores"].get("key_exact", 0)
    ]
    return [{model: rows[name] for model, rows in by_model.items()} for name in names[:count]]


def render(evidence: Evidence) -> str:
    """metrics/eval_report.md."""
    models, detail = evidence.models, evidence.detail
    wrong = wrong_answers(evidence)
    sets = "\n".join(f"- {name}: {meaning}" for name, meaning in SETS.items())
    demo = "\n".join(f"- {model}: {in_markdown(detail['demo']['answers'][model])}" for model in models)
    parts = [
        "# Evaluation",
        f"Greedy answers, at most {detail['settings']['max_new_tokens']} new tokens. Intervals: 95 % over facts, "
        "Wilson's of shares, else bootstrap; differences are paired. The same with curves, funnels and lineage: "
        "eval_report.html.",
        in_words(detail, "ko"),
        in_words(detail, "en"),
        sets,
        table(evidence),
        MARKS,
    ]
    if evidence.warnings:
        parts += ["## Caveats", "\n".join(f"- {in_markdown(line.en)}" for line in evidence.warnings)]
    parts += ["## Before and after", in_markdown(detail["demo"]["question"]), demo]
    if evidence.judged:
        parts += ["## Judge", judge_table(evidence.judged)]
    if evidence.people:
        parts += ["## People", people_table(evidence.people)]
    if evidence.benchmark:
        parts += ["## Benchmarks", benchmark_table(evidence)]
    parts += [f"## Wrong answers of {evidence.tuned} on seen facts ({len(wrong)}, the worst 10)", listing(wrong[:10])]
    for before, after in regressions(evidence):
        lost = lost_answers(evidence, before, after)
        parts += [f"## Right by {before}, wrong by {after} ({len(lost)})", listing([row for _, row in lost])]
    return "\n\n".join(parts) + "\n"


def regressions(evidence: Evidence) -> list[tuple[str, str]]:
    """Pairs of models between which answers can get worse."""
    aside = [*BESIDE, *SMALLER]
    chain = [model for model in evidence.models if model not in aside]
    beside = [(before_of(evidence.detail, model), model) for model in evidence.models if model in aside]
    return list(dict.fromkeys([(chain[0], chain[-1]), *pairwise(chain), *beside]))


def judge_table(judge: dict[str, Any]) -> str:
    """The judge's figures, one line a pair of models."""
    header = [
        "pair",
        "win",
        "tie",
        "loss",
        "win rate",
        "of like length",
        "inconsistent",
        "first position",
        "unreadable",
    ]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for pair, cells in judge.items():
        rates = [cells[f"{name}_rate"] for name in ("inconsistent", "first_position", "parse_error")]
        line = [pair, cells["win"], cells["tie"], cells["loss"], figure(cells["win_rate"])]
        line += [figure(cells["win_rate_like_length"]), *map(counted, rates)]
        lines.append("| " + " | ".join(map(str, line)) + " |")
    return "\n".join(lines)


PEOPLE = ["pair", "win / tie / loss", "win rate", "of like length", "prefer the left", "prefer longer"]
"""What people's votes say. A name with @ is of weights that were voted on before the model was trained again."""


def people_rows(people: dict[str, Any]) -> list[list[str]]:
    """PEOPLE's columns, one row a pair of models."""
    rows = []
    for pair, cells in people.items():
        rates = [cells["first_position_rate"], cells["longer_preferred_rate"]]
        counts = f"{cells['win']} / {cells['tie']} / {cells['loss']}"
        sure = [figure(cells["win_rate"]), figure(cells["win_rate_like_length"])]
        rows.append([pair, counts, *sure, *map(counted, rates)])
    return rows


def people_table(people: dict[str, Any]) -> str:
    """People's votes, one line a pair of models, in Markdown."""
    lines = [PEOPLE, ["---"] * len(PEOPLE), *people_rows(people)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def benchmark_rows(evidence: Evidence) -> list[list[str]]:
    """lm-evaluation-harness's figures, one row a task and figure: both names, n, every model's with its interval."""
    models = benchmarked(evidence)
    return [
        [task, name, str(cell.get("n", "-")), *(figure(evidence.benchmark[model][task][name]) for model in models)]
        for task, cells in evidence.benchmark[models[0]].items()
        for name, cell in cells.items()
    ]


def benchmarked(evidence: Evidence) -> list[str]:
    """Names of the models that benchmarks ran on, in the order of tuning."""
    return [model for model in evidence.models if model in evidence.benchmark]


def benchmark_table(evidence: Evidence) -> str:
    """lm-evaluation-harness's figures in Markdown."""
    header = ["task", "figure", "n", *benchmarked(evidence)]
    lines = [header, ["---"] * len(header), *benchmark_rows(evidence)]
    for row in lines[2:]:
        row[:2] = map(in_markdown, row[:2])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listing(rows: list[Row]) -> str:
    """Questions with the reference and the answer given."""
    lines = [
        f"- {in_markdown(row['prompt'])}\n  - wanted: {in_markdown(row['reference'])}\n"
        f"  - given: {in_markdown(row['prediction'][:200])}"
        for row in rows
    ]
    return "\n".join(lines) or "None."
