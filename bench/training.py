"""Training steps of the stages against the notebook's settings, both in one run, each in a process of its own.

The notebook's side is trl's trainer with the notebook's values and nothing of stages/lib/training/fast_path.py.
Weights are random: speed does not depend on their values. Losses of the same steps are compared too.

Run     python -m bench.training ROW … [--shape TinyLlama-1.1B] [--only VARIANT …] [--out results.json]
        ROW is one of sft-512, sft-512-large, sft-2048, short, dpo; other families' shapes: Gemma-3-1B, Qwen3-0.6B
        --profile: where the time of five steps goes, in place of speed
        on a CPU: sft-512 --shape SmolLM2-135M --only notebook "nf4, as planned"
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from bench.random_model import FAMILIES, SHAPES, enter, write_base, write_data
from bench.watch import Profiled, Watch, resident_peak

CPU_WARM_UP, CPU_TIMED = 1, 6
WARM_UP, TIMED = 5, 20
COMPILED_WARM_UP, COMPILED_TIMED = 40, 30
"""Steps. In the first ones layers are compiled and shapes of batches recorded, where that is done."""

NOTEBOOK: dict[str, Any] = {
    "quantization": "nf4",
    "micro_batch_size": 2,
    "gradient_checkpointing": "always",
    "torch_compile": "never",
    "cuda_graphs": "never",
    "dequantize_once": "never",
    "optim": "paged_adamw_32bit",
}
"""What the notebook fixes beside batch 8, rank 64 and its learning rate. float16 where the hardware can."""

GATE = 0.01
"""How far a fast path's losses may be from those of the plain one in the same arithmetic."""

PLAIN = ("notebook", "bf16, plain", "fp32, plain")
"""Variants without stages/lib/training/fast_path.py; the losses of others are held against the last two."""

OURS: dict[str, Any] = {
    "quantization": "none",
    "optim": "adamw_torch_fused",
    "torch_compile": "always",
    "cuda_graphs": "always",
}
COMPILED: dict[str, Any] = {**OURS, "cuda_graphs": "never"}
EAGER: dict[str, Any] = {**COMPILED, "torch_compile": "never"}
FALLBACK: dict[str, Any] = {**COMPILED, "ruled_out": ["attention", "head=fused"]}
"""As a model of which parity.py finds that nothing of the fast path is its own arithmetic; layers are compiled."""
UNSLOTH: dict[str, Any] = {"engine": "unsloth", "optim": "adamw_torch_fused"}
"""Unsloth's kernels and trainer at our batch and precision; how it pads and compiles is its own choice."""

ROWS: dict[str, dict[str, Any]] = {
    "sft-512": {
        "stage": "sft",
        "lengths": "chats",
        "common": {"max_length": 512, "batch_size": 8},
        "variants": {
            "notebook": NOTEBOOK,
            "nf4 kept": {**OURS, "quantization": "nf4", "dequantize_once": "never"},
            "nf4": {**OURS, "quantization": "nf4"},
            "bf16": OURS,
            "bf16, no graphs": COMPILED,
            "bf16, not compiled": EAGER,
            "nf4, as planned": {"quantization": "nf4", "optim": "adamw_torch_fused"},
            "bf16, plain": {**EAGER, "padding_free": "never"},
            "fp32, plain": {**EAGER, "padding_free": "never", "dtype": "float32"},
            "unsloth nf4": {**UNSLOTH, "quantization": "nf4"},
            "unsloth bf16": {**UNSLOTH, "quantization": "none"},
        },
    },
    "sft-512-large": {
        "stage": "sft",
        "lengths": "chats",
        "common": {"max_length": 512, "batch_size": 64},
        "variants": {
            "bf16": OURS,
            "bf16, no graphs": COMPILED,
            "unsloth bf16": {**UNSLOTH, "quantization": "none"},
        },
    },
    "sft-2048": {
        "stage": "sft",
        "lengths": "long chats",
        "common": {"max_length": 2048, "batch_size": 8},
        "variants": {
            "notebook": NOTEBOOK,
            "bf16": OURS,
            "bf16, no graphs": COMPILED,
            "bf16, not compiled": EAGER,
            "bf16, fallback": FALLBACK,
            "bf16, fallback, not compiled": {**FALLBACK, "torch_compile": "never"},
        },
    },
    "short": {
        "stage": "sft",
        "lengths": "questions",
        "common": {"max_length": 512, "batch_size": 64},
        "variants": {
            "notebook": {**NOTEBOOK, "batch_size": 8},
            "bf16, batch 64": OURS,
            "bf16, batch 64, no graphs": COMPILED,
            "bf16, batch 64, fallback": FALLBACK,
            "bf16, plain": {**EAGER, "padding_free": "never"},
        },
    },
    "dpo": {
        "stage": "dpo",
        "lengths": "pairs",
        "common": {"max_length": 512, "batch_size": 8},
        "variants": {
            "notebook": NOTEBOOK,
            "bf16": OURS,
            "bf16, precomputed": {**OURS, "precompute_ref_log_probs": True},
            "bf16, no graphs": COMPILED,
            "bf16, plain": EAGER,
            "bf16, not compiled, precomputed": {**EAGER, "precompute_ref_log_probs": True},
            "fp32, plain": {**EAGER, "dtype": "float32"},
            "fp32": {**OURS, "dtype": "float32"},
            "fp32, not compiled, precomputed": {**EAGER, "dtype": "float32", "precompute_ref_log_probs": True},
            "unsloth bf16": {**UNSLOTH, "quantization": "none"},
        },
    },
}


