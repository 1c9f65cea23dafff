"""A board's USB side follows its flash, fuses, supply and reset line; the bench notices by itself, on virtual time."""

from collections.abc import AsyncIterator, Mapping

import anyio
import pytest
from tests.unit.vbench.flip_host import FlipHost, Told

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, LinkClosedError, TransportError
from ispd.model.image import Image
from ispd.model.part import MemoryKind
from ispd.transport.contract import ControlTransfer, PortChange, PortEvent, PortKind, SerialSettings, UsbLink
from vbench.bench_port import BenchPort
from vbench.board import ENUMERATION_S, Board
from vbench.board_faults import BoardFault, EraseLeaves, NeverEnumerates, Vanishes, WrongIdentity
from vbench.board_shown import ShownSerial
from vbench.firmware_image import application_image, bootloader_image
from vbench.hardware import BenchHardware
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget, Circuit
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

PORT = "1-2.1"
DFU, APP = "03EB:2FF4", "FEED:1234"
ATMEL, CATERINA = "atmel-dfu-32u4", "caterina-promicro16"
APP_BYTES = 3000
DEVICE = ControlTransfer(request_type=0x80, request=6, value=0x0100, length=18)


@pytest.fixture(scope="module")
def bootloaders(parts: Parts) -> Bootloaders:
    return load_bootloaders(parts)


def put(target: AvrTarget, *images: Image) -> None:
    for segment in (segment for image in images for segment in image.segments):
        target.flash[segment.start : segment.span.stop] = segment.data


class Maker:
    """Boards with an ATmega32U4."""

    def __init__(self, parts: Parts, bootloaders: Bootloaders) -> None:
        self.part = parts.avr("atmega32u4")
        self.bootloaders = bootloaders
        self.application = application_image(self.part, APP_BYTES, seed=1, usb=APP)

    def loader(self, name: str) -> Image:
        return bootloader_image(self.bootloaders.get(name), self.part, size_bytes=1024)

    def target(self, *images: Image, fuses: str | Mapping[MemoryKind, int] = ATMEL) -> AvrTarget:
        chosen = self.bootloaders.get(fuses).fuses if isinstance(fuses, str) else fuses
        target = AvrTarget(self.part, fuses=chosen)
        put(target, *images)
        return target

    def bench(self, target: AvrTarget, *faults: BoardFault, hwb_low: bool = True) -> BenchHardware:
        bench = BenchHardware()
        bench.add_port("B", PORT, Board(target, faults=faults, hwb_low=hwb_low))
        return bench


@pytest.fixture
def make(parts: Parts, bootloaders: Bootloaders) -> Maker:
    return Maker(parts, bootloaders)


async def changes(events: AsyncIterator[PortEvent], count: int) -> list[tuple[PortChange, str]]:
    found = [await anext(events) for _ in range(count)]
    assert {event.path for event in found} == {PORT}
    return [(event.change, str(event.usb)) for event in found]


async def shown(bench: BenchHardware, after_s: float = 0.3) -> str | None:
    await bench.sleep(after_s)
    device = await bench.device_at(PORT)
    return None if device is None else str(device.usb)


@virtual
async def test_the_whole_way_of_a_board(make: Maker) -> None:
    """By hand: bootloader by ISP, reset released, firmware over USB into the same cells, firmware started."""
    image = make.loader(ATMEL)
    bench = BenchHardware()
    bench.add("P", UsbAsp(), path="1-1.1", board_usb=PORT)
    async with bench, bench.hotplug() as events:
        assert (await anext(events)).path == "1-1.1"
        target = make.target(fuses={})
        bench.insert("P", target)
        assert await shown(bench, 5) is None, "blank"
        isp = await bench.open_usb("usb:1-1.1")
        await write_by_isp(isp, image)
        released_at = bench.now()
        assert await changes(events, 1) == [(PortChange.ADDED, DFU)]
        assert bench.now() - released_at == pytest.approx(ENUMERATION_S, abs=1e-3)
        first = await bench.device_at(PORT)
        assert first is not None
        flip = FlipHost(await bench.open_usb("usb:" + PORT))
        assert await flip.erase() == Told(0, 2)
        assert await flip.is_blank(0, 0x6FFF) == Told(0, 2)
        content = make.application.segments[0].data
        await flip.write_all(content)
        assert await flip.read(0, 1023) == content[:1024]
        await flip.download(b"\x04\x03\x00")
        with pytest.raises(LinkClosedError):
            await flip.download(b"")
        assert await changes(events, 2) == [(PortChange.REMOVED, DFU), (PortChange.ADDED, APP)]
        second = await bench.device_at(PORT)
        assert second is not None
        assert second.address != first.address
        assert target.flash[: len(content)] == content
        assert bytes(target.flash[0x7000:0x7400]) == image.segments[0].data
        assert target.violations == []
        await isp.submit([order(1, 0)])
        assert await changes(events, 1) == [(PortChange.REMOVED, APP)]
        assert await shown(bench, 10) is None, "held in reset"


