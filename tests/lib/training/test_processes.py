"""Several processes, really launched by accelerate, on this CPU: the model, the losses and the files of one process."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT, tiny_training
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import arguments_of, read_lineage, write_lineage
from stages.lib.schema.choices import Algorithm, Choice, Distributed, Dtype, Method, Quantization, StartFrom
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Dpo, KeepBase, Lora, Mix, Preference, Sft
from stages.lib.training.checkpoints import newest_complete
from stages.lib.training.launcher import count_processes, on_all_gpus
from stages.merge import merge
from stages.sft import sft

EXACT = {"quantization": Quantization.none, "dtype": Dtype.float32}
"""So that rounding can't hide a fault."""


@pytest.fixture
def several(place):
    """A working directory with accelerate's configurations."""
    (place / "conf").symlink_to(ROOT / "conf")
    return place


def start(place: Path, section: Sft | Dpo | Preference, processes: int = 2) -> subprocess.Popen:
    """`python -m stages.<its stage>` as DVC starts it, in so many processes, with one thread each."""
    name = type(section).__name__.lower()
    asked = {"distributed": "auto", "processes": processes} if processes > 1 else {}
    lock = {name: {**arguments_of(section), **asked}}
    (place / "params.lock.yaml").write_text(yaml.safe_dump(lock), encoding="utf-8")
    environment = {**os.environ, "DVC_STAGE": name, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{name}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(running: subprocess.Popen) -> str:
    output = running.communicate()[0]
    assert running.returncode == 0, output
    return output


def written(place: Path, name: str) -> tuple[list[dict[str, float]], dict, set[str]]:
    """The log of stage `name` as numbers, its adapter and the names of its files."""
    with (place / f"metrics/{name}_log.csv").open(encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    out = place / "models" / name
    return rows, load_file(out / "adapter_model.safetensors"), {path.name for path in out.iterdir()}


def losses(place: Path) -> list[float]:
    with (place / "metrics/sft_log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_same(one: tuple, two: tuple) -> None:
    """The same files, and in float32 the same losses and adapter but for the order of sums."""
    (rows, adapter, files), (rows_too, adapter_too, files_too) = one, two
    assert files == files_too
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in rows_too], abs=1e-4)
    for row, row_too in zip(rows, rows_too, strict=True):
        assert row == pytest.approx(row_too, abs=3e-3)  # ties of two tokens may be called either way
    assert adapter.keys() == adapter_too.keys()
    assert all((adapter[key] - adapter_too[key]).abs().max() < 1e-3 for key in adapter)


@pytest.mark.slow
def test_sft_in_two_processes_is_sft_in_one(several):
    section = Sft(**tiny_training(batch_size=8, **EXACT))
    finish(start(several, section, processes=1))
    one = written(several, "sft")
    output = finish(start(several, section))
    assert "sft: 2 processes by accelerate, ddp" in output
    assert "4 rows of a step each" in output
    assert output.count("sft: step 6 of 6") == 1
    assert_same(one, written(several, "sft"))
    record = json.loads((several / "metrics/runs/sft.json").read_text(encoding="utf-8"))
    plan = record["plan"]
    assert plan["processes"] * plan["micro_batch_size"] * plan["gradient_accumulation_steps"] == 8
    assert not list(several.glob("cache/graft/checkpoints/*"))


@pytest.mark.slow
def test_sft_held_to_its_base_in_two_processes_is_that_in_one(several):
    """Of which one may hold nothing in a pass: 4 rows of a step each, one a pass."""
    kept = {"keep_base": KeepBase(weight=1.0, max_tokens=16), "mix": Mix(ultrachat=10, pdf_qa=1), "micro_batch_size": 1}
    section = Sft(**tiny_training(batch_size=8, **kept, **EXACT))
    finish(start(several, section, processes=1))
    one, held = written(several, "sft"), json.loads((several / "metrics/sft.json").read_text(encoding="utf-8"))
    assert held["kl_to_base_start"] == 0.0
    assert held["kl_to_base"] > 1e-4
    finish(start(several, section))
    assert_same(one, written(several, "sft"))
    assert json.loads((several / "metrics/sft.json").read_text(encoding="utf-8"))["kl_to_base_start"] == 0.0


@pytest.mark.slow
def test_sft_held_to_its_base_on_sharded_weights_is_refused(several):
    """Where `auto` chose so; asked for by name it is refused by the configuration."""
    section = Sft(**tiny_training(batch_size=8, keep_base=KeepBase(weight=1.0), **EXACT))
    start_sharded(several, section).wait()
    said = (several / "told/said-0000.json").read_text(encoding="utf-8")
    assert "sft.distributed: found weights sharded over processes (fsdp)" in json.loads(said)["error"]


@pytest.mark.slow
def test_dpo_in_two_processes_is_dpo_in_one(several):
    """Its reference is the same model with the adapter off, in each process."""
    sft(Sft(**tiny_training(max_steps=1)), several)
    merge(Merge(), several)
    section = Dpo(**tiny_training(beta=0.5, batch_size=4, learning_rate=0.02, **EXACT))
    finish(start(several, section, processes=1))
    one, started = written(several, "dpo"), (several / "metrics/dpo.json").read_bytes()
    finish(start(several, section))
    assert_same(one, written(several, "dpo"))
    assert (several / "metrics/dpo.json").read_bytes() == started
    assert abs(one[0][-1]["reward_margin"]) > 0.1  # it moved: there is something to be equal


@pytest.mark.slow
def test_orpo_in_two_processes_is_orpo_in_one(several):
    section = Preference(**tiny_training(enabled=True, **EXACT))
    finish(start(several, section, processes=1))
    one = written(several, "preference")
    finish(start(several, section))
    assert_same(one, written(several, "preference"))


@pytest.mark.slow
def test_kto_in_two_processes_is_kto_in_one(several):
    """Its KL is estimated on the same rows, however many processes take them."""
    changes = {"enabled": True, "algorithm": Algorithm.kto, "start": StartFrom.base, "beta": 0.5, "learning_rate": 0.02}
    section = Preference(**tiny_training(**changes, **EXACT))
    finish(start(several, section, processes=1))
    one = written(several, "preference")
    finish(start(several, section))
    assert_same(one, written(several, "preference"))


def workers(running: subprocess.Popen) -> list[psutil.Process]:
    """The processes that accelerate's launcher started."""
    return [each for launcher in psutil.Process(running.pid).children() for each in launcher.children()]


def wait_for_checkpoint(place: Path, step: int, running: subprocess.Popen) -> None:
    deadline = time.time() + 900
    while not (marked := list(place.glob(f"cache/graft/checkpoints/sft-*/checkpoint-{step}/complete.json"))):
        assert time.time() < deadline
        assert running.poll() is None, running.stdout and running.stdout.read()
        time.sleep(0.005)
    (path,) = marked
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, None])
def test_killed_it_resumes_and_ends_in_the_same_bytes(several, rank):
    """A process of the two is killed, or the one that launched them."""
    section = Sft(**tiny_training(max_steps=12, checkpoint_minutes=0.0))
    finish(start(several, section))
    whole = written(several, "sft")
    running = start(several, section)
    wait_for_checkpoint(several, 4, running)
    processes = workers(running)
    (running if rank is None else processes[rank]).send_signal(signal.SIGKILL)
    output = running.communicate()[0]
    assert running.returncode == (-signal.SIGKILL if rank is None else 1), output
    psutil.wait_procs(processes, timeout=900)
    assert not any(each.is_running() for each in processes)
    output = finish(start(several, section))
    assert output.count("resumes from checkpoint-") == 1
    rows, adapter, _ = written(several, "sft")
    assert rows == whole[0]
    assert all((adapter[key] == whole[1][key]).all() for key in adapter)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_one_complete_checkpoint_and_publish_nothing(several, number):
    running = start(several, Sft(**tiny_training(max_steps=5000, checkpoint_minutes=1000.0)))
    for line in running.stdout:
        if "loss" in line:
            break
    processes = workers(running)
    running.send_signal(number)
    output = running.communicate()[0]
    assert running.returncode == 128 + number, output
    assert output.count(f"stopped by {number.name} after step") == 1
    assert "Traceback" not in output
    assert not any(each.is_running() for each in processes)
    assert not (several / "models/sft").exists()
    (folder,) = several.glob("cache/graft/checkpoints/sft-*")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in newest_complete(folder).iterdir()}


