"""Scores of the base, SFT and DPO models, and of ORPO's where it ran, on the same questions, in one run.

Reads   models/{base,sft-merged,dpo-merged,orpo-merged}, data/prepared/{ultrachat,pdf_qa,preferences}
Writes  metrics/eval.json (figures), metrics/eval_detail.json (with n, intervals, differences, hashes, settings,
        warnings), metrics/predictions.jsonl (every scored row)
Run     python -m stages.evaluate
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.lib.bertscore import bert_scores
from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.figures import Figures, differences, figures_of
from stages.lib.generation import DECODING
from stages.lib.hardware import describe, resolve_dtype, set_up_cpu
from stages.lib.lineage import OFF, file_sha256, read_lineage, weights_sha256
from stages.lib.metric_checks import refuse_blurred_prompts, refuse_broken_metrics
from stages.lib.models import load_16bit, load_tokenizer
from stages.lib.publish import published
from stages.lib.records import read_jsonl, write_json, write_jsonl
from stages.lib.schema import Evaluate
from stages.lib.scoring import score_model
from stages.lib.text_scores import signatures

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

MODELS = {"base": BASE, "sft": SFT, "dpo": DPO, "orpo": ORPO}
"""What is scored, the first being what the others are compared with."""
SMALL_SET = 100
"""Below so many groups a 95 % interval of a share is up to 0.2 wide: bench/power.py."""


def evaluate(section: Evaluate, root: Path) -> dict[str, Any]:
    threads = set_up_cpu(section.threads)
    dtype = resolve_dtype(section.dtype)
    models = {name: directory for name, directory in MODELS.items() if read_lineage(directory) != OFF}
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
    refuse_broken_metrics([*records["seen"], *records["unseen"]])
    refuse_other_templates(list(models.values()))
    question = section.demo_question or asked[0]["messages"][0]["content"]
    rows: dict[str, list[dict[str, Any]]] = {}
    demo = {}
    for name, directory in models.items():
        print(f"evaluate: {name}", flush=True)
        tokenizer = load_tokenizer(directory)
        refuse_blurred_prompts(tokenizer, [record["messages"] for record in asked])
        model = load_16bit(directory, dtype)
        rows[name], demo[name] = score_model(model, tokenizer, name, records, question, section)
        del model
    if section.bertscore_model:
        add_bert_scores(Path(section.bertscore_model), rows)
    options = {"resamples": section.bootstrap_resamples, "seed": section.seed}
    figures = {name: figures_of(held, **options) for name, held in rows.items()}
    against = next(iter(MODELS))
    detail = {
        "models": figures,
        "differences": {
            name: differences(rows[against], held, **options) for name, held in rows.items() if name != against
        },
        "demo": {"question": question, "answers": demo},
        "settings": {**DECODING, "max_new_tokens": section.max_new_tokens, "dtype": str(dtype), **options},
        "signatures": signatures() | bertscore_signature(section.bertscore_model),
        "sets_sha256": {name: file_sha256(path) for name, path in sets.items()},
        "weights_sha256": {path.name: weights_sha256(path) for path in models.values()},
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "tokenizer_sha256": file_sha256(BASE / "tokenizer.json"),
        "versions": {name: version(name) for name in ("sacrebleu", "tokenizers", "torch", "transformers")},
        "warnings": warnings_of(figures),
    }
    with published(root / PREDICTIONS) as path:
        write_jsonl(path, [row for held in rows.values() for row in held])
    with published(root / DETAIL) as path:
        write_json(path, detail)
    with published(root / EVAL) as path:
        write_json(path, values_alone(figures))
    return {**describe(), "threads": threads, "rows": sum(len(held) for held in rows.values())}


def refuse_other_templates(models: list[Path]) -> None:
    """Raise UserError unless all `models` talk by the same chat template: scores would compare prompts, not models."""
    found = {directory: file_sha256(directory / "chat_template.jinja") for directory in models}
    others = [str(directory) for directory, digest in found.items() if digest != found[BASE]]
    if others:
        raise UserError(
            f"{', '.join(others)}: found a chat_template.jinja that is not {BASE}'s; needed the one it was trained "
            "with. Rebuild with `dvc repro`"
        )


def add_bert_scores(directory: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Add BERTScore to every answered row, one model's answers after another's."""
    for held in rows.values():
        answered = [row for row in held if "prediction" in row]
        scores = bert_scores(directory, [row["reference"] for row in answered], [row["prediction"] for row in answered])
        for row, value in zip(answered, scores, strict=True):
            row["scores"]["bertscore"] = round(value, 4)


def bertscore_signature(directory: str) -> dict[str, str]:
    """The signature of BERTScore where it is computed: its model's weights."""
    return {"bertscore": f"last layer|{weights_sha256(Path(directory))}"} if directory else {}


def warnings_of(figures: dict[str, Figures]) -> list[str]:
    """What a reader of the figures must know before believing them."""
    lines = []
    tuned = "dpo"
    before, after = figures[next(iter(figures))], figures[tuned]
    for split in ("seen", "unseen"):
        cell = after.get(split, {}).get("key_exact")
        if cell and cell["groups"] < SMALL_SET:
            lines.append(
                f"{split} has {cell['groups']} facts: a difference below about {0.98 / cell['groups'] ** 0.5:.2f} "
                "is within chance"
            )
        stops = after.get(split, {}).get("stop_rate")
        if stops and stops["value"] < 0.9:
            lines.append(f"{split}: {1 - stops['value']:.0%} of {tuned}'s answers were cut at max_new_tokens")
    old, new = (side.get("control", {}).get("perplexity") for side in (before, after))
    if old and new and new["value"] > 1.5 * old["value"]:
        lines.append(
            f"control perplexity rose from {old['value']:.1f} to {new['value']:.1f}: tuning made the model forget; "
            "mix in more chats or lower the learning rate"
        )
    return lines


def values_alone(figures: dict[str, Figures]) -> dict[str, Any]:
    """The figures without n and interval: `dvc metrics` shows numbers by dotted names."""
    return {
        model: {split: {name: cell["value"] for name, cell in cells.items()} for split, cells in splits.items()}
        for model, splits in figures.items()
    }


if __name__ == "__main__":
    run(evaluate)
