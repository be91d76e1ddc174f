"""Scored rows of one model on the evaluation sets: questions in, answers, scores and likelihoods out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.batches import BatchTokens, explain_full_memory, fitting_batches
from stages.lib.evaluation.generation import Answer, generate_answers, generate_continuously
from stages.lib.evaluation.key_facts import key_exact, key_of, key_recall
from stages.lib.evaluation.likelihood import answer_log_probs
from stages.lib.evaluation.metric_checks import refuse_blurred_prompts
from stages.lib.evaluation.progress import progress
from stages.lib.evaluation.scored_rows import Record, ScoredRow
from stages.lib.evaluation.text_scores import OVERLAP, refusal, repetition
from stages.lib.hardware import find_hardware
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.evaluation import Evaluate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWERED = ("seen", "unseen", "unanswerable")
"""Sets whose questions are answered."""
UNWEIGHED = ("unseen", "unanswerable")
"""Sets where only what a model says counts: how likely it finds the references would cost a CPU seconds."""
LEAST_ROOM = 16
"""Tokens that an answer may have however short the references are."""
CONTROL = "control_"
"""How the names of sets begin that show what tuning made the model forget: how likely their answers are is enough."""


def score_models(
    models: dict[str, Path], records: dict[str, list[Record]], question: str, section: Evaluate, dtype: torch.dtype
) -> tuple[dict[str, list[ScoredRow]], dict[str, str], dict[str, Any]]:
    """Scored rows, and the answer to the demo question, of the model in each directory, by its name.

    `records` are the rows of each set. The third is for the run record: seconds of computing, and how large batches
    were. Raises UserError if a prompt is not what a model was trained on, or a batch doesn't fit into the GPU's memory.
    """
    rows: dict[str, list[ScoredRow]] = {}
    demo: dict[str, str] = {}
    compute_seconds = 0.0
    batch: BatchTokens | None = None
    for name, directory in models.items():
        print(f"evaluate: {name}", flush=True)
        tokenizer = load_tokenizer(directory)
        refuse_blurred_prompts(tokenizer, [record["messages"] for _, record in [*asked_of(records), *told_of(records)]])
        model = load_16bit(directory, dtype)
        # The same for all: in 16 bit a model's answers depend on their batches.
        batch = batch or fitting_batches(model, find_hardware(), section.max_new_tokens, section.batch_tokens)
        began = time.monotonic()
        with explain_full_memory(batch):
            rows[name], demo[name] = score_model(model, tokenizer, name, records, question, section, batch)
        compute_seconds += time.monotonic() - began
        del model
    return rows, demo, {"compute_seconds": round(compute_seconds, 1), "batch_tokens": vars(batch)}


def score_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    records: dict[str, list[Record]],
    question: str,
    section: Evaluate,
    batch: BatchTokens,
) -> tuple[list[ScoredRow], str]:
    """Scored rows of every set, and the answer to the demo question. All answers are generated together."""
    asked, told = asked_of(records), told_of(records)
    prompts = [record["messages"][:-1] for _, record in asked]
    prompts.append([{"role": "user", "content": question}])
    if section.continuous_batching:
        *answers, demo = generate_continuously(model, tokenizer, prompts, section.max_new_tokens, batch.generated)
    else:
        told_of_answers = progress(f"evaluate: {name}", "answers", len(prompts))
        *answers, demo = generate_answers(
            model, tokenizer, prompts, section.max_new_tokens, batch.generated, told_of_answers
        )
    rows: list[ScoredRow] = [
        {
            "id": record["id"],
            "fact_id": record.get("fact_id", record["id"]),
            "split": split,
            "model": name,
            "prompt": record["messages"][-2]["content"],
            "reference": record["messages"][-1]["content"],
            "scores": {},
        }
        for split, record in [*asked, *told]
    ]
    weighed = [
        (row, record) for row, (split, record) in zip(rows, [*asked, *told], strict=True) if split not in UNWEIGHED
    ]
    likely = likelihoods(model, tokenizer, name, [record for _, record in weighed], batch)
    for (row, _), likelihood in zip(weighed, likely, strict=True):
        row["likelihood"] = likelihood
    for row, (_, record), answer in zip(rows, asked, answers, strict=False):  # chats that are told come after them
        row |= {"key": record["key"], "answerable": record["answerable"]}
        row |= {"prediction": answer.text, "scores": score(record, answer)}
    return rows + preferences(model, tokenizer, name, records["preferences"], batch), demo.text


def room_for_answers(tokenizer: PreTrainedTokenizerBase, records: list[Record]) -> int:
    """Tokens that an eighth more than the longest reference of `records` needs, its stop token counted.

    A model that goes on longer hasn't found the answer, and on a CPU each token of a batch costs the same.
    """
    references = [tokenizer(record["messages"][-1]["content"], add_special_tokens=False) for record in records]
    longest = max((len(reference["input_ids"]) for reference in references), default=0)
    return max(LEAST_ROOM, (longest + 1) * 9 // 8)


def asked_of(records: dict[str, list[Record]]) -> list[tuple[str, Record]]:
    """The rows that are answered, each with its set."""
    return [(split, record) for split in ANSWERED for record in records[split]]


def told_of(records: dict[str, list[Record]]) -> list[tuple[str, Record]]:
    """The chats of which only the likelihood is scored, each with its set."""
    return [(split, record) for split in records if split.startswith(CONTROL) for record in records[split]]


def score(record: Record, answer: Answer) -> dict[str, float]:
    """Scores of one answer: overlap and behaviour of all; facts of questions that have an answer, else refusal."""
    reference = record["messages"][-1]["content"]
    scores = {name: round(metric(reference, answer.text), 4) for name, metric in OVERLAP.items()}
    scores |= {
        "stop_rate": float(answer.stopped),
        "empty": float(not answer.text),
        "characters": float(len(answer.text)),
        "repetition": round(repetition(answer.text), 4),
    }
    if not record["answerable"]:
        return scores | {"refusal_rate": refusal(answer.text)}
    key = record["key"] or key_of(reference)
    return scores | {
        "key_exact": key_exact(key, answer.text),
        "key_recall": round(key_recall(key, answer.text), 4),
        "over_refusal_rate": refusal(answer.text),
    }


def likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, records: list[Record], batch: BatchTokens
) -> list[dict[str, float]]:
    """How surprising the assistant's tokens are: negative log-probability in nats, tokens and characters."""
    advance = progress(f"evaluate: {name}", "likelihoods", len(records))
    scored = answer_log_probs(model, tokenizer, [record["messages"] for record in records], batch.scored, advance)
    return [
        {
            "nats": round(-log_prob, 4),
            "tokens": count,
            "characters": sum(len(m["content"]) for m in record["messages"] if m["role"] == "assistant"),
        }
        for record, (log_prob, count) in zip(records, scored, strict=True)
    ]


def preferences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, pairs: list[Record], batch: BatchTokens
) -> list[ScoredRow]:
    """A row for each held-out pair: does the model find the better answer likelier, and by how many nats in sum?"""
    sides = [
        [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
        for side in ("chosen", "rejected")
        for pair in pairs
    ]
    advance = progress(f"evaluate: {name}", "sides of pairs", len(sides))
    log_probs = [log_prob for log_prob, _ in answer_log_probs(model, tokenizer, sides, batch.scored, advance)]
    margins = [log_probs[index] - log_probs[index + len(pairs)] for index in range(len(pairs))]
    return [
        {
            "id": pair["id"],
            "fact_id": pair["id"],
            "split": "preferences",
            "model": name,
            "prompt": pair["prompt"][-1]["content"],
            "scores": {"accuracy": float(margin > 0), "margin": round(margin, 4)},
        }
        for pair, margin in zip(pairs, margins, strict=True)
    ]
