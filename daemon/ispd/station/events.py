"""Event hub: every change gets a sequence number; slow readers lose events, never time."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from ispd.model.event import Event, EventKind
from ispd.model.job import Job, Unit
from ispd.model.station import Programmer, Slot
from ispd.transport.clock import Clock, timestamp

__all__ = ["EventHub", "Subscription"]


class Subscription:
    """One reader's bounded queue; an async iterator that ends only with its subscription.

    When the reader falls more than ``size`` events behind, everything queued is replaced by one ``resync`` event.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: deque[Event] = deque()
        self._arrived = anyio.Event()

    def offer(self, event: Event) -> None:
        """Queue ``event`` without ever waiting."""
        if len(self._queue) >= self._size:
            self._queue.clear()
            event = Event(seq=event.seq, time=event.time, kind=EventKind.RESYNC)
        self._queue.append(event)
        self._arrived.set()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._queue.popleft()


class EventHub:
    """Publishes to all subscriptions. ``seq`` is the number of the latest event, 0 before the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscriptions: set[Subscription] = set()
        self.seq = 0

    @contextmanager
    def subscribe(self, *, size: int = 256) -> Iterator[Subscription]:
        """Receive every event published inside the context; ``size`` bounds how far the reader may fall behind."""
        subscription = Subscription(size)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, payload: Job | Unit | Slot | Programmer) -> None:
        """Number the change and hand it to every reader."""
        self.seq += 1
        event = self._event(payload)
        for subscription in self._subscriptions:
            subscription.offer(event)

    def _event(self, payload: Job | Unit | Slot | Programmer) -> Event:
        time = timestamp(self._clock)
        match payload:
            case Job():
                return Event(seq=self.seq, time=time, kind=EventKind.JOB, job=payload)
            case Unit():
                return Event(seq=self.seq, time=time, kind=EventKind.UNIT, unit=payload)
            case Slot():
                return Event(seq=self.seq, time=time, kind=EventKind.SLOT, slot=payload)
            case Programmer():
                return Event(seq=self.seq, time=time, kind=EventKind.PROGRAMMER, programmer=payload)
