"""Flashing one unit on an emulated target: what a board holds afterwards, and what is said about it."""

from collections.abc import Sequence

import pytest
from tests.unit.flashing.bench_unit import (
    PARTS,
    check_honest,
    check_left_alone,
    flash,
    holds,
    image,
    pattern,
    soil,
)
from tests.unit.flashing.direct_programmer import DirectProgrammer
from tests.unit.flashing.recording_observer import RecordingObserver

from ispd.errors import ErrorCode, JobError
from ispd.model.image import Image
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.span import Span
from vbench.faults import (
    BusyForever,
    Fault,
    GoesSilent,
    LostPage,
    MisoStuck,
    MosiMisoShort,
    NoisyReplies,
    ReadFlips,
    SckCeiling,
    Silent,
    StuckBits,
    WrongSignature,
)
from vbench.target import AvrTarget, Circuit
from vbench.virtual_time import virtual

L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
FLASH = MemoryKind.FLASH
NONE = frozenset[MemoryKind]()
NOTHING = Image(())


def board(name: str = "attiny85", *faults: Fault, **options: object) -> AvrTarget:
    return soil(AvrTarget(PARTS.avr(name), faults=faults, **options))  # type: ignore[arg-type]  # options of AvrTarget


def recipe(name: str = "attiny85", **changes: object) -> Recipe:
    """Write something into every memory."""
    part = PARTS.avr(name)
    top = part.flash.size_bytes - part.flash.page_bytes
    default = {
        "flash": image((0, pattern(part.flash.page_bytes * 3 + 10)), (top, pattern(20, 3))),
        "eeprom": image((1, b"\x10\x20\xff\x30\x40"), (part.eeprom.size_bytes - 2, b"\x01\x02")),
        "lock": 0xFE if part.lock_mask == 0x03 else 0xEE,
        "force_fuses": True,
        "accept_fuses": True,
    }
    return Recipe(**{**default, **changes})  # type: ignore[arg-type]  # fields of Recipe


@pytest.mark.parametrize("bulk", [NONE, frozenset({FLASH, MemoryKind.EEPROM})], ids=["instructions", "bulk"])
@pytest.mark.parametrize("name", ["atmega32u4", "atmega8", "attiny85", "atmega2560", "at90usb1286", "atmega324p"])
@virtual
async def test_every_memory_is_written_and_proved(name: str, bulk: frozenset[MemoryKind]) -> None:
    """With and without busy bit, EEPROM pages, extended addresses and bulk transfers; from a used, locked board."""
    target = board(name, lock=0xFC, unimplemented=0x00)
    job = recipe(name, fuses={H: PARTS.avr(name).fuses[1].default & ~0x08})
    observer = RecordingObserver(every_page=True)
    outcome = await flash(DirectProgrammer(target, bulk=bulk), job, observer)
    assert (outcome.verdict, outcome.failure) == (Verdict.PASSED, None)
    assert holds(target, job)
    assert (outcome.part, outcome.signature) == (name, str(target.part.signature))
    assert dict(outcome.fuses_before).keys() == dict(outcome.fuses_after).keys() == target.fuses.keys()
    assert outcome.fuses_after[H] == target.fuses[H] != outcome.fuses_before[H]
    assert outcome.lock_before == 0xFC & target.part.lock_mask
    assert outcome.lock_after == target.lock
    check_left_alone(target)


@virtual
async def test_observer_is_told_in_order() -> None:
    """Identity, intent, then each step's begin and end; progress never goes back and ends at its total."""
    target = board()
    observer = RecordingObserver(every_page=True)
    outcome = await flash(DirectProgrammer(target), recipe(), observer)
    steps = [record.name for record in outcome.steps]
    assert steps[0] == "erase"
    assert steps[-1] == "leave"
    total = sum(record.bytes for record in outcome.steps)
    told = [event for name in steps for event in (f"begin {name}", f"end {name}")]
    assert observer.events == ["identified attiny85 1E 93 0B 125000", "intent", *told]
    assert list(outcome.steps) == observer.records
    assert observer.progressed == sorted(observer.progressed)
    assert observer.progressed[-1] == (total, total)
    assert observer.checkpoints > 10  # between steps, and between pages as every second page was stopped
    assert outcome.seconds == pytest.approx(sum(record.seconds for record in outcome.steps), abs=0.1)


