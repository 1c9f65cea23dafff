"""Targets behind programmers of either kind, without any wire: what a station does with what they say is looked at alone."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, LinkClosedError, ProgrammerError
from ispd.flashing.interface import Sighting
from ispd.flashing.observer import Identified, UnitObserver, UnitOutcome
from ispd.flashing.sck import SckStart
from ispd.flashing.target_state import TargetState
from ispd.model.job import Failure, Job, Unit, Verdict
from ispd.model.part import Interface, Part
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.contract import ProgrammerIdentity
from ispd.programmers.registry import Driver, load_drivers
from ispd.station.events import Subscription
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from ispd.transport.contract import Opener, UsbIdentity
from vbench.hardware import BenchHardware
from vbench.stlink import StLink
from vbench.usbasp import UsbAsp
from vbench.virtual_time import InlineWorker, VirtualClock

PARTS = load_parts()
AVR, STM32 = PARTS.get("atmega32u4"), PARTS.get("stm32f103xb")
_RUNGS = {Interface.ISP: (375_000, 187_500, 93_750), Interface.SWD: (1_800_000, 480_000, 125_000)}
_LOOK_S, _FLASH_S = 0.01, 2.0
_DEADLINE_S = 120.0


@dataclass(eq=False)
class Chip:
    """A board on a header. ``recipes`` are those carried out on it; ``tells_id`` is false while it keeps its serial number back."""

    part: Part
    unique_id: str | None = None
    tells_id: bool = True
    slowest_hz: int = 10**9
    recipes: list[Recipe] = field(default_factory=list)


@dataclass(eq=False)
class Header:
    """What is at the end of one programmer's cable; ``asked`` are the clocks that looks began with, ``looks`` is told the number of each as it
    begins."""

    chip: Chip | None = None
    is_plugged: bool = True
    asked: list[tuple[int | None, ...]] = field(default_factory=list)
    looks: Callable[[int], None] = lambda _: None


class FakeTarget:
    """Looked at and flashed, no more; see :class:`~ispd.flashing.interface.TargetInterface`."""

    def __init__(self, kind: Interface, identity: ProgrammerIdentity, header: Header) -> None:
        self.kind = kind
        self.meets_anew = self.reads_running = kind is Interface.SWD
        self.identity = identity
        self._header = header

    def rungs(self, fixed_hz: int | None = None) -> tuple[int | None, ...]:
        return _RUNGS[self.kind] if fixed_hz is None else (fixed_hz,)

    def _chip(self) -> Chip | None:
        """Return who answers on this kind of wires."""
        if not self._header.is_plugged:
            raise LinkClosedError(self.identity.port)
        chip = self._header.chip
        return chip if chip is not None and chip.part.interface is self.kind else None

    async def look(self, rungs: Sequence[int | None] | None = None) -> Sighting:
        self._header.looks(len(self._header.asked) + 1)
        await anyio.sleep(_LOOK_S)
        tried = tuple(rungs or self.rungs())
        self._header.asked.append(tried)
        chip = self._chip()
        answering = [hz for hz in tried if hz is not None and chip is not None and hz <= chip.slowest_hz]
        if chip is None or not answering:
            return Sighting(
                words="nothing", signature=None, failure=Failure(code="target-not-responding", message="no")
            )
        told = chip.unique_id if chip.tells_id else None
        return Sighting(words="", signature=chip.part.signature, failure=None, rung_hz=answering[0], unique_id=told)

    async def flash(
        self,
        recipe: Recipe,
        *,
        observer: UnitObserver,
        start: SckStart,
        **_: object,
    ) -> UnitOutcome:
        chip = self._chip()
        assert chip is not None, "flashed without a board"
        hz = start.rung_hz or max(hz for hz in _RUNGS[self.kind] if hz <= chip.slowest_hz)
        found = Identified(signature=chip.part.signature, part=chip.part, clock_hz=hz, unique_id=chip.unique_id)
        await observer.identified(found)
        await observer.about_to_write(TargetState(fuses={}, lock=0xFF), ())
        chip.recipes.append(recipe)
        await anyio.sleep(_FLASH_S)
        if not self._header.is_plugged:
            lost = Failure(code=ErrorCode.LINK_CLOSED, message="unplugged")
            return UnitOutcome(verdict=Verdict.INTERRUPTED, failure=lost, unique_id=chip.unique_id)
        return UnitOutcome(verdict=Verdict.PASSED, part=chip.part.id, sck_hz=hz, unique_id=chip.unique_id)

    async def identify(self, _: object) -> None:
        raise ProgrammerError(ErrorCode.PROGRAMMER_CANNOT, "it has no light")

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        yield

    async def aclose(self) -> None:
        """Nothing is open."""


def _path(slot: str) -> str:
    return f"1-1.{1 + ord(slot) - ord('A')}"


_EMULATED = {"usbasp": UsbAsp, "stlink": StLink}


@dataclass
class FakeStation:
    """What a test handles: slots A, B .. at 1-1.1 and on."""

    station: Station
    hardware: BenchHardware
    headers: Mapping[str, Header]
    events: Subscription

    def unplug(self, slot: str) -> None:
        """Pull a programmer."""
        self.headers[slot].is_plugged = False
        for name in self.hardware.names:
            if name.endswith(_path(slot)):
                self.hardware.unplug(name)

    def replace(self, slot: str, kind: str) -> None:
        """Put another programmer into a slot's port, its cable to the same board."""
        self.unplug(slot)
        name = f"{kind} at {_path(slot)}"
        if name not in self.hardware.names:
            self.hardware.add(name, _EMULATED[kind](), path=_path(slot), plugged=False)
        self.headers[slot].is_plugged = True
        self.hardware.plug(name)

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job and return it."""
        with anyio.fail_after(_DEADLINE_S):
            while not (await self.station.job(job.id)).state.is_final:
                await anext(self.events)
        return await self.station.job(job.id)

    async def verdict(self) -> Unit:
        """Wait for the next verdict."""
        with anyio.fail_after(_DEADLINE_S):
            async for event in self.events:
                if event.unit is not None and event.unit.verdict is not None:
                    return event.unit
        raise AssertionError("events never end")

    async def units(self, job: Job) -> list[Unit]:
        """Return the units of a job, oldest first."""
        return list(reversed(await self.station.units(job=job.id, limit=1000, before=None)))


@asynccontextmanager
async def fake_station(
    monkeypatch: pytest.MonkeyPatch, folder: Path, kinds: Mapping[str, str], chips: Mapping[str, Chip | None]
) -> AsyncIterator[FakeStation]:
    """Run a station whose slots have programmers of these kinds by name, and these boards on them; the journal outlives it."""
    clock = VirtualClock()
    hardware = BenchHardware()
    headers = {_path(slot): Header(chip) for slot, chip in chips.items()}

    async def open_fake(
        driver: Driver, _: Opener, port: str, *, baud: int | None, usb: UsbIdentity | None
    ) -> FakeTarget:
        identity = ProgrammerIdentity(kind=driver.kind, port=port, firmware="1")
        return FakeTarget(driver.interface, identity, headers[port.removeprefix("usb:")])

    monkeypatch.setattr("ispd.station.programmer_host.open_target", open_fake)
    specs = [SlotSpec(name=slot, path=_path(slot)) for slot in kinds]
    for spec in specs:
        hardware.add(f"{kinds[spec.name]} at {spec.path}", _EMULATED[kinds[spec.name]](), path=spec.path)
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now=clock.wall().isoformat())
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=clock,
        specs=specs,
        watch_hotplug=True,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    by_slot = {slot: headers[_path(slot)] for slot in chips}
    try:
        async with hardware, anyio.create_task_group() as tasks:
            with station.events.subscribe(size=100_000) as events:
                await tasks.start(station.run)
                yield FakeStation(station, hardware, by_slot, events)
                await station.stop()
    finally:
        await journal.aclose()
