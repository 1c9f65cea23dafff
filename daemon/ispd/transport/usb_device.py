"""An open USB device, blocking. The only module that knows pyusb.

One thread opens the device, uses it and closes it: pyusb's objects must not be shared, and closing a device under a
transfer is undefined in libusb. While libusb waits it does not hold Python's lock.
"""

import errno
import math
import re
import threading
from typing import Any

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
from ispd.transport.contract import GET_STATUS, USB_PORT_PREFIX, BulkTransfer, ControlTransfer, UsbIdentity, UsbTransfer
from ispd.transport.holders import port_holders

__all__ = ["BlockingUsbDevice", "UsbPlace", "load_libusb"]

_PLACE = re.compile(re.escape(USB_PORT_PREFIX) + r"(\d+)-(\d+(?:\.\d+)*)")

_TEXT_TIMEOUT_MS = 500
"""For requests while opening; V-USB devices answer one in 10 ms."""

_ENGLISH = 0x0409
"""Language of texts on devices that do not list their languages (USB LANGID table: English, United States)."""

_LOADING = threading.Lock()
"""pyusb loads the library into a variable of its module, and threads that see it half set up would crash."""

_TO_WHOM = 0x7F
_CLASS_TO_INTERFACE = 0x21
"""Type and recipient in bmRequestType, and those of a class request to an interface (USB 2.0, table 9-2)."""
_INTERFACE_MASK = 0xFF
"""Where wIndex names the interface."""

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.ESHUTDOWN})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


def load_libusb() -> Any:
    """Return a libusb of its own, as pyusb's backend. Raises ``TransportError`` where libusb-1.0 is not installed.

    pyusb's usual one is shared: there the thread of one device also looks after the others' transfers, all threads wake
    whenever one transfer of any device ends, and one that the kernel does not let go holds up everybody.
    """
    with _LOADING:
        shared = usb.backend.libusb1.get_backend()
    if shared is None:
        raise TransportError(
            ErrorCode.PORT_NOT_FOUND,
            "USB programmers cannot be used: libusb-1.0 is missing",
            hint="install Debian's libusb-1.0-0",
        )
    try:
        return type(shared)(shared.lib)
    except usb.core.USBError as error:
        raise TransportError(
            ErrorCode.PORT_NOT_FOUND, f"libusb cannot be used: {error.strerror}", hint="see the log of the kernel"
        ) from error


class UsbPlace:
    """A place in the USB tree: bus and ports, never vendor and product, which identical programmers share."""

    def __init__(self, port: str) -> None:
        """Read ``usb:1-1.4``; raises ``TransportError`` (port-not-found) for anything else."""
        found = _PLACE.fullmatch(port)
        if found is None:
            raise TransportError(
                ErrorCode.PORT_NOT_FOUND,
                f"{port} is not a place in the USB tree",
                hint=f"write bus and ports, as in {USB_PORT_PREFIX}1-1.4",
            )
        self.port = port
        self._bus = int(found[1])
        self._ports = tuple(map(int, found[2].split(".")))

    def find(self, backend: Any) -> Any:
        """Return pyusb's device there, not opened yet; None where there is none."""
        devices = usb.core.find(find_all=True, backend=backend, bus=self._bus)
        return next((device for device in devices if device.port_numbers == self._ports), None)


