"""Real USB devices, by control transfers. The only module that knows pyusb.

Each open device has one worker thread: the device is found, opened, used and disposed there and nowhere else, because
pyusb's objects must not be shared and closing a device under a transfer is undefined in libusb. libusb waits without
Python's lock, so a slow device holds up no other one. Threads are daemonic: a device that never comes back keeps
neither its caller nor the end of the process waiting.
"""

import asyncio
import errno
import math
import queue
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import usb.backend.libusb1
import usb.core
import usb.util

from ispd.errors import (
    ErrorCode,
    IspdError,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from ispd.transport.contract import USB_PORT_PREFIX, ControlTransfer, UsbIdentity
from ispd.transport.serial import port_holders

__all__ = ["UsbBus", "UsbDevice"]

_PLACE = re.compile(re.escape(USB_PORT_PREFIX) + r"(\d+)-(\d+(?:\.\d+)*)")

_OPEN_S = 10.0
"""Longest an open may take: four texts and a configuration, each held up by the device as long as it is allowed to."""

_GRACE_S = 2.0
"""How much longer than its timeout a transfer may take before the device counts as wedged. libusb takes a late transfer
back from the kernel, which answers within milliseconds unless the host controller hangs."""

_TEXT_TIMEOUT_MS = 500
"""For descriptor requests while opening; V-USB devices answer one in 10 ms."""

_ENGLISH = 0x0409
"""Language of texts on devices that do not list their languages (USB LANGID table: English, United States)."""

_GET_STATUS = ControlTransfer(request_type=0x80, request=0x00, length=2, timeout_s=0.25)
"""The one request every device must answer in every state (USB 2.0, 9.4.5)."""

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.ESHUTDOWN})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


@dataclass(slots=True)
class _Batch:
    """Transfers on their way to the worker, and what came of them."""

    transfers: tuple[ControlTransfer, ...]
    done: anyio.Event
    replies: list[bytes] = field(default_factory=list)
    error: IspdError | None = None
    stopped: bool = False
    """No further transfer is to be begun; set by the event loop, read by the worker."""

    @property
    def longest_s(self) -> float:
        """Return how long a single transfer may take."""
        return max((transfer.timeout_s for transfer in self.transfers), default=0.0)

    @property
    def total_s(self) -> float:
        """Return how long all transfers together may take."""
        return sum(transfer.timeout_s for transfer in self.transfers)


class UsbBus:
    """The USB devices of this machine.

    :param backend: pyusb's way to the devices; None for libusb-1.0, loaded when the first device is opened.
    """

    def __init__(self, backend: Any = None) -> None:
        self._backend = backend
        self._loading = threading.Lock()

    async def open(self, port: str) -> "UsbDevice":
        """Open the device at a place in the USB tree (``usb:1-1.4``) for this process alone.

        Raises ``TransportError`` with ``port-not-found``, ``permission-denied`` or ``port-busy``, ``LinkClosedError`` where
        the device leaves meanwhile, ``LinkTimeoutError`` where it does not let itself be opened.
        """
        place = _PLACE.fullmatch(port)
        if place is None:
            raise TransportError(
                ErrorCode.PORT_NOT_FOUND,
                f"{port} is not a place in the USB tree",
                hint=f"write bus and ports, as in {USB_PORT_PREFIX}1-1.4",
            )
        worker = _Worker(self, port, bus=int(place[1]), ports=tuple(map(int, place[2].split("."))))
        await anyio.lowlevel.checkpoint_if_cancelled()
        worker.start()
        device = UsbDevice(worker)
        is_open = False
        try:
            with anyio.move_on_after(_OPEN_S):
                await worker.opened.wait()
            is_open = worker.identity is not None
        finally:
            if not is_open:
                await device.aclose()
        if not is_open:
            raise worker.error or LinkTimeoutError(port, _OPEN_S)
        return device

    def backend(self) -> Any:
        """Return pyusb's backend; called by workers. Raises ``TransportError`` where libusb is not installed."""
        with self._loading:
            if self._backend is None:
                self._backend = usb.backend.libusb1.get_backend()
        if self._backend is None:
            raise TransportError(
                ErrorCode.PORT_NOT_FOUND,
                "USB programmers cannot be used: libusb-1.0 is missing",
                hint="install Debian's libusb-1.0-0",
            )
        return self._backend


