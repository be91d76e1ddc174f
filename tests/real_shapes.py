"""Tiny random models in the shape of TinyLlama's and Llama-3's repositories on the Hub, file by file.

What is true of the real ones and can surprise a pipeline is true of these: how the tokenizer splits, begins and pads,
which tokens are special, how config.json was spelled when it was uploaded, how many heads share a key, at which
frequencies positions turn, that the head is no copy of the embeddings, in how many files and bits the weights are,
and on which token the repository's own generation_config.json stops.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = Path(__file__).parents[1] / "data/raw"

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""The pre-tokenizer of Llama-3's tokenizer.json."""


def write_tinyllama(model: Path, tokenizer: Path) -> None:
    """The base model's repository and, apart from it as on the Hub, the chat version's tokenizer.

    SentencePiece's BPE: a space is `▁`, what is not in the vocabulary falls back to bytes, as all Hangul does here,
    and `<s>` is put before every text unless it is asked not to. The chat version pads with its stop token.
    """
    vocabulary = write_tinyllama_tokenizer(tokenizer)
    shape = {"num_key_value_heads": 4, "max_position_embeddings": 2048, "rope_theta": 10000.0}
    write_model(model, "float32", "5MB", {**shape, "vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2})
    generation = {"bos_token_id": 1, "eos_token_id": 2, "max_length": 2048, "pad_token_id": 0}
    write_json(model / "generation_config.json", generation)


def write_tinyllama_tokenizer(directory: Path) -> int:
    """tokenizer.json as it was converted from SentencePiece's file; the size of its vocabulary."""
    specials = ["<unk>", "<s>", "</s>"]
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    english = [line for text in chats() for line in text.splitlines() if line.isascii()]
    learned.train_from_iterator(english, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    found = json.loads(learned.to_str())["model"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *found["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in found["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = learned.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "padding_side": "right",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "use_default_system_prompt": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    write_json(directory / "tokenizer_config.json", config)
    return len(pieces)


def write_llama3(directory: Path) -> None:
    """One repository: byte-level BPE with 256 special tokens at the vocabulary's end and none to pad with.

    `<|begin_of_text|>` is put before every text unless it is asked not to, and the template writes one too. The
    repository's own configuration stops on `<|end_of_text|>`, with which no answer of a chat ends, and samples.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    blank_lines = ["\n\n"] * 100  # one token in the real vocabulary, with which the template's prompt ends
    tokenizer.train_from_iterator([*chats(), *answers(), *blank_lines], trainer)
    begin, reserved = tokenizer.get_vocab_size(), iter(range(251))
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    tokenizer.add_special_tokens(
        [f"<|{named.get(place) or f'reserved_special_token_{next(reserved)}'}|>" for place in range(256)]
    )
    first = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), first])
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(directory / "tokenizer_config.json", config)
    ends = {"bos_token_id": begin, "eos_token_id": begin + 1}
    shape = {"num_key_value_heads": 8, "max_position_embeddings": 8192, "rope_theta": 500000.0}
    reserved_ids = [number for token, number in tokenizer.get_vocab().items() if "reserved" in token]
    write_model(
        directory, "bfloat16", "200KB", {**shape, "vocab_size": tokenizer.get_vocab_size(), **ends}, reserved_ids
    )
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
    write_json(directory / "generation_config.json", {"_from_model_config": True, **ends, **sampling})


def write_model(
    directory: Path, dtype: str, shard: str, shape: dict[str, Any], untrained: list[int] | None = None
) -> None:
    """Random weights, 32 heads in two layers of width 128, and config.json as transformers 4 spelled it.

    Tokens in `untrained` have embeddings and rows of the head that are zero.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    theta = shape.pop("rope_theta")
    common = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        **shape,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **common))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight.data[untrained or []] = 0
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard)
    old = {"rope_theta": theta, "rope_scaling": None, "torch_dtype": dtype, "transformers_version": "4.40.0"}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "use_cache": True}
    write_json(directory / "config.json", {**kind, **common, **old})


def chats() -> list[str]:
    """What is said in the English chats that ship."""
    lines = (DATA / "ultrachat/chat_en.jsonl").read_text(encoding="utf-8").splitlines()
    return [message["content"] for line in lines for message in json.loads(line)["messages"]]


def answers() -> list[str]:
    """Korean answers that ship."""
    lines = (DATA / "pdf_qa/office-guide.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["output"] for line in lines]


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
