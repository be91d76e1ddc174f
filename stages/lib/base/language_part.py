"""The language model within a model that reads images or sound too: all that text needs, as a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def language_part(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """`model` itself where it is a language model; else the one that it holds, in transformers' class for it.

    Both must give equal logits at a short text. Raises UserError where they don't, or transformers has no class for
    the text alone.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    text_config = model.config.get_text_config()
    if type(model.config) is type(text_config):
        return model
    kind = type(model).__name__
    refused = (
        f"{name}: {kind} reads more than text; needed a language model alone, such as the text-only one of its family"
    )
    if type(text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{refused}: transformers has no class for its text part ({text_config.model_type})")
    head = model.get_output_embeddings()
    text_config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight  # which the whole decides
    with torch.device("meta"):
        part: Any = AutoModelForCausalLM.from_config(text_config, dtype=model.dtype, trust_remote_code=False)
    inner = [module for module in model.modules() if type(module) is type(part.base_model)]
    if len(inner) != 1:
        raise UserError(f"{refused}: found {len(inner)} parts of class {type(part.base_model).__name__} in it")
    setattr(part, part.base_model_prefix, inner[0])
    part.set_output_embeddings(head)
    part.generation_config = model.generation_config
    part.eval()
    rows = torch.tensor([tokenizer("Could you? Certainly.", add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        whole, alone = (each(input_ids=rows, use_cache=False).logits for each in (model, part))
    if not torch.equal(whole, alone):
        raise UserError(f"{refused}: its text part alone doesn't say the same")
    print(
        f"prepare-base: {kind} reads more than text: its language model is taken out, as {type(part).__name__}",
        flush=True,
    )
    return part
