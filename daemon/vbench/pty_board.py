"""Emulated serial programmers behind real pseudo-terminals, in real time: what outside tools can open.

One thread serves any number of boards. It sleeps until the next byte is due or a host wrote something, but wakes at most
once per ``GRAIN_S``, so that sixteen boards at 19200 baud cost a fraction of a core. A pseudo-terminal has no modem
lines: an Uno is not reset by opening it.
"""

import fcntl
import math
import os
import selectors
import struct
import threading
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from vbench.emulated import EmulatedSerial
from vbench.target import AvrTarget

__all__ = ["GRAIN_S", "PtyBoard", "PtyServer"]

GRAIN_S = 1e-3
"""Real seconds between two looks at the boards: about what a USB host adds anyway."""
_CHUNK_BYTES = 4096
_IDLE_S = 60.0
"""Longest sleep; only bounds the argument of ``select``."""

_TCGETS2 = 0x802C542A
_TERMIOS2 = struct.Struct("=4I20B2I")
"""``struct termios2`` of Linux (asm-generic/termbits.h): the only one that tells rates without a name of their own."""


class PtyServer:
    """The thread that runs boards. Use as a context manager; all its boards go with it.

    :param time_scale: bench seconds per real second.
    """

    def __init__(self, *, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale
        self.lock = threading.RLock()
        """Held while boards act; take it to look at or change a programmer from another thread."""
        self._origin = time.monotonic()
        self._boards: list[PtyBoard] = []
        self._schedule: list[tuple[float, Callable[[], object]]] = []
        self._selector = selectors.SelectSelector()
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="vbench-pty", daemon=True)

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._origin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self.wake()
        self._thread.join()
        with self.lock:
            for board in list(self._boards):
                board.unplug()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def now(self) -> float:
        """Return bench seconds since the server was started."""
        return (time.monotonic() - self._origin) * self.time_scale

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something at a bench time, on the server's thread."""
        with self.lock:
            self._schedule.append((when, action))
            self._schedule.sort(key=lambda entry: entry[0])
        self.wake()

    def wake(self) -> None:
        """Make the thread look at its boards now."""
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def attach(self, board: "PtyBoard", master: int) -> None:
        """Begin to serve a board; called with the lock held."""
        self._boards.append(board)
        self._selector.register(master, selectors.EVENT_READ, board)
        self.wake()

    def detach(self, board: "PtyBoard", master: int) -> None:
        """Stop serving a board; called with the lock held."""
        self._boards.remove(board)
        self._selector.unregister(master)

    def _serve(self) -> None:
        while not self._stopping:
            with self.lock:
                now = self.now()
                while self._schedule and self._schedule[0][0] <= now:
                    self._schedule.pop(0)[1]()
                for board in [board for board in self._boards if board.due <= now]:
                    board.deliver(now)
                due = min(
                    [board.due for board in self._boards] + [at for at, _ in self._schedule[:1]], default=math.inf
                )
            time.sleep(GRAIN_S)
            wait_s = (due - self.now()) / self.time_scale
            ready = self._selector.select(min(max(wait_s, 0.0), _IDLE_S))
            with self.lock:
                now = self.now()
                for key, _ in ready:
                    if isinstance(key.data, PtyBoard):
                        key.data.accept(now)
                    else:
                        os.read(self._wake_read, _CHUNK_BYTES)


class PtyBoard:
    """One emulated programmer behind a pseudo-terminal.

    ``with PtyBoard(programmer) as board:`` runs it on a thread of its own; give ``server`` to share one thread among
    many. ``board.path`` is what a host opens; it may open, close and open again.
    """

    def __init__(self, programmer: EmulatedSerial, *, time_scale: float = 1.0, server: PtyServer | None = None) -> None:
        self.programmer = programmer
        self.due = math.inf
        """Bench time at which :meth:`deliver` should be called next."""
        self.unread = 0
        """Reply bytes dropped because the host left the terminal's buffer full."""
        self._owns_server = server is None
        self._server = PtyServer(time_scale=time_scale) if server is None else server
        self._master = -1
        self._slave = -1
        self._path = ""

    def __enter__(self) -> Self:
        if self._owns_server:
            self._server.__enter__()
        self.plug()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()
        if self._owns_server:
            self._server.__exit__(kind, error, trace)

    @property
    def path(self) -> str:
        """Device node of the pseudo-terminal; empty while unplugged."""
        with self._server.lock:
            return self._path

    @property
    def is_plugged(self) -> bool:
        """Tell whether the pseudo-terminal exists."""
        with self._server.lock:
            return self._master >= 0

    @property
    def target(self) -> AvrTarget | None:
        """The board on the programmer, caught up with the clock; look at it when the host is done."""
        with self._server.lock:
            self.programmer.run(self._server.now())
            return self.programmer.socket.target

    def plug(self) -> None:
        """Make the pseudo-terminal. After :meth:`unplug` this is a power-up, and the path may be another one."""
        with self._server.lock:
            if self.is_plugged:
                return
            self._master, self._slave = os.openpty()
            os.set_blocking(self._master, False)
            tty.setraw(self._slave)
            self._path = os.ttyname(self._slave)
            now = self._server.now()
            if not self.programmer.powered:
                self.programmer.power_on(now)
            self.programmer.opened(now, baud=self.programmer.baud, dtr=False, rts=True)
            self.due = now
            self._server.attach(self, self._master)

    def unplug(self) -> None:
        """Take the pseudo-terminal away: a host that has it open sees it hang up. Harmless when done already."""
        with self._server.lock:
            if not self.is_plugged:
                return
            self._server.detach(self, self._master)
            self.programmer.power_off(self._server.now())
            os.close(self._master)
            os.close(self._slave)
            self._master = self._slave = -1
            self._path = ""
            self.due = math.inf

    def insert(self, target: AvrTarget) -> None:
        """Put a board on the programmer."""
        with self._server.lock:
            self.programmer.run(self._server.now())
            self.programmer.socket.insert(target, self._server.now())

    def remove(self) -> AvrTarget:
        """Take the board off the programmer."""
        with self._server.lock:
            self.programmer.run(self._server.now())
            return self.programmer.socket.remove(self._server.now())

    def accept(self, now: float) -> None:
        """Take what the host wrote; called by the server."""
        if not self.is_plugged:
            return
        with suppress(BlockingIOError):
            data = os.read(self._master, _CHUNK_BYTES)
            baud = _baud_of(self._slave)
            if baud > 0 and data:
                self.programmer.set_baud(baud)
                self.programmer.feed(data, now)
        self.due = now

    def deliver(self, now: float) -> None:
        """Hand the host what is due; called by the server."""
        data = self.programmer.take(now)
        if data:
            try:
                written = os.write(self._master, data)
            except BlockingIOError:
                written = 0
            self.unread += len(data) - written
        if self.programmer.power_lost_at is not None:
            self.unplug()
        else:
            self.due = self.programmer.next_time()


def _baud_of(descriptor: int) -> int:
    """Return the output rate that a tty is set to."""
    rate: int = _TERMIOS2.unpack(fcntl.ioctl(descriptor, _TCGETS2, bytes(_TERMIOS2.size)))[-1]
    return rate
