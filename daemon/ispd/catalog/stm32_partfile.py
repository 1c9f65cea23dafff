"""The part file of an STM32F1 line: its shape, the named checks it passes, and the part that is made of it.

Figures: RM0008 and RM0041 (DBGMCU_IDCODE, flash module organization), PM0075 (option bytes), and the lines' data sheets.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from ispd.catalog.partfile import FuseFile, bit_problems, bits_of, byte_problems, bytes_of, refuse_wrong
from ispd.model.part import OPTION_BYTES, MemoryKind, PagedMemory, Signature, Stm32Part

__all__ = ["FLASH_START", "Stm32File", "stm32_part"]

FLASH_START = 0x0800_0000
"""Where every STM32F1 has its main flash (RM0008, "Memory map"); with the usual boot pins it is at 0 too."""

_KNOWN_BITS = frozenset({"wdg_sw", "nrst_stop", "nrst_stdby"})
_CHIP_IDS = range(1, 1 << 12)
_PAGE_BYTES = (1024, 2048)
_BYTE = 0xFF


class Stm32File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part file of an STM32F1 line as it is written; ``interface`` tells it from an AVR's."""

    interface: str
    name: str
    chip_id: int
    flash_bytes: int
    smallest_flash_bytes: int
    flash_page_bytes: int
    flash_pages: int
    ram_bytes: int
    option_bytes: dict[MemoryKind, FuseFile]
    aliases: tuple[str, ...] = ()
    note: str = ""


def stm32_part(stem: str, data: Stm32File) -> Stm32Part:
    """Return the part that a file describes. Raises ``ConfigError`` naming the file and the failed checks."""
    refuse_wrong(stem, data, _CHECKS)
    return Stm32Part(
        id=stem,
        name=data.name,
        signature=Signature(data.chip_id.to_bytes(2, "big")),
        flash=PagedMemory(data.flash_bytes, data.flash_page_bytes, start=FLASH_START),
        smallest_flash_bytes=data.smallest_flash_bytes,
        ram_bytes=data.ram_bytes,
        fuses=bytes_of(data.option_bytes, OPTION_BYTES),
        lock_mask=_BYTE,
        bits=bits_of(data.option_bytes),
        aliases=data.aliases,
        note=data.note,
    )


def _check_names(stem: str, data: Stm32File) -> Iterator[str]:
    if data.interface != "swd":
        yield f"interface {data.interface!r} is not swd"
    if data.name.lower() != stem:
        yield f"name {data.name!r} does not belong to the file name"
    if any(alias != alias.strip().lower() or not alias for alias in data.aliases):
        yield "an alias is not lower case"


def _check_chip(_stem: str, data: Stm32File) -> Iterator[str]:
    if data.chip_id not in _CHIP_IDS:
        yield "chip_id is not a 12-bit device id"


def _check_memories(_stem: str, data: Stm32File) -> Iterator[str]:
    if data.flash_page_bytes not in _PAGE_BYTES:
        yield "flash pages of an STM32F1 have 1024 or 2048 bytes"
    elif data.flash_page_bytes * data.flash_pages != data.flash_bytes:
        yield "flash_page_bytes times flash_pages is not flash_bytes"
    elif data.smallest_flash_bytes % data.flash_page_bytes:
        yield "smallest_flash_bytes is not whole pages"
    if not 0 < data.smallest_flash_bytes <= data.flash_bytes:
        yield "smallest_flash_bytes is not between one page and flash_bytes"
    if data.ram_bytes < 1 or data.ram_bytes % 1024:
        yield "ram_bytes is not whole KiB"


def _check_options(_stem: str, data: Stm32File) -> Iterator[str]:
    """The factory bytes are a preset nobody is asked about, so they must leave flash writable and the watchdog to the program."""
    if set(data.option_bytes) != set(OPTION_BYTES):
        yield f"option_bytes are not {', '.join(OPTION_BYTES)}"
    yield from byte_problems(data.option_bytes)
    yield from bit_problems(data.option_bytes, _KNOWN_BITS)
    if any(option.factory != _BYTE for option in data.option_bytes.values()):
        yield "an option byte is not 0xFF from the factory"


_CHECKS: Mapping[str, Callable[[str, Stm32File], Iterator[str]]] = MappingProxyType(
    {
        "names": _check_names,
        "device id": _check_chip,
        "memories": _check_memories,
        "option bytes": _check_options,
    }
)
