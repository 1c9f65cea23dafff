"""Every method of the API, declared once. Surfaces, the command line, OpenRPC and the reference pages derive from here.

A parameter type's docstring is the method's help text; each field carries its meaning and its limits. One module for each module of handlers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ispd.api.declare import Method
from ispd.api.methods import catalog, daemon, job, slot, unit

__all__ = ["METHODS"]

METHODS: Mapping[str, Method[Any, Any]] = MappingProxyType(
    {
        method.name: method
        for module in (job, unit, slot, catalog, daemon)
        for method in vars(module).values()
        if isinstance(method, Method)
    }
)
"""All methods by name, in the order of declaration."""
