"""Scores of base, SFT and DPO, and of the models of preference, rl, prune and heal where they ran, on the same rows.

Reads   models/{base,sft-merged,dpo-merged,preference-merged,rl-merged,pruned,healed-merged},
        data/prepared/{ultrachat,pdf_qa,preferences}
Writes  metrics/eval.json (figures), metrics/eval_detail.json (with n, intervals, differences, hashes, settings),
        metrics/predictions.jsonl (every scored row)
Run     python -m stages.evaluate
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.lib.evaluation.bertscore import add_bert_scores, bertscore_signature
from stages.lib.evaluation.figures import differences, figures_of, known_facts, values_alone
from stages.lib.evaluation.generation import decoding
from stages.lib.evaluation.metric_checks import refuse_broken_metrics, refuse_other_templates
from stages.lib.evaluation.scored_rows import Record
from stages.lib.evaluation.scoring import CONTROL, asked_of, room_for_answers, score_models, told_of
from stages.lib.evaluation.text_scores import signatures
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, file_sha256, refuse_damaged, weights_sha256
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl, write_json, write_jsonl
from stages.lib.family import RL, STARTED_FROM, made_beside
from stages.lib.hardware import describe, resolve_dtype, set_up_cpu
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.evaluation import Evaluate

BASE = Path("models/base")
SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
BESIDE = Path("models/preference-merged")
REWARDED = Path("models/rl-merged")
PRUNED = Path("models/pruned")
HEALED = Path("models/healed-merged")
ULTRACHAT = Path("data/prepared/ultrachat")
PDF_QA = Path("data/prepared/pdf_qa")
PREFERENCES = Path("data/prepared/preferences")
EVAL = Path("metrics/eval.json")
DETAIL = Path("metrics/eval_detail.json")
PREDICTIONS = Path("metrics/predictions.jsonl")

MODELS = {"base": BASE, "sft": SFT, "dpo": DPO}
"""What is scored, the first being what the others are compared with. preference, rl, prune and heal may add theirs."""


def evaluate(section: Evaluate, root: Path) -> dict[str, Any]:
    threads = set_up_cpu(section.threads)
    dtype = resolve_dtype(section.dtype)
    for directory in MODELS.values():
        refuse_damaged(directory)
    models, beside = dict(MODELS), {}
    if (lineage := refuse_damaged(BESIDE)) != OFF:
        name, before = made_beside(lineage)
        models[name], beside[name] = BESIDE, before
    if refuse_damaged(REWARDED) != OFF:
        models[RL], beside[RL] = REWARDED, "sft"
    if (lineage := refuse_damaged(PRUNED)) != OFF:
        models["pruned"], beside["pruned"] = PRUNED, lineage["arguments"]["model"]
    if refuse_damaged(HEALED) != OFF:
        models["healed"], beside["healed"] = HEALED, "pruned"
    sets = {
        "seen": PDF_QA / "seen.jsonl",
        "unseen": PDF_QA / "unseen.jsonl",
        "unanswerable": PDF_QA / "unanswerable.jsonl",
        "control": ULTRACHAT / "evaluation.jsonl",
        "preferences": PREFERENCES / "evaluation.jsonl",
    }
    records: dict[str, list[Record]] = {name: list(read_jsonl(path)) for name, path in sets.items()}
    records |= by_name(records.pop("control"))
    questions = [record for _, record in asked_of(records)]
    if not (asked := [*questions, *(record for _, record in told_of(records))]):
        raise UserError(
            "no evaluation rows: seen, unseen, unanswerable and control are empty. Give some facts a second wording, "
            "raise prepare_pdf_qa.held_out_facts, or give prepare_ultrachat.evaluation rows"
        )
    refuse_broken_metrics(questions)
    room = section.max_new_tokens or room_for_answers(load_tokenizer(BASE), questions)
    section = replace(section, max_new_tokens=room)
    refuse_other_templates(list(models.values()), BASE)
    question = section.demo_question or asked[0]["messages"][0]["content"]
    rows, demo, facts = score_models(models, records, question, section, dtype)
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
        "steps": {
            name: differences(rows[before], rows[name], **options)
            for name, before in {**STARTED_FROM, **beside}.items()
        },
        "started_from": beside,
        "facts": {name: known_facts(held) for name, held in rows.items()},
        "demo": {"question": question, "answers": demo},
        "settings": {
            **decoding(section.continuous_batching),
            "max_new_tokens": section.max_new_tokens,
            "dtype": str(dtype),
            **options,
        },
        "signatures": signatures() | bertscore_signature(section.bertscore_model),
        "sets_sha256": {name: file_sha256(path) for name, path in sets.items()},
        "weights_sha256": {path.name: weights_sha256(path) for path in models.values()},
        "chat_template_sha256": file_sha256(BASE / "chat_template.jinja"),
        "tokenizer_sha256": file_sha256(BASE / "tokenizer.json"),
        "versions": {name: version(name) for name in ("sacrebleu", "tokenizers", "torch", "transformers")},
    }
    with published(root / PREDICTIONS) as path:
        write_jsonl(path, [row for held in rows.values() for row in held])
    with published(root / DETAIL) as path:
        write_json(path, detail)
    with published(root / EVAL) as path:
        write_json(path, values_alone(figures))
    return {**describe(), **facts, "threads": threads, "rows": sum(len(held) for held in rows.values())}


def by_name(chats: list[Record]) -> dict[str, list[Record]]:
    """Control chats by the set that each is of: control_en, control_ko."""
    names = dict.fromkeys(chat["set"] for chat in chats)
    return {f"{CONTROL}{name}": [chat for chat in chats if chat["set"] == name] for name in names}


if __name__ == "__main__":
    run(evaluate)
