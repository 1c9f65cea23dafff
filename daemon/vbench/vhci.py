"""Emulated USB devices on the kernel's own USB stack, through its virtual host controller (module ``vhci-hcd``).

The kernel enumerates them, udev announces them, and unmodified programs open them like any device. Needs root and a kernel
with the module, so a virtual machine rather than somebody's workstation.

A device is handed over as one end of a socket, on which the kernel speaks USB/IP; no network is involved.
"""

import errno
import math
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from ispd.transport.contract import PortKind
from vbench.cdc_acm import Answer, CdcAcm
from vbench.emulated import (
    BulkEnd,
    EmulatedBoard,
    EmulatedBulk,
    EmulatedFace,
    EmulatedProgrammer,
    EmulatedSerial,
    EmulatedUsb,
    SerialEnd,
    UsbEnd,
)
from vbench.header import put_on_header
from vbench.swd import SwdTarget
from vbench.target import AvrTarget
from vbench.usbip import Submitted, UsbIpSocket

__all__ = ["VhciBus", "VhciError"]

_CONTROLLERS = Path("/sys/devices/platform")
_DEVICES = Path("/sys/bus/usb/devices")
_CONTROLLER = _CONTROLLERS / "vhci_hcd.0"
"""The first of them takes the orders for all."""
_LOW_SPEED, _FULL_SPEED = 1, 2
"""``enum usb_device_speed`` of the kernel."""
_GRAIN_S = 0.2e-3
"""Least real wait for a serial board: many small waits cost more than they are worth."""
_FREE = 4
"""``VDEV_ST_NULL``: status of a port where nothing is plugged in (``usbip_common.h``)."""
_FREE_S, _LOOK_S = 30.0, 5e-3
"""How long the kernel may take to clear a port, and how often it is asked."""
_IN = 0x80
"""In the address of an endpoint."""
_GLANCE_S = 0.02
"""How often one looks whether a board that is busy has left meanwhile."""
_QUIET_S, _PART_S = 0.03, 1.0
"""The kernel repeats what failed at once, and then resets the port for 60 ms (``hub.c``): a silence so long is that. And how long
it is waited for."""
_NEVER_S = 5.0
"""The kernel cancels what takes longer than its caller allows; meanwhile the socket is looked at this often."""


class VhciError(Exception):
    """The kernel has no virtual host controller, or it has no free port."""


