"""The notebook's whole recipe by `dvc repro`: 3,000 chats, its values, TinyLlama's shape with random weights.

A clone of HEAD with `model: tinyllama-1.1b` and `recipe: notebook`; what the Hub would give is made here: weights,
tokenizer, chats of UltraChat's lengths. Scores mean nothing; seconds, peak memory and every gate do.

Run     python -m bench.notebook_chain [--shape TinyLlama-1.1B] [--chats 3000] [--set dpo.max_steps=200 …]
                                       [--place FOLDER] [--out results.json]
On a CPU: --shape tiny --chats 40 --set sft.max_steps=2 dpo.max_steps=2 sft.dtype=auto dpo.dtype=auto
"""

import argparse
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from bench.overhead import chain, cloned
from bench.random_model import CORPUS, SHAPES, train_tokenizer, write_source
from bench.training import lengths_of

CHATS = Path("data/raw/ultrachat/random.jsonl")
HELD_OUT = 20
"""Chats of the evaluation."""


def write_chats(path: Path, tokens: list[int]) -> None:
    """Chats of about these lengths in tokens, of random words, so that none is nearly another."""
    draw = random.Random(0)
    words = CORPUS.read_text(encoding="utf-8").split()
    tokenizer = train_tokenizer()
    tokens_a_word = len(tokenizer(" ".join(words)).input_ids) / len(words)

    def turn(role: str, length: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choices(words, k=max(4, round(length / tokens_a_word))))}

    with path.open("w", encoding="utf-8") as file:
        for number, length in enumerate(tokens):
            messages = [turn("user", length // 4), turn("assistant", 3 * length // 4)]
            file.write(json.dumps({"prompt_id": str(number), "messages": messages}) + "\n")


def ask_for_the_notebook(clone: Path, source: Path, settings: list[str]) -> None:
    """Write the clone's params.yaml: the notebook's model and recipe, with local files for the Hub's."""
    rows = {"source": "jsonl", "path": str(CHATS), "shuffle_seed": 42}
    base = {"source": "local", "path": str(source), "tokenizer_id": "", "tokenizer_revision": ""}
    base |= {"chat_template": "chatml.jinja", "pad_token": "<|endoftext|>", "stop_tokens": ["<|im_end|>"]}
    asked: dict[str, Any] = {
        "model": "tinyllama-1.1b",
        "recipe": "notebook",
        "data": "notebook",
        "profile": "auto",
        "prepare_base": base,
        "prepare_ultrachat": {
            "train": {"en": {**rows, "skip": HELD_OUT, "take": 0}},
            "evaluation": {"en": {**rows, "skip": 0, "take": HELD_OUT}},
        },
        "prepare_preferences": {"rows": {"source": "jsonl", "path": "data/raw/preferences/preferences.jsonl"}},
    }
    OmegaConf.save(OmegaConf.merge(asked, OmegaConf.from_dotlist(settings)), clone / "params.yaml")


def main(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    clone = cloned(place)
    write_source(place / "source", options.shape)
    write_chats(clone / CHATS, lengths_of("chats", options.chats + HELD_OUT)[0])
    ask_for_the_notebook(clone, place / "source", options.set)
    result = chain(clone)
    for name in ("sft", "dpo"):
        record = json.loads((clone / f"metrics/runs/{name}.json").read_text(encoding="utf-8"))
        result["stages"][name] |= {key: record.get(key) for key in ("plan", "gpu_peak_memory_mib", "peak_memory_mib")}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="TinyLlama-1.1B", choices=SHAPES)
    parser.add_argument("--chats", type=int, default=3000)
    parser.add_argument("--set", nargs="*", default=[], help="values of params.yaml")
    parser.add_argument("--place", type=Path, help="keeps the clone and what it made")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        found = main(options, (options.place or Path(scratch)).absolute())
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
