"""Commands that are declared elsewhere: a verb takes its help from the API's method, an option from its parameter.

The declarations are loaded when help is shown, so that a command that only works starts quickly.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ispctl.client import Client

__all__ = [
    "ApiOption",
    "OneOf",
    "Settings",
    "Verb",
    "api_verb",
    "option_bytes",
    "parse_byte",
    "parse_frequency",
    "parse_option_byte",
    "print_json_line",
    "put",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """What stands before the verb."""

    socket: Path
    json: bool

    def connect(self) -> Client:
        """Open the connection this run uses."""
        return Client(self.socket)

    def show(self, result: Any, text: Callable[[Any], str]) -> None:
        """Print a result: the API's own, or ``text`` of it."""
        if not self.json:
            put(text(result))
        elif sys.stdout.isatty():
            put(json.dumps(result, ensure_ascii=False, indent=2))
        else:
            print_json_line(result)


def put(text: str) -> bool:
    """Print ``text`` as UTF-8, whatever the locale; return False once nobody reads any more.

    A job that is waited for still decides the exit code then, so this is no error.
    """
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def print_json_line(value: object) -> bool:
    """Print one JSON document on one line; return False once nobody reads any more."""
    return put(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


class Verb(click.Command):
    """A command that calls the API. ``methods`` are those it uses; without help of its own it has the first one's."""

    def __init__(self, *args: Any, methods: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.methods = methods

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text, complete."""
        self._learn()
        return super().get_help(ctx)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence."""
        self._learn()
        return super().get_short_help_str(limit)

    def _learn(self) -> None:
        if not self.methods or self.help:
            return
        from ispd.api.methods import METHODS  # only for help

        method = METHODS[self.methods[0]]
        self.help = method.description
        meanings = method.field_descriptions()
        for option in self.params:
            if isinstance(option, ApiOption) and not option.help:
                option.help = meanings[option.field]


def api_verb(*methods: str, name: str | None = None) -> Callable[[Callable[..., Any]], Verb]:
    """Make the decorated function a verb whose help is that of the first of ``methods``."""
    return click.command(name, cls=Verb, methods=methods, help="")


class ApiOption(click.Option):
    """An option that carries the parameter ``field`` (by default of the same name) of its verb's method."""

    def __init__(self, *args: Any, field: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.field = field or self.name or ""


class OneOf(click.ParamType):  # type: ignore[type-arg]  # click 8.1, which Debian has, knows it without arguments only
    """One of the values of an enumeration of the API's, which is loaded when it is needed.

    :param load: returns the enumeration.
    """

    name = "choice"

    def __init__(self, load: Callable[[], Iterable[str]]) -> None:
        self._load = load

    def _choice(self) -> "click.Choice[str]":
        return click.Choice([str(value) for value in self._load()])

    def get_metavar(self, *args: Any, **kwargs: Any) -> str | None:
        """Return the values, for the help text."""
        return self._choice().get_metavar(*args, **kwargs)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or end with a usage error that names those there are."""
        return self._choice().convert(value, param, ctx)


def parse_option_byte(text: str) -> tuple[str, int]:
    """Return the name and the value of an option byte written user=0xFB, or end with a usage error."""
    from ispd.api.values import OptionBytes  # only where one is named: keeps the quick verbs quick

    written, separator, value = text.partition("=")
    name = written.strip().lower()
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not an option byte like user=0xFB")
    if name not in OptionBytes.__struct_fields__:
        raise click.BadParameter(f"{name} is no option byte: {', '.join(OptionBytes.__struct_fields__)}")
    return name, parse_byte(value)


def option_bytes(given: Iterable[tuple[str, int]]) -> dict[str, int] | None:
    """Return option bytes as the API takes them; a name with two values ends with a usage error."""
    named: dict[str, int] = {}
    for name, value in given:
        if named.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given twice", param_hint="--option-byte")
    return named or None


def parse_byte(text: str) -> int:
    """Return a fuse or lock byte written 0xNN, 0bNNNNNNNN or in decimal, or end with a usage error."""
    try:
        number = int(text, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a byte like 0x5E") from None
    if not 0 <= number <= 0xFF:
        raise click.BadParameter(f"{text} is not a byte: 0x00 to 0xFF")
    return number


_UNITS = {"k": 1_000, "m": 1_000_000}


def parse_frequency(text: str) -> int:
    """Return a frequency in Hz written 187500, 187.5k or 1.5M, or end with a usage error."""
    plain = text.strip().lower().removesuffix("hz").rstrip()
    factor = _UNITS.get(plain[-1:], 1)
    try:
        hz = round(float(plain.rstrip("km")) * factor)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is not a frequency like 187500 or 187.5k") from None
    if hz < 1:
        raise click.BadParameter(f"{text} is not a frequency above 0")
    return hz
