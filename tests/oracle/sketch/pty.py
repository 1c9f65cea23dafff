"""The simulated Uno behind a real pseudo-terminal, for outside tools."""

import os
import selectors
import threading
import time
import tty
from types import TracebackType
from typing import Self

from tests.oracle.sketch.board import Board

__all__ = ["PtySketch"]

_SLICE_S = 1e-3
"""Simulated seconds between two looks at the host: what a USB host adds anyway."""
_CHUNK_BYTES = 4096


class PtySketch:
    """Runs the board on a thread while used as a context manager; ``path`` is what a host opens.

    :param time_scale: simulated seconds per real second at most. Where the machine is slower the simulation falls
        behind, which a host sees as a programmer that takes its time.
    """

    def __init__(self, board: Board, *, time_scale: float) -> None:
        self._board = board
        self._scale = time_scale
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="sketch-pty")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def _serve(self) -> None:
        board = self._board
        with selectors.SelectSelector() as selector:
            selector.register(self._master, selectors.EVENT_READ)
            due = time.monotonic()
            while not self._stopping.is_set():
                if selector.select(max(0.0, due - time.monotonic())):
                    board.feed(os.read(self._master, _CHUNK_BYTES), board.now)
                    continue
                board.run(board.now + _SLICE_S)
                if replies := board.take():
                    os.write(self._master, bytes(reply.byte for reply in replies))
                # time lost to a slow machine is not made up for
                due = max(due + _SLICE_S / self._scale, time.monotonic() - _SLICE_S)
