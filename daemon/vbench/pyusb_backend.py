"""Emulated USB programmers behind pyusb, in real time: the product's own USB transport, threads and all, runs on them.

It does what the kernel and libusb do around a device: descriptors and texts, one configuration with one interface,
permissions, claims, stalls, timeouts, and error 19 once the plug is out. What a request means is the emulation's affair.
Devices share nothing, so a slow one holds up no other.
"""

import array
import errno
import itertools
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import usb.backend
import usb.core

from ispd.transport.contract import (
    USB_PORT_PREFIX,
    BulkTransfer,
    ControlTransfer,
    PortChange,
    PortEvent,
    PortKind,
    UsbIdentity,
    UsbTransfer,
)
from vbench.bench_usb import clear_halt
from vbench.emulated import BulkEnd, BulkReply, ControlReply, EmulatedBulk, EmulatedUsb
from vbench.target import AvrTarget
from vbench.usb_descriptors import Descriptors

__all__ = ["PyusbBackend", "UsbPlace"]

_STANDARD = 0x00
_TYPE_MASK = 0x60
_TO_WHOM = 0x7F
_CLASS_TO_INTERFACE = 0x21
"""What the kernel passes on for who has claimed the interface only."""
_GET_DESCRIPTOR, _TEXT = 0x06, 3
"""Request and descriptor type of a text (USB 2.0, tables 9-4 and 9-5)."""
_LOW_SPEED = 1
_VERSION = 0x0104

# field names as pyusb and the USB specification write them, with their sizes as struct knows them
_DEVICE_FIELDS = (
    "bLength:B bDescriptorType:B bcdUSB:H bDeviceClass:B bDeviceSubClass:B bDeviceProtocol:B bMaxPacketSize0:B idVendor:H "
    "idProduct:H bcdDevice:H iManufacturer:B iProduct:B iSerialNumber:B bNumConfigurations:B"
)
_CONFIGURATION_FIELDS = (
    "bLength:B bDescriptorType:B wTotalLength:H bNumInterfaces:B bConfigurationValue:B iConfiguration:B bmAttributes:B "
    "bMaxPower:B"
)
_CONFIGURATION_BYTES = 9
_INTERFACE_FIELDS = (
    "bLength:B bDescriptorType:B bInterfaceNumber:B bAlternateSetting:B bNumEndpoints:B bInterfaceClass:B "
    "bInterfaceSubClass:B bInterfaceProtocol:B iInterface:B"
)
_ENDPOINT_FIELDS = "bLength:B bDescriptorType:B bEndpointAddress:B bmAttributes:B wMaxPacketSize:H bInterval:B"
_ENDPOINT = 5
"""Descriptor type (USB 2.0, table 9-5)."""


@dataclass(slots=True, eq=False, kw_only=True)
class UsbPlace:
    """A port of the emulated hub with what is plugged in there. Fields are for tests to set before the device is opened.

    :param open_errno: why the device node cannot be opened, None normally.
    :param open_delay_s: how long opening takes.
    :param claim_errno: why the interface cannot be claimed, None normally.
    :param has_kernel_driver: a driver of the kernel sits on the interface.
    :param is_configured: false for a device nobody configured yet.
    :param has_texts: false where the device refuses text requests though it names texts.
    """

    bus: int
    ports: tuple[int, ...]
    programmer: EmulatedUsb | EmulatedBulk
    usb: UsbIdentity
    descriptors: Descriptors
    address: int
    plugged: bool = True
    open_errno: int | None = None
    open_delay_s: float = 0.0
    claim_errno: int | None = None
    has_kernel_driver: bool = False
    is_configured: bool = True
    has_texts: bool = True
    wedged: bool = False
    """The host controller gives nothing back, not even after the timeout; :meth:`PyusbBackend.unwedge` ends it."""
    next_errno: int | None = None
    """How the next request to the programmer fails, None normally."""
    is_dead: bool = False
    """The plug is out and the hub has not told yet: every request breaks with error 5."""
    takes_bytes: int | None = None
    """How many bytes of the next requests the device takes, None for all."""
    claimed: "_Handle | None" = None
    is_busy: bool = False
    """A request is under way."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Guards this place; notified when the plug is pulled."""

    def event(self, change: PortChange) -> PortEvent:
        """Describe this place as having come or gone."""
        path = f"{self.bus}-{'.'.join(map(str, self.ports))}"
        port = USB_PORT_PREFIX + path
        return PortEvent(change=change, kind=PortKind.USB, path=path, port=port, usb=self.usb, properties={})


