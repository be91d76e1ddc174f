"""Compose conf/ and params.yaml into one typed section per stage.

Precedence: schema < groups < conf/config.yaml < params.yaml < command line. Nothing here needs to be in a
stage's deps: all that it decides ends as values in params.lock.yaml, which DVC tracks key by key.
"""

import os
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.lib.every_stage.errors import UserError
from stages.lib.known_keys import HYDRA, KnownKeys, keys_within_value
from stages.lib.schema.config import Config, check_together
from stages.lib.schema.reinforcement import check_rewards
from stages.lib.yaml_files import read_yaml

CONF = Path("conf")
PARAMS = Path("params.yaml")
SECTIONS = [
    "prepare_base",
    "probe_base",
    "prepare_ultrachat",
    "prepare_pdf_qa",
    "prepare_preferences",
    "sft",
    "merge",
    "sample_preferences",
    "dpo",
    "merge_dpo",
    "preference",
    "merge_preference",
    "reward",
    "rl",
    "merge_rl",
    "prune",
    "heal",
    "merge_heal",
    "evaluate",
    "quantize",
    "judge",
    "benchmark",
    "report",
]
DEFAULTS = "defaults"
"""The list in which Hydra finds the files to compose."""
GROUPS = ["model", "data", "recipe", "profile"]
WATCHED = {
    "prepare_ultrachat": Path("data/raw/ultrachat"),
    "prepare_pdf_qa": Path("data/raw/pdf_qa"),
    "prepare_preferences": Path("data/raw/preferences"),
}
"""The folder of a section's files that DVC compares: the stage's dep in dvc.yaml."""
FILES = {"path", "files", "pdfs"}
"""Keys of these sections that name files or folders."""


