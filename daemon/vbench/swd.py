"""The four-wire header between a debug probe and whatever board sits on it, or none."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from vbench.isp_socket import PowerCutError

__all__ = ["Ack", "SwdReply", "SwdSocket", "SwdTarget", "SwdWiring"]


class Ack(Enum):
    """What a chip says to an access."""

    OK = auto()
    WAIT = auto()
    """Busy: try again."""
    FAULT = auto()
    """Nothing answers at that address, or the access is not allowed."""
    NONE = auto()
    """Nobody is on the wire."""


@dataclass(frozen=True, slots=True)
class SwdReply:
    """How an access ended, and what a read brought (zeros where it failed)."""

    ack: Ack
    data: bytes = b""


class SwdTarget(Protocol):
    """A chip with an SWD port. All times are bench seconds, and never go back."""

    def set_supply(self, source: str, on: bool, at: float) -> None:
        """Give or take one of its supplies; it runs as long as there is any."""

    def set_nrst(self, low: bool, at: float) -> None:
        """Drive its reset pin."""

    def press_reset(self, at: float) -> None:
        """Press the reset button of its board shortly."""

    def supply_mv(self) -> int:
        """Return its supply, 0 without."""

    def connect(self, at: float, clock_hz: float) -> int | None:
        """Reset the line and return DPIDR, None where nobody answers."""

    def read(self, address: int, length: int, width: int, at: float, clock_hz: float) -> SwdReply:
        """Read memory by accesses of ``width`` bytes."""

    def write(self, address: int, data: bytes, width: int, at: float, clock_hz: float) -> Ack:
        """Write memory by accesses of ``width`` bytes."""

    def run(self, now: float) -> None:
        """Catch up with the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwdWiring:
    """How a slot is wired.

    :param swapped: SWDIO and SWCLK are exchanged, as on dongles with a wrong print.
    :param has_nrst: the reset wire is there; on most Bluepills it is not.
    :param supplies: the dongle's 3.3 V is wired.
    :param measures: the probe measures the board's supply; cheap dongles have no divider for that, and read nothing.
    """

    swapped: bool = False
    has_nrst: bool = False
    supplies: bool = True
    measures: bool = True


class SwdSocket:
    """Passes SWD, reset and supply on to the board that is inserted.

    :param cut_at_access: the probe's USB cable comes off at this access (counted from 1), None for never.
    """

    def __init__(self, target: SwdTarget | None = None, *, wiring: SwdWiring | None = None) -> None:
        self.target: SwdTarget | None = None
        self.wiring = wiring or SwdWiring()
        self.powered = False
        self.nrst_low = False
        self.accesses = 0
        self.cut_at_access: int | None = None
        if target is not None:
            self.insert(target, 0.0)

    def insert(self, target: SwdTarget, at: float) -> None:
        """Put a board on the header; raises ``ValueError`` where one is already."""
        if self.target is not None:
            raise ValueError("a board is already on this slot")
        self.target = target
        self._apply(at)

    def remove(self, at: float) -> SwdTarget:
        """Take the board off and return it; raises ``ValueError`` where there is none."""
        if self.target is None:
            raise ValueError("no board is on this slot")
        target, self.target = self.target, None
        target.set_nrst(False, at)
        target.set_supply("swd", False, at)
        return target

    def power(self, on: bool, at: float) -> None:
        """The probe got or lost its supply; reset is let go."""
        self.powered, self.nrst_low = on, False
        self._apply(at)

    def set_nrst(self, low: bool, at: float) -> None:
        """Drive the reset wire."""
        self.nrst_low = low
        self._apply(at)

    def supply_mv(self) -> int:
        """Return what the probe measures of the board's supply."""
        return 0 if self.target is None or not self.wiring.measures else self.target.supply_mv()

    def connect(self, at: float, clock_hz: float) -> int | None:
        """Reset the line and return DPIDR, None where nobody answers."""
        chip = self._heard()
        return None if chip is None else chip.connect(at, clock_hz)

    def read(self, address: int, length: int, width: int, at: float, clock_hz: float) -> SwdReply:
        """Read memory; see :class:`SwdTarget`."""
        chip = self._heard()
        return SwdReply(Ack.NONE, bytes(length)) if chip is None else chip.read(address, length, width, at, clock_hz)

    def write(self, address: int, data: bytes, width: int, at: float, clock_hz: float) -> Ack:
        """Write memory; see :class:`SwdTarget`."""
        chip = self._heard()
        return Ack.NONE if chip is None else chip.write(address, data, width, at, clock_hz)

    def _heard(self) -> SwdTarget | None:
        """Return the chip that hears the probe, counting an access. Raises ``PowerCutError`` where the cable comes off."""
        self.accesses += 1
        if self.accesses == self.cut_at_access:
            raise PowerCutError
        return None if self.wiring.swapped else self.target

    def _apply(self, at: float) -> None:
        if self.target is not None:
            self.target.set_supply("swd", self.powered and self.wiring.supplies, at)
            self.target.set_nrst(self.nrst_low and self.wiring.has_nrst, at)
