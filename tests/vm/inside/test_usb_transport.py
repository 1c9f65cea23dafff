"""The transport's USB and hotplug on a real kernel: libusb, udevd and the device nodes are the real ones."""

import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from ispd.errors import ErrorCode, LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.transport import udev
from ispd.transport.contract import ControlTransfer, PortChange, PortEvent, PortKind, UsbIdentity
from ispd.transport.machine import Machine
from ispd.transport.usb import UsbDevice
from vbench.usb_device import HungError, StallError
from vbench.usb_device import UsbDevice as EmulatedDevice
from vbench.vhci import VhciBus

pytestmark = pytest.mark.anyio

FISCHL = UsbIdentity(
    vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="USBasp µ", serial="0 1"
)
ECHO, STALL, HANG = 1, 2, 3
NOBODY = 65534
HOLD = """
import sys, usb.core, usb.util
device = usb.core.find(idVendor=0x16C0)
usb.util.claim_interface(device, 0)
print("held", flush=True)
sys.stdin.read()
"""


class Echo(EmulatedDevice):
    """Answers with the low byte of wValue; stalls or hangs when told so."""

    def __init__(self) -> None:
        super().__init__(FISCHL, version=0x0104, target=None, tau_s=0.2e-3, faults=())
        self.hangs = threading.Event()

    def _start(self) -> None:
        pass

    def _request(self, transfer: ControlTransfer) -> bytes:
        if transfer.request == HANG:
            self.hangs.set()
            raise HungError
        if transfer.request == STALL:
            raise StallError
        return self._reply(transfer, bytes([transfer.value & 0xFF] * transfer.length))


def ask(value: int, request: int = ECHO, timeout_s: float = 5.0) -> ControlTransfer:
    return ControlTransfer(request_type=0xC0, request=request, value=value, length=20, timeout_s=timeout_s)


@pytest.fixture
def bus() -> Iterator[VhciBus]:
    """Give the virtual host controller; afterwards no device node is open any more."""
    with VhciBus() as bus:
        yield bus
    open_files = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    assert [file for file in open_files if file.startswith("/dev/bus/usb/")] == []