def lengths_of(kind: str, count: int) -> tuple[list[int], list[int]]:
    """Token lengths of chats and of pairs: UltraChat's are mostly beyond 512, questions on PDFs 30 to 200."""
    import random

    draw = random.Random(0)
    if kind == "pairs":
        return [64] * 8, [draw.randint(200, 480) for _ in range(count)]
    if kind == "questions":
        return [draw.randint(30, 200) for _ in range(count)], [64] * 8
    most = 4 if kind == "long chats" else 1
    return [int(draw.lognormvariate(6.8, 0.5) * most) + 64 for _ in range(count)], [64] * 8


def span(values: dict[str, Any]) -> tuple[int, int]:
    """Steps of warm-up, and steps that are timed, of a variant."""
    import torch

    if not torch.cuda.is_available():
        return CPU_WARM_UP, CPU_TIMED
    return (COMPILED_WARM_UP, COMPILED_TIMED) if values.get("torch_compile") == "always" else (WARM_UP, TIMED)


def section_of(row: dict[str, Any], values: dict[str, Any], steps: int) -> Any:
    """The typed section of a variant."""
    from omegaconf import OmegaConf

    from stages.lib.schema.training import Dpo, Sft

    dropout = 0.1 if "micro_batch_size" in values else 0.0
    fixed = {
        "lora": {"r": 64, "lora_alpha": 128, "lora_dropout": dropout},
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "max_steps": steps,
        "seed": 1,
        "checkpoint_minutes": 60,
    }
    if row["stage"] == "sft":
        fixed |= {"loss_on": "all", "overlong": "truncate", "mix": {"ultrachat": 1, "pdf_qa": 0}}
    else:
        fixed |= {"beta": 0.1, "learning_rate": 1e-5}
    kind = Sft if row["stage"] == "sft" else Dpo
    merged = OmegaConf.merge(OmegaConf.structured(kind), {**fixed, **row["common"], **values})
    return OmegaConf.to_object(merged)


def run_variant(place: Path, name: str, variant: str, profile: bool = False) -> dict[str, Any]:
    """Train through the stage's own function in `place`; speed after the warm-up, memory, losses, the plan."""
    import torch

    from stages import dpo, sft
    from stages.lib.training.plan import make_plan

    row = ROWS[name]
    values = dict(row["variants"][variant])
    ruled_out = dict.fromkeys(values.pop("ruled_out", []), "ruled out for the bench")
    on_gpu = torch.cuda.is_available()
    if variant == "notebook":
        values["dtype"] = "float16" if on_gpu else "bfloat16"
        if row["stage"] == "sft":
            values["padding_free"] = "never"
    warm_up, timed = span(values)
    section = section_of(row, values, warm_up + timed)
    module: Any = sft if row["stage"] == "sft" else dpo
    watch = Profiled(warm_up) if profile else Watch(warm_up)
    enter(place)
    if module is dpo:
        stand_in_for_a_merge(place)
    with ExitStack() as stack:
        stack.enter_context(patch("stages.lib.training.run.report_progress", watch.attach))
        if ruled_out:
            limited = partial(make_plan, ruled_out=ruled_out)
            stack.enter_context(patch("stages.lib.training.run.make_plan", lambda *a, ruled_out, **b: limited(*a, **b)))
        if variant in PLAIN:
            prepared = notebook_model if variant == "notebook" else as_is
            stack.enter_context(patch("stages.lib.training.run.speed_up_model", prepared))
            stack.enter_context(patch("stages.lib.training.run.speed_up_trainer", lambda *_: None))
        facts = getattr(module, row["stage"])(section, place / "out" / f"{name}-{variant}".replace(" ", "_"))
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else resident_peak()
    shown = ("micro_batch_size", "attention", "head", "padding_free", "torch_compile", "cuda_graphs", "parity")
    figures = json.loads(Path(f"out/{name}-{variant}".replace(" ", "_"), "metrics", f"{row['stage']}.json").read_text())
    return {
        "row": name,
        "variant": variant,
        **watch.figures(warm_up, timed),
        "peak_gib": round(peak, 1),
        "plan": {key: facts["plan"][key] for key in shown},
        "parity_compiled": figures.get("parity_compiled"),
        "estimated_gib": round(facts["plan"]["estimated_mib"] / 1024, 1),
        **(watch.found if isinstance(watch, Profiled) else {}),
    }


