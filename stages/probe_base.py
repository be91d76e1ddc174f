"""Every later step of the chain, once, on a copy of the base with few layers: what can't work fails here.

Reads   models/base
Writes  metrics/probe_base.json: how many layers the copy had, and how many steps it went through
Run     python -m stages.probe_base
"""

from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from stages.dpo import PREFERENCES, SAMPLED, dpo
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import FOREIGN, UserError
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.probe.answer_probe import probe_answers
from stages.lib.probe.probe_copy import LONG, SHORT, write_rows, write_shortened
from stages.lib.schema.choices import Optim, Scheduler
from stages.lib.schema.merging import Merge, MergeDpo, MergePreference
from stages.lib.schema.probe import ProbeBase, Tried
from stages.lib.schema.training import Dpo, Lora, Mix, Preference, Sft
from stages.merge import merge
from stages.merge_dpo import OUT as TUNED
from stages.merge_dpo import merge_dpo
from stages.merge_preference import merge_preference
from stages.preference import preference
from stages.sft import PDF_QA, sft

BASE = Path("models/base")
METRICS = Path("metrics/probe_base.json")


def probe_base(section: ProbeBase, root: Path) -> dict[str, Any]:
    out = (root / METRICS).absolute()
    with TemporaryDirectory() as scratch:
        layers = write_shortened(BASE, Path(scratch) / BASE)
        write_rows(Path(scratch) / PDF_QA, Path(scratch) / PREFERENCES, Path(scratch) / SAMPLED)
        # Checkpoints of the probe go with it.
        with chdir(scratch), patch.dict("os.environ", XDG_CACHE_HOME=scratch):
            tried = [take(*step) for step in steps(section)]
    with published(out) as path:
        write_json(path, {"layers": layers, "steps": len(tried)})
    print(f"probe_base: {', '.join(tried)}: each went through on {layers} layers of the model")
    return {}


def steps(section: ProbeBase) -> list[tuple[str, Callable[[Path], Any], str]]:
    """What is tried, in order: its name, a function of the root, and the settings that may help where it fails."""
    tuning = Sft(mix=Mix(ultrachat=0), **training_values(section.sft))
    found: list[tuple[str, Callable[[Path], Any], str]] = [
        ("SFT", partial(sft, tuning), "sft.quantization, sft.lora.target_modules"),
        ("the merge of SFT", partial(merge, Merge(base=section.merge_base)), "merge.base=original"),
        ("DPO", partial(dpo, Dpo(beta=0.1, **training_values(section.dpo))), "dpo.quantization=none"),
        ("DPO's merge", partial(merge_dpo, MergeDpo()), "dpo.quantization=none"),
        ("answering in batches", partial(probe_answers, LONG, SHORT, TUNED), "a newer transformers, or another model"),
    ]
    if section.preference_enabled:
        values = training_values(section.preference)
        values |= {"algorithm": section.preference_algorithm, "start": section.preference_start, "kl_batch_size": 2}
        name = section.preference_algorithm.value.upper()
        found += [
            (name, partial(preference, Preference(enabled=True, **values)), "preference.quantization=none"),
            (f"{name}'s merge", partial(merge_preference, MergePreference()), "preference.quantization=none"),
        ]
    return found


def training_values(tried: Tried) -> dict[str, Any]:
    """A training section of one step, with what of the real one decides whether it can be taken."""
    return {
        "method": tried.method,
        "quantization": tried.quantization,
        "dtype": tried.dtype,
        "lora": Lora(r=2, lora_alpha=2, lora_dropout=0.0, target_modules=tried.target_modules),
        "learning_rate": 1e-5,
        "lr_scheduler_type": Scheduler.constant,
        "max_steps": 1,
        "batch_size": 2,
        "max_length": 4096,
        "optim": Optim.adamw_torch,
        "logging_steps": 1,
        "seed": 1,
    }


def take(step: str, work: Callable[[Path], Any], help: str) -> str:
    """Take one `step` in the working directory, without its output; its name.

    Raises UserError saying why it can't be taken, and what may `help`.
    """
    try:
        with redirect_stdout(StringIO()):
            work(Path())
    except FOREIGN as error:
        raise UserError(
            f"{step} can't be done with this model: {type(error).__name__}: {error}. Found on a copy with its first "
            f"layers, before anything was trained. What may help: {help}"
        ) from error
    except UserError as error:
        raise UserError(f"{step} can't be done with this model: {error} (What may help: {help})") from error
    return step


if __name__ == "__main__":
    run(probe_base)
