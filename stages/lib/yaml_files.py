"""YAML that people write, read so that nothing in it is lost: its encoding, its keys and the lines they are in."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stages.lib.every_stage.errors import UserError

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MOST_VALUES = 10_000
"""Keys and values of one file, each alias counted as what it names. All of conf/ together has a tenth of that."""


def read_yaml(path: Path) -> tuple[Any, list[tuple[tuple[str, ...], int]]]:
    """The content of a YAML file, and the path and line of each key in it, outer ones first.

    Raises UserError for a file that isn't there, isn't UTF-8 or isn't YAML, and for a key that stands twice in one
    mapping, with both lines: YAML's readers silently keep the last value.
    """
    text = text_of(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        found = count_values(root, {})
        if found > MOST_VALUES:
            raise UserError(
                f"{path}: found {found} values, needed {MOST_VALUES} or fewer; its aliases (*name) multiply"
            )
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(
            f"{path}: found values within values without an end, needed a few levels; look for an alias (*name) within "
            "what it names, or for many brackets"
        ) from None
    keys = list(keys_of(root))
    seen: dict[tuple[str, ...], int] = {}
    problems = []
    for key, line in keys:
        if key in seen:
            problems.append(
                f"{path}:{line}: the key {'.'.join(key)} is in line {seen[key]} already; needed it once, since one "
                "of the two is lost. Write both under one"
            )
        seen.setdefault(key, line)
    if problems:
        raise UserError("\n".join(problems))
    return content, keys


def count_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many keys and values a YAML node is, each alias counted as what it names. `known` remembers nodes by id.

    Raises RecursionError for a node within itself.
    """
    if id(node) not in known:
        inside = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(count_values(each, known) for each in inside)
    return known[id(node)]


def keys_of(node: yaml.Node | None, outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the keys of a YAML node and those within its values; what a merge (<<) brings in may stand there twice."""
    if isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from keys_of(value, (*outer, f"[{place}]"))
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        name = (*outer, str(key.value))
        yield name, key.start_mark.line + 1
        yield from keys_of(value, name)


def text_of(path: Path) -> str:
    """A file's text. Raises UserError for one that can't be read or isn't UTF-8, naming what it looks like."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; needed it. Restore it: git restore {path}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; needed a file that this user may read") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: found {encoding_of(content)}, needed UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: found UTF-16 or UTF-32, needed UTF-8; save the file as UTF-8")
    return text


def encoding_of(content: bytes) -> str:
    """What bytes that aren't UTF-8 look like."""
    if content.startswith(UTF_16):
        return "UTF-16"
    try:
        content.decode("cp949")
    except UnicodeDecodeError:
        return "another encoding"
    return "what looks like cp949"
