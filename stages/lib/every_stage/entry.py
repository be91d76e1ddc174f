"""How a stage is started: by DVC, with its section of params.lock.yaml; from a shell, as a Hydra app.

Under DVC (which sets DVC_STAGE) a stage gets exactly what DVC hashed and writes into DVC's outs. From a shell the
same command takes Hydra's overrides and flags and writes under outputs/ or multirun/, never into DVC's outs.
"""

import gc
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.foreign_text import shown
from stages.lib.every_stage.openmp import spin_count
from stages.lib.every_stage.publish import published, what_was_published, written_whole
from stages.lib.every_stage.shortages import what_ran_out
from stages.lib.every_stage.started import remember, section_of
from stages.lib.schema.config import Config

LOCK = Path("params.lock.yaml")
DVC_LOCK = Path("dvc.lock")
DVC_LOCK_KEPT = Path(".dvc/tmp/dvc.lock")
RUN_RECORDS = Path("metrics/runs")
TRACKING = Path("outputs/tracking")
"""Where trackers (report_to) keep their files. The trainer's own choice for tensorboard is the folder of checkpoints,
which goes when training ends well."""

Stage = Callable[[Any, Path], dict[str, Any]]
"""A stage takes its section and the root that its outputs are relative to, and returns facts for its run record."""


def run(stage: Stage) -> None:
    """Run `stage`, whose name is its section's. Ends the process with status 1 and one message on UserError."""
    name = stage.__name__
    for variable, value in environment(name).items():
        os.environ.setdefault(variable, value)
    if os.environ.get("DVC_STAGE") == name.replace("_", "-"):
        begin_under_dvc(os.environ["DVC_STAGE"])
        exit_on_user_error(name, lambda: timed(stage, OmegaConf.to_object(locked_section(name)), Path()))
        gc.freeze()  # the interpreter would look through all objects before it ends: 2 seconds with transformers
    else:
        run_from_shell(stage)


def environment(name: str) -> dict[str, str]:
    """What libraries are told, where the user's own environment doesn't say otherwise.

    Nothing phones home; trackers ask for nothing, wait for nobody and write below outputs/tracking of the repository
    (DVC_ROOT, which an experiment in a temporary directory outlives). `name` is the stage's.
    """
    home = Path(os.environ.get("DVC_ROOT", "")).absolute() / TRACKING
    moment = time.strftime("%Y-%m-%d_%H-%M-%S", time.gmtime())
    return {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TENSORBOARD_LOGGING_DIR": str(home / "tensorboard" / f"{name}_{moment}"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "graft",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(home / "trackio"),
        "WANDB_DIR": str(home),
        "WANDB_PROJECT": "graft",
        # Online it asks for a key and waits for a server; `wandb sync` uploads what is kept. "dryrun" is "offline" by
        # the name for which transformers doesn't print a line in every process.
        "WANDB_MODE": "dryrun",
        **spin_count(),
    }


def locked_section(name: str) -> Any:
    """The typed section `name` of params.lock.yaml. Raises UserError where it isn't there, or isn't of this code."""
    section_type = Config.__annotations__[name]
    if (content := section_of(name, Path())) is None:
        raise UserError(f"{LOCK}: found no section {name}, needed what `dvc repro config` writes")
    try:
        return OmegaConf.merge(OmegaConf.structured(section_type), content)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{LOCK}: {str(error).splitlines()[0]} ({name}); needed what `dvc repro config` writes"
        ) from None


def run_from_shell(stage: Stage) -> None:
    """Run `stage` as a Hydra app: overrides, --multirun, --cfg job and completion all work."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from stages.lib.configuration import CONF, for_hydra, read_params, refuse_unheard, register, typed_sections

    name = stage.__name__

    @hydra.main(version_base="1.3", config_path=str(CONF.resolve()), config_name="config")
    def app(config: Any) -> None:
        def body() -> None:
            typed_sections(config, only=name)
            root = Path(HydraConfig.get().runtime.output_dir)
            print(f"{name}: writes under {os.path.relpath(root)}")
            timed(stage, OmegaConf.to_object(config[name]), root)

        exit_on_user_error(name, body)

    def ask() -> None:
        refuse_unheard(sys.argv[1:])
        sys.argv[1:] = for_hydra(sys.argv[1:])
        register(name, *read_params())

    exit_on_user_error(name, ask)
    app()


def exit_on_user_error(name: str, body: Callable[[], None], interrupted: str = "") -> None:
    """Run `body`; a UserError becomes its message on standard error and exit status 1.

    So do a full disk or memory and a closed standard output, wherever `body` meets them. Ctrl-C ends it with status
    130 and what `interrupted` says is left behind; by default what was published.
    """
    name = name.replace("_", "-")
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters that the terminal's encoding lacks are spelt, as \ub2ec
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        body()
        flush()  # or its failure would come too late for a message
    except UserError as error:
        end(f"{name}: {shown(str(error))}")
    except KeyboardInterrupt:
        print(f"{name}: stopped by Ctrl-C; {interrupted or what_was_published()}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (reason := what_ran_out(error)):
            raise
        end(f"{name}: {shown(reason)}; {interrupted or what_was_published()}")


def flush() -> None:
    """Send on what was printed. Without a standard output (>&-) Python has none, and nothing was."""
    if sys.stdout is not None:
        sys.stdout.flush()


def end(message: str) -> NoReturn:
    """End with status 1 and a message, whatever became of standard output."""
    try:
        flush()
    except OSError:  # Python would try again, and end with a status and a message of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(message)


def begin_under_dvc(stage: str) -> None:
    """Remember what the stage begins with, and keep a copy of dvc.lock.

    DVC rewrites that in place: killed while it does, it leaves a part of it, and can't read it again. `make repro` puts
    the copy back (tools/repair.py).
    """
    remember(stage)
    if DVC_LOCK.is_file() and DVC_LOCK_KEPT.parent.is_dir():
        content = DVC_LOCK.read_bytes()
        if is_lock(content):
            with written_whole(DVC_LOCK_KEPT) as path:
                path.write_bytes(content)


def is_lock(content: bytes) -> bool:
    """Whether this is a whole dvc.lock."""
    try:
        found = yaml.load(content, yaml.CSafeLoader)
    except yaml.YAMLError:
        return False
    return isinstance(found, dict) and {"schema", "stages"} <= set(found)


def timed(stage: Stage, section: Any, root: Path) -> None:
    """Run `stage` and write its run record: what differs between equal runs, such as time and memory."""
    started = time.monotonic()
    facts = stage(section, root)
    record = {
        "stage": stage.__name__.replace("_", "-"),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - started, 1),
        "process_seconds": round(time.time() - psutil.Process().create_time(), 1),  # with the imports before
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **facts,
    }
    with published(records(root) / f"{stage.__name__}.json") as path:
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def records(root: Path) -> Path:
    """Where run records go: metrics/runs under `root`.

    An experiment in a temporary directory, as DVC's queue runs it, leaves them under its name with the repository it
    came from (DVC_ROOT): DVC throws the directory away.
    """
    home, name = os.environ.get("DVC_ROOT"), os.environ.get("DVC_EXP_NAME")
    if home and name and Path(home).resolve() != Path.cwd():
        return Path(home) / RUN_RECORDS / name
    return root / RUN_RECORDS
