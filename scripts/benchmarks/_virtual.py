"""A whole station on virtual time: what the daemon itself adds, without a machine's part in it."""

from collections.abc import Mapping
from pathlib import Path

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.job import Job
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from ispd.transport.contract import USB_PORT_PREFIX
from vbench.emulated import EmulatedProgrammer
from vbench.hardware import BenchHardware
from vbench.virtual_time import InlineWorker, VirtualClock

__all__ = ["virtual_job_s"]


async def virtual_job_s(folder: Path, programmers: Mapping[SlotSpec, EmulatedProgrammer], recipe: Recipe) -> float:
    """Flash the board on each slot once, all at the same time, and return the virtual seconds from the order to the last verdict.

    Raises ``RuntimeError`` where a board did not pass.
    """
    clock, parts, hardware = VirtualClock(), load_parts(), BenchHardware()
    for spec, programmer in programmers.items():
        port = spec.port or ""
        path = port.removeprefix(USB_PORT_PREFIX) if port.startswith(USB_PORT_PREFIX) else None
        hardware.add(spec.name if path else port, programmer, path=path)
    journal = await Journal.open(folder / f"virtual-{len(programmers)}.db", InlineWorker(), now="start")
    about = About(version="", started="", socket="", state_dir="", bench=True, slots=0, jobs_open=0)
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=parts, bootloaders=load_bootloaders(parts), drivers=load_drivers()),
        clock=clock,
        specs=list(programmers),
        watch_hotplug=False,
        about=about,
    )
    async with hardware, anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        begun = clock.monotonic()
        with station.events.subscribe(size=100_000) as events:
            job: Job = await station.enqueue(recipe, slots=None, count=None)
            async for event in events:
                if event.job is not None and event.job.state.is_final:
                    job = event.job
                    break
        seconds = clock.monotonic() - begun
        await station.stop()
    await journal.aclose()
    if job.passed != len(programmers):
        raise RuntimeError(f"only {job.passed} of {len(programmers)} boards passed")
    return seconds
