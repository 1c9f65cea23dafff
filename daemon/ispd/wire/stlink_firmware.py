"""What an ST-Link is: its models by USB id, its firmware's version and what follows from it, its clocks, its limits.

Sources: the drivers of the stlink tools 1.7 (``usb.c``), OpenOCD 0.12 (``stlink_usb.c``) and pyOCD (``stlink.py``), which
agree unless noted.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType
from typing import Final

from ispd.errors import LocalProtocolError
from ispd.model.span import Span

__all__ = [
    "DEFAULT_HZ",
    "MAX_BLOCK_BYTES",
    "MODELS",
    "SAFE_WINDOW_BYTES",
    "SWD_DIVISORS",
    "VENDOR_ID",
    "WIDE_WINDOW_BYTES",
    "Firmware",
    "Generation",
    "Model",
    "Piece",
    "Width",
    "pieces",
    "shown_serial",
    "supported_clock",
]

VENDOR_ID: Final = 0x0483
"""STMicroelectronics."""

_V3: Final = 3


@unique
class Generation(Enum):
    """How a model is spoken to."""

    V1 = "V1"
    """Mass storage commands around everything; not spoken here."""
    V2 = "V2"
    V2_1 = "V2-1"
    V3 = "V3"
    V3_LOADER = "V3 in its loader"
    """No debugging until its firmware was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model with the bulk endpoints of its debug interface, which is number 0 and the first of the only configuration."""

    generation: Generation
    out_endpoint: int = 0x01
    in_endpoint: int = 0x81


MODELS: Final[Mapping[int, Model]] = MappingProxyType(
    {
        0x3744: Model(generation=Generation.V1, out_endpoint=0x02),
        0x3748: Model(generation=Generation.V2, out_endpoint=0x02),
        0x374A: Model(generation=Generation.V2_1),
        0x374B: Model(generation=Generation.V2_1),
        0x3752: Model(generation=Generation.V2_1),
        0x374D: Model(generation=Generation.V3_LOADER),
        0x374E: Model(generation=Generation.V3),
        0x374F: Model(generation=Generation.V3),
        0x3753: Model(generation=Generation.V3),
        0x3754: Model(generation=Generation.V3),
        0x3755: Model(generation=Generation.V3),  # V3PWR's loader to OpenOCD, usable to pyOCD: its mode tells
        0x3757: Model(generation=Generation.V3),
    }
)
"""Models by USB product id."""

SWD_DIVISORS: Final[Mapping[int, int]] = MappingProxyType(
    {
        5_000: 798,
        15_000: 265,
        25_000: 158,
        50_000: 79,
        100_000: 40,
        125_000: 31,
        240_000: 15,
        480_000: 7,
        950_000: 3,
        1_200_000: 2,
        1_800_000: 1,
        4_000_000: 0,
    }
)
"""Divisor by SWD clock in Hz, slowest first (V2 and V2-1; ``stlink_khz_to_speed_map_swd`` of OpenOCD)."""

DEFAULT_HZ: Final = 1_800_000
"""SWD clock after power-up, and the only one of firmware that cannot be told."""

MAX_BLOCK_BYTES: Final = 6144
"""Most bytes of one transfer in units of 32 or 16 bits (``Q_BUF_LEN`` less its head; also the stlink tools' own chunk)."""

_MAX_BYTES: Final = 64
_MAX_BYTES_V3: Final = 512
"""Most bytes of one transfer in units of 8 bits; the larger one on V3 from J6, and on V4 (V3PWR)."""

SAFE_WINDOW_BYTES: Final = 1024
"""Addresses count up by themselves within so many bytes in any access port (ADIv5, TAR: 10 bits are promised)."""

WIDE_WINDOW_BYTES: Final = 4096
"""The same in that of a Cortex-M3 or M4 (``max_mem_packet`` of OpenOCD)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A firmware's version: ``V2J37S7`` has hardware 2, JTAG (which means SWD too) 37, SWIM 7.

    :param extra: SWIM's version, or that of mass storage on a V2-1 and a V3.
    """

    hardware: int
    jtag: int
    extra: int = 0
    extra_letter: str = "S"

    def __str__(self) -> str:
        return f"V{self.hardware}J{self.jtag}{self.extra_letter}{self.extra}"

    def _since(self, jtag: int) -> bool:
        """Tell whether a function that V2 has since that version, and V3 always, is there."""
        return self.hardware >= _V3 or self.jtag >= jtag

    @property
    def can_debug(self) -> bool:
        """True for the commands used here (API version 2), since J11."""
        return self._since(11) and self.jtag > 0

    @property
    def reads_voltage(self) -> bool:
        """True when it measures the target's supply."""
        return self._since(13)

    @property
    def tells_fault_address(self) -> bool:
        """True when the status of a memory transfer comes with the address that failed."""
        return self._since(15)

    @property
    def sets_divisor(self) -> bool:
        """True when SWD's clock is set by a divisor."""
        return self.hardware < _V3 and self.jtag >= 22

    @property
    def lists_clocks(self) -> bool:
        """True when it has a list of SWD clocks to choose from."""
        return self.hardware >= _V3

    @property
    def opens_access_ports(self) -> bool:
        """True when an access port is to be opened before it is used."""
        return self._since(28)

    @property
    def byte_limit(self) -> int:
        """Most bytes of one transfer in units of 8 bits."""
        is_wide = self.hardware > _V3 or (self.hardware == _V3 and self.jtag >= 6)
        return _MAX_BYTES_V3 if is_wide else _MAX_BYTES


class Width(Enum):
    """Units of a memory transfer; the value is their size in bytes."""

    BYTE = 1
    WORD = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """What one memory transfer covers."""

    span: Span
    width: Width


def pieces(span: Span, *, window_bytes: int, byte_limit: int = _MAX_BYTES) -> Iterator[Piece]:
    """Yield memory transfers that cover ``span`` in order: words where they are whole, bytes at both ends.

    None crosses a multiple of ``window_bytes``, is longer than its limit, or is empty.
    Raises ``LocalProtocolError`` for a window that is no multiple of four bytes.
    """
    if window_bytes <= 0 or window_bytes % 4:
        raise LocalProtocolError(f"a window of {window_bytes} bytes has no whole words")
    first = min(span.stop, -(-span.start // 4) * 4)
    last = max(first, span.stop // 4 * 4)
    for part, width, limit in (
        (Span(span.start, first), Width.BYTE, byte_limit),
        (Span(first, last), Width.WORD, MAX_BLOCK_BYTES),
        (Span(last, span.stop), Width.BYTE, byte_limit),
    ):
        for window in part.blocks(window_bytes):
            for start in range(window.start, window.stop, limit):
                yield Piece(Span(start, min(window.stop, start + limit)), width)


def supported_clock(clocks: tuple[int, ...], limit_hz: int) -> int:
    """Return the fastest clock not above ``limit_hz``, the slowest where all are above."""
    return max((hz for hz in clocks if hz <= limit_hz), default=min(clocks))


_GOOD_SERIAL: Final = re.compile(r"[0-9A-Fa-f]{24}")
_RAW_SERIAL_CHARACTERS: Final = 12


def shown_serial(text: str) -> str:
    """Return a serial number for people to read; it identifies nothing, clones share them.

    Good ones are 24 hexadecimal digits. Old firmware has its 12 raw bytes as characters (a descriptor of 26 bytes); anything
    else that is not plain is shown as its bytes.
    """
    if _GOOD_SERIAL.fullmatch(text):
        return text.upper()
    if len(text) == _RAW_SERIAL_CHARACTERS and all(ord(one) < 0x100 for one in text):
        return bytes(map(ord, text)).hex().upper()
    return text if text.isascii() and text.isprintable() else text.encode("utf-16-be", "replace").hex().upper()
