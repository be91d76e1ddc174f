"""Tiny random models of many architectures, as their repositories have them, and three that exist nowhere else.

Two layers of width 64 that show each kind of layer a family has, a window of 64 tokens where it has one, and weights so
large that another attention, a lost bias or a neighbour's token changes every log-probability. `FAMILIES` names them;
`write_family` writes one.
"""

import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.real_shapes import answers, chats, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

WINDOW = 64
VOCABULARY = 600
DEVIATION = 0.2
"""Standard deviation of the weights, and of biases and attention sinks, which a new model has at zero."""

COMMON = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
"""In every tokenizer, so that chatml.jinja fits each, padded with the first and ended by the last."""

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": DEVIATION,
}


@dataclass(frozen=True)
class Dialect:
    """How a family's tokenizer and chat template speak. Templates are as in the repositories: no generation block."""

    specials: list[str]
    eos: str
    stops: list[str]  # of generation_config.json
    template: str = ""  # none: a model that was never tuned to chat
    bos: str = ""  # put before every text
    pad: str = ""


CHATML = Dialect(
    ["<|fim_pad|>"],
    "<|im_end|>",
    ["<|im_end|>", "<|endoftext|>"],
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    pad="<|endoftext|>",
)
LLAMA3 = Dialect(
    ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"],
    "<|eot_id|>",
    ["<|eot_id|>"],
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    bos="<|begin_of_text|>",
)
GEMMA_TURNS = (
    "{% for message in turns %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) "
    "+ '\n' + (system if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA2 = Dialect(
    ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "<eos>",
    ["<eos>", "<end_of_turn>"],
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% set turns, system = messages, '' %}" + GEMMA_TURNS,
    bos="<bos>",
    pad="<pad>",
)
GEMMA3 = Dialect(
    GEMMA2.specials,
    "<eos>",
    ["<eos>", "<end_of_turn>"],
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% else %}{% set turns, system = messages, '' %}{% endif %}"
    + GEMMA_TURNS,
    bos="<bos>",
    pad="<pad>",
)
MISTRAL = Dialect(
    ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
    "</s>",
    ["</s>"],
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}",
    bos="<s>",
)
PHI3 = Dialect(
    ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "<|endoftext|>",
    ["<|endoftext|>", "<|end|>", "<|assistant|>"],
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    pad="<|endoftext|>",
)
UNTUNED = Dialect([], "<|endoftext|>", ["<|endoftext|>"])


@dataclass(frozen=True)
class Family:
    """One architecture."""

    config: str  # transformers' class of its configuration, or one of OWN
    shape: dict[str, Any] = field(default_factory=dict)  # beside SHAPE; a key that is None isn't the family's
    dialect: Dialect = CHATML
    shard: str = "1GB"  # the most of one file of weights


UNDROPPED = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
"""GPT-2 is trained with dropout by default: no two passes of a step would be equal."""
MIXED = ["sliding_attention", "full_attention"]
LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
CHUNKED: dict[str, Any] = {"attention_chunk_size": WINDOW, "layer_types": ["chunked_attention", "full_attention"]}
GEMMA: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "layer_types": MIXED}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_state": 16, "mamba_chunk_size": 32}

