"""An STM32F1 as a debugger sees it: identity registers, flash controller, option bytes.

Sources: RM0008 (memory map, device electronic signature, DBGMCU), PM0075 (flash programming), and for the chip ids and the
clones' revisions the stlink tools' and OpenOCD's tables.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from types import MappingProxyType
from typing import Final

from ispd.model.span import Span

__all__ = [
    "AHBENR",
    "AHBENR_RESET",
    "DBGMCU_CR",
    "DBGMCU_IDCODE",
    "DBGMCU_STOP_WATCHDOGS",
    "FLASH_AR",
    "FLASH_CONTROLLER",
    "FLASH_CR",
    "FLASH_KEYR",
    "FLASH_KEYS",
    "FLASH_OBR",
    "FLASH_OPTKEYR",
    "FLASH_SIZE",
    "FLASH_SR",
    "FLASH_WRPR",
    "IWDG_KR",
    "IWDG_RELOAD",
    "OPTION_SPAN",
    "RAM_BASE",
    "RDP_OPEN",
    "UNIQUE_ID",
    "Cr",
    "OptionBytes",
    "Sr",
    "clone_maker",
    "device_id",
    "is_read_protected",
    "protected_pages",
    "revision_words",
]

RAM_BASE: Final = 0x2000_0000
DBGMCU_IDCODE: Final = 0xE004_2000
DBGMCU_CR: Final = 0xE004_2004
DBGMCU_STOP_WATCHDOGS: Final = 0x0300
"""DBG_IWDG_STOP and DBG_WWDG_STOP: both watchdogs stand while the core is halted."""
FLASH_SIZE: Final = 0x1FFF_F7E0
"""Flash size in KiB, in the lower 16 bits."""
UNIQUE_ID: Final = Span(0x1FFF_F7E8, 0x1FFF_F7F4)
OPTION_SPAN: Final = Span(0x1FFF_F800, 0x1FFF_F810)

FLASH_CONTROLLER: Final = 0x4002_2000
FLASH_KEYR: Final = FLASH_CONTROLLER + 0x04
FLASH_OPTKEYR: Final = FLASH_CONTROLLER + 0x08
FLASH_SR: Final = FLASH_CONTROLLER + 0x0C
FLASH_CR: Final = FLASH_CONTROLLER + 0x10
FLASH_AR: Final = FLASH_CONTROLLER + 0x14
FLASH_OBR: Final = FLASH_CONTROLLER + 0x1C
FLASH_WRPR: Final = FLASH_CONTROLLER + 0x20
FLASH_KEYS: Final = (0x4567_0123, 0xCDEF_89AB)
"""Both keys in this order open KEYR, and OPTKEYR; a wrong one closes it until the next reset."""

IWDG_KR: Final = 0x4000_3000
IWDG_RELOAD: Final = 0xAAAA
AHBENR: Final = 0x4002_1014
AHBENR_RESET: Final = 0x14
"""Clocks of RAM and flash interface only: no DMA writes to RAM."""


class Sr(IntFlag):
    """Bits of FLASH_SR; the errors and the end of an operation are cleared by writing ones."""

    BUSY = 1 << 0
    PROGRAM_ERROR = 1 << 2
    WRITE_PROTECTED = 1 << 4
    END = 1 << 5
    ERRORS = PROGRAM_ERROR | WRITE_PROTECTED
    CLEAR = ERRORS | END


class Cr(IntFlag):
    """Bits of FLASH_CR."""

    PROGRAM = 1 << 0
    ERASE_PAGE = 1 << 1
    ERASE_ALL = 1 << 2
    PROGRAM_OPTIONS = 1 << 4
    ERASE_OPTIONS = 1 << 5
    START = 1 << 6
    LOCK = 1 << 7
    OPTIONS_OPEN = 1 << 9


def is_read_protected(obr: int) -> bool:
    """Tell whether FLASH_OBR says that flash cannot be read (RDPRT)."""
    return bool(obr & 0x02)


_REVISIONS: Final[Mapping[int, Mapping[int, str]]] = MappingProxyType(
    {
        0x410: MappingProxyType({0x0000: "A", 0x2000: "B", 0x2001: "Z", 0x2003: "Y"}),
        0x412: MappingProxyType({0x1000: "A"}),
        0x414: MappingProxyType({0x1000: "A", 0x1001: "Z", 0x1003: "Y"}),
        0x418: MappingProxyType({0x1000: "A", 0x1001: "Z"}),
        0x420: MappingProxyType({0x1000: "A", 0x1001: "Z"}),
        0x428: MappingProxyType({0x1000: "A", 0x1001: "Z"}),
        0x430: MappingProxyType({0x1000: "A"}),
    }
)
"""Letters of revisions (RM0008 and RM0041, "MCU device ID code"); digits and further letters that some codes share are left out."""


def device_id(dbgmcu_idcode: int) -> bytes:
    """Return the device id (lower 12 bits of DBGMCU_IDCODE) as two bytes, high one first."""
    return (dbgmcu_idcode & 0xFFF).to_bytes(2, "big")


def revision_words(dbgmcu_idcode: int) -> str:
    """Return the revision by ST's letter, by its code where it has none."""
    code = dbgmcu_idcode >> 16
    letter = _REVISIONS.get(dbgmcu_idcode & 0xFFF, {}).get(code)
    return f"revision 0x{code:04X}" if letter is None else f"revision {letter}"