class BlockingUsbDevice:
    """A device that is open and ours.

    Raises ``TransportError`` with ``port-not-found``, ``permission-denied`` or ``port-busy``, ``LinkClosedError`` where the
    device leaves meanwhile, ``LinkTimeoutError`` where it does not answer; nothing is open then.
    """

    def __init__(self, backend: Any, place: UsbPlace) -> None:
        self._port = place.port
        self._ours: set[int] = set()
        """Interfaces that class requests may go to."""
        self._without_driver: set[int] = set()
        """Interfaces that a driver of the kernel was taken off."""
        self._interfaces: dict[int, int] = {}
        """Interface by bulk endpoint: pyusb makes a dozen objects to find it, which would be done for each transfer."""
        try:
            device = place.find(backend)
            if device is None:
                raise _not_found(self._port)
            self._device = device
            device.default_timeout = _TEXT_TIMEOUT_MS
            try:
                self._claim()
                self.identity = self._identity()
            except BaseException:
                self.close()
                raise
        except (usb.core.USBError, NotImplementedError) as error:
            raise self._open_error(error) from error

    def close(self) -> None:
        """Give the interfaces back, to their drivers where they had some, and close the device."""
        for number in self._without_driver:
            self._return_driver(number)
        usb.util.dispose_resources(self._device)

    def transfer(self, transfer: UsbTransfer) -> bytes:
        """Carry out one transfer; see ``UsbLink.submit`` for what it raises."""
        try:
            return self._bulk(transfer) if isinstance(transfer, BulkTransfer) else self._control(transfer)
        except usb.core.USBTimeoutError as error:
            raise LinkTimeoutError(self._port, transfer.timeout_s) from error
        except usb.core.USBError as error:
            raise self._transfer_error(transfer, error) from error

    def _claim(self) -> None:
        """Open the device and take its first interface, which keeps other users of libusb from it.

        Requests to the device itself pass without; so where a kernel driver sits on the interface (the UART of some USBasp
        forks), that is left in peace, until somebody sends a request to the interface.
        """
        number = self._first_interface()
        try:
            usb.util.claim_interface(self._device, number)
        except usb.core.USBError as error:
            if error.errno != errno.EBUSY or not self._device.is_kernel_driver_active(number):
                raise

    def _make_ours(self, number: int) -> None:
        """Take an interface, for class requests to it or for its endpoints: the kernel lets nobody else's pass.

        A driver that holds it, usbhid on a bootloader that calls itself a human interface device, is taken off until the device is
        closed.
        """
        if number in self._ours:
            return
        if self._device.is_kernel_driver_active(number):
            self._device.detach_kernel_driver(number)
            self._without_driver.add(number)
        usb.util.claim_interface(self._device, number)
        self._ours.add(number)

    def _return_driver(self, number: int) -> None:
        """Let the kernel's driver have the interface again; where the device is gone, or another driver was quicker, that is that."""
        try:
            usb.util.release_interface(self._device, number)
            self._device.attach_kernel_driver(number)
        except usb.core.USBError:
            return

    def _first_interface(self) -> int:
        """Return the number of the first interface; the device is configured first where nobody did."""
        try:
            configuration = self._device.get_active_configuration()
        except usb.core.USBError as error:
            if error.errno is not None:
                raise
            # pyusb's word, without a number, for a device that is not configured
            self._device.set_configuration()
            configuration = self._device.get_active_configuration()
        return int(configuration[(0, 0)].bInterfaceNumber)

    def _identity(self) -> UsbIdentity:
        device = self._device
        return UsbIdentity(
            vendor_id=device.idVendor,
            product_id=device.idProduct,
            manufacturer=self._text(device.iManufacturer),
            product=self._text(device.iProduct),
            serial=self._text(device.iSerialNumber),
        )

    def _text(self, index: int) -> str:
        """Return a text of the device, verbatim; empty where it has or tells none."""
        if index == 0:
            return ""
        try:
            language = next(iter(self._device.langids), _ENGLISH)
            return str(usb.util.get_string(self._device, index, language))
        except usb.core.USBError as error:
            if error.errno in _GONE:
                raise
            return ""
        except UnicodeDecodeError:
            return ""

    def _control(self, transfer: ControlTransfer) -> bytes:
        """Carry out one transfer; raises pyusb's errors, and ``RemoteProtocolError`` where not all data was taken."""
        # libusb takes 0 for "wait for ever"
        timeout_ms = max(1, math.ceil(transfer.timeout_s * 1000))
        request = (transfer.request_type, transfer.request, transfer.value, transfer.index)
        if transfer.request_type & _TO_WHOM == _CLASS_TO_INTERFACE:
            self._make_ours(transfer.index & _INTERFACE_MASK)
        if transfer.is_in:
            return bytes(self._device.ctrl_transfer(*request, transfer.length, timeout_ms))
        taken = self._device.ctrl_transfer(*request, transfer.data, timeout_ms)
        if taken < len(transfer.data):
            raise RemoteProtocolError(
                f"{_what(transfer)}: {taken} of {len(transfer.data)} bytes were taken", is_usb=True
            )
        return b""

    def _bulk(self, transfer: BulkTransfer) -> bytes:
        """Carry out one transfer; raises pyusb's errors, and what a stall leaves behind is cleared.

        Raises ``RemoteProtocolError`` where not all data was taken, ``LocalProtocolError`` where there is no such endpoint.
        """
        timeout_ms = max(1, math.ceil(transfer.timeout_s * 1000))
        if transfer.endpoint not in self._interfaces:
            self._interfaces[transfer.endpoint] = self._interface_of(transfer.endpoint)
        self._make_ours(self._interfaces[transfer.endpoint])
        try:
            if transfer.is_in:
                return bytes(self._device.read(transfer.endpoint, transfer.length, timeout_ms))
            taken = self._device.write(transfer.endpoint, transfer.data, timeout_ms)
        except usb.core.USBError as error:
            if error.errno == errno.EPIPE:
                self._device.clear_halt(transfer.endpoint)
            raise
        if taken < len(transfer.data):
            raise RemoteProtocolError(
                f"{_what(transfer)}: {taken} of {len(transfer.data)} bytes were taken", is_usb=True
            )
        return b""

    def _interface_of(self, endpoint: int) -> int:
        """Return the number of the interface that has a bulk endpoint, as the device is set up; nobody sets it up anew while it is open."""
        for interface in self._device.get_active_configuration():
            for one in interface:
                is_bulk = usb.util.endpoint_type(one.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK
                if one.bEndpointAddress == endpoint and is_bulk:
                    return int(interface.bInterfaceNumber)
        raise LocalProtocolError(f"{self._port} has no bulk endpoint 0x{endpoint:02X}")

    def _answers(self) -> bool:
        """Tell whether the device is still there."""
        try:
            self._control(GET_STATUS)
        except usb.core.USBError:
            return False
        return True

    def _transfer_error(self, transfer: UsbTransfer, error: Any) -> IspdError:
        """Return what an error number means once a transfer was tried."""
        if error.errno in _GONE:
            return LinkClosedError(self._port)
        if error.errno == errno.EBUSY or error.errno in _DENIED:
            return self._open_error(error)  # the interface, which is taken for its first transfer, is another program's
        if error.errno == errno.EPIPE:
            return RemoteProtocolError(f"{self._port} refused {_what(transfer)} (stall)", is_usb=True)
        if error.errno == errno.EINVAL:
            return LocalProtocolError(f"{_what(transfer)} to {self._port} cannot be sent: {error.strerror}")
        # A broken transfer is the first sign of a pulled plug, some 100 ms before the hub tells; or just a bad cable.
        if error.errno == errno.EIO and not self._answers():
            return LinkClosedError(self._port)
        return RemoteProtocolError(f"{_what(transfer)} to {self._port} failed: {error.strerror}", is_usb=True)

    def _open_error(self, error: Any) -> TransportError:
        """Return the error an operator understands."""
        # pyusb has no number for what a system cannot do at all
        number = getattr(error, "errno", None)
        if number in _DENIED:
            return TransportError(
                ErrorCode.PERMISSION_DENIED,
                f"{self._port} may not be opened by this user",
                hint="install the udev rules of ispd, or add the user to group plugdev, then re-plug the programmer",
            )
        if number == errno.EBUSY:
            holders = port_holders(f"/dev/bus/usb/{self._device.bus:03}/{self._device.address:03}")
            by = f" by {', '.join(holders)}" if holders else ""
            return TransportError(ErrorCode.PORT_BUSY, f"{self._port} is in use{by}", hint="close the other program")
        if number in _GONE:
            return _not_found(self._port)
        if number == errno.ETIMEDOUT:
            return LinkTimeoutError(self._port, _TEXT_TIMEOUT_MS / 1000)
        return LinkClosedError(self._port)


def _what(transfer: UsbTransfer) -> str:
    """Return how a message calls a transfer."""
    return (
        f"endpoint 0x{transfer.endpoint:02X}" if isinstance(transfer, BulkTransfer) else f"request {transfer.request}"
    )


def _not_found(port: str) -> TransportError:
    return TransportError(
        ErrorCode.PORT_NOT_FOUND, f"there is no USB device {port}", hint="check the cable and the port's name"
    )
