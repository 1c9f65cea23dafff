"""The six-pin header between a programmer and whatever board sits on it, or none."""

from vbench.target import AvrTarget

__all__ = ["IspSocket", "PowerCutError"]

_INSTRUCTION_BYTES = 4
_OPEN_MISO = 0xFF
"""An unconnected MISO floats high on the boards this bench imitates."""


class PowerCutError(Exception):
    """The supply vanished in the middle of the firmware; the engine stops it there."""


class IspSocket:
    """Passes reset and SPI on to the board that is inserted; the programmer supplies the board.

    :param own_supply: boards here have a supply of their own, which nothing the programmer does takes away.
    """

    def __init__(self, target: AvrTarget | None = None, *, own_supply: bool = False) -> None:
        self.target: AvrTarget | None = None
        self.own_supply = own_supply
        self.powered = own_supply
        self.reset_active = False
        self.clock_hz: float | None = None
        """Clock the programmer feeds into the board's XTAL1, None for none."""
        self.instructions = 0
        self._bytes = 0
        self.cut_at_instruction: int | None = None
        """Lose the supply when this many instructions were begun; None for never."""
        self.cut_at: float | None = None
        if target is not None:
            self.insert(target, 0.0)

    def insert(self, target: AvrTarget, at: float) -> None:
        """Put a board on the header; raises ``ValueError`` where one is already."""
        if self.target is not None:
            raise ValueError("a board is already on this slot")
        self.target = target
        target.feed_clock(self.clock_hz)
        if self.powered:
            target.power_on(at, reset_active=self.reset_active)

    def remove(self, at: float) -> AvrTarget:
        """Take the board off and return it; raises ``ValueError`` where there is none."""
        if self.target is None:
            raise ValueError("no board is on this slot")
        target, self.target = self.target, None
        target.feed_clock(None)
        target.power_off(at)
        return target

    def power_on(self, at: float) -> None:
        """The programmer got its supply, and the board with it; reset is released."""
        self.reset_active = False
        self.supply(True, at)

    def power_off(self, at: float) -> None:
        """The programmer lost its supply, and the board with it; nothing drives reset any more."""
        if self.own_supply:
            self.set_reset(False, at)
        self.supply(False, at)
        self.reset_active = False

    def supply(self, on: bool, at: float) -> None:
        """Switch the board's supply alone; the reset line stays as it is."""
        if self.own_supply or on == self.powered:
            return
        self.powered = on
        if self.target is None:
            return
        if on:
            self.target.power_on(at, reset_active=self.reset_active)
        else:
            self.target.power_off(at)

    def feed_clock(self, hz: float | None) -> None:
        """Feed a clock into the board's XTAL1, or take it away."""
        self.clock_hz = hz
        if self.target is not None:
            self.target.feed_clock(hz)

    def set_reset(self, active: bool, at: float) -> None:
        """Drive the board's reset line; active is low on the wire."""
        self.reset_active = active
        self._bytes = 0
        if self.target is not None:
            self.target.set_reset(active, at)

    def instruction(self, b1: int, b2: int, b3: int, b4: int, at: float, sck_hz: float) -> int:
        """Clock four bytes beginning at ``at`` and return the fourth reply byte."""
        self._count(at)
        if self.target is None:
            return _OPEN_MISO
        return self.target.instruction(b1, b2, b3, b4, at, sck_hz)

    def clock(self, byte: int, at: float, sck_hz: float) -> int:
        """Clock one byte beginning at ``at`` and return its reply; every fourth since reset begins an instruction."""
        if self._bytes % _INSTRUCTION_BYTES == 0:
            self._count(at)
        self._bytes += 1
        if self.target is None:
            return _OPEN_MISO
        return self.target.clock(byte, at, sck_hz)

    def _count(self, at: float) -> None:
        self.instructions += 1
        if self.instructions == self.cut_at_instruction:
            self.cut_at = at
            self.power_off(at)
            raise PowerCutError

    def exchange(self, sent: bytes, at: float, sck_hz: float) -> bytes:
        """Clock any number of bytes beginning at ``at`` and return as many reply bytes; four count as an instruction."""
        self._count(at)
        if self.target is None:
            return bytes((_OPEN_MISO,)) * len(sent)
        return self.target.exchange(sent, at, sck_hz)