@virtual
async def test_without_erase_only_cells_that_can_change_are_written() -> None:
    """Neighbours keep their bytes; a cell that would have to be erased refuses the unit before the first write."""
    target = board()
    target.flash[0:64] = b"\xff" * 64
    target.flash[0:4] = b"\xa5\x5a\xff\xf0"
    before = bytes(target.flash)
    good = recipe(flash=image((2, b"\x00\x70")), eeprom=None, lock=None, erase=False)
    outcome = await flash(DirectProgrammer(target), good)
    assert outcome.verdict is Verdict.PASSED
    assert bytes(target.flash) == before[:2] + b"\x00\x70" + before[4:]
    assert target.erase_count == 0

    bad = recipe(flash=image((3, b"\x01")), eeprom=image((0, b"\x99")), lock=None, erase=False)
    programmer = DirectProgrammer(target)
    outcome = await flash(programmer, bad)
    assert outcome.failure is not None
    assert outcome.failure.code == ErrorCode.NOT_BLANK
    assert (outcome.failure.address, outcome.failure.expected, outcome.failure.actual) == (3, 0x01, 0x70)
    assert not [call for call in programmer.log if call.startswith("write")]
    check_left_alone(target)


@virtual
async def test_fuses_alone_leave_the_firmware() -> None:
    """A recipe without an image never erases, and a byte that matches is not written again."""
    target = board("atmega32u4")
    before = bytes(target.flash), bytes(target.eeprom)
    job = Recipe(flash=NOTHING, fuses={L: 0xDE, E: 0xC3}, accept_fuses=True)
    outcome = await flash(DirectProgrammer(target), job)
    assert outcome.verdict is Verdict.PASSED
    assert [record.name for record in outcome.steps] == ["write lfuse", "enter with new clock", "verify fuses", "leave"]
    assert (bytes(target.flash), bytes(target.eeprom)) == before
    assert target.clock_hz == 16e6  # the new clock acts: the board was entered again
    check_left_alone(target)


# what is refused or found wrong before anything is changed


@pytest.mark.parametrize(
    ("faults", "code", "hint"),
    [
        pytest.param([Silent(level=0xFF)], ErrorCode.TARGET_NOT_RESPONDING, "check VCC, GND and MISO", id="FF"),
        pytest.param([Silent(level=0x00)], ErrorCode.TARGET_NOT_RESPONDING, "check the RESET wire first", id="00"),
        pytest.param([MosiMisoShort()], ErrorCode.TARGET_NOT_RESPONDING, "check MOSI and MISO", id="short"),
        pytest.param([MisoStuck(level=0xFF)], ErrorCode.TARGET_NOT_RESPONDING, "MISO", id="miso-high"),
        pytest.param([WrongSignature(bytes((0, 1, 2)))], ErrorCode.TARGET_LOCKED, "chip erase unlocks", id="echo"),
        pytest.param([WrongSignature(b"\x10\xf5\x53")], ErrorCode.SIGNATURE_UNKNOWN, "lower SCK", id="garbage"),
        pytest.param([WrongSignature(b"\x1e\x00\x00")], ErrorCode.SIGNATURE_UNKNOWN, "ispctl parts", id="unknown"),
        pytest.param([WrongSignature(b"\x1e\x95\x0f")], ErrorCode.SIGNATURE_MISMATCH, "atmega328p", id="wrong-part"),
        pytest.param([NoisyReplies(rate=0.3)], ErrorCode.SIGNATURE_UNSTABLE, "shorten the wires", id="unstable"),
        pytest.param([SckCeiling(hz=1000.0)], ErrorCode.SIGNATURE_UNKNOWN, "lower SCK", id="bad-wires"),
    ],
)
@virtual
async def test_bad_signature_changes_nothing(faults: Sequence[Fault], code: ErrorCode, hint: str) -> None:
    """Each way a target can answer wrongly has its own cure, and nothing was written."""
    target = board("attiny85", *faults)
    observer = RecordingObserver()
    outcome = await flash(DirectProgrammer(target), recipe(part="attiny85"), observer)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.failure is not None
    assert outcome.failure.code == code
    assert hint in outcome.failure.hint
    assert "intent" not in observer.events
    assert target.erase_count == 0
    check_left_alone(target)


