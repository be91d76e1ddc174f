"""A tiny random Gemma-3 as a GGUF file, written as llama.cpp's converter writes one, and wheels that carry it."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
LAYERS = 7  # five with a sliding window, one without, and another one with

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""transformers' names of a layer's weights, and GGUF's."""


def write_gemma_gguf(path: Path) -> Any:
    """Write the file and return the model that it was made of, as transformers has it."""
    import gguf
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    alphabet = sorted(set("<|userassistant>▁가나다라마바사는은\n"))
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    config = Gemma3TextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=256,
        sliding_window=8,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:  # they are zero at first
            weight.data.normal_(std=0.5)
        weight.data = weight.data.to(torch.bfloat16).float()  # as they are when they come back
    model.eval()

    kinds = [gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(alphabet)
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    for add, token in (
        (writer.add_pad_token_id, 0), (writer.add_eos_token_id, 1), (writer.add_bos_token_id, 2),
        (writer.add_unk_token_id, 3),
    ):  # fmt: skip
        add(token)
    writer.add_add_bos_token(True)
    for name, weight in model.named_parameters():
        found = weight.detach() + 1 if "norm" in name else weight.detach()  # the converter adds the 1 of 1 + w
        writer.add_tensor(gguf_name(name), found.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def gguf_name(name: str) -> str:
    """GGUF's name of a weight."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    """A wheel of `package` 0.1 with `files` by their path in it."""
    name = package.replace("-", "_")
    path = folder / f"{name}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n"
        wheel.writestr(f"{name}-0.1.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-0.1.dist-info/RECORD", "")
    return path


def serve_wheels(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have pip find packages in `folder` alone."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
