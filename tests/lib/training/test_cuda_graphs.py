"""What of recorded passes shows without a GPU: filled-up rows teach the same. bench/training.py shows the rest."""

import torch
from transformers import AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from stages.lib.training.cuda_graphs import BUCKET, fill_up
from stages.lib.training.fast_path import row_by_row_attention


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
