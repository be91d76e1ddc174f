"""What a field's value must be, beside its type, its default and its sentence; a section checks all of its own.

max_tokens: int = bounded(at_least(1))                       # no default: the configuration must say it
wordings: int = bounded(at_least(0, zero="all"), 0)          # of each trained fact
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, cast

from omegaconf import MISSING

from stages.lib.every_stage.errors import require

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BOUND = "bound"


@dataclass(frozen=True)
class Bound:
    """What holds of a value, and the words that say so after "needed"."""

    holds: Callable[[Any], bool]
    words: str

    def or_else(self, value: object, meaning: str) -> Bound:
        """This, or one more value with a meaning of its own."""
        return Bound(lambda found: found == value or self.holds(found), f"{self.words}, or {value} {meaning}")


def bounded(bound: Bound, default: object = MISSING) -> Any:
    """A dataclass's field whose value is bounded; a list is a default too."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={BOUND: bound})
    return field(default=default, metadata={BOUND: bound})


def at_least(least: float, zero: str = "") -> Bound:
    """A number of `least` or more; `zero` says what 0 stands for."""
    return Bound(lambda value: value >= least, f"{least} ({zero}) or more" if zero else f"{least} or more")


def more_than(limit: float) -> Bound:
    """A number above `limit`."""
    return Bound(lambda value: value > limit, f"more than {limit}")


def within(least: float, most: float) -> Bound:
    """A number from `least` to `most`, both included."""
    return Bound(lambda value: least <= value <= most, f"{least} to {most}")


def share(name: str = "share", *, zero: bool = True, below: float = 1) -> Bound:
    """A number from 0, where `zero` is allowed, up to but not including `below`."""
    return Bound(
        lambda value: (value >= 0 if zero else value > 0) and value < below,
        f"0 {'<=' if zero else '<'} {name} < {below:g}",
    )


def filled(words: str) -> Bound:
    """A list or mapping with something in it, or a text that isn't empty."""
    return Bound(bool, words)


def one_of(*values: object) -> Bound:
    """One of a few values."""
    names = [str(value.value if isinstance(value, Enum) else value) for value in values]
    return Bound(lambda found: found in values, f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0])


class Section:
    """A section of the configuration, which knows its own name."""

    NAME: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_bounds(cast("DataclassInstance", self), self.NAME)
        self.check()

    def check(self) -> None:
        """Raise UserError for values that are each possible and can't go together."""


def check_bounds(section: DataclassInstance, key: str) -> None:
    """Raise UserError for the first value that is out of its bound, in this dataclass or in those within it."""
    for each in fields(section):
        value, name, bound = getattr(section, each.name), f"{key}.{each.name}", each.metadata.get(BOUND)
        if bound:
            require(bound.holds(value), name, value.value if isinstance(value, Enum) else value, bound.words)
        if is_dataclass(value) and not isinstance(value, Section | type):
            check_bounds(value, name)
