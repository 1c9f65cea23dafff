"""Emulated USB devices on the kernel's own USB stack, through its virtual host controller (module ``vhci-hcd``).

The kernel enumerates them, udev announces them, and unmodified programs open them like any device. Needs root and a kernel
with the module, so a virtual machine rather than somebody's workstation.

A device is handed over as one end of a socket; the kernel speaks USB/IP on it (kernel documentation ``usbip_protocol``):
48-byte big-endian headers, commands 1 (submit) and 2 (unlink) in, answers 3 and 4 out. No network is involved.
"""

import errno
import math
import select
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ispd.transport.contract import ControlTransfer
from vbench.emulated import EmulatedUsb

__all__ = ["VhciBus", "VhciError"]

_CONTROLLER = Path("/sys/devices/platform/vhci_hcd.0")
_LOW_SPEED = 1
"""``enum usb_device_speed`` of the kernel."""
_SUBMIT, _UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_HEADER = struct.Struct(">5I")
_HEADER_BYTES = 48
_SETUP = struct.Struct("<BBHHH")
_IN = 1
_NEVER_S = 5.0
"""The kernel cancels what takes longer than its caller allows; meanwhile the socket is looked at this often."""


class VhciError(Exception):
    """The kernel has no virtual host controller, or it has no free port."""


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A transfer the kernel asked for."""

    number: int
    is_in: bool
    transfer: ControlTransfer


class VhciBus:
    """The kernel's virtual host controller, with emulated devices plugged into it. Use as a context manager.

    :param time_scale: bench seconds per real second.
    """

    def __init__(self, *, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale
        self._origin = time.monotonic()
        self._plugged: dict[int, _Plug] = {}

    def __enter__(self) -> Self:
        if not _CONTROLLER.exists():
            raise VhciError("the kernel has no virtual host controller: load its module vhci-hcd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for port in tuple(self._plugged):
            self.unplug(port)

    def now(self) -> float:
        """Return bench seconds since the bus was made."""
        return (time.monotonic() - self._origin) * self.time_scale

    def plug(self, programmer: EmulatedUsb, port: int) -> str:
        """Plug a device into a port of the controller (from 0) and return its topology path.

        Raises ``VhciError`` where the kernel refuses. The device appears when the kernel has enumerated it.
        """
        if port in self._plugged:
            raise VhciError(f"port {port} is taken")
        programmer.power_on(self.now())
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                # the device id only has to differ from port to port
                (_CONTROLLER / "attach").write_text(f"{port} {theirs.fileno()} {0x10000 + port + 1} {_LOW_SPEED}")
            except OSError as error:
                ours.close()
                raise VhciError(f"port {port}: {error.strerror}") from error
        self._plugged[port] = _Plug(self, programmer, ours)
        return f"{self._bus_number()}-{port + 1}"

    def unplug(self, port: int) -> None:
        """Pull a device's plug; harmless where none is."""
        plug = self._plugged.pop(port, None)
        if plug is not None:
            (_CONTROLLER / "detach").write_text(str(port))
            plug.stop()

    def _bus_number(self) -> int:
        return min(int(path.read_text()) for path in _CONTROLLER.glob("usb*/busnum"))


class _Plug:
    """One device on its socket, served by a thread of its own."""

    def __init__(self, bus: VhciBus, programmer: EmulatedUsb, ours: socket.socket) -> None:
        self._bus = bus
        self._programmer = programmer
        self._socket = ours
        self._asked: deque[_Submitted] = deque()
        self._thread = threading.Thread(target=self._serve, name="vbench-vhci", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the thread's end; the kernel has closed its side."""
        self._thread.join()
        self._programmer.power_off(self._bus.now())

    def _serve(self) -> None:
        with self._socket:
            try:
                while True:
                    self._listen(_NEVER_S)
                    while self._asked:
                        self._carry_out(self._asked[0])
            except (EOFError, ConnectionError, BrokenPipeError):
                return  # unplugged

    def _listen(self, wait_s: float) -> None:
        """Take one message of the kernel, or return after ``wait_s`` without one."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        head = self._take(_HEADER_BYTES)
        command, number, _device, direction, _endpoint = _HEADER.unpack_from(head)
        if command == _UNLINK:
            self._forget(number, struct.unpack_from(">I", head, _HEADER.size)[0])
            return
        (length,) = struct.unpack_from(">i", head, _HEADER.size + 4)
        data = self._take(length) if direction != _IN and length > 0 else b""
        request_type, request, value, index, size = _SETUP.unpack_from(head, 40)
        transfer = ControlTransfer(
            request_type=request_type,
            request=request,
            value=value,
            index=index,
            data=data,
            length=size if direction == _IN else 0,
            timeout_s=math.inf,
        )
        self._asked.append(_Submitted(number, direction == _IN, transfer))

    def _carry_out(self, asked: _Submitted) -> None:
        """Let the device act, and answer when its time has come, unless the kernel gives up first."""
        begun = self._bus.now()
        self._programmer.run(begun)
        reply = self._programmer.control(asked.transfer, begun)
        while self._asked and self._asked[0] is asked:
            left_s = (reply.ends_at - self._bus.now()) / self._bus.time_scale
            if left_s <= 0:
                break
            self._listen(min(left_s, _NEVER_S))
        else:
            return  # taken back
        self._asked.popleft()
        if self._programmer.power_lost_at is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            raise EOFError
        data = reply.data[: asked.transfer.length] if asked.is_in else b""
        moved = len(data) if asked.is_in else len(asked.transfer.data)
        status = -errno.EPIPE if reply.stalled else 0
        self._answer(_RET_SUBMIT, asked.number, struct.pack(">5i8x", status, moved, 0, 0, 0) + data)

    def _forget(self, number: int, wanted: int) -> None:
        """The kernel takes a transfer back."""
        known = [asked for asked in self._asked if asked.number == wanted]
        for asked in known:
            self._asked.remove(asked)
        self._answer(_RET_UNLINK, number, struct.pack(">i24x", -errno.ECONNRESET if known else 0))

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
