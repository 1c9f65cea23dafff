"""A desk at a port of the mocked USB tree: follow-up tools as the daemon runs them, real programs, emulated boards."""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.oracle.usb.bed import UsbBed

from ispd.errors import ErrorCode, TargetError
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, ControlTransfer, ToolOutcome, ToolRun, UsbDeviceAt, UsbIdentity, UsbLink
from ispd.transport.process import run_tool
from ispd.transport.usb_place import device_at
from vbench.board import ENUMERATION_S
from vbench.board_shown import ShownUsb
from vbench.emulated import ControlReply, EmulatedBoard
from vbench.usb_descriptors import Descriptors

__all__ = ["BedDesk", "BoardOnBed"]

_SETTLED_S = 2 * ENUMERATION_S


BoardType = TypeVar("BoardType", bound=EmulatedBoard)


class BoardOnBed(Generic[BoardType]):
    """A board as the bed takes devices: whoever is on its port when it is plugged in, until that one leaves."""

    def __init__(self, board: BoardType) -> None:
        self.board = board
        self.now = 0.0
        board.attach(0.0)
        self._face: ShownUsb | None = None
        self.look(_SETTLED_S)

    def look(self, after_s: float) -> str | None:
        """Let time pass and return the USB id of who is there then; the bed shows him from now on."""
        self.now += after_s
        face = self.board.face(self.now)
        self._face = face if isinstance(face, ShownUsb) else None
        return None if self._face is None else str(self._face.usb)

    @property
    def _shown(self) -> ShownUsb:
        assert self._face is not None, "nobody is on the port"
        return self._face

    @property
    def usb(self) -> UsbIdentity:
        """Identity of who is there."""
        return self._shown.usb

    @property
    def descriptors(self) -> Descriptors:
        """His descriptors."""
        return self._shown.descriptors

    @property
    def power_lost_at(self) -> float | None:
        """When he left."""
        return self._shown.power_lost_at

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out a transfer; the bed's clock and ours differ by a constant at most, never backwards."""
        self.now = max(self.now, at)
        reply = self._shown.control(transfer, self.now)
        self.now = max(self.now, min(reply.ends_at, self.now + 60.0))
        return reply

    def power_off(self, at: float) -> None:
        """The bed takes a device away that has left already."""


class BedDesk:
    """See :class:`~ispd.chain.contract.Desk`. What leaves its port during a run is unplugged after it."""

    def __init__(self, bed: UsbBed, path: str, board: BoardOnBed[Any], *, search_path: str | None = None) -> None:
        self.clock = SystemClock()
        self.done_bytes = 0
        self.said = ""
        self.runs: list[ToolRun] = []
        self._bed = bed
        self._path = path
        self._board = board
        names = ("LD_PRELOAD", "UMOCKDEV_DIR")
        self._environment = {name: bed.environment[name] for name in names}
        if search_path is not None:
            self._environment["PATH"] = search_path
        self._is_plugged = True

    async def here(self) -> UsbDeviceAt:
        """Look into the mocked tree as the daemon looks into the real one."""
        found = device_at(self._path, Path(self._environment["UMOCKDEV_DIR"]) / "sys/bus/usb/devices")
        if found is None:
            raise TargetError(ErrorCode.BOOTLOADER_NOT_SEEN, f"nothing is at {self._path}")
        return found

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Run the real program."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def hear(piece: bytes) -> None:
            text = decoder.decode(piece)
            self.said += text
            on_text(text)

        self.runs.append(run)
        outcome = await run_tool(run, hear, environment=self._environment)
        if outcome.exit_code is None:
            raise TargetError(ErrorCode.TOOL_FAILED, f"{run.words[0]} was killed after {run.deadline_s} s")
        if self._is_plugged and self._board.power_lost_at is not None:
            self._bed.unplug(self._path)
            self._is_plugged = False
        return outcome

    async def open_usb(self) -> UsbLink:
        """Refuse: outside programs open the device themselves."""
        raise AssertionError(self._path)

    async def open_serial(self, baud: int) -> BytePort:
        """Refuse: outside programs open the tty themselves."""
        raise AssertionError(baud)

    def advance(self, done_bytes: int) -> None:
        """Count."""
        self.done_bytes += done_bytes
