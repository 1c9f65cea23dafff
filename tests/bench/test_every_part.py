"""Every part of the catalog through every programmer, a gang of boards at a time, and then a look into each chip.

Boards arrive used: other contents, every fuse as the factory set it. Images lie where mistakes would show: first and last
page, and both sides of 64 KiB and 128 KiB.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import anyio
import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode
from ispd.model.image import Image, Segment
from ispd.model.job import Job, Unit, Verdict
from ispd.model.part import AvrPart, ClockSource, MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from ispd.transport.contract import PortKind
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbtiny import UsbTiny, UsbTinyModel
from vbench.virtual_time import InlineWorker, VirtualClock, run_virtual

PARTS = load_parts()
AVRS = PARTS.of(AvrPart)
BOUNDARIES = (0x10000, 0x20000)
LOCK = 0xFE
MakeProgrammer = Callable[[AvrTarget], EmulatedSerial | EmulatedUsb]
PROGRAMMERS: dict[str, tuple[str, MakeProgrammer]] = {
    "uno": ("stk500v1", lambda target: SerialProgrammer(Flavour.UNO, target=target)),
    "leonardo": ("stk500v1", lambda target: SerialProgrammer(Flavour.LEONARDO, target=target)),
    "teensyduino": ("stk500v1", lambda target: SerialProgrammer(Flavour.TEENSYDUINO, target=target)),
    "usbasp": ("usbasp", lambda target: UsbAsp(target=target)),
    "usbasp 2005": ("usbasp", lambda target: UsbAsp(UsbAspFirmware.STOCK_2005, target=target, slow_jumper=True)),
    "usbasp 2007": ("usbasp", lambda target: UsbAsp(UsbAspFirmware.STOCK_2007, target=target, slow_jumper=True)),
    "usbasp nerdralph": ("usbasp", lambda target: UsbAsp(UsbAspFirmware.NERDRALPH, target=target)),
    "usbasp dioannidis": ("usbasp", lambda target: UsbAsp(UsbAspFirmware.DIOANNIDIS, target=target)),
    "usbtiny": ("usbtiny", lambda target: UsbTiny(target=target)),
    "usbtiny spi": ("usbtiny", lambda target: UsbTiny(UsbTinyModel.USBTINY_SPI, target=target)),
    "bus pirate v3": ("buspirate", lambda target: BusPirate(target=target)),
    "bus pirate v4": ("buspirate", lambda target: BusPirate(BusPirateHardware.V4, target=target)),
}
REACH_BYTES = {"usbasp 2005": 0x10000, "usbasp 2007": 0x10000, "usbasp nerdralph": 0x20000}
"""Firmware that counts in 16 bits, and what cannot be told apart from it; all others reach everything."""


def image_of(part: AvrPart) -> Image:
    """The first and the last page, and one page on each side of each boundary; no two pages alike."""
    page_bytes, size_bytes = part.flash.page_bytes, part.flash.size_bytes
    edges = [edge for edge in BOUNDARIES if edge < size_bytes]
    starts = {0, size_bytes - page_bytes, *edges, *(edge - page_bytes for edge in edges)}
    return Image.of([Segment(start, bytes((start >> 7) + at & 0xFF for at in range(page_bytes))) for start in starts])


def eeprom_of(part: AvrPart) -> Image:
    """Single cells at both ends, neither whole pages nor at their beginning."""
    last = part.eeprom.size_bytes - 1
    return Image.of([Segment(1, b"\x12\x34\x56\x78\x9a"), Segment(last - 1, b"\xbc\xde")])


def fuses_of(part: AvrPart) -> dict[MemoryKind, int]:
    """Other bytes than the factory's, with another clock, that leave the part within reach."""
    wanted = {fuse.memory: fuse.default for fuse in part.fuses}

    def put(name: str, value: int) -> None:
        group = part.bits[name]
        shift = (group.mask & -group.mask).bit_length() - 1
        wanted[group.memory] = wanted[group.memory] & ~group.mask | value << shift & group.mask

    if "ckdiv8" in part.bits:
        put("ckdiv8", 1)
    else:
        put("cksel", part.clock.index(ClockSource.RC))
    put("eesave", 0)
    for name, group in part.bits.items():
        if group.memory is MemoryKind.EFUSE:
            factory = group.of(wanted[group.memory])
            match name:
                case "bodlevel":
                    levels = [level for level, mv in enumerate(part.bod_mv) if 0 < mv <= 3000 and level != factory]
                    put(name, levels[0])
                case "bootsz":
                    put(name, 2)
                case "selfprgen":
                    put(name, 0)
    return wanted


