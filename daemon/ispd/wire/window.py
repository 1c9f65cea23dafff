"""The window pump: decides which bytes of a sequence of requests may be on the line at any moment. Pure.

An ArduinoISP sketch on an Uno reads nothing while it works on a request, and its receive ring holds 63 bytes
(``HardwareSerial`` of the Arduino core: 64 with one unused); what comes beyond them is lost silently. So the oldest
unanswered request may always be sent completely, for the sketch reads while it receives, and behind it only as many
bytes as the ring holds. The next request thus travels while the sketch is busy with the one before.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.engine import Request

__all__ = ["UART_AHEAD_BYTES", "Window", "WindowPump"]

R = TypeVar("R")

UART_AHEAD_BYTES = 60
"""Bytes behind the oldest unanswered request on boards with a 63 byte ring. ``P`` leaves its own end byte in the ring
while it waits for the target's reset, so that one byte at least must stay free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How far a link may run ahead of its answers.

    :param ahead_bytes: limit for bytes sent behind the end of the oldest unanswered request; None where the receiver
        holds the line back by itself (USB devices answer NAK).
    :param ahead_requests: limit for requests begun behind the oldest, which bounds what a stop has to wait for.
    """

    ahead_bytes: int | None
    ahead_requests: int = 32


@dataclass(slots=True)
class _Flight(Generic[R]):
    """A request that was begun: ``sent`` of its bytes were handed out."""

    request: Request[R]
    encoded: bytes
    sent: int = 0

    @property
    def unsent(self) -> int:
        return len(self.encoded) - self.sent


class WindowPump(Generic[R]):
    """Turns requests into outgoing bytes and incoming bytes into replies, in order.

    ``requests`` is read lazily. ``stop`` is asked before a request is begun; once it says yes, nothing more is begun
    and what was begun is brought to its end.
    """

    def __init__(
        self, requests: Iterable[Request[R]], window: Window, *, stop: Callable[[], bool] | None = None
    ) -> None:
        self._source = iter(requests)
        self._window = window
        self._stop = stop
        self._flights: deque[_Flight[R]] = deque()
        self._ahead_bytes = 0
        self._reply = b""
        self._is_open = True

    @property
    def is_idle(self) -> bool:
        """True when every begun request was answered."""
        return not self._flights

    @property
    def unsent_bytes(self) -> int:
        """Bytes still missing to the end of a request whose start was handed out."""
        return self._flights[-1].unsent if self._flights else 0

    def close_intake(self) -> None:
        """Begin no further request."""
        self._is_open = False

    def outgoing(self) -> bytes:
        """Return the bytes that may be sent now and count them as sent; possibly nothing."""
        out = bytearray()
        while True:
            if not self._flights or not self._flights[-1].unsent:
                flight = self._begin()
                if flight is None:
                    return bytes(out)
                self._flights.append(flight)
            newest = self._flights[-1]
            count = newest.unsent if len(self._flights) == 1 else min(newest.unsent, self._room())
            if count == 0:
                return bytes(out)
            out += newest.encoded[newest.sent : newest.sent + count]
            newest.sent += count
            if len(self._flights) > 1:
                self._ahead_bytes += count

    def incoming(self, data: bytes) -> Iterator[R]:
        """Yield each reply that ``data`` completes; consume the iterator to its end.

        Raises ``RemoteProtocolError`` for a reply that makes no sense and for bytes nobody asked for; replies before
        it were yielded. The pump is of no use afterwards.
        """
        view = data
        while view:
            if not self._flights:
                raise RemoteProtocolError(f"the programmer sent bytes nobody asked for: {view[:16].hex(' ')}")
            request = self._flights[0].request
            need = request.missing(self._reply)
            self._reply += view[:need]
            view = view[need:]
            if request.missing(self._reply) == 0:
                reply, self._reply = request.decode(self._reply), b""
                if self._flights[0].unsent:
                    # the start of a chain may be answered before its end was sent, the whole of a request may not
                    raise RemoteProtocolError("the programmer answered a request before it was sent")
                self._flights.popleft()
                if self._flights:
                    self._ahead_bytes -= self._flights[0].sent
                yield reply

    def _room(self) -> int:
        """Return how many bytes may still be sent behind the oldest request."""
        if self._window.ahead_bytes is None:
            return 1 << 30
        return max(0, self._window.ahead_bytes - self._ahead_bytes)

    def _begin(self) -> _Flight[R] | None:
        """Return the next request where window, stop and source allow one."""
        if self._flights and (len(self._flights) > self._window.ahead_requests or self._room() == 0):
            return None
        if not self._is_open or (self._stop is not None and self._stop()):
            self._is_open = False
            return None
        request = next(self._source, None)
        if request is None:
            self._is_open = False
            return None
        encoded = request.encode()
        if not encoded:
            raise LocalProtocolError("a request without bytes cannot be sent")
        return _Flight(request, encoded)
