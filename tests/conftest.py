"""A tiny real model: two Llama layers, a byte-level tokenizer trained on the default data, a real chat template."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# `make test` needs no luck: its examples are the same each time. `--hypothesis-profile=search` looks for others.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", max_examples=1000)
settings.load_profile("repeatable")

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_tiny_model(directory: Path) -> None:
    """Write a model directory as prepare-base's source `local` takes it: random weights of width 32, 600 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = ROOT.joinpath("data/raw/pdf_qa/office-guide.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text[:100], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's directory, as a user would have it on disk: no chat template, pad == eos."""
    directory = tmp_path_factory.mktemp("tiny")
    build_tiny_model(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as prepare-base publishes it (models/base)."""
    from stages.lib.schema.choices import BaseSource
    from stages.lib.schema.data import PrepareBase
    from stages.prepare_base import OUT, prepare_base

    root = tmp_path_factory.mktemp("base")
    section = PrepareBase(
        source=BaseSource.local,
        path=str(tiny_model),
        chat_template="chatml.jinja",
        pad_token="<|endoftext|>",
        stop_tokens=["<|im_end|>"],
    )
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        prepare_base(section, root)
    finally:
        os.chdir(here)
    return root / OUT


TINY_PARAMS = """
model: smollm2-135m
data: default
recipe: quickstart
profile: cpu
prepare_base: {source: local, path: %s}
sft: {max_steps: 4, batch_size: 4, lora: {r: 4, lora_alpha: 8}, max_length: 1024}
dpo: {max_steps: 2, batch_size: 2, beta: null, lora: {r: 4, lora_alpha: 8}, max_length: 1024}
sample_preferences: {samples: 1, max_new_tokens: 4}
evaluate: {max_new_tokens: 4, bootstrap_resamples: 50}
"""


class Project:
    """A copy of the repository with its own Git and DVC, on the tiny model."""

    def __init__(self, directory: Path, tiny_model: Path) -> None:
        self.directory = directory
        self.cache = directory.with_name(directory.name + "-cache")
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
        )
        for name in tracked.stdout.splitlines():
            if name.startswith(("stages/", "conf/", "data/", "tools/", "dvc.yaml", ".gitignore", ".dvcignore")):
                target = directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        (directory / "params.yaml").write_text(TINY_PARAMS % tiny_model, encoding="utf-8")
        self.command("git", "init", "--quiet")
        self.command("git", "config", "user.name", "test")
        self.command("git", "config", "user.email", "test@graft.example")
        self.command("dvc", "init", "--quiet")
        self.command("dvc", "config", "core.analytics", "false")
        self.commit("start")

    def command(self, *words: str, fails: bool = False, **environment: str) -> str:
        """Run a command in the project; its output. Asserts success, or failure with `fails`."""
        done = subprocess.run(
            words, cwd=self.directory, env={**self.environment(), **environment}, capture_output=True, text=True
        )
        output = done.stdout + done.stderr
        assert bool(done.returncode) == fails, output
        return output

    def environment(self) -> dict[str, str]:
        """What commands run in: this Python's own dvc, one thread, a cache apart from the user's."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.cache)}

    def commit(self, message: str) -> None:
        self.command("git", "add", "--all")
        self.command("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def repro(self, *words: str) -> list[str]:
        """Run `dvc repro`; the names of the stages that it really ran, in order."""
        return stages_run(self.command("dvc", "repro", *words))

    def write(self, name: str, old: str, new: str) -> None:
        """Replace `old`, which must occur, by `new` in a file."""
        path = self.directory / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")


def stages_run(output: str) -> list[str]:
    """Stage names that DVC says it ran (not those it skipped or took from its cache)."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


@pytest.fixture(scope="session")
def project(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on which the whole chain ran once; tests put back what they change."""
    project = Project(tmp_path_factory.mktemp("project"), tiny_model)
    project.repro()
    project.commit("first run")
    return project


@pytest.fixture(scope="session")
def prepared(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with models/base (tiny) and the default data as the prepare-* stages leave it."""
    from omegaconf import OmegaConf

    from stages.lib.configuration import compose_config
    from stages.lib.schema.evaluation import SamplePreferences
    from stages.prepare_pdf_qa import prepare_pdf_qa
    from stages.prepare_preferences import prepare_preferences
    from stages.prepare_ultrachat import prepare_ultrachat
    from stages.sample_preferences import sample_preferences

    place = tmp_path_factory.mktemp("prepared")
    for name in ("conf", "data/raw"):
        shutil.copytree(ROOT / name, place / name)
    shutil.copyfile(ROOT / "params.yaml", place / "params.yaml")
    shutil.copytree(tiny_base, place / "models/base")
    here = Path.cwd()
    os.chdir(place)
    try:
        config = compose_config({}, {})
        for stage in (prepare_ultrachat, prepare_pdf_qa, prepare_preferences):
            stage(OmegaConf.to_object(config[stage.__name__]), Path())
        sample_preferences(SamplePreferences(seed=1), Path())  # off: there is no SFT model yet
    finally:
        os.chdir(here)
    return place


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory to run training stages in: inputs are links, outputs the test's own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/base").symlink_to(prepared / "models/base")
    (tmp_path / "data").symlink_to(prepared / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def tiny_training(**changes: object) -> dict[str, object]:
    """Values of a training section that take the tiny model through a few steps in seconds."""
    from stages.lib.schema.choices import Optim, Quantization, Scheduler
    from stages.lib.schema.training import Lora

    values: dict[str, object] = {
        "quantization": Quantization.nf4,
        "lora": Lora(r=4, lora_alpha=8, lora_dropout=0.0),
        "learning_rate": 5e-3,
        "lr_scheduler_type": Scheduler.constant,
        "max_steps": 6,
        "batch_size": 4,
        "max_length": 1024,
        "optim": Optim.adamw_torch,
        "logging_steps": 1,
        "seed": 1,
        "threads": 1,
    }
    return {**values, **changes}


def flip_a_bit(path: Path, place: int, bit: int = 0) -> None:
    """Flip one bit of a file's byte at `place`, and leave its time as it was."""
    found = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(found.st_mode)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
