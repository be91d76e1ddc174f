"""Run the whole chain for every combination of overrides, and compare them.

Reads   the workspace: conf/, params.yaml, code and data as they stand
Writes  one DVC experiment a point; multirun/sweep/<time>/: table.csv, points.json, heat_map.svg, cost.svg;
        multirun/points/<point>/: what it cost, its log
Run     graft sweep sft.lora.r=4,8 sft.learning_rate=1e-4,2e-4
        … hydra/launcher=joblib hydra.launcher.n_jobs=2      points side by side; or submitit_slurm, ray
        … sweep.queue=2                                      or by two workers of DVC's queue
        graft promote                              the best point becomes the workspace

The same command again runs what is missing: a point that ran before is taken from its experiment.
"""

import json
import os
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stages.lib.configuration import CONF, for_hydra, read_params, refuse_unheard, register, typed_sections
from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.records import write_json
from tools.lib.points import Point, fingerprint, run_point
from tools.lib.queue import queue_point, run_queue
from tools.lib.sweep_config import Sweep, SweepConfig
from tools.lib.sweep_table import compare, draw, score_of, table, write_csv

SWEEPS = Path("multirun/sweep")


def sweep() -> None:
    """Run every point, each by one Hydra job, then compare them. Raises UserError if any failed."""
    import hydra
    from hydra.errors import CompactHydraException

    home = Path.cwd()
    inputs = fingerprint()
    place = home / SWEEPS / time.strftime("%Y-%m-%d_%H-%M-%S")
    directories = {"sweep": {"dir": str(place)}, "run": {"dir": str(place)}}
    refuse_unheard(sys.argv[1:], SweepConfig)
    sys.argv[1:] = for_hydra(sys.argv[1:], SweepConfig)
    register("sweep", *read_params(schema=SweepConfig), schema=SweepConfig, hydra=directories)

    @hydra.main(version_base="1.3", config_path=str(CONF.resolve()), config_name="config")
    def job(config: DictConfig) -> float | None:
        """One point; its score goes to Hydra's sweeper: None, which a search counts as failed, where there is none."""
        os.chdir(home)
        return run_job(config, inputs, place)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, and not as a traceback on the terminal
    try:
        job()
    except SystemExit:  # a sweeper that breaks off leaves points worth showing
        finish(place)
        raise
    except CompactHydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    except BrokenExecutor as error:
        finish(place)
        raise UserError(
            "a worker process of the sweep was ended, by the system where memory ran out; the same command runs what "
            "is missing. Choose a smaller hydra.launcher.n_jobs if it happens again"
        ) from error
    finish(place)


def run_job(config: DictConfig, inputs: str, place: Path) -> float | None:
    """Run or queue the point of one Hydra job and leave what became of it under `place`; its score, if it has one."""
    from hydra.core.hydra_config import HydraConfig

    overrides = [word for word in HydraConfig.get().overrides.task if not word.lstrip("+").startswith("sweep.")]
    settings = config.sweep
    outcome: dict[str, Any]
    try:
        point = Point(overrides, typed_sections(config), inputs)
        outcome = queue_point(point) if settings.queue else run_point(point, settings.hopeless)
    except UserError as error:
        outcome = {"name": ",".join(overrides), "overrides": overrides, "status": "failed", "reason": str(error)}
    score = score_of(outcome, settings.metric)
    result = outcome["reason"] or (f"{settings.metric} {score}" if score is not None else "no score yet")
    print(shown(f"{outcome['status']:8}{' '.join(overrides) or 'the workspace'}: {result}"), flush=True)
    job = HydraConfig.get().job
    number = 0 if OmegaConf.is_missing(job, "num") else job.num  # missing without --multirun
    (place / "jobs").mkdir(parents=True, exist_ok=True)
    write_json(place / "jobs" / f"{number:04}.json", {**outcome, "settings": dict(settings)})
    return score


def finish(place: Path) -> None:
    """Let DVC's queue run what was queued, then print and write the comparison of all points under `place`.

    Raises UserError if a point failed, after the others were compared.
    """
    outcomes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("jobs/*.json"))]
    if not outcomes:  # --help, --cfg
        return
    settings = Sweep(**outcomes[0]["settings"])
    if queued := [outcome for outcome in outcomes if outcome["status"] == "queued"]:
        run_queue(queued, settings.queue)
    rows = compare(outcomes, settings.metric, settings.smaller_is_better)
    write_json(place / "points.json", {"metric": settings.metric, "rows": rows})
    write_csv(place / "table.csv", rows)
    print(shown(f"\n{table(rows, settings.metric)}\n"))
    plots = draw(place, rows, settings.metric)
    print(f"written: {', '.join(os.path.relpath(path) for path in [place / 'table.csv', *plots])}")
    if failed := [row for row in rows if row["status"] == "failed"]:
        raise UserError(f"{len(failed)} of {len(rows)} points failed; give the same command again to run them alone")


if __name__ == "__main__":
    exit_on_user_error("sweep", sweep, "the same command again keeps the points that are finished and runs the rest")
