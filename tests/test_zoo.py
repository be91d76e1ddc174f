"""The whole chain on a tiny random model of each family: trained on its own attention, or refused at the front.

What is compared is what the trainer itself computes in its first step: every supervised token's log-probability,
against transformers' own model on one row at a time, in float32 and on rows longer than the model's window.
"""

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf

from stages.lib.configuration import compose_config, typed_sections
from stages.lib.data.ledger import FOLDED
from stages.lib.evaluation.generation import generate_answers
from stages.lib.evaluation.likelihood import answer_log_probs
from stages.lib.every_stage.entry import locked_section
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode, encode_prompt
from stages.lib.models.loading import load_tokenizer
from stages.lib.training.keep_base import START_LIMIT, decoder_of, own_logits
from tests.model_zoo import FAMILIES, GEMMA2, MISTRAL, WINDOW, write_family

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.slow

TOLERANCE = 0.001
"""Of a token's log-probability, in nats: float32 sums in another order differ by a hundredth of it."""

TRAINING = {
    "quantization": "none",
    "dtype": "float32",
    "max_steps": 2,
    "batch_size": 4,
    "micro_batch_size": 4,
    "threads": 1,
    "max_length": 512,
    "lora": {"r": 4, "lora_alpha": 8},
}
KNOBS: dict[str, Any] = {
    "prepare_ultrachat": {
        "train": {"en": {"take": 4}, "ko": {"take": 1}},
        "evaluation": {"en": {"take": 1}, "ko": {"take": 1}},
        "max_reject_rate": 1.0,
    },
    "prepare_pdf_qa": {"files": ["data/raw/pdf_qa/few.jsonl"], "pdfs": []},
    "sft": {
        **TRAINING,
        "batch_size": 8,
        "micro_batch_size": 8,
        "mix": {"ultrachat": 4, "pdf_qa": 1},
        "keep_base": {"weight": 0.0},  # the long rows are chats, to be learned here; a test of its own holds them
    },
    "merge": {"base": "original"},
    "dpo": TRAINING,
    "preference": {**TRAINING, "enabled": True},
    "evaluate": {"max_new_tokens": 4, "bootstrap_resamples": 20, "threads": 1, "dtype": "float32"},
}
BASES = {"sft": "base", "dpo": "sft-merged", "preference": "base"}
"""What each training stage trains."""

REFUSED = {
    "own_shift": ("probe-base", "answering in batches can't be done with this model: .*What may help: .*another model")
}
"""Families that the chain can't take: which stage refuses them, and why. Here a first token sees padding before it."""

LEAKS = {"qwen3_5", "qwen3_next", "stablelm", "lfm2", "falcon_h1", "bamba", "mamba2", "bloom"}
"""Families whose packed rows see one another, or that can't be packed: each layer would have to know the borders."""

STOCK = {"gpt_oss", "llama4", "own_bias", "own_temperature"}
"""Families whose attention does more than ours, and so is left as it is."""

QUESTIONS = ["주소는 어디인가요?", "Where do I pay the fee, and until when? " * 9, "몇 시에 여나요? " * 3, "1 + 1"]

FEW = {"pdf_qa/office-guide.jsonl": ("pdf_qa/few.jsonl", 24), "preferences/preferences.jsonl": ("", 16)}
"""Of which raw files how many rows are taken, and under which name."""


@dataclass
class Said:
    """What a training step said about one row: tokens, and the log-probabilities of those that it learns."""

    ids: list[int]
    log_probs: dict[int, float]  # by the token's place in the row
    packed: bool


@dataclass
class Chain:
    """A directory in which the whole chain ran, or the reason why it didn't."""

    family: str
    directory: Path
    said: dict[str, list[Said]] = field(default_factory=dict)  # by stage
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # that a stage returned for its run record
    refused_by: str = ""
    reason: str = ""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FAMILIES if name not in REFUSED],
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A family's whole chain."""
    with pytest.MonkeyPatch.context() as patch:
        yield run_chain(request.param, tmp_path_factory.mktemp(request.param), patch)


