"""A serial link: any pump over any byte port, with deadlines, cancellation and a memory of lost framing.

A pump is the sans-IO side of a conversation: it says which bytes may go out and takes what comes in. The link knows no
protocol.

Cancelling an exchange never cuts a request in half: nothing more is begun, what was begun is finished within
``DRAIN_S``, and only then does the cancellation go on. So the programmer stays in step and no page is written with
half its bytes.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import anyio

from ispd.errors import LinkTimeoutError, ProtocolError, RemoteProtocolError
from ispd.transport.contract import BytePort

__all__ = ["DRAIN_S", "SILENCE_S", "Pump", "SerialLink"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SILENCE_S = 2.0
"""Longest silence while an answer is due. The slowest one is a 256 byte block at 19200 baud on a part with small pages:
136 ms on the line, 8 commits of 30 ms, 69 ms of SPI; the rest is for hubs and a busy host."""

DRAIN_S = 2.0
"""How long a cancelled exchange may go on to bring begun requests to their end."""


class Pump(Protocol[R_co]):
    """A batch of requests on their way; :class:`ispd.wire.window.WindowPump` is one."""

    @property
    def is_idle(self) -> bool:
        """True when every begun request was answered."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes still missing to the end of a request whose start was handed out."""

    def close_intake(self) -> None:
        """Begin no further request."""

    def outgoing(self) -> bytes:
        """Return the bytes that may be sent now and count them as sent; possibly nothing."""

    def incoming(self, data: bytes) -> Iterator[R_co]:
        """Yield each reply that ``data`` completes. Raises ``RemoteProtocolError``."""


class SerialLink:
    """One conversation over one port, used by one task at a time.

    ``in_sync`` is false from the start and after each lost answer; :meth:`confirm_sync` sets it once the peer was
    found to be in step. ``epoch`` counts the losses, so that what was known before one can be told from what is known
    now. :meth:`exchange` refuses to work out of sync; :meth:`say` and :meth:`listen` are for getting there.
    """

    def __init__(self, port: BytePort) -> None:
        self._port = port
        self._guard = anyio.ResourceGuard("exchanging on this link")
        self._in_sync = False
        self._epoch = 0
        self._owed_bytes = 0

    @property
    def name(self) -> str:
        """Path of the port."""
        return self._port.name

    @property
    def in_sync(self) -> bool:
        """Whether the next reply is known to belong to the next request."""
        return self._in_sync

    @property
    def epoch(self) -> int:
        """Number of times the framing was lost."""
        return self._epoch

    @property
    def owed_bytes(self) -> int:
        """Bytes that a begun request still lacked when the framing was lost; the peer may be waiting for them."""
        return self._owed_bytes

    def lose_sync(self, owed_bytes: int = 0) -> None:
        """Take note that peer and host may be out of step."""
        if self._in_sync:
            self._epoch += 1
        self._in_sync = False
        self._owed_bytes = owed_bytes

    def confirm_sync(self) -> None:
        """Take note that the peer is in step and owes no bytes."""
        self._in_sync = True
        self._owed_bytes = 0

    async def exchange(
        self,
        pump: Pump[R],
        *,
        deadline_s: float,
        on_reply: Callable[[R], None] | None = None,
    ) -> list[R]:
        """Bring a batch to its end and return the replies, in order.

        ``deadline_s`` bounds the whole batch, :data:`SILENCE_S` each wait for an answer. ``on_reply`` is called for
        each reply as it arrives.

        Raises ``LinkClosedError``, ``LinkTimeoutError``, ``RemoteProtocolError``; the link is out of sync after the
        latter two.
        """
        if not self._in_sync:
            raise RemoteProtocolError(f"the programmer on {self.name} is out of step")
        with self._guard:
            replies: list[R] = []

            def note(reply: R) -> None:
                replies.append(reply)
                if on_reply is not None:
                    on_reply(reply)

            try:
                await self._run(pump, anyio.current_time() + deadline_s, deadline_s, note)
            except (LinkTimeoutError, ProtocolError):
                self.lose_sync(pump.unsent_bytes)
                raise
            except anyio.get_cancelled_exc_class():
                await self._finish(pump)
                raise
            return replies

    async def say(self, data: bytes) -> None:
        """Send bytes outside any request; all of them, even when cancelled meanwhile."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(SILENCE_S) as patience:
            await self._port.send(data)
        if patience.cancelled_caught:
            raise LinkTimeoutError(self.name, SILENCE_S)

    async def listen(self, *, limit_s: float, until: bytes | None = None, quiet_s: float | None = None) -> bytes:
        """Return what comes within ``limit_s``, ending early after ``until`` or after ``quiet_s`` of silence.

        The answer to a flood is cut at 4 KiB: more than any programmer has in its buffers.
        """
        end = anyio.current_time() + limit_s
        heard = bytearray(self._port.take())
        while len(heard) < 4096 and not (until is not None and heard.endswith(until)):
            left_s = end - anyio.current_time()
            wait_s = left_s if quiet_s is None else min(quiet_s, left_s)
            if wait_s <= 0:
                break
            with anyio.move_on_after(wait_s) as silence:
                heard += await self._port.receive()
            if silence.cancelled_caught:
                break
        return bytes(heard)

    async def aclose(self) -> None:
        """Close the port; never raises."""
        self.lose_sync()
        with anyio.CancelScope(shield=True):
            await self._port.aclose()

    async def _run(self, pump: Pump[R], end: float, deadline_s: float, note: Callable[[R], None]) -> None:
        """Pump until every begun request was answered and none may be begun."""
        while True:
            if outgoing := pump.outgoing():
                await self.say(outgoing)
            if pump.is_idle:
                return
            left_s = end - anyio.current_time()
            wait_s = min(SILENCE_S, left_s)
            data = b""
            with anyio.move_on_after(max(0.0, wait_s)) as silence:
                data = await self._port.receive()
            if silence.cancelled_caught:
                raise LinkTimeoutError(self.name, SILENCE_S if left_s > SILENCE_S else deadline_s)
            for reply in pump.incoming(data):
                note(reply)

    async def _finish(self, pump: Pump[R]) -> None:
        """After a cancellation: bring begun requests to their end, or mark the link out of sync."""
        pump.close_intake()
        with anyio.CancelScope(shield=True):
            try:
                await self._run(pump, anyio.current_time() + DRAIN_S, DRAIN_S, lambda _reply: None)
            except (LinkTimeoutError, ProtocolError):
                self.lose_sync(pump.unsent_bytes)
