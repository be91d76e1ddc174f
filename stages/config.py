"""Answer params.yaml: compose conf/ and params.yaml, check every value, write the resolved sections.

Reads   conf/, params.yaml
Writes  params.lock.yaml: one section per stage, which is all that DVC compares and all that a stage is given
Run     python -m stages.config
"""

import os
import sys
from pathlib import Path

import yaml

from stages.lib.configuration import (
    GROUPS,
    PARAMS,
    compose_config,
    overridden,
    read_params,
    refuse_unheard,
    refuse_unwatched,
    typed_sections,
)
from stages.lib.errors import UserError
from stages.lib.publish import published

LOCK = Path("params.lock.yaml")
HEADER = "# Written by `python -m stages.config` from params.yaml and conf/. Edit those.\n"


def config(overrides: list[str]) -> None:
    """Write params.lock.yaml. Raises UserError, leaving the file as it was, if any value is refused."""
    refuse_unheard(overrides)
    choices, knobs = read_params()
    composed = compose_config(choices, knobs, overrides)
    sections = typed_sections(composed)
    refuse_unwatched(sections)
    sections["choices"] = {group: composed.hydra.runtime.choices[group] for group in GROUPS}
    for line in overridden(composed, choices, knobs):
        print(line)
    with published(LOCK) as path:
        path.write_text(HEADER + yaml.safe_dump(sections, allow_unicode=True), encoding="utf-8")


def how_to_restore() -> str:
    """What to do about params.yaml where `dvc exp run -S` wrote the refused values into it; empty anywhere else.

    DVC says so by its variables: DVC_EXP_NAME in an experiment, and DVC_ROOT elsewhere than here if it is one in a
    temporary directory, which leaves the workspace as it was.
    """
    if "DVC_EXP_NAME" not in os.environ or Path(os.environ.get("DVC_ROOT", "")).resolve() != Path.cwd():
        return ""
    return (
        f"\n{PARAMS} holds what `dvc exp run -S` set: `git restore {PARAMS}` takes it back, with other edits that "
        "aren't committed"
    )


if __name__ == "__main__":
    try:
        config(sys.argv[1:])
    except UserError as error:
        sys.exit(f"config: {error}{how_to_restore()}")