@contextmanager
def nobody() -> Iterator[None]:
    """Be no longer root, with none of its groups; for every thread."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


async def plugged(bus: VhciBus, port: int, programmer: Echo | None = None) -> str:
    """Plug a device in, and return its port once udev is through with it."""
    path = bus.plug(programmer or Echo(), port)
    configured = anyio.Path(f"/sys/bus/usb/devices/{path}/bConfigurationValue")
    with anyio.fail_after(30):
        while not await configured.exists():  # noqa: ASYNC110 - the kernel has no event for us here
            await anyio.sleep(0.02)
    await anyio.run_process(["udevadm", "settle"])
    return f"usb:{path}"


@pytest.fixture
def machine() -> Machine:
    return Machine()


@asynccontextmanager
async def opened(machine: Machine, port: str) -> AsyncIterator[UsbDevice]:
    device = await machine.open_usb(port)
    assert isinstance(device, UsbDevice)
    try:
        yield device
    finally:
        await device.aclose()


async def test_a_device_answers_refuses_hangs_and_leaves(bus: VhciBus, machine: Machine) -> None:
    programmer = Echo()
    port = await plugged(bus, 3, programmer)
    async with opened(machine, port) as device:
        assert device.identity == FISCHL
        assert await device.submit([ask(1), ask(0x1FE)]) == [b"\x01" * 20, b"\xfe" * 20]
        out = ControlTransfer(request_type=0x40, request=ECHO, data=bytes(200))
        assert await device.submit([out]) == [b""]
        with pytest.raises(RemoteProtocolError, match="stall"):
            await device.submit([ask(2, STALL)])
        with pytest.raises(LinkTimeoutError):
            await device.submit([ask(3, HANG, timeout_s=0.2)])
        assert await device.submit([ask(4)]) == [b"\x04" * 20]
        programmer.hangs.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(closed_under, device)
            assert await anyio.to_thread.run_sync(programmer.hangs.wait, 30)
            begun = time.monotonic()
            bus.unplug(3)
        assert time.monotonic() - begun < 60, "long before the transfer's own timeout"
    with pytest.raises(TransportError) as gone:
        await machine.open_usb(port)
    assert gone.value.code is ErrorCode.PORT_NOT_FOUND
    async with opened(machine, await plugged(bus, 3)) as device:
        assert await device.submit([ask(5)]) == [b"\x05" * 20]


async def closed_under(device: UsbDevice) -> None:
    with pytest.raises(LinkClosedError):
        await device.submit([ask(9, HANG, timeout_s=120)])


async def test_who_may_not_open_a_device_learns_why(bus: VhciBus, machine: Machine) -> None:
    port = await plugged(bus, 0)
    with nobody(), pytest.raises(TransportError) as denied:
        await machine.open_usb(port)
    assert denied.value.code is ErrorCode.PERMISSION_DENIED
    async with await anyio.open_process([sys.executable, "-c", HOLD]) as other:
        assert other.stdout is not None
        with anyio.fail_after(60):
            assert await other.stdout.receive() == b"held\n"
        with pytest.raises(TransportError, match=f"in use by .*{other.pid}") as busy:
            await machine.open_usb(port)
        assert busy.value.code is ErrorCode.PORT_BUSY
        other.kill()
    async with opened(machine, port):
        with pytest.raises(TransportError) as ours:
            await machine.open_usb(port)
        assert ours.value.code is ErrorCode.PORT_BUSY


async def test_a_device_that_nobody_configured_is_configured(bus: VhciBus, machine: Machine) -> None:
    port = await plugged(bus, 0)
    value = anyio.Path(f"/sys/bus/usb/devices/{port.removeprefix('usb:')}/bConfigurationValue")
    await value.write_text("-1")
    assert (await value.read_text()).strip() == ""
    async with opened(machine, port) as device:
        assert await device.submit([ask(1)]) == [b"\x01" * 20]
        assert (await value.read_text()).strip() == "1"


async def test_eight_identical_devices_answer_each_for_itself_though_one_hangs(bus: VhciBus, machine: Machine) -> None:
    ports = [await plugged(bus, number) for number in range(8)]

    async def work(port: str, value: int) -> None:
        async with opened(machine, port) as device:
            for _ in range(5):
                assert await device.submit([ask(value)] * 8) == [bytes([value]) * 20] * 8

    async with opened(machine, ports[0]) as hanging, anyio.create_task_group() as tasks:
        tasks.start_soon(closed_under, hanging)
        begun = time.monotonic()
        async with anyio.create_task_group() as others:
            for value, port in enumerate(ports[1:]):
                others.start_soon(work, port, value)
        assert time.monotonic() - begun < 60
        bus.unplug(0)


async def test_udev_tells_each_device_once_and_by_place(
    bus: VhciBus, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "RECONCILE_S", 0.1)
    first = await plugged(bus, 0)
    async with machine.hotplug() as events:
        seen = [await next_event(events)]
        others = [await plugged(bus, number) for number in (1, 5)]
        seen += [await next_event(events) for _ in others]
        assert [(event.change, event.kind, event.port) for event in seen] == [
            (PortChange.ADDED, PortKind.USB, port) for port in (first, *others)
        ], "hubs are none, and nothing comes twice"
        # udev has made an underscore of the blank in the serial number; the rest is as the device says
        assert {event.usb for event in seen} == {replace(FISCHL, serial="0_1")}
        with anyio.move_on_after(2) as quiet:
            await anext(events)
        assert quiet.cancelled_caught, "a listing finds what the events told"
        await anyio.run_process(["udevadm", "trigger", "--settle", "--subsystem-match=usb"])
        bus.unplug(5)
        left = await next_event(events)
        assert (left.change, left.port) == (PortChange.REMOVED, others[1])


async def next_event(events: AsyncIterator[PortEvent]) -> PortEvent:
    with anyio.fail_after(30):
        return await anext(events)
