"""What a Bus Pirate's line and firmware can take. Pure: what was found out in, limits out.

A v3 sits behind a UART without handshake, and its receive FIFO holds 4 bytes: once more are waiting, it is deaf until it
loses its supply. Its firmware reads a byte at a time, clocks it out, and reads the next one, so that a line faster than
SPI overruns it. A v4 is a USB device and holds the host back.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ispd.wire.buspirate import MAX_BULK_BYTES
from ispd.wire.buspirate_text import DEFAULT_BAUD
from ispd.wire.window import Window

__all__ = ["FAST_BAUD", "FIFO_BYTES", "STREAM_BAUDS", "Blocks", "Pace"]

FAST_BAUD: Final = 2_000_000
"""For firmware that collects what it is to clock out, and reads flash by a command."""

STREAM_BAUDS: Final = (800_000, 250_000)
"""Where bytes pass straight on to SPI: 12.5 us each, which SPI at 1 MHz keeps up with, and 40 us for 250 kHz, the clock for a
part whose CKDIV8 stays programmed. Both ends make exactly these, unlike 115200 (0.8 % apart)."""

FIFO_BYTES: Final = 4
"""Receive FIFO of the PIC24's UART."""

_ANY_WINDOW: Final = Window(ahead_bytes=None)
_NEXT_WINDOW: Final = Window(ahead_bytes=None, ahead_requests=1)
_NO_WINDOW: Final = Window(ahead_bytes=0, ahead_requests=0)
_ANY_RUN: Final = 1 << 16
_EXACT_RUN: Final = 64
_DEFAULT_RUN: Final = 12
"""204 bytes at 115200 baud: 2 bytes behind. At exact rates a thousand bytes are less than one behind."""

_SPI_OVERHEAD_S: Final = 4e-6
"""What the firmware does around each SPI byte; 40 to 60 instructions at 16 MIPS."""

_SPI_FIFO_BYTES: Final = 7
"""What firmware 8.0 keeps in the SPI unit's own FIFO while it streams (``SPIBEC < 7``)."""

_READ_BLOCK_S: Final = 0.1
"""A reading can be stopped at least this often; between blocks one turn-around of 1 to 2 ms is lost."""

_BLOCK_LIMIT: Final = 4096
_TURN_S: Final = 2e-3
"""A turn-around with a converter that was asked for short latency."""

_READ_UNIT: Final = 64
_READ_MAX: Final = 1024
_READ_MAX_USB: Final = 512
"""Two of them are on their way at a time."""

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
        """How far to run ahead while the firmware is deaf: on USB one request, so that a stop is heard, or not at all."""
        return _NEXT_WINDOW if self.is_usb else _NO_WINDOW

    def bulk_window(self, sck_hz: int) -> Window:
        """How far to run ahead of bulk transfers, where each byte is taken before the next one is there."""
        return _ANY_WINDOW if self._keeps_up(sck_hz) else _NO_WINDOW

    def bulk_run(self, sck_hz: int) -> int:
        """Return how many bulk transfers may follow one another before the line must rest.

        Its two ends are not quite equally fast: with each byte one falls behind, and has 4 bytes of room.
        """
        if self.is_usb or not self._keeps_up(sck_hz):
            return _ANY_RUN
        return _DEFAULT_RUN if self.baud == DEFAULT_BAUD else _EXACT_RUN

    def best_baud(self, sck_hz: int) -> int:
        """Return the fastest rate that SPI keeps up with; the one there is where none is slow enough."""
        return next((baud for baud in STREAM_BAUDS if self.spi_byte_s(sck_hz) <= 10 / baud), self.baud)

    def _keeps_up(self, sck_hz: int) -> bool:
        return self.is_usb or self.spi_byte_s(sck_hz) <= self.byte_s

    def spi_byte_s(self, sck_hz: int) -> float:
        """Seconds for each byte on SPI, at most."""
        return 8 / sck_hz + _SPI_OVERHEAD_S

    def bulk_instructions(self, sck_hz: int) -> int:
        """Return how many instructions of 4 bytes one ``1n`` may carry, 1 to 4."""
        most = MAX_BULK_BYTES // 4
        spi_s = self.spi_byte_s(sck_hz)
        if self._keeps_up(sck_hz):
            return most
        waiting = 1 - self.byte_s / spi_s
        fitting = int(FIFO_BYTES / waiting) - 1  # one more byte may follow the transfer
        return max(1, min(most, fitting // 4))

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

    def is_block_faster(self, count: int, sck_hz: int, wait_s: float) -> bool:
        """Tell whether ``count`` instructions are through sooner by one ``05`` than by bulk transfers.

        ``wait_s`` is how long the target is not to be disturbed yet. A collected block travels meanwhile, but is clocked
        out only then; bulk transfers wait, but are clocked out while they travel.
        """
        if self.is_usb or self.blocks is not Blocks.BUFFERED or not self._keeps_up(sck_hz):
            return True
        line_s = 4 * count * self.byte_s
        turns = -(-count // (MAX_BULK_BYTES // 4 * self.bulk_run(sck_hz)))
        block_s = max(wait_s, line_s) + 4 * count * self.spi_byte_s(sck_hz)
        bulk_s = wait_s + line_s * (MAX_BULK_BYTES + 1) / MAX_BULK_BYTES + (turns - 1) * _TURN_S
        return block_s <= bulk_s

    def read_block_bytes(self, sck_hz: int) -> int:
        """Return how many bytes of flash to ask for at once."""
        byte_s = max(self.byte_s, 4 * self.spi_byte_s(sck_hz))
        return min(
            _READ_MAX_USB if self.is_usb else _READ_MAX, max(1, int(_READ_BLOCK_S / byte_s) // _READ_UNIT) * _READ_UNIT
        )
