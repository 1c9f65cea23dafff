"""An AVR as the program on it sees it: its own memories, self-programming, and RAM that outlives a reset.

Source: data sheet chapter "Boot Loader Support - Read-While-Write Self-Programming" (ATmega16U4/32U4, 7766).
"""

from ispd.model.part import MemoryKind
from ispd.model.span import Span
from vbench.board_faults import EraseLeaves
from vbench.target import AvrTarget

__all__ = ["PAGE_STEP_S", "Chip", "EraseDisease"]

PAGE_STEP_S = 4.5e-3
"""Erase of a page, and write of one: 3.7 to 4.5 ms each by SPM."""
_EEPROM_BYTE_S = 3.4e-3
_BLANK = 0xFF
_BLB01, _BLB02, _BLB11, _BLB12 = 0x04, 0x08, 0x10, 0x20
"""Lock bits, programmed where 0: no SPM to the section (01: application, 11: boot section), no LPM from the other one (02, 12)."""


class EraseDisease:
    """An :class:`~vbench.board_faults.EraseLeaves` at work, over the board's life."""

    def __init__(self, fault: EraseLeaves, target: AvrTarget) -> None:
        self._fault = fault
        self._target = target
        self._tries = 0

    def strike(self) -> bytes | None:
        """Return what an erase leaves at address 0 instead of erasing; None where it works."""
        fault = self._fault
        is_over = fault.tries is not None and self._tries >= fault.tries
        self._tries += 1
        return None if is_over or self._target.erase_count >= fault.chip_erases else fault.residue


class Chip:
    """The part under a running bootloader or application. All times are bench seconds.

    :param section: the boot section that the fuses make.
    :param start: where the running program begins. Code outside the boot section changes no flash: SPM does nothing there.
    :param disease: what is wrong with :meth:`erase_application`.
    """

    def __init__(
        self, target: AvrTarget, *, section: Span, start: int, ram: dict[int, int], disease: EraseDisease | None = None
    ) -> None:
        self.target = target
        self.part = target.part
        self.section = section
        self.start = start
        self.ram = ram
        """Bytes of RAM that programs leave for each other, by address; a reset keeps them, a loss of supply does not."""
        self._disease = disease
        self._is_privileged = start >= section.start

    @property
    def lock(self) -> int:
        """Lock byte as the part reads it itself."""
        return self.target.lock | ~self.part.lock_mask & 0xFF

    def fuse(self, memory: MemoryKind) -> int:
        """Return a fuse byte as the part reads it itself; bits that do not exist read 1, and so does a byte that does not."""
        return self.target.fuses.get(memory, _BLANK) | ~self.part.mask(memory) & 0xFF

    def has_application(self) -> bool:
        """Tell whether something begins at address 0."""
        return self.target.flash[:2] != b"\xff\xff"

    # -- flash -----------------------------------------------------------------------------------------------------

    def read_flash(self, span: Span) -> bytes:
        """Read flash; where the lock bits forbid it the cells read FF. Addresses behind the end wrap."""
        flash = self.target.flash
        if span.stop <= len(flash) and not self._hides(span):
            return bytes(flash[span.start : span.stop])
        cells = (address % len(flash) for address in range(span.start, span.stop))
        return bytes(_BLANK if self._hides(Span(cell, cell + 1)) else flash[cell] for cell in cells)

    def _hides(self, span: Span) -> bool:
        """Tell whether LPM from the running program's section does not see some of these addresses."""
        if self._is_privileged:
            return span.start < self.section.start and not self.lock & _BLB02
        return span.stop > self.section.start and not self.lock & _BLB12

    def erase_page(self, address: int, at: float) -> float:
        """Erase the page around an address; return when that is done."""
        size = self.part.flash.page_bytes
        return self._put(address // size * size, bytes([_BLANK]) * size, at)

    def erase_application(self, at: float) -> float:
        """Erase every page below the boot section; return when that is done. As far as the program can tell it always works."""
        residue = None if self._disease is None else self._disease.strike()
        if residue is not None:
            is_blank = self.target.flash.startswith(bytes([_BLANK]) * len(residue))
            return self.write_page(0, residue, at) if is_blank else at + PAGE_STEP_S
        for start in range(0, self.section.start, self.part.flash.page_bytes):
            at = self.erase_page(start, at)
        return at

    def write_page(self, address: int, data: bytes, at: float) -> float:
        """Write a page, or the beginning of one, without erasing it: bits can only become 0. Return when that is done."""
        start = address // self.part.flash.page_bytes * self.part.flash.page_bytes
        old = self.target.flash[start : start + len(data)]
        return self._put(start, bytes(a & b for a, b in zip(old, data, strict=True)), at)

    def _put(self, start: int, new: bytes, at: float) -> float:
        is_forbidden = not self.lock & (_BLB01 if start < self.section.start else _BLB11)
        if is_forbidden or not self._is_privileged or start >= self.part.flash.size_bytes:
            return at  # SPM has no effect and is over at once
        return self.target.core.change(MemoryKind.FLASH, start, new, at, PAGE_STEP_S)

    # -- EEPROM ----------------------------------------------------------------------------------------------------

    def read_eeprom(self, span: Span) -> bytes:
        """Read EEPROM; addresses behind the end wrap."""
        cells = self.target.eeprom
        return bytes(cells[address % len(cells)] for address in range(span.start, span.stop))

    def write_eeprom(self, address: int, data: bytes, at: float) -> float:
        """Write bytes one by one; return when the last one is done."""
        for offset, byte in enumerate(data):
            cell = (address + offset) % self.part.eeprom.size_bytes
            at = self.target.core.change(MemoryKind.EEPROM, cell, bytes((byte,)), at, _EEPROM_BYTE_S)
        return at
