"""A shift on virtual time: 1,000 boards through 8 slots, inserted and pulled at random, some of them bad.

What counts is looked up in the chips: no false pass, no board missed, no record lost or doubled.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.job import Unit, Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from vbench.faults import Fault, LostPage, ReadFlips, Silent, StuckBits, WrongSignature
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.violation import ViolationKind
from vbench.virtual_time import InlineWorker, VirtualClock, run_virtual

SLOTS = [f"S{number}" for number in range(8)]
BOARDS = 1000
CONTENT = random.Random(7).randbytes(512)
PART = load_parts().avr("atmega32u4")
RECIPE = Recipe(
    flash=Image.of([Segment(0, CONTENT)]),
    part="atmega32u4",
    fuses={MemoryKind.LFUSE: 0x5E, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0xF3},
    lock=0xEF,
    accept_fuses=True,
)
FAULTS: dict[str, Callable[[], tuple[Fault, ...]]] = {
    "bad cell": lambda: (
        StuckBits(memory=MemoryKind.FLASH, address=0x42, mask=0x10, level=0 if CONTENT[0x42] & 0x10 else 1),
    ),
    "lost page": lambda: (LostPage(address=0x80),),
    "noisy reads": lambda: (ReadFlips(rate=0.02),),
    "wrong chip": lambda: (WrongSignature(signature=bytes.fromhex("1E950F")),),
    "dead": lambda: (Silent(),),
}


@dataclass
class Board:
    """One board of the shift, and what the station said of it."""

    target: AvrTarget
    fault: str | None
    pulled: bool
    units: list[Unit] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        flash_holds = bytes(self.target.flash[: len(CONTENT)]) == CONTENT
        fuses_hold = all(
            (self.target.fuses[memory] ^ value) & PART.mask(memory) == 0 for memory, value in RECIPE.fuses.items()
        )
        return flash_holds and fuses_hold and (self.target.lock ^ 0xEF) & PART.lock_mask == 0


class Shift:
    """Eight slots, an operator at each, and one job that never has enough."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.hardware = BenchHardware()
        self.clock = VirtualClock()
        self.boards: list[Board] = []
        self.begun: dict[str, anyio.Event] = {}
        self.ended: dict[str, anyio.Event] = {}
        self.on_slot: dict[str, Board | None] = dict.fromkeys(SLOTS)
        self.left = BOARDS
        for slot in SLOTS:
            self.hardware.add(f"/bench/{slot}", SerialProgrammer(Flavour.UNO, auto_reset=False))

    def next_board(self) -> Board:
        roll = self.chance.random()
        fault = self.chance.choice(sorted(FAULTS)) if roll < 0.15 else None
        pulled = fault is None and 0.15 <= roll < 0.25
        target = AvrTarget(PART, seed=self.chance.randrange(1 << 30), faults=FAULTS[fault]() if fault else ())
        board = Board(target, fault, pulled)
        self.boards.append(board)
        return board

    async def operate(self, slot: str) -> None:
        while self.left:
            self.left -= 1
            board = self.next_board()
            self.begun[slot], self.ended[slot] = anyio.Event(), anyio.Event()
            self.on_slot[slot] = board
            self.hardware.insert(f"/bench/{slot}", board.target)
            if board.fault == "dead":
                await self.clock.sleep(self.chance.uniform(1.0, 4.0))
            elif board.pulled:
                await self.begun[slot].wait()
                await self.clock.sleep(self.chance.uniform(0.0, 1.5))
            else:
                await self.ended[slot].wait()
                await self.clock.sleep(self.chance.uniform(0.0, 3.0))
            self.hardware.remove(f"/bench/{slot}")
            if board.pulled:
                await self.ended[slot].wait()
            await self.clock.sleep(self.chance.uniform(1.5, 4.0))
            self.on_slot[slot] = None

    async def follow(self, station: Station) -> None:
        with station.events.subscribe(size=100_000) as events:
            async for event in events:
                unit = event.unit
                if unit is None:
                    continue
                if unit.verdict is None:
                    self.begun[unit.slot].set()
                    continue
                board = self.on_slot[unit.slot]
                assert board is not None, f"unit {unit.id} on an empty slot"
                board.units.append(unit)
                self.ended[unit.slot].set()

    async def run(self, folder) -> list[Unit]:
        journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
        parts = load_parts()
        knowledge = Knowledge(parts=parts, bootloaders=load_bootloaders(parts), drivers=load_drivers())
        specs = [SlotSpec(name=slot, programmer="stk500v1", port=f"/bench/{slot}", baud=19200) for slot in SLOTS]
        about = About(version="", started="", socket="", state_dir="", bench=True)
        station = Station(
            self.hardware, journal, knowledge=knowledge, clock=self.clock, specs=specs, watch_hotplug=False, about=about
        )
        async with self.hardware, anyio.create_task_group() as tasks:
            await tasks.start(station.run)
            tasks.start_soon(self.follow, station)
            job = await station.enqueue(RECIPE, slots=None, count=10 * BOARDS)
            async with anyio.create_task_group() as operators:
                for slot in SLOTS:
                    operators.start_soon(self.operate, slot)
            await station.cancel(job.id)
            await station.stop()
            tasks.cancel_scope.cancel()
        units: list[Unit] = []
        while page := await journal.units(job=job.id, limit=1000, before=units[-1].id if units else None):
            units += page
        await journal.aclose()
        return units


def test_a_shift_of_a_thousand_boards(tmp_path):
    shift = Shift(seed=2026)
    records = run_virtual(shift.run, tmp_path)

    told = [unit for board in shift.boards for unit in board.units]
    assert len(shift.boards) == BOARDS
    assert sorted(unit.id for unit in told) == sorted(unit.id for unit in records), "records lost or doubled"
    for board in shift.boards:
        verdicts = [unit.verdict for unit in board.units]
        if board.fault == "dead":
            assert verdicts == []
        else:
            assert len(verdicts) == 1, f"{board.fault}: met {len(verdicts)} times"
        if Verdict.PASSED in verdicts:
            assert board.is_good, f"false pass of a board with {board.fault or 'no fault'}"
        elif board.fault is None and not board.pulled:
            raise AssertionError(f"a good board was not passed: {board.units[-1].failure}")
        if board.fault in ("bad cell", "lost page", "wrong chip"):
            assert verdicts == [Verdict.FAILED]
        # a board that touches its contacts in the middle of a look sees a short entry: nobody's fault
        violations = [v for v in board.target.violations if v.kind is not ViolationKind.ENTRY_TOO_EARLY]
        assert not (board.fault is None and violations), violations[:3]
        assert not board.target.in_reset
    assert sum(Verdict.PASSED in [unit.verdict for unit in board.units] for board in shift.boards) > 700