@virtual
async def test_a_recipe_for_an_stm32_is_none_for_this_programmer() -> None:
    programmer = DirectProgrammer(board("attiny25"))
    outcome = await flash(programmer, Recipe(flash=image((0x0800_0000, pattern(32))), part="stm32f103xb"))
    assert outcome.failure is not None
    assert (outcome.failure.code, programmer.log) == (ErrorCode.PROGRAMMER_CANNOT, [])
    assert "speaks ISP" in outcome.failure.message


@virtual
async def test_refusals_come_before_the_erase() -> None:
    """What does not fit the part that was found, or that the guard refuses, leaves the board as it was."""
    target = board("attiny25")
    too_long = await flash(DirectProgrammer(target), recipe("attiny85", lock=None, eeprom=None))
    guarded = await flash(
        DirectProgrammer(target), Recipe(flash=image((0, pattern(32))), fuses={H: 0x5F}, accept_fuses=True)
    )
    small = await flash(DirectProgrammer(target, max_flash_bytes=16), Recipe(flash=image((0, pattern(32)))))
    codes = [outcome.failure.code for outcome in (too_long, guarded, small) if outcome.failure is not None]
    assert codes == [ErrorCode.IMAGE_DOES_NOT_FIT, ErrorCode.FUSE_REFUSED, ErrorCode.PROGRAMMER_CANNOT]
    assert target.erase_count == 0
    check_left_alone(target)


@virtual
async def test_twins_accept_either_name() -> None:
    """An ATmega8A answers like an ATmega8: the recipe's name stands."""
    outcome = await flash(DirectProgrammer(board("atmega8a")), recipe("atmega8", part="atmega8"))
    assert (outcome.verdict, outcome.part) == (Verdict.PASSED, "atmega8")


# clocks


@virtual
async def test_lost_crystal_names_the_clock() -> None:
    """A board whose crystal does not run is deaf after the clock fuses: said so, before the pages are written."""
    target = board("atmega328p", circuit=Circuit(crystal_hz=None))
    outcome = await flash(DirectProgrammer(target), recipe("atmega328p", fuses={L: 0xFF}))
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, ErrorCode.TARGET_LOST)
    assert "crystal" in outcome.failure.message
    assert "check the crystal" in outcome.failure.hint
    check_left_alone(target)


@virtual
async def test_sck_is_raised_and_falls_back() -> None:
    """A faster SCK is used where the fuses promise it; where the wires do not carry it, the slow one, with a word."""
    speeds = (8_000, 93_750, 375_000)
    fast = await flash(DirectProgrammer(board(), sck_hz=speeds), recipe(fuses={L: 0xE2}))
    assert (fast.verdict, fast.sck_hz) == (Verdict.PASSED, 375_000)
    slow_target = board("attiny85", SckCeiling(hz=100_000))
    slow = await flash(DirectProgrammer(slow_target, sck_hz=speeds), recipe(fuses={L: 0xE2}))
    assert (slow.verdict, slow.sck_hz) == (Verdict.PASSED, 93_750)
    assert any("does not follow SCK at 375000 Hz" in warning for warning in slow.warnings)
    slowest = await flash(DirectProgrammer(board("attiny85", SckCeiling(hz=10_000)), sck_hz=speeds), recipe())
    assert (slowest.verdict, slowest.sck_hz) == (Verdict.PASSED, 8_000)
    check_left_alone(slow_target)


@virtual
async def test_forced_reset_disable_is_proved_before_it_acts() -> None:
    """With RSTDISBL forced everything, itself included, is verified in the one session that is left."""
    target = board()
    job = recipe(fuses={L: 0xE2, H: 0x5F})
    outcome = await flash(DirectProgrammer(target), job)
    assert outcome.verdict is Verdict.PASSED
    assert holds(target, job)
    again = await flash(DirectProgrammer(target), job)
    assert again.failure is not None
    assert again.failure.code == ErrorCode.TARGET_NOT_RESPONDING


# verifying


def stuck(memory: MemoryKind, address: int, mask: int = 0x01, level: int = 1) -> StuckBits:
    return StuckBits(memory=memory, address=address, mask=mask, level=level)


