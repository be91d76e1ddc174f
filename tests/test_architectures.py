"""The models that need the Hub and a GPU, in small: configuration, tokenizer and template through the whole chain.

`model=tinyllama-1.1b recipe=notebook` and `model=llama3-open-ko-8b recipe=guide` as conf/ ships them, from a server
that speaks the Hub's protocol to a scored model. What differs is the weights (random, two layers), the commit, and
the values in KNOBS.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf

from stages.lib.configuration import compose_config, typed_sections
from stages.lib.evaluation.generation import generate_answers
from stages.lib.every_stage.entry import locked_section
from stages.lib.every_stage.records import read_jsonl
from stages.lib.models.chat import encode, encode_prompt, stop_ids
from stages.lib.models.loading import load_16bit, load_strictly, load_tokenizer
from stages.lib.schema.training import Sft
from stages.lib.training.token_rows import preference_rows, supervised_rows
from tests.hub_server import COMMIT, Hub, serving
from tests.real_shapes import write_llama3, write_tinyllama

pytestmark = pytest.mark.slow


@dataclass
class Architecture:
    """What is particular to a model."""

    choices: dict[str, str]
    begins: int  # with how many BOS tokens a text begins
    stop: str  # ends every answer in the template
    stops: list[str]  # all that end generation
    pad: str
    rope_theta: float
    key_value_heads: int
    tail: list[str]  # the last tokens of "층" and a blank line


ARCHITECTURES = {
    "tinyllama": Architecture(
        {"model": "tinyllama-1.1b", "recipe": "notebook"},
        0,
        "</s>",
        ["</s>"],
        "<unk>",
        10000.0,
        4,
        ["<0xEC>", "<0xB8>", "<0xB5>", "<0x0A>", "<0x0A>"],
    ),
    "llama3": Architecture(
        {"model": "llama3-open-ko-8b", "recipe": "guide"},
        1,
        "<|eot_id|>",
        ["<|eot_id|>", "<|end_of_text|>"],
        "<|reserved_special_token_250|>",
        500000.0,
        8,
        ["ĊĊ"],
    ),
}

TRAINING = {
    "dtype": "auto",
    "max_steps": 2,
    "batch_size": 4,
    "threads": 1,
    "max_length": 2048,
    "lora": {"r": 8, "lora_alpha": 16},
}
KNOBS: dict[str, Any] = {
    "sft": {
        **TRAINING,
        "max_steps": 40,
        "learning_rate": 0.015,
        "loss_on": "assistant",
        "overlong": "cut_turns",
        "mix": {"ultrachat": 1, "pdf_qa": 1},
    },
    "dpo": TRAINING,
    "preference": {**TRAINING, "enabled": True},
    "evaluate": {"max_new_tokens": 16, "bootstrap_resamples": 20, "threads": 1},
}
"""The recipes' own values are for GPUs and hours; ORPO is off in them."""


@dataclass
class Chain:
    """A directory in which the whole chain ran."""

    directory: Path
    architecture: Architecture
    sft: Sft

    def tokenizer(self, model: str = "base") -> Any:
        return load_tokenizer(self.directory / "models" / model)

    def metrics(self, name: str) -> Any:
        return json.loads((self.directory / "metrics" / name).read_text(encoding="utf-8"))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ARCHITECTURES]
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Every stage of dvc.yaml, in its order."""
    architecture = ARCHITECTURES[request.param]
    place = tmp_path_factory.mktemp(request.param)
    for name in ("conf", "data"):
        (place / name).mkdir()
    (place / "data/raw").symlink_to(ROOT / "data/raw")
    (place / "conf/chat_template").symlink_to(ROOT / "conf/chat_template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        base = compose_config(architecture.choices, {}).prepare_base
        commit = {"revision": COMMIT, "tokenizer_revision": COMMIT if base.tokenizer_id else ""}
        sections = typed_sections(compose_config(architecture.choices, {**KNOBS, "prepare_base": commit}))
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        (place / "params.lock.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
        with serving(hub_with(base, place / "hub")) as hub:
            prepare_base(hub, place)
        for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]:
            if stage not in ("config", "prepare-base"):
                run_stage(stage.replace("-", "_"))
        yield Chain(place, architecture, OmegaConf.to_object(locked_section("sft")))


def hub_with(base: Any, scratch: Path) -> Hub:
    """The repositories that a model's configuration names."""
    if base.tokenizer_id:
        write_tinyllama(scratch / "model", scratch / "tokenizer")
    else:
        write_llama3(scratch / "model")
    named = {base.id: scratch / "model", base.tokenizer_id: scratch / "tokenizer"}
    return Hub(
        {
            f"models/{name}": {path.name: path.read_bytes() for path in directory.iterdir()}
            for name, directory in named.items()
            if name
        }
    )


