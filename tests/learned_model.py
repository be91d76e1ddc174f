"""A tiny Llama that has learned some answers by heart, as a merge leaves it, with a tokenizer that llama.cpp knows."""

from pathlib import Path
from typing import Any

from conftest import ROOT

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPACE = "▁"


def write_learned_model(directory: Path, rows: list[dict[str, Any]], steps: int, width: int = 256) -> None:
    """Write a model that answers `rows`, trained on each of them in every one of `steps`; width 256 is a K-quant's row.

    Its tokens are single characters, as SentencePiece's are where nothing is merged.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from stages.lib.every_stage.lineage import write_lineage
    from stages.lib.models.chat import encode_answer

    texts = [message["content"] for row in rows for message in row["messages"]]
    alphabet = sorted({*"".join(texts), *"system user assistant\n", SPACE} - {" "})
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        add_prefix_space=False,
    )
    fast.chat_template = (ROOT / "conf/chat_template/chatml.jinja").read_text(encoding="utf-8")
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stop = fast.convert_tokens_to_ids("<|im_end|>")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(pieces) + len(SPECIAL_TOKENS),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=stop,
            pad_token_id=fast.pad_token_id,
        )
    )
    learn(model, [encode_answer(fast, row["messages"][:-1], row["messages"][-1]["content"]) for row in rows], steps)
    model.generation_config.eos_token_id = stop
    model.to(torch.bfloat16).save_pretrained(directory)
    write_lineage(directory, {"kind": "merged"})


def learn(model: Any, rows: list[tuple[list[int], list[int]]], steps: int) -> None:
    """Train on all rows in each step: on what follows the prompts."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for place, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[place, :whole] = torch.tensor(prompt + answer)
        labels[place, len(prompt) : whole] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
