"""One connection to the daemon: plain blocking socket, one JSON document per line."""

import json
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from ispctl.errors import DaemonGoneError, NoDaemonError, NotAllowedError, RpcError, WaitTimeoutError

__all__ = ["Client", "default_socket"]

_SYSTEM_SOCKET = Path("/run/ispd/ispd.sock")
_CHUNK_BYTES = 256 * 1024
_CONNECT_S = 5  # a daemon whose queue of new connections stays full for so long is not well


def default_socket() -> Path:
    """Return where the daemon is expected: ``ISPD_SOCKET``, the system's, or for ordinary users their own."""
    named = os.environ.get("ISPD_SOCKET")
    if named:
        return Path(named)
    if os.geteuid() == 0 or _SYSTEM_SOCKET.exists():
        return _SYSTEM_SOCKET
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "ispd.sock"


_TIMEVAL = struct.Struct("ll")  # struct timeval of socket(7): seconds, microseconds


class Client:
    """A connection. Calls answer in order; events that arrive in between are kept for :meth:`next_event`."""

    def __init__(self, path: Path) -> None:
        """Connect. Raises ``NoDaemonError`` or ``NotAllowedError``."""
        self._socket = _connect(path)
        self._buffer = bytearray()
        self._events: deque[dict[str, Any]] = deque()
        self._last_id = 0
        self.deadline: float | None = None
        """When to stop waiting for an answer, on the monotonic clock; None waits for ever."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, method: str, **params: Any) -> Any:
        """Return the method's result; parameters that are None are left out.

        Raises ``RpcError`` with the daemon's error, ``DaemonGoneError`` where no answer came, ``WaitTimeoutError`` after
        :attr:`deadline`.
        """
        self._last_id += 1
        given = {name: value for name, value in params.items() if value is not None}
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": given}
        try:
            self._socket.settimeout(self._left(self.deadline))
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError as error:
            raise _silent() from error
        except OSError:
            pass  # a daemon that hangs up may have said why: that is read, or else that it is gone
        while True:
            message = self._next_message(self.deadline)
            if message is None:
                raise _silent()
            if message.get("id") == self._last_id or (message.get("id") is None and "error" in message):
                return _result(message)
            self._keep(message)

    def next_event(self, timeout_s: float | None) -> dict[str, Any] | None:
        """Return the next event, None after ``timeout_s`` seconds without one. Raises ``DaemonGoneError``."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._events:
            message = self._next_message(deadline)
            if message is None:
                return None
            self._keep(message)
        return self._events.popleft()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events until the daemon goes away, which raises ``DaemonGoneError``."""
        while True:
            event = self.next_event(None)
            if event is not None:
                yield event

    def _keep(self, message: dict[str, Any]) -> None:
        if message.get("method") == "event":
            self._events.append(message["params"])

    def _next_message(self, deadline: float | None) -> dict[str, Any] | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            try:
                self._socket.settimeout(self._left(deadline))
                chunk = self._socket.recv(_CHUNK_BYTES)
            except TimeoutError:
                return None
            except OSError as error:
                raise _gone() from error
            if not chunk:
                raise _gone()
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message: dict[str, Any] = json.loads(line)
        return message

    @staticmethod
    def _left(deadline: float | None) -> float | None:
        """Return the seconds until ``deadline``; never 0, which would mean not to wait at all."""
        return None if deadline is None else max(0.001, deadline - time.monotonic())


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # not settimeout(): a socket that does not block fails at once where the daemon's queue is full for a moment
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_CONNECT_S, 0))
        connection.connect(str(path))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
    except PermissionError as error:
        connection.close()
        raise NotAllowedError(
            f"you may not use {path}", hint="join the socket's group, then log in again: `ispctl doctor` names it"
        ) from error
    except (OSError, ValueError) as error:
        connection.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise NoDaemonError(
            f"no ispd answers at {path}: {reason}",
            hint="start it: `systemctl start ispd`; or name its socket with --socket",
        ) from error
    return connection


def _result(message: dict[str, Any]) -> Any:
    error = message.get("error")
    if error is None:
        return message.get("result")
    data = error.get("data")
    raise RpcError(str(error.get("message", "")), data if isinstance(data, dict) else {})


def _silent() -> WaitTimeoutError:
    return WaitTimeoutError("ispd did not answer in time", hint="`systemctl status ispd` says how it is")


def _gone() -> DaemonGoneError:
    return DaemonGoneError("ispd went away", hint="`systemctl status ispd` says why; it may be starting again")