def order(request: int, words: int, length: int = 4) -> ControlTransfer:
    """A request of a USBasp; 1 connect, 2 disconnect, 3 transmit, 5 enable."""
    value, index = words & 0xFFFF, words >> 16
    return ControlTransfer(request_type=0xC0, request=request, value=value, index=index, length=length)


def instruction(text: str) -> ControlTransfer:
    return order(3, int.from_bytes(bytes.fromhex(text), "little"))


async def write_by_isp(isp: UsbLink, image: Image, *, fuses: str = "5E D9 F3") -> None:
    """Erase the chip, write whole pages of 128 bytes and the fuses, and let the board go."""
    await isp.submit([order(1, 0)])
    await anyio.sleep(0.03)
    assert await isp.submit([order(5, 0, 1)]) == [b"\0"]
    await isp.submit([instruction("AC 80 00 00")])
    await anyio.sleep(0.02)
    for segment in image.segments:
        for page in range(segment.start, segment.span.stop, 128):
            data = segment.data[page - segment.start : page - segment.start + 128]
            orders = [
                f"{0x40 | (i & 1) << 3:02X} 00 {(page + i) // 2 & 0xFF:02X} {byte:02X}" for i, byte in enumerate(data)
            ]
            orders.append(f"4C {page // 2 >> 8:02X} {page // 2 & 0xFF:02X} 00")
            await isp.submit([instruction(text) for text in orders])
            await anyio.sleep(0.01)
    for select, value in zip(("A0", "A8", "A4"), fuses.split(), strict=True):
        await isp.submit([instruction(f"AC {select} 00 {value}")])
        await anyio.sleep(0.01)
    await isp.submit([order(2, 0)])


@virtual
async def test_what_starts_follows_fuses_pin_and_cells(make: Maker) -> None:
    dfu, application = make.loader(ATMEL), make.application
    whole_section = bootloader_image(make.bootloaders.get(ATMEL), make.part)
    full = make.target(whole_section, fuses={MemoryKind.HFUSE: 0xDA, MemoryKind.LFUSE: 0xFF})
    cases = [
        ("blank application: runs into the loader", make.target(dfu), True, DFU, DFU),
        ("HWBE: the pin counts at an external reset only", make.target(dfu, application), True, APP, DFU),
        ("HWB high", make.target(dfu, application), False, APP, APP),
        ("BOOTRST", make.target(dfu, application, fuses=CATERINA), False, DFU, DFU),
        (
            "BOOTRST, boot section blank: runs on into the application",
            make.target(application, fuses=CATERINA),
            True,
            APP,
            APP,
        ),
        (
            "a blank section above the loader: runs round and into it",
            make.target(dfu, fuses={MemoryKind.HFUSE: 0xDA}),
            True,
            DFU,
            DFU,
        ),
        ("BOOTRST into the middle of other code", full, False, None, None),
        ("nothing in it", make.target(), True, None, None),
    ]
    for why, target, hwb_low, at_power, at_reset in cases:
        bench = make.bench(target, hwb_low=hwb_low)
        async with bench:
            assert await shown(bench) == at_power, why
            target.set_reset(True, bench.now())
            assert await shown(bench) is None, why
            target.set_reset(False, bench.now())
            assert await shown(bench, 0.24) is None, why
            assert await shown(bench, 0.02) == at_reset, why