_CLONES: Final[Mapping[int, str]] = MappingProxyType(dict.fromkeys((0x1303, 0x1704, 0x1906, 0x1909), "GigaDevice GD32"))
"""Makers by the upper 16 bits of DBGMCU_IDCODE; ST's own are 0000, 1000, 1001, 1003, 1018, 2000, 2001, 2003, 3000."""


_CLONE_PORTS: Final[Mapping[int, str]] = MappingProxyType({0x2BA0_1477: "CKS32 or CS32"})
"""Makers by DPIDR; a genuine STM32F1 has 1BA01477."""


def clone_maker(dbgmcu_idcode: int, dpidr: int | None = None) -> str | None:
    """Return who made a chip whose revision, or debug port, no genuine one has; None for all others."""
    return _CLONES.get(dbgmcu_idcode >> 16) or _CLONE_PORTS.get(dpidr or 0)


RDP_OPEN: Final = 0xA5
"""The one value of RDP that leaves flash readable."""
_RDP_SHUT: Final = 0x00
_USER_UNUSED: Final = 0xF8
"""Bits of the user byte that mean nothing: it has WDG_SW, nRST_STOP and nRST_STDBY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionBytes:
    """Option bytes by name. Anything but A5 in ``rdp`` protects flash from being read; a one in ``wrp`` lets a group be written."""

    rdp: int = RDP_OPEN
    user: int = 0xFF
    data: tuple[int, int] = (0xFF, 0xFF)
    wrp: tuple[int, int, int, int] = (0xFF, 0xFF, 0xFF, 0xFF)

    @property
    def values(self) -> tuple[int, ...]:
        """All of them in the order of their addresses."""
        return (self.rdp, self.user, *self.data, *self.wrp)

    def opened(self) -> "OptionBytes":
        """Return the same without any protection."""
        return replace(self, rdp=RDP_OPEN, wrp=(0xFF, 0xFF, 0xFF, 0xFF))

    def encode(self) -> bytes:
        """Return what :data:`OPTION_SPAN` holds: each byte with its complement behind it."""
        return b"".join(bytes((one, one ^ 0xFF)) for one in self.values)

    def as_registers(self) -> "OptionBytes":
        """Return what :meth:`of_registers` finds once these are in force."""
        return replace(self, rdp=RDP_OPEN if self.rdp == RDP_OPEN else _RDP_SHUT, user=self.user | _USER_UNUSED)

    @classmethod
    def of_values(cls, values: Sequence[int]) -> "OptionBytes":
        """Return option bytes from what :attr:`values` gives."""
        rdp, user, first, second, *wrp = values
        return cls(rdp=rdp, user=user, data=(first, second), wrp=_four(bytes(wrp)))

    @classmethod
    def decode(cls, cells: bytes) -> "OptionBytes":
        """Return what a reset makes of what :data:`OPTION_SPAN` holds: a byte whose complement is wrong counts as FF."""
        pairs = zip(cells[::2], cells[1::2], strict=True)
        return cls.of_values([value if value ^ complement == 0xFF else 0xFF for value, complement in pairs])

    @classmethod
    def of_registers(cls, obr: int, wrpr: int) -> "OptionBytes":
        """Return what FLASH_OBR and FLASH_WRPR tell; the code of a read protection is not told."""
        return cls(
            rdp=_RDP_SHUT if is_read_protected(obr) else RDP_OPEN,
            user=obr >> 2 & 0xFF | _USER_UNUSED,
            data=(obr >> 10 & 0xFF, obr >> 18 & 0xFF),
            wrp=_four(struct.pack("<I", wrpr)),
        )


def _four(found: bytes) -> tuple[int, int, int, int]:
    first, second, third, fourth = found
    return first, second, third, fourth


_KIB: Final = 1024
_WRP_BITS: Final = 31


def protected_pages(wrpr: int, pages: tuple[int, ...], page_bytes: int) -> tuple[int, ...]:
    """Return those of ``pages`` (numbers from the begin of flash) that must not be written.

    A bit of WRPR stands for four pages of 1 KiB or two of 2 KiB, bit 31 for all that follow.
    """
    group = 4 * _KIB // page_bytes
    return tuple(page for page in pages if not wrpr >> min(page // group, _WRP_BITS) & 1)
