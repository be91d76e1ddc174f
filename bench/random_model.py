"""A models/base of a given size with random weights, and data of given lengths: speed and memory need no more."""

import json
import os
import random
from pathlib import Path
from typing import Any

SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 2048),
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152),
    "SmolLM2-360M": (960, 2560, 32, 15, 5, 49152),
    "TinyLlama-1.1B": (2048, 5632, 22, 32, 4, 32000),
    "Llama-3-8B": (4096, 14336, 32, 32, 8, 128256),
}
"""Hidden width, inner width, layers, heads, key-value heads, vocabulary."""
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma-3-1B": (
        "Gemma3TextConfig",
        {
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
            "vocab_size": 262144,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3-0.6B": (
        "Qwen3Config",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
    ),
}
"""Shapes of other families: transformers' configuration class, and what its repository's config.json says."""
TOKENS = {"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = Path("data/raw/pdf_qa/office-guide.jsonl")


def config_of(name: str) -> Any:
    """transformers' configuration of one of SHAPES or FAMILIES."""
    import transformers

    if name in FAMILIES:
        kind, values = FAMILIES[name]
        return getattr(transformers, kind)(**values, **TOKENS)
    hidden, inner, layers, heads, key_value, vocabulary = SHAPES[name]
    return transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        vocab_size=vocabulary,
        tie_word_embeddings=name.startswith("SmolLM2"),
        **TOKENS,
    )


def train_tokenizer() -> Any:
    """A byte-level tokenizer of 2,000 tokens, made from the default data."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(CORPUS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def write_source(directory: Path, shape: str) -> None:
    """Write random weights of a shape in bfloat16 and a small tokenizer, as a repository of a model holds them."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    torch.set_default_dtype(torch.float32)
    model.cpu().save_pretrained(directory)
    train_tokenizer().save_pretrained(directory)


def write_base(place: Path, shape: str) -> None:
    """Write `place`/models/base, as prepare-base's source `local` does it from a directory with random weights."""
    from stages.lib.schema.choices import BaseSource
    from stages.lib.schema.data import PrepareBase
    from stages.prepare_base import prepare_base

    place.mkdir(parents=True, exist_ok=True)
    write_source(place / "source", shape)
    section = PrepareBase(
        source=BaseSource.local,
        path=str(place / "source"),
        chat_template="chatml.jinja",
        pad_token="<|endoftext|>",
        stop_tokens=["<|im_end|>"],
    )
    prepare_base(section, place)


def write_data(place: Path, chats: list[int], pairs: list[int], seed: int = 0) -> None:
    """Write prepared chats and preference pairs of about these lengths in tokens under `place`."""
    draw = random.Random(seed)
    tokenizer = train_tokenizer()
    ids = tokenizer(CORPUS.read_text(encoding="utf-8")).input_ids

    def text(tokens: int) -> str:
        start = draw.randrange(len(ids) - tokens)
        return tokenizer.decode(ids[start : start + tokens]).replace("�", "")

    def write(path: Path, records: list[dict[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": str(number), **record}) for number, record in enumerate(records)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def turn(role: str, tokens: int) -> dict[str, str]:
        return {"role": role, "content": text(max(tokens, 4))}

    write(
        place / "data/prepared/ultrachat/train.jsonl",
        [{"messages": [turn("user", length // 4), turn("assistant", 3 * length // 4 - 16)]} for length in chats],
    )
    write(
        place / "data/prepared/preferences/train.jsonl",
        [
            {
                "prompt": [turn("user", length // 2)],
                "chosen": text(max(length // 2 - 24, 4)),
                "rejected": text(max(length // 2 - 24, 4)),
            }
            for length in pairs
        ],
    )
    sampled = place / "data/prepared/sampled_preferences/train.jsonl"
    sampled.parent.mkdir(parents=True)
    sampled.touch()  # as sample-preferences leaves it where it is off


def enter(place: Path) -> None:
    """Make `place` the working directory of stages, with the checkpoints of this run under it."""
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    os.chdir(place)
