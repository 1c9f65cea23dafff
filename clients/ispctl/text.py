"""Tables and sentences for people; plain text, so that nothing heavy has to be loaded."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = ["byte", "duration", "failure_lines", "fuse_text", "table", "verdict_text"]

Record = Mapping[str, Any]
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
    where = [
        f"{name} 0x{failure[name]:0{width}X}"
        for name, width in (("address", 4), ("expected", 2), ("actual", 2))
        if failure.get(name) is not None and f"0x{failure[name]:0{width}X}" not in _WORDS.findall(failure["message"])
    ]
    if where:
        lines.append(" ".join([*([failure["memory"]] if failure.get("memory") else []), *where]))
    if failure.get("hint"):
        lines.append(f"hint: {printable(failure['hint'])}")
    return lines
