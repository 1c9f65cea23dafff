"""What a follow-up tool offers to the floors above, whichever program or protocol it uses.

A tool says what it did; it never says that a board is good. Whether what it wrote is there is decided above, from what was
read back, or, where a bootloader cannot be read, from the tool's own verification and the firmware showing up on USB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import Part
from ispd.transport.clock import Clock
from ispd.transport.contract import ToolOutcome, ToolRun, UsbDeviceAt, UsbLink

__all__ = ["ChainTool", "ChainWork", "Desk"]


class Desk(Protocol):
    """What a tool works with while it serves one board. Everything it runs and what that prints goes into the record."""

    @property
    def clock(self) -> Clock:
        """Time."""

    async def here(self) -> UsbDeviceAt:
        """Look at the board's port again, right before using what is there.

        Raises ``TargetError``: ``bootloader-not-seen`` where nothing is there, ``board-unexpected`` where it is not the bootloader
        this work is for, or was plugged in anew since the work began.
        """

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Run an outside program; ``on_text`` gets its output as it comes, decoded, in pieces that may end anywhere.

        Raises ``TargetError`` with ``tool-failed`` where it had to be killed at its deadline; ``TransportError`` with ``tool-missing``.
        Exit codes are the caller's to judge.
        """

    async def open_usb(self) -> UsbLink:
        """Open the board's USB device for own code."""

    def advance(self, done_bytes: int) -> None:
        """Take note that ``done_bytes`` more of the work's bytes are finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainWork:
    """What is to be done to one board in its bootloader.

    :param part: None for a chip that the part catalog does not know; then ``bootloader.chips`` names it.
    :param firmware: what its application section must hold; checked beforehand to fit.
    """

    part: Part | None
    bootloader: Bootloader
    firmware: Image


class ChainTool(Protocol):
    """One follow-up tool; each module of this package that is one holds it as ``TOOL``.

    :param name: as the record shows it.
    :param families: bootloader families of the catalog that it serves.
    :param program: the executable it needs, None for own code.
    :param is_exclusive: it takes whatever board it finds first. Such a tool works on one board of a station at a time, and only
        while no second board in such a bootloader is on the machine.
    :param needs_tty: the bootloader is spoken to through a serial port, which appears a little after its USB device.
    :param erase_is_separate: erasing is a step of its own, which can fail and be repeated; else writing erases.
    """

    name: str
    families: frozenset[str]
    program: str | None
    is_exclusive: bool
    needs_tty: bool
    erase_is_separate: bool

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Erase the application section, by force: also where it seems blank already.

        Raises ``TargetError``: ``not-blank`` where something is left after the erase, ``erase-failed`` for anything else that
        says it did not happen. Does nothing where ``erase_is_separate`` is false.
        """

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware and return what was read back afterwards, at least all of its spans; None where the bootloader cannot be read.

        Raises ``TargetError``: ``verify-mismatch``, ``tool-failed``, ``not-blank``.
        """

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Let the bootloader start the firmware; does nothing where :meth:`write` ended with it.

        A bootloader that vanishes meanwhile did what it was asked.
        """
