"""What of recorded passes shows without a GPU: filled-up rows teach the same. bench/training.py shows the rest."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from stages.lib.training import cuda_graphs
from stages.lib.training.attention import row_by_row_attention
from stages.lib.training.cuda_graphs import BUCKET, MOST_SHAPES, fill_up, replay_decoder


def test_rows_filled_up_to_few_shapes_have_the_same_loss(tiny_base):
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    AttentionInterface.register("row_by_row", row_by_row_attention)
    AttentionMaskInterface.register("row_by_row", lambda *_, **__: None)
    model.set_attn_implementation("row_by_row")
    rows = [{"input_ids": list(range(3, 3 + length)), "labels": [-100, *range(4, 3 + length)]} for length in (7, 30)]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    filled = fill_up(batch)
    assert filled["input_ids"].shape == filled["labels"].shape == filled["position_ids"].shape == (1, BUCKET)
    assert filled["cu_seq_lens_q"].tolist() == [0, 7, 37, BUCKET]
    assert filled["cu_seq_lens_q"].dtype == batch["cu_seq_lens_q"].dtype

    def loss(batch):
        keys = ("input_ids", "position_ids", "cu_seq_lens_q")
        logits = model(**{key: batch[key] for key in keys}).logits
        return torch.nn.functional.cross_entropy(logits[0, :-1], batch["labels"][0, 1:])

    torch.testing.assert_close(loss(filled), loss(batch))


def test_rows_that_fill_a_bucket_get_an_empty_last_one():
    rows = [{"input_ids": [5] * BUCKET}]
    filled = fill_up(DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows))
    assert filled["cu_seq_lens_q"].tolist() == [0, BUCKET, BUCKET]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_each_kind_of_pass_and_each_shape_has_a_record_up_to_the_most(tiny_base, monkeypatch):
    """Recording needs a GPU; which record a pass gets does not. Here a record is the module itself."""
    made = []

    def record(module, tensors, pool):
        made.append((torch.is_grad_enabled(), tensors[0].shape[1], pool))
        return module

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(cuda_graphs, "record_with_gradients", record)
    monkeypatch.setattr(cuda_graphs, "record_without", record)
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))

    def passes(length):
        ids = torch.arange(3, 3 + length)[None]
        policy = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        with torch.no_grad(), model.disable_adapter():
            reference = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return policy, reference

    lengths = [7, 8, 7, *range(9, 9 + MOST_SHAPES)]
    expected = [passes(length) for length in lengths]
    replay_decoder(model, plain.get_decoder(), torch.bfloat16)
    found = [passes(length) for length in lengths]
    for (policy, reference), (own_policy, own_reference) in zip(expected, found, strict=True):
        torch.testing.assert_close(own_policy, policy)
        torch.testing.assert_close(own_reference, reference)
    assert [entry[:2] for entry in made[:4]] == [(True, 7), (False, 7), (True, 8), (False, 8)]
    assert len(made) == MOST_SHAPES
    assert {entry[2] for entry in made if entry[0]}.isdisjoint({entry[2] for entry in made if not entry[0]})
