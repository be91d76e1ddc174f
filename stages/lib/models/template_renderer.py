"""Chat templates compiled as transformers compiles them, without transformers: importing that costs each data stage a
second and 12 MiB, and its wrapper half of the time that a row takes.

A template is foreign code and runs in jinja2's sandbox, with what transformers takes out of that and puts into it
(`_cached_compile_jinja_template` in transformers/utils/chat_template_utils.py). tests/lib/models/test_chat_template.py
holds the texts and the refusals of both against each other; prepare-base does so for the template in use.
"""

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


@lru_cache(maxsize=8)
def compiled(template: str) -> Template:
    """A chat template, to be rendered with `messages`, `add_generation_prompt`, special tokens by their names, and None
    for `tools` and `documents`.

    Raises jinja2's errors, and whatever else the template raises, such as in an expression of constants.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(
        raise_exception=refuse, strftime_now=today, dict=Dictionaries(), namespace=PublicNamespace
    )
    found = environment.from_string(template)
    found.globals = dict(found.globals)  # a chain of dictionaries takes half of a rendering's time
    return found


class GenerationTag(Extension):
    """{% generation %} … {% endgeneration %}, which marks what the assistant says: its text as it is.

    Variables that are set in it end with it, as they do where transformers takes it for a macro's body.
    """

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Dictionaries:
    """`dict` for templates: it makes dictionaries, and has no attributes that lead to Python's own class."""

    def __call__(self, *values: Any, **named: object) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


class PublicNamespace(Namespace):
    """`namespace` for templates, which keeps no name that begins with an underscore."""

    def __init__(*args: Any, **named: object) -> None:  # `self` may be a name of the template's
        self, *values = args
        attributes = dict(*values, **named)
        for name in attributes:
            refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: object) -> None:
        refuse_private(name)
        super().__setitem__(name, value)


def refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace of a template can't keep {name!r}, which begins with an underscore")


def refuse(message: str) -> NoReturn:
    """`raise_exception` for templates."""
    raise TemplateError(message)


def today(form: str) -> str:
    """`strftime_now` for templates."""
    return datetime.now().strftime(form)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, which unlike jinja2's own leaves < and & as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
