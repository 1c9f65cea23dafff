"""A station on a virtual bench of one slot, on virtual time: boards are put on, jobs run, the daemon is started again."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.job import Job, Unit
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import Driver, load_drivers
from ispd.station.events import Subscription
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from vbench.bus_pirate import BusPirate
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny
from vbench.virtual_time import InlineWorker, VirtualClock

__all__ = ["PARTS", "Workbench", "programmer", "workbench"]

PARTS = load_parts()
_DRIVERS = load_drivers()
_SLOT = "A1"
_PATH = "1-1.4"
_DEADLINE_S = 120.0


def programmer(kind: str) -> EmulatedSerial | EmulatedUsb:
    """A programmer of one kind, with nothing on its header."""
    match kind:
        case "usbasp":
            return UsbAsp()
        case "usbtiny":
            return UsbTiny()
        case "buspirate":
            return BusPirate()
        case _:
            return SerialProgrammer(Flavour.TEENSYDUINO)


@dataclass
class Workbench:
    """What a test handles."""

    station: Station
    hardware: BenchHardware
    journal: Journal
    events: Subscription

    def insert(self, target: AvrTarget) -> AvrTarget:
        """Put a board on the slot."""
        self.hardware.insert(_SLOT, target)
        return target

    def remove(self) -> AvrTarget:
        """Take the board off."""
        target = self.hardware.remove(_SLOT)
        assert isinstance(target, AvrTarget)
        return target

    async def enqueue(self, recipe: Recipe, *, count: int | None = None) -> Job:
        """Create a job for the slot."""
        return await self.station.enqueue(recipe, slots=[_SLOT], count=count)

    async def next_unit(self) -> Unit:
        """Wait for the next verdict; fails the test where none comes in time."""
        with anyio.fail_after(_DEADLINE_S):
            async for event in self.events:
                if event.unit is not None and event.unit.verdict is not None:
                    return event.unit
        raise AssertionError("events never end")

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job and return it."""
        with anyio.fail_after(_DEADLINE_S):
            while not (await self.station.job(job.id)).state.is_final:
                await anext(self.events)
        return await self.station.job(job.id)

    async def once(self, target: AvrTarget, recipe: Recipe) -> Unit:
        """Put a board on, flash it once, take it off, and return its record."""
        self.insert(target)
        job = await self.ended(await self.enqueue(recipe))
        self.remove()
        units = await self.station.units(job=job.id, limit=10, before=None)
        assert len(units) == 1, dict(job.seen)
        return units[0]


@asynccontextmanager
async def workbench(
    folder: Path,
    kind: str,
    *,
    configured: bool = True,
    target: AvrTarget | None = None,
    drivers: Mapping[str, Driver] = _DRIVERS,
) -> AsyncIterator[Workbench]:
    """Run a daemon's station over one programmer; the journal lies in ``folder`` and outlives it.

    :param configured: the slot stands in the configuration; otherwise hotplug makes it, named by its path.
    :param target: a board that is on the slot already.
    """
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now=VirtualClock().wall().isoformat())
    hardware = BenchHardware()
    hardware.add(_SLOT, programmer(kind), path=_PATH)
    if target is not None:
        hardware.insert(_SLOT, target)
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=drivers),
        clock=VirtualClock(),
        specs=[SlotSpec(name=_SLOT, programmer=kind, path=_PATH)] if configured else [],
        watch_hotplug=not configured,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    try:
        async with hardware, anyio.create_task_group() as tasks:
            with station.events.subscribe(size=10_000) as events:
                await tasks.start(station.run)
                yield Workbench(station, hardware, journal, events)
                await station.stop()
    finally:
        await journal.aclose()