@virtual
async def test_what_cannot_run_shows_nothing(make: Maker) -> None:
    spoiled = make.target(make.loader(ATMEL))
    spoiled.flash[0x7000 + 900] ^= 0x10
    half_written = make.target(make.application)
    half_written.flash[APP_BYTES // 2 : APP_BYTES] = b"\xff" * (APP_BYTES // 2)
    no_crystal = AvrTarget(make.part, circuit=Circuit(crystal_hz=None))
    put(no_crystal, make.loader(ATMEL))
    rc_clock = make.target(make.loader(ATMEL), fuses={MemoryKind.LFUSE: 0xE2})
    for target in (spoiled, half_written, no_crystal, rc_clock):
        async with make.bench(target) as bench:
            assert await shown(bench, 5) is None


@virtual
async def test_the_disease_of_the_erase_and_its_cure(make: Maker) -> None:
    """ "Not blank at 0x1": the erase answers OK and leaves its cells, until a chip erase by ISP."""
    target = make.target(make.loader(ATMEL), make.application)
    bench = BenchHardware()
    bench.add("P", UsbAsp(), path="1-1.1", board_usb=PORT)
    async with bench:
        bench.insert("P", Board(target, faults=[EraseLeaves()]))
        isp = await bench.open_usb("usb:1-1.1")
        await isp.submit([order(1, 0), order(2, 0)])
        assert await shown(bench) == DFU
        flip = FlipHost(await bench.open_usb("usb:" + PORT))
        for _ in range(3):
            assert await flip.erase() == Told(0, 2)
            assert await flip.is_blank(0, 0x6FFF) == Told(5, 10)
            assert await flip.upload(2) == b"\x00\x00"
            await flip.clear()
        assert target.flash[:APP_BYTES] == make.application.segments[0].data
        await write_by_isp(isp, make.loader(ATMEL))
        assert await shown(bench) == DFU
        flip = FlipHost(await bench.open_usb("usb:" + PORT))
        assert await flip.erase() == Told(0, 2)
        await flip.write_all(make.application.segments[0].data)
        assert await flip.erase() == Told(0, 2)
        assert await flip.is_blank(0, 0x6FFF) == Told(0, 2)


@virtual
async def test_a_diseased_erase_spoils_a_blank_board_and_passes_after_tries(make: Maker) -> None:
    target = make.target(make.loader(ATMEL))
    async with make.bench(target, EraseLeaves(chip_erases=2, tries=2)) as bench:
        assert await shown(bench) == DFU
        flip = FlipHost(await bench.open_usb("usb:" + PORT))
        for _ in range(2):
            await flip.erase()
            assert (await flip.is_blank(0, 0x6FFF)).status == 5
            await flip.clear()
        await flip.erase()
        assert (await flip.is_blank(0, 0x6FFF)).status == 0


@virtual
async def test_vanishing_strange_and_silent_boards(make: Maker) -> None:
    application = make.target(make.application)
    async with make.bench(
        application, NeverEnumerates(enumeration=2), WrongIdentity(usb="16C0:0478", enumeration=3)
    ) as bench:
        told = []
        for _ in range(4):
            told.append(await shown(bench))
            application.set_reset(True, bench.now())
            application.set_reset(False, bench.now() + 0.001)
        assert told == [APP, None, "16C0:0478", APP]
    loader = make.target(make.loader(ATMEL))
    async with make.bench(loader, Vanishes(transfer=5)) as bench, bench.hotplug() as events:
        assert await changes(events, 1) == [(PortChange.ADDED, DFU)]
        flip = FlipHost(await bench.open_usb("usb:" + PORT))
        await flip.erase()
        await flip.info(0, 0)
        await flip.told()
        with pytest.raises(LinkClosedError):
            await flip.told()
        assert await changes(events, 1) == [(PortChange.REMOVED, DFU)]
        assert await shown(bench, 100) is None
        loader.set_reset(True, bench.now())
        loader.set_reset(False, bench.now())
        assert await changes(events, 1) == [(PortChange.ADDED, DFU)]


@virtual
async def test_a_loader_with_a_serial_port_has_a_tty(make: Maker) -> None:
    target = make.target(make.loader(CATERINA), fuses=CATERINA)
    async with make.bench(target) as bench, bench.hotplug() as events:
        come = [await anext(events)]
        (device,) = bench.devices()
        assert device.tty is None, "its driver has not found it yet"
        come.append(await anext(events))
        assert [(event.kind, event.port) for event in come] == [
            (PortKind.USB, "usb:" + PORT),
            (PortKind.SERIAL, "/dev/ttyACM0"),
        ]
        (device,) = bench.devices()
        assert (device.tty, str(device.usb)) == ("/dev/ttyACM0", "1B4F:9205")
        settings = SerialSettings(port="/dev/ttyACM0", baud=57600, path=PORT)
        port = await bench.open_serial(settings)
        assert await answer(port, b"S", 7) == b"CATERIN"
        with pytest.raises(TransportError) as busy:
            await bench.open_serial(settings)
        assert busy.value.code is ErrorCode.PORT_BUSY
        target.set_reset(True, bench.now())
        with pytest.raises(LinkClosedError):
            await port.receive()
        assert [(await anext(events)).kind for _ in come] == [PortKind.SERIAL, PortKind.USB]
        with pytest.raises(TransportError) as gone:
            await bench.open_serial(settings)
        assert gone.value.code is ErrorCode.PORT_NOT_FOUND


@virtual
async def test_a_loader_with_a_serial_port_vanishes_by_bytes(make: Maker) -> None:
    target = make.target(make.loader(CATERINA), fuses=CATERINA)
    async with make.bench(target, Vanishes(transfer=3)) as bench:
        assert await shown(bench) == "1B4F:9205"
        port = await bench.open_serial(SerialSettings(port="/dev/ttyACM0", baud=57600))
        assert await answer(port, b"SV", 9) == b"CATERIN10"
        with pytest.raises(LinkClosedError):
            await answer(port, b"pp", 1)
        assert await shown(bench) is None


async def answer(port: BenchPort, question: bytes, count: int) -> bytes:
    await port.send(question)
    found = b""
    with anyio.fail_after(1):
        while len(found) < count:
            found += await port.receive()
    return found


@virtual
async def test_a_touch_at_1200_baud_starts_the_bootloader(make: Maker) -> None:
    sketch = application_image(make.part, APP_BYTES, usb="1B4F:9206", has_serial_port=True)
    target = make.target(make.loader(CATERINA), sketch, fuses=CATERINA)
    async with make.bench(target) as bench:
        assert await shown(bench) == "1B4F:9206"
        face = bench.face(PORT)
        assert isinstance(face, ShownSerial)
        face.opened(bench.now(), baud=1200, dtr=False)
        assert await shown(bench, 0.1) == "1B4F:9206"
        assert await shown(bench, 0.1) is None
        assert await shown(bench, 0.25) == "1B4F:9205"
        assert await shown(bench, 8.5) == "1B4F:9206", "nobody spoke to the loader"


@virtual
async def test_a_board_with_two_supplies_needs_both_taken_away(make: Maker) -> None:
    target = make.target(make.application)
    bench = BenchHardware()
    bench.add("P", SerialProgrammer(), path="1-1.1", board_usb=PORT)
    async with bench:
        bench.insert("P", target)
        assert await shown(bench) == APP
        number = [device.address for device in bench.devices() if device.path == PORT]
        bench.unplug("P")
        assert await shown(bench) == APP
        assert [device.address for device in bench.devices()] == number, "the very same enumeration"
        bench.plug("P")
        side = bench.board("P")
        assert bench.remove("P") is target
        assert await shown(bench) is None
        assert not target.powered
        bench.insert("P", target)
        assert bench.board("P") is side, "the same board, with what is wrong with it"
        assert await shown(bench) == APP


@virtual
async def test_a_port_of_a_board_is_used_by_one_and_lost_with_the_board(make: Maker) -> None:
    async with make.bench(make.target(make.loader(ATMEL))) as bench:
        assert await shown(bench) == DFU
        link = await bench.open_usb("usb:" + PORT)
        assert (str(link.identity), link.identity.product) == (DFU, "ATm32U4DFU")
        async with bench.hotplug() as events:
            assert await changes(events, 1) == [(PortChange.ADDED, DFU)], "who comes late is told what is there"
        with pytest.raises(TransportError) as busy:
            await bench.open_usb("usb:" + PORT)
        assert busy.value.code is ErrorCode.PORT_BUSY
        bench.remove("B")
        with pytest.raises(LinkClosedError):
            await link.submit([DEVICE])
        with pytest.raises(TransportError) as gone:
            await bench.open_usb("usb:" + PORT)
        assert gone.value.code is ErrorCode.PORT_NOT_FOUND


@virtual
async def test_the_reset_button(make: Maker) -> None:
    target = make.target(make.loader(CATERINA), make.application, fuses=CATERINA)
    bench = BenchHardware()
    bench.add("P", UsbAsp(), path="1-1.1", board_usb=PORT)
    bench.add_port("Q", "1-2.2", refusal=ErrorCode.PERMISSION_DENIED)
    async with bench:
        bench.press("P")
        bench.insert("P", target)
        assert await shown(bench) == APP
        bench.press("P")
        assert await shown(bench, 0.01) is None
        assert await shown(bench, 1.2) == APP, "one press starts the application again"
        bench.press("P")
        await bench.sleep(0.3)
        bench.press("P")
        assert await shown(bench, 0.4) == "1B4F:9205", "two of them the bootloader"
        isp = await bench.open_usb("usb:1-1.1")
        await isp.submit([order(1, 0)])
        bench.press("P")
        assert await shown(bench, 1) is None, "the programmer holds it"
        bench.remove("P")
        bench.insert("Q", target)
        await bench.sleep(1)
        with pytest.raises(TransportError) as refused:
            await bench.open_usb("usb:1-2.2")
        assert refused.value.code is ErrorCode.PERMISSION_DENIED
