"""An STM32F1 as a debugger sees it: identity registers, flash controller, option bytes.

Sources: RM0008 (memory map, device electronic signature, DBGMCU), PM0075 (flash programming), and for the chip ids and the
clones' revisions the stlink tools' and OpenOCD's tables.
"""

import struct
from collections.abc import Mapping
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
    "FAMILIES",
    "FLASH_AR",
    "FLASH_BASE",
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
    "UNIQUE_ID",
    "Cr",
    "Family",
    "OptionBytes",
    "Sr",
    "clone_maker",
    "is_read_protected",
    "protected_pages",
]

FLASH_BASE: Final = 0x0800_0000
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """STM32F1 chips of one id.

    :param smallest_flash_bytes: flash of the smallest chip sold.
    :param largest_flash_bytes: flash of the largest one, as far as it is written here (of an XL its first bank).
    :param buffer_bytes: how much of RAM is used for data, which the smallest of them has beside the loader.
    """

    name: str
    page_bytes: int
    smallest_flash_bytes: int
    largest_flash_bytes: int
    buffer_bytes: int = 4096


_KIB: Final = 1024
FAMILIES: Final[Mapping[int, Family]] = MappingProxyType(
    {
        0x410: Family(
            name="F1xx medium density", page_bytes=1024, smallest_flash_bytes=64 * _KIB, largest_flash_bytes=128 * _KIB
        ),
        0x412: Family(
            name="F1xx low density",
            page_bytes=1024,
            smallest_flash_bytes=16 * _KIB,
            largest_flash_bytes=32 * _KIB,
            buffer_bytes=2048,
        ),
        0x414: Family(
            name="F1xx high density", page_bytes=2048, smallest_flash_bytes=256 * _KIB, largest_flash_bytes=512 * _KIB
        ),
        0x418: Family(
            name="F1xx connectivity line",
            page_bytes=2048,
            smallest_flash_bytes=64 * _KIB,
            largest_flash_bytes=256 * _KIB,
        ),
        0x420: Family(
            name="F1xx value line",
            page_bytes=1024,
            smallest_flash_bytes=16 * _KIB,
            largest_flash_bytes=128 * _KIB,
            buffer_bytes=2048,
        ),
        0x428: Family(
            name="F1xx high density value line",
            page_bytes=2048,
            smallest_flash_bytes=256 * _KIB,
            largest_flash_bytes=512 * _KIB,
        ),
        0x430: Family(
            name="F1xx XL density", page_bytes=2048, smallest_flash_bytes=512 * _KIB, largest_flash_bytes=512 * _KIB
        ),
    }
)
"""Families by the lower 12 bits of DBGMCU_IDCODE."""

_CLONES: Final[Mapping[int, str]] = MappingProxyType(dict.fromkeys((0x1303, 0x1704, 0x1906, 0x1909), "GigaDevice GD32"))
"""Makers by the upper 16 bits of DBGMCU_IDCODE; ST's own are 0000, 1000, 1001, 1003, 1018, 2000, 2001, 2003, 3000."""


def clone_maker(dbgmcu_idcode: int) -> str | None:
    """Return who made a chip whose revision no genuine one has, None for all others."""
    return _CLONES.get(dbgmcu_idcode >> 16)


_RDP_OPEN: Final = 0xA5
_RDP_SHUT: Final = 0x00
_USER_UNUSED: Final = 0xF8
"""Bits of the user byte that mean nothing: it has WDG_SW, nRST_STOP and nRST_STDBY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionBytes:
    """Option bytes by name. Anything but A5 in ``rdp`` protects flash from being read; a one in ``wrp`` lets a group be written."""

    rdp: int = _RDP_OPEN
    user: int = 0xFF
    data: tuple[int, int] = (0xFF, 0xFF)
    wrp: tuple[int, int, int, int] = (0xFF, 0xFF, 0xFF, 0xFF)

    @property
    def values(self) -> tuple[int, ...]:
        """All of them in the order of their addresses."""
        return (self.rdp, self.user, *self.data, *self.wrp)

    @property
    def is_open(self) -> bool:
        """True where neither reading nor writing is restricted."""
        return self.rdp == _RDP_OPEN and all(group == 0xFF for group in self.wrp)

    def opened(self) -> "OptionBytes":
        """Return the same without any protection."""
        return replace(self, rdp=_RDP_OPEN, wrp=(0xFF, 0xFF, 0xFF, 0xFF))

    def encode(self) -> bytes:
        """Return what :data:`OPTION_SPAN` holds: each byte with its complement behind it."""
        return b"".join(bytes((one, one ^ 0xFF)) for one in self.values)

    def as_registers(self) -> "OptionBytes":
        """Return what :meth:`of_registers` finds once these are in force."""
        return replace(self, rdp=_RDP_OPEN if self.rdp == _RDP_OPEN else _RDP_SHUT, user=self.user | _USER_UNUSED)

    @classmethod
    def of_registers(cls, obr: int, wrpr: int) -> "OptionBytes":
        """Return what FLASH_OBR and FLASH_WRPR tell; the code of a read protection is not told."""
        return cls(
            rdp=_RDP_SHUT if is_read_protected(obr) else _RDP_OPEN,
            user=obr >> 2 & 0xFF | _USER_UNUSED,
            data=(obr >> 10 & 0xFF, obr >> 18 & 0xFF),
            wrp=_four(struct.pack("<I", wrpr)),
        )


def _four(found: bytes) -> tuple[int, int, int, int]:
    first, second, third, fourth = found
    return first, second, third, fourth


_WRP_BITS: Final = 31


def protected_pages(wrpr: int, pages: tuple[int, ...], page_bytes: int) -> tuple[int, ...]:
    """Return those of ``pages`` (numbers from the begin of flash) that must not be written.

    A bit of WRPR stands for four pages of 1 KiB or two of 2 KiB, bit 31 for all that follow.
    """
    group = 4 * _KIB // page_bytes
    return tuple(page for page in pages if not wrpr >> min(page // group, _WRP_BITS) & 1)
