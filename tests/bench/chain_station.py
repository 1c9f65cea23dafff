"""A station on virtual time whose boards have USB ports of their own, and recipes that use them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.parts import load_parts
from ispd.catalog.recipe import build_recipe
from ispd.chain.contract import ChainTool
from ispd.chain.registry import load_tools
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.job import Job, Unit
from ispd.model.part import AvrPart
from ispd.model.recipe import PlanKind, Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.events import Subscription
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from vbench.board import Board
from vbench.board_faults import BoardFault
from vbench.firmware_image import application_image, bootloader_image
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.virtual_time import InlineWorker, VirtualClock

PARTS = load_parts()
PART = PARTS.avr("atmega32u4")
BOOTLOADERS = load_bootloaders(PARTS)
LOADER = BOOTLOADERS.get("atmel-dfu-32u4")
TOOLS = load_tools()
DEADLINE_S = 600.0


def firmware(seed: int, size_bytes: int = 4000, *, part: AvrPart = PART, usb: str = "FEED:6060") -> Image:
    """Return a firmware like no other."""
    return application_image(part, size_bytes, seed=seed, usb=usb)


def recipe(
    app: Image,
    plan: PlanKind = PlanKind.CHAINED,
    *,
    loader: Bootloader = LOADER,
    part: AvrPart = PART,
    with_loader: bool = True,
) -> Recipe:
    """Return the recipe of two files, a bootloader's and a firmware."""
    images = [app, bootloader_image(loader, part)] if with_loader else [app]
    files = tuple(
        NamedBytes(f"{number}.bin", image.bytes_in(image.span), image.span.start) for number, image in enumerate(images)
    )
    options = RecipeOptions(files=files, plan=plan, part=part.id, bootloader=loader.id, accept_fuses=True)
    return build_recipe(options, PARTS, BOOTLOADERS)


def blank_board(*, seed: int = 0, part: AvrPart = PART, faults: Sequence[BoardFault] = ()) -> Board:
    """Return a board as it comes from the factory's line: nothing on it."""
    return Board(AvrTarget(part, seed=seed), faults=faults)


def loaded_board(
    *, loader: Bootloader = LOADER, part: AvrPart = PART, faults: Sequence[BoardFault] = (), app: Image | None = None
) -> Board:
    """Return a board that has its bootloader and the fuses for it."""
    target = AvrTarget(part)
    for image in (bootloader_image(loader, part), *([] if app is None else [app])):
        target.flash[image.span.start : image.span.stop] = image.bytes_in(image.span)
    target.core.fuses.update(loader.fuses)
    return Board(target, faults=faults)


def cells(board: Board, image: Image) -> bool:
    """Tell whether the board's flash holds an image."""
    target = board.target
    return all(target.flash[one.span.start : one.span.stop] == one.data for one in image.segments)


def runs(board: Board, app: Image, loader: Bootloader = LOADER, part: AvrPart = PART) -> bool:
    """Tell whether the board holds this firmware and its bootloader, and nothing else."""
    whole = app.merged(bootloader_image(loader, part))
    return bytes(board.target.flash) == whole.bytes_in(part.flash.span)


@dataclass
class ChainStation:
    """What a test handles."""

    station: Station
    hardware: BenchHardware
    events: Subscription

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job and return it."""
        with anyio.fail_after(DEADLINE_S):
            while not (await self.station.job(job.id)).state.is_final:
                await anext(self.events)
        return await self.station.job(job.id)

    async def units(self, job: Job) -> list[Unit]:
        """Return the units of a job, oldest first."""
        return list(reversed(await self.station.units(job=job.id, limit=1000, before=None)))

    async def once(self, recipe: Recipe, *slots: str) -> list[Unit]:
        """Run a job without count to its end and return its units."""
        job = await self.station.enqueue(recipe, slots=slots or None, count=None)
        job = await self.ended(job)
        units = await self.units(job)
        assert units, dict(job.seen)
        return units

    async def verdict(self) -> Unit:
        """Wait for the next verdict."""
        with anyio.fail_after(DEADLINE_S):
            async for event in self.events:
                if event.unit is not None and event.unit.verdict is not None:
                    return event.unit
        raise AssertionError("events never end")


@asynccontextmanager
async def chain_station(
    hardware: BenchHardware,
    specs: Sequence[SlotSpec],
    folder: Path,
    *,
    tools: Sequence[ChainTool] = TOOLS,
    watch_hotplug: bool = False,
) -> AsyncIterator[ChainStation]:
    """Run a station over ``hardware``; its journal lies in ``folder`` and outlives it."""
    clock = VirtualClock()
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now=clock.wall().isoformat())
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=BOOTLOADERS, drivers=load_drivers(), tools=tools),
        clock=clock,
        specs=specs,
        watch_hotplug=watch_hotplug,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    try:
        async with hardware, anyio.create_task_group() as tasks:
            with station.events.subscribe(size=100_000) as events:
                await tasks.start(station.run)
                yield ChainStation(station, hardware, events)
                await station.stop()
    finally:
        await journal.aclose()
