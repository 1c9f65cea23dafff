"""What emulated USB programmers share: standard requests, faults, and their end on the bench."""

import math
import struct

import pytest
from tests.unit.vbench.rigs import UsbHost

from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.transport.contract import ControlTransfer, PortChange, UsbIdentity
from vbench.emulated import EmulatedUsb
from vbench.faults import Mute, PowerLoss, ShortReply, StalledTransfer, UnpluggedAt, UsbFault
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbtiny import UsbTiny
from vbench.virtual_time import virtual

POWERUP, SPI, FLASH_READ = 5, 7, 9
GET_DESCRIPTOR = 0x06


def vendor(request: int, value: int = 0, index: int = 0, *, length: int = 4) -> ControlTransfer:
    return ControlTransfer(request_type=0xC0, request=request, value=value, index=index, length=length)


def descriptor(host: UsbHost, kind: int, index: int = 0, *, length: int = 255) -> bytes:
    return host.control(
        ControlTransfer(request_type=0x80, request=GET_DESCRIPTOR, value=kind << 8 | index, length=length)
    ).data


def test_the_emulators_are_what_the_bench_asks_for() -> None:
    devices: list[EmulatedUsb] = [UsbTiny(), UsbAsp()]
    assert len(devices) == 2


def test_descriptors_tell_the_identity() -> None:
    host = UsbHost(UsbAsp(UsbAspFirmware.DIOANNIDIS))
    device = descriptor(host, 1)
    assert struct.unpack("<HHH3B", device[8:17]) == (0x16C0, 0x05DC, 0x0111, 1, 2, 3)
    assert descriptor(host, 1, length=8) == device[:8]
    total = descriptor(host, 2)
    assert struct.unpack("<H", total[2:4]) == (len(total),)
    texts = [descriptor(host, 3, index)[2:].decode("utf-16-le") for index in (1, 2, 3)]
    assert texts == ["www.fischl.de", "USBasp", "0000"]
    descriptor(host, 3, 4)
    assert host.stalled
    assert UsbTiny().descriptors.device[14:17] == bytes((0, 2, 0))


@pytest.mark.parametrize(
    ("fault", "answers"),
    [
        (StalledTransfer(2), "4 4 stall 4"),
        (ShortReply(1), "4 0 4 4"),
        (ShortReply(1, 3), "4 3 4 4"),
        (Mute(8), "4 4 never never"),
    ],
)
def test_faults_strike_the_transfer_they_name(parts: Parts, fault: UsbFault, answers: str) -> None:
    programmer = UsbTiny(target=AvrTarget(parts.avr("atmega32u4")), faults=[fault])
    programmer.control(vendor(POWERUP, 4), 0.0)
    programmer.transfers = 0
    host = UsbHost(programmer)
    seen = []
    for _ in range(4):
        at, data = host.now, host.ask(SPI, "30 00 00 00")
        seen.append("never" if host.took == math.inf else "stall" if host.stalled else str(len(data)))
        host.now = at + 1
    assert " ".join(seen) == answers


# -- on the bench ------------------------------------------------------------------------------------------------------


@virtual
async def test_a_link_carries_transfers_in_their_time(parts: Parts) -> None:
    bench = BenchHardware()
    bench.add("P1", UsbTiny(target=AvrTarget(parts.avr("atmega32u4"))), path="1-1.4")
    link = await bench.open_usb("usb:1-1.4")
    assert link.identity == UsbIdentity(vendor_id=0x1781, product_id=0x0C9F, product="USBtinyISP")
    begun = bench.now()
    assert await link.submit([vendor(POWERUP, 10, length=0), vendor(0, length=8)]) == [
        b"",
        bytes((0xC0, 0, *[0] * 4, 8, 0)),
    ]
    assert bench.now() - begun == pytest.approx((2 + 3) * 0.2e-3)
    with pytest.raises(LinkTimeoutError):
        await link.submit([ControlTransfer(request_type=0xC0, request=FLASH_READ, length=255, timeout_s=0.1)])


@virtual
async def test_a_stall_is_the_devices_own_refusal() -> None:
    bench = BenchHardware()
    bench.add("P1", UsbAsp(faults=[StalledTransfer(0)]))
    link = await bench.open_usb("P1")
    with pytest.raises(RemoteProtocolError, match="stall"):
        await link.submit([vendor(127)])
    assert await link.submit([vendor(127)]) == [b"\1\0\0\0"]


@pytest.mark.parametrize("fault", [PowerLoss(instructions=900), UnpluggedAt(9), PowerLoss(bytes=75)])
def test_losing_the_supply_takes_the_device_away(parts: Parts, fault: UsbFault) -> None:
    """In the middle of a batch; the board loses its supply too, and plugged in again everything begins anew."""

    @virtual
    async def check() -> None:
        target = AvrTarget(parts.avr("atmega32u4"))
        bench = BenchHardware()
        bench.add("P1", UsbTiny(target=target, faults=[fault]))
        async with bench.hotplug() as events:
            assert (await anext(events)).change is PortChange.ADDED
            link = await bench.open_usb("P1")
            await link.submit([vendor(POWERUP, 4, length=0)])
            with pytest.raises(LinkClosedError):
                await link.submit([vendor(FLASH_READ, length=128) for _ in range(12)])
            assert (await anext(events)).change is PortChange.REMOVED
        assert not target.powered
        with pytest.raises(LinkClosedError):
            await link.submit([vendor(0)])
        with pytest.raises(TransportError) as refused:
            await bench.open_usb("P1")
        assert refused.value.code is ErrorCode.PORT_NOT_FOUND
        bench.plug("P1")
        link = await bench.open_usb("P1")
        assert await link.submit([vendor(SPI)]) == [b""]
        assert target.powered

    check()