def used_board(part: AvrPart) -> AvrTarget:
    """A board that was flashed with something else before."""
    target = AvrTarget(part, seed=len(part.id) * 31 + part.flash.size_bytes)
    target.flash[:] = bytes([0x00, 0x55]) * (part.flash.size_bytes // 2)
    target.eeprom[:] = bytes(part.eeprom.size_bytes)
    return target


async def gang(programmer: str, folder: Path) -> tuple[dict[str, Unit], dict[str, AvrTarget]]:
    """Flash one board of each part, each on a slot of its own, at once; return the records and the boards by part."""
    kind, make = PROGRAMMERS[programmer]
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    hardware = BenchHardware()
    boards = {part.id: used_board(part) for part in AVRS}
    specs = []
    for number, (name, target) in enumerate(boards.items()):
        emulated = make(target)
        path = f"1-{number + 1}"
        hardware.add(f"/bench/{name}", emulated, path=path)
        is_usb = emulated.port_kind is PortKind.USB
        place: Mapping[str, str] = {"path": path} if is_usb else {"port": f"/bench/{name}"}
        specs.append(SlotSpec(name=name, programmer=kind, port=place.get("port"), path=place.get("path")))
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=VirtualClock(),
        specs=specs,
        watch_hotplug=False,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        with station.events.subscribe(size=1_000_000) as events:
            jobs = [await station.enqueue(recipe_of(part), slots=[part.id], count=None) for part in AVRS]
            left = {job.id for job in jobs}
            while left:
                event = await anext(events)
                if event.job is not None and event.job.state.is_final:
                    left.discard(event.job.id)
        jobs = [await station.job(job.id) for job in jobs]
        units = dict(zip(boards, [await only_unit(station, job) for job in jobs], strict=True))
        await station.stop()
    await journal.aclose()
    return units, boards


async def only_unit(station: Station, job: Job) -> Unit:
    units = await station.units(job=job.id, limit=2, before=None)
    assert len(units) == 1, f"{job.slots}: {dict(job.seen)}"
    return units[0]


def recipe_of(part: AvrPart) -> Recipe:
    return Recipe(
        part=part.id,
        flash=image_of(part),
        eeprom=eeprom_of(part),
        fuses=fuses_of(part),
        lock=LOCK,
        accept_fuses=True,
    )


def wrong_cells(part: AvrPart, target: AvrTarget) -> Iterator[str]:
    """Say where the chip's memories are not as they should be."""
    for name, cells, image in (
        ("flash", target.flash, image_of(part)),
        ("eeprom", target.eeprom, eeprom_of(part)),
    ):
        wanted = bytearray(b"\xff") * len(cells)
        for segment in image.segments:
            wanted[segment.start : segment.start + len(segment.data)] = segment.data
        if cells != wanted:
            yield f"{name} differs at 0x{next(at for at in range(len(cells)) if cells[at] != wanted[at]):05X}"
    for memory, value in fuses_of(part).items():
        if (target.fuses[memory] ^ value) & part.mask(memory):
            yield f"{memory} is 0x{target.fuses[memory]:02X}"
    if (target.lock ^ LOCK) & part.lock_mask:
        yield f"lock is 0x{target.lock:02X}"
    if target.erase_count != 1 or target.in_reset:
        yield f"erased {target.erase_count} times, reset {'held' if target.in_reset else 'released'}"
    if target.violations:
        yield f"broke {[str(one) for one in target.violations[:3]]}"


def wrong_record(part: AvrPart, unit: Unit) -> Iterator[str]:
    """Say where the record is not as it should be."""
    if unit.verdict is not Verdict.PASSED:
        yield f"{unit.verdict}: {unit.failure}"
    for memory, value in fuses_of(part).items():
        if (unit.fuses_after.get(memory.value, ~value) ^ value) & part.mask(memory):
            yield f"{memory} is recorded as {unit.fuses_after.get(memory.value)}"
    if unit.lock is None or (unit.lock ^ LOCK) & part.lock_mask:
        yield f"lock is recorded as {unit.lock}"


@pytest.mark.parametrize("programmer", PROGRAMMERS)
def test_every_part_through_this_programmer(programmer: str, tmp_path: Path) -> None:
    units, boards = run_virtual(gang, programmer, tmp_path)
    able = [part for part in AVRS if part.flash.size_bytes <= REACH_BYTES.get(programmer, part.flash.size_bytes)]
    wrong = [f"{part.id}: {text}" for part in able for text in wrong_record(part, units[part.id])]
    wrong += [f"{part.id}: {text}" for part in able for text in wrong_cells(part, boards[part.id])]
    assert not wrong, "\n".join(wrong)
    for part in AVRS:
        if part not in able:
            failure, target = units[part.id].failure, boards[part.id]
            assert failure is not None, part.id
            assert failure.code == ErrorCode.PROGRAMMER_CANNOT
            assert (target.flash, target.erase_count) == (used_board(part).flash, 0), (
                "refused before anything is touched"
            )


@pytest.mark.parametrize("part", AVRS, ids=lambda part: part.id)
def test_the_recipes_change_every_fuse_byte(part: AvrPart) -> None:
    for fuse in part.fuses:
        assert (fuses_of(part)[fuse.memory] ^ fuse.default) & fuse.mask, fuse.memory
