"""One handler for each declared method. Handlers enqueue and query; none runs a flash step.

Every module of this package holds handlers, made with :func:`handles`; :func:`load_handlers` finds them all.
"""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from ispd.api.call import Call
from ispd.api.declare import Method, Params
from ispd.api.methods import METHODS

__all__ = ["Handler", "handles", "load_handlers"]

P = TypeVar("P", bound=Params)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Handler:
    """A method and the function that carries it out."""

    method: Method[Any, Any]
    run: Callable[[Call, Any], Awaitable[object]]


def handles(method: Method[P, R]) -> Callable[[Callable[[Call, P], Awaitable[R]]], Handler]:
    """Make the decorated function the handler of ``method``; the types must agree with the declaration."""
    return lambda run: Handler(method, run)


def load_handlers(methods: Mapping[str, Method[Any, Any]] = METHODS) -> Mapping[str, Handler]:
    """Return the handler of each method, by name.

    Raises ``LookupError`` where a declared method has none, or two, or a handler's method is not declared.
    """
    found: dict[str, Handler] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for handler in vars(module).values():
            if isinstance(handler, Handler):
                if handler.method.name in found:
                    raise LookupError(f"two handlers for {handler.method.name}")
                found[handler.method.name] = handler
    missing, extra = methods.keys() - found.keys(), found.keys() - methods.keys()
    if missing or extra:
        raise LookupError(f"handlers missing for {sorted(missing)}, not declared {sorted(extra)}")
    return MappingProxyType(found)