@dataclass(slots=True, eq=False)
class _Handle:
    """An open device: valid for one plugging-in, and for the thread that opened it."""

    place: UsbPlace
    address: int
    thread: int = field(default_factory=threading.get_ident)
    is_open: bool = True


class PyusbBackend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb carries no types
    """A USB tree with emulated programmers, for ``UsbBus(backend)``.

    Counts what the transport promises: ``opens`` and ``closes``, and in ``strays`` each call about an open device that came
    from another thread than the one that opened it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opens = 0
        self.closes = 0
        self.strays: list[str] = []
        self._places: dict[str, UsbPlace] = {}
        self._watchers: set[Callable[[PortEvent], object]] = set()
        self._addresses = itertools.count(1)
        self._counting = threading.Lock()
        self._begun = time.monotonic()

    # -- the bench's side --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return bench seconds."""
        return time.monotonic() - self._begun

    def add(self, path: str, programmer: EmulatedUsb | EmulatedBulk, *, usb: UsbIdentity | None = None) -> UsbPlace:
        """Plug a programmer in at a topology path (``1-1.4``). ``usb`` is another identity than its firmware's own."""
        bus, _, ports = path.partition("-")
        place = UsbPlace(
            bus=int(bus),
            ports=tuple(map(int, ports.split("."))),
            programmer=programmer,
            usb=usb or programmer.usb,
            descriptors=_descriptors(programmer, usb),
            address=next(self._addresses),
        )
        self._places[path] = place
        return place

    def plug(self, path: str) -> None:
        """Plug the programmer in again, under a new address; harmless where it is."""
        place = self._places[path]
        with place.changed:
            if not place.plugged:
                place.plugged, place.address = True, next(self._addresses)
                place.programmer.power_on(self.now())
                self._publish(place.event(PortChange.ADDED))

    def unplug(self, path: str) -> None:
        """Pull the plug, at any moment; harmless where it is out."""
        place = self._places[path]
        with place.changed:
            self._pull(place)

    def unwedge(self, path: str) -> None:
        """Let the host controller give back what it held."""
        place = self._places[path]
        with place.changed:
            place.wedged = False
            place.changed.notify_all()

    def target(self, path: str) -> AvrTarget | None:
        """Return the AVR board on a programmer, or None; it has caught up with the clock."""
        place = self._places[path]
        with place.changed:
            place.programmer.run(self.now())
            target = place.programmer.socket.target
            return target if isinstance(target, AvrTarget) else None

    @contextmanager
    def watched(self, watcher: Callable[[PortEvent], object]) -> Iterator[None]:
        """Have ``watcher`` called for what is plugged in already, then with each change, in whatever thread it happens."""
        self._watchers.add(watcher)
        try:
            for place in self.enumerate_devices():
                watcher(place.event(PortChange.ADDED))
            yield
        finally:
            self._watchers.discard(watcher)

    def _publish(self, event: PortEvent) -> None:
        for watcher in tuple(self._watchers):
            watcher(event)

    def _pull(self, place: UsbPlace) -> None:
        if place.plugged:
            place.plugged, place.claimed = False, None
            place.programmer.power_off(self.now())
            place.changed.notify_all()
            self._publish(place.event(PortChange.REMOVED))

    # -- devices and descriptors -------------------------------------------------------------------------------------

    def enumerate_devices(self) -> Iterator[UsbPlace]:
        """Return what is plugged in, in the order in which it came."""
        return iter(sorted((place for place in self._places.values() if place.plugged), key=lambda one: one.address))

    def get_parent(self, _dev: UsbPlace) -> None:
        """Hubs are not emulated."""

    def get_device_descriptor(self, dev: UsbPlace) -> SimpleNamespace:
        """Return the descriptor and the place, as libusb tells both."""
        return SimpleNamespace(
            **_fields(_DEVICE_FIELDS, dev.descriptors.device),
            address=dev.address,
            bus=dev.bus,
            port_number=dev.ports[-1],
            port_numbers=dev.ports,
            speed=_LOW_SPEED,
        )

    def get_configuration_descriptor(self, dev: UsbPlace, config: int) -> SimpleNamespace:
        """Return the only configuration."""
        if config != 0:
            raise IndexError(config)
        return SimpleNamespace(**_fields(_CONFIGURATION_FIELDS, dev.descriptors.configuration), extra_descriptors=[])

    def get_interface_descriptor(self, dev: UsbPlace, intf: int, alt: int, _config: int) -> SimpleNamespace:
        """Return the only interface."""
        if (intf, alt) != (0, 0):
            raise IndexError(intf)
        interface = dev.descriptors.configuration[_CONFIGURATION_BYTES:]
        return SimpleNamespace(**_fields(_INTERFACE_FIELDS, interface), extra_descriptors=[])

    def get_endpoint_descriptor(self, dev: UsbPlace, ep: int, _intf: int, _alt: int, _config: int) -> SimpleNamespace:
        """Return an endpoint of the only interface, by its place in the descriptors."""
        endpoints = [one for one in _each(dev.descriptors.configuration) if one[1] == _ENDPOINT]
        return SimpleNamespace(
            **_fields(_ENDPOINT_FIELDS, endpoints[ep]), bRefresh=0, bSynchAddress=0, extra_descriptors=[]
        )

    # -- open devices ------------------------------------------------------------------------------------------------

    def open_device(self, dev: UsbPlace) -> _Handle:
        """Open a device; raises error 13 without permission, 19 where it is gone."""
        time.sleep(dev.open_delay_s)
        with dev.changed:
            _fail(dev.open_errno)
            if not dev.plugged:
                _fail(errno.ENODEV)
            with self._counting:
                self.opens += 1
            return _Handle(dev, dev.address)

    def close_device(self, dev_handle: _Handle) -> None:
        """Close it."""
        with dev_handle.place.changed:
            self._note_thread(dev_handle, "close")
            if not dev_handle.is_open:
                self.strays.append("closed twice")
            dev_handle.is_open = False
            _let_go(dev_handle)
            with self._counting:
                self.closes += 1

    def get_configuration(self, dev_handle: _Handle) -> int:
        """Return the configuration's value, 0 where nobody set one."""
        with dev_handle.place.changed:
            self._check(dev_handle, "get configuration")
            return int(dev_handle.place.is_configured)

    def set_configuration(self, dev_handle: _Handle, _config_value: int) -> None:
        """Configure the device."""
        with dev_handle.place.changed:
            self._check(dev_handle, "set configuration")
            dev_handle.place.is_configured = True

    def claim_interface(self, dev_handle: _Handle, _intf: int) -> None:
        """Take the interface for one handle; raises error 16 where it is taken."""
        place = dev_handle.place
        with place.changed:
            self._check(dev_handle, "claim")
            _fail(errno.EBUSY if place.has_kernel_driver or place.claimed else place.claim_errno)
            place.claimed = dev_handle

    def release_interface(self, dev_handle: _Handle, _intf: int) -> None:
        """Give the interface back."""
        with dev_handle.place.changed:
            self._check(dev_handle, "release")
            _let_go(dev_handle)

    def is_kernel_driver_active(self, dev_handle: _Handle, _intf: int) -> bool:
        """Tell whether a driver of the kernel sits there; another process's claim is none."""
        return dev_handle.place.has_kernel_driver

    def detach_kernel_driver(self, dev_handle: _Handle, _intf: int) -> None:
        """Take the kernel's driver off the interface; raises error 2 where there is none."""
        with dev_handle.place.changed:
            self._check(dev_handle, "detach")
            _fail(None if dev_handle.place.has_kernel_driver else errno.ENOENT)
            dev_handle.place.has_kernel_driver = False

    def attach_kernel_driver(self, dev_handle: _Handle, _intf: int) -> None:
        """Let the kernel's driver have the interface; raises error 16 while somebody has claimed it."""
        with dev_handle.place.changed:
            self._check(dev_handle, "attach")
            _fail(errno.EBUSY if dev_handle.place.claimed else None)
            dev_handle.place.has_kernel_driver = True

    def ctrl_transfer(
        self,
        dev_handle: _Handle,
        bmRequestType: int,  # noqa: N803  # pyusb's name
        bRequest: int,  # noqa: N803  # pyusb's name
        wValue: int,  # noqa: N803  # pyusb's name
        wIndex: int,  # noqa: N803  # pyusb's name
        data: "array.array[int]",
        timeout: int,
    ) -> int:
        """Carry out a control transfer and take its time; returns how many bytes went either way."""
        is_in = bool(bmRequestType & 0x80)
        transfer = ControlTransfer(
            request_type=bmRequestType,
            request=bRequest,
            value=wValue,
            index=wIndex,
            data=b"" if is_in else data.tobytes(),
            length=len(data) if is_in else 0,
            timeout_s=timeout / 1000 or math.inf,
        )
        place = dev_handle.place
        with place.changed:
            self._check(dev_handle, f"request {bRequest}")
            if bmRequestType & _TO_WHOM == _CLASS_TO_INTERFACE and place.claimed is not dev_handle:
                _fail(errno.EBUSY)
            reply = self._carry_out(dev_handle, transfer)
        return len(transfer.data[: place.takes_bytes]) if not is_in else _fill(data, reply)

    def bulk_write(self, dev_handle: _Handle, ep: int, _intf: int, data: "array.array[int]", timeout: int) -> int:
        """Carry out a transfer to the device; returns how many bytes it took."""
        transfer = BulkTransfer(endpoint=ep, data=data.tobytes(), timeout_s=timeout / 1000 or math.inf)
        with dev_handle.place.changed:
            self._bulk(dev_handle, transfer)
        return len(transfer.data[: dev_handle.place.takes_bytes])

    def bulk_read(self, dev_handle: _Handle, ep: int, _intf: int, buff: "array.array[int]", timeout: int) -> int:
        """Carry out a transfer from the device; returns how many bytes it brought."""
        transfer = BulkTransfer(endpoint=ep, length=len(buff), timeout_s=timeout / 1000 or math.inf)
        with dev_handle.place.changed:
            return _fill(buff, self._bulk(dev_handle, transfer))

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        """Let an endpoint that stalled be used again."""
        with dev_handle.place.changed:
            self._check(dev_handle, "clear halt")
            dev_handle.place.programmer.control(clear_halt(ep), self.now())

    def _bulk(self, handle: _Handle, transfer: BulkTransfer) -> ControlReply | BulkReply:
        self._check(handle, f"endpoint {transfer.endpoint}")
        _fail(errno.ENOENT if handle.place.claimed is not handle else None)
        return self._carry_out(handle, transfer)

    def _carry_out(self, handle: _Handle, transfer: UsbTransfer) -> ControlReply | BulkReply:
        """Have the device answer and take the time of it; a transfer before the last one's end is noted."""
        place = handle.place
        if place.is_busy:
            self.strays.append(f"{transfer} before another had ended")
        place.is_busy = True
        try:
            reply = self._reply(place, transfer)
            self._await_end(handle, transfer, reply)
        finally:
            place.is_busy = False
        return reply

    def _reply(self, place: UsbPlace, transfer: UsbTransfer) -> ControlReply | BulkReply:
        _fail(errno.EIO if place.is_dead else None)
        if isinstance(transfer, ControlTransfer) and transfer.request_type & _TYPE_MASK == _STANDARD:
            return self._standard(place, transfer)
        if place.next_errno is not None:
            number, place.next_errno = place.next_errno, None
            _fail(number)
        begun = self.now()
        place.programmer.run(begun)
        if isinstance(transfer, ControlTransfer):
            return place.programmer.control(transfer, begun)
        # its descriptors show endpoints, so it has them
        device = cast("EmulatedBulk", place.programmer)
        if not transfer.is_in:
            return device.bulk_out(transfer.endpoint, transfer.data, begun)
        reply = device.bulk_in(transfer.endpoint, transfer.length, begun)
        return BulkReply(ends_at=math.inf) if reply is None else reply

    def _standard(self, place: UsbPlace, transfer: ControlTransfer) -> ControlReply:
        """Answer from the descriptors, at once: the firmware's own requests keep their count and their faults."""
        is_text = (transfer.request, transfer.value >> 8) == (_GET_DESCRIPTOR, _TEXT)
        data = None if is_text and not place.has_texts else place.descriptors.answer(transfer)
        return ControlReply(ends_at=self.now(), data=data or b"", stalled=data is None)

    def _await_end(self, handle: _Handle, transfer: UsbTransfer, reply: ControlReply | BulkReply) -> None:
        """Wait as the caller of libusb does; the place's lock is given up meanwhile."""
        place = handle.place
        begun = self.now()
        ends_at = min(reply.ends_at, begun + transfer.timeout_s)
        # a stall is the device's word as much as data is: it comes at the reply's time
        while self._is_there(handle) and (place.wedged or self.now() < ends_at):
            place.changed.wait(None if place.wedged or ends_at == math.inf else ends_at - self.now())
        if place.programmer.power_lost_at is not None:
            self._pull(place)
        self._check(handle, "end of a request")
        if reply.ends_at > ends_at:
            raise usb.core.USBTimeoutError(os.strerror(errno.ETIMEDOUT), errno=errno.ETIMEDOUT)
        if reply.stalled:
            _fail(errno.EPIPE)

    def _check(self, handle: _Handle, what: str) -> None:
        """Raise error 19 where the device is not the one that was opened; note calls from a foreign thread."""
        self._note_thread(handle, what)
        if not handle.is_open:
            self.strays.append(f"{what} on a closed device")
        if not self._is_there(handle):
            _fail(errno.ENODEV)

    def _is_there(self, handle: _Handle) -> bool:
        return handle.place.plugged and handle.place.address == handle.address

    def _note_thread(self, handle: _Handle, what: str) -> None:
        if handle.thread != threading.get_ident():
            self.strays.append(f"{what} in another thread")


