"""The serial programming instructions of AVR parts: 4 bytes each, most significant bit first.

Source: the "Serial Programming Instruction Set" tables of the data sheets (ATmega16U4/32U4 7766J table 28-16, ATmega328P
DS40002061 table 31-18). Flash is addressed in words, EEPROM in bytes; the two are different types here, because mixing
them up is the classic mistake. Only the fourth reply byte of a read carries data.
"""

from typing import NewType

from ispd.errors import LocalProtocolError
from ispd.model.part import MemoryKind

__all__ = [
    "ByteAddress",
    "WordAddress",
    "chip_erase",
    "extended_address",
    "is_busy",
    "is_write",
    "load_eeprom_page",
    "load_extended_address",
    "load_flash_page",
    "moves_bank",
    "poll_ready",
    "program_enable",
    "read_calibration",
    "read_eeprom",
    "read_flash",
    "read_fuse",
    "read_lock",
    "read_signature",
    "word_address",
    "write_eeprom",
    "write_eeprom_page",
    "write_flash_page",
    "write_fuse",
    "write_lock",
]

WordAddress = NewType("WordAddress", int)
"""Counts 16-bit words of flash."""

ByteAddress = NewType("ByteAddress", int)
"""Counts bytes, of flash or EEPROM."""

_READ_FUSE = {
    MemoryKind.LFUSE: b"\x50\x00\x00\x00",
    MemoryKind.HFUSE: b"\x58\x08\x00\x00",
    MemoryKind.EFUSE: b"\x50\x08\x00\x00",
}
_WRITE_FUSE = {MemoryKind.LFUSE: 0xA0, MemoryKind.HFUSE: 0xA8, MemoryKind.EFUSE: 0xA4}
_WRITES = frozenset({0x40, 0x48, 0x4C, 0xC0, 0xC1, 0xC2})
_LOAD_EXTENDED = 0x4D
_LOCK_UNUSED = 0xC0
"""Bits 7 and 6 of the lock byte do not exist and are written as ones."""


def word_address(address: ByteAddress) -> WordAddress:
    """Return the flash word at an even byte address."""
    if address % 2:
        raise LocalProtocolError(f"0x{address:04X} is in the middle of a flash word")
    return WordAddress(address // 2)


def extended_address(address: WordAddress) -> int:
    """Return bits 16 and up of a word address: what ``load_extended_address`` takes."""
    return address >> 16


def program_enable() -> bytes:
    """Enter serial programming; the third reply byte repeats 53 when the target listens."""
    return b"\xac\x53\x00\x00"


def chip_erase() -> bytes:
    """Erase flash, EEPROM (unless EESAVE is programmed) and lock bits."""
    return b"\xac\x80\x00\x00"


def poll_ready() -> bytes:
    """Ask whether a write is under way; decode with :func:`is_busy`. Not on ATmega8/16/32 (A)."""
    return b"\xf0\x00\x00\x00"


def is_busy(reply: int) -> bool:
    """Tell from the reply byte of :func:`poll_ready` whether the target is still writing."""
    return bool(reply & 1)


def load_extended_address(extended: int) -> bytes:
    """Set bits 16 and up of the word address, which stay until set again. For parts above 64 Kwords only."""
    return bytes((_LOAD_EXTENDED, 0x00, extended & 0xFF, 0x00))


def moves_bank(instruction: bytes) -> bool:
    """Tell whether an instruction is :func:`load_extended_address`."""
    return instruction[0] == _LOAD_EXTENDED


def read_flash(address: WordAddress, *, high: bool) -> bytes:
    """Read the low or high byte of a flash word."""
    return bytes((0x28 if high else 0x20, address >> 8 & 0xFF, address & 0xFF, 0x00))


def load_flash_page(address: WordAddress, data: int, *, high: bool) -> bytes:
    """Put one byte into the page buffer; the low byte of a word goes before its high byte."""
    return bytes((0x48 if high else 0x40, 0x00, address & 0xFF, data))


def write_flash_page(address: WordAddress) -> bytes:
    """Write the page buffer to the page holding ``address``; takes tWD_FLASH."""
    return bytes((0x4C, address >> 8 & 0xFF, address & 0xFF, 0x00))


def read_eeprom(address: ByteAddress) -> bytes:
    """Read one EEPROM byte."""
    return bytes((0xA0, address >> 8 & 0xFF, address & 0xFF, 0x00))


def write_eeprom(address: ByteAddress, data: int) -> bytes:
    """Write one EEPROM byte, erased by itself first; takes tWD_EEPROM."""
    return bytes((0xC0, address >> 8 & 0xFF, address & 0xFF, data))


def load_eeprom_page(address: ByteAddress, data: int) -> bytes:
    """Put one byte into the EEPROM page buffer; ``address`` is taken modulo the page. Not on ATmega8/16/32 (A)."""
    return bytes((0xC1, 0x00, address & 0xFF, data))


def write_eeprom_page(address: ByteAddress) -> bytes:
    """Write the loaded EEPROM page at its aligned address; takes tWD_EEPROM."""
    return bytes((0xC2, address >> 8 & 0xFF, address & 0xFF, 0x00))


def read_fuse(fuse: MemoryKind) -> bytes:
    """Read a fuse byte. Bits that do not exist read 0 or 1."""
    if fuse not in _READ_FUSE:
        raise LocalProtocolError(f"{fuse} is not a fuse")
    return _READ_FUSE[fuse]


def write_fuse(fuse: MemoryKind, value: int) -> bytes:
    """Write a fuse byte; takes tWD_FUSE. Clock fuses act after leaving and entering programming mode again."""
    if fuse not in _WRITE_FUSE:
        raise LocalProtocolError(f"{fuse} is not a fuse")
    return bytes((0xAC, _WRITE_FUSE[fuse], 0x00, value))


def read_lock() -> bytes:
    """Read the lock byte; bits 7 and 6 mean nothing."""
    return b"\x58\x00\x00\x00"


def write_lock(value: int) -> bytes:
    """Program lock bits; takes tWD_FUSE. Only a chip erase sets them back."""
    return bytes((0xAC, 0xE0, 0x00, value | _LOCK_UNUSED))


def read_signature(index: int) -> bytes:
    """Read signature byte 0, 1 or 2."""
    return bytes((0x30, 0x00, index, 0x00))


def read_calibration(index: int = 0) -> bytes:
    """Read an oscillator calibration byte."""
    return bytes((0x38, 0x00, index, 0x00))


def is_write(instruction: bytes) -> bool:
    """Tell whether an instruction changes the target: loads, writes, erase, fuses and lock."""
    if instruction[0] == 0xAC:
        return instruction[1] != 0x53
    return instruction[0] in _WRITES
