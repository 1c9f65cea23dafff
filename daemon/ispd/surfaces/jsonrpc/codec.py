"""Bytes of one message to values and back, stricter than JSON libraries are by themselves.

``json`` accepts duplicate keys (the last wins), NaN and Infinity, numbers that overflow to infinity, and lone
surrogates; a request holding any of these means two things to two readers, so it is refused.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Never

import msgspec

from ispd.errors import ErrorCode, RefusedError

__all__ = ["MAX_DEPTH", "MAX_TOKENS", "decode", "encode"]

MAX_DEPTH = 16
"""Deepest nesting. The deepest declared request is a batch of enqueues: batch, request, params, images, file: 5."""

MAX_TOKENS = 20_000
"""Most commas and brackets in a message: a full batch of enqueues has fewer than 3,000. Bounds the work of parsing."""

_DIGITS = 40
"""Longest number literal; the largest parameter has 19 digits."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(data: bytes) -> Any:
    """Return the value of a message.

    Raises ``RefusedError`` with ``parse-error`` where it is not JSON as meant here, ``invalid-request`` where it is
    nested or divided beyond the limits.
    """
    if sum(map(data.count, (b",", b"[", b"{", b":"))) > MAX_TOKENS:
        raise RefusedError(ErrorCode.INVALID_REQUEST, f"the request has more than {MAX_TOKENS} elements")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short_int,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RefusedError(ErrorCode.PARSE_ERROR, f"the request is not JSON: {_reason(error)}") from None
    _check_depth(value)
    return value


def encode(value: object) -> bytes:
    """Return the compact JSON of ``value``: plain values, model dataclasses and declared structs."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    """Return what ``value`` is encoded as; mappings that are no ``dict`` are the one kind the encoder does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} is no part of the API")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object names a key twice")
    return value


def _no_constant(_: str) -> Never:
    raise ValueError("NaN and Infinity are not numbers here")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _short_int(literal: str) -> int:
    if len(literal) > _DIGITS:
        raise ValueError("a number is too long")
    return int(literal)


def _reason(error: ValueError) -> str:
    """Say what is wrong without repeating what was sent."""
    match error:
        case json.JSONDecodeError():
            return f"{error.msg} at character {error.pos}"
        case UnicodeError():
            return "it is not UTF-8"
        case _:
            return str(error)


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise _too_deep()


def _children(value: object) -> list[object]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []


def _too_deep() -> RefusedError:
    return RefusedError(ErrorCode.INVALID_REQUEST, f"the request is nested deeper than {MAX_DEPTH}")
