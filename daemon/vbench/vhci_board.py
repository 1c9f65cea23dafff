"""A board's own USB cable on the kernel's virtual host controller: what it shows is plugged in and out as it changes.

The board's chip may sit on a programmer on the same bus at the same time: both ends act under the bus's lock.
"""

import math
import threading
from types import TracebackType
from typing import Self

from vbench.emulated import EmulatedBoard, EmulatedFace
from vbench.vhci import VhciBus

__all__ = ["VhciBoard"]

_LONGEST_S = 60.0


class VhciBoard:
    """A board's cable in a port of a bus. Use as a context manager: a thread of its own follows the board meanwhile.

    :param port: port of the bus (from 0); nothing else may be plugged in there.
    """

    def __init__(self, bus: VhciBus, board: EmulatedBoard, port: int) -> None:
        self.board = board
        self.port = port
        self._bus = bus
        self._shown: EmulatedFace | None = None
        self._changed = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._follow, name="vbench-board", daemon=True)

    @property
    def path(self) -> str:
        """Topology path of its port."""
        return self._bus.path(self.port)

    def __enter__(self) -> Self:
        with self._bus.lock:
            self.board.on_change = self._changed.set
            self.board.attach(self._bus.now())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._bus.lock:
            self.board.on_change = None
            self.board.detach(self._bus.now())
        self._is_stopping = True
        self._changed.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._is_stopping:
            self._changed.clear()
            with self._bus.lock:
                face = self.board.face(self._bus.now())
            self._show(face)
            with self._bus.lock:
                due = self.board.next_change()
                wait_s = (due - self._bus.now()) / self._bus.time_scale if due != math.inf else _LONGEST_S
            self._changed.wait(max(0.0, min(wait_s, _LONGEST_S)))
        self._show(None)

    def _show(self, face: EmulatedFace | None) -> None:
        """Unplug whom the kernel sees, and plug in who is there now; the kernel takes its time over both."""
        if face is self._shown:
            return
        if self._shown is not None:
            self._bus.unplug(self.port)
        if face is not None:
            self._bus.plug_face(face, self.port)
        self._shown = face
