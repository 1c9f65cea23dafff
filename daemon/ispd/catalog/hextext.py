"""The gate in front of the Intel HEX parser: every line checked, every refusal with its line number.

The format is Intel's "Hexadecimal Object File Format Specification", revision A (1988). What readers commonly let pass
(data after the end record, no end record, an empty file, a later line overwriting an earlier one) is refused here: each
of them is a truncated download or a bad join of two files, and ends in a board that was verified against half an image.
"""

from binascii import Error as BinasciiError
from binascii import unhexlify
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.span import Span

__all__ = ["MAX_PIECES", "HexScan", "overrun", "scan_hex"]

_BANK_BYTES = 0x10000
MAX_PIECES = 1024
"""Most separate pieces an image may have: a firmware has a handful, and joining files compares each piece with each."""

_FLASH_BYTES = tuple(2048 << doubled for doubled in range(8))  # 2 KiB to 256 KiB, every size an AVR comes in
_LONGEST_SECTION_BYTES = 8192
_OVERHEAD_BYTES = 5  # length, address (2), type, checksum


class _RecordType(IntEnum):
    DATA = 0
    END = 1
    SEGMENT_BASE = 2
    SEGMENT_START = 3
    LINEAR_BASE = 4
    LINEAR_START = 5


_DATA_BYTES = {
    _RecordType.END: 0,
    _RecordType.SEGMENT_BASE: 2,
    _RecordType.SEGMENT_START: 4,
    _RecordType.LINEAR_BASE: 2,
    _RecordType.LINEAR_START: 4,
}


@dataclass(slots=True)
class HexScan:
    """A file that passed: its data and base records as canonical text, and what was noticed. ``base`` is the last one set."""

    lines: list[str] = field(default_factory=list)
    placed: list[tuple[Span, int]] = field(default_factory=list)
    start_records: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    base: int = 0

    @property
    def text(self) -> str:
        """Records 00, 01, 02 and 04 of the file, one per line; start records are left out."""
        return "\n".join([*self.lines, ""])


@dataclass(frozen=True, slots=True)
class _Record:
    kind: _RecordType
    offset: int
    data: bytes


def scan_hex(name: str, content: bytes) -> HexScan:
    """Check a whole file. Raises ``RefusedError`` (image-invalid, image-overlap) naming file and line."""
    scan = HexScan()
    end_line = None
    lines = content.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix(b"\r")
        if not line:
            continue
        if end_line is not None:
            after = f"there is more after the end record of line {end_line}"
            raise _refused(name, number, after, hint="join files with `ispctl merge`")
        record = _parse_line(name, number, line)
        _take(name, number, scan, record)
        if record.kind in (_RecordType.SEGMENT_START, _RecordType.LINEAR_START):
            continue
        scan.lines.append(line.decode("ascii"))
        if record.kind is _RecordType.END:
            end_line = number
    if end_line is None:
        raise _refused(
            name,
            None,
            "the end record :00000001FF is missing",
            hint="the file was cut short: build or download it again",
        )
    if not scan.placed:
        raise _refused(name, None, "there is not one data byte in it")
    _check_pieces(name, scan)
    _note_form(scan, content, lines)
    return scan


def _take(name: str, number: int, scan: HexScan, record: _Record) -> None:
    match record.kind:
        case _RecordType.DATA:
            _place(name, number, scan, record)
        case _RecordType.SEGMENT_BASE:
            scan.base = int.from_bytes(record.data, "big") << 4
        case _RecordType.LINEAR_BASE:
            scan.base = int.from_bytes(record.data, "big") << 16
        case _RecordType.SEGMENT_START | _RecordType.LINEAR_START:
            scan.start_records.append((number, _start_address(record)))
        case _RecordType.END:
            pass


