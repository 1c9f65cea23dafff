"""The engine under an emulated programmer's firmware: CPU time, receive ring, transmit path.

Firmware is a generator that reads like the sketch it imitates. It spends CPU time with :meth:`Mcu.delay`, takes bytes
with ``yield from mcu.getch()``, answers with :meth:`Mcu.write`, and yields only when it cannot go on. The engine is
sans-IO: the host side calls :meth:`Mcu.feed` and :meth:`Mcu.take` with the time, and asks :meth:`Mcu.next_time`.

How time is kept exact: received bytes carry the time at which their last bit arrived; whether the ring had room for
one is decided when the firmware next reads, from the times at which earlier bytes were read. The firmware may run up to
``LOOKAHEAD_S`` ahead of the host's clock, which saves wake-ups and can only be seen by pulling a board in that very
moment. How the host cuts its stream into writes makes no difference.
"""

import math
from collections import deque
from collections.abc import Callable, Generator

from vbench.isp_socket import PowerCutError
from vbench.line import UART_BITS, USB_FRAME_S, FrameUplink, Line

__all__ = ["LOOKAHEAD_S", "TIMED_OUT", "Mcu", "Program"]

LOOKAHEAD_S = 10e-3
_BAUD_TOLERANCE = 0.03
"""Share by which two rates may differ: 8N1 is sampled up to 9.5 bits after the start edge."""
TIMED_OUT = -1
"""What :meth:`Mcu.getch_until` returns instead of a byte."""

Program = Generator[None, None, None]


