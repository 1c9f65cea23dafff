"""The JSON-RPC surface as a whole: a listening socket and its connections."""

import errno
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskStatus

from ispd.api.call import Allows, StationPort
from ispd.api.handlers import load_handlers
from ispd.errors import ErrorCode, RefusedError
from ispd.surfaces.access import Operators, socket_group
from ispd.surfaces.jsonrpc.connection import Connection, Limits
from ispd.surfaces.jsonrpc.dispatch import Dispatcher, error_response
from ispd.surfaces.jsonrpc.socketfile import listen
from ispd.surfaces.jsonrpc.stream import ByteStream, accept

__all__ = ["Limits", "serve_jsonrpc"]

_LOG = structlog.get_logger("ispd.jsonrpc")

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
_RETRY_S = 0.2  # a pause that lets other work free what accept() was short of


async def serve_jsonrpc(
    at: Path | socket.socket,
    station: StationPort,
    *,
    allows: Allows | None = None,
    limits: Limits | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``station`` until cancelled; started once clients can connect.

    :param at: path of the socket to make (removed at the end), or a socket that listens already and stays as it is.
    :param allows: who may do what; by default root, the daemon's user and the members of the socket's group.
    :raises ConfigError: the socket can not be made, or another daemon serves it.
    """
    with _listener(at) as listener:
        surface = _Surface(station, allows or Operators(lambda: socket_group(at)), limits or Limits())
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                tasks.start_soon(surface.serve, await _accept(listener))


class _Surface:
    """What all connections share."""

    def __init__(self, station: StationPort, allows: Allows, limits: Limits) -> None:
        self._dispatcher = Dispatcher(load_handlers())
        self._station = station
        self._allows = allows
        self._limits = limits
        self._open: Counter[int | None] = Counter()
        self._has_refused = False
        self._workers = CapacityLimiter(limits.parsers)

    async def serve(self, stream: ByteStream) -> None:
        """Serve one connection; whatever happens to it stays with it."""
        user = stream.peer.uid
        self._open[user] += 1
        try:
            if self._open.total() > self._limits.connections or self._open[user] > self._limits.connections_per_user:
                self._refuse(stream)
                return
            self._has_refused = False
            connection = Connection(
                stream,
                self._dispatcher,
                self._station,
                allows=self._allows,
                workers=self._workers,
                limits=self._limits,
            )
            await connection.run()
        except Exception as error:  # noqa: BLE001 - a bug met over one connection must not end the boards in work
            _LOG.exception("connection ended by an error of ours", exc_info=error)
        finally:
            self._open[user] -= 1
            self._open = +self._open  # only users who are there
            stream.close()

    def _refuse(self, stream: ByteStream) -> None:
        """Tell a client why it is not served, and log it; once, until one is served again, so that a flood does not fill the log."""
        user = stream.peer.uid
        of_user = self._open[user] > self._limits.connections_per_user
        most = self._limits.connections_per_user if of_user else self._limits.connections
        refusal = RefusedError(
            ErrorCode.TOO_MANY_CLIENTS,
            f"the daemon serves {most} connections{' of one user' if of_user else ''} at once, and has them",
            hint="close some: `ss -xp` names who holds them; or try again later",
        )
        # nobody is waited for who may not even read; how it frames its messages is not known yet
        stream.send_at_once(error_response(refusal) + b"\n")
        if not self._has_refused:
            _LOG.warning("connection refused: too many", open=self._open.total(), user=user, of_user=self._open[user])
        self._has_refused = True


@contextmanager
def _listener(at: Path | socket.socket) -> Iterator[socket.socket]:
    if isinstance(at, Path):
        with listen(at) as listener:
            yield listener
    else:
        at.setblocking(False)
        yield at


async def _accept(listener: socket.socket) -> ByteStream:
    """Return the next client, waiting where the system is out of descriptors or memory for the moment."""
    while True:
        try:
            return await accept(listener)
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            _LOG.warning("no further client for the moment", reason=error.strerror)
            await anyio.sleep(_RETRY_S)
