"""An open port of the virtual bench, and the time it lives in."""

import asyncio
import math
from collections.abc import Callable

import anyio

from ispd.errors import LinkClosedError
from vbench.emulated import SerialEnd

__all__ = ["BenchPort", "BenchTime"]

_LEAST_S = 1e-6
"""Shortest wait for a board. Bench time is a difference of floats: a byte due an instant later than now by their rounding
would be waited for without time going on, for ever on virtual time."""


class BenchTime:
    """Bench seconds: the event loop's clock times ``scale``, from the first use inside a loop on."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self._origin: float | None = None

    def now(self) -> float:
        """Return bench seconds."""
        real = asyncio.get_running_loop().time()
        if self._origin is None:
            self._origin = real
        return (real - self._origin) * self.scale


class BenchPort:
    """An open port of the bench; see ``BytePort`` in :mod:`ispd.transport.contract`.

    :param on_end: called once when the port is closed, or its programmer was found to have lost its supply.
    :param hangs_up_from: closing the port lets go of DTR and RTS (HUPCL), at this rate; None: they stay as they are.
    """

    def __init__(
        self,
        name: str,
        programmer: SerialEnd,
        time: BenchTime,
        on_end: Callable[[], object],
        *,
        hangs_up_from: int | None = None,
    ) -> None:
        self._name = name
        self._programmer = programmer
        self._time = time
        self._on_end = on_end
        self._hangs_up_from = hangs_up_from
        self._is_open = True
        self._kept = b""
        self._changed = anyio.Event()

    @property
    def name(self) -> str:
        """Name of the port."""
        return self._name

    async def send(self, data: bytes) -> None:
        """Hand bytes to the port. Raises ``LinkClosedError`` once it is gone."""
        await anyio.lowlevel.checkpoint()
        self._collect()
        self._check()
        self._programmer.feed(data, self._time.now())
        self._changed.set()

    async def receive(self) -> bytes:
        """Return the next bytes, at least one. Raises ``LinkClosedError`` once the port is gone."""
        self._collect()
        if self._kept:
            await anyio.lowlevel.checkpoint()
        while not self._kept:
            self._check()
            await self._wait()
            self._collect()
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived and was not received yet, possibly nothing."""
        self._collect()
        data, self._kept = self._kept, b""
        return data

    async def set_baud(self, baud: int) -> None:
        """Change the rate. Raises ``LinkClosedError`` once the port is gone."""
        await anyio.lowlevel.checkpoint()
        self._collect()
        self._check()
        self._programmer.set_baud(baud)

    async def aclose(self) -> None:
        """Close the port; lines stay as they are, or are let go of where that was asked for."""
        if self._is_open and self._hangs_up_from is not None:
            self._programmer.opened(self._time.now(), baud=self._hangs_up_from, dtr=False, rts=False)
        self._end()

    def lose(self) -> None:
        """The plug was pulled: whoever waits gets ``LinkClosedError``."""
        self._end()

    def _collect(self) -> None:
        if self._is_open:
            self._kept += self._programmer.take(self._time.now())
            if self._programmer.power_lost_at is not None:
                self._end()

    def _check(self) -> None:
        if not self._is_open:
            raise LinkClosedError(self.name)

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._changed.set()
            self._on_end()

    async def _wait(self) -> None:
        """Sleep until the board may have something to say, or the port changes.

        A bare timer of the loop: a board at full speed comes here some 20,000 times, and a cancel scope for each would
        cost more than the emulation.
        """
        due = self._programmer.next_time()
        changed = self._changed = anyio.Event()
        if due == math.inf:
            await changed.wait()
            return
        wait_s = max(_LEAST_S, (due - self._time.now()) / self._time.scale)
        timer = asyncio.get_running_loop().call_later(wait_s, changed.set)
        try:
            await changed.wait()
        finally:
            timer.cancel()
