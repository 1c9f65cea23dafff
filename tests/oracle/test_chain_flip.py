"""The daemon's tool for FLIP bootloaders, with unmodified dfu-programmers, on emulated boards.

Debian's 0.6.1 is required; other builds are driven too where ``ISPD_DFU_PROGRAMMERS`` names them (paths, colons between).
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.oracle.chain_desk import BedDesk, BoardOnBed
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain.contract import ChainWork
from ispd.chain.dfu_programmer import TOOL
from ispd.errors import ErrorCode, TargetError
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart, MemoryKind
from vbench.board import Board
from vbench.board_faults import EraseLeaves, Vanishes
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget

pytestmark = [pytest.mark.oracle, pytest.mark.anyio]

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
FUSES = {MemoryKind.LFUSE: 0x5E, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0xF3}
PLACE = "1-1.4"
KEYBOARD = "FEED:1234"


def _builds() -> list[str]:
    return ["dfu-programmer", *filter(None, os.environ.get("ISPD_DFU_PROGRAMMERS", "").split(":"))]


@pytest.fixture(params=_builds())
def search_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder where the program of this round goes by its usual name, before all others."""
    found = shutil.which(request.param)
    if found is None:
        pytest.fail(f"{request.param} is not installed: apt-get install dfu-programmer")
    missing = missing_packages()
    if missing is not None:
        pytest.fail(f"{missing} is not installed")
    (tmp_path / "dfu-programmer").symlink_to(found)
    return f"{tmp_path}:{os.environ['PATH']}"


def work_for(bootloader: str, part: str, size_bytes: int, seed: int = 1) -> ChainWork:
    """A firmware with a hole in it, for a bootloader of the catalog."""
    whole = application_image(PARTS.avr(part), size_bytes, seed=seed, usb=KEYBOARD)
    return ChainWork(part=PARTS.avr(part), bootloader=BOOTLOADERS.get(bootloader), firmware=whole)


def board_for(work: ChainWork, *, old: Image | None = None, **options: object) -> BoardOnBed[Board]:
    """A board with the bootloader on it, started by its reset button, and maybe an old firmware."""
    assert isinstance(work.part, AvrPart)
    target = AvrTarget(work.part, fuses=dict(zip(FUSES, _fuses(work), strict=True)))
    for segment in (*bootloader_image(work.bootloader, work.part).segments, *(old.segments if old else ())):
        target.flash[segment.start : segment.span.stop] = segment.data
    board = Board(target, bootloaders=[work.bootloader], **options)  # type: ignore[arg-type]  # passed through
    device = BoardOnBed(board)
    target.set_reset(True, device.now)
    target.set_reset(False, device.now + 0.1)
    assert device.look(1.0) == work.bootloader.usb[0]
    return device


def _fuses(work: ChainWork) -> list[int]:
    return [work.bootloader.fuses.get(memory, default) for memory, default in FUSES.items()]


@contextmanager
def on_bed(search_path: str, boards: dict[str, BoardOnBed[Board]]) -> Iterator[dict[str, BedDesk]]:
    with UsbBed(boards) as bed:  # type: ignore[arg-type]  # a board is as much of a device as the bed asks for
        yield {path: BedDesk(bed, path, board, search_path=search_path) for path, board in boards.items()}


def cells(device: BoardOnBed[Board]) -> bytes:
    return bytes(device.board.target.flash)


def holds(found: bytes, firmware: Image) -> bool:
    return all(found[part.start : part.span.stop] == part.data for part in firmware.segments)


@pytest.mark.parametrize(
    ("bootloader", "part", "size_bytes"),
    [
        ("atmel-dfu-32u4", "atmega32u4", 27_000),
        ("lufa-dfu-16u2", "atmega16u2", 12_288),
        ("qmk-dfu-32u4", "atmega32u4", 3_001),
        ("atmel-dfu-usb64", "at90usb646", 57_344),
        ("atmel-dfu-usb128", "at90usb1286", 100_000),
    ],
)
async def test_from_bootloader_to_running_firmware(
    search_path: str, bootloader: str, part: str, size_bytes: int
) -> None:
    """Old firmware goes, the new one comes, the cells are what was read back, and it starts; beyond 64 KiB too."""
    work = work_for(bootloader, part, size_bytes)
    old = application_image(PARTS.avr(part), 4096, seed=7, usb="FEED:0001")
    device = board_for(work, old=old)
    section = work.bootloader.section
    assert section is not None
    loader = cells(device)[section.start :]
    with on_bed(search_path, {PLACE: device}) as desks:
        desk = desks[PLACE]
        await TOOL.erase(work, desk)
        assert set(cells(device)[: section.start]) == {0xFF}
        found = await TOOL.write(work, desk)
        assert found is not None
        assert found == [Segment(0, cells(device)[: len(found[0].data)])]
        assert holds(found[0].data, work.firmware)
        assert cells(device)[section.start :] == loader
        assert desk.done_bytes == len(work.firmware)
        await TOOL.start(work, desk)
    assert device.look(2.0) == KEYBOARD


@pytest.mark.parametrize("bootloader", ["atmel-dfu-32u4", "lufa-dfu-32u4"])
async def test_an_erase_that_leaves_bytes_is_told_by_address(search_path: str, bootloader: str) -> None:
    """The disease: the erase answers OK and the old bytes stay, at 0 or further on."""
    work = work_for(bootloader, "atmega32u4", 3000)
    for address in (0, 0x1F0):
        device = board_for(work, old=Image.of([Segment(address, b"\x12\x34")]), faults=[EraseLeaves(residue=b"")])
        with on_bed(search_path, {PLACE: device}) as desks, pytest.raises(TargetError) as failure:
            await TOOL.erase(work, desks[PLACE])
        assert (failure.value.code, failure.value.facts.address) == (ErrorCode.NOT_BLANK, address)


async def test_each_board_gets_its_own(search_path: str) -> None:
    """Three boards with the same bootloader and no serial numbers, at once: nobody's firmware ends on another one."""
    places = ["1-1.2", "1-1.4", "1-1.3"]
    works = {
        place: work_for("atmel-dfu-32u4", "atmega32u4", 2000 + 500 * seed, seed) for seed, place in enumerate(places)
    }
    devices = {place: board_for(work) for place, work in works.items()}

    async def flash(place: str, desk: BedDesk) -> None:
        await erase_and_write(works[place], desk)
        await TOOL.start(works[place], desk)

    with on_bed(search_path, devices) as desks:
        async with anyio.create_task_group() as tasks:
            for place, desk in desks.items():
                tasks.start_soon(flash, place, desk)
    for place, device in devices.items():
        assert holds(cells(device), works[place].firmware)
        assert device.look(2.0) == KEYBOARD


async def erase_and_write(work: ChainWork, desk: BedDesk) -> None:
    await TOOL.erase(work, desk)
    await TOOL.write(work, desk)


async def test_a_board_that_vanishes_never_passes(search_path: str) -> None:
    """Whichever transfer is its last: an error, never segments that hold the firmware."""
    work = work_for("atmel-dfu-32u4", "atmega32u4", 6000)
    for transfer in random.Random(5).sample(range(2, 40), 6):
        device = board_for(work, faults=[Vanishes(transfer=transfer)])
        with on_bed(search_path, {PLACE: device}) as desks, pytest.raises(TargetError) as failure:
            await erase_and_write(work, desks[PLACE])
        assert failure.value.code in (ErrorCode.ERASE_FAILED, ErrorCode.TOOL_FAILED, ErrorCode.BOOTLOADER_NOT_SEEN)
