"""The USB transport, threads and all, on emulated devices behind pyusb."""

import errno
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import pytest
import usb.backend.libusb1

from ispd.errors import (
    ErrorCode,
    IspdError,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from ispd.transport import usb as usb_module
from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from ispd.transport.machine import Machine
from ispd.transport.usb import UsbBus, UsbDevice
from vbench.emulated import ControlReply
from vbench.isp_socket import IspSocket
from vbench.pyusb_backend import PyusbBackend

pytestmark = pytest.mark.anyio

FISCHL = UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="USBasp", serial="µ 1")
PORT = "usb:1-1.4"
ECHO, STALL, HANG, SLOW = 1, 2, 3, 4
SLOW_S = 0.05


class Echo:
    """A programmer that answers with the value it was asked for, stalls, hangs or takes its time, by request number."""

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(self, tag: int = 0) -> None:
        self.usb = FISCHL
        self.tag = tag
        self.socket = IspSocket(None)
        self.power_lost_at: float | None = None
        self.begun: list[int] = []
        """Values of the requests that reached it."""
        self.on_request: Callable[[int], object] = lambda _value: None

    def power_on(self, at: float) -> None:  # noqa: ARG002 - the bench's signature
        self.power_lost_at = None

    def power_off(self, at: float) -> None:
        pass

    def run(self, now: float) -> None:
        pass

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        self.begun.append(transfer.value)
        self.on_request(transfer.value)
        ends_at = {HANG: math.inf, SLOW: at + SLOW_S}.get(transfer.request, at)
        return ControlReply(
            ends_at=ends_at, data=bytes([transfer.value + self.tag & 0xFF]), stalled=transfer.request == STALL
        )


def ask(value: int = 0, request: int = ECHO, timeout_s: float = 5.0) -> ControlTransfer:
    return ControlTransfer(request_type=0xC0, request=request, value=value, length=4, timeout_s=timeout_s)


@pytest.fixture
def backend() -> Iterator[PyusbBackend]:
    """Give a USB tree; afterwards all that was opened is closed, each device saw one thread, and no thread is left."""
    backend = PyusbBackend()
    yield backend
    assert backend.opens == backend.closes
    assert backend.strays == []
    assert [thread for thread in threading.enumerate() if is_ours(thread)] == []


def is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("usb:")


@asynccontextmanager
async def opened(backend: PyusbBackend, port: str = PORT) -> AsyncIterator[UsbDevice]:
    device = await UsbBus(backend).open(port)
    try:
        yield device
    finally:
        await device.aclose()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a thread, without an event
            await anyio.sleep(0.001)


async def test_a_device_is_found_by_its_place_and_says_who_it_is(backend: PyusbBackend) -> None:
    backend.add("1-1.4.2", Echo())
    backend.add("2-1.4", Echo())
    wanted = Echo()
    backend.add("1-1.4", wanted)
    async with opened(backend) as device:
        assert (device.name, device.identity) == (PORT, FISCHL)
        out = ControlTransfer(request_type=0x40, request=ECHO, value=2, data=b"12345")
        assert await device.submit([ask(1), out, ask(3)]) == [b"\x01", b"", b"\x03"]
        assert await device.submit([]) == []
    assert wanted.begun == [1, 2, 3]
    with pytest.raises(LinkClosedError):
        await device.submit([ask()])
    await device.aclose()


@pytest.mark.parametrize(
    ("trouble", "code", "words"),
    [
        ({"plugged": False}, ErrorCode.PORT_NOT_FOUND, "cable"),
        ({"open_errno": errno.EACCES}, ErrorCode.PERMISSION_DENIED, "udev rules"),
        ({"open_errno": errno.ENODEV}, ErrorCode.PORT_NOT_FOUND, "cable"),
        ({"claim_errno": errno.EBUSY}, ErrorCode.PORT_BUSY, "other program"),
        ({"claim_errno": errno.EIO}, ErrorCode.LINK_CLOSED, "cable"),
    ],
)
async def test_what_cannot_be_opened_says_why(
    backend: PyusbBackend, trouble: dict[str, object], code: ErrorCode, words: str
) -> None:
    place = backend.add("1-1.4", Echo())
    for name, value in trouble.items():
        setattr(place, name, value)
    with pytest.raises(TransportError) as refused:
        await UsbBus(backend).open(PORT)
    assert refused.value.code is code
    assert words in refused.value.hint


async def test_a_name_that_is_no_place_is_refused_before_anything_is_touched(backend: PyusbBackend) -> None:
    for name in ("usb:", "usb:1", "usb:1-", "usb:1-1.", "usb:1-1:1.0", "/dev/ttyACM0", "16C0:05DC"):
        with pytest.raises(TransportError) as refused:
            await UsbBus(backend).open(name)
        assert refused.value.code is ErrorCode.PORT_NOT_FOUND


