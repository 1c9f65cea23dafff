"""Atmel's USB bootloader, the factory's and LUFA's, by hand: what distinguishes them, and what lock bits do to both."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.vbench.flip_host import FlipHost, Told

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import LinkClosedError, RemoteProtocolError
from ispd.model.part import MemoryKind
from ispd.transport.contract import ControlTransfer, UsbDeviceAt
from vbench.board import Board
from vbench.firmware_image import application_image, bootloader_image
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

PORT = "1-2"
ATMEL, LUFA, QMK, LARGE = "atmel-dfu-32u4", "lufa-dfu-32u4", "qmk-dfu-32u4", "atmel-dfu-usb128"
IDLE, NOT_BLANK, REFUSED = Told(0, 2), Told(5, 10), Told(3, 10)
Start = Callable[..., AbstractAsyncContextManager[tuple[BenchHardware, AvrTarget, FlipHost]]]


@pytest.fixture(scope="module")
def start(parts: Parts) -> Start:
    bootloaders = load_bootloaders(parts)

    @asynccontextmanager
    async def started(
        name: str, *, old: bytes = b"", lock: int = 0xFF, fuses: dict[MemoryKind, int] | None = None
    ) -> AsyncIterator[tuple[BenchHardware, AvrTarget, FlipHost]]:
        loader = bootloaders.get(name)
        part = parts.avr(loader.parts[0])
        target = AvrTarget(part, fuses={**loader.fuses, **(fuses or {})}, lock=lock)
        for segment in bootloader_image(loader, part).segments:
            target.flash[segment.start : segment.span.stop] = segment.data
        target.flash[: len(old)] = old
        bench = BenchHardware()
        bench.add_port("B", PORT, Board(target))
        async with bench:
            target.set_reset(True, 0.0)
            target.set_reset(False, 0.0)
            await bench.sleep(0.3)
            yield bench, target, FlipHost(await bench.open_usb("usb:" + PORT))

    return started


async def here(bench: BenchHardware, after_s: float) -> UsbDeviceAt | None:
    await bench.sleep(after_s)
    return await bench.device_at(PORT)


async def descriptors(flip: FlipHost) -> tuple[bytes, bytes]:
    kinds = [ControlTransfer(request_type=0x80, request=6, value=kind << 8, length=255) for kind in (1, 2)]
    device, configuration = await flip.link.submit(kinds)
    return device, configuration


@virtual
async def test_how_they_look(start: Start) -> None:
    async with start(ATMEL) as (bench, _, flip):
        device, configuration = await descriptors(flip)
        assert (device[4:8], device[12:14], len(configuration)) == (b"\xfe\x01\x00\x20", b"\x00\x00", 18)
        assert configuration[9:] == b"\x09\x04" + bytes(7)
        texts = flip.link.identity
        assert (texts.manufacturer, texts.product, texts.serial) == ("ATMEL", "ATm32U4DFU", "1.0.0")
        assert [await flip.info(0, index) for index in range(3)] == [0x00, 0xDC, 0xFB]
        found = await here(bench, 0)
        assert found is not None
        assert found.version == 0x0000
    async with start(QMK) as (bench, _, flip):
        device, configuration = await descriptors(flip)
        assert (device[4:8], device[12:14]) == (b"\x00\x00\x00\x20", b"\x36\x09")
        assert configuration[14:17] == b"\xfe\x01\x02"
        assert configuration[18:] == bytes.fromhex("09 21 03 00 00 00 0C 10 01")
        assert flip.link.identity.manufacturer == "QMK"
        assert await flip.info(0, 0) == 0x20
        assert [await flip.info(1, index) for index in (0x30, 0x31, 0x60, 0x61)] == [0x58, 0x1E, 0x95, 0x87]
        await flip.download(b"\x05\x00\x07")
        assert await flip.told() == Told(8, 10)
        found = await here(bench, 0)
        assert found is not None
        assert found.version == 0x0936


@virtual
async def test_the_factory_loader_refuses_everything_until_it_has_erased(start: Start) -> None:
    old = bytes(range(256))
    async with start(ATMEL, old=old) as (_, target, flip):
        for command in (b"\x03\x00\0\0\0\xff", b"\x01\x00\0\0\0\0" + bytes(26), b"\x03\x01\0\0\0\xff", b"\x04\x03\x00"):
            with pytest.raises(RemoteProtocolError):
                await flip.download(command)
            assert await flip.told() == REFUSED
            await flip.clear()
        assert await flip.info(1, 0x31) == 0x1E
        assert await flip.erase() == IDLE
        assert await flip.write(0, old) == Told(0, 5)
        assert await flip.read(0, 255) == old == target.flash[:256]
    async with start(QMK, old=old) as (_, _, flip):
        assert await flip.read(0, 255) == old


@virtual
async def test_blank_checks_answer_in_another_byte_order(start: Start) -> None:
    for name, answer in ((ATMEL, b"\x12\x34"), (QMK, b"\x34\x12")):
        async with start(name) as (_, target, flip):
            await flip.erase()
            assert await flip.is_blank(0, 0x6FFF) == IDLE
            target.flash[0x1234] = 0x7F
            assert await flip.is_blank(0, 0x6FFF) == NOT_BLANK
            assert await flip.upload(2) == answer
            await flip.clear()
            assert await flip.told() == IDLE


@virtual
async def test_pages_above_64_kib(start: Start, parts: Parts) -> None:
    image = application_image(parts.avr("at90usb1286"), 0x11000, seed=2).segments[0].data
    async with start(LARGE) as (_, target, flip):
        await flip.erase()
        await flip.write_all(image)
        assert target.flash[: len(image)] == image
        await flip.segment(1)
        assert await flip.read(0x0F00, 0x0FFF) == image[0x10F00:]
        assert await flip.is_blank(0x1000, 0xDFFF) == IDLE
        await flip.segment(0)
        assert await flip.read(0, 0xFF) == image[:256]


@virtual
async def test_eeprom_and_parts_of_pages(start: Start) -> None:
    async with start(ATMEL) as (_, target, flip):
        await flip.erase()
        assert await flip.write(6, b"hands", memory=1, filler=6) == Told(0, 5)
        assert target.eeprom[5:12] == b"\xffhands\xff"
        assert await flip.read(6, 10, memory=2) == b"hands"
        await flip.write(0x40, b"one " * 8)
        await flip.write(0x60, b"two " * 8)
        assert target.flash[0x40:0x80] == b"one " * 8 + b"two " * 8, "the page around stays"
        with pytest.raises(RemoteProtocolError):
            await flip.write(0x6FE0, bytes(64))
        assert await flip.told() == Told(8, 10)
    async with start(QMK) as (_, target, flip):
        await flip.write(0x40, b"one " * 8)
        await flip.write(0x60, b"two " * 8)
        assert target.flash[0x40:0x80] == b"\xff" * 32 + b"two " * 8, "it erases the page for every block"


@virtual
async def test_ways_to_start(start: Start, parts: Parts) -> None:
    image = application_image(parts.avr("atmega32u4"), 2000, usb="FEED:0002").segments[0].data
    for name, command, app_s in (
        (ATMEL, b"\x04\x03\x00", 0.26),
        (ATMEL, b"\x04\x03\x01\0\0", 0.26),
        (QMK, b"\x04\x03\x00", 0.51),
    ):
        async with start(name, old=image) as (bench, _, flip):
            await flip.erase()
            await flip.write_all(image)
            await flip.download(command)
            assert await here(bench, 5) is not None, "it waits for the second download"
            if name == ATMEL:
                with pytest.raises(LinkClosedError):
                    await flip.download(b"")
            else:
                await flip.download(b"")
                assert await flip.told() == Told(0, 2)
            found = await here(bench, app_s)
            assert found is not None
            assert str(found.usb) == "FEED:0002"
    async with start(QMK, old=image) as (bench, _, flip):
        await flip.download(b"\x04\x03\x01\0\0")
        await flip.download(b"")
        found = await here(bench, 5)
        assert found is not None
        assert str(found.usb) == "03EB:2FF4", "LUFA's does not jump into an application"


@virtual
async def test_boot_lock_bits_bind_the_loader(start: Start) -> None:
    old = bytes(range(1, 201))
    async with start(QMK, old=old, lock=0xFB) as (_, target, flip):  # BLB01: no SPM to the application section
        assert await flip.erase() == IDLE
        assert await flip.is_blank(0, 0x6FFF) == NOT_BLANK
        assert target.flash[:200] == old
    async with start(QMK, old=old, lock=0xF7) as (_, _, flip):  # BLB02: no LPM from there
        assert await flip.read(0, 199) == b"\xff" * 200
    async with start(QMK, lock=0xEF) as (_, target, flip):  # BLB11: the loader cannot overwrite itself
        before = bytes(target.flash[0x7000:])
        await flip.write(0x7000, b"gone" * 32)
        assert target.flash[0x7000:] == before
    async with start(QMK) as (_, target, flip):
        await flip.write(0x7000, b"gone" * 32)
        assert target.flash[0x7000:0x7080] == b"gone" * 32


@virtual
async def test_a_loader_outside_the_boot_section_writes_nothing(start: Start) -> None:
    small = {MemoryKind.HFUSE: 0xDF, MemoryKind.EFUSE: 0xFB}  # 512 bytes at 7E00; the loader begins at 7000
    async with start(QMK, fuses=small) as (_, target, flip):
        await flip.write(0, b"abcd" * 8)
        assert target.flash[:32] == b"\xff" * 32


@virtual
async def test_programming_takes_its_time_and_is_seen_as_busy(start: Start) -> None:
    async with start(QMK) as (bench, target, flip):
        begun = bench.now()
        await flip.erase()
        assert bench.now() - begun == pytest.approx(0x7000 / 128 * 4.5e-3, rel=0.01)
        begun = bench.now()
        await flip.write(0, bytes(1024))
        assert bench.now() - begun == pytest.approx(8 * 9e-3 + (1024 + 48) / 32 * 0.2e-3, rel=0.02)
        assert target.core.busy_until == pytest.approx(bench.now(), abs=2e-3)


@given(
    st.sampled_from([ATMEL, QMK, LARGE]),
    st.lists(
        st.tuples(
            st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 7]),
            st.binary(max_size=90)
            | st.tuples(st.integers(1, 6), st.binary(max_size=90)).map(lambda two: bytes((two[0],)) + two[1]),
            st.integers(0, 300),
        ),
        max_size=12,
    ),
)
@settings(max_examples=60, deadline=None)
def test_no_request_upsets_it(start: Start, name: str, requests: list[tuple[int, bytes, int]]) -> None:
    """Whatever a host sends is answered, refused or ends it; the factory loader never touches itself."""

    async def go() -> None:
        async with start(name) as (_, target, flip):
            section = bytes(target.flash[-4096:])
            try:
                for request, data, length in requests:
                    is_in = request in (2, 3, 5)
                    transfer = ControlTransfer(
                        request_type=0xA1 if is_in else 0x21,
                        request=request,
                        data=b"" if is_in else data,
                        length=length if is_in else 0,
                        timeout_s=30,
                    )
                    with suppress(RemoteProtocolError):
                        await flip.link.submit([transfer])
            except LinkClosedError:
                assert any(data[:2] == b"\x04\x03" for _, data, _ in requests), "it leaves only where it is told to"
            assert name == QMK or target.flash[-4096:] == section

    run_virtual(go)