def start_sharded(place: Path, section: Sft | Dpo) -> subprocess.Popen:
    """The stage of `section` in two processes with FSDP, as stages/lib/training/launcher.py launches it on GPUs.

    What an earlier run wrote is removed: processes that fail in the same way leave their error to the launcher.
    """
    name = type(section).__name__.lower()
    shutil.rmtree(place / "models" / name, ignore_errors=True)
    for written_before in place.glob(f"metrics/{name}*"):
        written_before.unlink()
    told = {"stage": name, "section": arguments_of(section), "root": str(place), "started": []}
    scratch = place / "told"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    (scratch / "told.json").write_text(json.dumps(told), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "conf/accelerate/fsdp.yaml"]
    command += ["--num_processes", "2", "--main_process_port", "0"]
    command += [str(ROOT / "tests/fsdp_on_cpu.py"), str(scratch)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def give_it_a_head(place: Path) -> None:
    """Replace models/base by the same model with a head of its own."""
    base = place / "models/base"
    tied = AutoModelForCausalLM.from_pretrained(base)
    weights = {key: value.clone() for key, value in tied.state_dict().items()}
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(0)
    untied = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(base, tie_word_embeddings=False), dtype=tied.dtype
    )
    untied.load_state_dict(weights)
    shared = base.resolve()
    base.unlink()
    shutil.copytree(shared, base)
    untied.save_pretrained(base)
    write_lineage(base, read_lineage(base))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "within", "tied"),
    [
        (EXACT, 1e-4, False),
        ({"quantization": Quantization.nf4, "dtype": Dtype.float32, "dequantize_once": Choice.never}, 1e-4, True),
        (
            {"quantization": Quantization.none, "dtype": Dtype.bfloat16, "gradient_checkpointing": Choice.always},
            0.01,
            True,
        ),
        ({"method": Method.full, "learning_rate": 1e-3, **EXACT}, 1e-4, False),
    ],
    ids=["16-bit", "nf4", "bfloat16", "full"],
)
def test_sft_on_sharded_weights_is_sft_on_whole_ones(several, values, within, tied):
    """Llama 3 has a head of its own, the tiny model one that is its embeddings."""
    if not tied:
        give_it_a_head(several)
    section = Sft(**tiny_training(**{"batch_size": 8, **values}))
    finish(start(several, section, processes=1))
    one, weights = losses(several), sorted((several / "models/sft").glob("*.safetensors"))
    (whole,) = (load_file(path) for path in weights)
    output = finish(start_sharded(several, section))
    assert "each holds a part of the weights" in output
    assert losses(several) == pytest.approx(one, abs=within)
    assert sorted((several / "models/sft").glob("*.safetensors")) == weights
    (sharded,) = (load_file(path) for path in weights)
    assert sharded.keys() == whole.keys()
    assert all(sharded[key].dtype == whole[key].dtype for key in whole)
    assert all((sharded[key] - whole[key]).abs().max() < 20 * within for key in whole)


