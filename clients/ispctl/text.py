"""Tables and sentences for people; plain text, so that nothing heavy has to be loaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = [
    "address",
    "byte",
    "clock_name",
    "duration",
    "failure_lines",
    "fuse_text",
    "is_device_id",
    "printable",
    "protection",
    "table",
    "verdict_text",
]

Record = Mapping[str, Any]
_LARGEST_OF_AVRS = 0xFF_FFFF  # 24 bits are the most that any part's ISP commands carry
_RDP_OPEN = 0xA5  # any other value protects (PM0075, "Read protection")
_WRP = ("wrp0", "wrp1", "wrp2", "wrp3")
_NONE_KEPT = 0xFF
_WORDS = re.compile(r"\w+")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns; None shows as a dash. Without rows there is nothing to line up: ``none``."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return "none"
    widths = [max(len(row[column]) for row in [list(headings), *cells]) for column in range(len(headings))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in [headings, *cells]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def printable(text: str) -> str:
    """Return ``text`` without control characters: names come from files and USB descriptors of others."""
    return "".join(char if char.isprintable() else "?" for char in text)


def byte(value: int | None) -> str | None:
    """Return a byte in hex; None stays None."""
    return None if value is None else f"0x{value:02X}"


def fuse_text(fuses: Mapping[str, int] | None, lock: int | None = None) -> str | None:
    """Return fuse bytes as ``lfuse 0x5E  hfuse 0x99``; None where none are known."""
    known = [*(fuses or {}).items(), *([("lock", lock)] if lock is not None else [])]
    return "  ".join(f"{name} {byte(value)}" for name, value in known) or None


def is_device_id(signature: str | None) -> bool:
    """Tell whether what a target calls itself is an STM32's device id: that is written as one number, an AVR's signature is not."""
    return signature is not None and signature.startswith("0x")


def clock_name(signature: str | None) -> str:
    """Return what the programmer's clock is called."""
    return "SWD" if is_device_id(signature) else "SCK"


def address(value: int) -> str:
    """Return an address in hex: in four digits or more, one of an STM32's in eight."""
    return f"0x{value:0{8 if value > _LARGEST_OF_AVRS else 4}X}"


def protection(option_bytes: Mapping[str, int], lock: int | None) -> str | None:
    """Return in words what an STM32F1's option bytes keep from being read or written; None where it is not known."""
    if lock is None:
        return None
    kept = [] if lock == _RDP_OPEN else ["reading"]
    kept += ["writing"] if any(option_bytes.get(name, _NONE_KEPT) != _NONE_KEPT for name in _WRP) else []
    return f"against {' and '.join(kept)}" if kept else "none"


def duration(started: str, finished: str | None) -> str | None:
    """Return the seconds between two times as the daemon writes them."""
    if finished is None:
        return None
    return f"{(datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds():.1f} s"


def verdict_text(unit: Record) -> str:
    """Return the verdict, and for a failure its code."""
    failure = unit["failure"]
    verdict = unit["verdict"] or "running"
    return f"{verdict}: {failure['code']}" if failure is not None else str(verdict)


def failure_lines(failure: Record | None) -> list[str]:
    """Return what went wrong, where, and what to do."""
    if failure is None:
        return []
    lines = [printable(failure["message"])]
    told = _WORDS.findall(failure["message"])
    written = {
        name: write(failure[name])
        for name, write in (("address", address), ("expected", byte), ("actual", byte))
        if failure.get(name) is not None
    }
    where = [f"{name} {value}" for name, value in written.items() if value not in told]
    if where:
        lines.append(" ".join([*([failure["memory"]] if failure.get("memory") else []), *where]))
    if failure.get("hint"):
        lines.append(f"hint: {printable(failure['hint'])}")
    return lines
