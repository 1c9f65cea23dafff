"""What udev and the daemon tell, each with the time at which it could be read here."""

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyudev

from ispd.transport.port_table import topology_path

__all__ = ["Timeline", "Told"]

_DEADLINE_S = 60.0
_CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Told:
    """One message. ``at`` is monotonic seconds; ``subsystem`` is empty for the daemon's events, which are in ``event``."""

    at: float
    subsystem: str = ""
    action: str = ""
    path: str | None = None
    event: dict[str, Any] | None = None

    def slot(self, name: str) -> dict[str, Any] | None:
        """Return what the event shows of a slot, None where it is about something else."""
        shown: dict[str, Any] | None = None if self.event is None else self.event.get("slot")
        return shown if shown is not None and shown["name"] == name else None


class Timeline:
    """Use as a context manager; what happens inside is kept in order. One thread reads both, so that both are late alike."""

    def __init__(self, daemon: Path) -> None:
        self._daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._daemon.connect(str(daemon))
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        self._monitor.filter_by("tty")
        self._monitor.filter_by("usb", "usb_device")
        self._told: list[Told] = []
        self._news = threading.Condition()
        self._is_subscribed = False
        self._wake, self._bell = socket.socketpair()
        self._thread = threading.Thread(target=self._follow, name="timeline", daemon=True)

    def __enter__(self) -> Self:
        self._monitor.start()
        self._daemon.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "events.subscribe"}\n')
        self._thread.start()
        with self._news:
            assert self._news.wait_for(lambda: self._is_subscribed, _DEADLINE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bell.close()
        self._thread.join()
        self._daemon.close()
        self._wake.close()

    @property
    def told(self) -> list[Told]:
        """All that was told so far."""
        with self._news:
            return list(self._told)

    def first(self, wanted: Callable[[Told], object], *, since: float = 0.0) -> Told:
        """Return the first message of a kind that was told after ``since``; waits up to a minute for it."""

        def found() -> Told | None:
            return next((told for told in self._told if told.at >= since and wanted(told)), None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, _DEADLINE_S), "it is not told"
            told = found()
        assert told is not None
        return told

    def _follow(self) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            for source in (self._daemon, self._wake, self._monitor):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake.fileno() in ready:
                    return
                at = time.monotonic()
                if self._monitor.fileno() in ready and (device := self._monitor.poll(timeout=0)) is not None:
                    path = topology_path(f"{device.device_path}/")
                    self._tell(Told(at, device.subsystem, device.action or "", path))
                if self._daemon.fileno() in ready:
                    chunk = self._daemon.recv(_CHUNK_BYTES)
                    if not chunk:
                        return
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        self._take(json.loads(line), at)

    def _take(self, message: dict[str, Any], at: float) -> None:
        if message.get("method") == "event":
            assert message["params"]["kind"] != "resync", "this reader is never slow"
            self._tell(Told(at, event=message["params"]))
        else:
            with self._news:
                self._is_subscribed = True
                self._news.notify_all()

    def _tell(self, told: Told) -> None:
        with self._news:
            self._told.append(told)
            self._news.notify_all()
