"""The real loaders against a server on loopback that speaks the Hub's protocol, and each way it can fail.

Each stage runs in its own process, since huggingface_hub reads its endpoint once.
"""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib.every_stage.records import read_jsonl, write_jsonl
from tests.byte_tokenizer import write_byte_tokenizer
from tests.hub_server import COMMIT, Hub, serving

pytestmark = pytest.mark.slow  # each test starts Python with datasets, two to three seconds

REPOSITORY = Path(__file__).parents[1]
ULTRACHAT, ORCA = "HuggingFaceH4/ultrachat_200k", "argilla/distilabel-intel-orca-dpo-pairs"
TRAIN = "data/train_sft-00000-of-00001-a3ecf92756993583.parquet"
TEST = "data/test_sft-00000-of-00001-f7dfac4afe5b93f4.parquet"
CARD = b"""---
license: mit
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: data/test_sft-*
---
"""


def parquet(rows: list[dict[str, Any]], row_group_size: int = 1000) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=row_group_size)
    return buffer.getvalue()


def chats(name: str, count: int, padding: int = 0) -> list[dict[str, Any]]:
    """Rows in UltraChat's columns, `padding` random characters long so that they don't compress."""
    generator = random.Random(name)
    return [
        {
            "prompt": (prompt := f"{name} question {number}, what is it about?"),
            "prompt_id": f"{name}-{number}",
            "messages": [
                {"content": prompt, "role": "user"},
                {"content": f"Answer {number}." + generator.randbytes(padding // 2).hex(), "role": "assistant"},
            ],
        }
        for number in range(count)
    ]


def orca(count: int) -> list[dict[str, Any]]:
    """Rows in the Orca pairs' columns; every fifth a tie, every seventh without a score."""
    return [
        {
            "system": "" if n % 2 else "Be brief.", "input": f"What is the number {n}?", "chosen": f"It is {n}.",
            "rejected": "A number.", "generations": [f"It is {n}.", "A number."], "order": ["chosen", "rejected"],
            "labelling_model": "gpt-4", "labelling_prompt": [{"content": "Rate.", "role": "system"}],
            "raw_labelling_response": "9 / 3", "rating": [9.0, 3.0], "rationale": "", "original_rejected": "A number.",
            "status": "tie" if n % 5 == 0 else "unchanged", "original_chosen": f"It is {n}.",
            "chosen_score": None if n % 7 == 0 else 9.0, "in_gsm8k_train": n % 11 == 0,
        }
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"README.md": CARD, TRAIN: parquet(chats("train", 400)), TEST: parquet(chats("test", 300))}
    pairs = {"README.md": b"---\nlicense: apache-2.0\n---\n", "data/train-00000-of-00001.parquet": parquet(orca(200))}
    with serving(Hub({f"datasets/{ULTRACHAT}": files, f"datasets/{ORCA}": pairs})) as hub:
        yield hub


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_byte_tokenizer(tmp_path / "models/base")
    pdf_qa = tmp_path / "data/prepared/pdf_qa"
    pdf_qa.mkdir(parents=True)
    for split in ("seen", "unseen", "unanswerable"):
        write_jsonl(pdf_qa / f"{split}.jsonl", [])
    return tmp_path


def run_stage(
    stage: str, section: str, workspace: Path, hub: Hub, before: Sequence[str] = (), first: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a stage function on a section, written as Python, in a process that takes `hub` for the Hub.

    `before` is the program that starts it, `first` the Python that it begins with.
    """
    code = (
        f"{first}from pathlib import Path\nfrom stages.lib.every_stage.entry import exit_on_user_error\n"
        "from stages.lib.schema.choices import *\nfrom stages.lib.schema.data import *\n"
        f"from stages.{stage} import {stage}\n"
        f"exit_on_user_error({stage!r}, lambda: {stage}({section}, Path()))"
    )
    env = os.environ | {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(workspace / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(REPOSITORY), "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0",
    } | environment  # fmt: skip
    command = [*before, sys.executable, "-c", code]
    return subprocess.run(command, cwd=workspace, env=env, capture_output=True, text=True, timeout=400)


def rows(split: str, identity: str = ULTRACHAT, revision: str = COMMIT, **choice: int) -> str:
    chosen = "".join(f", {name}={value}" for name, value in choice.items())
    return f"Rows(source=RowSource.hub, id={identity!r}, revision={revision!r}, split={split!r}{chosen})"


def ultrachat(train: str, evaluation: str) -> str:
    return f"PrepareUltrachat(train={{'en': {train}}}, evaluation={{'en': {evaluation}}})"


def ids(workspace: Path, split: str) -> list[str]:
    return [row["id"] for row in read_jsonl(workspace / f"data/prepared/ultrachat/{split}.jsonl")]


def test_the_notebooks_rows_are_those_of_datasets_shuffle(hub: Hub, workspace: Path) -> None:
    section = ultrachat(
        rows("test_sft", shuffle_seed=42, take=200), rows("test_sft", shuffle_seed=42, skip=200, take=50)
    )
    done = run_stage("prepare_ultrachat", section, workspace, hub)
    assert done.returncode == 0, done.stderr
    from datasets import Dataset

    shuffled = Dataset.from_list(chats("test", 300)).shuffle(seed=42)["prompt_id"]
    assert ids(workspace, "train") == shuffled[:200] and ids(workspace, "evaluation") == shuffled[200:250]
    assert hub.sent(TRAIN) == 0 and hub.sent(TEST) > 0


def test_train_and_evaluation_from_their_own_splits_then_offline(hub: Hub, workspace: Path) -> None:
    section = ultrachat(rows("train_sft", shuffle_seed=42), rows("test_sft", shuffle_seed=42, take=20))
    done = run_stage("prepare_ultrachat", section, workspace, hub)
    assert done.returncode == 0, done.stderr
    before, asked = ids(workspace, "train"), len(hub.requests)
    assert len(before) == 400 and {identity.split("-")[0] for identity in before} == {"train"}
    card = (workspace / "data/prepared/ultrachat/DATA_CARD.md").read_text(encoding="utf-8")
    assert "ChatGPT" in card and COMMIT in card
    done = run_stage("prepare_ultrachat", section, workspace, hub, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert ids(workspace, "train") == before and len(hub.requests) == asked


def test_the_first_rows_are_read_without_the_rest(hub: Hub, workspace: Path) -> None:
    big = parquet(chats("train", 1600, padding=20_000), row_group_size=100)
    hub.repositories[f"datasets/{ULTRACHAT}"][TRAIN] = big
    done = run_stage(
        "prepare_ultrachat", ultrachat(rows("train_sft", skip=5, take=20), rows("test_sft", take=5)), workspace, hub
    )
    assert done.returncode == 0, done.stderr
    assert ids(workspace, "train") == [f"train-{number}" for number in range(5, 25)]
    assert 0 < hub.sent(TRAIN) < len(big) / 2


def test_orca_pairs_go_through_the_notebooks_filter(hub: Hub, workspace: Path) -> None:
    done = run_stage("prepare_preferences", f"PreparePreferences(rows={rows('train', ORCA)})", workspace, hub)
    assert done.returncode == 0, done.stderr
    report = json.loads((workspace / "data/prepared/preferences/data_report.json").read_text(encoding="utf-8"))
    kept = [n for n in range(200) if n % 5 and n % 7 and n % 11]
    assert report["in"] == 200 and report["kept"] == len(kept)
    assert report["dropped"]["tie"] == 40 and set(report["dropped"]) == {"tie", "no_score", "in_gsm8k_train"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"repository": "gated"}, rf"{ULTRACHAT} at {COMMIT}: .*gated.*set HF_TOKEN"),
        ({"repository": "missing"}, rf"{ULTRACHAT} at {COMMIT}: .*doesn't exist.*check its id and revision"),
        ({TEST: "cut"}, rf"{ULTRACHAT} at {COMMIT}: the download broke off: .*Run again"),
        ({TEST: "corrupt"}, rf"{ULTRACHAT}: {TEST}: found SHA-256 .*, needed .*damaged"),
    ],
    ids=["gated", "404", "cut", "checksum"],
)
def test_each_failure_has_its_message(hub: Hub, workspace: Path, fault: dict[str, str], message: str) -> None:
    kind = fault.pop("repository", "")
    if kind == "missing":
        del hub.repositories[f"datasets/{ULTRACHAT}"]
    hub.faults = fault | ({f"datasets/{ULTRACHAT}": "gated"} if kind == "gated" else {})
    choice = rows("test_sft", shuffle_seed=42, take=20)
    done = run_stage("prepare_ultrachat", ultrachat(choice, choice), workspace, hub)
    assert done.returncode == 1
    assert re.match("prepare-ultrachat: " + message, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr and not (workspace / "data/prepared/ultrachat").exists()


def test_a_damaged_file_is_fetched_anew(hub: Hub, workspace: Path) -> None:
    section = ultrachat(rows("test_sft", shuffle_seed=42, take=20), rows("test_sft", shuffle_seed=42, skip=20, take=20))
    hub.faults = {TEST: "corrupt"}
    assert run_stage("prepare_ultrachat", section, workspace, hub).returncode == 1
    hub.faults = {}
    done = run_stage("prepare_ultrachat", section, workspace, hub)
    assert done.returncode == 0, done.stderr


def test_an_unknown_split_names_those_there_are(hub: Hub, workspace: Path) -> None:
    done = run_stage("prepare_ultrachat", ultrachat(rows("train"), rows("test_sft", take=5)), workspace, hub)
    assert done.returncode == 1 and "found splits ['test_sft', 'train_sft'], needed 'train'" in done.stderr


def test_an_unknown_commit(hub: Hub, workspace: Path) -> None:
    done = run_stage(
        "prepare_ultrachat", ultrachat(rows("train_sft", revision="0" * 40), rows("test_sft", take=5)), workspace, hub
    )
    # evaluation is read first, from a commit that is there
    assert done.returncode == 1 and "Revision '" + "0" * 40 in done.stderr


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository with a real Llama of two layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("tiny") / "model"
    write_byte_tokenizer(directory)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    tokenizer.add_special_tokens(
        {"pad_token": "<pad>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    )
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


BASE = (
    f"PrepareBase(source=BaseSource.hub, id='org/tiny', revision='{COMMIT}', chat_template='chatml.jinja', "
    "pad_token='<pad>', stop_tokens=['<|im_end|>'])"
)


def run_prepare_base(
    workspace: Path, hub: Hub, tiny_model: dict[str, bytes], section: str = BASE, first: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    hub.repositories.setdefault("models/org/tiny", tiny_model)
    (workspace / "conf").mkdir()
    (workspace / "conf/chat_template").symlink_to(REPOSITORY / "conf/chat_template")
    shutil.rmtree(workspace / "models")
    return run_stage("prepare_base", section, workspace, hub, first=first, **environment)


def test_a_base_model_from_the_hub(hub: Hub, workspace: Path, tiny_model: dict[str, bytes]) -> None:
    done = run_prepare_base(workspace, hub, tiny_model)
    assert done.returncode == 0, done.stderr
    lineage = json.loads((workspace / "models/base/lineage.json").read_text(encoding="utf-8"))
    assert lineage["source"]["revision"] == COMMIT
    assert (workspace / "models/base/model.safetensors").is_file()


def test_an_id_alone_is_all_that_a_model_needs(hub: Hub, workspace: Path, tiny_model: dict[str, bytes]) -> None:
    """Its own template, derived tokens, the commit that main is, its licence; no second copy of the weights."""
    own = (REPOSITORY / "conf/chat_template/chatml.jinja").read_text(encoding="utf-8")
    more = {"chat_template.jinja": own.encode(), "README.md": b"---\nlicense: cc-by-4.0\n---\n"}
    copies = {"consolidated.safetensors": b"\0" * 1000, "original/model.safetensors": b"\0" * 1000}
    repository = {**tiny_model, **more, **copies}
    done = run_prepare_base(workspace, hub, repository, "PrepareBase(source=BaseSource.hub, id='org/tiny')")
    assert done.returncode == 0, done.stderr
    assert f"org/tiny at main is commit {COMMIT}; pin it in prepare_base.revision" in done.stdout
    lineage = json.loads((workspace / "models/base/lineage.json").read_text(encoding="utf-8"))
    assert (lineage["name"], lineage["license"], lineage["commit"]) == ("org/tiny", "cc-by-4.0", COMMIT)
    assert (lineage["chat_template"], lineage["stop_tokens"], lineage["pad_token"]) == ("own", ["<|im_end|>"], "<pad>")
    assert not any(hub.sent(name) for name in copies)


@pytest.mark.parametrize(
    ("repository", "file", "message"),
    [
        ("gated", "", "org/tiny: gated; accept its licence on the hub and set HF_TOKEN"),
        ("missing", "", f"org/tiny at {COMMIT}: found no such repository or commit; check prepare_base.id"),
        ("", "cut", f"org/tiny at {COMMIT}: the download broke off: "),
        ("", "corrupt", "model.safetensors: found SHA-256 "),
    ],
    ids=["gated", "404", "cut", "checksum"],
)
def test_each_failure_of_a_base_model_has_its_message(
    hub: Hub, workspace: Path, tiny_model: dict[str, bytes], repository: str, file: str, message: str
) -> None:
    hub.faults = {"models/org/tiny": repository, "model.safetensors": file}
    if repository == "missing":
        hub.repositories["models/org/tiny"] = None
    done = run_prepare_base(workspace, hub, tiny_model)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("prepare-base: " + message), done.stderr
    assert "Traceback" not in done.stderr and not (workspace / "models/base").exists()


@pytest.mark.parametrize("fault", ["429 once", "500 once", "503 once"])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(
    hub: Hub, workspace: Path, tiny_model: dict[str, bytes], fault: str
) -> None:
    hub.faults = {"models/org/tiny": fault}
    done = run_prepare_base(workspace, hub, tiny_model)
    assert done.returncode == 0, done.stderr
    assert (workspace / "models/base/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("repository", "file", "message"),
    [
        ("500", "", f"org/tiny at {COMMIT}: the Hub answered 500. Run again later"),
        ("429", "", f"org/tiny at {COMMIT}: the Hub answered 429, and asks to wait for 1 s. Run again later"),
        ("html", "", f"org/tiny at {COMMIT}: the answer is not the Hub's: a sign-in page or a proxy"),
        ("", "model.safetensors", "model.safetensors: found SHA-256 "),
        ("", "config.json", "config.json: found SHA-1 "),
    ],
    ids=["500", "429", "html", "short weights", "short config"],
)
def test_what_a_hub_answers_is_named_for_what_it_is(
    hub: Hub, workspace: Path, tiny_model: dict[str, bytes], repository: str, file: str, message: str
) -> None:
    hub.faults = {"models/org/tiny": repository, file: "short"}
    done = run_prepare_base(workspace, hub, tiny_model)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("prepare-base: " + message), done.stderr
    assert "Traceback" not in done.stderr and not (workspace / "models/base").exists()


@pytest.mark.parametrize(
    ("fault", "message"), [("500", "the Hub answered 500"), ("html", "the answer is not the Hub's")]
)
def test_what_a_hub_of_data_answers_is_named_for_what_it_is(
    hub: Hub, workspace: Path, fault: str, message: str
) -> None:
    hub.faults = {f"datasets/{ULTRACHAT}": fault}
    choice = rows("test_sft", shuffle_seed=42, take=20)
    done = run_stage("prepare_ultrachat", ultrachat(choice, choice), workspace, hub)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr


QUICK = "from stages.lib import low_speed\nlow_speed.LOW_SPEED_TIME = 1.0\n"
SLOW = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"model.safetensors": "drip"}, r"resolve/.*model\.safetensors: found \d+ bytes in 1 s, needed 1000 a second"),
        ({"models/org/tiny": "drip"}, r"api/models/org/tiny.*: found \d+ bytes in 1 s, needed 1000 a second"),
        ({"models/org/tiny": "silent"}, f"org/tiny at {COMMIT}: the Hub doesn't answer. Run again later"),
    ],
    ids=["weights drip", "answers drip", "silence"],
)
def test_a_hub_that_drips_or_is_silent_is_given_up(
    hub: Hub, workspace: Path, tiny_model: dict[str, bytes], faults: dict[str, str], said: str
) -> None:
    hub.faults = faults
    began = time.monotonic()
    done = run_prepare_base(workspace, hub, tiny_model, first=QUICK, **SLOW)
    assert done.returncode == 1 and time.monotonic() - began < 150
    assert re.match(f"prepare-base: .*{said}", done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr and not (workspace / "models/base").exists()


@pytest.mark.parametrize(
    ("fault", "code", "said"), [("", 0, ""), ("drip", 1, "needed 1000 a second: the Hub, or")], ids=["whole", "drips"]
)
def test_what_is_in_xet_storage_comes_by_the_way_that_is_watched(
    hub: Hub, workspace: Path, tiny_model: dict[str, bytes], fault: str, code: int, said: str
) -> None:
    hub.xet, hub.faults = True, {"model.safetensors": fault}
    done = run_prepare_base(workspace, hub, tiny_model, first=QUICK, **SLOW)
    assert done.returncode == code and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not [path for _, path, _ in hub.requests if "xet" in path]
    assert hub.sent("model.safetensors") > 0


@pytest.mark.parametrize("choice", [{"shuffle_seed": 42, "take": 20}, {"take": 20}], ids=["whole", "first rows"])
@pytest.mark.parametrize("place", [f"datasets/{ULTRACHAT}", TEST], ids=["answers", "rows"])
def test_a_hub_of_data_that_drips_is_given_up(hub: Hub, workspace: Path, place: str, choice: dict[str, int]) -> None:
    hub.faults = {place: "drip"}
    section = rows("test_sft", **choice)
    done = run_stage("prepare_ultrachat", ultrachat(section, section), workspace, hub, first=QUICK, **SLOW)
    assert done.returncode == 1 and "needed 1000 a second: the Hub, or" in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and not (workspace / "data/prepared/ultrachat").exists()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0, reason="needs user namespaces"
)
def test_a_full_home_of_the_hubs_cache_is_named(hub: Hub, workspace: Path, tiny_model: dict[str, bytes]) -> None:
    hub.repositories["models/org/tiny"] = tiny_model | {"model.safetensors": b"x" * 400_000}
    (workspace / "conf").mkdir()
    (workspace / "conf/chat_template").symlink_to(REPOSITORY / "conf/chat_template")
    (workspace / "hf").mkdir()
    mount = f'mount -t tmpfs -o size=200k tmpfs "{workspace}/hf" && exec "$@"'
    done = run_stage("prepare_base", BASE, workspace, hub, before=["unshare", "-rm", "sh", "-c", mount, "sh"])
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "can't be written: No space left on device" in last, done.stderr
    assert "can't be reached" not in last and "Traceback" not in done.stderr
