"""Values of the API as D-Bus types, derived from the declared types.

==================  =======================================================================================
whole number        ``x``
number              ``d``
yes or no           ``b``
text, enumeration   ``s``
bytes               ``ay``; in parameters a file descriptor, ``h``, is meant and ``ay`` is taken as well
list of T           ``aT``
names to T          ``a{sT}``
record              ``a{sv}`` with the field names of the API; a field without a value is left out
anything            ``v``
==================  =======================================================================================

A value of sdbus is a plain one, a variant the pair of its signature and its value.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["Field", "absent", "encode", "fields_of", "inner", "signature"]

Field = inspect.Field
"""One field of a record: its name, type, and whether it must be given."""

_Record = inspect.StructType | inspect.DataclassType


def inner(kind: inspect.Type) -> inspect.Type:
    """Return the type without remarks on it, and without its being optional."""
    match kind:
        case inspect.Metadata():
            return inner(kind.type)
        case inspect.UnionType():
            (only,) = (one for one in kind.types if not isinstance(one, inspect.NoneType))
            return inner(only)
        case _:
            return kind


def fields_of(record: type[Any]) -> tuple[Field, ...]:
    """Return the fields of a record type, in order of declaration."""
    kind = inspect.type_info(record)
    if not isinstance(kind, _Record):
        raise TypeError(f"{record.__name__} is no record")
    return kind.fields


def signature(kind: inspect.Type) -> str:  # noqa: PLR0911 - one for each type
    """Return the D-Bus signature of a type. Raises ``TypeError`` for one that no method uses yet."""
    match inner(kind):
        case inspect.IntType():
            return "x"
        case inspect.FloatType():
            return "d"
        case inspect.BoolType():
            return "b"
        case inspect.StrType() | inspect.EnumType() | inspect.LiteralType():
            return "s"
        case inspect.BytesType():
            return "ay"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return "a" + signature(item)
        case inspect.DictType(value_type=value):
            return "a{s" + signature(value) + "}"
        case inspect.StructType() | inspect.DataclassType():
            return "a{sv}"
        case inspect.AnyType():
            return "v"
        case other:
            raise TypeError(f"no D-Bus type for {other}")


def encode(kind: inspect.Type, value: Any) -> Any:  # noqa: PLR0911 - one for each type
    """Return ``value``, which is one of ``kind`` and not None, for a place of ``signature(kind)``."""
    match inner(kind):
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [encode(item, one) for one in value]
        case inspect.DictType(value_type=item):
            return {_text(key): encode(item, one) for key, one in value.items() if one is not None}
        case inspect.StructType(fields=fields) | inspect.DataclassType(fields=fields):
            given = ((field, getattr(value, field.name)) for field in fields)
            return {
                field.name: (signature(field.type), encode(field.type, one)) for field, one in given if one is not None
            }
        case inspect.AnyType():
            return _any(value)
        case inspect.FloatType():
            return float(value)
        case inspect.StrType() | inspect.EnumType() | inspect.LiteralType():
            return _text(value)
        case _:
            return value


def absent(kind: inspect.Type) -> Any:
    """Return what a property of ``kind`` shows while it has no value: -1, an empty text, an empty record."""
    match signature(kind)[0]:
        case "x":
            return -1
        case "s":
            return ""
        case "a":
            return {} if signature(kind).startswith("a{") else []
        case other:
            raise TypeError(f"a property of type {other} always has a value")


def _text(value: str) -> str:
    """Return text as D-Bus takes it: no NUL, nothing that has no UTF-8 (D-Bus specification, "Valid UTF-8")."""
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _any(value: object) -> tuple[str, Any]:  # noqa: PLR0911 - one for each type
    match value:
        case bool():
            return "b", value
        case int():
            return "x", value
        case float():
            return "d", value
        case str():
            return "s", _text(value)
        case Mapping():
            return "a{sv}", {_text(key): _any(one) for key, one in value.items() if one is not None}
        case list() | tuple():
            return "av", [_any(one) for one in value if one is not None]
        case _:
            return _any(msgspec.to_builtins(value))
