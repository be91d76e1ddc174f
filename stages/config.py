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
    compose_config,
    overridden,
    read_params,
    refuse_unwatched,
    typed_sections,
)
from stages.lib.entry import begin_under_dvc, exit_on_user_error
from stages.lib.publish import published

LOCK = Path("params.lock.yaml")
HEADER = "# Written by `python -m stages.config` from params.yaml and conf/. Edit those.\n"


def config(overrides: list[str]) -> None:
    """Write params.lock.yaml. Raises UserError, leaving the file as it was, if any value is refused."""
    choices, knobs = read_params()
    composed = compose_config(choices, knobs, overrides)
    sections = typed_sections(composed)
    refuse_unwatched(sections)
    sections["choices"] = {group: composed.hydra.runtime.choices[group] for group in GROUPS}
    for line in overridden(composed, choices, knobs):
        print(line)
    with published(LOCK) as path:
        path.write_text(HEADER + yaml.safe_dump(sections, allow_unicode=True), encoding="utf-8")


if __name__ == "__main__":
    if os.environ.get("DVC_STAGE") == "config":
        begin_under_dvc("config")
    exit_on_user_error("config", lambda: config(sys.argv[1:]))
