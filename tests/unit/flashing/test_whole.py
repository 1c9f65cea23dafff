"""From the slot's programmer to the board's own port: whose board is it that comes up there?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from tests.unit.flashing.recording_observer import RecordingObserver
from tests.unit.flashing.scripted_chain import (
    BOOTLOADERS,
    FIRMWARE,
    KEYBOARD_USB,
    LOADER,
    LOADER_USB,
    PARTS,
    ScriptedPort,
    ScriptedTool,
    Watcher,
    bench,
    device,
)

from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, TargetError
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.whole import Equipment, Way, flash_whole
from ispd.model.image import Image
from ispd.model.job import Failure, Verdict
from ispd.model.part import Interface, MemoryKind
from ispd.model.recipe import PlanKind, Recipe
from ispd.programmers.contract import Monitor
from ispd.station.company import Companies, Member
from vbench.virtual_time import VirtualClock, virtual


class WholeWatcher(RecordingObserver):
    """Takes part in both stages."""

    def __init__(self) -> None:
        super().__init__()
        self._chain = Watcher()

    def firmware_begins(self) -> None:
        self.events.append("firmware begins")

    async def begin_again(self, failure: Failure) -> None:
        self.events.append(f"begin again: {failure.code}")

    async def stopped(self) -> Any:
        return await self._chain.stopped()


@dataclass
class PassedTarget:
    """Behind a programmer that does its work in no time. ``cabled_to`` is the port of its board's USB cable."""

    kind: Interface
    cells: bytes | TargetError = FIRMWARE.segments[0].data
    runs: list[Recipe] = field(default_factory=list)
    reads: int = 0
    cabled_to: ScriptedPort | None = None
    holds: int = 0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """An AVR leaves the bus when it is held, an STM32 with a fixed pull-up when it starts anew."""
        self.holds += 1
        if self.cabled_to is not None and self.kind is Interface.ISP:
            self.cabled_to.put(None)
        yield
        if self.cabled_to is not None:
            self.cabled_to.put(None)
            await self.cabled_to.put_later(0.2, device(LOADER_USB, address=10 + self.holds))

    @property
    def reads_running(self) -> bool:
        return self.kind is Interface.SWD

    @property
    def leaves_usb_within_s(self) -> float:
        return 3.0 if self.reads_running else 0.0

    async def read(self, _parts: Parts, memory: MemoryKind, _monitor: Monitor) -> bytes:
        assert memory is MemoryKind.FLASH
        self.reads += 1
        await anyio.lowlevel.checkpoint()
        if isinstance(self.cells, TargetError):
            raise self.cells
        return self.cells

    async def flash(self, recipe: Recipe, **_rest: object) -> UnitOutcome:
        await anyio.lowlevel.checkpoint()
        self.runs.append(recipe)
        return UnitOutcome(verdict=Verdict.PASSED, part="atmega32u4")


async def flash_beside(
    port: ScriptedPort, target: PassedTarget, tool: ScriptedTool | None = None, company: Member | None = None
) -> tuple[UnitOutcome, WholeWatcher]:
    """Chain a board while ``port`` shows what it shows."""
    watcher = WholeWatcher()

    async def lend() -> Any:
        return target

    equipment = Equipment(
        target=lend,
        parts=PARTS,
        bootloaders=BOOTLOADERS,
        clock=VirtualClock(),
        bench=replace(bench(port, tool or ScriptedTool(port)), company=company),
    )
    way = Way(
        plan=PlanKind.CHAINED, isp=Recipe(flash=Image(())), part="atmega32u4", firmware=FIRMWARE, bootloader=LOADER
    )
    outcome = await flash_whole(way, equipment, watcher)
    assert len(target.runs) == 1
    return outcome, watcher


@pytest.mark.parametrize("leaves_after_s", [0.05, 2.5])
@virtual
async def test_a_board_by_swd_leaves_the_bus_when_its_program_starts(leaves_after_s: float) -> None:
    port = ScriptedPort(device(KEYBOARD_USB, address=7))

    async def restart() -> None:
        await port.put_later(leaves_after_s, None)
        await port.put_later(0.2, device(LOADER_USB, address=8))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(restart)
        outcome, watcher = await flash_beside(port, PassedTarget(Interface.SWD))
    assert (outcome.verdict, outcome.failure) == (Verdict.PASSED, None)
    assert "firmware begins" in watcher.events


