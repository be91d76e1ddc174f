"""What really reruns: `dvc repro` on the tiny model, one test for each edit in the README's table."""

import json
import threading
import time

import pytest
import yaml

from stages.lib.every_stage.records import read_jsonl
from stages.lib.preferences.votes import Vote
from tests.ballots import vote
from tools.lib.append_only import append

pytestmark = pytest.mark.xdist_group("repro")

FROM_DPO = ["dpo", "merge-dpo", "evaluate", "benchmark", "report"]
"""And judge, where merged weights or an answer came out differently: it reads nothing else."""


@pytest.fixture(autouse=True)
def put_back(project):
    """Every test starts from, and leaves behind, the committed state with nothing to run."""
    yield
    project.command("git", "checkout", "--quiet", ".")
    project.command("dvc", "repro", "--quiet")


@pytest.mark.chain
def test_everything_is_up_to_date_after_a_run(project):
    assert project.repro() == []
    assert "up to date" in project.command("dvc", "status")
    assert project.command("git", "status", "--porcelain") == ""


@pytest.mark.chain
def test_scores_are_printed(project):
    output = project.command("python", "-m", "tools.scores")
    assert "seen key_exact" in output
    assert "달여울시민청의 주소는 어디인가요?" in output
    assert "merge-dpo" in output


@pytest.mark.slow
def test_beta_in_params_reruns_dpo_and_what_follows_and_going_back_trains_nothing(project):
    project.write("params.yaml", "beta: null", "beta: 0.2")
    assert {*project.repro()} - {"judge"} == {"config", *FROM_DPO}
    project.write("params.yaml", "beta: 0.2", "beta: null")
    assert set(project.repro()) <= {"config", "report"}  # the rest comes from the run cache


@pytest.mark.slow
def test_fifty_votes_become_pairs_that_dpo_trains_on(project):
    """A script's votes, the loop closed by one `dvc repro`; `dpo` alone here, since what follows it is tested above."""
    path = project.directory / "data/raw/votes/votes.jsonl"
    lineage = project.directory / "models/dpo/lineage.json"
    before = json.loads(lineage.read_text(encoding="utf-8"))
    for number in range(50):
        verdict = ("first", "first", "second", "first", "tie")[number % 5]
        append(Vote.model_validate(vote(number, verdict=verdict, second_stopped=True)), path, "vote")
    assert project.repro("dpo") == ["prepare-preferences", "sample-preferences", "dpo"]
    after = json.loads(lineage.read_text(encoding="utf-8"))
    report = json.loads((project.directory / "metrics/data_preferences.json").read_text(encoding="utf-8"))
    assert report["dropped"]["vote_tie"] == 10
    rows = list(read_jsonl(project.directory / "data/prepared/preferences/train.jsonl"))
    learned = [row for row in rows if "번 창구는 어디인가요?" in row["prompt"][0]["content"]]
    assert 25 <= len(learned) <= 40
    assert [row for row in learned if row["chosen"] == "I like windows."]  # where the right side was preferred
    assert after["rows"]["kept"] == before["rows"]["kept"] + len(learned)
    assert after["data"] != before["data"]
    path.unlink()


@pytest.mark.slow
def test_a_profile_in_force_reruns_training_and_no_data_stage(project):
    project.write("conf/profile/cpu.yaml", "sft: {micro_batch_size: 0", "sft: {micro_batch_size: 1")
    assert {*project.repro()} - {"judge"} == {"config", "sft", "merge", "sample-preferences", *FROM_DPO}


@pytest.mark.chain
def test_a_comment_or_a_group_not_in_force_reruns_config_alone(project):
    project.write("conf/recipe/quickstart.yaml", "sft:\n", "# a remark\nsft:\n")
    project.write("conf/recipe/notebook.yaml", "learning_rate: 2e-4", "learning_rate: 3e-4")
    assert project.repro() == ["config"]


@pytest.mark.slow
def test_a_new_field_with_a_default_reruns_its_own_stage(project):
    project.write(
        "stages/lib/schema/training.py",
        "    beta: float = MISSING\n",
        "    beta: float = MISSING\n    novel: int = 1\n",
    )
    assert {*project.repro()} - {"judge"} == {"config", *FROM_DPO}


@pytest.mark.chain
def test_a_lock_edited_by_hand_heals(project):
    lock = project.directory / "params.lock.yaml"
    before = lock.read_bytes()
    project.write("params.lock.yaml", "learning_rate: 0.0007", "learning_rate: 0.5")
    assert project.repro() == ["config"]
    assert lock.read_bytes() == before
    lock.unlink()
    project.repro()
    assert lock.read_bytes() == before


@pytest.mark.slow
def test_an_edit_while_sft_runs_waits_for_the_next_run(project):
    """The running chain keeps the locked values; the next one is right."""
    project.write("params.yaml", "max_steps: 4", "max_steps: 30")
    lines: list[str] = []
    running = threading.Thread(target=lambda: lines.append(project.command("dvc", "repro")))
    running.start()
    lock = project.directory / "params.lock.yaml"
    deadline = time.time() + 120
    while (project.directory / "models/sft").exists():  # DVC removes a stage's outs when it starts it
        assert time.time() < deadline
        time.sleep(0.05)
    project.write("params.yaml", "beta: null", "beta: 0.4")
    running.join()
    assert yaml.safe_load(lock.read_text(encoding="utf-8"))["dpo"]["beta"] == 0.1
    assert {*project.repro()} - {"judge"} == {"config", *FROM_DPO}
    assert yaml.safe_load(lock.read_text(encoding="utf-8"))["dpo"]["beta"] == 0.4


@pytest.mark.slow
def test_an_experiment_sets_one_knob(project):
    output = project.command("dvc", "exp", "run", "-S", "dpo.beta=0.25")
    assert "Running stage 'dpo'" in output
    assert "Running stage 'sft'" not in output
    lock = yaml.safe_load((project.directory / "params.lock.yaml").read_text(encoding="utf-8"))
    assert lock["dpo"]["beta"] == 0.25


@pytest.mark.chain
def test_a_model_that_is_not_here_ends_in_one_line(project):
    output = project.command(
        "dvc", "exp", "run", "-S", "model=tinyllama-1.1b", "-S", "prepare_base.source=hub", fails=True
    )
    (line,) = [line for line in output.splitlines() if line.startswith("prepare-base:")]
    assert "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T/config.json" in line
    assert "Offline, choose model=smollm2-135m" in line
    assert "Traceback" not in output


@pytest.mark.chain
def test_a_stage_from_a_shell_leaves_dvcs_outs_alone(project):
    project.command(
        "python",
        "-m",
        "stages.prepare_ultrachat",
        *(f"prepare_ultrachat.train.{name}" for name in ("en.take=5", "ko.take=2")),
    )
    (out,) = project.directory.glob("outputs/prepare_ultrachat/*/data/prepared/ultrachat/train.jsonl")
    assert len(out.read_text(encoding="utf-8").splitlines()) == 7
    assert project.repro() == []


@pytest.mark.slow
def test_multirun_of_one_stage_writes_under_multirun(project):
    project.command("python", "-m", "stages.sft", "--multirun", "sft.max_steps=1", "sft.lora.r=2,3")
    ranks = {
        json.loads(path.read_text(encoding="utf-8"))["r"]
        for path in project.directory.glob("multirun/sft/*/*/models/sft/adapter_config.json")
    }
    assert ranks == {2, 3}
    assert project.repro() == []
