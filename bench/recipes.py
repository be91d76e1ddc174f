"""What each ingredient of a recipe is worth: whole chains of the default data, a seed each, several side by side.

A variant is a name and what it sets beyond params.yaml (bench/recipes.yaml). Each runs the stages themselves, from the
data to the scores, in a copy of the repository; a base, and an SFT model of one seed, are made once for all variants
that share them. The table has the mean over seeds of each figure, and between which values it was.

Run     python -m bench.recipes [VARIANT ...] [--seeds 3] [--side-by-side 10] [--place FOLDER] [--out results.jsonl]
        On one GPU small models run side by side; on a CPU take --side-by-side 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from omegaconf import OmegaConf

from stages.lib.family import BESIDE

VARIANTS = Path(__file__).with_suffix(".yaml")
COPIED = ("conf", "stages", "data/raw", "dvc.yaml", "params.yaml", "pyproject.toml")
FIRST = ("config", "prepare-base")
TUNED = "merge"
LAST = "evaluate"
LATER = ("sample_preferences", "dpo", "merge_dpo", "preference", "merge_preference", "reward", "rl")
LATER += ("merge_rl", "evaluate")
"""Sections of what comes after SFT and its merge, which variants that differ in nothing else share."""
SEEDED = ("sft", "sample_preferences", "dpo", "preference", "reward", "rl")


def stages_of(place: Path) -> list[str]:
    """Names of the stages from `config` to `evaluate`, in the order of dvc.yaml; the probe's verdict is known."""
    names = list(yaml.safe_load((place / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    return [name for name in names[: names.index(LAST) + 1] if name != "probe-base"]


def copied(place: Path) -> Path:
    """A copy of what a chain needs of this repository at `place`."""
    for name in COPIED:
        source = Path(name)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    return place


def ask(place: Path, settings: dict[str, Any], seed: int | None = None) -> None:
    """Write `settings`, dotted names and values, over the copy's params.yaml, and `seed` where training draws."""
    asked = OmegaConf.load(place / "params.yaml")
    for name, value in settings.items():
        OmegaConf.update(asked, name, value, force_add=True)
    for section in SEEDED if seed is not None else ():
        if section.replace("_", "-") in stages_of(place):
            OmegaConf.update(asked, f"{section}.seed", seed, force_add=True)
    OmegaConf.save(asked, place / "params.yaml")


def run_stages(place: Path, names: Iterable[str]) -> None:
    """Run stages in the copy as DVC runs them, one after another; what they print goes into its log."""
    with (place / "log").open("a", encoding="utf-8") as log:
        for name in names:
            environment = os.environ | {"DVC_STAGE": name, "XDG_CACHE_HOME": str(place / "cache")}
            command = [sys.executable, "-m", f"stages.{name.replace('-', '_')}"]
            subprocess.run(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def bases_of(variants: dict[str, dict[str, Any]], home: Path) -> dict[str, Path]:
    """For each variant a folder with its prepared base; those that ask for one base share it."""
    bases: dict[str, Path] = {}
    prepared: dict[str, Path] = {}
    for name, settings in variants.items():
        concerned = {key: value for key, value in settings.items() if key.split(".")[0] in ("model", "prepare_base")}
        key = json.dumps(concerned, sort_keys=True)
        if key not in prepared:
            place = copied(home / f"base-{len(prepared)}")
            ask(place, concerned)
            run_stages(place, FIRST)
            prepared[key] = place / "models/base"
        bases[name] = prepared[key]
    return bases


def chained(name: str, place: Path, before: Path | None, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run what `place`, a copy with a base, lacks of a chain to the scores, with the merged SFT model of `before`.

    Without it, SFT and its merge alone. Returns scores and the seconds of each stage; or `failed` and why.
    """
    ask(place, settings, seed)
    names = [stage for stage in stages_of(place) if stage != "prepare-base"]
    middle = names.index(TUNED) + 1
    began = time.monotonic()
    try:
        run_stages(place, names[:middle] if before is None else ["config", *names[middle:]])
    except subprocess.CalledProcessError:
        last = (place / "log").read_text(encoding="utf-8").strip().splitlines()[-1]
        return {"variant": name, "seed": seed, "failed": last}
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (place / "metrics/runs").glob("*.json")]
    scores = place / "metrics/eval.json"
    return {
        "variant": name,
        "seed": seed,
        "scores": json.loads(scores.read_text(encoding="utf-8")) if scores.exists() else {},
        "seconds": {record["stage"]: record["seconds"] for record in records},
        "wall": round(time.monotonic() - began, 1),
    }


def linked(source: Path, place: Path) -> Path:
    """A copy of a folder by hard links; stages replace files, they don't write into them."""
    shutil.copytree(source, place, copy_function=os.link, symlinks=True)
    for written in ("params.yaml", "log"):
        if (place / written).exists():
            content = (place / written).read_bytes()
            (place / written).unlink()
            (place / written).write_bytes(content)
    return place


def figure(scores: dict[str, Any], path: str) -> float | None:
    """A figure by its dotted name, such as sft.seen.key_exact; `sft.control_en.perplexity/base`: a ratio to base's.

    `beside` is the model of stage preference, whatever its method.
    """
    name, _, other = path.partition("/")
    model, *rest = name.split(".")
    found = scores.get(next((method for method in BESIDE if method in scores), "") if model == "beside" else model)
    for key in rest:
        found = found.get(key) if isinstance(found, dict) else None
    if found is None or not other:
        return found
    below = figure(scores, ".".join([other, *rest]))
    return found / below if below else None


def table(results: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Markdown, a line for each variant: mean over its seeds, and the lowest and highest where there are several."""
    lines = [f"| variant | seeds | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for name in dict.fromkeys(result["variant"] for result in results):
        mine = [result for result in results if result["variant"] == name]
        whole = [result for result in mine if "failed" not in result]
        if not whole:
            lines.append(f"| {name} | 0 | {mine[0]['failed']} |")
            continue
        cells = []
        for path in columns.values():
            values = [value for one in whole if (value := figure(one["scores"], path)) is not None]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.2f}{spread}" if values else "")
        lines.append(f"| {name} | {len(whole)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: argparse.Namespace, home: Path) -> None:
    asked = yaml.safe_load(options.variants.read_text(encoding="utf-8"))
    chosen = {name: asked["variants"][name] or {} for name in options.names or asked["variants"]}
    home.mkdir(parents=True, exist_ok=True)
    bases = bases_of(chosen, home)
    results: list[dict[str, Any]] = []
    tuned: dict[tuple[str, int], Path] = {}

    def upstream(name: str) -> str:
        return json.dumps({key: value for key, value in chosen[name].items() if key.split(".")[0] not in LATER})

    def tune(task: tuple[str, int]) -> None:
        key, seed = task
        name = next(name for name in chosen if upstream(name) == key)
        place = copied(home / f"sft-{name}-{seed}")
        linked(bases[name], place / "models/base")
        tuned[task] = place
        result = chained(name, place, None, json.loads(key), seed)
        print(f"sft of {name} {seed}: {result.get('failed', '')}{result.get('wall', '')}", file=sys.stderr, flush=True)

    def finish(task: tuple[str, int]) -> None:
        name, seed = task
        before = tuned[upstream(name), seed]
        place = linked(before, home / f"{name}-{seed}")
        result = chained(name, place, before, chosen[name], seed)
        results.append(result)
        with options.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(result) + "\n")
        print(f"{name} {seed}: {result.get('failed', '')}{result.get('wall', '')}", file=sys.stderr, flush=True)

    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with ThreadPoolExecutor(options.side_by_side) as pool:
        list(pool.map(tune, [(key, seed) for seed in seeds for key in dict.fromkeys(map(upstream, chosen))]))
        list(pool.map(finish, [(name, seed) for seed in seeds for name in chosen]))
    print(table(sorted(results, key=lambda one: [*chosen].index(one["variant"])), asked["columns"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help="of the file of variants; all where none is named")
    parser.add_argument("--variants", type=Path, default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--side-by-side", type=int, default=1)
    parser.add_argument("--place", type=Path, help="keeps every chain")
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        main(options, (options.place or Path(scratch)).absolute())