def _let_go(handle: _Handle) -> None:
    if handle.place.claimed is handle:
        handle.place.claimed = None


def _fail(number: int | None) -> None:
    """Raise pyusb's error for an error number, None for none."""
    if number is not None:
        raise usb.core.USBError(os.strerror(number), errno=number)


def _descriptors(programmer: EmulatedUsb | EmulatedBulk, usb: UsbIdentity | None) -> Descriptors:
    """Return those of a device with endpoints, which brings its own, or plain ones."""
    if isinstance(programmer, BulkEnd) and usb is None:
        return programmer.descriptors
    return Descriptors(usb or programmer.usb, version=_VERSION)


def _fill(buffer: "array.array[int]", reply: ControlReply | BulkReply) -> int:
    """Put what came into the host's buffer, as far as it has room; returns how many bytes that are."""
    answer = reply.data[: len(buffer)]
    buffer[: len(answer)] = array.array("B", answer)
    return len(answer)


def _each(descriptors: bytes) -> Iterator[bytes]:
    """Yield descriptors that lie one behind the other."""
    while descriptors:
        yield descriptors[: descriptors[0]]
        descriptors = descriptors[descriptors[0] :]


def _fields(layout: str, descriptor: bytes) -> dict[str, int]:
    """Return a descriptor's fields by name."""
    names, sizes = zip(*(entry.split(":") for entry in layout.split()), strict=True)
    return dict(zip(names, struct.unpack_from("<" + "".join(sizes), descriptor), strict=True))