@pytest.mark.parametrize(("kind", "waits_s"), [(Interface.SWD, 3.0), (Interface.ISP, 0.0)])
@virtual
async def test_who_stays_on_the_port_is_another_board(kind: Interface, waits_s: float) -> None:
    """The bootloader's own kind, too: one that was there all the while is none that was just written."""
    port = ScriptedPort(device(LOADER_USB, address=7))
    begun = anyio.current_time()
    outcome, watcher = await flash_beside(port, PassedTarget(kind))
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, "board-unexpected")
    assert anyio.current_time() - begun == pytest.approx(waits_s)
    assert "firmware begins" not in watcher.events


GOOD = FIRMWARE.segments[0].data
SILENT = TargetError(ErrorCode.TARGET_NOT_RESPONDING, "nobody answers")


@pytest.mark.parametrize(
    ("cells", "verdict", "told"),
    [
        (GOOD + b"\xff" * 100, Verdict.PASSED, "read back by the slot's programmer"),
        (GOOD[:-1] + b"\x00", Verdict.NEEDS_RESCUE, "reads 0x00"),
        (GOOD[:-1], Verdict.NEEDS_RESCUE, "was not read back"),
        (SILENT, Verdict.PASSED, "nobody answers"),
    ],
)
@virtual
async def test_what_a_bootloader_does_not_read_back_the_programmer_does(
    cells: bytes | TargetError, verdict: Verdict, told: str
) -> None:
    port = ScriptedPort(None)
    target = PassedTarget(Interface.SWD, cells)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
        outcome, watcher = await flash_beside(port, target, ScriptedTool(port, reads=None))
    assert (outcome.verdict, target.reads) == (verdict, 1)
    assert any(told in record.note for record in watcher.records if record.name == "verify over USB")
    assert bool(outcome.warnings) == (cells is SILENT)


@virtual
async def test_a_board_with_an_avr_is_not_stopped_for_that() -> None:
    port = ScriptedPort(None)
    target = PassedTarget(Interface.ISP)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
        outcome, _ = await flash_beside(port, target, ScriptedTool(port, reads=None))
    assert (outcome.verdict, target.reads) == (Verdict.PASSED, 0)


async def flash_in_company(
    target: PassedTarget, port: ScriptedPort, *, of_others: int
) -> tuple[UnitOutcome, list[str]]:
    """Chain a board that comes up at ``port`` while other units are on their way; return what the follow-up tool was asked, too."""
    tool, companies = ScriptedTool(port), Companies()
    with companies.joined() as member:
        for _ in range(of_others):
            with companies.joined():
                pass  # that it was there is enough
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
            outcome, _ = await flash_beside(port, target, tool, member)
    return outcome, tool.calls


@pytest.mark.parametrize("kind", [Interface.ISP, Interface.SWD])
@pytest.mark.parametrize("of_others", [0, 1, 3])
@virtual
async def test_in_company_a_board_is_restarted_once_and_goes_on(kind: Interface, of_others: int) -> None:
    port = ScriptedPort(None)
    target = PassedTarget(kind, cabled_to=port)
    outcome, calls = await flash_in_company(target, port, of_others=of_others)
    assert (outcome.verdict, outcome.failure) == (Verdict.PASSED, None)
    assert (target.holds, calls) == (min(1, of_others), ["erase", "write", "start"])


@pytest.mark.parametrize("is_elsewhere", [True, False])
@pytest.mark.parametrize(("kind", "waits_s"), [(Interface.ISP, 12.0), (Interface.SWD, 3.0)])
@virtual
async def test_in_company_nothing_is_written_to_another_units_board(
    kind: Interface, waits_s: float, is_elsewhere: bool
) -> None:
    target = PassedTarget(kind, cabled_to=ScriptedPort(device(LOADER_USB)) if is_elsewhere else None)
    begun_s = anyio.current_time()
    outcome, calls = await flash_in_company(target, ScriptedPort(None), of_others=1)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code, calls) == (Verdict.FAILED, "board-unexpected", [])
    assert anyio.current_time() - begun_s == pytest.approx(waits_s, abs=1.0)


@virtual
async def test_boards_are_restarted_one_after_the_other() -> None:
    """Restarted together, each would vouch for the other."""
    companies = Companies()
    restarted: list[str] = []

    async def restart(member: Member, name: str) -> None:
        async with member.turn():
            restarted.append(f"{name} begins")
            await anyio.sleep(1.0)
            restarted.append(f"{name} ends")

    with companies.joined() as first:
        known = [first.has_others]
        with companies.joined() as second:
            known += [first.has_others, second.has_others]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(restart, first, "one")
                tasks.start_soon(restart, second, "two")
        known.append(first.has_others)  # whose board is on its port is still open
    assert restarted == ["one begins", "one ends", "two begins", "two ends"]
    with companies.joined() as alone:
        known.append(alone.has_others)
    assert known == [False, True, True, True, False]
