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
from ispd.flashing.port_proof import prove_port
from ispd.flashing.reset_gate import ResetGate
from ispd.flashing.whole import Equipment, Way, flash_whole
from ispd.model.image import Image
from ispd.model.job import Failure, Verdict
from ispd.model.part import Interface, MemoryKind
from ispd.model.recipe import PlanKind, Recipe
from ispd.programmers.contract import Monitor, ProgrammerIdentity
from ispd.transport.contract import UsbDeviceAt
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


SCRIPTED = ProgrammerIdentity(kind="scripted", port="/dev/scripted", firmware="1")


@dataclass
class PassedTarget:
    """Behind a programmer that does its work in no time.

    :param cabled_to: the port of its board's USB cable, None for a cable in no port.
    :param listed_for_s: how long the hub takes to tell that the board left.
    """

    kind: Interface
    cells: bytes | TargetError = FIRMWARE.segments[0].data
    cabled_to: ScriptedPort | None = None
    stays_while_held: bool = False
    listed_for_s: float = 0.05
    runs: list[Recipe] = field(default_factory=list)
    reads: int = 0
    holds: int = 0
    identity: ProgrammerIdentity = SCRIPTED

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """A board leaves the bus when it is held, or, with a fixed pull-up, when it starts anew."""
        self.holds += 1
        async with anyio.create_task_group() as tasks:
            if not self.stays_while_held:
                tasks.start_soon(self._come_back)
            yield
        if self.stays_while_held:
            await self._come_back()

    async def _come_back(self) -> None:
        if self.cabled_to is not None:
            await self.cabled_to.put_later(self.listed_for_s, None)
            await self.cabled_to.put_later(0.2, device(LOADER_USB, address=10 + self.holds))

    @property
    def reads_running(self) -> bool:
        return self.kind is Interface.SWD

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
    port: ScriptedPort, target: PassedTarget, tool: ScriptedTool | None = None, gate: ResetGate | None = None
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
        gate=gate or ResetGate(VirtualClock()),
        bench=bench(port, tool or ScriptedTool(port)),
    )
    way = Way(
        plan=PlanKind.CHAINED, isp=Recipe(flash=Image(())), part="atmega32u4", firmware=FIRMWARE, bootloader=LOADER
    )
    outcome = await flash_whole(way, equipment, watcher)
    assert len(target.runs) == 1
    return outcome, watcher


KINDS = [(Interface.ISP, False), (Interface.ISP, True), (Interface.SWD, False), (Interface.SWD, True)]


@pytest.mark.parametrize("listed_for_s", [0.05, 0.45, 0.6, 2.5, 9.0])
@pytest.mark.parametrize(("kind", "stays_while_held"), KINDS)
@virtual
async def test_the_slots_board_leaves_its_port_when_its_programmer_restarts_it(
    kind: Interface, stays_while_held: bool, listed_for_s: float
) -> None:
    port = ScriptedPort(None)
    tool = ScriptedTool(port)
    target = PassedTarget(kind, cabled_to=port, stays_while_held=stays_while_held, listed_for_s=listed_for_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
        outcome, _ = await flash_beside(port, target, tool)
    assert (outcome.verdict, outcome.failure) == (Verdict.PASSED, None)
    assert (target.holds, tool.calls) == (1, ["erase", "write", "start"])
    assert outcome.usb_pace is not None
    assert outcome.usb_pace.fixed_s < 1.0, "the proof is no pace of the board"


@pytest.mark.parametrize("gets_tty", [False, True])
@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("kind", [Interface.ISP, Interface.SWD])
@virtual
async def test_who_stays_on_the_port_is_another_board(kind: Interface, was_there: bool, gets_tty: bool) -> None:
    """Also one in the same bootloader, and one that only gets its tty meanwhile."""
    there = device(LOADER_USB, address=7)
    port = ScriptedPort(there if was_there else None)
    tool = ScriptedTool(port)
    begun_s = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        if not was_there:
            tasks.start_soon(port.put_later, 0.5, there)
        if gets_tty:
            tasks.start_soon(port.put_later, 0.9, replace(there, tty="/dev/ttyACM0"))
        outcome, _ = await flash_beside(port, PassedTarget(kind), tool)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code, tool.calls) == (Verdict.FAILED, "board-unexpected", [])
    assert anyio.current_time() - begun_s == pytest.approx(12.5, abs=1.0)


@virtual
async def test_no_board_is_begun_while_another_one_is_proved() -> None:
    port, gate = ScriptedPort(None), ResetGate(VirtualClock())
    target = PassedTarget(Interface.ISP, cabled_to=port)
    seen: list[int] = []

    async def prove_another() -> None:
        async with gate.proving():
            await anyio.sleep(3.0)
            seen.append(len(target.runs))
        await port.put_later(0.5, device(LOADER_USB, address=8))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prove_another)
        await anyio.wait_all_tasks_blocked()
        outcome, _ = await flash_beside(port, target, gate=gate)
    assert (seen, outcome.verdict) == ([0], Verdict.PASSED)


@virtual
async def test_a_board_that_is_never_there_when_it_matters_is_given_up() -> None:
    target: Any = PassedTarget(Interface.ISP)

    async def until_there() -> UsbDeviceAt:
        return device(LOADER_USB)

    with pytest.raises(TargetError, match="comes and goes"):
        await prove_port(target, ScriptedPort(None), ResetGate(VirtualClock()), until_there)
    assert target.holds == 0


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
    target = PassedTarget(Interface.SWD, cells, cabled_to=port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
        outcome, watcher = await flash_beside(port, target, ScriptedTool(port, reads=None))
    assert (outcome.verdict, target.reads) == (verdict, 1)
    assert any(told in record.note for record in watcher.records if record.name == "verify over USB")
    assert bool(outcome.warnings) == (cells is SILENT)


@virtual
async def test_a_board_with_an_avr_is_not_stopped_for_that() -> None:
    port = ScriptedPort(None)
    target = PassedTarget(Interface.ISP, cabled_to=port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.put_later, 0.5, device(LOADER_USB, address=8))
        outcome, _ = await flash_beside(port, target, ScriptedTool(port, reads=None))
    assert (outcome.verdict, target.reads) == (Verdict.PASSED, 0)
