"""An STM32F103 as its own program sees it: flash by pages and half-words, and a register that outlives a reset.

Source: PM0075 (flash programming of STM32F10x); times are the usual figures of its data sheet. Addresses count from the start
of flash, 0x0800_0000 on the chip's bus.
"""

import binascii
import hashlib
import struct
from enum import StrEnum

from ispd.catalog.usb_descriptor import usb_id_in
from ispd.model.image import Image, Segment
from ispd.model.span import Span

__all__ = [
    "APPLICATION",
    "LEGACY_APPLICATION",
    "Habit",
    "Stm32Chip",
    "find_application",
    "find_habit",
    "has_loader",
    "stm32_application",
    "stm32_loader",
]

APPLICATION, LEGACY_APPLICATION = 0x2000, 0x5000
"""Where the STM32duino bootloader looks for an application."""
_ERASE_S = 40e-3
_HALF_WORD_S = 52.5e-6
_FLASH_BASE = 0x0800_0000
_STACK_MASK, _STACK_BASE = 0x2FFE_0000, 0x2000_0000
"""An application begins with a stack pointer into RAM (``checkUserCode``)."""
_STACK = 0x2000_5000
_MAGIC = b"vbnch\x02"
_HEAD = struct.Struct("<II6sHIHHBBHBBBBHHHBBBB")
_HABIT_MAGIC = b"habit "
_MARKER_AT = 8
_CRC_AT = _MARKER_AT + 8
_DEFAULT_USB = "FEED:0000"
_LOADER_BYTES = 7172
_LOADER_VECTORS = struct.pack("<II", 0x2000_2800, _FLASH_BASE | 0xF1)
_LOADER_MD5 = "333c30605e739ce9bedee5999fdaf81b"
"""generic_boot20_pc13.bin of rogerclarkmelbourne/STM32duino-bootloader."""


class Habit(StrEnum):
    """What a firmware does to the debug port; only a reset that is held while a debugger attaches undoes it."""

    SWD_OFF = "swd-off"
    """Its pins become keys: SWJ_CFG 100 in AFIO_MAPR (RM0008, 9.3.5 "JTAG/SWD alternate function remapping")."""
    SLEEPS = "sleeps"
    """Stop mode: without DBG_STOP in DBGMCU_CR the bus has no clock (RM0008, 31.16.1)."""


class Stm32Chip:
    """Cells of one chip. ``dr10`` is lost with the supply; ``bad_pages`` hold addresses of pages that no programming changes.

    :param page_bytes: 1 KiB up to 128 KiB of flash and 2 KiB above, where not given.
    """

    def __init__(
        self,
        *,
        flash_bytes: int = 0x1_0000,
        bad_pages: frozenset[int] = frozenset(),
        page_bytes: int | None = None,
    ) -> None:
        self.flash = bytearray(b"\xff") * flash_bytes
        self.page_bytes = page_bytes or (1024 if flash_bytes <= 0x2_0000 else 2048)
        self.dr10 = 0
        self._bad = {address // self.page_bytes for address in bad_pages}

    def has_application(self, at: int) -> bool:
        """Tell whether something that looks like a vector table is there."""
        return int.from_bytes(self.flash[at : at + 4], "little") & _STACK_MASK == _STACK_BASE

    def erase_page(self, address: int, now: float) -> float:
        """Erase the page around an address; return when that is done."""
        start = address // self.page_bytes * self.page_bytes
        self.flash[start : start + self.page_bytes] = b"\xff" * self.page_bytes
        return now + _ERASE_S

    def program(self, start: int, data: bytes, now: float) -> float:
        """Program half-words: what is not blank takes nothing but 0000. Returns when that is done."""
        for offset in range(0, len(data), 2):
            address = start + offset
            if address // self.page_bytes not in self._bad and (
                self.flash[address : address + 2] == b"\xff\xff" or data[offset : offset + 2] == b"\0\0"
            ):
                self.flash[address : address + 2] = data[offset : offset + 2]
        return now + len(data) / 2 * _HALF_WORD_S


