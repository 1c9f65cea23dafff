"""Who may reset a board when: one at a time while a slot proves which board is on its USB port, anybody otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ispd.transport.clock import Clock

__all__ = ["ResetGate"]

SETTLE_S = 0.5
"""A hub tells within that time that a board left its port; a device that is there then is not on its way out."""


class ResetGate:
    """The station's, shared by all slots.

    A board that another slot resets leaves its port, too: during a proof nobody else begins to, and what was begun before is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._proofs = anyio.Lock()
        self._is_closed = False
        self._resetting = 0
        self._last_s = float("-inf")
        self._changed = anyio.Event()

    @asynccontextmanager
    async def resetting(self) -> AsyncIterator[None]:
        """Reset a board now and then for as long as the context lasts; keep that short, since proofs wait for it."""
        while self._is_closed:
            await self._changed.wait()  # nothing was awaited since it was looked at
        self._resetting += 1
        try:
            yield
        finally:
            self._resetting -= 1
            self._last_s = self._clock.monotonic()
            self._tell()

    async def begin(self) -> None:
        """Wait until a board may be reset and be held so: its coming back is seen by nobody as its leaving."""
        async with self.resetting():
            pass

    @asynccontextmanager
    async def proving(self) -> AsyncIterator[None]:
        """Be the only one who resets a board for as long as the context lasts. Who leaves a port now left because of that."""
        async with self._proofs:
            self._is_closed = True
            try:
                while self._resetting:
                    await self._changed.wait()  # nothing was awaited since they were counted
                await self._clock.sleep(max(0.0, self._last_s + SETTLE_S - self._clock.monotonic()))
                yield
            finally:
                self._is_closed = False
                self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
