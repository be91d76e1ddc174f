"""What a reward model is worth, on pairs that it wasn't trained on: does it rank them better than "the shorter one"?"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.statistics import rounded, wilson_interval
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.chat import encode_answer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase


def held_out_rows(
    path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int]], list[tuple[int, int]], int]:
    """Held-out pairs as token ids: chosen rows, rejected rows, the tokens of both answers, and how many are too long.

    Raises UserError where none is left.
    """
    chosen, rejected, lengths, dropped = [], [], [], 0
    for pair in read_jsonl(path):
        prompt, better = encode_answer(tokenizer, pair["prompt"], pair["chosen"])
        _, worse = encode_answer(tokenizer, pair["prompt"], pair["rejected"])
        if len(prompt) + max(len(better), len(worse)) > max_length:
            dropped += 1
            continue
        chosen.append(prompt + better)
        rejected.append(prompt + worse)
        lengths.append((len(better), len(worse)))
    if not chosen:
        raise UserError(
            f"{path}: found no held-out pair of at most reward.max_length={max_length} tokens ({dropped} are longer); "
            "needed some to know what the reward model is worth. Raise it, or prepare_preferences.held_out_pairs"
        )
    return chosen, rejected, lengths, dropped


def figures_of(chosen: list[float], rejected: list[float], lengths: list[tuple[int, int]]) -> dict[str, Any]:
    """Accuracy of the scores of `chosen` and `rejected` answers, that of taking the shorter one, and what length does.

    `lengths` are both answers' tokens. A tie is half right. The correlation is Pearson's, of score and tokens over all
    answers: near 1 or -1 the model has learned to measure.
    """
    pairs = list(map(str, range(len(chosen))))
    ranked = [half(better - worse) for better, worse in zip(chosen, rejected, strict=True)]
    shorter = [half(worse - better) for better, worse in lengths]
    tokens = [float(better) for better, _ in lengths] + [float(worse) for _, worse in lengths]
    return {
        "held_out_accuracy": wilson_interval(ranked, pairs),
        "shorter_answer_accuracy": wilson_interval(shorter, pairs),
        "correlation_with_length": rounded(correlation([*chosen, *rejected], tokens)),
        "margin": rounded(sum(chosen) / len(chosen) - sum(rejected) / len(rejected)),
    }


def half(difference: float) -> float:
    """1 where the better answer is ahead, 0 where it is behind, and 0.5 in a tie."""
    return 0.5 if difference == 0 else float(difference > 0)


def correlation(ones: list[float], others: list[float]) -> float:
    """Pearson's correlation, in [-1, 1]; 0 where one side never varies."""
    mean_one, mean_other = sum(ones) / len(ones), sum(others) / len(others)
    both = sum((one - mean_one) * (other - mean_other) for one, other in zip(ones, others, strict=True))
    both_vary = sqrt(sum((one - mean_one) ** 2 for one in ones) * sum((other - mean_other) ** 2 for other in others))
    return both / both_vary if both_vary else 0.0
