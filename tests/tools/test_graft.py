"""One command for all tools: it works from any folder, completes keys, and says what a run will take before it runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from tests.short_chain import ShortChain
from tools.graft import FORWARDED
from tools.lib.expected_run import ENGLISH, KOREAN, before, expected_run, in_words, keys_of_lock, with_those_before

GRAFT = [sys.executable, "-m", "tools.graft"]


def graft(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([*GRAFT, *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_help_names_every_command_and_needs_no_repository(tmp_path):
    done = graft("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in (*FORWARDED, "run", "report"))
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} - {"__init__", "graft"} == set(FORWARDED)


@pytest.mark.parametrize("name", [name for name in FORWARDED if name not in ("scores", "doctor", "repair")])
def test_a_tools_own_help_is_its_commands(name):
    done = graft(name, "--help")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_it_works_from_a_folder_below_the_root_and_nowhere_else(tmp_path):
    project = tmp_path / "project"
    (project / "stages").mkdir(parents=True)
    (project / "docs").mkdir()
    (project / "dvc.yaml").write_text("stages: {}\n")
    done = graft("scores", cwd=project / "docs")
    assert (done.returncode, done.stderr) == (
        1,
        "scores: metrics/eval_detail.json: no such file; run `make repro` first\n",
    )
    done = graft("scores", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"graft: {tmp_path}: found no dvc.yaml and stages/ here or above; needed a folder of the repository\n"
    )


def test_an_unknown_command_is_refused_with_a_near_one():
    done = graft("chatt")
    assert done.returncode == 2
    assert "chat" in done.stderr.splitlines()[-1]


def test_a_report_that_is_not_there_says_how_it_comes(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    done = graft("report", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "graft: metrics/eval_report.html: no such file; `dvc repro report` makes it of scores that are here, `dvc "
        "pull` fetches it where a remote has it, `graft run` runs all\n",
    )


def test_an_experiment_beside_a_link_that_is_not_committed_is_refused(tmp_path):
    """git would write the note that is committed through the link, into a directory."""
    for name in ("stages", "data/raw", "model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/raw/base").write_text("a note\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "data/raw/base").unlink()
    (tmp_path / "data/raw/base").symlink_to(tmp_path / "model")
    done = graft("run", "dpo.beta=0.2", cwd=tmp_path)
    assert done.returncode == 1
    assert "graft: data/raw/base: found a link to a local base model that isn't committed; needed" in done.stderr
    for words in (["add", "-A"], [*identity, "commit", "-qm", "second"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert "isn't committed" not in graft("run", "dpo.beta=0.2", cwd=tmp_path).stderr


@pytest.mark.parametrize(("locale", "language"), [("ko_KR.UTF-8", "ko"), ("en_US.UTF-8", "en"), ("", "en")])
def test_the_report_opens_in_the_language_of_the_locale(tmp_path, locale, language):
    for name in ("stages", "metrics"):
        (tmp_path / name).mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "metrics/eval_report.html").write_text("<p>")
    done = graft("report", cwd=tmp_path, LANG=locale, LC_ALL="", LC_MESSAGES="", BROWSER="echo opened %s")
    assert done.stdout.splitlines()[0] == f"file://{tmp_path}/metrics/eval_report.html#{language}", done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_keys_and_models(tmp_path, shell):
    done = graft("--show-completion", shell, cwd=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0 and "graft" in done.stdout.lower()

    def offered(line: str) -> str:
        """As the shell's own script asks."""
        asks = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_TYPER_COMPLETE_ARGS": line,
                "_TYPER_COMPLETE_FISH_ACTION": "get-args", "_GRAFT_COMPLETE": f"complete_{shell}"}  # fmt: skip
        code = "import sys; sys.argv[0] = 'graft'; from tools.graft import main; main()"
        env = {**os.environ, "PYTHONPATH": str(ROOT), **asks}
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True).stdout

    assert "promote" in offered("graft pro")
    assert "sft.lora.r=" in offered("graft sweep sft.lora.r")
    assert "orpo" in offered("graft chat o")


def test_what_a_stage_is_made_of_comes_before_it():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert before("config", stages) == set()
    assert {"config", "prepare-base", "prepare-pdf-qa"} <= before("sft", stages)
    assert "sft" in before("merge", stages)
    assert {"merge", "sft", "config"} <= with_those_before(["merge"], stages)
    assert "dpo" not in with_those_before(["merge"], stages)


def test_keys_are_those_of_the_lock(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert keys_of_lock() == []
    (tmp_path / "params.lock.yaml").write_text("sft: {lora: {r: 8}, mix: {}}\nseed: 1\n", encoding="utf-8")
    assert keys_of_lock() == ["sft.lora.r=", "sft.mix=", "seed="]


@pytest.mark.parametrize(("seconds", "said"), [(12.4, "12 seconds"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_seconds_are_said_as_people_say_them(seconds, said):
    assert in_words(seconds, ENGLISH) == said


@pytest.mark.slow
def test_run_says_what_is_out_of_date_and_what_it_will_take_then_runs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chain = ShortChain(tmp_path / "chain")
    chain.put("tools/scores.py", "print('the scores')\n")  # those of the short chain are of no real evaluation
    chain.commit("scores")
    first = chain.run(*GRAFT, "run")
    assert first.rstrip().endswith("the scores")
    assert "graft: out of date: " in first and "known after the first run here" in first
    for path in (chain.directory / "metrics/runs").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8")) | {"process_seconds": 300.0, "peak_memory_mib": 2048}
        path.write_text(json.dumps(record), encoding="utf-8")
    assert "graft: everything is up to date" in chain.run(*GRAFT, "run")
    chain.put("data/raw/a.txt", "다른 글")
    again = chain.run(*GRAFT, "run")
    assert re.search(r"about \d+ minutes and up to 2\.0 GiB of memory by the last runs", again), again
    second = chain.run(*GRAFT, "run", "dpo.beta=0.3")
    assert "Reproduced experiment" in second or "Ran experiment" in second


@pytest.mark.parametrize(
    ("korean", "known", "unknown"),
    [
        (
            False,
            "graft: about 2 minutes and up to 2.0 GiB of memory by the last runs, beside dpo; ",
            "after the first run",
        ),
        (True, "graft: 지난 실행 기준으로 약 2분, 메모리 최대 2.0 GiB (dpo 제외); 디스크 여유 ", "한 번 실행한 뒤에"),
    ],
)
def test_what_a_run_will_take_is_said_in_either_language(tmp_path, monkeypatch, korean, known, unknown):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.lib.expected_run.to_run", lambda targets: ["config", "sft", "dpo"])
    assert unknown in expected_run([], korean)
    (tmp_path / "metrics/runs").mkdir(parents=True)
    (tmp_path / "metrics/runs/sft.json").write_text('{"process_seconds": 120.0, "peak_memory_mib": 2048}')
    assert expected_run([], korean).splitlines()[1].startswith(known)
    monkeypatch.setattr("tools.lib.expected_run.to_run", lambda targets: [])
    assert expected_run([], korean) == (KOREAN if korean else ENGLISH).up_to_date
