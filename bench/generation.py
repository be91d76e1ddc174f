"""Batched and continuously batched answers against transformers' pipeline() one question at a time, as notebooks do it.

Needs   models/ and data/prepared (run `make repro` once)
Run     python -m bench.generation [model directory] [questions for pipeline(); the rest is scaled]

What batches change of the answers: bench/batches.py.
"""

import sys
import time
from pathlib import Path
from typing import Any

from stages.evaluate import PDF_QA
from stages.lib.evaluation.batches import fitting_batches
from stages.lib.evaluation.generation import generate_answers, generate_continuously
from stages.lib.every_stage.records import read_jsonl
from stages.lib.hardware import describe, find_hardware, resolve_dtype, set_up_cpu
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.choices import Dtype

MAX_NEW_TOKENS = 96


def timed(action: Any) -> tuple[float, Any]:
    """Seconds that an action took, and what it returned."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def one_at_a_time(model: Any, tokenizer: Any, prompts: list[Any]) -> list[str]:
    """What the notebook does: a pipeline, called for each question."""
    from transformers import pipeline

    chat = pipeline("text-generation", model=model, tokenizer=tokenizer)
    answers = []
    for prompt in prompts:
        said = chat(prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers.append(said[0]["generated_text"][-1]["content"].strip())
    return answers


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("models/sft-merged")
    set_up_cpu(0)
    print(describe(), directory)
    records = [record for name in ("seen", "unseen") for record in read_jsonl(PDF_QA / f"{name}.jsonl")]
    prompts = [record["messages"][:-1] for record in records]
    few = prompts[: int(sys.argv[2]) if len(sys.argv) > 2 else len(prompts)]
    tokenizer = load_tokenizer(directory)
    model = load_16bit(directory, resolve_dtype(Dtype.auto))
    size = fitting_batches(model, find_hardware(), MAX_NEW_TOKENS).generated
    generate_answers(model, tokenizer, prompts[:1], 2, size)  # the first call allocates
    alone, alone_texts = timed(lambda: one_at_a_time(model, tokenizer, few))
    scaled = alone * len(prompts) / len(few)
    batched, answers = timed(lambda: generate_answers(model, tokenizer, prompts, MAX_NEW_TOKENS, size))
    same = sum(text == answer.text for text, answer in zip(alone_texts, answers, strict=False))
    print(f"pipeline(), one at a time: {scaled:.1f} s for {len(prompts)} ({len(few)} timed)")
    print(
        f"generate_answers: {batched:.1f} s, {scaled / batched:.1f} times as fast; {same} of {len(few)} answers equal"
    )
    continuous, others = timed(lambda: generate_continuously(model, tokenizer, prompts, MAX_NEW_TOKENS, size))
    same = sum(one == other for one, other in zip(answers, others, strict=True))
    print(
        f"generate_continuously: {continuous:.1f} s, {scaled / continuous:.1f} times as fast; {same} of {len(prompts)} "
        "answers equal to those of generate_answers"
    )
