"""What the kernel's virtual host controller says on its socket: USB/IP (kernel documentation ``usbip_protocol``).

48-byte big-endian headers, commands 1 (submit) and 2 (unlink) in, answers 3 and 4 out.
"""

import errno
import select
import socket
import struct
from dataclasses import dataclass

from ispd.transport.contract import ControlTransfer

__all__ = ["Submitted", "UsbIpSocket"]

_SUBMIT, _UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_HEADER = struct.Struct(">5I")
_HEADER_BYTES = 48
_SETUP = struct.Struct("<BBHHH")
_IN = 1


@dataclass(frozen=True, slots=True)
class Submitted:
    """A transfer the kernel asked for.

    ``endpoint`` is its number without direction, ``length`` how many bytes an IN transfer may bring, ``data`` what an OUT
    transfer carries, ``setup`` the request on endpoint 0 (zeros elsewhere).
    """

    number: int
    endpoint: int
    is_in: bool
    length: int
    data: bytes
    setup: bytes

    def control(self, timeout_s: float) -> ControlTransfer:
        """Return a transfer on endpoint 0 as what it asks."""
        request_type, request, value, index, size = _SETUP.unpack(self.setup)
        return ControlTransfer(
            request_type=request_type,
            request=request,
            value=value,
            index=index,
            data=self.data,
            length=size if self.is_in else 0,
            timeout_s=timeout_s,
        )


class UsbIpSocket:
    """One device's socket. Its methods raise ``EOFError`` or another ``OSError`` once the kernel has closed its side."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours

    def listen(self, wait_s: float) -> Submitted | tuple[int, int] | None:
        """Return a transfer, or an unlink as its own number and the number it takes back; None after ``wait_s`` s."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return None
        head = self._take(_HEADER_BYTES)
        command, number, _device, direction, endpoint = _HEADER.unpack_from(head)
        (length,) = struct.unpack_from(">i", head, _HEADER.size + 4)
        if command == _UNLINK:
            return number, struct.unpack_from(">I", head, _HEADER.size)[0]
        is_in = direction == _IN
        data = self._take(length) if not is_in and length > 0 else b""
        return Submitted(number, endpoint, is_in, length, data, head[40:])

    def complete(self, asked: Submitted, data: bytes = b"", *, stalled: bool = False) -> None:
        """Answer a transfer; an OUT transfer took all of its data."""
        moved = len(data) if asked.is_in else len(asked.data)
        self._end(asked, -errno.EPIPE if stalled else 0, moved, data)

    def fail(self, asked: Submitted) -> None:
        """Let a transfer end as one does whose device has left: nobody answers on the wire, which a host notices at once."""
        self._end(asked, -errno.EPROTO, 0, b"")

    def _end(self, asked: Submitted, status: int, moved: int, data: bytes) -> None:
        self._answer(_RET_SUBMIT, asked.number, struct.pack(">5i8x", status, moved, 0, 0, 0) + data)

    def unlinked(self, number: int, *, was_known: bool) -> None:
        """Answer an unlink: whether the transfer was still waiting, and is now never answered."""
        self._answer(_RET_UNLINK, number, struct.pack(">i24x", -errno.ECONNRESET if was_known else 0))

    def close(self) -> None:
        """Leave the bus: the kernel sees the device go."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def _answer(self, command: int, number: int, rest: bytes) -> None:
        self._socket.sendall(_HEADER.pack(command, number, 0, 0, 0) + rest)

    def _take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)