async def test_an_open_device_is_nobody_elses(backend: PyusbBackend) -> None:
    backend.add("1-1.4", Echo())
    async with opened(backend):
        with pytest.raises(TransportError) as refused:
            await UsbBus(backend).open(PORT)
        assert refused.value.code is ErrorCode.PORT_BUSY
    async with opened(backend) as device:
        assert await device.submit([ask(7)]) == [b"\x07"]


async def test_odd_devices_are_opened_all_the_same(backend: PyusbBackend) -> None:
    place = backend.add("1-1.4", Echo())
    place.is_configured = place.has_texts = False
    place.has_kernel_driver = True  # the UART of a fork; nothing is detached
    async with opened(backend) as device:
        assert device.identity == UsbIdentity(vendor_id=0x16C0, product_id=0x05DC)
        assert await device.submit([ask(7)]) == [b"\x07"]
    assert place.is_configured


async def test_a_request_to_an_interface_takes_it_from_the_kernels_driver_until_the_end(backend: PyusbBackend) -> None:
    """usbhid sits on a bootloader that calls itself a human interface device; where nothing was, nothing is put."""
    place = backend.add("1-1.4", Echo())
    report = ControlTransfer(request_type=0x21, request=ECHO, value=0x0301, data=b"1234567")
    get = ControlTransfer(request_type=0xA1, request=ECHO, value=5, length=7)
    for had_driver in (True, False):
        place.has_kernel_driver = had_driver
        seen = []
        async with opened(backend) as device:
            for transfers in ([ask()], [report, get, report]):
                await device.submit(transfers)
                seen.append(place.has_kernel_driver)
        assert [*seen, place.has_kernel_driver] == [had_driver, False, had_driver]


async def test_a_device_that_left_by_itself_is_closed_without_its_driver(backend: PyusbBackend) -> None:
    """A bootloader that was told to start its application."""
    place = backend.add("1-1.4", Echo())
    place.has_kernel_driver = True
    async with opened(backend) as device:
        await device.submit([ControlTransfer(request_type=0x21, request=ECHO, data=b"1")])
        backend.unplug("1-1.4")
    assert not place.has_kernel_driver


async def test_a_refused_or_short_transfer_ends_the_batch_and_not_the_link(backend: PyusbBackend) -> None:
    programmer = Echo()
    place = backend.add("1-1.4", programmer)
    async with opened(backend) as device:
        with pytest.raises(RemoteProtocolError, match="stall"):
            await device.submit([ask(1), ask(2, STALL), ask(3)])
        assert programmer.begun == [1, 2]
        place.takes_bytes = 3
        with pytest.raises(RemoteProtocolError, match="3 of 5"):
            await device.submit([ControlTransfer(request_type=0x40, request=ECHO, data=b"12345")])
        place.next_errno = errno.EINVAL
        with pytest.raises(LocalProtocolError):
            await device.submit([ask(4)])
        place.next_errno = errno.EIO  # a disturbance on the cable: the device is still there
        with pytest.raises(RemoteProtocolError):
            await device.submit([ask(4)])
        assert await device.submit([ask(5)]) == [b"\x05"]


async def test_a_silent_device_is_given_up_after_its_timeout(backend: PyusbBackend) -> None:
    backend.add("1-1.4", Echo())
    async with opened(backend) as device:
        with anyio.fail_after(5), pytest.raises(LinkTimeoutError):
            await device.submit([ask(1), ask(2, HANG, timeout_s=0.02)])
        assert await device.submit([ask(3)]) == [b"\x03"]


async def test_a_pulled_plug_ends_a_transfer_at_once_and_the_link_for_good(backend: PyusbBackend) -> None:
    programmer = Echo()
    backend.add("1-1.4", programmer)
    async with opened(backend) as device, anyio.create_task_group() as tasks:
        tasks.start_soon(pull_when_begun, backend, programmer)
        with anyio.fail_after(5), pytest.raises(LinkClosedError):
            await device.submit([ask(9, HANG, timeout_s=60)])
        backend.plug("1-1.4")  # another life of the device: an open link has no part in it
        with pytest.raises(LinkClosedError):
            await device.submit([ask()])
    async with opened(backend) as device:
        assert await device.submit([ask(1)]) == [b"\x01"]


async def pull_when_begun(backend: PyusbBackend, programmer: Echo) -> None:
    await until(lambda: bool(programmer.begun))
    backend.unplug("1-1.4")


