"""Files as avrdude 7.1 takes them for a flash, and what it says of them.

A later record wins where two overlap; nothing after the end record is looked at; a file may lack it, with a warning.
"""

import string
from dataclasses import dataclass

from vbench.tools.machine import Process, lines_of

__all__ = ["FlashInput", "Statistics", "guess_form", "high_address", "load_input", "statistics"]

_BLANK = 0xFF
_LINE_BYTES = 256
"""Its buffer for a line: what is longer is read in pieces, of which only the first begins with a colon."""
_DATA, _END, _SEGMENT, _START_SEGMENT, _LINEAR, _START_LINEAR = range(6)


@dataclass(slots=True)
class FlashInput:
    """Cells of a file over the whole flash; None where it says nothing.

    :param size: how many cells from 0 on count: to the last that is not blank, unless those are kept.
    """

    cells: list[int | None]
    size: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a file holds, as the program counts it."""

    count: int
    sections: int
    first: int
    last: int
    pages: int
    fill: int
    trailing: int


def high_address(cells: list[int], *, keeps_trailing_ff: bool) -> int:
    """Return how many cells there are up to the last that is not blank, made even; all of them where trailing ones are kept."""
    if keeps_trailing_ff:
        return len(cells)
    last = next((at for at in range(len(cells) - 1, 0, -1) if cells[at] != _BLANK), None)
    if last is None:
        return 0
    return (last + 2) // 2 * 2


def guess_form(content: bytes) -> str | None:
    """Return the letter of a file's format: that of the first line that looks like anything; None where none does."""
    for number, line in enumerate(lines_of(content, _LINE_BYTES)):
        if number == 0 and line.startswith("\x7fELF"):
            return "e"
        if not line.isascii():
            return "r"
        length = len(line.removesuffix("\n"))
        is_hex = line[1:2] in tuple(string.hexdigits)
        if line.startswith(":") and length >= 11 and is_hex:
            return "i"
        if line.startswith("S") and length >= 10 and line[1:2].isdigit():
            return "s"
    return None


def load_input(
    process: Process, name: str, form: str, size: int, *, keeps_trailing_ff: bool, is_verify: bool
) -> FlashInput | None:
    """Read a file for a flash of ``size`` bytes; None where that cannot be done, which was told."""
    content = process.file(name) or b""
    cells: list[int | None] = [None] * size
    if form == "r":
        cells[: len(content)] = content[:size]
        end = min(len(content), size)
    else:
        found = _load_hex(process, name, content, cells)
        if found is None:
            return None
        end = found
    if end and not is_verify:
        filled = [_BLANK if cell is None else cell for cell in cells]
        end = min(end, high_address(filled, keeps_trailing_ff=keeps_trailing_ff))
    return FlashInput(cells, end)


class _WrongFileError(Exception):
    """The file cannot be used; the text says why."""


def _load_hex(process: Process, name: str, content: bytes, cells: list[int | None]) -> int | None:
    """Put records into ``cells``; return the end of the highest, None where one is wrong, which was told."""
    try:
        highest, is_ended = _hex_cells(name, content, cells)
    except _WrongFileError as error:
        process.err(f"avrdude error: {error}")
        return None
    if is_ended:
        return highest
    if highest == 0:
        process.err(f"avrdude error: no valid record found in Intel Hex file {name}\n")
        return None
    process.err(f"avrdude warning: no end of file record found for Intel Hex file {name}\n")
    return highest


def _hex_cells(name: str, content: bytes, cells: list[int | None]) -> tuple[int, bool]:
    """Put records into ``cells``; return the end of the highest, and whether there was an end record. Raises ``_WrongFileError``."""
    base = highest = 0
    for number, line in enumerate(lines_of(content, _LINE_BYTES), start=1):
        if not line.startswith(":"):
            continue
        offset, kind, data = _record(line, f"at line {number} of {name}")
        if kind == _END:
            return highest, True
        if kind in (_SEGMENT, _LINEAR):
            base = int.from_bytes(data[:2]) << (4 if kind == _SEGMENT else 16)
        if kind == _DATA:
            start, end = base + offset, base + offset + len(data)
            if end > len(cells):
                raise _WrongFileError(f"address 0x{end:04x} out of range at line {number} of {name}\n")
            cells[start:end] = data
            highest = max(highest, end)
    return highest, False


def _record(line: str, where: str) -> tuple[int, int, bytes]:
    """Return offset, type and data of a record; what comes after it does not matter. Raises ``_WrongFileError``."""
    try:
        count = int(line[1:3], 16)
        content = bytes.fromhex(line[1 : 11 + 2 * count])
    except ValueError:
        content, count = b"", 0
    if len(content) != count + 5:
        raise _WrongFileError(f"invalid record {where}\n")
    computed = -sum(content[:-1]) & 0xFF
    if computed != content[-1]:
        detail = f"        checksum=0x{content[-1]:02x}, computed checksum=0x{computed:02x}\n"
        raise _WrongFileError(f"checksum mismatch {where}\n{detail}")
    if content[3] > _START_LINEAR:
        raise _WrongFileError(f"do not know how to deal with rectype={content[3]} {where}\n")
    return int.from_bytes(content[1:3]), content[3], content[4:-1]


def statistics(found: FlashInput, page_bytes: int) -> Statistics:
    """Count what a file holds."""
    set_at = [at for at, cell in enumerate(found.cells) if cell is not None]
    counted = [at for at in set_at if at < found.size]
    sections = sum(1 for before, at in zip([-2, *counted], counted, strict=False) if at != before + 1)
    pages = {at // page_bytes for at in counted}
    return Statistics(
        count=len(counted),
        sections=sections,
        first=set_at[0] if set_at else 0,
        last=set_at[-1] if set_at else -1,
        pages=len(pages),
        fill=len(pages) * page_bytes - len(counted),
        trailing=len(set_at) - len(counted),
    )
