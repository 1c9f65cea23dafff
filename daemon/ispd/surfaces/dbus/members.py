"""The interfaces with their members, derived from the declared methods and the records they answer with.

The Manager has every method: ``job.cancel`` is ``JobCancel``. A method that asks for the key of an object (``id``, ``name``)
is on that object as well, without the key: ``Cancel`` of interface Job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

from ispd.api.declare import Method
from ispd.api.methods import METHODS
from ispd.surfaces.dbus.names import member_name
from ispd.surfaces.dbus.values import Field, fields_of, inner, signature

__all__ = ["OPTIONS", "Member", "ObjectKind", "manager_members", "object_kinds"]

OPTIONS = "options"
"""Name of the last argument, which holds the parameters that may be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One method as it is on an interface.

    :param key: parameter that the object supplies; None on the Manager.
    :param required: parameters with a place of their own, in order.
    :param has_options: whether an ``a{sv}`` follows them.
    """

    name: str
    method: Method[Any, Any]
    key: str | None
    required: tuple[Field, ...]
    has_options: bool

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """Name and signature of each argument."""
        placed = tuple((field.name, signature(field.type)) for field in self.required)
        return (*placed, (OPTIONS, "a{sv}")) if self.has_options else placed

    @property
    def result(self) -> inspect.Type:
        """Type of the result."""
        return inspect.type_info(self.method.result)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKind:
    """Objects of one noun: the record they show as properties, its key, and the methods that take the key."""

    noun: str
    record: type[Any]
    key: str
    members: tuple[Member, ...]


def manager_members(methods: Mapping[str, Method[Any, Any]] = METHODS) -> tuple[Member, ...]:
    """Return every method as a member of the Manager."""
    return tuple(_member(member_name(name), method, None) for name, method in methods.items())


def object_kinds(methods: Mapping[str, Method[Any, Any]] = METHODS) -> Mapping[str, ObjectKind]:
    """Return the kinds of objects, by noun: those with a ``get`` that finds a record by one of its own fields."""
    kinds: dict[str, ObjectKind] = {}
    for name, method in methods.items():
        noun, _, verb = name.partition(".")
        key = _key(method) if verb == "get" else None
        if key is not None:
            kinds[noun] = ObjectKind(noun=noun, record=method.result, key=key, members=_bound(noun, key, methods))
    return kinds


def _bound(noun: str, key: str, methods: Mapping[str, Method[Any, Any]]) -> tuple[Member, ...]:
    split = ((name.partition("."), method) for name, method in methods.items())
    return tuple(
        _member(member_name(verb), method, key)
        for (owner, _, verb), method in split
        if owner == noun and key in _required(method)
    )


def _member(name: str, method: Method[Any, Any], key: str | None) -> Member:
    fields = fields_of(method.params)
    return Member(
        name=name,
        method=method,
        key=key,
        required=tuple(field for field in fields if field.required and field.name != key),
        has_options=any(not field.required for field in fields),
    )


def _required(method: Method[Any, Any]) -> list[str]:
    return [field.name for field in fields_of(method.params) if field.required]


def _key(method: Method[Any, Any]) -> str | None:
    """Return the one required parameter, where the result is a record with that field."""
    required = _required(method)
    record = inner(inspect.type_info(method.result))
    if len(required) != 1 or not isinstance(record, inspect.DataclassType | inspect.StructType):
        return None
    return required[0] if required[0] in (field.name for field in record.fields) else None
