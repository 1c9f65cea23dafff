"""How an AVR writes its own flash (SPM): what every bootloader does with the cells that ISP sees.

Source: data sheet chapter "Boot Loader Support" (ATmega16U4/32U4 7766, ATmega32A 8155): a page buffer of words, page erase,
page write, and the boot lock bits that make the chip ignore both.
"""

from ispd.model.part import MemoryKind
from vbench.target import AvrTarget

__all__ = ["PAGE_ERASE_S", "PAGE_WRITE_S", "SelfProgramming"]

PAGE_ERASE_S = PAGE_WRITE_S = 4.5e-3
"""Self-timed, 3.7 to 4.5 ms (table "SPM Programming Time")."""
_BLB01, _BLB11 = 0x04, 0x10
"""Programmed (0): SPM must not write to the application section, to the boot section."""
_BOOT_LOCK_BITS = 0x3C
_BLANK = 0xFF


class SelfProgramming:
    """The SPM unit of one chip. It keeps no time: what takes any tells how long, in seconds.

    ``is_damaged``: the program that runs in the boot section has erased or overwritten itself, and cannot go on.
    """

    def __init__(self, chip: AvrTarget) -> None:
        self.chip = chip
        self.part = chip.part
        self.is_damaged = False
        self.operations = 0
        """Page erases and page writes so far that the lock bits let pass."""
        self._page_bytes = chip.part.flash.page_bytes
        self._buffer = bytearray([_BLANK]) * self._page_bytes

    @property
    def boot_start(self) -> int:
        """Byte address at which BOOTSZ has the boot section begin; the end of flash where the part has none."""
        size_bytes, boot = self.part.flash.size_bytes, self.part.boot
        return size_bytes if boot is None else size_bytes - boot.size_bytes(self.chip.fuses[boot.bits.memory])

    @property
    def has_application(self) -> bool:
        """Whether the word at address 0 is not blank, by which loaders tell that there is an application."""
        return self.chip.flash[:2] != b"\xff\xff"

    def read(self, address: int) -> int:
        """Read a byte of flash (LPM)."""
        return self.chip.flash[address % self.part.flash.size_bytes]

    def fill(self, address: int, word: int) -> None:
        """Put a word into the page buffer, at its address's place within a page."""
        offset = address % self._page_bytes & ~1
        self._buffer[offset : offset + 2] = (word & 0xFFFF).to_bytes(2, "little")

    def erase_page(self, address: int) -> float:
        """Erase the page that holds a byte address, where the lock bits allow it; return how long that takes."""
        if not self._may_write(address):
            return 0.0
        self.chip.core.erase_page(address)
        return PAGE_ERASE_S

    def write_page(self, address: int) -> float:
        """Write the page buffer to the page that holds a byte address, and clear it; return how long that takes."""
        data = bytes(self._buffer)
        self._buffer[:] = bytes([_BLANK]) * self._page_bytes
        if not self._may_write(address):
            return 0.0
        self.chip.core.write_page(address, data)
        return PAGE_WRITE_S

    def read_eeprom(self, address: int) -> int:
        """Read a byte of EEPROM."""
        return self.chip.eeprom[address % self.part.eeprom.size_bytes]

    def write_eeprom(self, address: int, value: int) -> float:
        """Write a byte of EEPROM; return how long that takes."""
        self.chip.core.write_eeprom_byte(address, value)
        return self.part.times.eeprom_s

    def read_fuse(self, memory: MemoryKind) -> int:
        """Read a fuse byte or the lock byte as the chip itself sees it: bits that do not exist read 1; 0 for an absent one."""
        if memory is MemoryKind.LOCK:
            return self.chip.lock | ~self.part.lock_mask & 0xFF
        if memory not in self.chip.fuses:
            return 0
        return self.chip.fuses[memory] | ~self.part.mask(memory) & 0xFF

    def program_lock(self, value: int) -> float:
        """Program boot lock bits: SPM reaches BLB01 to BLB12 and no others, and only from 1 to 0."""
        self.chip.core.lock &= value | ~_BOOT_LOCK_BITS
        return PAGE_WRITE_S

    def _may_write(self, address: int) -> bool:
        in_boot_section = address % self.part.flash.size_bytes >= self.boot_start
        if not self.chip.lock & (_BLB11 if in_boot_section else _BLB01):
            return False
        self.operations += 1
        self.is_damaged = self.is_damaged or in_boot_section
        return True
