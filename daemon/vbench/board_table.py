"""Boards in a bench file: by their part they are AVRs or STM32s."""

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, IspdError
from ispd.model.part import AvrPart, Interface, Stm32Part
from vbench.board_fields import BoardFields, BoardState
from vbench.board_of_avr import AVR_OPTIONS, avr_board, avr_target
from vbench.board_of_stm32 import DFUSE_PART, STM32_OPTIONS, dfuse_board, stm32_board
from vbench.emulated import EmulatedBoard
from vbench.target import AvrTarget

__all__ = ["BoardState", "BoardTable"]


class BoardTable(BoardFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board as a bench file describes it."""

    def interface(self, parts: Parts) -> Interface | None:
        """Return what a programmer speaks to it, None for a board without a header. Raises ``ConfigError`` for an unknown part."""
        found = self._part(parts)
        return None if found is None else found.interface

    def build(self, parts: Parts) -> AvrTarget:
        """Make the chip of an AVR's board, with what is in it. Raises ``ConfigError`` for an unknown part, loader or fault."""
        self._check(self._part(parts))
        return avr_target(self, parts)

    def build_board(
        self, parts: Parts, bootloaders: Bootloaders, target: AvrTarget | None = None, *, name: str = ""
    ) -> EmulatedBoard:
        """Make the board with its USB side.

        :param target: its chip, where :meth:`build` has made it already.
        :param name: tells apart the unique ids of boards that are described alike.
        Raises ``ConfigError`` for what the catalog or the bench does not know.
        """
        part = self._part(parts)
        self._check(part)
        if part is None:
            return dfuse_board(self)
        if isinstance(part, Stm32Part):
            return stm32_board(self, part, name)
        return avr_board(self, bootloaders, target or avr_target(self, parts))

    def _part(self, parts: Parts) -> AvrPart | Stm32Part | None:
        if self.part.lower() == DFUSE_PART:
            return None
        try:
            found = parts.get(self.part)
        except IspdError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        if not isinstance(found, AvrPart | Stm32Part):
            raise ConfigError(f"the bench has no {found.name}")
        return found

    def _check(self, part: AvrPart | Stm32Part | None) -> None:
        """Refuse options of another kind of chip."""
        for name in self.given(STM32_OPTIONS if isinstance(part, AvrPart) else AVR_OPTIONS):
            raise ConfigError(f"a board with {self.part} has no {name}")
