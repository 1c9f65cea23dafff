"""From blank chip to running firmware: ISP, then the board's own USB port, on every slot at once. Chips are looked into."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import (
    BOOTLOADERS,
    LOADER,
    PART,
    PARTS,
    TOOLS,
    ChainStation,
    blank_board,
    chain_station,
    firmware,
    recipe,
    runs,
)

from ispd.chain.registry import tool_for
from ispd.model.bootloader import Bootloader
from ispd.model.job import JobState, Unit, Verdict
from ispd.model.part import AvrPart
from ispd.model.recipe import PlanKind
from ispd.model.station import SlotState
from ispd.station.events import Subscription
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.board_faults import BoardFault, EraseLeaves, NeverEnumerates, Vanishes, WrongIdentity
from vbench.hardware import BenchHardware
from vbench.tools import PROGRAMS
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

SLOTS = 8


def _specs() -> list[SlotSpec]:
    return [
        SlotSpec(name=f"A{number}", programmer="usbasp", path=f"1-1.{number}", target_usb=f"1-2.{number}")
        for number in range(SLOTS)
    ]


@pytest.mark.parametrize(
    "name",
    ["atmel-dfu-32u4", "caterina-promicro16", "halfkay-32u4", "qmk-hid-32u4", "bootloadhid-m32a", "usbasploader-m328p"],
)
@virtual
async def test_eight_boards_at_once_each_end_with_their_own_firmware(tmp_path: Path, name: str) -> None:
    """They all show the same identity, without a serial number, and one of these tools takes whichever it finds first."""
    hardware = BenchHardware(hotplug_lag_s=0.02)
    loader = BOOTLOADERS.get(name)
    part = PARTS.avr(loader.parts[0])
    boards = [blank_board(seed=number, part=part) for number in range(SLOTS)]
    apps = [firmware(number, 2000 + 100 * number, part=part) for number in range(SLOTS)]
    for spec in random.Random(1).sample(_specs(), SLOTS):
        number = int(spec.name[1:])
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
        hardware.insert(spec.name, boards[number])
    async with chain_station(hardware, _specs(), tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(
                recipe(apps[number], loader=loader, part=part), slots=[f"A{number}"], count=None
            )
            for number in range(SLOTS)
        ]
        for job in jobs:
            await bench.ended(job)
        units = [(await bench.units(job))[0] for job in jobs]
    assert [(unit.verdict, unit.failure) for unit in units] == [(Verdict.PASSED, None)] * SLOTS
    for unit, board, app in zip(units, boards, apps, strict=True):
        assert runs(board, app, loader, part)
        assert (unit.plan, unit.application_usb, unit.part) == (PlanKind.CHAINED, "FEED:6060", part.id)


@virtual
async def test_the_seeds_story_two_boards_that_cannot_get_blank_are_saved(tmp_path: Path) -> None:
    hardware = BenchHardware()
    ill = (2, 5)
    boards = [blank_board(faults=[EraseLeaves(chip_erases=2)] if number in ill else []) for number in range(SLOTS)]
    for spec, board in zip(_specs(), boards, strict=True):
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
        hardware.insert(spec.name, board)
    app = firmware(7)
    async with chain_station(hardware, _specs(), tmp_path) as bench:
        units = await bench.once(recipe(app))
    assert len(units) == SLOTS
    for unit in units:
        number = int(unit.slot[1:])
        assert unit.verdict is Verdict.PASSED
        assert runs(boards[number], app)
        verdicts = [attempt.verdict for attempt in unit.attempts]
        assert verdicts == ([Verdict.NEEDS_RESCUE, Verdict.PASSED] if number in ill else [Verdict.PASSED])
        assert any("rescued by ISP" in warning for warning in unit.warnings) is (number in ill)
        factory = {fuse.memory.value: fuse.default for fuse in PART.fuses}
        assert (unit.fuses_before, unit.lock_before) == (factory, 0xFF), "as it came, also where it was written twice"


@virtual
async def test_a_finished_keyboard_is_left_alone_until_it_is_taken_out(tmp_path: Path) -> None:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    spec = _specs()[0]
    hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
    app = firmware(1)
    async with chain_station(hardware, [spec], tmp_path) as bench:
        job = await bench.station.enqueue(recipe(app), slots=None, count=2)
        for number in range(2):
            board = blank_board(seed=number)
            hardware.insert(spec.name, board)
            assert (await bench.verdict()).verdict is Verdict.PASSED
            shown = board.enumerations
            await anyio.sleep(60.0)
            assert (board.enumerations, bench.station.slot(spec.name).board_usb) == (shown, "FEED:6060")
            hardware.remove(spec.name)
            await anyio.sleep(5.0)
            if number == 0:
                assert bench.station.slot(spec.name).state is SlotState.WAITING
        assert (await bench.ended(job)).passed == 2


def _served() -> list[Bootloader]:
    """Return the bootloaders that boards with ISP get, and whose tool the bench has. STM32 boards: see test_stlink_chain."""
    found = []
    for loader in BOOTLOADERS:
        tool = tool_for(loader.family, TOOLS)
        is_avr = any(isinstance(PARTS.get(name), AvrPart) for name in loader.parts)
        if is_avr and not loader.by_hand and tool is not None and tool.program in (None, *PROGRAMS):
            found.append(loader)
    return found


@pytest.mark.parametrize("loader", _served(), ids=lambda loader: loader.id)
@virtual
async def test_every_bootloader_of_the_catalog_takes_its_firmware(tmp_path: Path, loader: Bootloader) -> None:
    part = PARTS.avr(loader.parts[0])
    board = blank_board(part=part)
    hardware = BenchHardware(hotplug_lag_s=0.02)
    spec = _specs()[0]
    hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
    hardware.insert(spec.name, board)
    app = firmware(3, min(3000, loader.application_max_bytes or 3000), part=part)
    async with chain_station(hardware, [spec], tmp_path) as bench:
        (unit,) = await bench.once(recipe(app, loader=loader, part=part))
    assert (unit.verdict, unit.failure, unit.application_usb) == (Verdict.PASSED, None, "FEED:6060")
    assert runs(board, app, loader, part)


BOARDS = 240
FAULTS: dict[str, Callable[[random.Random], Sequence[BoardFault]]] = {
    "none": lambda _: [],
    "erases at the second try": lambda _: [EraseLeaves(chip_erases=99, tries=1)],
    "erases at the third try": lambda _: [EraseLeaves(chip_erases=99, tries=2)],
    "cured by ISP": lambda _: [EraseLeaves(chip_erases=2)],
    "incurable": lambda _: [EraseLeaves(chip_erases=99)],
    "vanishes": lambda chance: [Vanishes(transfer=chance.randrange(120))],
    "wrong identity": lambda _: [WrongIdentity(usb="16C0:0478")],
    "never enumerates": lambda _: [NeverEnumerates()],
    "comes up late": lambda _: [],
}
CURABLE = {"none", "erases at the second try", "erases at the third try", "cured by ISP", "comes up late"}


@dataclass
class Shift:
    """Eight slots with an operator at each, who pulls a board out now and then before its verdict."""

    chance: random.Random
    hardware: BenchHardware
    boards: list[tuple[Board, str, bool]] = field(default_factory=list)
    units: list[tuple[Unit, Board, str]] = field(default_factory=list)

    def next_board(self) -> tuple[Board, str, bool]:
        name = self.chance.choice([*["none"] * 8, *FAULTS])
        late_s = 4.0 if name == "comes up late" else 0.25
        faults = FAULTS[name](self.chance)
        board = Board(blank_board(seed=len(self.boards)).target, faults=faults, enumeration_s=late_s)
        self.boards.append((board, name, self.chance.random() < 0.08))
        return self.boards[-1]

    async def operator(self, slot: str, bench: ChainStation) -> None:
        while len(self.boards) < BOARDS:
            board, name, is_pulled = self.next_board()
            with bench.station.events.subscribe(size=10_000) as events, anyio.fail_after(300.0):
                self.hardware.insert(slot, board)
                patience_s = self.chance.uniform(0.5, 6.0) if is_pulled else 300.0
                with anyio.move_on_after(patience_s):
                    await self._verdict(slot, board, name, events)
                self.hardware.remove(slot)
                await anyio.sleep(25.0 if is_pulled else 0.0)  # a slot goes on waiting for who was pulled out
                if bench.station.slot(slot).state is not SlotState.WAITING:
                    async for event in events:
                        if event.slot is not None and event.slot.name == slot and event.slot.state is SlotState.WAITING:
                            break
            await anyio.sleep(self.chance.uniform(0.1, 3.0))

    async def _verdict(self, slot: str, board: Board, name: str, events: Subscription) -> None:
        async for event in events:
            unit = event.unit
            if unit is not None and unit.slot == slot and unit.verdict is not None:
                self.units.append((unit, board, name))
                return


@virtual
async def test_a_shift_of_boards_good_and_ill_has_no_false_pass(tmp_path: Path) -> None:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    for spec in _specs():
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
    app = firmware(11, 2500)
    shift = Shift(random.Random(5), hardware)
    async with chain_station(hardware, _specs(), tmp_path) as bench:
        job = await bench.station.enqueue(recipe(app), slots=None, count=BOARDS * 2)
        async with anyio.create_task_group() as tasks:
            for spec in _specs():
                tasks.start_soon(shift.operator, spec.name, bench)
        job = await bench.ended(await bench.station.cancel(job.id))
        records = await bench.units(job)
    assert job.state is JobState.CANCELLED
    seen: Counter[tuple[str, Verdict]] = Counter()
    for unit, board, name in shift.units:
        assert unit.verdict is not None
        if unit.verdict is Verdict.PASSED:
            assert runs(board, app, LOADER), (name, unit)
        else:
            assert name not in CURABLE, (name, unit.failure)
            assert unit.failure is not None
            assert unit.failure.hint
        seen[name, unit.verdict] += 1
    told = {verdict for name, verdict in seen if name == "incurable"}
    assert told == {Verdict.FAILED}
    assert {name for name, _ in seen} == FAULTS.keys(), "each fault occurred"
    passed = sum(unit.verdict is Verdict.PASSED for unit in records)
    assert (job.passed, len({unit.id for unit in records})) == (passed, len(records))
    assert job.passed + job.failed <= len(records)
