"""Bulk endpoints over the USB transport, threads and all, on an emulated device behind pyusb."""

import errno
import math
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest

from ispd.errors import (
    ErrorCode,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from ispd.transport.contract import BulkTransfer, ControlTransfer, PortKind, UsbIdentity
from ispd.transport.usb import UsbBus, UsbDevice
from vbench.emulated import BulkReply, ControlReply
from vbench.pyusb_backend import PyusbBackend, UsbPlace
from vbench.swd import SwdSocket
from vbench.usb_descriptors import Descriptors

pytestmark = pytest.mark.anyio

PORT = "usb:1-1.4"
OUT, IN, OTHER = 0x02, 0x81, 0x83
INTERFACE = struct.pack("<9B", 9, 4, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0) + b"".join(
    struct.pack("<BBBBHB", 7, 5, endpoint, kind, 64, 0) for endpoint, kind in ((IN, 2), (OUT, 2), (OTHER, 3))
)
"""The layout of an ST-Link V2, with an interrupt endpoint in place of its trace."""


class Mirror:
    """A device that gives back what it was sent, in the order in which it came; ``log`` says what it saw."""

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(self) -> None:
        self.usb = UsbIdentity(vendor_id=0x0483, product_id=0x3748, manufacturer="STMicroelectronics")
        self.power_lost_at: float | None = None
        self.descriptors = Descriptors(self.usb, version=0x0100, interfaces=INTERFACE)
        self.socket = SwdSocket()
        self.held: list[bytes] = []
        self.halted: set[int] = set()
        self.log: list[object] = []
        self.stalls = 0
        """So many more transfers are refused."""
        self.hangs = False
        self.on_bulk: Callable[[], object] = lambda: None

    def power_on(self, at: float) -> None:  # noqa: ARG002 - the bench's signature
        self.power_lost_at = None

    def power_off(self, at: float) -> None:
        pass

    def run(self, now: float) -> None:
        pass

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        if transfer.request_type == 0x02:  # CLEAR_FEATURE of an endpoint
            self.halted.discard(transfer.index)
            return ControlReply(ends_at=at)
        self.log.append(transfer.request)
        return ControlReply(ends_at=at, data=b"control")

    def bulk_out(self, endpoint: int, data: bytes, at: float) -> BulkReply:
        self.log.append((endpoint, data))
        if self._is_refused(endpoint):
            return BulkReply(ends_at=at, stalled=True)
        if self.hangs:
            return BulkReply(ends_at=math.inf)
        self.held.append(data)
        return BulkReply(ends_at=at)

    def bulk_in(self, endpoint: int, length: int, at: float) -> BulkReply | None:
        self.log.append((endpoint, length))
        if self._is_refused(endpoint):
            return BulkReply(ends_at=at, stalled=True)
        return BulkReply(ends_at=at, data=self.held.pop(0)) if self.held else None

    def _is_refused(self, endpoint: int) -> bool:
        """Stay stalled until the host clears it."""
        self.on_bulk()
        if self.stalls:
            self.stalls -= 1
            self.halted.add(endpoint)
        return endpoint in self.halted


@pytest.fixture
def backend() -> Iterator[PyusbBackend]:
    """Give a USB tree; afterwards all that was opened is closed, each device saw one thread, and no thread is left."""
    backend = PyusbBackend()
    yield backend
    assert backend.opens == backend.closes
    assert backend.strays == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("usb:")] == []


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


@pytest.fixture
def place(backend: PyusbBackend, mirror: Mirror) -> UsbPlace:
    return backend.add("1-1.4", mirror)


@asynccontextmanager
async def opened(backend: PyusbBackend) -> AsyncIterator[UsbDevice]:
    device = await UsbBus(backend).open(PORT)
    try:
        yield device
    finally:
        await device.aclose()


def send(data: bytes, timeout_s: float = 5.0) -> BulkTransfer:
    return BulkTransfer(endpoint=OUT, data=data, timeout_s=timeout_s)


def fetch(length: int, timeout_s: float = 5.0) -> BulkTransfer:
    return BulkTransfer(endpoint=IN, length=length, timeout_s=timeout_s)


async def test_bulk_and_control_transfers_go_back_to_back_in_one_batch(
    backend: PyusbBackend, mirror: Mirror, place: UsbPlace
) -> None:
    control = ControlTransfer(request_type=0xC0, request=7, length=64)
    async with opened(backend) as device:
        replies = await device.submit([send(b"first"), control, send(b"second" * 20), fetch(64), fetch(3), control])
        assert replies == [b"", b"control", b"", b"first", b"sec", b"control"], "an answer may be shorter or longer"
    assert mirror.log == [(OUT, b"first"), 7, (OUT, b"second" * 20), (IN, 64), (IN, 3), 7]


