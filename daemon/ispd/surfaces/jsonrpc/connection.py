"""One client's connection: reads requests, runs them, writes answers and events, and suffers alone when it is slow."""

import math
from contextlib import ExitStack
from dataclasses import dataclass

import anyio
from anyio import CancelScope, CapacityLimiter, Semaphore
from anyio.abc import TaskGroup

from ispd.api.call import Allows, Call, EventSource, StationPort
from ispd.api.spec import EVENT_NOTIFICATION
from ispd.errors import ErrorCode, RefusedError
from ispd.model.event import Event
from ispd.surfaces.jsonrpc.codec import encode
from ispd.surfaces.jsonrpc.dispatch import Dispatcher, error_response
from ispd.surfaces.jsonrpc.framing import Framing
from ispd.surfaces.jsonrpc.stream import ByteStream

__all__ = ["Connection", "Limits"]

_DRAIN_S = 2.0  # a local client that is still sending needs far less for the longest request


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may cost.

    :param connections: clients at once.
    :param connections_per_user: clients of one user at once, so that what one leaves open keeps no other out.
    :param calls: calls of one connection that run at once; the next request is not read before one ends.
    :param write_s: how long a client may leave a message unread before it is disconnected.
    :param message_s: how long a message may take from its first to its last byte.
    :param events: how many events a client may be behind before it is told to fetch state again.
    :param parsers: threads parsing untrusted files at once, over all connections.
    """

    connections: int = 64
    connections_per_user: int = 32
    calls: int = 8
    write_s: float = 10.0
    message_s: float = 30.0
    events: int = 256
    parsers: int = 2


class _Feed:
    """A connection's subscription. Only waiting for an event is ever interrupted, never writing one."""

    def __init__(self, source: EventSource, size: int) -> None:
        self._registered = ExitStack()
        self._events = self._registered.enter_context(source.subscribe(size=size))
        self._waiting: CancelScope | None = None
        self._is_closed = False
        self.is_running = False

    async def next_event(self) -> Event | None:
        """Return the next event, None once closed."""
        if self._is_closed:
            return None
        with CancelScope() as self._waiting:
            event = await anext(self._events)
        return None if self._is_closed else event

    def close(self) -> None:
        """End the subscription."""
        self._is_closed = True
        self._registered.close()
        if self._waiting is not None:
            self._waiting.cancel()


class Connection:
    """Serves one stream until the client closes its side, breaks the framing, or stops reading.

    A client may close its writing side at once: what it asked for is still answered. A client that vanishes does not
    take its running calls with it: a job that is being recorded gets recorded.
    """

    def __init__(
        self,
        stream: ByteStream,
        dispatcher: Dispatcher,
        station: StationPort,
        *,
        allows: Allows,
        workers: CapacityLimiter,
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._dispatcher = dispatcher
        self._events = station.events
        self._limits = limits
        self._framing = Framing()
        self._writing = anyio.Lock()
        self._is_dead = False
        self._messages = Semaphore(limits.calls)
        self._calls = Semaphore(limits.calls)
        self._feed: _Feed | None = None
        self._call = Call(station=station, session=self, peer=stream.peer, allows=allows, workers=workers)

    async def run(self) -> None:
        """Serve until the connection ends; closing the stream is left to its owner."""
        try:
            async with anyio.create_task_group() as feeds:
                async with anyio.create_task_group() as calls:
                    is_broken = await self._read(calls, feeds)
                if is_broken:
                    await self._drain()
                feeds.cancel_scope.cancel()
        finally:
            self.unsubscribe()

    # -- the session, for the handlers of methods that concern the connection itself

    def subscribe(self) -> int:
        """Send events from now on; return the number of the latest one."""
        if self._feed is None:
            self._feed = _Feed(self._events, self._limits.events)
        return self._events.seq

    def unsubscribe(self) -> None:
        """Send no more events."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    # -- reading

    async def _read(self, calls: TaskGroup, feeds: TaskGroup) -> bool:
        """Start a call for each request until no more can come; return whether that is because the framing broke."""
        deadline = math.inf
        try:
            while True:
                while (message := self._framing.next_message()) is not None:
                    await self._messages.acquire()
                    calls.start_soon(self._answer, message, feeds)
                    deadline = math.inf
                if self._framing.has_partial and deadline == math.inf:
                    deadline = anyio.current_time() + self._limits.message_s
                if not await self._receive(deadline):
                    break
            if (message := self._framing.finish()) is not None:
                await self._messages.acquire()
                calls.start_soon(self._answer, message, feeds)
        except RefusedError as error:
            await self._write(error_response(error))
            return True
        return False

    async def _receive(self, deadline: float) -> bool:
        """Feed the framing; return False where nothing more will come."""
        with CancelScope(deadline=deadline):
            data = await self._stream.receive()
            self._framing.receive(data)
            return bool(data)
        raise RefusedError(ErrorCode.PARSE_ERROR, f"the request did not end within {self._limits.message_s:g} seconds")

    async def _drain(self) -> None:
        """Let a client that is still sending come to its end, so that it reads our answer and not a reset."""
        self._stream.send_eof()
        with anyio.move_on_after(_DRAIN_S):
            while await self._stream.receive():
                pass

    # -- answering

    async def _answer(self, message: bytes, feeds: TaskGroup) -> None:
        try:
            response = await self._dispatcher.answer(message, self._call, self._calls)
            if response is not None:
                await self._write(response)
            if self._feed is not None and not self._feed.is_running:
                # Only now, so that the answer to the subscription goes out before its first event.
                self._feed.is_running = True
                feeds.start_soon(self._pump, self._feed)
        finally:
            self._messages.release()

    async def _pump(self, feed: _Feed) -> None:
        while (event := await feed.next_event()) is not None:
            await self._write(encode({"jsonrpc": "2.0", "method": EVENT_NOTIFICATION, "params": event}))

    async def _write(self, message: bytes) -> None:
        """Send one message; a client that does not take it in time is disconnected."""
        async with self._writing:
            if self._is_dead:
                return
            try:
                with anyio.fail_after(self._limits.write_s):
                    await self._stream.send(self._framing.encode(message))
            except (anyio.BrokenResourceError, TimeoutError):
                self._is_dead = True
                self._stream.abort()
