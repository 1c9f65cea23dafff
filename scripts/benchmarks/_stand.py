"""A stand for measurements: emulated programmers in one process, the daemon in another, both as users start them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment

__all__ = ["Process", "emulated_boards", "flash_all", "running_daemon", "sample_image", "tabulated", "write_image"]

_START_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A running process and what it used."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def cpu_s(self) -> float:
        """Return the CPU seconds used so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self, *, peak: bool = False) -> float:
        """Return the resident memory now, or the most there ever was, in MB (10^6 bytes)."""
        name = "VmHWM:" if peak else "VmRSS:"
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / 1e6
        raise ValueError("the process has ended")

    def stop(self) -> int:
        """End the process with SIGTERM and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def require(self) -> None:
        """Raise ``RuntimeError`` where the process has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._process.args!r} ended with exit code {self._process.returncode}")


def sample_image(size_bytes: int) -> Image:
    """Return an image of this size in which no page is blank."""
    return Image.of([Segment(0, bytes(address * 73 + (address >> 8) & 0xFF for address in range(size_bytes)))])


def write_image(folder: Path, size_bytes: int) -> Path:
    """Write :func:`sample_image` as a hex file and return its path."""
    file = folder / "board.hex"
    file.write_bytes(write_hex(sample_image(size_bytes)))
    return file


@contextmanager
def emulated_boards(folder: Path, count: int, *, kind: str = "stk500v1", **options: str) -> Iterator[list[Path]]:
    """Run ``count`` programmers with a blank ATmega32U4 each on pseudo-terminals, in real time; yield their paths.

    :param options: further ones of ``python -m vbench``.
    """
    links = folder / "ports"
    given = {"boards": count, "kind": kind, "links": links, **options}
    boards = _start("vbench", *(f"--{name}={value}" for name, value in given.items()))
    try:
        paths = [links / f"P{number}" for number in range(1, count + 1)]
        _wait_until(boards, lambda: all(path.exists() for path in paths))
        yield paths
    finally:
        boards.stop()


@contextmanager
def running_daemon(
    folder: Path,
    ports: Sequence[Path | str],
    *,
    programmer: str = "stk500v1",
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Process, Path]]:
    """Run the daemon with one slot a port (a path, or ``usb:1-1.4``); yield its process and its socket."""
    socket = folder / "ispd.sock"
    slots = "".join(
        f'[[slot]]\nname = "P{number}"\nprogrammer = "{programmer}"\nport = "{port}"\n'
        for number, port in enumerate(ports, 1)
    )
    config = folder / "ispd.toml"
    config.write_text(
        f'[daemon]\nsocket = "{socket}"\nstate_dir = "{folder / "state"}"\n[hotplug]\nudev = false\n{slots}'
    )
    daemon = _start("ispd", "--config", str(config), "--log-level", "warning", environment=environment)
    try:
        _wait_until(daemon, socket.exists)
        yield daemon, socket
    finally:
        daemon.stop()


def flash_all(socket: Path, image: Path, *options: str) -> float:
    """Flash every board with ``ispctl enqueue --wait`` and return the seconds it took, the command's start included.

    :param options: further ones of ``enqueue``.

    Raises ``RuntimeError`` where a board did not pass.
    """
    begun = time.monotonic()
    command = [sys.executable, "-m", "ispctl", "--socket", str(socket), "enqueue", "--wait", str(image), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"not every board passed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - begun


def tabulated(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table with aligned columns; numbers to the right."""
    table = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = []
    for row in table:
        cells = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _start(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
    command = [sys.executable, "-m", module, *arguments]
    return Process(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment))


def _wait_until(process: Process, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _START_S
    while not condition():
        process.require()
        if time.monotonic() > end:
            raise RuntimeError("it does not get ready")
        time.sleep(0.01)