@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in REFUSED])
def test_what_the_chain_cannot_take_is_refused_before_any_data_is_prepared(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = run_chain(family, tmp_path, monkeypatch)
    stage, reason = REFUSED[family]
    assert chain.refused_by == stage
    assert re.search(reason, chain.reason, re.S), chain.reason
    assert not (tmp_path / "data/prepared").exists()


def test_each_stage_trains_on_the_models_own_arithmetic(chain: Chain) -> None:
    assert not chain.reason, f"{chain.refused_by}: {chain.reason}"
    for stage, base in BASES.items():
        said = chain.said[stage]
        assert max(len(row.ids) for row in said) > 2 * WINDOW, "no row shows a window"
        assert sum(len(row.log_probs) for row in said) > 100
        assert worst_difference(chain.directory / "models" / base, said) < TOLERANCE, stage


def test_chats_are_held_to_what_the_base_says(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(chain.directory)
    run_stage("sft", tmp_path, keep_base={"weight": 1.0, "max_tokens": 128})
    figures = json.loads((tmp_path / "metrics/sft.json").read_text(encoding="utf-8"))
    assert figures["kl_to_base_start"] <= START_LIMIT
    assert figures["held_tokens"] > 100
    model = AutoModelForCausalLM.from_pretrained("models/base", dtype=torch.float32).eval()
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode():
        states = decoder_of(model)(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(own_logits(model)(states), model(input_ids=ids).logits[0])


def test_the_fast_path_is_taken_where_it_is_the_models_own(chain: Chain) -> None:
    plan = chain.facts["sft"]["plan"]
    assert plan["attention"] == ("model" if chain.family in STOCK else "row_by_row"), plan["why"]
    assert plan["padding_free"] == (chain.family not in LEAKS | STOCK), plan["why"]
    assert plan["head"] == ("model" if chain.family == "llama4" else "supervised"), plan["why"]
    assert plan["parity"] < 1e-4
    fallen = chain.family in LEAKS | STOCK
    assert ("not packed" in plan["why"]["attention"] or "not row_by_row" in plan["why"]["attention"]) == fallen


@pytest.mark.parametrize("asked", ["always", "never"])
def test_rows_are_right_packed_and_padded_or_packing_is_refused(chain: Chain, asked: str) -> None:
    said: list[Said] = []
    root = chain.directory / asked
    try:
        with listening(said):
            run_stage("sft", root, padding_free=asked, max_steps=1)
    except UserError as error:
        assert asked == "always" and chain.family in LEAKS | STOCK, error
        assert "sft.padding_free" in str(error) and "never" in str(error)
        assert not (root / "models").exists()
    else:
        assert len(said) == 8
        assert {row.packed for row in said} == {asked == "always"}
        assert worst_difference(chain.directory / "models/base", said) < TOLERANCE


def test_a_row_that_ends_leaves_the_others_their_answers(chain: Chain) -> None:
    """Rows of unlike length in one batch, of which one ends early, against each by itself."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(chain.directory / "models/dpo-merged")
    model = AutoModelForCausalLM.from_pretrained(chain.directory / "models/dpo-merged", dtype=torch.float32).eval()
    prompts = [[{"role": "user", "content": text}] for text in QUESTIONS]
    alone = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        alone.append(model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist())
    stop, wanted = most_unlike(alone)
    model.generation_config.eos_token_id = stop
    answers = generate_answers(model, tokenizer, prompts, 12, 100_000)
    texts = tokenizer.batch_decode(wanted, skip_special_tokens=True)
    found = [(answer.text, answer.tokens, answer.stopped) for answer in answers]
    assert found == [(text.strip(), len(said), len(said) < 12) for text, said in zip(texts, wanted, strict=True)]


def test_likelihoods_are_the_models_own(chain: Chain) -> None:
    """What evaluate scores by: log-probabilities of answers, several conversations in a batch."""
    import torch
    from transformers import AutoModelForCausalLM

    directory = chain.directory / "models/dpo-merged"
    tokenizer = load_tokenizer(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    told = [[{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in QUESTIONS]
    for messages, (found, count) in zip(told, answer_log_probs(model, tokenizer, told, 100_000), strict=True):
        encoded = encode(tokenizer, messages)
        ids, said = torch.tensor([encoded.input_ids]), torch.tensor(encoded.by_assistant[1:])
        with torch.inference_mode():
            own = log_probs_of(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, ids)[0][said]
        assert count == len(own) > 1
        assert found == pytest.approx(own.sum().item(), abs=TOLERANCE * count)


def most_unlike(alone: list[list[int]]) -> tuple[int, list[list[int]]]:
    """The token on which answers would end at the most different places, and the answers that it leaves."""

    def ended(stop: int) -> list[list[int]]:
        return [said[: said.index(stop)] if stop in said else said for said in alone]

    stop = max(sorted({token for said in alone for token in said}), key=lambda token: len(set(map(len, ended(token)))))
    assert len(set(map(len, ended(stop)))) > 1, "all answers are the same"
    return stop, ended(stop)


def test_an_adapter_is_in_the_language_model_alone(chain: Chain) -> None:
    from safetensors import safe_open

    with safe_open(chain.directory / "models/sft/adapter_model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
    assert names
    assert not [name for name in names if "vision" in name or "head" in name or "projector" in name]


def test_what_reads_images_is_left_out(chain: Chain) -> None:
    config = json.loads((chain.directory / "models/base/config.json").read_text(encoding="utf-8"))
    assert "vision_config" not in config
    lineage = json.loads((chain.directory / "models/base/lineage.json").read_text(encoding="utf-8"))
    wrapped = chain.family == "gemma3_vision"
    assert lineage["taken_out_of"] == ("Gemma3ForConditionalGeneration" if wrapped else "")


def test_a_system_message_is_folded_where_the_template_takes_none(chain: Chain) -> None:
    path = chain.directory / "data/prepared/preferences/data_report.json"
    fixed = json.loads(path.read_text(encoding="utf-8"))["fixed"]
    assert (FOLDED in fixed) == (FAMILIES[chain.family].dialect in (GEMMA2, MISTRAL))


def test_the_chain_ends_in_a_report(chain: Chain) -> None:
    scores = json.loads((chain.directory / "metrics/eval.json").read_text(encoding="utf-8"))
    assert set(scores) == {"base", "sft", "dpo", "orpo"}
    # In bfloat16, where a CPU has it, merged weights round and GPT-OSS' router may choose another expert: 0.011.
    assert json.loads((chain.directory / "metrics/merge.json").read_text(encoding="utf-8"))["kl"] < 0.02
    assert (chain.directory / "metrics/eval_report.html").is_file()
    assert (chain.directory / "models/card/README.md").is_file()


def run_chain(name: str, place: Path, patch: pytest.MonkeyPatch, **changes: Any) -> Chain:
    """Every stage of dvc.yaml, in its order, on a family's tiny model. A UserError ends it."""
    chain = Chain(name, place)
    write_family(name, place / "hub", **changes)
    lay_out(place)
    template = "own" if FAMILIES[name].dialect.template else "plain.jinja"
    derived = {"pad_token": "auto", "stop_tokens": []}
    base = {"source": "local", "path": str(place / "hub"), "chat_template": template, **derived}
    patch.chdir(ROOT)
    sections = typed_sections(compose_config({"profile": "cpu"}, {**KNOBS, "prepare_base": base}))
    patch.chdir(place)
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    (place / "params.lock.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]:
        if stage == "config":
            continue
        try:
            with listening(chain.said.setdefault(stage, [])):
                chain.facts[stage] = run_stage(stage.replace("-", "_"))
        except UserError as error:
            chain.refused_by, chain.reason = stage, str(error)
            break
    return chain


def lay_out(place: Path) -> None:
    """conf/, and a few of the default rows."""
    for name in ("conf", "data/raw/pdf_qa", "data/raw/preferences", "data/raw/votes"):
        (place / name).mkdir(parents=True)
    (place / "conf/chat_template").symlink_to(ROOT / "conf/chat_template")
    (place / "data/raw/ultrachat").symlink_to(ROOT / "data/raw/ultrachat")
    for source, (target, count) in FEW.items():
        lines = (ROOT / "data/raw" / source).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        if source.startswith("preferences"):
            pairs = [json.loads(line) for line in lines]
            for pair in pairs:
                pair["chosen"] = f"{pair['chosen']} " * 8  # beyond a window of attention, whatever the tokenizer
            lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
        (place / "data/raw" / (target or source)).write_text("".join(lines), encoding="utf-8")


def run_stage(name: str, root: Path = Path(), **changes: Any) -> dict[str, Any]:
    """A stage on its section of params.lock.yaml, in this process; what it writes is below `root`."""
    section = OmegaConf.merge(locked_section(name), changes)
    return getattr(importlib.import_module(f"stages.{name}"), name)(OmegaConf.to_object(section), root)


@contextmanager
def listening(said: list[Said]) -> Iterator[None]:
    """Note into `said` what each forward pass of a trainer's first step returns."""
    from transformers import Trainer

    own = Trainer.training_step

    def training_step(self: Any, model: Any, *rest: Any, **named: Any) -> Any:
        if self.state.global_step > 0:
            return own(self, model, *rest, **named)
        handle = model.register_forward_hook(lambda *call: said.extend(heard(*call)), with_kwargs=True)
        try:
            return own(self, model, *rest, **named)
        finally:
            handle.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        yield


def heard(model: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Said]:
    """The rows of one forward pass of trl's SFT or DPO (log-probabilities), or of its ORPO (logits)."""
    ids = arguments[0] if arguments else named["input_ids"]
    if "log_probs" in output:
        scores, learned = output.log_probs, output.label_mask
    else:
        scores = log_probs_of(output.logits, ids)
        learned = named["attention_mask"][:, 1:].bool()
    packed = named.get("attention_mask") is None
    found = []
    for row in range(len(ids)):
        for start, end in spans(ids[row], named, row):
            places = (learned[row, start : end - 1].nonzero()[:, 0] + 1).tolist()
            log_probs = {place: scores[row, start + place - 1].item() for place in places}
            found.append(Said(ids[row, start:end].tolist(), log_probs, packed))
    return found


def spans(ids: "Tensor", named: dict[str, Any], row: int) -> list[tuple[int, int]]:
    """Where the rows of a batch's line begin and end: several packed, or one that is padded."""
    if named.get("attention_mask") is not None:
        there = named["attention_mask"][row].nonzero()[:, 0].tolist()
        return [(there[0], there[-1] + 1)]
    starts = (named["position_ids"][row] == 0).nonzero()[:, 0].tolist()
    return list(zip(starts, [*starts[1:], len(ids)], strict=True))


def log_probs_of(logits: "Tensor", ids: "Tensor") -> "Tensor":
    """(rows, tokens - 1): the log-probability of each token after the first."""
    return logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def worst_difference(directory: Path, said: list[Said]) -> float:
    """How far a token's log-probability is from that of transformers' own model, which sees one row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    worst = 0.0
    for row in said:
        ids = torch.tensor([row.ids])
        with torch.inference_mode():
            own = log_probs_of(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, ids)[0]
        worst = max([worst, *(abs(own[place - 1].item() - found) for place, found in row.log_probs.items())])
    return worst
