"""The API described for machines: an OpenRPC 1.3 document made from the method table.

Format: https://spec.open-rpc.org (version 1.3.2). Schemas are JSON Schema as msgspec derives them from the types.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec

from ispd.api.declare import ALWAYS_POSSIBLE, Method
from ispd.api.failures import FAILURES
from ispd.api.methods import METHODS
from ispd.errors import ErrorCode
from ispd.model.event import Event

__all__ = ["API_VERSION", "EVENT_NOTIFICATION", "described_api", "openrpc"]

API_VERSION = "1.2.0"
"""Grows with the description: the second number with additions, the first never lightly."""

EVENT_NOTIFICATION = "event"
"""Method name of the notifications that carry events."""

_REF = "#/components/schemas/{name}"


@cache
def described_api() -> Mapping[str, Any]:
    """Return the document for this API, made once: it takes 5 ms, which is long for a daemon that flashes."""
    return MappingProxyType(openrpc())


def openrpc(methods: Mapping[str, Method[Any, Any]] = METHODS) -> dict[str, Any]:
    """Return the OpenRPC document for ``methods``; ``x-notifications`` names what the server sends by itself."""
    types = [kind for method in methods.values() for kind in (method.params, method.result)]
    schemas, components = msgspec.json.schema_components([*types, Event], ref_template=_REF)
    pairs = iter(schemas)
    described = [_describe(method, next(pairs), next(pairs), components) for method in methods.values()]
    spread = {method.params.__name__ for method in methods.values()}
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "ispd",
            "version": API_VERSION,
            "description": "Gang flasher daemon: jobs, units, slots and the catalog behind them.",
        },
        "methods": described,
        "x-notifications": [
            {"name": EVENT_NOTIFICATION, "summary": "One change of the station.", "params": next(pairs)}
        ],
        "components": {
            "schemas": {name: components[name] for name in sorted(components.keys() - spread)},
            "errors": {code.value: _error(code) for code in ErrorCode},
        },
    }


def _describe(
    method: Method[Any, Any], params: dict[str, Any], result: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    """Return the method object: OpenRPC wants parameters one by one, not as one type."""
    schema = components[params["$ref"].rsplit("/", 1)[1]]
    required = set(schema.get("required", ()))
    return {
        "name": method.name,
        "summary": method.summary,
        "description": method.description,
        "paramStructure": "by-name",
        "params": [
            {"name": name, "required": name in required, "schema": field}
            for name, field in schema["properties"].items()
        ],
        "result": {"name": method.result_text, "schema": result},
        "errors": [{"$ref": f"#/components/errors/{code.value}"} for code in (*method.errors, *ALWAYS_POSSIBLE)],
        "x-privilege": method.privilege.value,
    }


def _error(code: ErrorCode) -> dict[str, Any]:
    return {"code": FAILURES[code].rpc, "message": code.value.replace("-", " ")}