def stand_in_for_a_merge(place: Path) -> None:
    """Let dpo take the base for the merged SFT model."""
    from stages.lib.every_stage.lineage import read_lineage, write_lineage

    merged = place / "models/sft-merged"
    if not merged.exists():
        merged.symlink_to(place / "models/base")
        write_lineage(merged, {**read_lineage(merged), "kind": "merged"})


def as_is(model: Any, *_: Any) -> Any:
    """The model without anything of the fast path."""
    return model


def notebook_model(model: Any, *_: Any) -> Any:
    """The model as the notebook prepares it for its adapter."""
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model)


def differences(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How far the losses of a row's variants are from those of each plain one that ran, by its name.

    The largest difference of steps 1 to 10, the mean one of 20, and whether both are within GATE.
    """
    losses = {result["variant"]: result["losses"] for result in results}
    found: dict[str, dict[str, Any]] = {}
    for plain in PLAIN[1:]:
        for variant in losses:
            if plain in losses and variant != plain and variant.startswith(("bf16", "fp32")):
                apart = [abs(one - other) for one, other in zip(losses[plain], losses[variant], strict=False)]
                most, mean = max(apart[:10]), sum(apart) / len(apart)
                figures = {"1 to 10": round(most, 4), "mean": round(mean, 4), "holds": max(most, mean) <= GATE}
                found.setdefault(plain, {})[variant] = figures
    return found


def unable(values: dict[str, Any]) -> str:
    """Why a variant can't run on this machine; empty where it can."""
    from stages.lib.hardware import nvidia_gpu

    if values.get("engine") != "unsloth":
        return ""
    absent = [package for package in ("unsloth", "unsloth_zoo") if find_spec(package) is None]
    return f"{', '.join(absent)} not installed" if absent else "" if nvidia_gpu() else "no NVIDIA GPU"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=ROWS)
    parser.add_argument("--shape", default="TinyLlama-1.1B", choices=[*SHAPES, *FAMILIES])
    parser.add_argument("--only", nargs="*", help="variants; all unless given")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", help="of one row: run it here and print its result as JSON")
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(run_variant(options.place, options.rows[0], options.variant, options.profile)))
        sys.exit()
    results = []
    with TemporaryDirectory() as scratch:
        for name in options.rows:
            base = Path(scratch) / options.shape
            if not (base / "models/base").exists():
                write_base(base, options.shape)
            row = ROWS[name]
            biggest = max(values.get("batch_size", row["common"]["batch_size"]) for values in row["variants"].values())
            write_data(base, *lengths_of(row["lengths"], min(4096, biggest * (COMPILED_WARM_UP + COMPILED_TIMED))))
            reference = 0.0
            for variant in options.only or row["variants"]:
                if reason := unable(row["variants"][variant]):
                    print(f"{name} {variant}: skipped, {reason}", flush=True)
                    continue
                command = [sys.executable, "-m", "bench.training", name, "--variant", variant]
                command += ["--place", str(base), *(["--profile"] if options.profile else [])]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name} {variant}: failed\n{done.stdout[-800:]}\n{done.stderr[-2500:]}", flush=True)
                    continue
                result = json.loads(done.stdout.splitlines()[-1])
                reference = reference or result["tokens_per_second"]
                result["ratio"] = round(result["tokens_per_second"] / reference, 2)
                results.append(result)
                shown = {key: value for key, value in result.items() if key != "losses"}
                print(json.dumps(shown), flush=True)
                print("   losses", result["losses"], flush=True)
            print(
                "losses apart", json.dumps(differences([each for each in results if each["row"] == name])), flush=True
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
