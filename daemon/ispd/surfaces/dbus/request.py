"""What a caller sent, as parameters for the API: variants undone, descriptors read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread
from msgspec import inspect

from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.surfaces.dbus.attachments import Reader, close_all
from ispd.surfaces.dbus.members import OPTIONS, Member
from ispd.surfaces.dbus.values import inner

__all__ = ["read_parameters"]


_MAX_VALUES = 20_000
"""Most values in a request; a full enqueue has some hundred."""


@dataclass(slots=True)
class _Descriptor:
    """An open file in a request; ours to close."""

    fd: int


async def read_parameters(
    member: Member, arguments: Sequence[Any], supplied: dict[str, Any], reader: Reader, workers: CapacityLimiter
) -> dict[str, Any]:
    """Return the undecoded parameters of a call.

    :param arguments: as the message held them; each descriptor among them is closed when this returns.
    :param supplied: what the object says about itself.
    :raises RefusedError: a file cannot be read, or stands where none belongs, or there is too much of it all.
    """
    unpacking = _Unpacking()
    try:
        if member.has_options or any("v" in kind for _, kind in member.inputs):
            # as much as the bus lets through may be in there; nothing waits for it meanwhile
            plain = await to_thread.run_sync(unpacking.arguments, member, arguments, limiter=workers)
        else:
            plain = unpacking.arguments(member, arguments)
        options = plain.pop(OPTIONS) if member.has_options else {}
        _check_options(options, {**plain, **supplied})
        raw = {**options, **plain, **supplied}
        _check_record(inspect.type_info(member.method.params), raw, "")
        read: dict[int, bytes] = {}
        while unpacking.found:
            descriptor = unpacking.found.pop()
            read[descriptor.fd] = await reader.read(descriptor.fd)
        return {name: _filled(value, read) for name, value in raw.items()}
    finally:
        close_all([descriptor.fd for descriptor in unpacking.found])


class _Unpacking:
    """Undoes variants, and finds the descriptors in between."""

    def __init__(self) -> None:
        self.found: list[_Descriptor] = []
        self._count = 0

    def arguments(self, member: Member, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments by name. Raises ``RefusedError`` where they are too many values, with all of them found."""
        plain = {name: self._plain(kind, value) for (name, kind), value in zip(member.inputs, arguments, strict=True)}
        if self._count > _MAX_VALUES:
            raise RefusedError(ErrorCode.INVALID_REQUEST, f"the request has more than {_MAX_VALUES} values")
        return plain

    def _plain(self, kind: str, value: Any) -> Any:
        """Undo the variants of a value of signature ``kind``."""
        self._count += 1
        match kind[0]:
            case "h":
                self.found.append(_Descriptor(value))
                return self.found[-1]
            case "v":
                return self._plain(value[0], value[1])
            case "a" if kind[1] == "{":
                keys, values = kind[2], kind[3:-1]
                return {self._key(keys, key): self._plain(values, one) for key, one in value.items()}
            case "a" if kind != "ay":
                return [self._plain(kind[1:], one) for one in value]
            case "(":
                return [self._plain(one, part) for one, part in zip(_split(kind[1:-1]), value, strict=True)]
            case _:
                return value

    def _key(self, kind: str, key: Any) -> Any:
        """Return a key; a descriptor can be one, and is closed like the others."""
        if kind == "h":
            self.found.append(_Descriptor(key))
            return str(key)
        return key


def _split(kinds: str) -> list[str]:
    """Return the complete types that ``kinds`` is made of."""
    split: list[str] = []
    while kinds:
        end = _end(kinds)
        split.append(kinds[:end])
        kinds = kinds[end:]
    return split


def _end(kinds: str) -> int:
    if kinds[0] == "a":
        return 1 + _end(kinds[1:])
    depth = 0
    for index, letter in enumerate(kinds):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0:
            return index + 1
    raise ValueError(f"{kinds} is no signature")


def _check_options(options: dict[str, Any], placed: dict[str, Any]) -> None:
    for name in options.keys() & placed.keys():
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER, f"{name}: it has a place of its own", facts=Facts(field=str(name))
        )


def _check_record(kind: inspect.Type, value: Any, path: str) -> None:
    if isinstance(kind, inspect.StructType | inspect.DataclassType) and isinstance(value, dict):
        for field in kind.fields:
            if field.name in value:
                _check_bytes(field.type, value[field.name], f"{path}.{field.name}" if path else field.name)


def _check_bytes(kind: inspect.Type, value: Any, path: str) -> None:
    """Raise where text stands for a file: a path is never opened here, and base64 belongs to JSON."""
    match inner(kind):
        case inspect.BytesType() if not isinstance(value, bytes | _Descriptor):
            raise RefusedError(
                ErrorCode.INVALID_PARAMETER,
                f"{path}: a file goes here as an open descriptor (h)",
                hint="open the file and pass its descriptor; the daemon opens no paths",
                facts=Facts(field=path),
            )
        case inspect.ListType(item_type=item) if isinstance(value, list):
            for index, one in enumerate(value):
                _check_bytes(item, one, f"{path}[{index}]")
        case record:
            _check_record(record, value, path)


def _filled(value: Any, read: dict[int, bytes]) -> Any:
    match value:
        case _Descriptor(fd=fd):
            return read[fd]
        case dict():
            return {key: _filled(one, read) for key, one in value.items()}
        case list():
            return [_filled(one, read) for one in value]
        case _:
            return value
