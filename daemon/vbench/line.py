"""How bytes travel between a host and an emulated board: rates, frames, latencies and buffers, per board flavour.

Sources: ArduinoCore-avr HardwareSerial (64-byte rings), its 16U2 firmware "usbserial" (latency tick), its CDC class
(1 ms frames), and Teensyduino's usb_serial (3 ms flush after the last byte).
"""

import math
from collections import deque
from enum import StrEnum
from typing import Protocol

__all__ = [
    "RX_RING_USABLE",
    "UART_BITS",
    "USB_FRAME_S",
    "Flavour",
    "FrameUplink",
    "TeensyUplink",
    "UartUplink",
    "Uplink",
    "uplink_of",
]

UART_BITS = 10
"""8N1: a start bit, eight data bits, a stop bit."""
RX_RING_USABLE = 63
"""HardwareSerial's 64-byte ring holds one byte less than its size."""
USB_FRAME_S = 1e-3
_TX_RING_BYTES = 64
_TICK_16U2_S = 4.096e-3
"""Timer 0 overflow of the 16U2: bytes for the host wait for it .."""
_BUFFER_16U2_BYTES = 120
""".. or until its 128-byte buffer is nearly full."""
_TEENSY_FLUSH_S = 3e-3
_USB_PACKET_BYTES = 64


class Flavour(StrEnum):
    """What sits between the sketch and the host."""

    UART = "uart"
    """A plain serial line without latency; what a pseudo-terminal shows."""
    UNO = "uno"
    """A UART behind a 16U2 USB bridge, with Optiboot and reset by DTR."""
    LEONARDO = "leonardo"
    """Native USB of the Arduino core: flow control, 1 ms frames, silent unless DTR or RTS is asserted."""
    TEENSYDUINO = "teensyduino"
    """Native USB of the Teensyduino core (QMK's ISP flasher images): flow control, 3 ms flush."""

    @property
    def is_uart(self) -> bool:
        """Tell whether bytes can be lost in a 64-byte ring, and the baud rate matters."""
        return self in (Flavour.UART, Flavour.UNO)


class Uplink(Protocol):
    """Bytes from the board to the host; ``out`` holds what is on its way as (delivery time, bytes), in order."""

    out: deque[tuple[float, bytearray]]

    def write(self, byte: int, now: float) -> float:
        """Take one byte at CPU time ``now`` and return when the CPU goes on (later when buffers are full)."""

    def settle(self, now: float) -> None:
        """Time has passed and nothing was written meanwhile: release what waits for a timer."""

    def next_time(self) -> float:
        """Return when bytes are next delivered, infinity for never."""


def _post(out: deque[tuple[float, bytearray]], at: float, byte: int) -> None:
    if out and out[-1][0] >= at:
        out[-1][1].append(byte)
    else:
        out.append((at, bytearray((byte,))))


class UartUplink:
    """UART with a transmit ring; ``tick_s`` is the latency timer of a USB bridge behind it, 0 for none."""

    def __init__(self, baud: int, tick_s: float = 0.0) -> None:
        self.out: deque[tuple[float, bytearray]] = deque()
        self._byte_s = UART_BITS / baud
        self._tick_s = tick_s
        self._free = -math.inf
        self._starts: deque[float] = deque(maxlen=_TX_RING_BYTES)

    def write(self, byte: int, now: float) -> float:
        """Queue a byte; a full ring holds the CPU until the byte 64 before has begun to go out."""
        if len(self._starts) == _TX_RING_BYTES:
            now = max(now, self._starts[0])
        start = max(now, self._free)
        self._starts.append(start)
        self._free = start + self._byte_s
        at = self._free
        if self._tick_s:
            at = math.ceil(at / self._tick_s) * self._tick_s
            if self.out and self.out[-1][0] == at and len(self.out[-1][1]) >= _BUFFER_16U2_BYTES:
                # nearly full: the batch leaves now, and this byte begins the next one
                self.out[-1] = (start, self.out[-1][1])
        _post(self.out, at, byte)
        return now

    def settle(self, now: float) -> None:
        """Nothing waits for a timer that is not already in ``out``."""

    def next_time(self) -> float:
        """Return when bytes are next delivered."""
        return self.out[0][0] if self.out else math.inf


class FrameUplink:
    """Arduino's CDC class: what was written by the end of a USB frame goes out in the next one."""

    def __init__(self) -> None:
        self.out: deque[tuple[float, bytearray]] = deque()
        self.enabled = False

    def write(self, byte: int, now: float) -> float:
        """Queue a byte, or drop it while neither DTR nor RTS is asserted."""
        if self.enabled:
            _post(self.out, (math.floor(now / USB_FRAME_S) + 1) * USB_FRAME_S, byte)
        return now

    def settle(self, now: float) -> None:
        """Nothing waits for a timer that is not already in ``out``."""

    def next_time(self) -> float:
        """Return when bytes are next delivered."""
        return self.out[0][0] if self.out else math.inf


class TeensyUplink:
    """Teensyduino's usb_serial: a packet leaves when it is full, or 3 ms after the last byte written to it."""

    def __init__(self) -> None:
        self.out: deque[tuple[float, bytearray]] = deque()
        self._packet = bytearray()
        self._flush_at = math.inf

    def write(self, byte: int, now: float) -> float:
        """Put a byte into the packet that is being filled."""
        self.settle(now)
        self._packet.append(byte)
        self._flush_at = now + _TEENSY_FLUSH_S
        if len(self._packet) == _USB_PACKET_BYTES:
            self._release(now)
        return now

    def settle(self, now: float) -> None:
        """Send a packet whose 3 ms are over."""
        if self._flush_at <= now:
            self._release(self._flush_at)

    def next_time(self) -> float:
        """Return when bytes are next delivered."""
        return self.out[0][0] if self.out else self._flush_at

    def _release(self, at: float) -> None:
        self.out.append(((math.floor(at / USB_FRAME_S) + 1) * USB_FRAME_S, self._packet))
        self._packet = bytearray()
        self._flush_at = math.inf


def uplink_of(flavour: Flavour, baud: int) -> Uplink:
    """Return the way back to the host for a board whose UART (if it has one) runs at ``baud``."""
    match flavour:
        case Flavour.UART:
            return UartUplink(baud)
        case Flavour.UNO:
            return UartUplink(baud, _TICK_16U2_S)
        case Flavour.LEONARDO:
            return FrameUplink()
        case Flavour.TEENSYDUINO:
            return TeensyUplink()
