"""The daemon's follow-up tools for Caterina, HalfKay and STM32duino: unmodified programs, emulated boards."""

import codecs
import shutil
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from tests.oracle.chain_desk import BedDesk, BoardOnBed
from tests.oracle.usb.bed import UsbBed, missing_packages
from tests.unit.vbench.tools.dfu_device import DfuDevice

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain import avrdude, dfu_util, teensy
from ispd.chain.contract import ChainWork
from ispd.errors import ErrorCode, TargetError
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, ToolOutcome, ToolRun, UsbDeviceAt, UsbIdentity, UsbLink
from ispd.transport.process import run_tool
from vbench.board import Board
from vbench.board_chip import Chip
from vbench.board_face import Exit
from vbench.board_faults import Vanishes
from vbench.caterina import Caterina
from vbench.faults import LostPage
from vbench.firmware_image import application_image, bootloader_image
from vbench.pty_board import PtyBoard
from vbench.stm32 import stm32_application
from vbench.stm32_board import Stm32Board
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice

pytestmark = [pytest.mark.oracle, pytest.mark.anyio]

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
PLACE = "1-1.4"
KEYBOARD = "FEED:1234"
TIME_SCALE = 8.0


@pytest.fixture(autouse=True)
def packages() -> None:
    """What this suite needs is required: a missing program is a failure and not a skip."""
    for program in ("avrdude", "teensy_loader_cli", "dfu-util"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed: apt-get install {program.replace('_', '-')}")
    missing = missing_packages()
    if missing is not None:
        pytest.fail(f"{missing} is not installed")


def work_for(bootloader: str, size_bytes: int, *, seed: int = 1) -> ChainWork:
    """A firmware for the first part of a bootloader of the catalog."""
    loader = BOOTLOADERS.get(bootloader)
    part = PARTS.avr(loader.parts[0])
    return ChainWork(
        part=part, bootloader=loader, firmware=application_image(part, size_bytes, seed=seed, usb=KEYBOARD)
    )


def target_for(work: ChainWork, **options: object) -> AvrTarget:
    """A chip with the bootloader in it and fuses that start it after each reset."""
    assert isinstance(work.part, AvrPart)
    fuses = {**work.bootloader.fuses}
    fuses[MemoryKind.HFUSE] = fuses.get(MemoryKind.HFUSE, work.part.fuses[1].default) & ~0x01  # BOOTRST
    target = AvrTarget(work.part, fuses=fuses, **options)  # type: ignore[arg-type]  # passed through
    for segment in bootloader_image(work.bootloader, work.part).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    return target


# -- avrdude and Caterina -------------------------------------------------------------------------------------------


class PtyDesk:
    """A desk whose board is a pseudo-terminal."""

    def __init__(self, tty: str) -> None:
        self.clock = SystemClock()
        self.done: list[int] = []
        self._tty = tty

    async def here(self) -> UsbDeviceAt:
        usb = UsbIdentity(vendor_id=0x1B4F, product_id=0x9205)
        return UsbDeviceAt(path=PLACE, bus=1, address=4, usb=usb, version=1, tty=self._tty)

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return await run_tool(run, lambda piece: on_text(decoder.decode(piece)))

    async def open_usb(self) -> UsbLink:
        raise AssertionError(self._tty)

    async def open_serial(self, baud: int) -> BytePort:
        raise AssertionError(baud)

    def advance(self, done_bytes: int) -> None:
        self.done.append(done_bytes)


def caterina(work: ChainWork, target: AvrTarget) -> Caterina:
    section = work.bootloader.section
    assert section is not None
    target.power_on(0.0, reset_active=False)
    return Caterina(
        Chip(target, section=section, start=section.start, ram={}), UsbIdentity(vendor_id=0x1B4F, product_id=0x9205)
    )


async def test_caterina_is_written_and_read_in_one_run() -> None:
    """The cells are what was handed up, the loader is unharmed and leaves for the firmware, and the bar went in steps."""
    work = work_for("caterina-promicro16", 9000)
    target = target_for(work)
    target.flash[0x4000:0x4004] = b"old!"
    before, loader = bytes(target.flash), caterina(work, target)
    with PtyBoard(loader, time_scale=TIME_SCALE) as board:
        desk = PtyDesk(board.path)
        found = await avrdude.TOOL.write(work, desk)
    assert found is not None
    assert found[0].data == bytes(target.flash)[: len(found[0].data)]
    assert target.flash[: work.firmware.span.stop] == work.firmware.bytes_in(work.firmware.span)
    assert set(target.flash[work.firmware.span.stop : 0x7000]) == {0xFF}
    assert target.flash[0x7000:] == before[0x7000:]
    assert loader.departure is not None
    assert loader.departure.exit is Exit.APPLICATION
    assert sum(desk.done) == len(work.firmware)
    assert len([step for step in desk.done if step]) > 5


async def test_caterina_with_a_page_that_stays_wrong() -> None:
    """What was read is handed up as it is: the difference is for the floor above to find."""
    work = work_for("caterina-promicro16", 3000)
    target = target_for(work, faults=[LostPage(0x180)])
    with PtyBoard(caterina(work, target), time_scale=TIME_SCALE) as board:
        found = await avrdude.TOOL.write(work, PtyDesk(board.path))
    assert found is not None
    assert found[0].data[0x180:0x200] == b"\xff" * 0x80 != work.firmware.bytes_in(work.firmware.span)[0x180:0x200]


async def test_caterina_on_another_chip() -> None:
    """avrdude looks at the signature before it writes anything."""
    work = work_for("caterina-promicro16", 3000)
    other = ChainWork(part=PARTS.avr("atmega16u4"), bootloader=work.bootloader, firmware=work.firmware)
    target = target_for(work)
    before = bytes(target.flash)
    with PtyBoard(caterina(work, target), time_scale=TIME_SCALE) as board, pytest.raises(TargetError) as failure:
        await avrdude.TOOL.write(other, PtyDesk(board.path))
    assert failure.value.code is ErrorCode.TOOL_FAILED
    assert bytes(target.flash) == before


async def test_caterina_whose_port_is_gone() -> None:
    """A tty that vanished before avrdude opened it is a failure with avrdude's own words."""
    work = work_for("caterina-promicro16", 3000)
    with pytest.raises(TargetError, match="avrdude could not write") as failure:
        await avrdude.TOOL.write(work, PtyDesk("/dev/ttyACM250"))
    assert failure.value.code is ErrorCode.TOOL_FAILED


def on_bed(devices: Mapping[str, BoardOnBed[Any]]) -> UsbBed:
    """Put boards on a bed; they are as much of a device as it asks for."""
    return UsbBed(cast("Mapping[str, UsbDevice]", devices))


# -- teensy_loader_cli and HalfKay ----------------------------------------------------------------------------------


def in_halfkay(work: ChainWork, **options: object) -> BoardOnBed[Board]:
    target = target_for(work)
    board = Board(target, bootloaders=[work.bootloader], **options)  # type: ignore[arg-type]  # passed through
    device = BoardOnBed(board)
    assert device.look(1.0) == "16C0:0478"
    return device


@pytest.mark.parametrize(("bootloader", "size_bytes"), [("halfkay-32u4", 20_000), ("halfkay-usb1286", 90_000)])
async def test_halfkay_from_bootloader_to_running_firmware(bootloader: str, size_bytes: int) -> None:
    """Every block arrives, beyond 64 KiB too; nothing is read back; one run ends with the firmware running."""
    work = work_for(bootloader, size_bytes)
    device = in_halfkay(work)
    with on_bed({PLACE: device}) as bed:
        desk = BedDesk(bed, PLACE, device)
        assert await teensy.TOOL.write(work, desk) is None
    assert desk.done_bytes == len(work.firmware)
    assert device.board.target.flash[: work.firmware.span.stop] == work.firmware.bytes_in(work.firmware.span)
    assert device.look(2.0) == KEYBOARD


@pytest.mark.parametrize("transfer", [0, 1, 5])
async def test_halfkay_that_vanishes(transfer: int) -> None:
    """A board that is gone before the last block is a failure."""
    work = work_for("halfkay-32u4", 3000)
    device = in_halfkay(work, faults=[Vanishes(transfer=transfer)])
    with on_bed({PLACE: device}) as bed, pytest.raises(TargetError) as failure:
        await teensy.TOOL.write(work, BedDesk(bed, PLACE, device))
    assert failure.value.code is ErrorCode.TOOL_FAILED


# -- dfu-util and STM32duino ----------------------------------------------------------------------------------------


def bluepill_work(size_bytes: int, seed: int) -> ChainWork:
    firmware = Image.of([Segment(0x08002000, stm32_application(size_bytes, seed=seed, usb=KEYBOARD))])
    return ChainWork(part=None, bootloader=BOOTLOADERS.get("stm32duino-pc13"), firmware=firmware)


async def test_stm32duino_each_board_its_own() -> None:
    """Two boards with the same id and the same serial number, an old firmware on one: each gets its own and starts it."""
    works = {"1-1.4": bluepill_work(20_001, 1), "1-1.2": bluepill_work(9_000, 2)}
    devices = {path: BoardOnBed(Stm32Board()) for path in works}
    with on_bed(devices) as bed:
        for path, work in works.items():
            desk = BedDesk(bed, path, devices[path])
            assert await dfu_util.TOOL.write(work, desk) is None
            assert desk.done_bytes == len(work.firmware)
    for path, device in devices.items():
        data = works[path].firmware.segments[0].data
        assert device.board.chip.flash[0x2000 : 0x2000 + len(data)] == data
        device.board.bus_reset(device.now)
        assert device.look(2.0) == KEYBOARD


@pytest.mark.parametrize("transfer", [3, 8, 17])
async def test_stm32duino_that_vanishes(transfer: int) -> None:
    """A board that is gone before it took everything is a failure, whatever the exit code."""
    work = bluepill_work(9_000, 3)
    device = BoardOnBed(Stm32Board(faults=[Vanishes(transfer=transfer)]))
    with on_bed({PLACE: device}) as bed, pytest.raises(TargetError) as failure:
        await dfu_util.TOOL.write(work, BedDesk(bed, PLACE, device))
    assert failure.value.code is ErrorCode.TOOL_FAILED


# -- dfu-util and DfuSe ---------------------------------------------------------------------------------------------

ROM = 0x08000000
LAYOUT = "@Internal Flash  /0x08000000/064*0001Kg"


def rom(**options: object) -> DfuDevice:
    facts: dict[str, Any] = {
        "vendor_id": 0x0483,
        "product_id": 0xDF11,
        "is_dfuse": True,
        "names": (LAYOUT,),
        "serial": "",
    }
    return DfuDevice(**facts, **options)  # type: ignore[arg-type]  # passed through


def stm32_work(size_bytes: int) -> ChainWork:
    vectors = (0x20002000).to_bytes(4, "little") + (ROM + 0x101).to_bytes(4, "little")
    body = bytes((address * 7 + (address >> 8)) & 0xFF for address in range(size_bytes - 8))
    firmware = Image.of([Segment(ROM, vectors + body)])
    return ChainWork(part=None, bootloader=BOOTLOADERS.get("stm32-dfu"), firmware=firmware)


@pytest.mark.parametrize("leaves_at", ["", "status", "download"])
async def test_dfuse_is_read_back_and_then_leaves(leaves_at: str) -> None:
    """The ROM loader stays after writing, brings what was written, and leaves when the firmware is to start."""
    work, device = stm32_work(5_003), rom(leaves_at=leaves_at)
    with UsbBed({PLACE: cast("UsbDevice", device)}) as bed:
        desk = BedDesk(bed, PLACE, cast("BoardOnBed[Any]", device))
        found = await dfu_util.TOOL.write(work, desk)
        assert found == [Segment(ROM, work.firmware.segments[0].data + b"\xff")]
        assert bytes(device.content[:5_003]) == work.firmware.segments[0].data
        assert desk.done_bytes == len(work.firmware)
        assert device.power_lost_at is None
        await dfu_util.TOOL.start(work, desk)
    assert (device.power_lost_at is not None) is bool(leaves_at)
    assert ":leave" in " ".join(desk.runs[-1].words)


@pytest.mark.parametrize("fails_at", [0, 4, 20])
async def test_dfuse_that_fails(fails_at: int) -> None:
    """A page that cannot be erased, a block that cannot be programmed, a board that cannot be read: never a pass."""
    device = rom(fails_at=fails_at)
    with UsbBed({PLACE: cast("UsbDevice", device)}) as bed, pytest.raises(TargetError) as failure:
        await dfu_util.TOOL.write(stm32_work(5_003), BedDesk(bed, PLACE, cast("BoardOnBed[Any]", device)))
    assert failure.value.code is ErrorCode.TOOL_FAILED