class UsbDevice:
    """An open device; see ``UsbLink`` in :mod:`ispd.transport.contract`. Made by :meth:`UsbBus.open`."""

    def __init__(self, worker: "_Worker") -> None:
        self._worker = worker
        self._batch: _Batch | None = None
        self._guard = anyio.ResourceGuard("using this device")

    @property
    def name(self) -> str:
        """Port of the device."""
        return self._worker.port

    @property
    def identity(self) -> UsbIdentity:
        """How the device presents itself. Raises ``LinkClosedError`` on a device that was never open."""
        if self._worker.identity is None:
            raise LinkClosedError(self.name)
        return self._worker.identity

    async def submit(self, transfers: Sequence[ControlTransfer]) -> list[bytes]:
        """Carry out transfers back to back; see the contract."""
        with self._guard:
            await anyio.lowlevel.checkpoint_if_cancelled()
            batch = _Batch(tuple(transfers), anyio.Event())
            if not self._worker.take(batch):
                raise LinkClosedError(self.name)
            self._batch = batch
            try:
                with anyio.move_on_after(batch.total_s + _GRACE_S):
                    await batch.done.wait()
            finally:
                await self._finish(batch)
                self._batch = None
            if batch.error is not None:
                raise batch.error
            return batch.replies

    async def aclose(self) -> None:
        """Close the device. Waits for the transfer under way, but not for a wedged device: its thread ends when it can."""
        longest_s = 0.0
        if self._batch is not None:
            self._batch.stopped = True
            longest_s = self._batch.longest_s
        self._worker.dismiss()
        with anyio.move_on_after(longest_s + _GRACE_S, shield=True):
            await self._worker.ended.wait()
            self._worker.join()

    async def _finish(self, batch: _Batch) -> None:
        """Let the transfer under way end, whatever happened to the caller; begin no other."""
        if batch.done.is_set():
            return
        batch.stopped = True
        with anyio.move_on_after(batch.longest_s + _GRACE_S, shield=True):
            await batch.done.wait()
        if not batch.done.is_set():
            self._worker.dismiss()
            batch.error = LinkTimeoutError(self.name, batch.longest_s + _GRACE_S)


class _Worker(threading.Thread):
    """The thread that owns one device, from open to dispose."""

    def __init__(self, usb_bus: UsbBus, port: str, *, bus: int, ports: tuple[int, ...]) -> None:
        super().__init__(name=port, daemon=True)
        self.port = port
        self.identity: UsbIdentity | None = None
        self.error: TransportError | None = None
        """Why there is no open device."""
        self.opened = anyio.Event()
        """Set when the device is open, or never will be."""
        self.ended = anyio.Event()
        """Set when the device is disposed and the thread is about to end."""
        self._usb_bus = usb_bus
        self._bus = bus
        self._ports = ports
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._waiting: _Batch | None = None
        self._dismissed = False

    # -- called by the event loop ----------------------------------------------------------------------------------

    def take(self, batch: _Batch) -> bool:
        """Queue a batch; false once the device is closed or lost. One at a time."""
        if self._dismissed or self.ended.is_set():
            return False
        self._waiting = batch
        self._batches.put(batch)
        return True

    def dismiss(self) -> None:
        """Ask the thread to dispose of the device and to end."""
        self._dismissed = True
        self._batches.put(None)

    def _on_end(self) -> None:
        """Wake whoever still waits: nothing more will come."""
        self.opened.set()
        self.ended.set()
        if self._waiting is not None and not self._waiting.done.is_set():
            self._waiting.error = LinkClosedError(self.port)
            self._waiting.done.set()

    # -- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Own the device."""
        try:
            self._own()
        except TransportError as error:
            self.error = error
        except (usb.core.USBError, NotImplementedError) as error:
            self.error = self._open_error(error)
        finally:
            self._tell(self._on_end)

    def _own(self) -> None:
        device = _find(self._usb_bus.backend(), self._bus, self._ports)
        if device is None:
            raise self._open_error(usb.core.USBError("no device", errno=errno.ENODEV))
        try:
            self.identity = self._set_up(device)
            self._tell(self.opened.set)
            while (batch := self._batches.get()) is not None:
                self._carry_out(device, batch)
                self._tell(batch.done.set)
        finally:
            usb.util.dispose_resources(device)

    def _tell(self, news: Any) -> None:
        """Call something on the event loop, unless that has ended before us."""
        try:
            self._loop.call_soon_threadsafe(news)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _set_up(self, device: Any) -> UsbIdentity:
        """Open, configure and claim the device, and ask who it is."""
        device.default_timeout = _TEXT_TIMEOUT_MS
        number = _interface_number(device)
        try:
            usb.util.claim_interface(device, number)
        except usb.core.USBError as error:
            # With a kernel driver on it (the UART of some USBasp forks) the interface is neither ours to take nor
            # needed: requests to the device itself pass beside it.
            if error.errno != errno.EBUSY or not device.is_kernel_driver_active(number):
                raise self._open_error(error, device) from error
        return UsbIdentity(
            vendor_id=device.idVendor,
            product_id=device.idProduct,
            manufacturer=_text(device, device.iManufacturer),
            product=_text(device, device.iProduct),
            serial=_text(device, device.iSerialNumber),
        )

    def _carry_out(self, device: Any, batch: _Batch) -> None:
        """Run the batch, until an error or until it is stopped."""
        try:
            for transfer in batch.transfers:
                if batch.stopped or self._dismissed:
                    raise LinkClosedError(self.port)
                batch.replies.append(self._transfer(device, transfer))
        except IspdError as error:
            batch.error = error

    def _transfer(self, device: Any, transfer: ControlTransfer) -> bytes:
        try:
            return _control(device, transfer)
        except usb.core.USBTimeoutError as error:
            raise LinkTimeoutError(self.port, transfer.timeout_s) from error
        except usb.core.USBError as error:
            raise self._transfer_error(device, transfer, error) from error

    def _transfer_error(self, device: Any, transfer: ControlTransfer, error: Any) -> IspdError:
        """Return what an error number means once a transfer was tried."""
        if error.errno in _GONE:
            return LinkClosedError(self.port)
        if error.errno == errno.EPIPE:
            return RemoteProtocolError(f"{self.port} refused request {transfer.request} (stall)")
        if error.errno == errno.EINVAL:
            return LocalProtocolError(f"request {transfer.request} to {self.port} cannot be sent: {error.strerror}")
        # A broken transfer is the first sign of a pulled plug, some 100 ms before the hub tells; or just a bad cable.
        if error.errno == errno.EIO and not _answers(device):
            return LinkClosedError(self.port)
        return RemoteProtocolError(f"request {transfer.request} to {self.port} failed: {error.strerror}")

    def _open_error(self, error: Any, device: Any = None) -> TransportError:
        """Return the error an operator understands."""
        number = getattr(error, "errno", None)
        if number in _DENIED:
            return TransportError(
                ErrorCode.PERMISSION_DENIED,
                f"{self.port} may not be opened by this user",
                hint="install the udev rules of ispd, or add the user to group plugdev, then re-plug the programmer",
            )
        if number == errno.EBUSY:
            holders = () if device is None else port_holders(f"/dev/bus/usb/{device.bus:03}/{device.address:03}")
            by = f" by {', '.join(holders)}" if holders else ""
            return TransportError(ErrorCode.PORT_BUSY, f"{self.port} is in use{by}", hint="close the other program")
        if number in _GONE:
            return TransportError(
                ErrorCode.PORT_NOT_FOUND,
                f"there is no USB device {self.port}",
                hint="check the cable and the port's name",
            )
        if number == errno.ETIMEDOUT:
            return LinkTimeoutError(self.port, _TEXT_TIMEOUT_MS / 1000)
        return LinkClosedError(self.port)