@pytest.mark.parametrize(
    ("faults", "code", "memory", "address", "hint"),
    [
        pytest.param([stuck(FLASH, 70)], ErrorCode.VERIFY_MISMATCH, "flash", 70, "replace", id="bad-cell"),
        pytest.param([stuck(FLASH, 0, level=0)], ErrorCode.ERASE_FAILED, "flash", 0, "replace", id="not-erased"),
        pytest.param([LostPage(64)], ErrorCode.VERIFY_MISMATCH, "flash", 64, "whole pages", id="lost-page"),
        pytest.param([stuck(MemoryKind.EEPROM, 2)], ErrorCode.VERIFY_MISMATCH, "eeprom", 2, "replace", id="eeprom"),
        pytest.param([stuck(H, 0, 0x08)], ErrorCode.FUSE_MISMATCH, "hfuse", None, "erased first", id="fuse"),
        pytest.param([stuck(MemoryKind.LOCK, 0)], ErrorCode.LOCK_MISMATCH, "lock", None, "supply", id="lock"),
        pytest.param(
            [stuck(MemoryKind.LOCK, 0, 0x02, 0)], ErrorCode.ERASE_FAILED, "lock", None, "supply", id="lock-not-erased"
        ),
        pytest.param([BusyForever(3)], ErrorCode.TARGET_BUSY, None, None, "supply", id="busy-for-ever"),
        pytest.param([ReadFlips(mask=0x10, rate=0.05)], ErrorCode.VERIFY_MISMATCH, "flash", None, "", id="bad-reads"),
    ],
)
@virtual
async def test_damage_is_found_and_named(
    faults: Sequence[Fault], code: ErrorCode, memory: str | None, address: int | None, hint: str
) -> None:
    """No damage passes; the failure names the first address, both values, and what to do."""
    target = board("attiny85", *faults)
    job = recipe(fuses={H: 0xD7})
    # cells at 70 and 2 must want the stuck bit cleared
    flash_bytes = bytearray(job.flash.bytes_in(Span(0, 202)))
    flash_bytes[70] = 0x80
    job = recipe(fuses={H: 0xD7}, flash=image((0, bytes(flash_bytes))), eeprom=image((1, b"\x10\x20")))
    outcome = await flash(DirectProgrammer(target, bulk=NONE), job)
    assert outcome.verdict is Verdict.FAILED
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.memory) == (code, memory)
    assert hint in outcome.failure.hint
    if address is not None:
        assert outcome.failure.address == address
    if outcome.failure.memory is not None:
        assert outcome.failure.expected != outcome.failure.actual
    assert outcome.seconds < 2.0  # nothing waits for long on a damaged board
    assert not target.in_reset
    assert target.lock & 0x03 == 0x03 or memory == "lock"  # nothing is locked that was not proved before


@virtual
async def test_read_error_passes_with_a_warning() -> None:
    """One wrong read, right twice when repeated, is the line and not the cell; the record says so."""
    target = board("attiny85", ReadFlips(reads=(40,)))  # the erase looks at four bytes first
    job = recipe()
    outcome = await flash(DirectProgrammer(target), job)
    assert outcome.verdict is Verdict.PASSED
    assert holds(target, job)
    assert any("read wrong once, then right twice" in warning for warning in outcome.warnings)


@virtual
async def test_unchanged_fuses_are_proved_too() -> None:
    """A fuse byte nobody asked for that changed all the same fails the unit."""
    target = board()

    async def spoil(step: str) -> None:
        if step == "verify fuses":
            target.fuses[E] &= ~0x01

    outcome = await flash(DirectProgrammer(target), recipe(), RecordingObserver(on_step=spoil))
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.memory) == (ErrorCode.FUSE_MISMATCH, "efuse")


@virtual
async def test_lost_contact_never_passes() -> None:
    """A contact that goes at any point: never a pass, and never a hang."""
    healthy = board()
    await flash(DirectProgrammer(healthy), recipe())
    for after in range(1, healthy.instructions, 37):
        target = board("attiny85", GoesSilent(after))
        outcome = await flash(DirectProgrammer(target), recipe())
        check_honest(target, recipe(), outcome)
        assert outcome.verdict is Verdict.FAILED
        assert not target.in_reset


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(ErrorCode.INTERRUPTED, Verdict.INTERRUPTED), (ErrorCode.CANCELLED, Verdict.CANCELLED)],
)
@virtual
async def test_stop_by_daemon_or_queue(code: ErrorCode, verdict: Verdict) -> None:
    """A daemon that shuts down interrupts; the queue cancels."""
    target = board()
    observer = RecordingObserver(stop_at=3, reason=lambda: JobError(code, "stopped"))
    assert (await flash(DirectProgrammer(target), recipe(), observer)).verdict is verdict
    check_left_alone(target)
