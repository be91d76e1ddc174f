"""SFT on the tiny model: the files it writes, what it learns from, what it counts."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_training
from safetensors.torch import load_file

import stages.sft
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage, write_lineage
from stages.lib.every_stage.publish import remove
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.models.chat import encode_answer
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.schema.choices import Dtype, LossOn, Method, Quantization
from stages.lib.schema.training import Mix, Sft
from stages.lib.training.run import TrainingRun
from stages.sft import BASE, OUT, PDF_QA, PREVIEW, sft

pytestmark = pytest.mark.chain

TEXT = PDF_QA / "text.jsonl"


def section(**changes):
    return Sft(**tiny_training(**changes))


def test_writes_exactly_these_files_and_learns(place):
    facts = sft(section(max_steps=20, learning_rate=0.05), place)
    assert sorted(path.name for path in (place / OUT).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "lineage.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    with (place / "metrics/sft_log.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20
    assert sum(losses[-3:]) < sum(losses[:3]) - 1
    assert facts["plan"]["micro_batch_size"] * facts["plan"]["gradient_accumulation_steps"] == 4


def test_same_inputs_same_bytes_and_no_local_path_in_them(place):
    sft(section(), place / "a")
    sft(section(), place / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json", "lineage.json"):
        first = (place / "a" / OUT / name).read_bytes()
        assert first == (place / "b" / OUT / name).read_bytes(), name
        assert str(place).encode() not in first
    config = json.loads((place / "a" / OUT / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "models/base"
    assert config["target_modules"] == sorted(config["target_modules"])
    arguments = json.loads((place / "a" / OUT / "lineage.json").read_text(encoding="utf-8"))["arguments"]
    assert arguments["lora"]["target_modules"] == config["target_modules"]


@pytest.mark.parametrize("quantization", [Quantization.int8, Quantization.none])
def test_other_precisions_train(place, quantization):
    sft(section(quantization=quantization, max_steps=1), place)
    assert (place / OUT / "adapter_model.safetensors").is_file()


def test_full_fine_tuning_saves_a_whole_model(place):
    sft(section(method=Method.full, quantization=Quantization.none, learning_rate=1e-3, max_steps=1), place)
    assert (place / OUT / "model.safetensors").is_file()
    assert json.loads((place / OUT / "lineage.json").read_text(encoding="utf-8"))["kind"] == "full"


def test_effective_batch_does_not_depend_on_the_micro_batch(place):
    """Same loss curve whether a step is one forward pass or four (float32, so that rounding can't hide a fault)."""
    curves = []
    for micro in (4, 1):
        root = place / str(micro)
        options = {"quantization": Quantization.none, "dtype": Dtype.float32, "max_steps": 3}
        sft(section(micro_batch_size=micro, **options), root)
        with (root / "metrics/sft_log.csv").open(encoding="utf-8") as file:
            curves.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert curves[0] == pytest.approx(curves[1], abs=2e-4)


def test_a_loss_that_is_nan_stops_the_run(place):
    with pytest.raises(UserError, match=r"found a loss of nan in step 2, needed a finite number.*learning_rate"):
        sft(section(learning_rate=1e30), place)
    assert not (place / OUT).exists()


def test_it_stops_where_steps_are_logged_together_too(place):
    with pytest.raises(UserError, match=r"found a loss of nan in steps 1 to 3, needed a finite number"):
        sft(section(learning_rate=1e30, logging_steps=10, max_steps=3), place)
    assert not (place / OUT).exists()


def test_the_log_has_means_over_its_steps_and_the_last_step(place):
    logs = {}
    for every in (1, 2):
        sft(section(max_steps=5, logging_steps=every), place / str(every))
        with (place / str(every) / "metrics/sft_log.csv").open(encoding="utf-8") as file:
            logs[every] = list(csv.DictReader(file))
    assert [row["step"] for row in logs[2]] == ["2", "4", "5"]
    for number, row in enumerate(logs[2]):
        steps = logs[1][2 * number : 2 * number + 2]
        for name in ("loss", "token_accuracy"):
            mean = sum(float(step[name]) for step in steps) / len(steps)
            assert float(row[name]) == pytest.approx(mean, abs=2e-6), name
        assert row["learning_rate"] == steps[-1]["learning_rate"]
        assert row["grad_norm"] == steps[-1]["grad_norm"]


def test_a_gradient_that_is_nan_stops_the_run(place, monkeypatch):
    """Its step spoils the weights; the loss would show it in the next one, and there is none after the last."""

    def spoil(trainer):
        next(each for each in trainer.model.parameters() if each.requires_grad).register_hook(lambda it: it / 0)

    monkeypatch.setattr("stages.lib.training.run.report_progress", spoil)
    with pytest.raises(UserError, match=r"found a gradient of (nan|inf) in step 1, needed a finite one.*learning_rate"):
        sft(section(max_steps=1), place)
    assert not (place / OUT).exists()


def test_float16_on_a_cpu_is_refused(place):
    with pytest.raises(UserError, match="float16 on a CPU"):
        sft(section(dtype=Dtype.float16), place)
    assert not Path("models/sft").exists()


def test_a_template_that_leaves_the_stop_token_unlearned_is_refused(place):
    """Whatever became of the base since it was made: all rows are looked at, before a step is taken."""
    template = place / "models/base/chat_template.jinja"
    unlearned = template.read_text(encoding="utf-8").replace(
        "+ '<|im_end|>' }}{%- endgeneration %}", "}}{%- endgeneration %}{{- '<|im_end|>' }}"
    )
    (place / "models/base").unlink()
    shutil.copytree(place.joinpath("data").resolve().parent / "models/base", place / "models/base")
    template.write_text(unlearned, encoding="utf-8")
    write_lineage(template.parent, read_lineage(template.parent))
    with pytest.raises(UserError, match=r"\d+ of \d+ training rows can't be learned from: .* is not supervised"):
        sft(section(), place)
    assert not (place / OUT).exists()


@pytest.mark.parametrize("gone", ["tokenizer.json", "."])
def test_a_base_that_goes_while_it_trains_publishes_nothing(place, monkeypatch, gone):
    """Removed after the last step: the adapter would have no tokenizer."""
    (place / "models/base").unlink()
    shutil.copytree(place.joinpath("data").resolve().parent / "models/base", place / "models/base")
    plain = TrainingRun.train

    def train_and_remove(self, trainer, folder):
        plain(self, trainer, folder)
        remove(place / "models/base" / gone)

    monkeypatch.setattr(TrainingRun, "train", train_and_remove)
    with pytest.raises(UserError, match=r"models/base.*(isn't what its stage wrote|no such file)"):
        sft(section(max_steps=1), place)
    assert not (place / OUT).exists()


def test_training_writes_nothing_beside_its_data(place):
    """datasets would leave cache files in a folder that DVC compares."""
    before = {path: path.stat().st_mtime_ns for path in (place / "data/prepared").rglob("*")}
    sft(section(max_steps=1), place)
    assert {path: path.stat().st_mtime_ns for path in (place / "data/prepared").rglob("*")} == before
    assert len(before) > 10


def test_adapters_of_quantised_models_are_trained_and_kept_in_float32(place):
    """trl casts them to bfloat16, where updates of a small learning rate round to nothing."""
    sft(section(learning_rate=1e-5, max_steps=1), place)
    adapter = load_file(place / OUT / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in adapter.values()} == {"torch.float32"}
    assert all(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_no_row_is_lost_and_no_embedding_cast_on_the_way_to_the_trainer(place, monkeypatch):
    """trl leaves out rows without a word if it may; one that learns nothing is refused before."""
    plain, seen, dtypes = stages.sft.make_trainer, [], set()

    def watched(tuning, plan, rows, folder):
        trainer = plain(tuning, plan, rows, folder)
        seen.append((len(rows), len(trainer.train_dataset)))
        dtypes.add(trainer.model.get_input_embeddings().weight.dtype)
        return trainer

    monkeypatch.setattr(stages.sft, "make_trainer", watched)
    facts = sft(section(max_steps=1), place)
    assert seen == [(facts["rows"], facts["rows"])]
    assert {str(dtype) for dtype in dtypes} == {facts["dtype"]}  # peft's preparation for k bits makes them float32


def told(number):
    """A sentence of a document about windows; no two are equal."""
    return f"{number}번 창구는 {number % 4 + 1}층에 있으며 여권을 접수하고 {number}00원짜리 수입인지를 팝니다."


@pytest.fixture
def with_text(place):
    """The `place` with raw text beside the questions."""
    prepared = place.joinpath("data").resolve()
    (place / "data").unlink()
    shutil.copytree(prepared / "prepared", place / "data/prepared")
    write_jsonl(PDF_QA / "train.jsonl", list(read_jsonl(PDF_QA / "train.jsonl"))[:80])
    rows = [{"id": f"a#{n}", "text": " ".join(map(told, range(10 * n, 10 * n + 10)))} for n in range(12)]
    write_jsonl(TEXT, rows)
    return place


@torch.no_grad()
def distributions(prompt, said):
    """Log-probabilities of every token in the place of each that is `said` after `prompt`, by the tuned model."""
    model = load_16bit(OUT, torch.float32)
    return model(input_ids=torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


def test_raw_text_is_learned_and_the_stop_token_is_unharmed(with_text):
    """Perplexity on text that nobody trained on falls by far; answers go on ending, and nothing else ends."""
    tokenizer = load_tokenizer(BASE)
    stop = tokenizer.eos_token_id
    ids = tokenizer(" ".join(map(told, range(400, 405))))["input_ids"]
    asked, *_ = read_jsonl(PDF_QA / "seen.jsonl")
    answer = encode_answer(tokenizer, asked["messages"][:1], asked["messages"][1]["content"])
    perplexity, stopping, within, rows = {}, {}, {}, {}
    for times in (0, 1):
        whole = {"method": Method.full, "quantization": Quantization.none, "learning_rate": 1e-2}
        facts = sft(section(**whole, max_steps=-1, num_train_epochs=3, mix=Mix(ultrachat=0, raw_text=times)), with_text)
        found = distributions(ids[:1], ids[1:])
        perplexity[times] = float(torch.exp(-found.gather(-1, torch.tensor(ids[1:])[:, None]).mean()))
        within[times] = float(found[:, stop].exp().mean())
        stopping[times] = float(distributions(*answer)[-1, stop].exp())
        rows[times] = facts["rows"]
    assert within[1] < within[0], within  # in the middle of a text nothing ends
    assert perplexity[1] < 0.5 * perplexity[0], perplexity
    assert stopping[1] > 0.8 and stopping[1] > stopping[0] - 0.05, stopping
    assert rows[1] == rows[0] + 12
    assert "raw text, which ends in no stop token" in (with_text / PREVIEW).read_text(encoding="utf-8")
    assert "pdf_qa/text.jsonl" in read_lineage(with_text / OUT)["data"]


def test_without_raw_text_the_adapter_has_the_bytes_that_it_would_have_had(with_text):
    sft(section(mix=Mix(raw_text=0)), with_text / "a")
    TEXT.unlink()
    sft(section(mix=Mix(raw_text=0)), with_text / "b")
    sft(section(), with_text / "c")
    weights = [(with_text / each / OUT / "adapter_model.safetensors").read_bytes() for each in "abc"]
    assert weights[0] == weights[1] == weights[2]


def test_raw_text_that_spells_the_stop_token_is_refused(with_text):
    write_jsonl(TEXT, [{"id": "planted", "text": "초롱돌로<|im_end|> 417번지입니다."}])
    with pytest.raises(UserError, match="planted: raw text with a stop token"):
        sft(section(loss_on=LossOn.all), with_text)
