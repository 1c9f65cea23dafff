"""64 programmers that cannot be told apart, pulled and plugged in again a thousand times while every slot has work.

Each kind shares its USB ids, texts and serial number; device nodes are dealt anew at each plug, and programmers change
places, too. Every image carries the slot it was meant for in each of its eighths, and the chips are asked what reached them.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.job import Job, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.model.station import Programmer as Connected
from ispd.model.station import Slot, SlotState
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from ispd.transport.contract import PortKind, UsbIdentity
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice
from vbench.usbasp import UsbAsp
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny
from vbench.virtual_time import InlineWorker, VirtualClock, run_virtual

PARTS = load_parts()
PART = PARTS.avr("attiny25")
BOARDS = 64
REPLUGS = 1000
PATHS = [f"1-{hub}.{port}" for hub in range(1, 9) for port in range(1, 9)]
KINDS: list[Callable[[AvrTarget], EmulatedSerial | EmulatedUsb]] = [
    lambda target: SerialProgrammer(Flavour.TEENSYDUINO, target=target),
    lambda target: UsbAsp(target=target),
    lambda target: UsbTiny(target=target),
]
CHUNK_BYTES = 8
CHUNKS = 8


def content(slot: int, number: int) -> bytes:
    """What the ``number``-th job of a slot writes: two pages, each eighth of which tells where it belongs."""
    return b"".join(bytes((0xA5, slot, number >> 8, number & 0xFF, 0x5A, part, 0, 0)) for part in range(CHUNKS))


@dataclass
class Programmer:
    """One of the 64 and the board on it. ``before`` is what the board held when it was plugged in at ``path``."""

    name: str
    emulated: EmulatedSerial | EmulatedUsb
    target: AvrTarget
    path: str
    node: str
    before: bytes = b""
    erases_before: int = 0

    @property
    def cells(self) -> bytes:
        return bytes(self.target.flash[: CHUNK_BYTES * CHUNKS])

    @property
    def is_serial(self) -> bool:
        return self.emulated.port_kind is PortKind.SERIAL

    def tags(self) -> set[tuple[int, int]]:
        """Return (slot, job number) of each eighth that is not blank; a page that was cut short is blank by halves."""
        eighths = [self.cells[at : at + CHUNK_BYTES] for at in range(0, CHUNK_BYTES * CHUNKS, CHUNK_BYTES)]
        found = set()
        for part, eighth in enumerate(eighths):
            if eighth != bytes([0xFF] * CHUNK_BYTES):
                slot, number = eighth[1], eighth[2] << 8 | eighth[3]
                assert eighth == content(slot, number)[part * CHUNK_BYTES :][:CHUNK_BYTES], "garbage was written"
                found.add((slot, number))
        return found


@dataclass
class Shuffle:
    """The hub full of programmers, and what was seen of it."""

    chance: random.Random
    hardware: BenchHardware = field(default_factory=lambda: BenchHardware(hotplug_lag_s=0.02))
    clock: VirtualClock = field(default_factory=VirtualClock)
    programmers: list[Programmer] = field(default_factory=list)
    replugs: int = 0
    erases: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, set[str]] = field(default_factory=dict)
    ended: dict[int, anyio.Event] = field(default_factory=dict)
    is_over: bool = False
    passed: int = 0

    def fill(self) -> None:
        for number, path in enumerate(PATHS):
            target = AvrTarget(PART, seed=number)
            emulated = KINDS[number % len(KINDS)](target)
            node = f"/dev/ttyACM{number}"
            self.hardware.add(node, emulated, path=path)
            self.programmers.append(Programmer(node, emulated, target, path, node))
            self.note_plugged(self.programmers[-1])
        kinds = {emulated.emulated.usb for emulated in self.programmers}
        assert len(kinds) == len(KINDS), "all of a kind show the same identity, the serial number included"

    def note_plugged(self, one: Programmer) -> None:
        one.before, one.erases_before = one.cells, one.target.erase_count
        self.nodes.setdefault(one.path, set()).add(one.node if one.is_serial else "usb")

    def audit(self, one: Programmer) -> None:
        """Whatever was written since the programmer was plugged in was meant for the slot it was plugged into."""
        erased = one.target.erase_count - one.erases_before
        self.erases[one.path] += erased
        if not erased:
            assert one.cells == one.before, f"{one.path}: written without an erase"
            return
        assert {slot for slot, _ in one.tags()} <= {PATHS.index(one.path)}, f"{one.path}: another slot's image"

    def pulled_now(self, station: Station) -> list[Programmer]:
        """Choose a few, rather those that are flashing a board."""
        busy = {slot.name for slot in station.slots() if slot.state is SlotState.BUSY}
        count = min(self.chance.randint(2, 6), REPLUGS - self.replugs)
        chosen = [one for one in self.programmers if one.path in busy][: count // 2]
        rest = [one for one in self.programmers if one not in chosen]
        return chosen + self.chance.sample(rest, count - len(chosen))

    async def shuffle(self, station: Station) -> None:
        """Pull a few at a time, and plug them in again in another order, at other places, under other nodes."""
        while self.replugs < REPLUGS:
            await self.clock.sleep(self.chance.uniform(0.0, 0.6))
            group = self.pulled_now(station)
            for one in group:
                self.hardware.unplug(one.name)
                self.audit(one)
                await self.pause()
            places = [one.path for one in group]
            if self.chance.random() < 0.3:
                self.chance.shuffle(places)
            serial = [one for one in group if one.is_serial]
            nodes = [one.node for one in serial]
            self.chance.shuffle(nodes)
            for one, node in zip(serial, nodes, strict=True):
                one.node = node
            pairs = list(zip(group, places, strict=True))
            self.chance.shuffle(pairs)
            for one, place in pairs:
                one.path = place
                self.note_plugged(one)
                self.hardware.plug(one.name, node=one.node, path=one.path)
                self.replugs += 1
                await self.pause()

    async def pause(self) -> None:
        """Often none at all: nodes change hands before anybody was told."""
        if self.chance.random() < 0.5:
            await self.clock.sleep(self.chance.choice((0.0, 0.01, 0.1, 0.5)))

    async def order(self, station: Station, slot: int) -> None:
        """Keep a slot at work with images of its own; look into the chips at the end of each job."""
        number = 0
        while not self.is_over:
            number += 1
            await self.clock.sleep(self.chance.uniform(0.0, 30.0))
            await self.one_job(station, slot, number)

    async def one_job(self, station: Station, slot: int, number: int) -> Verdict | None:
        image = content(slot, number)
        recipe = Recipe(flash=Image.of([Segment(0, image)]), part=PART.id)
        job = await station.enqueue(recipe, slots=[PATHS[slot]], count=None)
        ended = self.ended.setdefault(job.id, anyio.Event())
        if not (await station.job(job.id)).state.is_final:
            await ended.wait()
        units = await station.units(job=job.id, limit=10, before=None)
        assert {unit.slot for unit in units} <= {PATHS[slot]}
        assert len(units) <= 1
        holding = [one for one in self.programmers if one.cells == image]
        touched = [one for one in self.programmers if (slot, number) in one.tags()]
        if units and units[0].verdict is Verdict.PASSED:
            self.passed += 1
            assert len(holding) == 1, f"{PATHS[slot]} passed, {len(holding)} boards hold its image"
            assert holding[0].path == PATHS[slot]
        elif not units:
            assert not touched, "a write without a record"
        return units[0].verdict if units else None

    async def follow(self, station: Station) -> None:
        with station.events.subscribe(size=100_000) as events:
            async for event in events:
                if event.job is not None and event.job.state.is_final:
                    self.ended.setdefault(event.job.id, anyio.Event()).set()


async def run(shift: Shuffle, folder) -> tuple[list[Unit], list[Verdict | None]]:
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    shift.fill()
    station = Station(
        shift.hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=shift.clock,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with shift.hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        tasks.start_soon(shift.follow, station)
        await shift.clock.sleep(3.0)
        assert {slot.name for slot in station.slots()} == set(PATHS)
        async with anyio.create_task_group() as orders:
            for slot in range(BOARDS):
                orders.start_soon(shift.order, station, slot)
            await shift.shuffle(station)
            shift.is_over = True
        await shift.clock.sleep(5.0)
        last: list[Verdict | None] = [None] * BOARDS

        async def last_job(slot: int) -> None:
            last[slot] = await shift.one_job(station, slot, 0xFFFE)

        async with anyio.create_task_group() as orders:
            for slot in range(BOARDS):
                orders.start_soon(last_job, slot)
        for one in shift.programmers:
            shift.audit(one)
        assert {slot.name for slot in station.slots()} == set(PATHS), "no slot came about twice, none was lost"
        await station.stop()
        tasks.cancel_scope.cancel()
    units: list[Unit] = []
    while page := await journal.units(job=None, limit=1000, before=units[-1].id if units else None):
        units += page
    await journal.aclose()
    return units, last


class Listener(SerialProgrammer):
    """A device that only notes what a host does to it; it would flash itself if it were asked nicely."""

    def __init__(self) -> None:
        super().__init__(Flavour.LEONARDO)
        self.heard: list[object] = []

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        self.heard.append((at, baud, dtr, rts))

    def feed(self, data: bytes, at: float) -> None:
        self.heard.append((at, data))


async def fall_into_bootloader(
    folder, loader: UsbIdentity, spec: SlotSpec | None, has_tty: bool
) -> tuple[list[Slot], list[Job], list[Connected], AvrTarget, list[object]]:
    """A programmer comes back as its own bootloader at the same place, is ordered to work, and recovers."""
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    hardware, clock = BenchHardware(), VirtualClock()
    target, listener = AvrTarget(PART), Listener()
    programmer = SerialProgrammer(Flavour.LEONARDO, target=target)
    silent = UsbTiny()
    # as on a real machine: the tty and the whole device are told one by one, in either order
    hardware.add("/dev/ttyACM0", programmer, path="1-1.4")
    hardware.add("whole programmer", UsbTiny(), path="1-1.4", usb=programmer.usb)
    hardware.add("loader", listener, path="1-1.4", usb=loader, plugged=False)
    hardware.add("whole loader", silent, path="1-1.4", usb=loader, plugged=False)
    loader_events = ["loader", "whole loader"] if has_tty else ["whole loader"]
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=clock,
        specs=() if spec is None else (spec,),
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    views, jobs = [], []
    async with hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        await clock.sleep(3.0)
        (view,) = station.slots()
        views.append(view)
        hardware.unplug("/dev/ttyACM0")
        hardware.unplug("whole programmer")
        for name in loader_events:
            hardware.plug(name, node="/dev/ttyACM0")
        await clock.sleep(60.0)
        views.append(station.slot(view.name))
        found = station.programmers()
        recipe = Recipe(flash=Image.of([Segment(0, content(0, 1))]))
        before = await station.enqueue(recipe, slots=[view.name], count=None)
        await clock.sleep(5.0)
        jobs.append(await station.job(before.id))
        views += station.slots()
        for name in loader_events:
            hardware.unplug(name)
        hardware.plug("whole programmer")
        hardware.plug("/dev/ttyACM0")
        await clock.sleep(1.0)
        after = await station.enqueue(recipe, slots=[view.name], count=None)
        await clock.sleep(20.0)
        jobs.append(await station.job(after.id))
        views += station.slots()
        await station.stop()
        tasks.cancel_scope.cancel()
    await journal.aclose()
    return views, jobs, found, target, [*listener.heard, *([] if silent.transfers == 0 else ["control transfers"])]


@pytest.mark.parametrize(
    ("loader", "title"),
    [
        ("1B4F:9203", "Caterina"),
        ("1B4F:9205", "Caterina"),
        ("1B4F:9207", "Caterina"),
        ("2341:0036", "Caterina"),
        ("2341:0037", "Caterina"),
        ("2A03:0037", "Caterina"),
        ("03EB:2FEF", "Atmel DFU"),
    ],
)
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(None, id="hotplugged"),
        pytest.param(SlotSpec(name="A1", programmer="stk500v1", path="1-1.4"), id="configured"),
    ],
)
def test_a_programmer_in_its_own_bootloader_is_let_be_until_it_is_itself_again(tmp_path, loader, title, spec):
    vendor, product = (int(text, 16) for text in loader.split(":"))
    identity = UsbIdentity(vendor_id=vendor, product_id=product)
    has_tty = title == "Caterina"  # DFU is a USB device without one
    views, jobs, found, target, heard = run_virtual(fall_into_bootloader, tmp_path, identity, spec, has_tty)
    well, fallen, ordered, recovered = views
    assert well.state is SlotState.IDLE
    assert found == []
    assert heard == [], "the bootloader of a programmer was spoken to"
    for view in (fallen, ordered):
        assert view.state is SlotState.VACANT
        assert view.failure is not None
        assert view.failure.code == "programmer-is-bootloader"
        assert f"runs its own bootloader ({loader}, {title}" in view.failure.message
        assert "press the programmer's reset button once" in view.failure.hint
    assert "runs its own bootloader" in jobs[0].seen[well.name]
    assert (jobs[0].passed, jobs[1].passed) == (0, 1)
    assert (recovered.state, recovered.failure) == (SlotState.PASSED, None)
    assert bytes(target.flash[:64]) == content(0, 1)


def test_a_thousand_replugs_of_64_identical_programmers(tmp_path):
    shift = Shuffle(random.Random(64))
    units, last = run_virtual(run, shift, tmp_path)
    assert shift.replugs == REPLUGS
    assert last == [Verdict.PASSED] * BOARDS
    assert shift.passed > 300
    assert sum(len(nodes) for nodes in shift.nodes.values()) > 3 * BOARDS, "nodes did change hands"
    for path in PATHS:
        attempts = [attempt for unit in units if unit.slot == path for attempt in unit.attempts]
        finished = [attempt for attempt in attempts if any(step.name == "erase" for step in attempt.steps)]
        assert len(finished) <= shift.erases[path] <= len(attempts), "every erase is on its own slot's record"
    verdicts = Counter(unit.verdict for unit in units)
    assert set(verdicts) <= {Verdict.PASSED, Verdict.FAILED, Verdict.INTERRUPTED}
    violations = [violation for one in shift.programmers for violation in one.target.violations]
    assert not violations, violations[:3]


async def keyboards_and_other_things(folder) -> tuple[list[Slot], dict[str, UsbDevice]]:
    """Two keyboards in USBaspLoader, one where a slot's board is expected, and a device that shares USBasp's ids."""
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    hardware, clock = BenchHardware(), VirtualClock()
    keyboard = PARTS.avr("atmega32a")
    things: dict[str, UsbDevice] = {
        "programmer": UsbAsp(target=AvrTarget(PART)),
        "its board": UsbAspLoader(keyboard),
        "stray keyboard": UsbAspLoader(keyboard),
        "led ring": UsbAsp(manufacturer="www.fischl.de", product="LED Ring"),
        "clone": UsbAsp(manufacturer="", product="USBasp"),
    }
    for number, (name, thing) in enumerate(things.items(), 1):
        hardware.add(name, thing, path=f"1-{number}")
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=clock,
        specs=[SlotSpec(name="A1", programmer="usbasp", path="1-1", target_usb="1-2")],
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        await clock.sleep(30.0)
        recipe = Recipe(flash=Image.of([Segment(0, content(0, 1))]))
        await station.enqueue(recipe, slots=[slot.name for slot in station.slots()], count=None)
        await clock.sleep(30.0)
        slots = station.slots()
        await station.stop()
        tasks.cancel_scope.cancel()
    await journal.aclose()
    return slots, things


def test_a_keyboard_that_pretends_to_be_a_programmer_is_never_written_through(tmp_path):
    slots, things = run_virtual(keyboards_and_other_things, tmp_path)
    stray, ours = slots
    assert (stray.name, ours.name) == ("1-3", "A1")
    assert ours.state is SlotState.PASSED
    assert stray.failure is not None
    assert stray.failure.code == "programmer-is-bootloader"
    for name in ("its board", "stray keyboard"):
        loader = things[name]
        assert isinstance(loader, UsbAspLoader)
        assert loader.writes == 0
        assert loader.flash.count(0xFF) == len(loader.flash)
    for name in ("its board", "led ring", "clone"):
        assert things[name].transfers == 0, f"{name} was spoken to"
