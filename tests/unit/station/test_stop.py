"""The daemon stops while something is under way: soon, with targets out of reset, and nothing is forgotten."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.unit.station.workbench import PARTS, workbench

from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Verdict
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.usbtiny import UsbTinyDriver
from ispd.transport.contract import Opener
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

CONTENT = bytes(range(1, 201)) * 40
RECIPE = Recipe(flash=Image.of([Segment(0, CONTENT)]), accept_fuses=True)
OPENING_S = 18.0
"""How long a Bus Pirate is looked for where something else is plugged in."""


class SlowDriver(UsbTinyDriver):
    """Opens a programmer slowly, like one that has to be talked out of another mode."""

    async def open(self, hardware: Opener, port: str, **options: Any) -> IspProgrammer:
        await anyio.sleep(OPENING_S)
        return await super().open(hardware, port, **options)


@pytest.mark.parametrize("kind", ["stk500v1", "usbasp", "usbtiny", "buspirate"])
@virtual
async def test_a_board_that_was_cut_short_is_flashed_again_by_the_next_daemon(tmp_path: Path, kind: str) -> None:
    """Also for a job without count: it is not through with a slot whose board it left half written."""
    target = AvrTarget(PARTS.avr("atmega32u4"))
    async with workbench(tmp_path, kind, target=target) as bench:
        job = await bench.enqueue(RECIPE)
        async for event in bench.events:
            if event.slot is not None and event.slot.bytes_done:
                break
    assert not target.in_reset
    assert bytes(target.flash[: len(CONTENT)]) != CONTENT, "stopped before it was through"

    again = AvrTarget(PARTS.avr("atmega32u4"))  # the same board; a target keeps the time of its bench
    again.flash[:] = target.flash
    async with workbench(tmp_path, kind, target=again) as bench:
        ended = await bench.ended(job)
        assert (ended.state, ended.seen) == (JobState.DONE, {})
        (unit,) = await bench.station.units(job=job.id, limit=10, before=None)
    assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.INTERRUPTED, Verdict.PASSED]
    assert bytes(again.flash[: len(CONTENT)]) == CONTENT


@virtual
async def test_a_programmer_that_is_being_opened_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with workbench(tmp_path, "usbtiny", drivers={"usbtiny": SlowDriver()}) as bench:
        begun = anyio.current_time()
        await bench.station.stop()
        assert anyio.current_time() - begun < 1.0
