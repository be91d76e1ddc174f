"""Equal inputs, equal bytes, from one process to another: docs/determinism.md says for what, and for what not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_training

from stages.lib.every_stage.lineage import file_sha256
from stages.lib.schema.choices import Dtype
from stages.lib.schema.training import Sft
from stages.sft import sft

pytestmark = pytest.mark.chain

CHAIN = """
from pathlib import Path
from conftest import tiny_training
from stages.dpo import dpo
from stages.evaluate import evaluate
from stages.heal import heal
from stages.lib.every_stage.lineage import OFF, write_lineage
from stages.lib.schema.evaluation import Evaluate
from stages.lib.schema.merging import Merge, MergeDpo, MergeHeal, MergePreference
from stages.lib.schema.pruning import Prune
from stages.lib.schema.training import Dpo, Heal, Preference, Sft
from stages.merge import merge
from stages.merge_dpo import merge_dpo
from stages.merge_heal import merge_heal
from stages.merge_preference import merge_preference
from stages.preference import preference
from stages.prune import prune
from stages.sft import sft

sft(Sft(**tiny_training()), Path())
merge(Merge(), Path())
dpo(Dpo(**tiny_training(beta=0.5, max_steps=2)), Path())
merge_dpo(MergeDpo(), Path())
preference(Preference(**tiny_training(enabled=True, max_steps=2)), Path())
merge_preference(MergePreference(), Path())
prune(Prune(enabled=True, layers=1, rows=4), Path())
heal(Heal(**tiny_training(enabled=True, max_steps=2)), Path())
merge_heal(MergeHeal(), Path())
Path("models/rl-merged").mkdir(exist_ok=True)
write_lineage(Path("models/rl-merged"), OFF)
evaluate(Evaluate(max_new_tokens=4, bootstrap_resamples=20, seed=1, threads=1), Path())
"""


def run_chain(place: Path, hash_seed: str) -> dict[str, str]:
    """Train, merge and score in a process of its own; SHA-256 by file of all that it wrote."""
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", CHAIN], cwd=place, env=os.environ | environment, check=True)
    written = [path for top in ("models", "metrics") for path in (place / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): file_sha256(path) for path in sorted(written)}


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(place):
    """With other hash seeds, so that the order of a set shows where it reaches a file."""
    first = run_chain(place, "1")
    assert run_chain(place, "2") == first
    weights = {name.split("/")[1] for name in first if name.endswith(".safetensors")}
    assert weights >= {
        "sft",
        "sft-merged",
        "dpo",
        "dpo-merged",
        "preference",
        "preference-merged",
        "pruned",
        "healed",
        "healed-merged",
    }
    assert {"metrics/eval.json", "metrics/predictions.jsonl", "metrics/merge.json"} <= set(first)


@pytest.mark.slow
def test_another_seed_or_precision_gives_other_bytes(place):
    found = set()
    for name, changes in {"a": {}, "seed": {"seed": 2}, "precision": {"dtype": Dtype.bfloat16}}.items():
        sft(Sft(**tiny_training(max_steps=2, **{"dtype": Dtype.float32, **changes})), place / name)
        found.add(file_sha256(place / name / "models/sft/adapter_model.safetensors"))
    assert len(found) == 3


def test_the_lineage_says_what_a_run_must_share_to_be_equal(place):
    sft(Sft(**tiny_training(max_steps=1)), place)
    lineage = json.loads((place / "models/sft/lineage.json").read_text(encoding="utf-8"))
    assert {"seed", "threads", "dtype", "quantization"} <= set(lineage["arguments"])
    assert {"base_weights_sha256", "chat_template_sha256", "data"} <= set(lineage)