def _parse_line(name: str, number: int, line: bytes) -> _Record:
    if line[:1] != b":":
        if line.startswith(b"\xef\xbb\xbf"):
            raise _refused(name, number, "it begins with a byte order mark", hint="save the file as plain ASCII")
        raise _refused(name, number, "a record begins with a colon, this line does not")
    try:
        values = unhexlify(line[1:])
    except BinasciiError:
        raise _refused(name, number, "there is something else than pairs of hex digits after the colon") from None
    if len(values) < _OVERHEAD_BYTES or len(values) != values[0] + _OVERHEAD_BYTES:
        announced = f"{values[0]} data bytes are announced" if values else "the record is empty"
        raise _refused(name, number, f"{announced}, the line has {max(0, len(values) - _OVERHEAD_BYTES)}")
    if sum(values) & 0xFF:
        right = -sum(values[:-1]) & 0xFF
        raise _refused(name, number, f"the checksum is {values[-1]:02X}, it should be {right:02X}")
    try:
        kind = _RecordType(values[3])
    except ValueError:
        raise _refused(name, number, f"there is no record type {values[3]:02X}") from None
    data = values[4:-1]
    if len(data) != _DATA_BYTES.get(kind, len(data)):
        raise _refused(
            name, number, f"a record of type {kind:02X} carries {_DATA_BYTES[kind]} bytes, this one {len(data)}"
        )
    return _Record(kind, int.from_bytes(values[1:3], "big"), data)


def _place(name: str, number: int, scan: HexScan, record: _Record) -> None:
    if record.offset + len(record.data) > _BANK_BYTES:
        raise _refused(name, number, "the record runs over a 64 KiB boundary")
    if record.data:
        start = scan.base + record.offset
        scan.placed.append((Span(start, start + len(record.data)), number))


def _start_address(record: _Record) -> int:
    high, low = int.from_bytes(record.data[:2], "big"), int.from_bytes(record.data[2:], "big")
    return (high << 4) + low if record.kind is _RecordType.SEGMENT_START else (high << 16) + low


def overrun(spans: Iterable[Span]) -> str:
    """Tell of a bootloader that runs past the end of the flash it was placed in; empty where none does.

    :param spans: pieces of an image in address order.
    """
    for span in spans:
        for size_bytes in _FLASH_BYTES:
            first = max(size_bytes - _LONGEST_SECTION_BYTES, size_bytes // 2)
            if first <= span.start < size_bytes < span.stop <= size_bytes + _LONGEST_SECTION_BYTES:
                return (
                    f"what begins at 0x{span.start:04X} has {len(span)} bytes and goes on to 0x{span.stop - 1:04X}:"
                    f" too long for a flash that ends at 0x{size_bytes - 1:04X}"
                )
    return ""


def _check_pieces(name: str, scan: HexScan) -> None:
    placed = sorted(scan.placed)
    pieces = 1
    for (left, first), (right, second) in pairwise(placed):
        pieces += left.stop != right.start
        common = left.overlap(right)
        if len(common):
            early, late = sorted((first, second))
            too_long = overrun(_joined([span for span, _ in placed]))
            raise RefusedError(
                ErrorCode.IMAGE_OVERLAP,
                f"{name}: lines {early} and {late} both define {common}" + (f"; {too_long}" if too_long else ""),
                hint="this build does not fit its place: get another one"
                if too_long
                else "two files were joined that do not fit together; join them with `ispctl merge`",
                facts=Facts(address=common.start),
            )
    if pieces > MAX_PIECES:
        raise _refused(name, None, f"it is in {pieces} separate pieces; a firmware has a handful")


def _joined(spans: list[Span]) -> list[Span]:
    """Return sorted spans with those joined that touch or overlap."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start <= joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return joined


def _note_form(scan: HexScan, content: bytes, lines: list[bytes]) -> None:
    if b"\r\n" in content:
        scan.notes.append("lines end in CR LF")
    if any(line in (b"", b"\r") for line in lines[:-1]):
        scan.notes.append("there are blank lines")
    if len({address for _, address in scan.start_records}) > 1:
        scan.notes.append("there are several different start records; they are left out")


def _refused(
    name: str, number: int | None, problem: str, *, hint: str = "build or download the file again"
) -> RefusedError:
    where = name if number is None else f"{name} line {number}"
    return RefusedError(ErrorCode.IMAGE_INVALID, f"{where}: {problem}", hint=hint)
