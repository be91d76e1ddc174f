"""Scores of the base, SFT and DPO models, and of ORPO's where it ran, on the same questions, in one run.

Reads   models/{base,sft-merged,dpo-merged,orpo-merged}, data/prepared/{ultrachat,pdf_qa,preferences}
Writes  metrics/eval.json (figures), metrics/eval_detail.json (with n, intervals, hashes), metrics/predictions.jsonl,
        metrics/eval_report.md
Run     python -m stages.evaluate
"""

from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.generation import generate_answers
from stages.lib.hardware import describe, resolve_dtype, set_up_cpu
from stages.lib.lineage import OFF, file_sha256, read_lineage, weights_sha256
from stages.lib.models import load_16bit, load_tokenizer
from stages.lib.publish import published
from stages.lib.records import read_jsonl, write_json, write_jsonl
from stages.lib.report import render
from stages.lib.schema import Dtype, Evaluate
from stages.lib.scoring import chrf_signature, figures_of_predictions, perplexity, predict, preference

BASE = Path("models/base")
SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
ORPO = Path("models/orpo-merged")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
PREFERENCES = Path("data/prepared/preferences")
EVAL = Path("metrics/eval.json")
DETAIL = Path("metrics/eval_detail.json")
PREDICTIONS = Path("metrics/predictions.jsonl")
REPORT = Path("metrics/eval_report.md")


def evaluate(section: Evaluate, root: Path) -> dict[str, Any]:
    threads = set_up_cpu(section.threads)
    sets = {
        "seen": PDF_QA / "seen.jsonl",
        "unseen": PDF_QA / "unseen.jsonl",
        "control": ULTRACHAT / "evaluation.jsonl",
        "preferences": PREFERENCES / "evaluation.jsonl",
    }
    records = {name: list(read_jsonl(path)) for name, path in sets.items()}
    asked = [*records["seen"], *records["unseen"], *records["control"]]
    if not asked:
        raise UserError(
            "no evaluation rows: seen, unseen and control are empty. Give some facts a second wording, raise "
            "prepare_pdf_qa.held_out_facts, or give prepare_ultrachat.evaluation rows"
        )
    question = section.demo_question or asked[0]["messages"][0]["content"]
    figures: dict[str, Any] = {}
    predictions: list[dict[str, Any]] = []
    demo = {}
    models = {"base": BASE, "sft": SFT, "dpo": DPO, "orpo": ORPO}
    models = {name: directory for name, directory in models.items() if read_lineage(directory) != OFF}
    for name, directory in models.items():
        print(f"evaluate: {name}", flush=True)
        figures[name], answered, demo[name] = evaluate_model(section, name, directory, records, question)
        predictions += answered
    detail = {
        "models": figures,
        "demo": {"question": question, "answers": demo},
        "settings": {"max_new_tokens": section.max_new_tokens, "decoding": "greedy", "seed": section.seed},
        "signatures": {"chrf": chrf_signature()},
        "sets_sha256": {name: file_sha256(path) for name, path in sets.items()},
        "weights_sha256": {path.name: weights_sha256(path) for path in models.values()},
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
    }
    with published(root / PREDICTIONS) as path:
        write_jsonl(path, predictions)
    with published(root / REPORT) as path:
        path.write_text(render(detail, predictions), encoding="utf-8")
    with published(root / DETAIL) as path:
        write_json(path, detail)
    with published(root / EVAL) as path:
        write_json(path, values_alone(figures))
    return {**describe(), "threads": threads, "answers": len(predictions)}


def evaluate_model(
    section: Evaluate, name: str, directory: Path, records: dict[str, list[Any]], question: str
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Figures by set, predictions, and the answer to the demo question of one model."""
    tokenizer = load_tokenizer(directory)
    model = load_16bit(directory, resolve_dtype(Dtype.auto))
    figures: dict[str, Any] = {}
    predictions: list[dict[str, Any]] = []
    for split in ("seen", "unseen"):
        if records[split]:  # own data may have one wording a fact, and then nothing to hold out
            answered = predict(model, tokenizer, name, split, records[split], section)
            figures[split] = figures_of_predictions(answered, section)
            figures[split] |= perplexity(model, tokenizer, records[split], section)
            predictions += answered
    if records["control"]:
        figures["control"] = perplexity(model, tokenizer, records["control"], section)
    if records["preferences"]:
        figures["preferences"] = preference(model, tokenizer, records["preferences"], section)
    prompt = [{"role": "user", "content": question}]
    answer = generate_answers(model, tokenizer, [prompt], section.max_new_tokens)[0]
    return figures, predictions, answer.text


def values_alone(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures without n and interval: `dvc metrics` shows numbers by dotted names."""
    return {
        model: {split: {name: cell["value"] for name, cell in cells.items()} for split, cells in splits.items()}
        for model, splits in figures.items()
    }


if __name__ == "__main__":
    run(evaluate)
