"""A byte port that follows a script: what must be sent, and what comes back when."""

from collections import deque
from collections.abc import Callable

import anyio

from ispd.errors import LinkClosedError

__all__ = ["ScriptedPort"]


class ScriptedPort:
    """Answers through ``peer``: called with each write, returns (delay in seconds, bytes) pieces to deliver in order."""

    def __init__(self, peer: Callable[[bytes], list[tuple[float, bytes]]]) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self._peer = peer
        self._due: deque[tuple[float, bytes]] = deque()

    @property
    def name(self) -> str:
        return "scripted"

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise LinkClosedError(self.name)
        self.sent.append(data)
        self.inject(self._peer(data))

    def inject(self, pieces: list[tuple[float, bytes]]) -> None:
        """Deliver bytes without being asked."""
        at = anyio.current_time()
        for delay, data in pieces:
            at += delay
            self._due.append((at, data))

    async def receive(self) -> bytes:
        while not self.closed:
            if self._due and self._due[0][0] <= anyio.current_time():
                return self._due.popleft()[1]
            await anyio.sleep(self._due[0][0] - anyio.current_time() if self._due else 1000.0)
        raise LinkClosedError(self.name)

    async def set_baud(self, baud: int) -> None:
        raise NotImplementedError(baud)

    def take(self) -> bytes:
        taken = b""
        while self._due and self._due[0][0] <= anyio.current_time():
            taken += self._due.popleft()[1]
        return taken

    async def aclose(self) -> None:
        self.closed = True