class VhciBus:
    """The kernel's virtual host controller, with emulated devices plugged into it. Use as a context manager.

    :param time_scale: bench seconds per real second.
    """

    def __init__(self, *, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale
        self.lock = threading.RLock()
        """Held while anything emulated acts: a board has two cables, and both ends are the same chip."""
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

    def plug(self, programmer: EmulatedProgrammer, port: int) -> str:
        """Plug a device into a port (from 0, over all controllers) and return its topology path.

        Raises ``VhciError`` where the kernel refuses. The device appears when the kernel has enumerated it. A port whose
        device has left by itself (a power loss) is taken until :meth:`unplug`; one that was unplugged is waited for until
        the kernel has noticed.
        """
        is_low_speed = programmer.port_kind is PortKind.USB and not isinstance(programmer, BulkEnd)
        speed = _LOW_SPEED if is_low_speed else _FULL_SPEED

        def serve(ours: socket.socket) -> _Plug:
            with self.lock:
                programmer.power_on(self.now())
            if isinstance(programmer, BulkEnd):
                return _BulkPlug(self, programmer, ours)
            if programmer.port_kind is PortKind.SERIAL:
                return _SerialPlug(self, programmer, ours, programmer=programmer)
            return _ControlPlug(self, programmer, ours, programmer=programmer)

        return self._plug(port, speed, serve)

    def plug_face(self, face: EmulatedFace, port: int) -> str:
        """Show what a board shows on a port, at full speed; see :meth:`plug`. Boards do that themselves (:mod:`vbench.vhci_board`)."""
        if face.port_kind is PortKind.SERIAL:
            serial = cast("SerialEnd", face)
            return self._plug(port, _FULL_SPEED, lambda ours: _SerialPlug(self, serial, ours, version=face.version))
        usb = cast("UsbEnd", face)
        return self._plug(port, _FULL_SPEED, lambda ours: _ControlPlug(self, usb, ours))

    def path(self, port: int) -> str:
        """Return the topology path of a port."""
        return self._place(port)[0]

    def _plug(self, port: int, speed: int, serve: "Callable[[socket.socket], _Plug]") -> str:
        if port in self._plugged:
            raise VhciError(f"port {port} is taken")
        path, number = self._place(port)
        self._wait_until_free(path, number)
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                # the device id only has to differ from port to port
                self._order("attach", f"{number} {theirs.fileno()} {0x10000 + port + 1} {speed}")
            except OSError as error:
                ours.close()
                raise VhciError(f"port {port}: {error.strerror}") from error
        self._plugged[port] = serve(ours)
        return path

    def unplug(self, port: int) -> None:
        """Pull a device's plug; harmless where none is, or where it has left by itself."""
        plug = self._plugged.pop(port, None)
        if plug is None:
            return
        number = self._place(port)[1]
        plug.part()
        try:
            if _status_of(number) != _FREE:
                self._order("detach", str(number))
        except OSError as error:
            if error.errno != errno.EINVAL:  # it has left this very moment
                raise
        plug.stop()

    def insert(self, port: int, board: AvrTarget | EmulatedBoard) -> None:
        """Put a board on the programmer at a port; its own USB cable is another matter (:mod:`vbench.vhci_board`).

        Raises ``ValueError`` where there is one already, and for a board with another kind of header.
        """
        programmer = self._programmer(port)
        with self.lock:
            programmer.run(self.now())
            put_on_header(programmer, board, self.now(), name=f"port {port}")

    def remove(self, port: int) -> AvrTarget | SwdTarget:
        """Take the board off the programmer at a port and return its chip. Raises ``ValueError`` where there is none."""
        programmer = self._programmer(port)
        with self.lock:
            programmer.run(self.now())
            return programmer.socket.remove(self.now())

    def _programmer(self, port: int) -> EmulatedProgrammer:
        programmer = self._plugged[port].programmer
        if programmer is None:
            raise ValueError(f"no programmer is on port {port}")
        return programmer

    def _order(self, name: str, text: str) -> None:
        """Give the driver an order; raises ``OSError``."""
        (_CONTROLLER / name).write_text(text)

    def _wait_until_free(self, path: str, number: int) -> None:
        """Wait until the kernel is through with what was unplugged last, which takes seconds where its hub is busy.

        The driver leaves a port enabled when its device goes. A like device that comes before the hub has looked would be
        taken for the old one: not enumerated, not set up by any driver.
        """
        device, end = _DEVICES / path, time.monotonic() + _FREE_S
        while device.exists() or _status_of(number) != _FREE:
            if time.monotonic() > end:
                raise VhciError(f"the kernel's port {number} does not get free")
            time.sleep(_LOOK_S)

    def _place(self, port: int) -> tuple[str, int]:
        """Return a port's topology path and its number in the driver's count.

        Each controller has a fast and a SuperSpeed root hub of equally many ports; the driver counts both (``vhci.h``).
        """
        bus, ports = _root_hub(0)
        controller, position = divmod(port, ports)
        if controller > 0:
            bus, _ = _root_hub(controller)
        return f"{bus}-{position + 1}", controller * 2 * ports + position


def _root_hub(controller: int) -> tuple[int, int]:
    """Return bus number and ports of the root hub where devices up to high speed appear: the first of its controller."""
    hubs = [
        (int(number.read_text()), int(number.with_name("maxchild").read_text()))
        for number in (_CONTROLLERS / f"vhci_hcd.{controller}").glob("usb*/busnum")
    ]
    if not hubs:
        raise VhciError(f"the kernel has no virtual host controller {controller}")
    return min(hubs)


def _status_of(number: int) -> int | None:
    """Return what the kernel says of one of its ports, counted as the driver does; None for a port it does not have.

    Each controller has a table of its own (``vhci_sysfs.c``): speed of the hub, number, status, and what hangs there.
    """
    for table in _CONTROLLER.glob("status*"):
        for line in table.read_text().splitlines()[1:]:
            _hub, shown, status, *_rest = line.split()
            if int(shown) == number:
                return int(status)
    return None


class _Plug(ABC):
    """One device on its socket, served by a thread of its own.

    :param end: the device as far as transfers go.
    :param programmer: the device as a whole where it is a programmer, which loses its supply by being unplugged.
    """

    def __init__(
        self,
        bus: VhciBus,
        end: UsbEnd | SerialEnd,
        ours: socket.socket,
        *,
        programmer: EmulatedProgrammer | None = None,
    ) -> None:
        self.programmer = programmer
        self._bus = bus
        self._lock = bus.lock
        self._end = end
        self._socket = ours
        self._host = UsbIpSocket(ours)
        self._thread = threading.Thread(target=self._serve, name="vbench-vhci", daemon=True)
        self._thread.start()

    @abstractmethod
    def part(self) -> None:
        """Take note that the plug is about to be pulled."""

    def stop(self) -> None:
        """Wait for the thread's end; the kernel has closed its side."""
        self._thread.join()
        if self.programmer is not None:
            with self._lock:
                self.programmer.power_off(self._bus.now())

    def _serve(self) -> None:
        with self._socket:
            try:
                while True:
                    self._turn()
            except (EOFError, ConnectionError):
                return  # unplugged

    @abstractmethod
    def _turn(self) -> None:
        """Wait for something and do it. Raises ``EOFError`` or ``ConnectionError`` where the device has left."""

    def _check_power(self) -> None:
        if self._end.power_lost_at is not None:
            self._host.close()
            raise EOFError


class _ControlPlug(_Plug):
    """A device that is spoken to by control transfers, one after the other."""

    def __init__(
        self, bus: VhciBus, end: UsbEnd, ours: socket.socket, *, programmer: EmulatedUsb | EmulatedBulk | None = None
    ) -> None:
        self._device = end
        self._asked: deque[Submitted] = deque()
        self._heard_at = 0.0
        """When the kernel said something last, in monotonic seconds."""
        self._unanswered: list[Submitted] = []
        """Transfers on other endpoints, which have never anything to say (HID bootloaders have one for form's sake)."""
        super().__init__(bus, end, ours, programmer=programmer)

    def part(self) -> None:
        """Wait until the kernel has no more questions to a board that has left; what is asked meanwhile fails.

        What is under way when the driver closes a connection waits there for its time-out, five seconds for a descriptor, and
        nothing on that hub goes on. A kernel that has just reset the port asks several times in a row.
        """
        end = time.monotonic() + _PART_S
        while self._has_left and time.monotonic() < end:
            if not self._asked and time.monotonic() - self._heard_at > _QUIET_S:
                return
            time.sleep(_LOOK_S)

    @property
    def _has_left(self) -> bool:
        """Whether it is a board that is off the bus; it stays connected until it is unplugged."""
        return self.programmer is None and self._end.power_lost_at is not None

    def _turn(self) -> None:
        self._listen(_NEVER_S)
        while self._asked:
            if self._has_left:
                self._host.fail(self._asked.popleft())
            else:
                self._carry_out(self._asked[0])

    def _listen(self, wait_s: float) -> None:
        """Take one message of the kernel, or return after ``wait_s`` without one."""
        heard = self._host.listen(wait_s)
        if heard is not None:
            self._heard_at = time.monotonic()
        match heard:
            case Submitted() as asked:
                (self._asked if self._has_endpoint(asked.endpoint) else self._unanswered).append(asked)
            case (number, wanted):
                known = [asked for asked in (*self._asked, *self._unanswered) if asked.number == wanted]
                for asked in known:
                    (self._asked if asked in self._asked else self._unanswered).remove(asked)
                self._host.unlinked(number, was_known=bool(known))

    @staticmethod
    def _has_endpoint(number: int) -> bool:
        """Tell whether anything is ever answered there."""
        return number == 0

    def _carry_out(self, asked: Submitted) -> None:
        """Let the device act, and answer when its time has come, unless the kernel gives up first."""
        transfer = asked.control(math.inf)
        with self._lock:
            begun = self._bus.now()
            self._device.run(begun)
            reply = self._device.control(transfer, begun)
        self._answer(asked, reply.ends_at, reply.data[: transfer.length] if asked.is_in else b"", reply.stalled)

    def _answer(self, asked: Submitted, ends_at: float, data: bytes, stalled: bool) -> bool:
        """Answer the first of those asked when its time has come; false where the kernel took it back before."""
        while self._asked and self._asked[0] is asked and not self._has_left:
            left_s = (ends_at - self._bus.now()) / self._bus.time_scale
            if left_s <= 0:
                break
            self._listen(min(left_s, _GLANCE_S))
        if self._has_left or not self._asked or self._asked[0] is not asked:
            return False
        self._check_power()
        self._asked.popleft()
        self._host.complete(asked, data, stalled=stalled)
        return True


class _BulkPlug(_ControlPlug):
    """A debug probe: endpoints take turns in the order in which the kernel asks, and who has nothing to send is asked again."""

    def __init__(self, bus: VhciBus, probe: EmulatedBulk, ours: socket.socket) -> None:
        self._probe = probe
        super().__init__(bus, probe, ours, programmer=probe)

    @staticmethod
    def _has_endpoint(number: int) -> bool:
        return number >= 0

    def _carry_out(self, asked: Submitted) -> None:
        if asked.endpoint == 0:
            super()._carry_out(asked)
        elif asked.is_in:
            self._carry_in(asked)
        else:
            self._carry_to(asked)

    def _carry_in(self, asked: Submitted) -> None:
        """Read; what the probe has nothing for is put aside."""
        with self._lock:
            begun = self._bus.now()
            self._device.run(begun)
            reply = self._probe.bulk_in(asked.endpoint | _IN, asked.length, begun)
        if reply is None:
            self._asked.popleft()
            self._unanswered.append(asked)
        else:
            self._answer(asked, reply.ends_at, reply.data, reply.stalled)

    def _carry_to(self, asked: Submitted) -> None:
        """Write; what waited for an answer may have one now."""
        with self._lock:
            begun = self._bus.now()
            self._device.run(begun)
            reply = self._probe.bulk_out(asked.endpoint, asked.data, begun)
        self._answer(asked, reply.ends_at, b"", reply.stalled)
        self._asked.extendleft(reversed(self._unanswered))
        self._unanswered.clear()


class _SerialPlug(_Plug):
    """A serial programmer; the kernel's driver cdc_acm makes a tty of it."""

    def __init__(
        self,
        bus: VhciBus,
        end: SerialEnd,
        ours: socket.socket,
        *,
        programmer: EmulatedSerial | None = None,
        version: int = 0x0100,
    ) -> None:
        self._device = CdcAcm(end, version=version)
        super().__init__(bus, end, ours, programmer=programmer)

    def part(self) -> None:
        """Do nothing: the driver of a tty takes back what it has asked for."""

    def _turn(self) -> None:
        with self._lock:
            now = self._bus.now()
            ended = self._device.run(now)
            due = self._device.next_time(now)
        self._check_power()
        self._complete(ended)
        wait_s = (due - self._bus.now()) / self._bus.time_scale
        match self._host.listen(min(max(wait_s, _GRAIN_S), _NEVER_S)):
            case Submitted() as asked:
                with self._lock:
                    ended = self._device.submit(asked, self._bus.now())
                self._complete(ended)
            case (number, wanted):
                self._host.unlinked(number, was_known=self._device.forget(wanted))

    def _complete(self, ended: Sequence[Answer]) -> None:
        for answer in ended:
            self._host.complete(answer.asked, answer.data, stalled=answer.stalled)
