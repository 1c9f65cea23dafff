"""What a Bus Pirate's line and firmware can take. Pure: what was found out in, limits out.

A v3 sits behind a UART without handshake, and its receive FIFO holds 4 bytes: once more are waiting, it is deaf until it
loses its supply. Its firmware reads a byte at a time, clocks it out, and reads the next one, so that a line faster than
SPI overruns it. A v4 is a USB device and holds the host back.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ispd.wire.buspirate import MAX_BULK_BYTES
from ispd.wire.window import Window

__all__ = ["FIFO_BYTES", "Blocks", "Pace"]

FIFO_BYTES: Final = 4
"""Receive FIFO of the PIC24's UART."""

_SPI_OVERHEAD_S: Final = 4e-6
"""What the firmware does around each SPI byte; 40 to 60 instructions at 16 MIPS."""

_SPI_FIFO_BYTES: Final = 7
"""What firmware 8.0 keeps in the SPI unit's own FIFO while it streams (``SPIBEC < 7``)."""

_READ_BLOCK_S: Final = 0.1
"""A reading can be stopped this often; between blocks one turn-around of 1 to 2 ms is lost."""

_BLOCK_LIMIT: Final = 4096
_READ_UNIT: Final = 64
_READ_MAX: Final = 8192
_PACKET_BYTES: Final = 64
_FULL_SPEED_BYTE_S: Final = 1e-6
"""Time of a byte on the v4's full-speed USB."""


class Blocks(Enum):
    """How the firmware treats ``05``."""

    NONE = "none"
    """There is none (before 5.5)."""
    BUFFERED = "buffered"
    """It collects all bytes, then clocks them out (5.5 to 7.1)."""
    STREAMED = "streamed"
    """It clocks them out as they come (8.0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One opened Bus Pirate; ``baud`` means nothing where ``is_usb``."""

    is_usb: bool
    baud: int
    blocks: Blocks

    @property
    def byte_s(self) -> float:
        """Seconds for each byte on the line: ten bits."""
        return _FULL_SPEED_BYTE_S if self.is_usb else 10 / self.baud

    @property
    def packet_bytes(self) -> int:
        """Size of the packets in which answers travel, where a shorter one is held back for 4 ms (v4), else 1."""
        return _PACKET_BYTES if self.is_usb else 1

    @property
    def window(self) -> Window:
        """How far to run ahead: as far as we like, or not at all."""
        return Window(ahead_bytes=None) if self.is_usb else Window(ahead_bytes=0, ahead_requests=0)

    def spi_byte_s(self, sck_hz: int) -> float:
        """Seconds for each byte on SPI, at most."""
        return 8 / sck_hz + _SPI_OVERHEAD_S

    def bulk_instructions(self, sck_hz: int) -> int:
        """Return how many instructions of 4 bytes one ``1n`` may carry, 1 to 4."""
        most = MAX_BULK_BYTES // 4
        spi_s = self.spi_byte_s(sck_hz)
        if self.is_usb or spi_s <= self.byte_s:
            return most
        waiting = 1 - self.byte_s / spi_s
        return max(1, min(most, int(FIFO_BYTES / waiting) // 4))

    def block_bytes(self, sck_hz: int) -> int:
        """Return how many bytes one ``05`` may write, 0 for none."""
        match self.blocks:
            case Blocks.NONE:
                return 0
            case Blocks.BUFFERED:
                return _BLOCK_LIMIT
            case Blocks.STREAMED:
                keeps_up = self.is_usb or 8 / sck_hz <= self.byte_s
                return _BLOCK_LIMIT if keeps_up else _SPI_FIFO_BYTES

    def read_block_bytes(self, sck_hz: int) -> int:
        """Return how many bytes of flash to ask for at once."""
        byte_s = max(self.byte_s, 4 * self.spi_byte_s(sck_hz))
        return min(_READ_MAX, max(1, int(_READ_BLOCK_S / byte_s) // _READ_UNIT) * _READ_UNIT)
