"""How bytes travel between a host and an emulated board: rates, frames, latencies and buffers, per board flavour.

Sources: ArduinoCore-avr HardwareSerial (64-byte rings), its 16U2 firmware "usbserial" (latency tick), its CDC class
(1 ms frames), Teensyduino's usb_serial (3 ms flush after the last byte), Microchip's family reference manual of the
PIC24F UART (receive FIFO and overrun), FTDI AN232B-04 (latency timer).
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
    "Line",
    "PacketUplink",
    "UartUplink",
    "Uplink",
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


class Uplink(Protocol):
    """Bytes from the board to the host; ``out`` holds what is on its way as (delivery time, bytes), in order."""

    out: deque[tuple[float, bytearray]]

    def write(self, byte: int, now: float) -> float:
        """Take one byte at CPU time ``now`` and return when the CPU goes on (later when buffers are full)."""

    def flush(self, now: float) -> float:
        """Hasten what waits for a timer, where the board can; return when the CPU goes on."""

    def drained_at(self, now: float) -> float:
        """Return when the last byte written has left the board's own transmitter."""

    def settle(self, now: float) -> None:
        """Time has passed and nothing was written meanwhile: release what waits for a timer."""

    def next_time(self) -> float:
        """Return when bytes are next delivered, infinity for never."""


class Line(Protocol):
    """What sits between a firmware and the host, seen from the microcontroller."""

    @property
    def is_uart(self) -> bool:
        """Whether the baud rate matters and received bytes can be lost."""

    @property
    def is_bridged(self) -> bool:
        """Whether a USB bridge stands before the UART: what the host writes waits for a USB frame."""

    @property
    def receive_bytes(self) -> float:
        """Received bytes that may wait for the firmware; infinity where the host is held back."""

    @property
    def latches_overrun(self) -> bool:
        """Whether the receiver stops at an overrun until the firmware clears the error, instead of only losing bytes."""

    def uplink(self, baud: int) -> Uplink:
        """Return the way back to the host when the UART (if there is one) runs at ``baud``."""


class Flavour(StrEnum):
    """A :class:`Line` of the boards that run an Arduino sketch."""

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

    @property
    def is_bridged(self) -> bool:
        """The 16U2 of an Uno hands bytes on frame by frame."""
        return self is Flavour.UNO

    @property
    def receive_bytes(self) -> float:
        """The core's ring, where there is no flow control."""
        return RX_RING_USABLE if self.is_uart else math.inf

    @property
    def latches_overrun(self) -> bool:
        """The core's ring only loses what finds it full."""
        return False

    def uplink(self, baud: int) -> Uplink:
        """Return the way back to the host."""
        match self:
            case Flavour.UART:
                return UartUplink(baud)
            case Flavour.UNO:
                return UartUplink(baud, tick_s=_TICK_16U2_S, batch_bytes=_BUFFER_16U2_BYTES)
            case Flavour.LEONARDO:
                return FrameUplink()
            case Flavour.TEENSYDUINO:
                return PacketUplink(_TEENSY_FLUSH_S)


def _post(out: deque[tuple[float, bytearray]], at: float, byte: int) -> None:
    if out and out[-1][0] >= at:
        out[-1][1].append(byte)
    else:
        out.append((at, bytearray((byte,))))


class UartUplink:
    """UART with a transmit buffer and, maybe, a USB bridge behind it.

    :param buffer_bytes: bytes that wait to be sent while the CPU goes on.
    :param tick_s: the bridge's timer: what it has collected leaves for the host at the next tick; 0 for no bridge.
    :param batch_bytes: how full the bridge's buffer is when it does not wait for the tick.
    :param flushable: whether the board can make the bridge send at once (an FTDI chip does at any change of CTS).
    """

    def __init__(
        self,
        baud: int,
        *,
        buffer_bytes: int = _TX_RING_BYTES,
        tick_s: float = 0.0,
        batch_bytes: int = 0,
        flushable: bool = False,
    ) -> None:
        self.out: deque[tuple[float, bytearray]] = deque()
        self._byte_s = UART_BITS / baud
        self._tick_s = tick_s
        self._batch_bytes = batch_bytes
        self._flushable = flushable
        self._free = -math.inf
        self._starts: deque[float] = deque(maxlen=buffer_bytes)

    def write(self, byte: int, now: float) -> float:
        """Queue a byte; a full buffer holds the CPU until the oldest byte in it has begun to go out."""
        if len(self._starts) == self._starts.maxlen:
            now = max(now, self._starts[0])
        start = max(now, self._free)
        self._starts.append(start)
        self._free = start + self._byte_s
        at = self._free
        if self._tick_s:
            at = math.ceil(at / self._tick_s) * self._tick_s
            if self.out and self.out[-1][0] == at and len(self.out[-1][1]) >= self._batch_bytes:
                # nearly full: the batch leaves now, and this byte begins the next one
                self.out[-1] = (start, self.out[-1][1])
        _post(self.out, at, byte)
        return now

    def flush(self, now: float) -> float:
        """Wait until all is sent, then have the bridge send it on."""
        if not self._flushable:
            return now
        now = self.drained_at(now)
        late = bytearray()
        while self.out and self.out[-1][0] > now:
            late[:0] = self.out.pop()[1]
        if late:
            self.out.append((now, late))
        return now

    def drained_at(self, now: float) -> float:
        """Return when the last stop bit is out."""
        return max(now, self._free)

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

    def flush(self, now: float) -> float:
        """Nothing waits longer than a frame."""
        return now

    def drained_at(self, now: float) -> float:
        """Writing does not wait for the wire."""
        return now

    def settle(self, now: float) -> None:
        """Nothing waits for a timer that is not already in ``out``."""

    def next_time(self) -> float:
        """Return when bytes are next delivered."""
        return self.out[0][0] if self.out else math.inf


class PacketUplink:
    """Native USB that fills packets: one leaves when it is full, or ``flush_s`` after the last byte written to it."""

    def __init__(self, flush_s: float) -> None:
        self.out: deque[tuple[float, bytearray]] = deque()
        self._flush_s = flush_s
        self._packet = bytearray()
        self._flush_at = math.inf

    def write(self, byte: int, now: float) -> float:
        """Put a byte into the packet that is being filled."""
        self.settle(now)
        self._packet.append(byte)
        self._flush_at = now + self._flush_s
        if len(self._packet) == _USB_PACKET_BYTES:
            self._release(now)
        return now

    def flush(self, now: float) -> float:
        """Send the packet as it is."""
        if self._packet:
            self._release(now)
        return now

    def drained_at(self, now: float) -> float:
        """Writing does not wait for the wire."""
        return now

    def settle(self, now: float) -> None:
        """Send a packet whose time is over."""
        if self._flush_at <= now:
            self._release(self._flush_at)

    def next_time(self) -> float:
        """Return when bytes are next delivered."""
        return self.out[0][0] if self.out else self._flush_at

    def _release(self, at: float) -> None:
        self.out.append(((math.floor(at / USB_FRAME_S) + 1) * USB_FRAME_S, self._packet))
        self._packet = bytearray()
        self._flush_at = math.inf