FAMILIES = {
    "llama": Family("LlamaConfig", {"tie_word_embeddings": True}, LLAMA3, "100KB"),
    "qwen2": Family("Qwen2Config"),
    "qwen3": Family("Qwen3Config", {"head_dim": 32}),
    "qwen3_moe": Family("Qwen3MoeConfig", {**EXPERTS, "head_dim": 32}),
    "qwen3_5": Family("Qwen3_5TextConfig", LINEAR),
    "qwen3_next": Family("Qwen3NextConfig", {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 64}),
    "gemma2": Family("Gemma2Config", {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}, GEMMA2),
    "gemma3": Family("Gemma3TextConfig", GEMMA, GEMMA3),
    "gemma4": Family(
        "Gemma4TextConfig",
        {
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "final_logit_softcapping": 10.0,
        },
        GEMMA3,
    ),
    "mistral": Family("MistralConfig", {"sliding_window": WINDOW}, MISTRAL),
    "phi": Family("PhiConfig", dialect=UNTUNED),
    "phi3": Family("Phi3Config", {"sliding_window": WINDOW, "resid_pdrop": 0.0}, PHI3),
    "granite": Family(
        "GraniteConfig",
        {"attention_multiplier": 0.1, "logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 4.0},
    ),
    "glm4": Family("Glm4Config", {"head_dim": 16}),
    "smollm3": Family("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "lfm2": Family("Lfm2Config", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}),
    "gpt2": Family(
        "GPT2Config",
        {
            "hidden_size": None,
            "intermediate_size": None,
            "num_key_value_heads": None,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "max_position_embeddings": None,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 4096,
            **UNDROPPED,
        },
        UNTUNED,
    ),
    "gpt_neox": Family("GPTNeoXConfig", {"num_key_value_heads": None}, UNTUNED),
    "olmo3": Family("Olmo3Config", {"sliding_window": WINDOW, "layer_types": MIXED}),
    "cohere2": Family("Cohere2Config", {"sliding_window": WINDOW, "layer_types": MIXED, "logit_scale": 0.25}),
    "stablelm": Family("StableLmConfig"),
    "deepseek_v3": Family(
        "DeepseekV3Config",
        {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 64,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    "gpt_oss": Family(
        "GptOssConfig",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
        },
    ),
    "mixtral": Family("MixtralConfig", {"num_local_experts": 4, "sliding_window": WINDOW}, MISTRAL),
    "exaone4": Family("Exaone4Config", {"sliding_window": WINDOW, "layer_types": MIXED}),
    "falcon_h1": Family("FalconH1Config", {**MAMBA, "mamba_d_ssm": 64}),
    "bamba": Family("BambaConfig", {**MAMBA, "attn_layer_indices": [1]}),
    "mamba2": Family(
        "Mamba2Config",
        {
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "intermediate_size": None,
            "max_position_embeddings": None,
            "num_heads": 8,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 1,
            "chunk_size": 32,
        },
        UNTUNED,
    ),
    "llama4": Family(
        "Llama4TextConfig", {**CHUNKED, "head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 64}
    ),
    "opt": Family(
        "OPTConfig",
        {
            "num_key_value_heads": None,
            "intermediate_size": None,
            "initializer_range": None,
            "init_std": DEVIATION,
            "ffn_dim": 128,
            "word_embed_proj_dim": 64,
            "dropout": 0.0,
        },
        UNTUNED,
    ),
    "bloom": Family(
        "BloomConfig",
        {
            "num_key_value_heads": None,
            "num_attention_heads": None,
            "num_hidden_layers": None,
            "intermediate_size": None,
            "max_position_embeddings": None,
            "n_head": 4,
            "n_layer": 2,
        },
        UNTUNED,
    ),
    "gemma3_vision": Family("Gemma3Config", GEMMA, GEMMA3),
    "own_bias": Family("own_bias"),
    "own_temperature": Family("own_temperature"),
    "own_shift": Family("own_shift"),
}


def write_family(name: str, directory: Path, **changes: Any) -> None:
    """Write the model directory of a family as prepare-base's source `local` takes it: 16-bit weights, tokenizer.

    `changes` are made to its configuration. A model of the families `own_*` can be loaded in this process alone.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    family = FAMILIES[name]
    dialect = family.dialect
    tokenizer = write_tokenizer(directory, dialect)
    ids = {
        "bos_token_id": tokenizer.token_to_id(dialect.bos or dialect.eos),
        "eos_token_id": tokenizer.token_to_id(dialect.eos),
        "pad_token_id": tokenizer.token_to_id(dialect.pad) if dialect.pad else None,
    }
    shape = {key: value for key, value in {**SHAPE, **family.shape, **changes}.items() if value is not None}
    config: PretrainedConfig
    if name == "gemma3_vision":
        config = with_eyes({**shape, **ids})
    elif name in ("own_bias", "own_temperature", "own_shift"):
        config = own_classes()[name](**shape, **ids)
    else:
        config = getattr(transformers, family.config)(**shape, **ids)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    fill_what_is_zero(model)
    stops = [tokenizer.token_to_id(token) for token in dialect.stops]
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    model.to(torch.bfloat16).save_pretrained(directory, max_shard_size=family.shard)
    if name == "gemma3_vision":
        write_json(directory / "preprocessor_config.json", {"image_processor_type": "Gemma3ImageProcessor"})
        write_json(directory / "processor_config.json", {"processor_class": "Gemma3Processor", "image_seq_length": 4})


def fill_what_is_zero(model: "PreTrainedModel") -> None:
    """Random values for biases and the like, which training moves and initialisation leaves at zero.

    Embeddings that a model scales are made smaller: tied to its head, they would make it repeat each token. What decays
    in a Mamba layer decays slowly, or it would remember nothing.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "sinks", "temperature")):
                parameter.normal_(0, DEVIATION)
            if name.endswith("A_log"):
                parameter.fill_(-2)
        head = model.get_output_embeddings()
        if head.bias is not None:
            head.bias.normal_()
        scale = getattr(model.get_input_embeddings(), "embed_scale", None)
        if scale is not None:
            model.get_input_embeddings().weight /= scale


def with_eyes(text: dict[str, Any]) -> "PretrainedConfig":
    """Gemma-3 as its larger models are: a language model and a vision tower in one."""
    from transformers import Gemma3Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return Gemma3Config(
        text_config={"model_type": "gemma3_text", **text},
        vision_config=vision.to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=3,
        eoi_token_index=4,
        image_token_index=5,
        initializer_range=DEVIATION,
        eos_token_id=text["eos_token_id"],
    )


def write_tokenizer(directory: Path, dialect: Dialect) -> Tokenizer:
    """tokenizer.json, its configuration and, where the dialect has one, chat_template.jinja."""
    tokenizer = Tokenizer.from_str(trained_tokenizer(tuple([*COMMON, *dialect.specials])))
    if dialect.bos:
        begin = (dialect.bos, tokenizer.token_to_id(dialect.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{dialect.bos} $A", pair=f"{dialect.bos} $A {dialect.bos} $B", special_tokens=[begin]
        )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"bos_token": dialect.bos, "eos_token": dialect.eos, "pad_token": dialect.pad}
    config = {key: token for key, token in named.items() if token}
    write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096, **config},
    )
    if dialect.template:
        (directory / "chat_template.jinja").write_text(dialect.template, encoding="utf-8")
    return tokenizer


