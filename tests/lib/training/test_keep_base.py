"""Chats are held to the base: by the KL divergence to the model with its adapter off, and by nothing else."""

import csv
import json
from contextlib import nullcontext

import pytest
import torch
from conftest import tiny_training
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import stages.sft
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import IGNORED
from stages.lib.models.logits import logits_at
from stages.lib.schema.choices import Choice, Dtype, Quantization
from stages.lib.schema.training import KeepBase, Lora, Mix, Sft
from stages.lib.training import cuda_graphs, fast_path, keep_base, plan
from stages.lib.training.keep_base import hold_row, hold_to_base, kl_by_position, own_logits, scored
from stages.sft import OUT, sft
from tests.model_zoo import write_family

EXACT = {"quantization": Quantization.none, "dtype": Dtype.float32}


def section(weight=1.0, max_tokens=16, **changes):
    """With as many chats as questions, about, so that each batch holds some and learns some."""
    values = {"batch_size": 8, "mix": Mix(ultrachat=10, pdf_qa=1), "keep_base": KeepBase(weight, max_tokens)}
    return Sft(**tiny_training(**{**values, **changes}))


def log(place):
    with (place / "metrics/sft_log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kl(place):
    return [float(row["kl_to_base"]) for row in log(place)]


def metrics(place):
    return json.loads((place / "metrics/sft.json").read_text(encoding="utf-8"))


@pytest.fixture
def rows_seen(monkeypatch):
    """The rows that trainers were made on."""
    seen, plain = [], stages.sft.make_trainer

    def watched(tuning, plan, rows, folder):
        seen.append(rows)
        return plain(tuning, plan, rows, folder)

    monkeypatch.setattr(stages.sft, "make_trainer", watched)
    return seen


@pytest.mark.chain
@pytest.mark.parametrize(
    "changes",
    [
        EXACT,
        {"quantization": Quantization.nf4, "dtype": Dtype.bfloat16},
        {"quantization": Quantization.nf4, "dtype": Dtype.bfloat16, "dequantize_once": Choice.never},
        {"quantization": Quantization.int8},
        {**EXACT, "padding_free": Choice.never},
        {**EXACT, "gradient_checkpointing": Choice.always},
        {**EXACT, "lora": Lora(r=4, lora_alpha=8, lora_dropout=0.3)},
    ],
    ids=["float32", "nf4", "nf4 as stored", "int8", "padded", "checkpointing", "dropout"],
)
def test_it_is_exactly_0_at_the_start_and_grows(place, changes):
    sft(section(**changes, learning_rate=0.02), place)
    found = metrics(place)
    assert found["kl_to_base_start"] == kl(place)[0] == 0.0
    assert found["kl_to_base"] == kl(place)[-1] > 0.0
    assert found["held_tokens"] == 16 * found["held_rows"] > 0


@pytest.mark.chain
def test_weight_0_is_a_run_without_it(place, rows_seen, monkeypatch):
    """Today's bytes: nothing of it is built, and the rows of the trainer have no other columns."""
    for name in ("holding_trainer", "hold_batches", "hold_to_base", "refuse_wrong_teacher"):
        monkeypatch.setattr(stages.sft, name, None)
    for weight, most, name in ((0.0, 128, "a"), (0.0, 3, "b")):
        sft(section(weight, most), place / name)
    adapters = [(place / name / OUT / "adapter_model.safetensors").read_bytes() for name in "ab"]
    logs = [(place / name / "metrics/sft_log.csv").read_bytes() for name in "ab"]
    assert adapters[0] == adapters[1]
    assert logs[0] == logs[1]
    assert b"kl_to_base" not in logs[0]
    assert "kl_to_base" not in metrics(place / "a")
    assert not any("held" in row for row in rows_seen[0])


@pytest.mark.chain
def test_it_keeps_the_base_where_nothing_else_would(place):
    for weight in (0.001, 10.0):
        sft(section(weight, max_steps=12, learning_rate=0.02), place / str(weight))
    assert kl(place / "10.0")[-1] < 0.5 * kl(place / "0.001")[-1]


@pytest.mark.chain
def test_the_logged_figure_is_that_of_base_and_adapter_by_transformers_own_code(place, rows_seen):
    """What the last step saw is what the adapter of the steps before it and the base say, on the rows of its batch."""
    everything = {"mix": Mix(ultrachat=1, pdf_qa=1), "batch_size": 1000, "micro_batch_size": 2}
    sft(section(**EXACT, **everything, max_steps=2, learning_rate=0.02), place / "two")
    sft(section(**EXACT, **everything, max_steps=1, learning_rate=0.02), place / "one")
    base = AutoModelForCausalLM.from_pretrained("models/base", dtype=torch.float32)
    held = [row for row in rows_seen[0] if set(row["held"]) != {IGNORED}]
    base_said = torch.cat([held_log_probs(base, row) for row in held])
    tuned = PeftModel.from_pretrained(base, place / "one" / OUT)
    tuned_said = torch.cat([held_log_probs(tuned, row) for row in held])
    divergence = (base_said.exp() * (base_said - tuned_said)).sum(-1)
    assert len(divergence) == metrics(place / "two")["held_tokens"]
    assert kl(place / "two")[1] == pytest.approx(float(divergence.mean()), rel=1e-3)


@torch.no_grad()
def held_log_probs(model, row):
    """The distributions of the held tokens of a row, by itself: (n, vocabulary)."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    return logits[torch.tensor(row["held"][1:]) != IGNORED].log_softmax(-1)


@pytest.mark.chain
@pytest.mark.parametrize("padding_free", [Choice.auto, Choice.never])
def test_it_does_not_depend_on_the_micro_batch_nor_on_packing(place, padding_free):
    """The mean over the batch's held tokens, in passes of which some hold nothing and some learn nothing."""
    for micro in (8, 1):
        options = {**EXACT, "max_steps": 3, "padding_free": padding_free}
        sft(section(micro_batch_size=micro, **options), place / str(micro))
    one, eight = log(place / "1"), log(place / "8")
    for column in ("loss", "kl_to_base", "grad_norm"):
        assert [float(row[column]) for row in one] == pytest.approx([float(row[column]) for row in eight], rel=2e-3)
    assert kl(place / "1")[1] > 1e-4
    adapters = [load_file(place / name / OUT / "adapter_model.safetensors") for name in "18"]
    assert all((adapters[0][key] - adapters[1][key]).abs().max() < 1e-3 for key in adapters[0])


@pytest.mark.chain
def test_a_teacher_that_is_the_tuned_model_is_refused(place, monkeypatch):
    """Planted: what turns the adapter off does nothing. Then the KL is 0 all along, and nothing is held."""
    plain = fast_path.spare_the_host

    def spare_the_host(trainer):
        plain(trainer)
        trainer.model.disable_adapter = nullcontext

    monkeypatch.setattr(fast_path, "spare_the_host", spare_the_host)
    with pytest.raises(UserError, match=r"with a disturbed adapter the KL divergence to the base is 0 nats a token"):
        sft(section(**EXACT), place)
    assert not (place / OUT).exists()


@pytest.mark.chain
def test_a_teacher_that_is_another_model_is_refused(place, monkeypatch):
    plain = keep_base.kl_by_position
    monkeypatch.setattr(
        keep_base,
        "kl_by_position",
        lambda: lambda hidden, base, *projects: plain()(hidden, base * 1.01, *projects),
    )
    with pytest.raises(UserError, match=r"before the first step the KL divergence to the base is .*; needed 0"):
        sft(section(**EXACT), place)
    assert not (place / OUT).exists()


@pytest.mark.chain
def test_the_adapter_is_left_as_it_was_before_the_first_step(place, monkeypatch):
    """The disturbed pass is one of the gate alone."""
    without = place / "without"
    sft(section(**EXACT), place / "with")
    monkeypatch.setattr(stages.sft, "refuse_wrong_teacher", lambda *_: {})
    sft(section(**EXACT), without)
    adapters = [(root / OUT / "adapter_model.safetensors").read_bytes() for root in (place / "with", without)]
    assert adapters[0] == adapters[1]


@pytest.mark.chain
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_recorded_passes_hold_as_others_do(place, monkeypatch):
    """Recording needs a GPU; which record the base's pass and the tuned model's get does not."""
    sft(section(**EXACT), place / "plain")
    recorded = []

    def record(module, tensors, pool):
        recorded.append(torch.is_grad_enabled())
        return module

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(cuda_graphs, "record_with_gradients", record)
    monkeypatch.setattr(cuda_graphs, "record_without", record)
    monkeypatch.setattr(plan, "decide_graphs", lambda *_: (True, "planted"))
    sft(section(**EXACT), place / "recorded")
    assert {True, False} <= set(recorded)
    for column in ("loss", "kl_to_base"):
        plain, found = ([float(row[column]) for row in log(place / name)] for name in ("plain", "recorded"))
        assert found == pytest.approx(plain, abs=1e-5)


def test_a_held_row_ends_where_nothing_counts_any_more():
    row = {"id": "a", "source": "ultrachat", "input_ids": [1, 2, 3, 4, 5, 6], "labels": [-100, -100, 3, 4, -100, 6]}
    assert hold_row(row, 2) == {
        **row,
        "input_ids": [1, 2, 3, 4],
        "labels": [-100] * 4,
        "held": [-100, -100, 3, 4],
    }
    assert hold_row(row, 128)["held"] == row["labels"]
    other = {**row, "source": "pdf_qa"}
    (held, learned) = hold_to_base([row, other], "ultrachat", KeepBase(1.0, 2))
    assert learned == {**other, "held": [-100] * 6}
    assert scored(held)["labels"] == [-100, -100, 3, 4]
    assert scored(learned)["labels"] == scored(other)["labels"] == row["labels"]


@pytest.mark.parametrize("source", ["ultrachat", "pdf_qa"])
def test_nothing_to_hold_or_nothing_to_learn_is_refused(source):
    rows = [{"id": "a", "source": source, "input_ids": [1, 2], "labels": [-100, 2]}]
    with pytest.raises(UserError, match=r"sft.keep_base.weight: found 1, and [01] of 1 rows are chats to hold"):
        hold_to_base(rows, "ultrachat", KeepBase(1.0))


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "phi"])
def test_the_divergence_and_its_gradient_are_those_of_whole_logits(tmp_path, monkeypatch, name):
    """Scales, caps and biases of a head included; in chunks, the last of them a part."""
    monkeypatch.setattr(keep_base, "HELD_ROWS", 4)
    write_family(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).requires_grad_(requires_grad=False)
    torch.manual_seed(0)
    base, tuned = torch.randn(2, 11, model.config.hidden_size)
    tuned.requires_grad_()
    project = own_logits(model)
    divergence = kl_by_position()(tuned, base, project, project)
    base_log, tuned_log = project(base).log_softmax(-1), project(tuned).log_softmax(-1)
    wanted = torch.nn.functional.kl_div(tuned_log, base_log, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence, wanted)
    weights = torch.arange(11.0)
    found = torch.autograd.grad((weights * divergence).sum(), tuned)[0]
    torch.testing.assert_close(found, torch.autograd.grad((weights * wanted).sum(), tuned)[0])
    assert (kl_by_position()(base.requires_grad_(), base.detach(), project, project) == 0).all()


def test_a_wider_base_has_its_own_projection():
    torch.manual_seed(0)
    tuned, base = torch.randn(300, 4, requires_grad=True), torch.randn(300, 7)
    head, head_of_base = torch.nn.Linear(4, 50), torch.nn.Linear(7, 50)
    found = kl_by_position()(tuned, base, head, head_of_base)
    logs = head(tuned).log_softmax(-1), head_of_base(base).log_softmax(-1).detach()
    wanted = torch.nn.functional.kl_div(*logs, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(each.sum(), tuned)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_logits_without_the_decoder_are_the_models_own(tmp_path, name):
    write_family(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        states = model.base_model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(own_logits(model)(states), model(input_ids=ids).logits[0])
        said = torch.ones_like(ids, dtype=torch.bool)
        torch.testing.assert_close(logits_at(model, said, input_ids=ids), model(input_ids=ids).logits[0])
