"""The six-pin header between a programmer and whatever board sits on it, or none."""

from vbench.target import AvrTarget

__all__ = ["IspSocket", "PowerCutError"]

_OPEN_MISO = 0xFF
"""An unconnected MISO floats high on the boards this bench imitates."""


class PowerCutError(Exception):
    """The supply vanished in the middle of the firmware; the engine stops it there."""


class IspSocket:
    """Passes reset and SPI on to the board that is inserted; the programmer supplies the board."""

    def __init__(self, target: AvrTarget | None = None) -> None:
        self.target: AvrTarget | None = None
        self.powered = False
        self.reset_active = False
        self.instructions = 0
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
        if self.powered:
            target.power_on(at, reset_active=self.reset_active)

    def remove(self, at: float) -> AvrTarget:
        """Take the board off and return it; raises ``ValueError`` where there is none."""
        if self.target is None:
            raise ValueError("no board is on this slot")
        target, self.target = self.target, None
        target.power_off(at)
        return target

    def power_on(self, at: float) -> None:
        """The programmer got its supply; reset is released."""
        self.powered, self.reset_active = True, False
        if self.target is not None:
            self.target.power_on(at, reset_active=False)

    def power_off(self, at: float) -> None:
        """The programmer lost its supply, and the board with it."""
        self.powered = self.reset_active = False
        if self.target is not None:
            self.target.power_off(at)

    def set_reset(self, active: bool, at: float) -> None:
        """Drive the board's reset line; active is low on the wire."""
        self.reset_active = active
        if self.target is not None:
            self.target.set_reset(active, at)

    def instruction(self, b1: int, b2: int, b3: int, b4: int, at: float, sck_hz: float) -> int:
        """Clock four bytes beginning at ``at`` and return the fourth reply byte."""
        self.instructions += 1
        if self.instructions == self.cut_at_instruction:
            self.cut_at = at
            self.power_off(at)
            raise PowerCutError
        if self.target is None:
            return _OPEN_MISO
        return self.target.instruction(b1, b2, b3, b4, at, sck_hz)

    def exchange(self, sent: bytes, at: float, sck_hz: float) -> bytes:
        """Clock any number of bytes beginning at ``at`` and return as many reply bytes; four count as an instruction."""
        self.instructions += 1
        if self.instructions == self.cut_at_instruction:
            self.cut_at = at
            self.power_off(at)
            raise PowerCutError
        if self.target is None:
            return bytes((_OPEN_MISO,)) * len(sent)
        return self.target.exchange(sent, at, sck_hz)