class Mcu:
    """One microcontroller with a serial line to a host.

    :param line: what the line looks like.
    :param start: makes the firmware's generator; called again at each reset.
    """

    def __init__(self, line: Line, start: Callable[["Mcu"], Program]) -> None:
        self.line = line
        self.now = 0.0
        self.powered = False
        self.lost = 0
        """Received bytes that found the ring full."""
        self.received = 0
        """Bytes the host sent so far, lost ones included."""
        self.framing_error = False
        """Whether the byte returned last was sent at another baud rate than the firmware listens at."""
        self.overrun = False
        """Whether the receiver is deaf until :meth:`clear_overrun`; only on lines that latch it."""
        self._start = start
        self._is_uart = line.is_uart
        self._room = line.receive_bytes
        self._program: Program | None = None
        self._real = 0.0
        self._horizon = 0.0
        self._waiting = False
        self._deadline = math.inf
        self._arriving: deque[tuple[float, int, int]] = deque()
        self._ring: deque[tuple[int, int]] = deque()
        self._reads: deque[float] = deque()
        self._line_free = -math.inf
        self._host_baud = 0
        self._baud = 0
        self._lines_asserted = False
        self._uplink = line.uplink(1)
        self._departed: deque[tuple[float, bytearray, int]] = deque()
        """What was sent at an earlier baud rate and has not reached the host yet."""

    # -- host side -------------------------------------------------------------------------------------------------

    def restart(self, at: float) -> None:
        """Reset or power-up: RAM is gone, the firmware begins anew."""
        self.run(at)
        self.powered = True
        self.now = at
        self._ring.clear()
        self._reads.clear()
        self._arriving.clear()
        self._waiting = False
        self._deadline = math.inf
        self.overrun = False
        self._program = self._start(self)

    def power_off(self, at: float) -> None:
        """Lose the supply: the firmware stops, and bytes not yet delivered are gone."""
        self.run(at)
        self.halt()

    def halt(self) -> None:
        """Stop at the present instruction, as when the plug is pulled inside :meth:`run`."""
        self.powered = False
        self._program = None
        self._ring.clear()
        self._arriving.clear()
        self._departed.clear()
        self._uplink = self.line.uplink(max(self._baud, 1))

    def set_line(self, *, baud: int, asserted: bool) -> None:
        """The host opened or closed the port: its baud rate, and whether DTR or RTS is asserted."""
        self._host_baud = baud
        self._lines_asserted = asserted
        if isinstance(self._uplink, FrameUplink):
            self._uplink.enabled = asserted

    def feed(self, data: bytes, at: float) -> float:
        """Take bytes the host hands to its port at ``at``; return when the last of them arrives at the firmware."""
        if not self._is_uart:
            at = self._next_frame(at)
            self._arriving.extend((at, byte, 0) for byte in data)
            self.received += len(data)
            return at
        if self.line.is_bridged:
            at = self._next_frame(at)
        baud = self._host_baud
        byte_s = UART_BITS / baud
        time = max(at, self._line_free)
        for byte in data:
            time += byte_s
            self._arriving.append((time, byte, baud))
        self._line_free = time
        self.received += len(data)
        return time

    def run(self, now: float) -> None:
        """Let the firmware act until it needs a byte that is not there, or is ``LOOKAHEAD_S`` ahead of ``now``."""
        self._real = max(self._real, now)
        self._horizon = self._real + LOOKAHEAD_S
        while self._program is not None and self._can_go_on():
            try:
                next(self._program)
            except (StopIteration, PowerCutError):
                self._program = None
        self._uplink.settle(self._real)

    def take(self, now: float) -> bytes:
        """Run up to ``now`` and return what has reached the host by then and was not taken before."""
        self.run(now)
        earlier = self._take_departed(now) if self._departed else b""
        taken = bytearray()
        out = self._uplink.out
        while out and out[0][0] <= now:
            taken += out.popleft()[1]
        return earlier + self._received(taken, self._baud)

    def _take_departed(self, now: float) -> bytes:
        taken = b""
        while self._departed and self._departed[0][0] <= now:
            _, data, baud = self._departed.popleft()
            taken += self._received(data, baud)
        return taken

    def _received(self, data: bytearray, baud: int) -> bytes:
        """Return what the host sees of bytes sent at ``baud``."""
        if data and self._is_uart and not _agree(self._host_baud, baud):
            return bytes(_garbled(byte) for byte in data)
        return bytes(data)

    def held(self, now: float) -> int:
        """Return how many bytes of the host wait before the UART (or, on native USB, for the firmware)."""
        if self._is_uart:
            return sum(at > now for at, _, _ in self._arriving)
        return len(self._arriving) + len(self._ring)

    def next_time(self) -> float:
        """Return when :meth:`take` should be called next though nothing was fed, infinity for never."""
        wake = self._departed[0][0] if self._departed else self._uplink.next_time()
        if self._program is None:
            return wake
        if not self._waiting:
            return min(wake, self.now)
        if self._arriving:
            wake = min(wake, max(self._arriving[0][0], self._real))
        return min(wake, self._deadline)

    def _next_frame(self, at: float) -> float:
        return (math.floor(at / USB_FRAME_S) + 1) * USB_FRAME_S

    def _can_go_on(self) -> bool:
        if not self._waiting:
            return self.now <= self._horizon
        if self._ring or (self._arriving and self._arriving[0][0] <= self._horizon):
            return True
        return self._deadline <= self._real

    # -- firmware side ---------------------------------------------------------------------------------------------

    def begin(self, baud: int) -> None:
        """Set up the serial line, as ``Serial.begin`` does; bytes that came before are lost."""
        old, old_baud, self._baud = self._uplink, self._baud, baud
        self._drop_before(self.now)
        self.overrun = False
        self._departed.extend((at, data, old_baud) for at, data in old.out)
        self._uplink = self.line.uplink(baud)
        if isinstance(self._uplink, FrameUplink):
            self._uplink.enabled = self._lines_asserted

    def delay(self, seconds: float) -> Program:
        """Spend CPU time; the ring fills meanwhile."""
        self.now += seconds
        while self.now > self._horizon:
            yield

    @property
    def is_ahead(self) -> bool:
        """Tell whether the firmware must let the host's clock catch up before it goes on."""
        return self.now > self._horizon

    def write(self, *values: int) -> None:
        """Send bytes to the host; waits in CPU time while the transmit ring is full."""
        for value in values:
            self.now = self._uplink.write(value, self.now)

    def flush(self) -> None:
        """Have the host get what was written without waiting for a timer, where the board can do that."""
        self.now = self._uplink.flush(self.now)

    def drain(self) -> None:
        """Wait in CPU time until everything written has left the transmitter."""
        self.now = self._uplink.drained_at(self.now)

    def clear_overrun(self) -> None:
        """Make the receiver listen again; what it still held is gone."""
        self._admit(self.now)
        self.lost += len(self._ring)
        self._ring.clear()
        self.overrun = False

    def getch(self) -> Generator[None, None, int]:
        """Wait for a byte and return it."""
        while True:
            byte = self._read(math.inf)
            if byte >= 0:
                return byte
            self._waiting = True
            yield
            self._waiting = False

    def getch_until(self, deadline: float) -> Generator[None, None, int]:
        """Wait for a byte until a CPU time; return it, or ``TIMED_OUT``."""
        while True:
            byte = self._read(deadline)
            if byte >= 0:
                return byte
            if self._real >= deadline or self.now >= deadline:
                self.now = max(self.now, deadline)
                return TIMED_OUT
            self._waiting, self._deadline = True, deadline
            yield
            self._waiting, self._deadline = False, math.inf

    def _read(self, deadline: float) -> int:
        if self._arriving:
            self._admit(self.now)
        while not self._ring:  # more than once where bytes are lost
            if not self._arriving or self._arriving[0][0] > min(self._horizon, deadline):
                return TIMED_OUT
            self.now = max(self.now, self._arriving[0][0])
            self._admit(self.now)
        byte, baud = self._ring.popleft()
        if self._is_uart:
            self._reads.append(self.now)
        self.framing_error = self._is_uart and not _agree(baud, self._baud)
        return _garbled(byte) if self.framing_error else byte

    def _admit(self, until: float) -> None:
        """Move what arrived by ``until`` into the ring; what found it full is lost."""
        arriving, ring, reads = self._arriving, self._ring, self._reads
        while arriving and arriving[0][0] <= until:
            at, byte, baud = arriving.popleft()
            while reads and reads[0] <= at:
                reads.popleft()
            if self.overrun:
                self.lost += 1
            elif len(ring) + len(reads) < self._room:
                ring.append((byte, baud))
            elif self.line.latches_overrun:
                ring.append((byte, baud))  # it stays in the shift register and can still be read
                self.overrun = True
            else:
                self.lost += 1

    def _drop_before(self, at: float) -> None:
        self._ring.clear()
        while self._arriving and self._arriving[0][0] <= at:
            self._arriving.popleft()


def _agree(one: int, other: int) -> bool:
    return one == other or abs(one - other) <= _BAUD_TOLERANCE * other


def _garbled(byte: int) -> int:
    """Stand-in for a byte sampled at the wrong baud rate: never right, and always the same."""
    return (byte * 0x3B ^ 0xA6) & 0xFF
