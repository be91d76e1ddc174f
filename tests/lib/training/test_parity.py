"""What is trained is the model's own arithmetic, token by token, or the plan falls back and says why."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_training
from transformers import AutoModelForCausalLM, LlamaModel

from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import Hardware
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.choices import Choice, Quantization
from stages.lib.schema.training import Sft
from stages.lib.training import attention, head
from stages.lib.training.decisions import Attention, Head
from stages.lib.training.parity import answered_rows, own_pass, path_difference, probe_rows, rule_out, thinned
from stages.lib.training.plan import make_plan
from stages.lib.training.run import TrainingRun
from tests.model_zoo import supervised_rows, write_family

CPU = Hardware("cpu", 2**36, 2**36, bfloat16=True)


def plan_for(directory, rows, sequences=1, all_logits=False, **changes):
    """The plan that a training stage would make, fallbacks included, and what it ruled out."""
    section = Sft(**tiny_training(quantization=Quantization.none, **changes))
    tokenizer = load_tokenizer(directory)
    tuning = TrainingRun(
        "sft", section, directory, CPU, 1, torch.float32, {}, tokenizer, load_16bit(directory, torch.float32), {}
    )
    return tuning.plan([len(row["input_ids"]) for row in rows], rows, sequences=sequences, all_logits=all_logits)


@pytest.fixture
def family(tmp_path):
    def write(name):
        write_family(name, tmp_path / name)
        tokenizer = load_tokenizer(tmp_path / name)
        tokenizer.pad_token = "<|endoftext|>"
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name, supervised_rows(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["gemma3", "mistral", "gemma2", "phi"])
def test_windows_caps_and_a_biased_head_are_fast_and_right(family, name):
    plan = plan_for(*family(name))
    assert (plan.attention, plan.head, plan.padding_free) == (Attention.row_by_row, Head.supervised, True)
    assert plan.parity < 1e-4
    assert plan.parity_tokens > 300


@pytest.mark.parametrize(
    ("name", "attention", "why"),
    [
        ("lfm2", Attention.row_by_row, "can't keep packed sequences apart"),  # short convolutions see the row before
        ("stablelm", Attention.row_by_row, "log-probabilities differ by up to"),  # its layers don't say where rows end
        ("gpt_oss", Attention.model, "not row_by_row: log-probabilities differ"),  # attention sinks
        ("own_temperature", Attention.model, "not row_by_row: log-probabilities differ"),  # a class that no list knows
    ],
)
def test_what_the_fast_path_does_not_do_is_left_to_the_model(family, name, attention, why):
    plan = plan_for(*family(name))
    assert (plan.attention, plan.padding_free) == (attention, False)
    assert why in plan.block("sft")
    assert plan.parity < 1e-4


def test_pairs_and_all_logits_are_asked_too(family):
    directory, rows = family("own_bias")
    for options in ({"sequences": 2}, {"sequences": 2, "all_logits": True}):
        plan = plan_for(directory, rows, **options)
        assert plan.attention is Attention.model
        assert plan.parity < 1e-4


def test_packed_rows_that_are_asked_for_and_can_not_be_are_refused(family):
    with pytest.raises(UserError, match=r"sft.padding_free: found always, but this model doesn't keep packed rows"):
        plan_for(*family("lfm2"), padding_free=Choice.always)


def test_a_window_that_is_forgotten_is_found_on_rows_longer_than_it(family, monkeypatch):
    directory, rows = family("mistral")
    plain = attention.hidden_up_to
    monkeypatch.setattr(attention, "hidden_up_to", lambda length, window, dtype: plain(length, None, dtype))
    plan = plan_for(directory, rows)
    assert plan.attention is Attention.model
    short = [{name: ids[:60] for name, ids in row.items()} for row in rows]
    assert plan_for(directory, short).attention is Attention.row_by_row  # there it changes nothing


def test_a_bias_that_is_forgotten_leaves_the_head_to_trl(family, monkeypatch):
    directory, rows = family("phi")
    score = head.score_labels()
    unbiased = lambda hidden, weight, bias, labels: score(hidden, weight, None, labels)  # noqa: E731
    monkeypatch.setattr(head, "score_labels", lambda: unbiased)
    plan = plan_for(directory, rows)
    assert plan.head is Head.fused
    assert "not supervised: log-probabilities differ" in plan.block("sft")


def test_where_even_the_own_path_differs_from_itself_nothing_is_trained(family, monkeypatch):
    directory, rows = family("llama")
    plain = LlamaModel.forward

    def forward(self, input_ids, **kwargs):
        output = plain(self, input_ids, **kwargs)
        output.last_hidden_state = output.last_hidden_state * (1 + 0.1 * (len(input_ids) > 1))
        return output

    monkeypatch.setattr(LlamaModel, "forward", forward)
    with pytest.raises(UserError, match="rows padded in a batch don't give what each gives by itself"):
        plan_for(directory, rows, sequences=2)


def test_a_prepared_model_that_says_something_else_is_beyond_what_rounding_makes(family):
    directory, rows = family("llama")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    wanted = own_pass(model, rows, 0, torch.bfloat16)
    plan = replace(make_plan("sft", Sft(**tiny_training()), model, [256], CPU), padding_free=False)
    assert wanted.difference(model, plan).accepted()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    found = wanted.difference(model, plan)
    assert not found.accepted()
    assert "log-probabilities differ by up to" in str(found)


def test_what_is_ruled_out_is_the_piece_at_fault(family):
    directory, rows = family("own_temperature")
    plan = make_plan("dpo", Sft(**tiny_training()), load_16bit(directory, torch.float32), [256], CPU, sequences=2)
    found = path_difference(plan, directory, rows, 0, torch.float32, frozen=True)
    assert not found.accepted()
    assert list(rule_out(plan, found, directory, rows, 0, torch.float32)) == ["attention"]


def test_a_long_answer_is_asked_at_some_tokens_its_last_among_them():
    row = {"input_ids": list(range(5000)), "labels": [-100] * 100 + list(range(100, 5000))}
    labels = thinned(row)["labels"]
    assert sum(label != -100 for label in labels[32:]) <= 512
    assert labels[-1] == 4999
    assert labels[1:32] == list(range(1, 32))


def test_pairs_become_rows_in_trls_order():
    pairs = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}]
    assert answered_rows(pairs) == [
        {"input_ids": [1, 2, 3], "labels": [-100, -100, 3]},
        {"input_ids": [1, 2, 4, 5], "labels": [-100, -100, 4, 5]},
    ]


def test_where_there_are_conversations_and_raw_text_both_are_probed():
    lengths = (4, 9, 6, 5, 7, 8)
    rows = [{"input_ids": list(range(length)), "labels": list(range(length))} for length in lengths]
    assert [len(row["input_ids"]) for row in probe_rows(rows)] == [4, 9, 7]
    rows[3]["raw"] = rows[0]["raw"] = True
    assert [len(row["input_ids"]) for row in probe_rows(rows)] == [4, 9, 7, 5]
