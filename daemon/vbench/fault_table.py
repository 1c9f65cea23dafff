"""Faults that tables of a bench file may list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, get_args

import msgspec

from ispd.errors import ConfigError

__all__ = ["read_faults"]

T = TypeVar("T")


def read_faults(tables: Sequence[Mapping[str, Any]], union: UnionType) -> tuple[Any, ...]:
    """Make faults of their tables: ``kind`` is the name of one of the union's classes. Raises ``ConfigError``."""
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in get_args(union)}
    return tuple(_fault(table, kinds) for table in tables)


def _fault(table: Mapping[str, Any], kinds: dict[str, type[T]]) -> T:
    values = dict(table)
    name = values.pop("kind", None)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"unknown fault {name!r}; known are {', '.join(sorted(kinds))}")
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]  # every member of the union is a dataclass
    if not values.keys() <= known.keys():
        raise ConfigError(f"fault {name} has no {', '.join(sorted(values.keys() - known.keys()))}")
    try:
        for key, value in values.items():
            if known[key] is bytes and isinstance(value, str):
                values[key] = bytes.fromhex(value)
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"fault {name}: {error}") from error
