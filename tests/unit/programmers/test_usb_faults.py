"""Every transfer of a session disturbed in every way, on each USB driver: an error or the right result, nothing between."""

from collections.abc import Callable

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.usb_rig import Meddle, Rig

from ispd.catalog.parts import load_parts
from ispd.errors import IspdError, LinkClosedError, LinkTimeoutError, ProgrammerError, RemoteProtocolError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers import usbasp, usbtiny
from ispd.programmers.contract import IspProgrammer
from ispd.transport.contract import ControlTransfer
from ispd.wire import avr_isp
from vbench.faults import UnpluggedAt, UsbFault
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.usbtiny import UsbTiny
from vbench.virtual_time import run_virtual

PART = load_parts().avr("atmega32u4")
PAGES = [Segment(at, bytes(at % 251 ^ index for index in range(128))) for at in (0x0000, 0x0080, 0x7F80)]
SETTINGS = Segment(6, b"\x01\x02\x03\x04\x05\x06\x07\x08")
SPI_REQUESTS = {usbtiny.DRIVER.kind: 7, usbasp.DRIVER.kind: 3}


def tiny(*faults: UsbFault) -> Rig:
    target = AvrTarget(PART, fuses={MemoryKind.LFUSE: 0xFF})
    return Rig(usbtiny.DRIVER, UsbTiny(target=target, faults=faults), target)


def asp(*faults: UsbFault) -> Rig:
    target = AvrTarget(PART, fuses={MemoryKind.LFUSE: 0xFF})
    return Rig(usbasp.DRIVER, UsbAsp(target=target, faults=faults), target)


def old_asp(*faults: UsbFault) -> Rig:
    target = AvrTarget(PART, fuses={MemoryKind.LFUSE: 0xFF})
    return Rig(usbasp.DRIVER, UsbAsp(UsbAspFirmware.STOCK_2007, target=target, faults=faults), target)


RIGS = {"usbtiny": tiny, "usbasp": asp, "usbasp 2007": old_asp}
each_rig = pytest.mark.parametrize("make", RIGS.values(), ids=RIGS)


async def session(programmer: IspProgrammer) -> bytes:
    """Flash a little of everything and return what is read back."""
    await programmer.enter(PART, 2_666_666)
    signature = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(PART.times.erase_s)
    assert await programmer.write(PART, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
    assert await programmer.write(PART, MemoryKind.EEPROM, [SETTINGS], Watch()) == 1
    found = [await programmer.read(MemoryKind.FLASH, Span(page.start, page.start + 128), Watch()) for page in PAGES]
    settings = await programmer.read(MemoryKind.EEPROM, SETTINGS.span, Watch())
    return signature + b"".join(found) + settings


EXPECTED = PART.signature.value + b"".join(page.data for page in PAGES) + SETTINGS.data


async def release(programmer: IspProgrammer) -> None:
    """Give a write the time to end, and release reset: twice, as the floor above does."""
    await anyio.sleep(0.2)
    try:
        await programmer.leave()
    except LinkClosedError:
        raise
    except IspdError:
        await programmer.leave()


async def whole(place: Rig) -> bytes | None:
    """Open, work, release; return what was read, None where an error was told."""
    try:
        programmer = await place.open()
    except (ProgrammerError, RemoteProtocolError, LinkTimeoutError):
        programmer = await place.open()
    found: bytes | None = None
    try:
        found = await session(programmer)
    except (RemoteProtocolError, LinkTimeoutError):
        assert place.log  # told, and nothing else: that is what is asked for
    await release(programmer)
    await programmer.aclose()
    place.check()
    return found


def transfers_of(make: Callable[..., Rig]) -> int:
    """Return how many transfers an undisturbed run takes."""
    place = make()
    assert run_virtual(whole, place) == EXPECTED
    return len(place.log)


def writes_in(place: Rig, kind: str) -> list[ControlTransfer]:
    """Return the transfers that change the target by themselves."""
    return [
        transfer
        for transfer in place.log
        if transfer.data
        or (
            transfer.request == SPI_REQUESTS[kind]
            and avr_isp.is_write(transfer.value.to_bytes(2, "little") + transfer.index.to_bytes(2, "little"))
        )
    ]


@each_rig
@pytest.mark.parametrize("meddle", Meddle)
def test_one_disturbance_anywhere_is_overcome_or_told_and_never_writes_twice(
    make: Callable[..., Rig], meddle: Meddle
) -> None:
    results: list[bytes | None] = []
    for index in range(transfers_of(make)):
        place = make()
        place.meddler = lambda number, _transfer, index=index: meddle if number == index else None  # type: ignore[misc]
        found = run_virtual(whole, place)
        results.append(found)
        if found is not None:
            assert found == EXPECTED
            assert bytes(place.target.flash[0:256]) == PAGES[0].data + PAGES[1].data
            assert bytes(place.target.eeprom[6:14]) == SETTINGS.data
        writes = writes_in(place, place.kind)
        assert len(writes) == len(set(writes))
    assert results.count(EXPECTED) > len(results) // 4


@each_rig
def test_the_plug_pulled_in_any_transfer_is_a_closed_link(make: Callable[..., Rig]) -> None:
    async def work(place: Rig) -> None:
        programmer = await place.open()
        await session(programmer)
        await programmer.leave()

    async def until_lost(place: Rig) -> None:
        with pytest.raises(LinkClosedError):
            await work(place)

    for index in range(transfers_of(make)):
        run_virtual(until_lost, make(UnpluggedAt(index)))


@each_rig
def test_a_device_that_hangs_is_given_up_soon_and_its_silence_is_told(make: Callable[..., Rig]) -> None:
    async def hang(index: int) -> float:
        place = make()
        programmer = await place.open()
        first = len(place.log)
        place.meddler = lambda number, _transfer: Meddle.TIMEOUT if number >= first + index else None
        with pytest.raises(LinkTimeoutError):
            await session(programmer)
        return sum(transfer.timeout_s for transfer in place.log[first + index :])

    for index in range(0, transfers_of(make) - 15, 5):
        assert run_virtual(hang, index) <= 5.0


@each_rig
def test_cancelling_at_any_instant_cuts_no_write_short_even_without_waiting(make: Callable[..., Rig]) -> None:
    async def cancelled_after(seconds: float) -> None:
        place = make()
        programmer = await place.open()
        await programmer.enter(PART, 2_666_666)
        with anyio.move_on_after(seconds):
            try:
                await programmer.write(PART, MemoryKind.FLASH, PAGES, Watch())
                await programmer.write(PART, MemoryKind.EEPROM, [SETTINGS], Watch())
            finally:
                await programmer.leave()
        place.check()

    for step in range(80):
        run_virtual(cancelled_after, 0.0017 * step + 0.0001)
