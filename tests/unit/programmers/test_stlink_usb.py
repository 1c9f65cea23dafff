"""The ST-Link driver on the product's own USB transport, threads and all, on real time."""

import anyio
import pytest
from tests.unit.programmers.stlink_rig import Quiet

from ispd.errors import LinkClosedError
from ispd.model.span import Span
from ispd.programmers.stlink_probe import StlinkProbe, open_stlink
from ispd.programmers.swd_contract import SwdSettings
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, SerialSettings, UsbLink
from ispd.transport.usb import UsbBus
from vbench.pyusb_backend import PyusbBackend
from vbench.stlink import StLink
from vbench.stlink_firmware import odd_serial
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket

pytestmark = pytest.mark.anyio


class UsbOnly:
    """A machine with a USB bus and nothing else."""

    def __init__(self, backend: PyusbBackend) -> None:
        self._bus = UsbBus(backend)

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        raise AssertionError(settings)

    async def open_usb(self, port: str) -> UsbLink:
        return await self._bus.open(port)


async def test_several_at_once_by_place_and_a_plug_that_is_pulled() -> None:
    backend = PyusbBackend()
    chips = {f"1-1.{port}": Stm32F1() for port in range(1, 17)}
    for path, chip in chips.items():
        backend.add(path, StLink(socket=SwdSocket(chip)))
    hardware, clock = UsbOnly(backend), SystemClock()
    probes: dict[str, StlinkProbe] = {}

    async def work(path: str) -> None:
        probe = probes[path] = await open_stlink(hardware, f"usb:{path}", clock)
        await probe.connect(SwdSettings(clock_hz=4_000_000))
        data = path.encode() * 500
        await probe.write(0x2000_0000, data)
        assert await probe.read(Span(0x2000_0000, 0x2000_0000 + len(data)), Quiet()) == data
        assert chips[path].ram.startswith(data)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for path in chips:
                tasks.start_soon(work, path)
        backend.unplug("1-1.2")
        with pytest.raises(LinkClosedError):
            await probes["1-1.2"].read_word(0x2000_0000)
        await probes["1-1.3"].disconnect()
        for probe in probes.values():
            await probe.aclose()
    assert chips["1-1.3"].core.is_halted is False
    assert (backend.opens, backend.closes, backend.strays) == (16, 16, [])


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (bytes.fromhex("00FF6C0649801B0A00140267"), "00FF6C0649801B0A00140267"),
        (bytes(12), "00" * 12),
        (b"\x80\xff", "008000FF"),
        (b"", ""),
    ],
)
async def test_a_serial_number_of_any_bytes_comes_through_pyusb_as_plain_text(number: bytes, shown: str) -> None:
    backend = PyusbBackend()
    backend.add("1-1.4", StLink(serial=odd_serial(number)))
    probe = await open_stlink(UsbOnly(backend), "usb:1-1.4", SystemClock())
    assert probe.identity.serial == shown
    await probe.aclose()