@pytest.mark.slow
def test_dpo_on_sharded_weights_starts_at_ln_2_and_is_dpo_on_whole_ones(several):
    sft(Sft(**tiny_training(max_steps=1)), several)
    merge(Merge(), several)
    section = Dpo(**tiny_training(beta=0.5, batch_size=4, learning_rate=0.02, logging_steps=3, **EXACT))
    finish(start(several, section, processes=1))
    one, started = written(several, "dpo"), (several / "metrics/dpo.json").read_bytes()
    finish(start_sharded(several, section))
    assert_same(one, written(several, "dpo"))
    assert (several / "metrics/dpo.json").read_bytes() == started


@pytest.mark.slow
def test_killed_on_sharded_weights_it_resumes_with_the_same_losses(several):
    section = Sft(**tiny_training(max_steps=12, checkpoint_minutes=0.0, **EXACT))
    finish(start_sharded(several, section))
    whole = losses(several)
    running = start_sharded(several, section)
    wait_for_checkpoint(several, 4, running)
    for process in psutil.Process(running.pid).children():
        process.kill()
    running.communicate()
    assert finish(start_sharded(several, section)).count("resumes from checkpoint-") == 1
    assert losses(several) == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_two_machines_with_a_launcher_each_are_one_run(several):
    """As docs/several-gpus.md says, both on this machine: stages read and write one shared directory."""
    section = Sft(**tiny_training(batch_size=8, **EXACT))
    finish(start(several, section, processes=1))
    one = written(several, "sft")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "conf/accelerate/ddp.yaml"]
    command += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    command += ["--main_process_port", port, "--machine_rank"]
    told = {"DVC_STAGE": "sft", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipe = subprocess.PIPE
    machines = [
        subprocess.Popen(
            [*command, rank, "-m", "stages.sft"],
            cwd=several,
            env={**os.environ, **told},
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [finish(machine) for machine in machines]
    assert [output.count("sft: step 6 of 6") for output in outputs] == [1, 0]
    assert_same(one, written(several, "sft"))
    assert json.loads((several / "metrics/runs/sft.json").read_text(encoding="utf-8"))["plan"]["processes"] == 2


@pytest.mark.slow
def test_what_fails_in_all_processes_is_said_once(several):
    """Layers that the model does not have."""
    running = start(several, Sft(**tiny_training(lora=Lora(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["x"]))))
    output = running.communicate()[0]
    assert running.returncode == 1
    assert output.count("lora.target_modules: x: the model has no such layers") == 1
    assert "Traceback" not in output
    assert not (several / "models/sft").exists()


def test_processes_are_as_asked_or_as_many_gpus_as_the_batch_divides_by():
    def counted(gpus, **changes):
        return count_processes(Sft(**tiny_training(distributed=Distributed.auto, **changes)), gpus)

    assert [counted(gpus, batch_size=8) for gpus in (0, 1, 2, 3, 8)] == [1, 1, 2, 2, 8]
    assert counted(8, batch_size=2) == 2
    assert counted(0, batch_size=8, processes=4) == 4
    assert counted(8, batch_size=8, processes=4) == 4
    with pytest.raises(UserError, match=r"sft\.processes: found 4, but 2 GPUs are visible"):
        counted(2, batch_size=8, processes=4)


def test_one_process_sees_one_gpu(monkeypatch, tmp_path):
    """In one process that sees several trl's SFT and DPO refuse to train, and its ORPO gives each of them a batch."""

    @on_all_gpus(tmp_path)
    def stage(section, root):
        return {"seen": os.environ["CUDA_VISIBLE_DEVICES"]}

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert stage(Sft(**tiny_training()), tmp_path) == {"seen": "3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as one hides them all
    assert stage(Sft(**tiny_training()), tmp_path) == {"seen": ""}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert stage(Preference(**tiny_training(distributed=Distributed.ddp)), tmp_path) == {"seen": "0"}


def test_a_batch_that_cannot_be_dealt_evenly_is_refused_naming_what_can():
    with pytest.raises(UserError, match=r"sft\.processes: found 3, .*divides sft\.batch_size=8: 1, 2, 4, 8"):
        Sft(**tiny_training(distributed=Distributed.ddp, batch_size=8, processes=3))


def test_processes_without_distributed_are_refused():
    with pytest.raises(UserError, match=r"sft\.processes: found 2, needed 0 or 1 with sft\.distributed=none"):
        Sft(**tiny_training(processes=2))
