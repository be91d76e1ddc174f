"""ORPO, CPO, SimPO and KTO: off they leave a word and cost nothing; on they learn, from where their papers start."""

import csv
import json
import math
import shutil

import pytest
from conftest import Project, tiny_training

import stages.lib.training.run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.schema.choices import Algorithm, Quantization, StartFrom
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Preference, Sft
from stages.merge import merge
from stages.preference import BASE, LOG, METRICS, OUT, SFT, preference
from stages.sft import sft


@pytest.fixture
def merged(place):
    """A place with a merged SFT model, and pairs that a test may write beside."""
    prepared = (place / "data").resolve()
    (place / "data").unlink()
    shutil.copytree(prepared / "prepared", place / "data/prepared")
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    return place


def log(place):
    with (place / LOG).open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_off_says_so_and_nothing_else(place):
    preference(Preference(**tiny_training()), place)
    assert [path.name for path in (place / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(place / OUT) == OFF
    assert (place / LOG).read_text(encoding="utf-8").startswith("step,loss")
    assert (place / METRICS).read_text(encoding="utf-8") == "{}\n"


@pytest.mark.parametrize(
    ("algorithm", "start", "trained"),
    [
        (Algorithm.orpo, StartFrom.auto, BASE),
        (Algorithm.orpo, StartFrom.sft, SFT),
        (Algorithm.cpo, StartFrom.auto, SFT),
        (Algorithm.simpo, StartFrom.auto, SFT),
        (Algorithm.kto, StartFrom.auto, SFT),
        (Algorithm.kto, StartFrom.base, BASE),
    ],
)
def test_each_method_trains_the_model_that_it_is_for(merged, algorithm, start, trained):
    chosen = {"enabled": True, "algorithm": algorithm, "start": start, "quantization": Quantization.none}
    preference(Preference(**tiny_training(max_steps=2, **chosen)), merged)
    lineage = read_lineage(merged / OUT)
    arguments = lineage["arguments"]
    assert lineage["base_weights_sha256"] == read_lineage(merged / trained)["weights_sha256"]
    assert (arguments["algorithm"], arguments["start"]) == (algorithm.value, "sft" if trained == SFT else "base")
    assert arguments["beta"] == (2.0 if algorithm is Algorithm.simpo else 0.1)
    assert len(log(merged)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [Quantization.nf4, Quantization.none])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_on_it_learns_the_chosen_answers(merged, algorithm, quantization):
    train = merged / "data/prepared/preferences/train.jsonl"
    write_jsonl(train, list(read_jsonl(train))[:8])  # each of them is seen often
    chosen = {"enabled": True, "algorithm": algorithm, "quantization": quantization}
    preference(Preference(**tiny_training(max_steps=60, learning_rate=0.02, **chosen)), merged)
    rows = log(merged)
    early, late = rows[:5], rows[-5:]
    if algorithm is Algorithm.orpo:
        assert mean(late, "nll_loss") < mean(early, "nll_loss") - 1
    elif algorithm is Algorithm.kto:
        assert mean(late, "reward_chosen") - mean(late, "reward_rejected") > 1
        assert mean(late, "loss") < mean(early, "loss") - 0.1
    else:
        assert mean(late, "reward_margin") > mean(early, "reward_margin") + 1
    assert (merged / OUT / "adapter_model.safetensors").is_file()


def mean(rows, name):
    return sum(row[name] for row in rows if name in row) / len(rows)


def test_simpo_is_that_of_its_paper_on_trls_trainer(merged):
    """-log sigmoid(beta (mean log p of better - of worse) - gamma), without a cross entropy (equation 6)."""
    chosen = {"enabled": True, "algorithm": Algorithm.simpo, "quantization": Quantization.none, "simpo_gamma": 1.5}
    preference(Preference(**tiny_training(max_steps=1, batch_size=1, **chosen)), merged)
    (row,) = log(merged)
    assert row["nll_loss"] == 0.0
    assert row["loss"] == pytest.approx(math.log1p(math.exp(1.5 - row["reward_margin"])), abs=1e-4)


def test_kto_starts_at_its_reference_and_says_how_many_answers_it_has(merged, capsys):
    votes = [vote(number, number % 3 > 0) for number in range(9)]
    write_jsonl(merged / "data/prepared/preferences/unpaired.jsonl", votes)
    weights = {"desirable_weight": 0.5, "undesirable_weight": 2.0}
    preference(Preference(**tiny_training(max_steps=2, enabled=True, algorithm=Algorithm.kto, **weights)), merged)
    figures = json.loads((merged / METRICS).read_text(encoding="utf-8"))
    pairs = len(list(read_jsonl(merged / "data/prepared/preferences/train.jsonl")))
    assert figures["step0_kl"] == 0.0 and 0.25 <= figures["step0_loss"] <= 1.0
    assert figures["without_partner"] == 9
    assert figures["desirable"] + figures["undesirable"] + figures["too_long"] == 2 * pairs + 9
    assert "preference.desirable_weight=" in capsys.readouterr().out
    assert set(read_lineage(merged / OUT)["data"]) == {"preferences/train.jsonl", "preferences/unpaired.jsonl"}


def vote(number, label):
    prompt = [{"role": "user", "content": f"{number}번 창구는 어디인가요?"}]
    return {"id": str(number), "source": "votes", "prompt": prompt, "completion": f"{number}층입니다.", "label": label}


def test_kto_passes_have_the_same_rows_whatever_the_profile_says(merged):
    chosen = {"enabled": True, "algorithm": Algorithm.kto, "kl_batch_size": 2, "quantization": Quantization.none}
    logs = []
    for micro_batch_size in (0, 1, 4):
        preference(Preference(**tiny_training(max_steps=2, micro_batch_size=micro_batch_size, **chosen)), merged)
        logs.append((merged / LOG).read_bytes())
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.parametrize("algorithm", [Algorithm.kto])
def test_an_adapter_that_does_not_start_at_zero_is_refused(merged, monkeypatch, algorithm):
    plain = stages.lib.training.run.lora_config

    def planted(section, model):
        config = plain(section, model)
        config.init_lora_weights = False
        return config

    monkeypatch.setattr("stages.lib.training.run.lora_config", planted)
    with pytest.raises(UserError, match="before the first step KTO's loss is"):
        preference(Preference(**tiny_training(enabled=True, algorithm=algorithm)), merged)
    assert not (merged / OUT).exists()


def test_an_sft_model_that_is_not_its_merges_is_refused(merged):
    shutil.rmtree(merged / SFT)
    shutil.copytree(merged / BASE, merged / SFT)
    with pytest.raises(UserError, match="says 'base', needed 'merged'"):
        preference(Preference(**tiny_training(enabled=True, algorithm=Algorithm.cpo)), merged)


VOTES = [
    {"prompt": "몇 시에 문을 닫나요?", "completion": "저녁 여섯 시에 닫습니다.", "label": True},
    {"prompt": "몇 시에 문을 닫나요?", "completion": "I like doors.", "label": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_one_key_adds_the_model_to_the_whole_chain(tiny_model, tmp_path, algorithm):
    """By `dvc repro`: trained, merged, scored and shown by its method's name, with votes on one answer."""
    project = Project(tmp_path / "project", tiny_model)
    name, before = algorithm.value, "base" if algorithm is Algorithm.orpo else "sft"
    asked = f"preference: {{enabled: true, algorithm: {name}, max_steps: 2, max_length: 1024}}\nevaluate:"
    project.write("params.yaml", "evaluate:", asked)
    write_jsonl(project.directory / "data/raw/votes/unpaired.jsonl", VOTES)
    assert {"preference", "merge-preference", "evaluate"} <= set(project.repro())

    def metrics(file):
        return json.loads((project.directory / "metrics" / file).read_text(encoding="utf-8"))

    detail = metrics("eval_detail.json")
    assert set(detail["models"]) == {"base", "sft", "dpo", name}
    assert detail["started_from"][name] == before
    report = (project.directory / "metrics/eval_report.md").read_text(encoding="utf-8")
    assert f"| base | sft | dpo | {name} |" in report
    assert metrics("merge_preference.json")["kl"] < 0.5
    assert metrics("preference.json").get("without_partner", 2) == 2
    assert metrics("dpo.json")["votes_unpaired"] == 2
    assert project.repro() == []