def _find(backend: Any, bus: int, ports: tuple[int, ...]) -> Any:
    """Return pyusb's device at a place, not opened yet; None where there is none."""
    devices = usb.core.find(find_all=True, backend=backend, bus=bus)
    return next((device for device in devices if device.port_numbers == ports), None)


def _interface_number(device: Any) -> int:
    """Return the number of the first interface; the device is configured first where nobody did."""
    try:
        configuration = device.get_active_configuration()
    except usb.core.USBError as error:
        if error.errno is not None:
            raise
        # pyusb's word, without a number, for a device that is not configured
        device.set_configuration()
        configuration = device.get_active_configuration()
    return int(configuration[(0, 0)].bInterfaceNumber)


def _text(device: Any, index: int) -> str:
    """Return a text of the device, verbatim; empty where it has or tells none."""
    if index == 0:
        return ""
    try:
        language = next(iter(device.langids), _ENGLISH)
        return str(usb.util.get_string(device, index, language))
    except usb.core.USBError as error:
        if error.errno in _GONE:
            raise
        return ""
    except UnicodeDecodeError:
        return ""


def _control(device: Any, transfer: ControlTransfer) -> bytes:
    """Carry out one transfer; raises pyusb's errors, and ``RemoteProtocolError`` where not all data was taken."""
    # 0 would mean for ever
    timeout_ms = max(1, math.ceil(transfer.timeout_s * 1000))
    request = (transfer.request_type, transfer.request, transfer.value, transfer.index)
    if transfer.is_in:
        return bytes(device.ctrl_transfer(*request, transfer.length, timeout_ms))
    taken = device.ctrl_transfer(*request, transfer.data, timeout_ms)
    if taken < len(transfer.data):
        raise RemoteProtocolError(f"request {transfer.request}: {taken} of {len(transfer.data)} bytes were taken")
    return b""


def _answers(device: Any) -> bool:
    """Tell whether the device is still there."""
    try:
        _control(device, _GET_STATUS)
    except usb.core.USBError:
        return False
    return True