async def test_a_broken_transfer_of_a_device_that_left_is_a_pulled_plug(backend: PyusbBackend) -> None:
    place = backend.add("1-1.4", Echo())
    async with opened(backend) as device:
        place.is_dead = True
        with pytest.raises(LinkClosedError):
            await device.submit([ask()])


async def test_a_cancelled_batch_finishes_the_transfer_under_way_and_begins_no_other(backend: PyusbBackend) -> None:
    programmer = Echo()
    place = backend.add("1-1.4", programmer)
    async with opened(backend) as device:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(device.submit, [ask(1, SLOW), ask(2), ask(3)])
            await until(lambda: programmer.begun == [1])
            assert place.is_busy
            tasks.cancel_scope.cancel()
        assert (programmer.begun, place.is_busy) == ([1], False)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await device.submit([ask(4)])
        assert programmer.begun == [1]
        assert await device.submit([ask(5)]) == [b"\x05"]


async def test_closing_waits_for_the_transfer_under_way(backend: PyusbBackend) -> None:
    programmer = Echo()
    place = backend.add("1-1.4", programmer)
    device = await UsbBus(backend).open(PORT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(closes_under, device)
        await until(lambda: programmer.begun == [1])
        await device.aclose()
        assert (programmer.begun, place.is_busy, backend.closes) == ([1], False, 1)


async def closes_under(device: UsbDevice) -> None:
    with pytest.raises(LinkClosedError):
        await device.submit([ask(1, SLOW), ask(2)])


async def test_a_wedged_device_holds_up_neither_its_caller_nor_the_close(
    backend: PyusbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usb_module, "_GRACE_S", 0.05)
    place = backend.add("1-1.4", Echo())
    device = await UsbBus(backend).open(PORT)
    place.wedged = True
    with anyio.fail_after(5):
        with pytest.raises(LinkTimeoutError):
            await device.submit([ask(1, timeout_s=0.01)])
        with pytest.raises(LinkClosedError):
            await device.submit([ask(2)])
        await device.aclose()
    assert backend.closes == 0, "closing under a transfer is undefined in libusb"
    backend.unwedge("1-1.4")
    await until(lambda: not any(is_ours(thread) for thread in threading.enumerate()))
    assert backend.closes == 1


async def test_a_device_that_does_not_let_itself_be_opened_is_left_to_its_thread(
    backend: PyusbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usb_module, "_GRACE_S", 0.01)
    monkeypatch.setattr(usb_module, "_OPEN_S", 0.01)
    backend.add("1-1.4", Echo()).open_delay_s = 0.2
    with anyio.fail_after(5), pytest.raises(LinkTimeoutError):
        await UsbBus(backend).open(PORT)
    await until(lambda: not any(is_ours(thread) for thread in threading.enumerate()))
    assert (backend.opens, backend.closes) == (1, 1)


async def test_a_device_that_hangs_for_ever_does_not_gather_threads(
    backend: PyusbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some more tries are allowed, for the one that works after a re-plug; then none until a thread comes back."""
    monkeypatch.setattr(usb_module, "_GRACE_S", 0.01)
    monkeypatch.setattr(usb_module, "_OPEN_S", 0.01)
    freed, find = threading.Event(), backend.enumerate_devices
    monkeypatch.setattr(backend, "enumerate_devices", lambda: (freed.wait(), find())[1])
    backend.add("1-1.4", Echo())
    bus = UsbBus(backend)
    for _ in range(4):
        with pytest.raises(LinkTimeoutError):
            await bus.open(PORT)
    with pytest.raises(TransportError, match="4 earlier attempts") as caught:
        await bus.open(PORT)
    assert caught.value.code is ErrorCode.PORT_BUSY
    freed.set()
    await until(lambda: not any(is_ours(thread) for thread in threading.enumerate()))
    monkeypatch.undo()
    await (await bus.open(PORT)).aclose()


async def test_a_cancelled_open_closes_what_it_opened(backend: PyusbBackend) -> None:
    backend.add("1-1.4", Echo()).open_delay_s = 0.05
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(UsbBus(backend).open, PORT)
        await until(lambda: any(is_ours(thread) for thread in threading.enumerate()))
        tasks.cancel_scope.cancel()
    assert (backend.opens, backend.closes) == (1, 1)


async def test_a_bug_in_the_thread_closes_the_device_and_is_seen(
    backend: PyusbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: seen.append(hook.exc_value))
    programmer, bug = Echo(), ZeroDivisionError()
    backend.add("1-1.4", programmer)

    def stumble(_value: int) -> None:
        raise bug

    programmer.on_request = stumble
    async with opened(backend) as device:
        with anyio.fail_after(5), pytest.raises(LinkClosedError):
            await device.submit([ask(1)])
        with pytest.raises(LinkClosedError):
            await device.submit([ask(2)])
    assert seen == [bug]


def test_a_wedged_device_outlives_the_event_loop_in_silence(
    backend: PyusbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(usb_module, "_GRACE_S", 0.01)
    place = backend.add("1-1.4", Echo())

    async def life() -> None:
        async with opened(backend) as device:
            place.wedged = True
            with pytest.raises(LinkTimeoutError):
                await device.submit([ask(1, timeout_s=0.01)])

    anyio.run(life)
    (left,) = (thread for thread in threading.enumerate() if is_ours(thread))
    assert left.daemon, "it must not keep the process"
    backend.unwedge("1-1.4")
    left.join(10)
    assert seen == []


async def test_64_devices_at_once_do_not_wait_for_each_other(backend: PyusbBackend) -> None:
    ports = [f"1-{hub}.{port}" for hub in range(1, 9) for port in range(1, 9)]
    for path in ports:
        backend.add(path, Echo())
    bus = UsbBus(backend)

    async def work(path: str) -> None:
        device = await bus.open(f"usb:{path}")
        for first in range(0, 100, 10):
            batch = [ask(value) for value in range(first, first + 10)]
            assert await device.submit([*batch, ask(0, SLOW)]) == [bytes([t.value]) for t in batch] + [b"\0"]
        await device.aclose()

    backend.add("2-1", Echo())
    async with opened(backend, "usb:2-1") as silent, anyio.create_task_group() as hanging:
        hanging.start_soon(hangs, silent)
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for path in ports:
                tasks.start_soon(work, path)
        # one after the other, the slow transfers alone would take 64 * 10 * 0.05 = 32 s
        assert time.monotonic() - begun < 8
        backend.unplug("2-1")
    assert backend.opens == len(ports) + 1


async def hangs(device: UsbDevice) -> None:
    with pytest.raises(LinkClosedError):
        await device.submit([ask(0, HANG, timeout_s=60)])


async def test_plugs_pulled_at_any_moment_leave_nothing_behind(backend: PyusbBackend) -> None:
    dice = random.Random(64)
    ended: list[ErrorCode] = []
    bus = UsbBus(backend)

    async def life(path: str, pulled_at: int) -> None:
        programmer = Echo()
        backend.add(path, programmer)
        programmer.on_request = lambda value: backend.unplug(path) if value == pulled_at else None
        device = await bus.open(f"usb:{path}")
        try:
            for first in range(0, 40, 8):
                kinds = dice.choices((ECHO, HANG), (50, 1), k=8)
                await device.submit([ask(first + step, kind, timeout_s=0.05) for step, kind in enumerate(kinds)])
        except IspdError as error:
            ended.append(error.code)
        finally:
            await device.aclose()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for index in range(64):
                tasks.start_soon(life, f"1-1.{index + 1}", index % 40)
    assert set(ended) <= {ErrorCode.LINK_CLOSED, ErrorCode.LINK_TIMEOUT}
    assert len(ended) == 64


async def test_64_devices_that_look_the_same_are_told_apart_by_place_however_they_are_replugged(
    backend: PyusbBackend,
) -> None:
    dice = random.Random(1000)
    paths = [f"1-{hub}.{port}" for hub in range(1, 9) for port in range(1, 9)]
    programmers = {path: Echo(tag) for tag, path in enumerate(paths)}
    for path, programmer in programmers.items():
        backend.add(path, programmer)
    bus = UsbBus(backend)

    async def check(path: str) -> None:
        device = await bus.open(f"usb:{path}")
        assert await device.submit([ask(0)]) == [bytes([programmers[path].tag])], path
        await device.aclose()

    for _ in range(10):
        replugged = dice.sample(paths, 40)
        for path in replugged:
            backend.unplug(path)
        for path in dice.sample(replugged, 40):
            backend.plug(path)
        async with anyio.create_task_group() as tasks:
            for path in paths:
                tasks.start_soon(check, path)


async def test_without_libusb_only_usb_programmers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb.backend.libusb1, "get_backend", lambda: None)
    with pytest.raises(TransportError) as refused:
        await Machine().open_usb(PORT)
    assert "libusb-1.0-0" in refused.value.hint


async def test_the_real_library_looks_at_this_machine() -> None:
    with pytest.raises(TransportError) as refused:
        await Machine().open_usb("usb:250-1.4")
    assert refused.value.code is ErrorCode.PORT_NOT_FOUND
