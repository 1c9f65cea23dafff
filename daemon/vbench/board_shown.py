"""A face on the bus: what a host talks to from one enumeration of a board to the end of it."""

import math
from collections.abc import Callable
from typing import Literal, Protocol, cast

from ispd.transport.contract import ControlTransfer, PortKind
from vbench.board_face import Program
from vbench.emulated import ControlReply, EmulatedFace, SerialEnd, UsbEnd
from vbench.usb_descriptors import Descriptors
from vbench.usb_device import TAU_S

__all__ = ["Shown", "ShownSerial", "ShownUsb", "Stage", "show"]

_TYPE_MASK = 0x60


class Stage(Protocol):
    """What a face on the bus needs of its board."""

    def catch_up(self, now: float) -> None:
        """Let everything happen that is due by ``now``."""

    def strikes(self, count: int, at: float) -> bool:
        """Count transfers (or bytes); where a fault lets the board vanish among them, do that and tell."""

    def refuses(self) -> bool:
        """Tell whether a fault has the board refuse the transfer that was counted last."""

    def acted(self, program: Program) -> None:
        """The program did something: it may leave earlier or later now."""


class Shown:
    """Identity and life of one enumeration."""

    def __init__(self, face: EmulatedFace, program: Program, stage: Stage) -> None:
        self.usb = face.usb
        self.version = face.version
        self.inside = face
        """The program's own face, for tests and tools of the bench to look inside."""
        self.power_lost_at: float | None = None
        self._program = program
        self._stage = stage


class ShownUsb(Shown):
    """A face spoken to by control transfers."""

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(self, face: EmulatedFace, program: Program, stage: Stage) -> None:
        super().__init__(face, program, stage)
        self._end = cast("UsbEnd", face)
        self.is_silent = False
        """Nobody answers any more, but the host has not noticed: the line is still pulled up."""

    @property
    def descriptors(self) -> Descriptors:
        """Its descriptors, for beds that show them to a kernel or to libusb before anybody asks."""
        return cast("Descriptors", getattr(self.inside, "descriptors"))  # noqa: B009 - not part of every face's contract

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self._stage.catch_up(now)
        if self.power_lost_at is None and not self.is_silent:
            self._end.run(now)

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer; where the board leaves in the middle of it there is no answer."""
        self._stage.catch_up(at)
        if self.is_silent and self.power_lost_at is None:
            return ControlReply(ends_at=math.inf)
        is_counted = bool(transfer.request_type & _TYPE_MASK)
        if self.power_lost_at is not None or (is_counted and self._stage.strikes(1, at)):
            return ControlReply(ends_at=at)
        if is_counted and self._stage.refuses():
            return ControlReply(ends_at=at + TAU_S, stalled=True)
        reply = self._end.control(transfer, at)
        self._stage.acted(self._program)
        leaves = self._program.departure
        if leaves is not None and leaves.at < reply.ends_at:
            self._stage.catch_up(leaves.at)
            return ControlReply(ends_at=leaves.at)
        return reply


class ShownSerial(Shown):
    """A face with a serial port."""

    port_kind: Literal[PortKind.SERIAL] = PortKind.SERIAL

    def __init__(self, face: EmulatedFace, program: Program, stage: Stage) -> None:
        super().__init__(face, program, stage)
        self._end = cast("SerialEnd", face)
        self.baud = self._end.baud

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        """The host opened the port, or changed rate and lines."""
        self._act(at, lambda: self._end.opened(at, baud=baud, dtr=dtr, rts=rts))

    def set_baud(self, baud: int) -> None:
        """The host changed the port's rate."""
        self._end.set_baud(baud)

    def feed(self, data: bytes, at: float) -> None:
        """Take bytes the host hands to its port at ``at``."""
        if not self._stage.strikes(len(data), at):
            self._act(at, lambda: self._end.feed(data, at))

    def take(self, now: float) -> bytes:
        """Run up to ``now`` and return what the host has received by then and not taken yet."""
        found = self._end.take(now) if self.power_lost_at is None else b""
        self._stage.acted(self._program)
        self._stage.catch_up(now)
        return found

    def held(self, now: float) -> int:
        """Return how many bytes of the host have not got past the USB side."""
        return self._end.held(now)

    def next_time(self) -> float:
        """Return when :meth:`take` should be called next though nothing was fed, infinity for never."""
        due = self._end.next_time()
        leaves = self._program.departure
        return due if leaves is None else min(due, leaves.at)

    def _act(self, at: float, action: Callable[[], object]) -> None:
        self._stage.catch_up(at)
        if self.power_lost_at is None:
            action()
            self._stage.acted(self._program)


def show(face: EmulatedFace, program: Program, stage: Stage) -> ShownUsb | ShownSerial:
    """Put a face on the bus."""
    kind = ShownUsb if face.port_kind is PortKind.USB else ShownSerial
    return kind(face, program, stage)
