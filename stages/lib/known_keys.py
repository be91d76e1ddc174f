"""Keys that nothing reads are refused, wherever they are written, with the nearest one that there is.

A key that is set silently and read by nobody costs a run: `+sft.learningrate=1e-5` trains at the other rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import get_args, get_origin

from stages.lib.every_stage.errors import UserError

HYDRA = "hydra"
"""Hydra's own settings, which it checks itself."""


class KnownKeys:
    """The keys of a primary config (a dataclass of dataclasses), and the groups that choose files for them."""

    def __init__(self, schema: type, groups: list[str]) -> None:
        self.groups = groups
        self.names = {".".join(key) for key in keys_within(schema)}
        self.mappings = {".".join(key) for key in mappings_within(schema)}

    def problem(self, key: tuple[str, ...], where: str) -> str:
        """What is wrong with a key that is written at `where`, or an empty text."""
        name = ".".join(part for part in key if not part.startswith("["))  # a place in a list is no key
        if key[0] == HYDRA or (key[0] in self.groups and len(key) == 1) or self.within_mapping(key):
            return ""
        if dotted := next((part for part in key if "." in part), ""):
            return f"{where}: found a dot in the key {dotted!r}; needed one mapping within another: {nested(name)}"
        if name in self.names:
            return ""
        return f"{where}: nothing reads the key {name}; {self.nearest(name)}"

    def within_mapping(self, key: tuple[str, ...]) -> bool:
        """Whether a key is in a mapping whose keys are the user's own, such as names of files and columns."""
        return any(".".join(key[:length]) in self.mappings for length in range(1, len(key)))

    def problems(self, keys: Iterable[tuple[tuple[str, ...], str]]) -> list[str]:
        """What is wrong with keys, each with where it is written; keys within an unknown one are not named too."""
        found: list[str] = []
        unknown: list[tuple[str, ...]] = []
        for key, where in keys:
            if any(key[: len(outer)] == outer for outer in unknown):
                continue
            if said := self.problem(key, where):
                unknown.append(key)
                found.append(said)
        return found

    def nearest(self, name: str) -> str:
        """The keys that an unknown one may stand for: one beside it that is spelled nearly so, or else others."""
        outer, _, last = name.rpartition(".")
        known = sorted({*self.names, *self.groups})
        beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == outer}
        close = get_close_matches(last, beside, n=1, cutoff=0.7)
        if found := close or [key for key in beside if key and (last.startswith(key) or last in key.split("_"))]:
            return f"needed {' or '.join(beside[key] for key in found[:3])}"
        elsewhere = [key for key in known if key.rpartition(".")[2] == last]
        if meant := (elsewhere or get_close_matches(name, known, n=3, cutoff=0.7))[:3]:
            return f"needed {' or '.join(meant)}"
        return "needed one of params.lock.yaml, where all of them are"

    def refuse_overrides(self, words: list[str]) -> None:
        """Raise UserError for the words of a command line that set an unknown key, with or without + or ++.

        A word that isn't an override (--multirun) is left to Hydra, as is one that can't be parsed.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        parser, problems = OverridesParser.create(), []
        for word in words:
            if word.startswith("-"):
                continue
            try:
                override = parser.parse_override(word)
            except HydraException:
                continue
            name = override.key_or_group
            if "/" in name or name in self.groups:
                continue
            key = tuple(name.split("."))
            if override.is_delete() and key[0] != HYDRA:
                problems.append(f"{word}: a key can't be taken away; needed a value for it, {name}=…")
                continue
            value = None if override.is_delete() or override.is_sweep_override() else override.value()
            inner = [(*key, *more) for more in keys_within_value(value)]
            problems += self.problems([(part, word) for part in [key, *inner]])
        if problems:
            raise UserError("\n".join(problems))

    def with_plus(self, words: list[str]) -> list[str]:
        """The words of a command line, with ++ before those that set a mapping whose keys are the user's own.

        Hydra takes such keys for unknown ones.
        """
        names = ((word, tuple(word.partition("=")[0].split("."))) for word in words)
        return [
            f"++{word}" if ".".join(key) in self.mappings or self.within_mapping(key) else word for word, key in names
        ]


def mappings_within(schema: type, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a dataclass and of those within it that hold mappings of any keys (dict[str, …])."""
    for field in dataclasses.fields(schema):
        name = (*outer, field.name)
        if get_origin(field.type) is dict:
            yield name
        elif isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from mappings_within(field.type, name)


def keys_within(schema: type, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a dataclass and of the dataclasses within it, in lists and where they may be None too."""
    for field in dataclasses.fields(schema):
        yield (*outer, field.name)
        within = [field.type, *get_args(field.type)] if get_args(field.type) else [field.type]
        for kind in within:
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                yield from keys_within(kind, (*outer, field.name))


def keys_within_value(value: object) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a mapping and of those within it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (str(name),)
            yield from ((str(name), *more) for more in keys_within_value(inner))


def nested(name: str) -> str:
    """A dotted key as YAML has it."""
    *outer, last = name.split(".")
    return "".join(f"{part}: {{" for part in outer) + f"{last}: …" + "}" * len(outer)
