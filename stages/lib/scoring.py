"""Scores of one model on the evaluation sets: rows in, predictions and figures out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stages.lib.generation import Answer, generate_answers
from stages.lib.key_facts import key_exact, key_of, key_recall
from stages.lib.likelihood import answer_log_probs
from stages.lib.schema import Evaluate
from stages.lib.statistics import bootstrap_interval

Record = dict[str, Any]
Figures = dict[str, dict[str, float]]


def chrf_metric() -> Any:
    """chrF++ (word order 2) by sacrebleu: character n-grams, which need no Korean word segmentation."""
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


def chrf_signature() -> str:
    """sacrebleu's own description of the metric, which two runs must share to be compared."""
    chrf = chrf_metric()
    chrf.sentence_score("같은 문장", ["같은 문장"])  # the signature holds the number of references of the last call
    return str(chrf.get_signature())


def predict(
    model: Any, tokenizer: Any, name: str, split: str, records: list[Record], section: Evaluate
) -> list[Record]:
    """Answer each record's question and score the answer. Returns one prediction a record, in order."""
    prompts = [record["messages"][:-1] for record in records]
    answers = generate_answers(model, tokenizer, prompts, section.max_new_tokens, section.batch_tokens)
    chrf = chrf_metric()
    return [
        {
            "id": record["id"],
            "fact_id": record["fact_id"],
            "split": split,
            "model": name,
            "prompt": record["messages"][-2]["content"],
            "reference": record["messages"][-1]["content"],
            "key": record["key"],
            "answerable": record["answerable"],
            "prediction": answer.text,
            "scores": score(record, answer, chrf),
        }
        for record, answer in zip(records, answers, strict=True)
    ]


def score(record: Record, answer: Answer, chrf: Any) -> dict[str, float]:
    """Scores of one answer; those about facts only for questions that the source answers."""
    reference = record["messages"][-1]["content"]
    scores = {
        "chrf": round(chrf.sentence_score(answer.text, [reference]).score / 100, 4),
        "stop_rate": float(answer.stopped),
    }
    if record["answerable"]:
        key = record["key"] or key_of(reference)
        scores |= {"key_exact": key_exact(key, answer.text), "key_recall": round(key_recall(key, answer.text), 4)}
    return scores


def figures_of_predictions(predictions: list[Record], section: Evaluate) -> Figures:
    """Mean and interval of each score over the predictions that have it."""
    names = sorted({name for prediction in predictions for name in prediction["scores"]})
    figures = {}
    for name in names:
        rows = [prediction for prediction in predictions if name in prediction["scores"]]
        values = [row["scores"][name] for row in rows]
        figures[name] = interval(values, [1.0] * len(rows), [row["fact_id"] for row in rows], section)
    return figures


def perplexity(model: Any, tokenizer: Any, records: list[Record], section: Evaluate) -> Figures:
    """Perplexity of the assistant's tokens, by token, and bits per character (equal across tokenizers)."""
    scored = answer_log_probs(model, tokenizer, [record["messages"] for record in records])
    groups = [str(record.get("fact_id", record["id"])) for record in records]
    losses = [-log_prob for log_prob, _ in scored]
    characters = [sum(len(m["content"]) for m in r["messages"] if m["role"] == "assistant") for r in records]
    return {
        "perplexity": interval(losses, [count for _, count in scored], groups, section, transform=np.exp),
        "bits_per_character": interval([loss / math.log(2) for loss in losses], characters, groups, section),
    }


def preference(model: Any, tokenizer: Any, pairs: list[Record], section: Evaluate) -> Figures:
    """How often a model finds the better of two answers likelier, and by how much (summed log-probability, nats)."""

    def log_probs(side: str) -> list[float]:
        conversations = [[*pair["prompt"], {"role": "assistant", "content": pair[side]}] for pair in pairs]
        return [log_prob for log_prob, _ in answer_log_probs(model, tokenizer, conversations)]

    margins = [chosen - rejected for chosen, rejected in zip(log_probs("chosen"), log_probs("rejected"), strict=True)]
    ids = [pair["id"] for pair in pairs]
    ones = [1.0] * len(pairs)
    return {
        "accuracy": interval([float(margin > 0) for margin in margins], ones, ids, section),
        "margin": interval(margins, ones, ids, section),
    }


def interval(
    above: list[float], below: Any, groups: list[str], section: Evaluate, transform: Callable[[Any], Any] | None = None
) -> dict[str, float]:
    """A bootstrap interval with the section's number of resamples and seed."""
    options = {"transform": transform} if transform else {}
    return bootstrap_interval(above, below, groups, section.bootstrap_resamples, section.seed, **options)