def refuse_unheard(words: list[str], schema: type[Config] = Config) -> None:
    """Raise UserError, before Hydra reads anything, for what it would lose or take silently: all problems at once.

    These are files of conf/ that aren't UTF-8, keys that stand twice in one of them, and keys that `schema` doesn't
    know, in conf/ or among the `words` of the command line, whether they are written with a + or not.
    """
    known, problems = KnownKeys(schema, GROUPS), []
    own = [CONF / "config.yaml", *(path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml")))]
    for path in sorted({*CONF.rglob("*.yaml"), *own}):
        try:
            _, keys = read_yaml(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if path in own and is_global(path):
            listed = [(key, f"{path}:{line}") for key, line in keys if key[0] not in (HYDRA, DEFAULTS)]
            problems += known.problems(listed)
    try:
        known.refuse_overrides(words)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def for_hydra(words: list[str], schema: type[Config] = Config) -> list[str]:
    """The words of a command line as Hydra takes them: columns of one's own files may be named without a +."""
    return KnownKeys(schema, GROUPS).with_plus(words)


def is_global(path: Path) -> bool:
    """Whether the keys of a file in conf/ are those of the whole config, and not of one section (Hydra's package)."""
    return path == CONF / "config.yaml" or "@package _global_" in path.read_text(encoding="utf-8").partition("\n")[0]


def read_params(path: Path = PARAMS, schema: type[Config] = Config) -> tuple[dict[str, str], dict[str, Any]]:
    """Split params.yaml into group choices and knobs; a knob that is null is left to the groups.

    Raises UserError for a file that isn't a mapping in UTF-8, that has a key twice or one that `schema` doesn't know,
    null or not, and for an interpolation, which `dvc exp run -S` breaks on.
    """
    content, keys = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}, needed keys such as 'model: smollm2-135m'")
    if problems := KnownKeys(schema, GROUPS).problems([(key, f"{path}:{line}") for key, line in keys]):
        raise UserError("\n".join(problems))
    if "${" in path.read_text(encoding="utf-8-sig"):
        raise UserError(f"{path}: found an interpolation '${{…}}'; needed literals. Interpolations belong in {CONF}/")
    choices = {group: str(content.pop(group)) for group in GROUPS if content.get(group)}
    return choices, without_nulls(content)


def without_nulls(knobs: dict[str, Any]) -> dict[str, Any]:
    """Drop null values and the mappings that this leaves empty."""
    kept: dict[str, Any] = {}
    for key, value in knobs.items():
        if isinstance(value, dict):
            value = without_nulls(value)
            if not value:
                continue
        if value is not None:
            kept[key] = value
    return kept


def register(
    job_name: str,
    choices: dict[str, str],
    knobs: dict[str, Any],
    schema: type[Config] = Config,
    hydra: dict[str, Any] | None = None,
) -> None:
    """Put `schema` and params.yaml into Hydra's ConfigStore, where conf/config.yaml's defaults list finds them.

    `hydra` are more of Hydra's own settings. Its launchers hand the ConfigStore to the processes they start, so what
    is in it holds there too.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    overrides = [{f"override /{group}": choice} for group, choice in choices.items()]
    settings = {"hydra": {"job": {"name": job_name}, **(hydra or {})}}
    store.store(name="params", node={"defaults": [*overrides, "_self_"], **settings, **knobs})


def compose_config(choices: dict[str, str], knobs: dict[str, Any], overrides: list[str] | None = None) -> DictConfig:
    """Compose the whole config, Hydra's own node included, as Hydra does for a stage run from a shell.

    Raises UserError with one line that names the full key, for whatever Hydra or OmegaConf refuse.
    """
    register("config", choices, knobs)
    try:
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            return compose("config", overrides=overrides or [], return_hydra_config=True)
    except (HydraException, MissingConfigException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from None


def explain(error: BaseException) -> str:
    """The innermost cause of a Hydra error, with OmegaConf's full_key, on as few lines as it needs."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).split("Config search path:")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and "_type=" not in line]
    return "; ".join(lines).replace(":;", ":").replace("';", "',").rstrip(";")


def typed_sections(config: DictConfig, only: str = "") -> dict[str, Any]:
    """Resolve every stage's section, or `only` one, and check it.

    Returns plain dictionaries by section name, enums as their names. Raises UserError listing every problem found
    at once: missing values by full key, and combinations that the schema's __post_init__ refuses. Keys that nothing
    reads are refused in whatever section they are.
    """
    names = [only] if only else SECTIONS
    keys = keys_within_value(OmegaConf.to_container(config))
    if unknown := KnownKeys(OmegaConf.get_type(config) or Config, GROUPS).problems((key, "conf") for key in keys):
        raise UserError("\n".join(unknown))
    missing = [key for key in sorted(OmegaConf.missing_keys(config)) if key.split(".")[0] in names]
    problems = [
        f"{key}: no value; needed one from params.yaml, a group in {CONF}/ or the command line" for key in missing
    ]
    sections: dict[str, Any] = {}
    typed: dict[str, Any] = {}
    for name in names:
        if any(key.split(".")[0] == name for key in missing):
            continue
        try:
            typed[name] = OmegaConf.to_object(config[name])
            sections[name] = OmegaConf.to_container(config[name], resolve=True, enum_to_str=True)
        except OmegaConfBaseException as error:
            problems.append(explain(error))
        except UserError as error:
            problems.append(str(error))
    if {"sft", "merge", "dpo", "preference"} <= set(typed):
        try:
            check_together(typed["sft"], typed["merge"], typed["dpo"], typed["preference"])
        except UserError as error:
            problems.append(str(error))
    if {"reward", "rl"} <= set(typed):
        try:
            check_rewards(typed["reward"], typed["rl"])
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return sections


def refuse_unwatched(sections: dict[str, Any]) -> None:
    """Raise UserError for every file that a data section names where DVC doesn't look.

    An edit there would change nothing: `dvc repro` would keep what the stage made of the old content.
    """
    problems = []
    for key, value in flatten(sections).items():
        section, name = key.split(".")[0], key.split(".")[-1]
        if section not in WATCHED or name not in FILES or ".columns." in key:
            continue
        for path in [value] if isinstance(value, str) else value:
            if path and not Path(os.path.relpath(path)).is_relative_to(WATCHED[section]):
                problems.append(
                    f"{key}: found {path}, needed a path in {WATCHED[section]}: DVC doesn't see an edit elsewhere. "
                    f"Move it there, or run the stage by itself: python -m stages.{section} {key}=…"
                )
    if problems:
        raise UserError("\n".join(problems))


def overridden(config: DictConfig, choices: dict[str, str], knobs: dict[str, Any]) -> list[str]:
    """One line for each knob of params.yaml that differs from what the groups say: none outlives them silently."""
    groups_alone = compose_config(choices, {})
    lines = []
    for key, value in flatten(knobs).items():
        default = OmegaConf.select(groups_alone, key)
        if default != OmegaConf.select(config, key):
            shown = default.name if isinstance(default, Enum) else repr(default)
            lines.append(f"params.yaml sets {key} = {value}; without it the groups say {shown}")
    return lines


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
