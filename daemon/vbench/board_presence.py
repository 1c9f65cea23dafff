"""What every board with a USB cable has: who is on its port, since when, and the faults of its USB side."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from ispd.transport.contract import UsbIdentity
from vbench.board_face import Program
from vbench.board_faults import NeverEnumerates, Stalls, Vanishes, WrongIdentity
from vbench.board_shown import ShownSerial, ShownUsb, show

__all__ = ["ENUMERATION_S", "JUMP_S", "BoardPresence", "usb_identity"]

ENUMERATION_S = 0.25
"""From the start of a program to a device that udev has told about."""
JUMP_S = 1e-3
"""A program that jumps to another one takes this long; also keeps two of them from passing the ball at one moment for ever."""


class BoardPresence(ABC):
    """One board's USB side; a :class:`~vbench.board_shown.Stage`. All times are bench seconds.

    :param faults: those of its USB side are taken, others left to whom they concern.
    :param enumeration_s: from the start of a program until the host knows the device.
    """

    def __init__(self, *, faults: Sequence[object], enumeration_s: float) -> None:
        self.on_change: Callable[[], object] | None = None
        self.enumerations = 0
        """How often it was enumerated."""
        self._vanishes = {fault.transfer for fault in faults if isinstance(fault, Vanishes)}
        self._stalls = {fault.transfer for fault in faults if isinstance(fault, Stalls)}
        self._identities = [fault for fault in faults if isinstance(fault, WrongIdentity)]
        self._silences = [fault for fault in faults if isinstance(fault, NeverEnumerates)]
        self._enumeration_s = enumeration_s
        self._transfers = 0
        self._program: Program | None = None
        self._shown: ShownUsb | ShownSerial | None = None
        self._shown_at = math.inf
        self._has_cable = False

    @abstractmethod
    def catch_up(self, now: float) -> None:
        """Let everything happen that is due by ``now``, in its order."""

    def face(self, now: float) -> ShownUsb | ShownSerial | None:
        """Return who is on its port at ``now``, None for nobody."""
        self.catch_up(now)
        return self._shown

    def strikes(self, count: int, at: float) -> bool:
        """Count transfers; let the board vanish where a fault says so. AvrPart of :class:`~vbench.board_shown.Stage`."""
        before, self._transfers = self._transfers, self._transfers + count
        if not any(before <= transfer < self._transfers for transfer in self._vanishes):
            return False
        self._stop(at)
        self._notify()
        return True

    def refuses(self) -> bool:
        """Tell whether a fault has it refuse the last transfer; part of :class:`~vbench.board_shown.Stage`."""
        return self._transfers - 1 in self._stalls

    def _notify(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _next_of_program(self) -> float:
        """Return when the running program shows itself or leaves, whichever comes first."""
        leaves = math.inf if self._program is None or self._program.departure is None else self._program.departure.at
        return min(self._shown_at, leaves)

    def _enumerate(self) -> None:
        self._shown_at = math.inf
        face = None if self._program is None else self._program.face
        if self._program is None or face is None:
            return
        self.enumerations += 1
        if all(fault.enumeration not in (None, self.enumerations) for fault in self._silences):
            self._shown = show(face, self._program, self)

    def _hide(self, at: float) -> None:
        if self._shown is not None:
            self._shown.power_lost_at = at
        self._shown = None
        self._shown_at = math.inf

    def _stop(self, at: float) -> None:
        self._hide(at)
        self._program = None

    @abstractmethod
    def acted(self, program: Program) -> None:
        """The program did something; part of :class:`~vbench.board_shown.Stage`."""

    def _identity(self, usb: UsbIdentity) -> UsbIdentity:
        """Return the identity of the next enumeration, by a fault another one than the program's."""
        number = self.enumerations + 1
        wrong = next((fault.usb for fault in self._identities if fault.enumeration in (None, number)), None)
        if wrong is None:
            return usb
        shown = usb_identity(wrong)
        return replace(usb, vendor_id=shown.vendor_id, product_id=shown.product_id)


def usb_identity(text: str) -> UsbIdentity:
    """Return the bare identity of ``FEED:6060``."""
    vendor, product = (int(half, 16) for half in text.split(":"))
    return UsbIdentity(vendor_id=vendor, product_id=product)
