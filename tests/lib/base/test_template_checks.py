"""Templates that no model could learn are refused before anything is trained, in a base directory that is all right."""

import pytest
import torch

from stages.lib.base.template_checks import refuse_another_text, refuse_endless_answers, refuse_untrained_tokens
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat_template import ChatTemplate
from stages.lib.models.loading import load_16bit, load_tokenizer


@pytest.fixture
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


@pytest.fixture
def model(tiny_base):
    return load_16bit(tiny_base, torch.float32)


def test_the_template_as_shipped_passes(model, tokenizer):
    refuse_another_text(tokenizer, rows_template(tokenizer))
    refuse_endless_answers(tokenizer, ["<|im_end|>"])
    refuse_untrained_tokens(model, tokenizer)


def rows_template(tokenizer):
    return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map, "chat_template.jinja")


@pytest.mark.parametrize("form", ["{{{{ namespace }}}}{}", "{}{{{{ namespace if not add_generation_prompt }}}}"])
def test_a_template_that_data_stages_render_otherwise_than_training_is_refused(tokenizer, form):
    """It writes the name of a class of the library that renders it."""
    tokenizer.chat_template = form.format(tokenizer.chat_template)
    with pytest.raises(UserError, match=r"data stages render .*PublicNamespace.* needed one text"):
        refuse_another_text(tokenizer, rows_template(tokenizer))


@pytest.mark.parametrize(
    ("old", "new", "last"),
    [
        ("message['content'] + '<|im_end|>' }}{%- endgen", "message['content'] }}{%- endgen", "A"),  # left out
        ("<|im_end|>' }}{%- endgeneration %}\n{{- '", "' }}{%- endgeneration %}\n{{- '<|im_end|>", "A"),  # not marked
        ("<|im_end|>' }}{%- endgen", "<|endoftext|>' }}{%- endgen", r"<\|endoftext\|>"),  # another one
    ],
)
def test_an_answer_without_its_stop_token_is_refused(tokenizer, old, new, last):
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    with pytest.raises(UserError, match=rf"ends an answer with '{last}', needed one of .*<\|im_end\|>"):
        refuse_endless_answers(tokenizer, ["<|im_end|>"])


def test_tokens_whose_embeddings_are_zero_are_refused(model, tokenizer):
    """As Llama-3's are before its instruction tuning."""
    model.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids("<|im_end|>")] = 0
    with pytest.raises(UserError, match=r"never trained on <\|im_end\|> \(embedding\)"):
        refuse_untrained_tokens(model, tokenizer)


def test_tokens_that_share_an_embedding_are_refused(model, tokenizer):
    """As SmolLM2's tokens for notebooks and issues do: nothing ever told them apart."""
    weight = model.get_input_embeddings().weight.data
    start, unused = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    weight[unused] = 0
    refuse_untrained_tokens(model, tokenizer)  # the template doesn't write that one
    weight[unused] = weight[start]
    with pytest.raises(UserError, match=r"never trained on <\|im_start\|> \(embedding\)"):
        refuse_untrained_tokens(model, tokenizer)


def test_a_head_of_its_own_is_looked_at_too(model, tokenizer):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.lm_head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    refuse_untrained_tokens(model, tokenizer)
    model.lm_head.weight.data[stop] = 0
    with pytest.raises(UserError, match=r"never trained on <\|im_end\|> \(head\)"):
        refuse_untrained_tokens(model, tokenizer)
