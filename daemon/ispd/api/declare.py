"""What a declared method consists of."""

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

from ispd.errors import ErrorCode

__all__ = ["ALWAYS_POSSIBLE", "Method", "Params", "Privilege"]

ALWAYS_POSSIBLE = (ErrorCode.INVALID_PARAMETER, ErrorCode.NOT_ALLOWED, ErrorCode.INTERNAL)
"""Errors that every method may answer; not repeated in the declarations."""


class Privilege(StrEnum):
    """What a caller must be allowed to do. Each includes those before it."""

    VIEW = "view"
    OPERATE = "operate"
    CONFIGURE = "configure"


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every method's parameters: named, complete, and nothing besides what is declared."""


P = TypeVar("P", bound=Params)
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[P, R]):
    """One method of the API.

    :param name: ``noun.verb`` as it goes over the wire.
    :param params: type of the parameters; its docstring is the method's help text on every surface.
    :param result: type of the result.
    :param result_text: what the result is, for the reference.
    :param privilege: what the caller must be allowed to do.
    :param errors: codes it may answer besides :data:`ALWAYS_POSSIBLE`.
    """

    name: str
    params: type[P]
    result: type[R]
    result_text: str
    privilege: Privilege
    errors: tuple[ErrorCode, ...] = ()

    @property
    def description(self) -> str:
        """The whole help text."""
        return inspect.cleandoc(self.params.__doc__ or "")

    @property
    def summary(self) -> str:
        """Its first paragraph, on one line."""
        return " ".join(self.description.split("\n\n", 1)[0].split())

    def field_descriptions(self) -> dict[str, str]:
        """Return what each parameter means, for help texts."""
        schema = msgspec.json.schema_components([self.params])[1][self.params.__name__]
        return {name: _description(field) for name, field in schema["properties"].items()}


def _description(field: dict[str, Any]) -> str:
    """Return a field's description; where the field may also be null it stands with the other alternative."""
    alternatives = (field, *field.get("anyOf", ()))
    return next((str(one["description"]) for one in alternatives if "description" in one), "")