@lru_cache
def trained_tokenizer(specials: tuple[str, ...]) -> str:
    """A byte-level BPE of VOCABULARY tokens, half of what it learned from Korean and half from English, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*answers()[:60], *chats()[:30]], trainer)
    return tokenizer.to_str()


@lru_cache
def own_classes() -> dict[str, Any]:
    """Configuration classes of models that no list can know, ready for AutoModelForCausalLM.

    own_bias         hands its attention function a bias of its own, which decays with distance, by a keyword
    own_temperature  computes its attention itself, at a temperature that each head has learned
    own_shift        adds to each token's value that of the token before it, whatever row that is in
    """
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, repeat_kv

    def attend(
        module: nn.Module,
        query: "Tensor",
        key: "Tensor",
        value: "Tensor",
        attention_mask: "Tensor | None",
        *,
        scaling: "float | Tensor",
        distance_bias: "Tensor | None" = None,
        **_: Any,
    ) -> "tuple[Tensor, Tensor]":
        groups = query.shape[1] // key.shape[1]
        scores = query @ repeat_kv(key, groups).transpose(2, 3) * scaling
        if distance_bias is not None:
            scores = scores + distance_bias
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        return (weights @ repeat_kv(value, groups)).transpose(1, 2), weights

    class OwnAttention(LlamaAttention):
        """Llama's, up to where the attention function would be called."""

        def forward(
            self,
            hidden_states: "Tensor",
            position_embeddings: Any = None,
            attention_mask: "Tensor | None" = None,
            past_key_values: Any = None,
            **named: Any,
        ) -> "tuple[Tensor, Tensor]":
            heads = (*hidden_states.shape[:-1], -1, self.head_dim)
            query, key, value = (
                layer(hidden_states).view(heads).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
            )
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
            if past_key_values is not None:
                key, value = past_key_values.update(key, value, self.layer_idx)
            attended, weights = self.attend(query, key, value, attention_mask, named)
            return self.o_proj(attended.reshape(*hidden_states.shape[:-1], -1)), weights

    class BiasedAttention(OwnAttention):
        def attend(self, query: Any, key: Any, value: Any, mask: Any, named: Any) -> Any:
            there = torch.arange(key.shape[2], device=key.device)
            distance = (there[-query.shape[2] :, None] - there).clamp(min=0)
            slopes = 2.0 ** -torch.arange(1, query.shape[1] + 1, device=key.device)
            bias = -(slopes[:, None, None] * distance).to(query.dtype)
            function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
            return function(self, query, key, value, mask, scaling=self.scaling, distance_bias=bias, **named)

    class TemperedAttention(OwnAttention):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.temperature = nn.Parameter(torch.zeros(self.config.num_attention_heads))

        def attend(self, query: Any, key: Any, value: Any, mask: Any, named: Any) -> Any:
            scaling = self.scaling * self.temperature.exp()[:, None, None]
            return attend(self, query, key, value, mask, scaling=scaling)

    class ShiftedAttention(OwnAttention):
        def attend(self, query: Any, key: Any, value: Any, mask: Any, named: Any) -> Any:
            value = value + nn.functional.pad(value, (0, 0, 1, 0))[:, :, :-1]
            function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
            return function(self, query, key, value, mask, scaling=self.scaling, **named)

    def register(name: str, attention: Any) -> Any:
        def __init__(self: Any, config: Any) -> None:
            LlamaForCausalLM.__init__(self, config)
            for layer in self.model.layers:
                layer.self_attn = attention(config, layer.self_attn.layer_idx)
            self.post_init()

        words = "".join(word.capitalize() for word in name.split("_"))
        config = type(f"{words}Config", (LlamaConfig,), {"model_type": name, "__module__": __name__})
        parts = {"config_class": config, "__init__": __init__, "__module__": __name__}
        stock = {"_supports_sdpa": False, "_supports_flash_attn": False, "_supports_flex_attn": False}
        model = type(f"{words}ForCausalLM", (LlamaForCausalLM,), {**parts, **({} if name == "own_shift" else stock)})
        for each in (config, model):
            setattr(sys.modules[__name__], each.__name__, each)
        AutoConfig.register(name, config)
        AutoModelForCausalLM.register(config, model)
        return config

    found = {"own_bias": BiasedAttention, "own_temperature": TemperedAttention, "own_shift": ShiftedAttention}
    return {name: register(name, attention) for name, attention in found.items()}


def supervised_rows(directory: Path) -> list[dict[str, list[int]]]:
    """Three rows of the model's tokens, shorter than WINDOW, twice and four times as long, answers supervised."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    text = tokenizer.encode("\n".join(chats()), add_special_tokens=False).ids
    stop = tokenizer.token_to_id("<|im_end|>")
    rows = []
    for length in (WINDOW // 2, 2 * WINDOW, 4 * WINDOW):
        ids, text = [*text[: length - 1], stop], text[length:]
        asked = length // 4
        rows.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:]})
    return rows