def stm32_application(
    size_bytes: int,
    *,
    seed: int = 0,
    usb: str = "FEED:6061",
    start: int = APPLICATION,
    habit: Habit | None = None,
) -> bytes:
    """Make a firmware as its .bin: vectors for ``start``, a USB device descriptor, a check sum over all of it.

    Raises ``ValueError`` for a size below that of its head and its habit's name.
    """
    named = b"" if habit is None else _HABIT_MAGIC + habit.encode() + b"\0"
    if size_bytes < _HEAD.size + len(named):
        raise ValueError(f"an application has at least {_HEAD.size + len(named)} bytes")
    vendor, product = (int(half, 16) for half in usb.split(":"))
    descriptor = (18, 1, 0x0200, 0, 0, 0, 64, vendor, product, 0x0001, 0, 0, 0, 1)
    vectors = (_STACK, _FLASH_BASE + start + _HEAD.size | 1)
    content = bytearray(_HEAD.pack(*vectors, _MAGIC, 0, 0, size_bytes & 0xFFFF, size_bytes >> 16, *descriptor))
    content += named
    content += hashlib.shake_128(str(seed).encode()).digest(size_bytes - len(content))
    struct.pack_into("<I", content, _CRC_AT, binascii.crc32(content))
    return bytes(content)


def find_habit(chip: Stm32Chip, at: int) -> Habit | None:
    """Return what the firmware of :func:`stm32_application` at ``at`` does to the debug port."""
    named = bytes(chip.flash[at + _HEAD.size : at + _HEAD.size + 32])
    if not named.startswith(_HABIT_MAGIC):
        return None
    name = named.removeprefix(_HABIT_MAGIC).split(b"\0")[0]
    return next((habit for habit in Habit if habit.encode() == name), None)


def stm32_loader() -> bytes:
    """Make a stand-in for the STM32duino bootloader: its size and its vectors, and a check sum over all of it at its end."""
    filler = hashlib.shake_128(b"loader").digest(_LOADER_BYTES - len(_LOADER_VECTORS) - 4)
    content = _LOADER_VECTORS + filler
    return content + struct.pack("<I", binascii.crc32(content))


def has_loader(chip: Stm32Chip) -> bool:
    """Tell whether the STM32duino bootloader is at the beginning of flash: the real one or its stand-in, and only whole."""
    content = bytes(chip.flash[:_LOADER_BYTES])
    is_real = hashlib.md5(content, usedforsecurity=False).hexdigest() == _LOADER_MD5
    return is_real or content == stm32_loader()


def find_application(chip: Stm32Chip, at: int) -> str | None:
    """Return the USB id of what runs when the bootloader jumps to ``at``; None where nothing gets as far as USB.

    A firmware linked for another place jumps into the void; one of :func:`stm32_application` runs only whole.
    """
    end = len(chip.flash)
    if at == 0 and chip.flash.startswith(_LOADER_VECTORS):
        return None  # a bootloader that is not whole
    stack, reset = struct.unpack_from("<II", chip.flash, at)
    if stack & _STACK_MASK != _STACK_BASE or not at <= reset - _FLASH_BASE < end:
        return None
    if chip.flash[at + _MARKER_AT : at + _MARKER_AT + len(_MAGIC)] == _MAGIC:
        size = int.from_bytes(chip.flash[at + _CRC_AT + 4 : at + _CRC_AT + 8], "little")
        content = bytearray(chip.flash[at : at + size])
        if len(content) != size:
            return None
        crc = int.from_bytes(content[_CRC_AT : _CRC_AT + 4], "little")
        content[_CRC_AT : _CRC_AT + 4] = bytes(4)
        if binascii.crc32(content) != crc:
            return None
    image = Image.of([Segment(0, bytes(chip.flash))])
    return usb_id_in(image, Span(at, end)) or _DEFAULT_USB
