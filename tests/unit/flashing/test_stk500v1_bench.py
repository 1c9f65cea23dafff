"""The same promises end to end: the real STK500v1 driver, an emulated line, sketch and target, on virtual time."""

import anyio
import pytest
from tests.unit.flashing.bench_unit import PARTS, check_honest, check_left_alone, flash, holds, image, pattern, soil
from tests.unit.flashing.recording_observer import RecordingObserver

from ispd.flashing.isp_interface import IspInterface
from ispd.flashing.observer import UnitOutcome
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.stk500v1 import DRIVER
from vbench.faults import CorruptReply, DropReply, LineNoise, PowerLoss, ProgrammerFault
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer, usb_identity_of
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
PART = PARTS.avr("attiny85")
JOB = Recipe(
    flash=image((0, pattern(150)), (0x1FC0, pattern(20, 3))),
    eeprom=image((1, b"\x10\x20\xff\x30\x40")),
    fuses={L: 0xE2, H: 0xD7},
    lock=0xFE,
    accept_fuses=True,
)


class Station:
    """One slot: a programmer with a used, locked board, opened by the real driver."""

    def __init__(self, flavour: Flavour, *faults: ProgrammerFault, part: str = "attiny85") -> None:
        self.hardware = BenchHardware()
        self.board = soil(AvrTarget(PARTS.avr(part), lock=0xFC))
        self.emulator = SerialProgrammer(flavour, target=self.board, faults=faults)
        self.hardware.add("P1", self.emulator)
        self._usb = usb_identity_of(flavour)

    async def open(self) -> IspProgrammer:
        return await DRIVER.open(self.hardware, "P1", usb=self._usb)

    async def settled(self) -> AvrTarget:
        """Return the board after everything that was on its way has arrived."""
        await anyio.sleep(1.0)
        target = self.hardware.target("P1")
        assert target is self.board
        return target


async def flash_again(station: Station) -> UnitOutcome:
    """Plug the programmer in again and run the same job: whatever was left behind, the board ends well."""
    station.hardware.unplug("P1")
    station.hardware.plug("P1")
    return await flash(await station.open(), JOB)


@pytest.mark.parametrize("flavour", [Flavour.UNO, Flavour.LEONARDO, Flavour.TEENSYDUINO])
@pytest.mark.parametrize("name", ["atmega32u4", "atmega8", "attiny85"])
@virtual
async def test_whole_unit_over_the_line(flavour: Flavour, name: str) -> None:
    """Erase, clock fuses, pages with a gap, odd EEPROM addresses, lock bits; paused in between; no rule broken."""
    station = Station(flavour, part=name)
    programmer = await station.open()
    part = station.board.part
    job = Recipe(
        flash=image((0, pattern(700)), (part.flash.size_bytes - 256, pattern(200, 3))),
        eeprom=image((3, b"\x01\x02\xff\x04\x05\x06"), (part.eeprom.size_bytes - 1, b"\x07")),
        fuses={L: {"atmega32u4": 0xDE, "atmega8": 0xE4, "attiny85": 0xE2}[name]},
        lock=0xFE if part.lock_mask == 0x03 else 0xEF,
        accept_fuses=True,
    )
    assert (await IspInterface(programmer).look()).signature == part.signature
    outcome = await flash(programmer, job, RecordingObserver(every_page=True))
    assert (outcome.verdict, outcome.failure) == (Verdict.PASSED, None)
    target = await station.settled()
    assert holds(target, job)
    check_left_alone(target)
    assert (await IspInterface(programmer).look()).signature == part.signature


async def healthy(flavour: Flavour) -> tuple[int, int, float]:
    """Return instructions, reply bytes and seconds of a run without faults, counted from the opening."""
    station = Station(flavour)
    programmer = await station.open()
    started = anyio.current_time()
    assert (await flash(programmer, JOB)).verdict is Verdict.PASSED
    seconds = anyio.current_time() - started
    target = await station.settled()
    return target.instructions, station.emulator.replies, seconds


async def unplug_and_retry(flavour: Flavour, after: int) -> None:
    station = Station(flavour, PowerLoss(instructions=after))
    outcome = await flash(await station.open(), JOB)
    assert outcome.verdict is Verdict.INTERRUPTED
    assert not station.board.in_reset
    assert (await flash_again(station)).verdict is Verdict.PASSED
    target = await station.settled()
    assert holds(target, JOB)
    check_left_alone(target)


@pytest.mark.parametrize("flavour", [Flavour.UNO, Flavour.LEONARDO])
def test_unplugged_at_any_instruction(flavour: Flavour) -> None:
    """Power gone at the n-th instruction: interrupted, and the same board passes when it is met again."""
    instructions, _, _ = run_virtual(healthy, flavour)
    for after in range(1, instructions, 47):
        run_virtual(unplug_and_retry, flavour, after)


async def spoil_and_retry(flavour: Flavour, fault: ProgrammerFault) -> None:
    station = Station(flavour, fault)
    programmer = await station.open()
    outcome = await flash(programmer, JOB)
    target = await station.settled()
    check_honest(target, JOB, outcome)
    assert not target.in_reset
    assert (await flash(programmer, JOB)).verdict is Verdict.PASSED
    assert holds(await station.settled(), JOB)


@pytest.mark.parametrize("flavour", [Flavour.UNO, Flavour.LEONARDO])
def test_spoiled_replies_never_make_a_pass_wrong(flavour: Flavour) -> None:
    """A flipped, lost or invented byte on the line, anywhere: honest verdict, target released, next run passes."""
    _, replies, _ = run_virtual(healthy, flavour)
    for index in range(60, replies, 31):
        fault = (CorruptReply(index=index), DropReply(index=index), LineNoise(index=index, data=b"\x14"))[index % 3]
        run_virtual(spoil_and_retry, flavour, fault)


async def cancel_and_retry(flavour: Flavour, after_s: float) -> None:
    station = Station(flavour)
    programmer = await station.open()
    with anyio.move_on_after(after_s) as scope:
        await flash(programmer, JOB)
    assert scope.cancelled_caught
    check_left_alone(await station.settled())
    assert (await flash(programmer, JOB)).verdict is Verdict.PASSED
    check_left_alone(await station.settled())


@pytest.mark.parametrize("flavour", [Flavour.UNO, Flavour.LEONARDO])
def test_task_cancelled_at_any_time(flavour: Flavour) -> None:
    """Cancelled anywhere, bytes still on the line: no write is cut short, reset is released, the next run passes."""
    _, _, seconds = run_virtual(healthy, flavour)
    rounds = 40
    for number in range(rounds):
        run_virtual(cancel_and_retry, flavour, seconds * number / rounds)


@virtual
async def test_paused_for_an_hour() -> None:
    """A pause between two pages keeps the target where it is, and the unit passes afterwards."""

    class Pausing(RecordingObserver):
        async def checkpoint(self) -> None:
            await super().checkpoint()
            if self.checkpoints == 6:
                await anyio.sleep(3600.0)

    station = Station(Flavour.UNO)
    outcome = await flash(await station.open(), JOB, Pausing(every_page=True))
    assert (outcome.verdict, outcome.seconds > 3600.0) == (Verdict.PASSED, True)
    check_left_alone(await station.settled())
