"""A connected Unix socket as a stream of bytes, over anyio's waiting for descriptors.

anyio's own Unix streams are left aside: cancelled while bytes arrive, as at every stop of a server, they raise or log
``InvalidStateError`` (agronholm/anyio issue 1267, and its relative in ``receive`` that 4.16 still has).
"""

import socket
import struct
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from ispd.api.call import Peer

__all__ = ["ByteStream", "accept"]

_CHUNK_BYTES = 64 * 1024
_PEER = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class ByteStream:
    """One connection. A peer that is gone looks like one that said everything: its reasons are its own."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.setblocking(False)

    @property
    def peer(self) -> Peer:
        """Who connected, as the kernel noted it then (SO_PEERCRED, unix(7))."""
        pid, uid, gid = _PEER.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return Peer(uid=uid, gid=gid, pid=pid)

    async def receive(self) -> bytes:
        """Return what arrived, at least one byte; nothing once the peer sends no more."""
        await checkpoint()
        while True:
            try:
                return self._socket.recv(_CHUNK_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError:
                return b""

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises ``anyio.BrokenResourceError`` where the peer takes no more.

        Cancelled in the middle, it leaves a part sent: the stream is good for nothing then.
        """
        await checkpoint()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    def send_at_once(self, data: bytes) -> None:
        """Send what fits into the socket's own buffer right now, without waiting. A fresh connection takes some 100 KiB."""
        with suppress(OSError):
            self._socket.send(data)

    def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End both directions; whoever waits to receive is woken."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back. Nobody may be waiting on it any more."""
        self._socket.close()


async def accept(listener: socket.socket) -> ByteStream:
    """Return the next client of a listening, non-blocking socket. Raises ``OSError`` as accept(2) does."""
    await checkpoint()
    while True:
        try:
            return ByteStream(listener.accept()[0])
        except BlockingIOError:
            await anyio.wait_readable(listener)
