"""Answer params.yaml: compose conf/ and params.yaml, check every value, write the resolved sections.

Reads   conf/, params.yaml
Writes  params.lock.yaml: one section per stage, which is all that DVC compares and all that a stage is given;
        data/raw/base: a link to prepare_base.path, so that DVC compares a local base model's files too
Run     python -m stages.config
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from stages.lib.configuration import (
    GROUPS,
    PARAMS,
    compose_config,
    for_hydra,
    overridden,
    read_params,
    refuse_unheard,
    refuse_unwatched,
    typed_sections,
)
from stages.lib.every_stage.entry import begin_under_dvc, exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.publish import published

LOCK = Path("params.lock.yaml")
BASE_LINK = Path("data/raw/base")
NO_LINK = """\
prepare_base.source is not local: the base model comes from a package or from the Hub. Where it is local, `config` puts
a link to the directory that prepare_base.path names here, so that DVC sees when the model there changes.
"""
HEADER = "# Written by `python -m stages.config` from params.yaml and conf/. Edit those.\n"


def config(overrides: list[str]) -> None:
    """Write params.lock.yaml. Raises UserError, leaving the file as it was, if any value is refused."""
    refuse_unheard(overrides)
    choices, knobs = read_params()
    composed = compose_config(choices, knobs, for_hydra(overrides))
    sections = typed_sections(composed)
    refuse_unwatched(sections)
    link_base(sections["prepare_base"])
    sections["choices"] = {group: composed.hydra.runtime.choices[group] for group in GROUPS}
    for line in overridden(composed, choices, knobs):
        print(line)
    with published(LOCK) as path:
        path.write_text(HEADER + yaml.safe_dump(sections, allow_unicode=True), encoding="utf-8")


def link_base(section: dict[str, Any]) -> None:
    """Make data/raw/base a link to the local base model, or a note where there is none.

    dvc.yaml can name one path alone, whatever prepare_base.path is. Raises UserError for a path where nothing is.
    """
    BASE_LINK.parent.mkdir(parents=True, exist_ok=True)
    if section["source"] != "local":
        if BASE_LINK.is_symlink():
            BASE_LINK.unlink()
        if not BASE_LINK.is_file():
            BASE_LINK.write_text(NO_LINK, encoding="utf-8")
        return
    target = Path(section["path"]).expanduser()
    if not target.exists():
        raise UserError(f"prepare_base.path: found nothing at {target}, needed a model directory")
    if not target.is_absolute():
        target = Path(os.path.relpath(target, BASE_LINK.parent))
    if not BASE_LINK.is_symlink() or BASE_LINK.readlink() != target:
        BASE_LINK.unlink(missing_ok=True)
        BASE_LINK.symlink_to(target)


def how_to_restore() -> str:
    """What to do about params.yaml where `dvc exp run -S` wrote refused values into it; empty anywhere else.

    DVC says so by its variables: DVC_EXP_NAME in an experiment, and DVC_ROOT elsewhere than here if it is one in a
    temporary directory, which leaves the workspace as it was.
    """
    if "DVC_EXP_NAME" not in os.environ or Path(os.environ.get("DVC_ROOT", "")).resolve() != Path.cwd():
        return ""
    if not subprocess.run(["git", "diff", "--quiet", "--", str(PARAMS)], check=False).returncode:
        return ""
    return (
        f"\n{PARAMS} holds what `dvc exp run -S` set: `git restore {PARAMS}` takes it back, with other edits that "
        "aren't committed"
    )


if __name__ == "__main__":
    if os.environ.get("DVC_STAGE") == "config":
        begin_under_dvc("config")
    try:
        exit_on_user_error("config", lambda: config(sys.argv[1:]))
    except SystemExit as refused:
        sys.exit(f"{refused.code}{how_to_restore()}" if isinstance(refused.code, str) else refused.code)
