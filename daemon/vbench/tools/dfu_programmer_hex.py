"""How dfu-programmer reads Intel HEX, character by character as it does, and writes it.

A line counts only with its line end, so that a file whose last line has none is refused; a type 05 record moves the
address base, which it should not; lines after the end record are never looked at.
"""

import re
from dataclasses import dataclass

__all__ = ["HexLine", "HexReader", "HexSyntaxError", "HexValueError", "hex_text"]

_HEAD_CHARACTERS = 9
_LINE_BYTES = 16
_DATA, _END, _SEGMENT, _START_SEGMENT, _LINEAR, _START_LINEAR = range(6)
_SIGN_BIT = 0x80


class HexSyntaxError(Exception):
    """A line could not be read."""


class HexValueError(Exception):
    """A line was read and makes no sense.

    :param kind: record type the program does not know, None where something else is wrong.
    """

    def __init__(self, kind: int | None = None) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class HexLine:
    """A record with data; ``address`` has its base added."""

    address: int
    data: bytes


class HexReader:
    """Reads a file record by record.

    :param is_signed: bytes are signed, as in 0.6.1: a segment base whose low byte is above 7F is refused.
    """

    def __init__(self, text: bytes, *, is_signed: bool) -> None:
        self._text = text
        self._at = 0
        self._is_signed = is_signed
        self._base = 0

    def next(self) -> HexLine | None:
        """Return the next record's data, none for one that only sets something, None at the end record.

        Raises ``HexSyntaxError`` and ``HexValueError``.
        """
        head = re.fullmatch(rb":([0-9a-fA-F]{8})", self._take(_HEAD_CHARACTERS))
        if head is None:
            raise HexSyntaxError
        count, high, low, kind = bytes.fromhex(head.group(1).decode())
        data = bytes(self._byte() for _ in range(count))
        checksum = self._byte()
        self._line_end()
        address = high << 8 | low
        self._check(kind, address, data, count + high + low + kind + sum(data) + checksum)
        if kind in (_SEGMENT, _LINEAR, _START_LINEAR):
            self._base = (int.from_bytes(data) << {_SEGMENT: 4, _LINEAR: 16, _START_LINEAR: 0}[kind]) & 0x7FFFFFFF
        if kind == _END:
            return None
        return HexLine(self._base + address, data if kind == _DATA else b"")

    def _check(self, kind: int, address: int, data: bytes, total: int) -> None:
        """Raise ``HexValueError`` where a record is none of those the format has."""
        if total & 0xFF:
            raise HexValueError
        if kind > _START_LINEAR:
            raise HexValueError(kind)
        lengths = {_END: 0, _SEGMENT: 2, _LINEAR: 2, _START_LINEAR: 4}
        if len(data) != lengths.get(kind, len(data)):
            raise HexValueError
        if kind in (_SEGMENT, _LINEAR, _START_LINEAR) and address:
            raise HexValueError
        if kind == _SEGMENT and (data[1] & 7 or (self._is_signed and data[1] & _SIGN_BIT)):
            raise HexValueError

    def _take(self, most: int) -> bytes:
        """Return characters as ``fgets`` does: no more than asked for, and not past a line end."""
        piece = self._text[self._at : self._at + most]
        if (end := piece.find(b"\n")) >= 0:
            piece = piece[: end + 1]
        self._at += len(piece)
        return piece

    def _byte(self) -> int:
        digits = re.match(rb"[0-9a-fA-F]{1,2}", self._take(2))
        if digits is None:
            raise HexSyntaxError
        return int(digits.group(), 16)

    def _line_end(self) -> None:
        if self._text[self._at : self._at + 1] == b"\r":
            self._at += 1
        if self._text[self._at : self._at + 1] != b"\n":
            raise HexSyntaxError
        self._at += 1


def hex_text(data: bytes | bytearray, start: int, end: int, *, page_bytes: int, is_whole: bool) -> str:
    """Return ``data[start : end + 1]`` as the program writes it: 16 bytes a line, blank pages left out unless ``is_whole``."""
    lines: list[str] = []
    offset, at = 0, start
    pending, pending_at = bytearray(), start % 0xFFFF  # its own modulus, which nothing ever falls upon

    def complete(next_at: int) -> None:
        nonlocal pending_at
        if pending:
            lines.append(_record(pending_at & 0xFFFF, _DATA, bytes(pending)))
            pending.clear()
        pending_at = next_at % 0xFFFF

    while at <= end:
        if at % page_bytes == 0 and not is_whole and set(data[at : at + page_bytes]) == {0xFF}:
            at += page_bytes
            complete(at - offset)
            continue
        if at - offset >= 0x10000:
            offset = at & ~0xFFFF
            complete(at - offset)
            lines.append(_record(0, _LINEAR, (offset >> 16).to_bytes(2)))
        if len(pending) == _LINE_BYTES:
            complete(at - offset)
        pending.append(data[at])
        at += 1
    complete(at - offset)
    return "".join(line + "\n" for line in [*lines, ":00000001FF"])


def _record(address: int, kind: int, data: bytes) -> str:
    content = bytes((len(data), address >> 8, address & 0xFF, kind)) + data
    return ":" + (content + bytes((-sum(content) & 0xFF,))).hex().upper()
