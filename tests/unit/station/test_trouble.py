"""Trouble that nobody declared, and devices that hang: both stay on their slot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from tests.unit.station.workbench import PARTS, Workbench, programmer, workbench

from ispd.errors import ErrorCode
from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Verdict
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import SlotAction, SlotState
from ispd.programmers.contract import IspProgrammer, Monitor
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbtiny import UsbTinyDriver, UsbTinyProgrammer
from ispd.transport.contract import Opener
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

CONTENT = bytes(range(1, 201))
RECIPE = Recipe(flash=Image.of([Segment(0, CONTENT)]), accept_fuses=True)
HANG_S = 60.0


class Faulty(UsbTinyProgrammer):
    """Has a bug: its first write ends in an exception that no contract names."""

    has_written = False

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        if not Faulty.has_written:
            Faulty.has_written = True
            raise ZeroDivisionError
        return await super().write(part, memory, pages, monitor)


class Hanging(UsbTinyProgrammer):
    """Takes its time to be closed, like a wedged device does."""

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(HANG_S)
        await super().aclose()


class FaultyDriver(UsbTinyDriver):
    async def open(self, hardware: Opener, port: str, **_: Any) -> IspProgrammer:
        return Faulty(ControlChannel(await hardware.open_usb(port)))


class HangingDriver(UsbTinyDriver):
    """Only the device at 1-1.4 hangs."""

    async def open(self, hardware: Opener, port: str, **_: Any) -> IspProgrammer:
        channel = ControlChannel(await hardware.open_usb(port))
        return Hanging(channel) if port == "usb:1-1.4" else UsbTinyProgrammer(channel)


@virtual
async def test_a_bug_during_a_unit_is_its_verdict_and_the_slot_works_on(tmp_path: Path) -> None:
    """The record is closed, its job ends, the board is let go, and the next board is flashed."""
    target = AvrTarget(PARTS.avr("atmega32u4"))
    Faulty.has_written = False
    async with workbench(tmp_path, "usbtiny", drivers={"usbtiny": FaultyDriver()}) as bench:
        unit = await bench.once(target, RECIPE)
        assert (await bench.station.job(unit.job)).state is JobState.DONE
        assert unit.verdict is Verdict.FAILED
        assert unit.failure is not None
        assert unit.failure.code == ErrorCode.INTERNAL
        assert "ZeroDivisionError" in unit.failure.message
        assert unit.fuses_before, "what was known about the board is kept"
        assert not target.in_reset
        assert (await bench.once(target, RECIPE)).verdict is Verdict.PASSED


@virtual
async def test_a_device_that_hangs_when_it_is_pulled_holds_up_no_other_slot(tmp_path: Path) -> None:
    async with workbench(tmp_path, "usbtiny", configured=False, drivers={"usbtiny": HangingDriver()}) as bench:
        bench.hardware.add("B1", programmer("usbtiny"), path="1-1.5", plugged=False)
        bench.hardware.plug("B1")
        await become(bench, {"1-1.4": SlotState.IDLE, "1-1.5": SlotState.IDLE}, within_s=2)
        bench.hardware.unplug("A1")
        bench.hardware.unplug("B1")
        await become(bench, {"1-1.4": SlotState.VACANT, "1-1.5": SlotState.VACANT}, within_s=1)
        bench.hardware.plug("A1")
        bench.hardware.plug("B1")
        await become(bench, {"1-1.4": SlotState.VACANT, "1-1.5": SlotState.IDLE}, within_s=1)
        await become(bench, {"1-1.4": SlotState.IDLE, "1-1.5": SlotState.IDLE}, within_s=HANG_S + 1)


@virtual
async def test_a_caller_that_leaves_while_a_programmer_blinks_leaves_no_board_in_reset(tmp_path: Path) -> None:
    target = AvrTarget(PARTS.avr("atmega32u4"))
    async with workbench(tmp_path, "usbtiny", target=target) as bench:
        await become(bench, {"A1": SlotState.IDLE}, within_s=2)
        async with anyio.create_task_group() as caller:
            caller.start_soon(bench.station.set_slot, "A1", SlotAction.IDENTIFY)
            await anyio.sleep(0.2)
            assert target.in_reset, "its light is on"
            caller.cancel_scope.cancel()
        assert not target.in_reset


@virtual
async def test_a_slot_that_was_switched_off_and_on_again_while_it_waited_flashes_its_next_board(tmp_path: Path) -> None:
    async with workbench(tmp_path, "usbtiny") as bench:
        await become(bench, {"A1": SlotState.IDLE}, within_s=2)
        job = await bench.enqueue(RECIPE, count=1)
        await become(bench, {"A1": SlotState.WAITING}, within_s=2)
        for action in (SlotAction.DISABLE, SlotAction.ENABLE):  # both before the slot takes note of either
            await bench.station.set_slot("A1", action)
        bench.insert(AvrTarget(PARTS.avr("atmega32u4")))
        assert (await bench.next_unit()).verdict is Verdict.PASSED
        assert (await bench.ended(job)).state is JobState.DONE


@virtual
async def test_a_slot_that_is_switched_off_as_its_board_is_taken_out_has_no_trouble(tmp_path: Path) -> None:
    """At whatever moment between two looks, and in the midst of one."""
    async with workbench(tmp_path, "stk500v1") as bench:
        await bench.enqueue(RECIPE, count=1000)
        for at_ms in range(0, 400, 10):
            bench.insert(AvrTarget(PARTS.avr("atmega32u4")))
            await bench.next_unit()
            bench.remove()
            await anyio.sleep(at_ms / 1000)
            await bench.station.set_slot("A1", SlotAction.DISABLE)
            await become(bench, {"A1": SlotState.DISABLED}, within_s=2)
            with anyio.move_on_after(1.0):
                async for event in bench.events:
                    assert event.slot is None or event.slot.failure is None
            await bench.station.set_slot("A1", SlotAction.ENABLE)
            await become(bench, {"A1": SlotState.WAITING}, within_s=2)


@virtual
async def test_a_slot_that_is_switched_off_lets_other_programs_have_its_programmer(tmp_path: Path) -> None:
    """Asked for a probe meanwhile, it takes it for that only."""
    async with workbench(tmp_path, "usbtiny", target=AvrTarget(PARTS.avr("atmega32u4"))) as bench:

        def is_open() -> bool:
            (found,) = bench.station.programmers()
            return found.is_open

        await become(bench, {"A1": SlotState.IDLE}, within_s=2)
        assert is_open()
        await bench.station.set_slot("A1", SlotAction.DISABLE)
        await anyio.sleep(0.1)
        assert not is_open()
        assert (await bench.station.probe("A1")).signature == "1E 95 87"
        await anyio.sleep(0.1)
        assert not is_open()
        await bench.station.set_slot("A1", SlotAction.ENABLE)
        await become(bench, {"A1": SlotState.IDLE}, within_s=2)
        assert is_open()


async def become(bench: Workbench, wanted: dict[str, SlotState], *, within_s: float) -> None:
    """Wait until the slots are in these states."""
    with anyio.fail_after(within_s):
        while {slot.name: slot.state for slot in bench.station.slots()} != wanted:
            await anext(bench.events)
