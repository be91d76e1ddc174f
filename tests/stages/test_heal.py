"""heal: off it is nothing; on a pruned model learns from the whole one, and from no other."""

import csv
import json

import pytest
import torch
from conftest import Project, tiny_training

import stages.heal
from stages.heal import LOG, METRICS, OUT, heal
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage, weights_sha256
from stages.lib.schema.choices import Dtype, HealLoss, Quantization
from stages.lib.schema.pruning import Prune
from stages.lib.schema.training import Heal
from stages.prune import OUT as PRUNED
from stages.prune import SFT, prune
from tests.stages.test_prune import llama, write_whole

EXACT = {"quantization": Quantization.none, "dtype": Dtype.float32}


def section(**changes):
    return Heal(**tiny_training(**{"enabled": True, "max_steps": 6, **EXACT, **changes}))


def losses(place):
    with (place / LOG).open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def metrics(place):
    return json.loads((place / METRICS).read_text(encoding="utf-8"))


@pytest.fixture
def whole(place):
    write_whole(place, llama())
    return place


@pytest.fixture
def pruned(whole):
    prune(Prune(enabled=True, layers=1, rows=4), whole)
    return whole


def test_off_says_so_and_nothing_else(place):
    heal(Heal(**tiny_training()), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert (place / LOG).read_text(encoding="utf-8").startswith("step,loss")


def test_on_without_a_pruned_model_is_refused(whole):
    prune(Prune(), whole)
    with pytest.raises(UserError, match=r"heal.enabled: found true.*Set prune.enabled=true"):
        heal(section(), whole)


@pytest.mark.chain
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("changes", [EXACT, {"quantization": Quantization.none, "dtype": Dtype.bfloat16}])
def test_its_loss_is_exactly_0_where_teacher_and_student_are_one_model(whole, temperature, changes):
    prune(Prune(enabled=True, layers=0, rows=2), whole)
    heal(section(temperature=temperature, max_steps=1, **changes), whole)
    assert metrics(whole)["loss_start"] == metrics(whole)["kd_start"] == losses(whole)[0] == 0.0


@pytest.mark.chain
@pytest.mark.parametrize("loss", list(HealLoss))
def test_healing_improves_the_loss(pruned, loss):

    heal(section(loss=loss, max_steps=60, batch_size=16, learning_rate=0.01), pruned)
    found = losses(pruned)
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    lineage = read_lineage(pruned / OUT)
    assert lineage["base_weights_sha256"] == weights_sha256(pruned / PRUNED)
    assert lineage.get("teacher_weights_sha256") == (weights_sha256(pruned / SFT) if loss is HealLoss.kd else None)


@pytest.mark.chain
@pytest.mark.parametrize("quantization", [Quantization.nf4, Quantization.int8])
def test_a_quantised_student_learns_from_the_teachers_16_bits(pruned, quantization):
    heal(section(quantization=quantization), pruned)
    assert metrics(pruned)["kd_start"] > 0
    assert (pruned / OUT / "adapter_model.safetensors").is_file()


@pytest.mark.chain
def test_it_does_not_depend_on_the_micro_batch(pruned):
    for micro in (4, 1):
        heal(section(micro_batch_size=micro, max_steps=3), pruned / str(micro))
    assert losses(pruned / "1") == pytest.approx(losses(pruned / "4"), rel=2e-3)


@pytest.mark.chain
def test_a_teacher_that_is_another_model_than_the_whole_one_is_refused(pruned, monkeypatch):
    """Planted: the student itself, or a model of other weights, is loaded in the teacher's place."""
    plain = stages.heal.load_16bit
    monkeypatch.setattr(stages.heal, "load_16bit", lambda directory, dtype: plain(PRUNED, dtype))
    with pytest.raises(UserError, match=r"the loss is 0; needed .* the divergence from what models/sft-merged says"):
        heal(section(), pruned)
    monkeypatch.setattr(stages.heal, "load_16bit", lambda directory, dtype: plain("models/base", dtype))
    with pytest.raises(UserError, match="what is learned from isn't that model"):
        heal(section(), pruned)
    assert not (pruned / OUT).exists()


def test_an_unpruned_model_that_changed_is_refused(pruned):
    torch.manual_seed(1)
    model = llama()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    write_whole(pruned, model)
    with pytest.raises(UserError, match="models/pruned was made of weights .* is no teacher of this model"):
        heal(section(), pruned)


@pytest.mark.slow
def test_one_key_adds_both_models_to_the_whole_chain(tiny_model, tmp_path):
    """By `dvc repro`: pruned, healed, merged, scored beside the others and shown."""
    project = Project(tmp_path / "project", tiny_model)
    asked = "prune: {enabled: true, layers: 1, rows: 4}\nheal: {max_steps: 2, max_length: 1024}\nevaluate:"
    project.write("params.yaml", "evaluate:", asked)
    assert {"prune", "heal", "merge-heal", "evaluate"} <= set(project.repro())

    def read(file):
        return json.loads((project.directory / "metrics" / file).read_text(encoding="utf-8"))

    detail = read("eval_detail.json")
    assert set(detail["models"]) == {"base", "sft", "dpo", "pruned", "healed"}
    assert detail["started_from"] == {"pruned": "sft", "healed": "pruned"}
    report = (project.directory / "metrics/eval_report.md").read_text(encoding="utf-8")
    assert "| base | sft | dpo | pruned | healed |" in report
    assert "## Right by sft, wrong by pruned" in report
    assert read("merge_heal.json")["kl"] < 0.5
    assert len(read("prune.json")["influence"]) == 2
    assert project.repro() == []
