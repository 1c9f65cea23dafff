"""The beds a driver is tried on: the bench in process, a real pseudo-terminal, pyusb with its threads. One interface."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from tests.conformance.rows import ROWS, Board, Row

from ispd.programmers.contract import IspProgrammer
from ispd.transport.contract import PortKind, UsbIdentity
from ispd.transport.machine import Machine
from vbench.hardware import BenchHardware
from vbench.pty_board import PtyBoard
from vbench.pyusb_backend import PyusbBackend
from vbench.target import AvrTarget
from vbench.usb_bus import UsbHardware
from vbench.virtual_time import run_virtual

__all__ = ["CASES", "VIRTUAL_CASES", "Bed", "Case", "OpenBed", "Watch"]

PORT, PLACE = "A1", "1-1.4"


@dataclass(slots=True)
class Watch:
    """A monitor that counts, and asks to stop after ``stop_after`` notes."""

    stop_after: int | None = None
    notes: list[int] = field(default_factory=list)

    def advance(self, done_bytes: int) -> None:
        self.notes.append(done_bytes)

    @property
    def stop_requested(self) -> bool:
        return self.stop_after is not None and len(self.notes) >= self.stop_after

    @property
    def total(self) -> int:
        return sum(self.notes)


@dataclass(frozen=True, slots=True)
class Bed:
    """An opened programmer and what stands behind it. ``look`` lets the emulation catch up with the clock."""

    row: Row
    programmer: IspProgrammer
    board: Board
    target: AvrTarget
    unplug: Callable[[], None]
    look: Callable[[], AvrTarget | None]

    def check(self) -> None:
        """Fail on anything a data sheet forbids, and on whatever was lost."""
        self.look()
        assert [str(violation) for violation in self.target.violations] == []
        self.row.check(self.board)


OpenBed = Callable[[AvrTarget], AbstractAsyncContextManager[Bed]]


@asynccontextmanager
async def virtually(row: Row, target: AvrTarget) -> AsyncIterator[Bed]:
    """Open the driver on a bench in process; the caller's event loop decides what time is."""
    board = row.build(target)
    bench = BenchHardware()
    bench.add(PORT, board)
    programmer = await row.driver.open(bench, PORT, baud=row.baud, usb=board.usb)
    try:
        yield Bed(row, programmer, board, target, lambda: bench.unplug(PORT), lambda: bench.target(PORT))
    finally:
        await programmer.aclose()


@asynccontextmanager
async def on_pty(row: Row, target: AvrTarget) -> AsyncIterator[Bed]:
    """Open the driver on a real pseudo-terminal, in real time; a UART shows no USB identity there."""
    board = row.build(target)
    assert board.port_kind is PortKind.SERIAL
    usb: UsbIdentity | None = None if row.is_bridged else board.usb
    with PtyBoard(board) as pty:
        programmer = await row.driver.open(Machine(), pty.path, baud=row.baud, usb=usb)
        try:
            yield Bed(row, programmer, board, target, pty.unplug, lambda: pty.target)
        finally:
            await programmer.aclose()


@asynccontextmanager
async def on_pyusb(row: Row, target: AvrTarget) -> AsyncIterator[Bed]:
    """Open the driver through pyusb and a worker thread, in real time."""
    board = row.build(target)
    assert board.port_kind is PortKind.USB
    backend = PyusbBackend()
    backend.add(PLACE, board)
    programmer = await row.driver.open(UsbHardware(backend), f"usb:{PLACE}", usb=board.usb)
    try:
        yield Bed(row, programmer, board, target, lambda: backend.unplug(PLACE), lambda: backend.target(PLACE))
    finally:
        await programmer.aclose()
    assert backend.opens == backend.closes
    assert backend.strays == []


@dataclass(frozen=True, slots=True)
class Case:
    """A row on a bed."""

    row: Row
    where: str
    bed: Callable[[Row, AvrTarget], AbstractAsyncContextManager[Bed]]

    def run(self, test: Callable[[OpenBed], Awaitable[None]]) -> None:
        """Run a test on virtual time where the bed allows it."""
        runner = run_virtual if self.where == "virtual" else anyio.run
        runner(functools.partial(test, functools.partial(self.bed, self.row)))


def _cases(name: str, row: Row) -> dict[str, Case]:
    beds = {"virtual": virtually}
    if row.is_quick:
        beds |= {"pty": on_pty} if row.driver.port_kind is PortKind.SERIAL else {"pyusb": on_pyusb}
    return {f"{name} {where}": Case(row, where, bed) for where, bed in beds.items()}


CASES: dict[str, Case] = {key: case for name, row in ROWS.items() for key, case in _cases(name, row).items()}
VIRTUAL_CASES = {key: case for key, case in CASES.items() if case.where == "virtual"}