@pytest.mark.parametrize(
    ("answer", "is_good"), [(b"\x80\0", True), (b"\x0d\0", True), (b"\x10\0", False), (b"\x80", False), (b"", False)]
)
async def test_an_answer_that_is_not_good_ends_the_batch(
    backend: PyusbBackend, mirror: Mirror, place: UsbPlace, answer: bytes, is_good: bool
) -> None:
    status = BulkTransfer(endpoint=IN, length=2, good_heads=frozenset({0x80, 0x0D}))
    async with opened(backend) as device:
        replies = await device.submit([send(answer), status, send(b"next")])
        assert replies == [b"", answer, *([b""] if is_good else [])]
        assert ((OUT, b"next") in mirror.log) is is_good
        mirror.held.clear()
        assert await device.submit([send(b"2"), fetch(8)]) == [b"", b"2"], "and the next one is another matter"


async def test_the_endpoints_interface_is_taken_from_the_kernels_driver_until_the_end(
    backend: PyusbBackend, place: UsbPlace
) -> None:
    place.has_kernel_driver = True
    seen = []
    async with opened(backend) as device:
        for transfer in (ControlTransfer(request_type=0xC0, request=7, length=64), send(b"1"), fetch(8)):
            await device.submit([transfer])
            seen.append(place.has_kernel_driver)
    assert [*seen, place.has_kernel_driver] == [True, False, False, True]


@pytest.mark.parametrize("endpoint", [0x01, 0x82, OTHER])
async def test_an_endpoint_that_is_not_there_or_no_bulk_one_is_our_own_mistake(
    backend: PyusbBackend, mirror: Mirror, place: UsbPlace, endpoint: int
) -> None:
    async with opened(backend) as device:
        with pytest.raises(LocalProtocolError, match=f"0x{endpoint:02X}"):
            await device.submit([BulkTransfer(endpoint=endpoint, data=b"1", length=1)])
    assert mirror.log == []


@pytest.mark.parametrize("stalling", [send(b"1"), fetch(8)])
async def test_a_stalled_endpoint_ends_the_batch_and_can_be_used_again(
    backend: PyusbBackend, mirror: Mirror, place: UsbPlace, stalling: BulkTransfer
) -> None:
    async with opened(backend) as device:
        mirror.stalls = 1
        with pytest.raises(RemoteProtocolError, match=f"0x{stalling.endpoint:02X}.*stall"):
            await device.submit([stalling, send(b"never")])
        assert mirror.halted == set()
        assert await device.submit([send(b"2"), fetch(8)]) == [b"", b"2"]


async def test_data_that_is_taken_in_part_only_is_an_error(backend: PyusbBackend, place: UsbPlace) -> None:
    async with opened(backend) as device:
        place.takes_bytes = 3
        with pytest.raises(RemoteProtocolError, match="3 of 5"):
            await device.submit([send(b"12345")])


async def test_a_silent_device_is_given_up_and_a_pulled_plug_ends_the_link(
    backend: PyusbBackend, mirror: Mirror, place: UsbPlace
) -> None:
    async with opened(backend) as device:
        with anyio.fail_after(5), pytest.raises(LinkTimeoutError):
            await device.submit([fetch(8, timeout_s=0.02), send(b"never")])
        mirror.hangs = True
        mirror.on_bulk = lambda: backend.unplug("1-1.4")
        with anyio.fail_after(5), pytest.raises(LinkClosedError):
            await device.submit([send(b"gone", timeout_s=60)])
        with pytest.raises(LinkClosedError):
            await device.submit([send(b"still gone")])
    assert mirror.log == [(IN, 8), (OUT, b"gone")]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EBUSY, ErrorCode.PORT_BUSY), (errno.EACCES, ErrorCode.PERMISSION_DENIED)]
)
async def test_an_interface_that_another_program_has_is_not_the_devices_fault(
    backend: PyusbBackend, place: UsbPlace, number: int, code: ErrorCode
) -> None:
    async with opened(backend) as device:
        place.next_errno = number
        with pytest.raises(TransportError) as caught:
            await device.submit([send(b"1")])
    assert caught.value.code is code


async def test_a_disturbance_is_told_from_a_device_that_left(backend: PyusbBackend, place: UsbPlace) -> None:
    async with opened(backend) as device:
        place.next_errno = errno.EIO
        with pytest.raises(RemoteProtocolError):
            await device.submit([send(b"1")])
        place.next_errno = errno.EOVERFLOW  # more than was asked for
        with pytest.raises(RemoteProtocolError):
            await device.submit([send(b"1")])
        place.is_dead = True
        with pytest.raises(LinkClosedError):
            await device.submit([send(b"1")])
