"""Who has a device node open, as far as /proc tells."""

import os
from pathlib import Path

__all__ = ["port_holders"]


def port_holders(port: str) -> tuple[str, ...]:
    """Return the processes that have ``port`` open, as ``name (pid)``, as far as we may look into them."""
    target = os.path.realpath(port)
    others = (process for process in Path("/proc").glob("[0-9]*") if int(process.name) != os.getpid())
    return tuple(
        sorted(f"{_process_name(process)} ({process.name})" for process in others if _has_open(process, target))
    )


def _has_open(process: Path, target: str) -> bool:
    """Tell whether a process has a file open; no where it is gone or not ours to look into."""
    try:
        return any(_link(entry) == target for entry in (process / "fd").iterdir())
    except OSError:
        return False


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def _process_name(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"
