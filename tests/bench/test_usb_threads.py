"""A whole station over the product's own USB transport in real time: a thread for each programmer, plugs that are pulled."""

from pathlib import Path

import anyio
import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.recipe import Recipe
from ispd.model.station import SlotState
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.station import Knowledge, Station
from ispd.transport.clock import SystemClock
from vbench.pyusb_backend import PyusbBackend
from vbench.target import AvrTarget
from vbench.usb_bus import UsbHardware
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny
from vbench.virtual_time import InlineWorker

PARTS = load_parts()
PATHS = [f"1-{hub}.{port}" for hub in (1, 2) for port in range(1, 5)]
PULLED = {"1-1.2", "1-2.3"}


def content(path: str) -> bytes:
    """A quarter of an ATtiny25, different for each slot."""
    return f"for the board at {path}. ".encode() * 25


@pytest.mark.anyio
@pytest.mark.timeout(120)
async def test_boards_on_pulled_programmers_are_interrupted_and_the_others_pass(tmp_path: Path) -> None:
    backend = PyusbBackend()
    targets = {path: AvrTarget(PARTS.avr("attiny25"), seed=number) for number, path in enumerate(PATHS)}
    for number, (path, target) in enumerate(targets.items()):
        backend.add(path, UsbAsp(target=target) if number % 2 else UsbTiny(target=target))
    journal = await Journal.open(tmp_path / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    station = Station(
        UsbHardware(backend),
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=SystemClock(),
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        with station.events.subscribe(size=100_000) as events, anyio.fail_after(100):
            while {slot.name for slot in station.slots() if slot.state is SlotState.IDLE} != set(PATHS):
                await anext(events)
            jobs = {}
            for path in PATHS:
                recipe = Recipe(flash=Image.of([Segment(0, content(path))]), part="attiny25")
                jobs[path] = (await station.enqueue(recipe, slots=[path], count=None)).id
            left = set(PULLED)
            while not all([(await station.job(job)).state.is_final for job in jobs.values()]):
                await anext(events)
                for path in {path for path in left if targets[path].erase_count}:
                    backend.unplug(path)
                    left.discard(path)
            units = {path: (await station.units(job=job, limit=2, before=None))[0] for path, job in jobs.items()}
            for path in PULLED:
                backend.plug(path)
            while any(station.slot(path).state is not SlotState.IDLE for path in PULLED):
                await anext(events)
        await station.stop()
    await journal.aclose()
    verdicts = {path: unit.verdict for path, unit in units.items()}
    assert verdicts == {path: Verdict.INTERRUPTED if path in PULLED else Verdict.PASSED for path in PATHS}
    for path in set(PATHS) - PULLED:
        assert units[path].verdict is Verdict.PASSED
        assert bytes(targets[path].flash[: len(content(path))]) == content(path)
        assert [str(violation) for violation in targets[path].violations] == []
    assert backend.opens == backend.closes
    assert backend.strays == []