def prepare_base(hub: Hub, place: Path) -> None:
    """`python -m stages.prepare_base` as DVC starts it: huggingface_hub reads its endpoint once a process."""
    environment = {
        "DVC_STAGE": "prepare-base", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(place / "hf"), "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "stages.prepare_base"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_stage(name: str) -> None:
    """A stage on its section of params.lock.yaml, in this process."""
    getattr(importlib.import_module(f"stages.{name}"), name)(OmegaConf.to_object(locked_section(name)), Path())


def test_the_base_is_what_the_hub_had(chain: Chain) -> None:
    """A configuration from another version of transformers, weights in one file or several, in 32 or 16 bits."""
    config = load_strictly(chain.directory / "models/base", "auto").config
    found = (config.rope_parameters["rope_theta"], config.num_key_value_heads, config.tie_word_embeddings)
    assert found == (chain.architecture.rope_theta, chain.architecture.key_value_heads, False)
    assert str(config.dtype) == "torch.bfloat16"


@pytest.mark.parametrize("model", ["base", "sft-merged", "dpo-merged", "preference-merged"])
def test_every_model_loads_strictly_and_stops_and_pads_the_same(chain: Chain, model: str) -> None:
    tokenizer = chain.tokenizer(model)
    loaded = load_strictly(chain.directory / "models" / model, "auto")
    wanted = set(tokenizer.convert_tokens_to_ids(chain.architecture.stops))
    assert len(wanted) == len(chain.architecture.stops)
    assert stop_ids(loaded.generation_config) == wanted
    assert tokenizer.pad_token == chain.architecture.pad
    assert loaded.generation_config.pad_token_id == tokenizer.pad_token_id not in wanted
    assert loaded.config.rope_parameters["rope_theta"] == chain.architecture.rope_theta
    text = "달여울 417, 6층입니다.\n\nIt opens at 9."
    assert tokenizer(text).input_ids == chain.tokenizer()(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_tokenizer_splits_as_the_real_one_does(chain: Chain) -> None:
    tail = chain.architecture.tail
    assert chain.tokenizer().tokenize("층\n\n")[-len(tail) :] == tail


def test_no_text_begins_twice(chain: Chain) -> None:
    tokenizer = chain.tokenizer()
    begin, wanted = tokenizer.bos_token_id, chain.architecture.begins
    assert tokenizer("x").input_ids[0] == begin  # the tokenizer would add one to the template's own
    asked = [*read_jsonl(chain.directory / "data/prepared/pdf_qa/seen.jsonl")]
    asked += read_jsonl(chain.directory / "data/prepared/ultrachat/evaluation.jsonl")
    for record in asked:
        for ids in (encode(tokenizer, record["messages"]).input_ids, encode_prompt(tokenizer, record["messages"][:-1])):
            assert ids.count(begin) == wanted
            assert (ids[0] == begin) == bool(wanted)


def test_every_row_learns_to_stop(chain: Chain) -> None:
    tokenizer = chain.tokenizer()
    stop, begin = (tokenizer.convert_tokens_to_ids(token) for token in (chain.architecture.stop, tokenizer.bos_token))
    files = {chain.directory / f"data/prepared/{name}/train.jsonl": 1 for name in ("ultrachat", "pdf_qa")}
    rows, _ = supervised_rows(chain.sft, files, tokenizer)
    for row in rows:
        labels = [*row["labels"], -100]
        ends = [labels[i] for i in range(len(labels) - 1) if labels[i] != -100 and labels[i + 1] == -100]
        assert set(ends) == {stop}
        assert row["input_ids"].count(begin) == chain.architecture.begins
    pairs, _ = preference_rows("dpo", {chain.directory / "data/prepared/preferences/train.jsonl": 1.0}, tokenizer, 4096)
    for pair in pairs:
        assert pair["prompt_ids"].count(begin) == chain.architecture.begins
        for side in ("chosen_ids", "rejected_ids"):
            assert pair[side][-1] == stop
            assert pair[side].count(stop) == 1
            assert begin not in pair[side]


def test_the_preview_shows_answers_to_their_stop_tokens(chain: Chain) -> None:
    page = (chain.directory / "metrics/sft_preview.html").read_text(encoding="utf-8")
    marked = [unescape(text) for text in re.findall("<mark>(.*?)</mark>", page, re.S)][1:]  # the first is the legend
    assert len(marked) >= 12
    assert all(text.endswith(chain.architecture.stop) for text in marked)
    said = {
        message["content"].strip() + chain.architecture.stop
        for name in ("ultrachat", "pdf_qa")
        for record in read_jsonl(chain.directory / f"data/prepared/{name}/train.jsonl")
        for message in record["messages"]
        if message["role"] == "assistant"
    }
    assert set(marked) <= said
    assert any(re.search("[가-힣]", text) for text in marked)
    assert "�" not in page


def test_generation_ends_on_each_stop_token_and_on_no_other(chain: Chain) -> None:
    """A model that says one token alone, whichever is planted."""
    tokenizer = chain.tokenizer("dpo-merged")
    model = load_16bit(chain.directory / "models/dpo-merged", "auto")
    prompt = [{"role": "user", "content": "주소는 어디인가요?"}]

    def answer_with(token: str) -> Any:
        planted = tokenizer.convert_tokens_to_ids(token)

        def say(module: Any, inputs: Any, logits: Any) -> Any:
            logits[..., planted] += 1e4
            return logits

        handle = model.lm_head.register_forward_hook(say)
        (answer,) = generate_answers(model, tokenizer, [prompt], 5, 1000)
        handle.remove()
        return answer

    for token in chain.architecture.stops:
        assert (answer_with(token).stopped, answer_with(token).tokens) == (True, 0)
    for token in (chain.architecture.pad, tokenizer.bos_token):
        assert (answer_with(token).stopped, answer_with(token).tokens) == (False, 5)


def test_the_chain_has_scores_and_what_was_tuned_has_learned_to_stop(chain: Chain) -> None:
    scores = chain.metrics("eval.json")
    assert set(scores) == {"base", "sft", "dpo", "orpo"}
    assert scores["base"]["seen"]["stop_rate"] < 0.1
    assert scores["sft"]["seen"]["stop_rate"] > 0.3
    assert scores["sft"]["seen"]["perplexity"] < scores["base"]["seen"]["perplexity"] / 4
    assert chain.metrics("merge.json")["kl"] < 0.5
    assert chain.metrics("merge_preference.json")["kl"] < 0.5
    assert (chain.metrics("dpo.json")["step0_loss"], chain.metrics("dpo.json")["step0_margin"]) == (0.693147, 0.0)
    assert "key_exact" in (chain.directory / "metrics/eval_report.md").read_text(encoding="utf-8")
    assert (chain.directory / "models/card/README.md").is_file()
