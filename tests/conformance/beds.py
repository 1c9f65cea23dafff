"""The beds a driver is tried on: the virtual bench in process, and a real pseudo-terminal. One interface for tests."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from ispd.programmers.contract import IspProgrammer
from ispd.programmers.stk500v1 import DRIVER
from ispd.transport.contract import UsbIdentity
from ispd.transport.machine import Machine
from vbench.faults import ProgrammerFault
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.pty_board import PtyBoard
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

__all__ = ["BEDS", "Bed", "OpenBed", "Watch", "on_pty", "virtually"]


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
    """An opened programmer and what stands behind it."""

    programmer: IspProgrammer
    board: SerialProgrammer
    target: AvrTarget
    unplug: Callable[[], None]
    look: Callable[[], AvrTarget | None]

    def check(self) -> None:
        """Fail on anything a data sheet forbids, on lost bytes, and on a target left in reset."""
        self.look()
        assert [str(violation) for violation in self.target.violations] == []
        assert self.board.mcu.lost == 0
        assert self.board.optiboot.writes == 0


OpenBed = Callable[..., AbstractAsyncContextManager[Bed]]


@asynccontextmanager
async def virtually(
    target: AvrTarget,
    *,
    flavour: Flavour = Flavour.UART,
    baud: int = 19200,
    faults: Sequence[ProgrammerFault] = (),
    **options: bool,
) -> AsyncIterator[Bed]:
    """Open the driver on a bench in process; the caller's event loop decides what time is."""
    board = SerialProgrammer(flavour, baud=baud, target=target, faults=faults, **options)
    bench = BenchHardware()
    bench.add("A1", board)
    programmer = await DRIVER.open(bench, "A1", baud=baud, usb=board.usb)
    try:
        yield Bed(programmer, board, target, lambda: bench.unplug("A1"), lambda: bench.target("A1"))
    finally:
        await programmer.aclose()


@asynccontextmanager
async def on_pty(
    target: AvrTarget,
    *,
    flavour: Flavour = Flavour.UART,
    baud: int = 19200,
    faults: Sequence[ProgrammerFault] = (),
    **options: bool,
) -> AsyncIterator[Bed]:
    """Open the driver on a real pseudo-terminal, in real time; a UART shows no USB identity there."""
    board = SerialProgrammer(flavour, baud=baud, target=target, faults=faults, **options)
    usb: UsbIdentity | None = None if flavour.is_uart else board.usb
    with PtyBoard(board) as pty:
        programmer = await DRIVER.open(Machine(), pty.path, baud=baud, usb=usb)
        try:
            yield Bed(programmer, board, target, pty.unplug, lambda: pty.target)
        finally:
            await programmer.aclose()


BEDS: dict[str, OpenBed] = {"virtual": virtually, "pty": on_pty}
