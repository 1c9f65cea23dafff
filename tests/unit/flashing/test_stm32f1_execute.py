"""STM32F1 flashed through the ST-Link driver, on the bench's device and chip: right bytes, right words, target running."""

import random
from dataclasses import replace

import anyio
import pytest
from tests.unit.flashing.stm32f1_unit import FLASH, Recorder, flash, program
from tests.unit.programmers.stlink_rig import Meddle, Rig

from ispd.errors import ErrorCode, JobError
from ispd.flashing.stm32f1_execute import flash_stm32f1
from ispd.flashing.stm32f1_plan import Stm32Erase, Stm32Wish
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import ClonePolicy
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdSettings
from ispd.wire.stm32f1 import OptionBytes
from vbench.faults import BusyForever, GoesSilent, LostPage, ReadFlips, SlowWrites, StuckBits
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import GENUINE, ApWait, Stm32F1, Stm32F1Fault
from vbench.swd import SwdWiring
from vbench.virtual_time import run_virtual, virtual

LOADER = Stm32Wish(image=program(7172))
SMALL = Stm32Wish(image=program(301))

WANTED = SMALL.image.segments[0].data[0x10]
BLOCKED = ~WANTED & 0xFF
"""Bits of the cell at 0x10 that are ones, and those that are zeros."""


def cells(chip: Stm32F1, span: Span) -> bytes:
    return bytes(chip.chip.flash[span.start - FLASH : span.stop - FLASH])


def used_chip(chip: Stm32F1 | None = None) -> Stm32F1:
    """Return a chip whose flash is full of something."""
    chip = chip or Stm32F1()
    chip.chip.flash[:] = random.Random(7).randbytes(len(chip.chip.flash))
    return chip


@pytest.mark.parametrize("under_reset", [False, True])
@virtual
async def test_a_bootloader_goes_on_and_the_rest_stays(under_reset: bool) -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    rig = Rig(chip, wiring=SwdWiring(has_nrst=True))
    recorder = Recorder()
    wish = replace(LOADER, settings=SwdSettings(under_reset=under_reset))
    outcome = await flash(rig, wish, recorder)
    assert (outcome.verdict, outcome.failure, outcome.warnings) == (Verdict.PASSED, None, ())
    assert cells(chip, Span(FLASH, FLASH + 0x2000)) == LOADER.image.bytes_in(Span(FLASH, FLASH + 0x2000))
    assert chip.chip.flash[0x2000:] == before[0x2000:]
    assert chip.violations == []
    assert rig.runs
    assert rig.is_closed
    names = ["erase pages", "write flash", "verify flash", "run"]
    assert [record.name for record in outcome.steps] == names
    assert recorder.events == [
        *("identified 410 at 1800000", "intent"),
        *(f"{when} {name}" for name in names for when in ("begin", "end")),
    ]
    assert recorder.progressed[-1] == (7172 + 8192, 7172 + 8192)
    assert recorder.progressed == sorted(recorder.progressed)
    assert outcome.facts is not None
    assert (outcome.facts.flash_kib, outcome.facts.unique_id) == (64, "52FF6C064980545247140267")


@virtual
async def test_a_full_chip_is_written_by_one_erase() -> None:
    chip = used_chip()
    rig = Rig(chip)
    image = program(0x1_0000)
    outcome = await flash(rig, Stm32Wish(image=image, erase=Stm32Erase.CHIP))
    assert outcome.verdict is Verdict.PASSED
    assert bytes(chip.chip.flash) == image.bytes_in(image.span)
    assert (chip.violations, chip.flash.mass_erases) == ([], 1)
    assert outcome.seconds < 4, "64 KiB take 1.7 s in the cells alone"


@virtual
async def test_pieces_far_apart_and_odd_lengths() -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    image = Image.of([Segment(0x801, b"odd"), Segment(0x3FFF, b"\xff\x00"), Segment(0xF000, b"\xff" * 9)])
    outcome = await flash(Rig(chip), Stm32Wish(image=image))
    assert outcome.verdict is Verdict.PASSED
    found = bytes(chip.chip.flash)
    touched = {0x800, 0x3C00, 0x4000, 0xF000}
    for page in range(0, 0x1_0000, 0x400):
        span = Span(page, page + 0x400)
        expected = image.bytes_in(span) if page in touched else before[page : page + 0x400]
        assert found[page : page + 0x400] == expected, hex(page)
    assert chip.violations == []


@pytest.mark.parametrize("jtag", [15, 22, 28])
@pytest.mark.parametrize(
    "model",
    [
        GENUINE,
        replace(GENUINE, stalls=False),
        replace(GENUINE, shows_lock=False),
        replace(GENUINE, stalls=False, shows_lock=False, dpidr=0x2BA0_1477, idcode=0x1303_0410),
    ],
)
@virtual
async def test_clones_and_old_probes_end_with_the_same_cells(model: object, jtag: int) -> None:
    chip = used_chip(Stm32F1(model))  # type: ignore[arg-type]  # a model of the bench
    outcome = await flash(Rig(chip, StLinkFirmware(jtag=jtag)), LOADER)
    assert outcome.verdict is Verdict.PASSED
    assert cells(chip, LOADER.image.span) == LOADER.image.bytes_in(LOADER.image.span)
    assert chip.violations == []
    assert len(outcome.warnings) == (2 if chip.model.dpidr == 0x2BA0_1477 else 0)


@virtual
async def test_a_rejected_clone_is_not_touched() -> None:
    chip = used_chip(Stm32F1(replace(GENUINE, idcode=0x1704_0410)))
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    outcome = await flash(rig, replace(LOADER, settings=SwdSettings(clones=ClonePolicy.REJECT)))
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, ErrorCode.SIGNATURE_MISMATCH)
    assert bytes(chip.chip.flash) == before
    assert rig.is_free


# -- protection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hides_size", [True, False])
@virtual
async def test_a_read_protected_chip_is_opened_with_consent_only(hides_size: bool) -> None:
    chip = used_chip(Stm32F1(replace(GENUINE, hides_size=hides_size), is_protected=True))
    before = bytes(chip.chip.flash)
    outcome = await flash(Rig(chip), LOADER)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, ErrorCode.TARGET_LOCKED)
    assert bytes(chip.chip.flash) == before
    assert chip.flash.is_protected
    rig, recorder = Rig(chip), Recorder()
    outcome = await flash(rig, replace(LOADER, opens_protection=True), recorder)
    assert outcome.verdict is Verdict.PASSED
    assert cells(chip, LOADER.image.span) == LOADER.image.bytes_in(LOADER.image.span)
    assert chip.chip.flash[0x2000:] == b"\xff" * 0xE000, "opening erased the rest"
    assert (chip.flash.is_protected, chip.violations) == (False, [])
    assert bytes(chip.flash.options) == OptionBytes().encode()
    assert outcome.steps[0].name == "open protection"
    assert recorder.events.count("intent") == 2
    assert any("protection was removed" in warning for warning in outcome.warnings)
    assert outcome.facts is not None
    assert outcome.facts.flash_kib == 64, "read again once it can be read"
    assert rig.runs


@virtual
async def test_write_protected_pages_are_opened_and_the_other_options_stay() -> None:
    chip = used_chip()
    chip.flash.options[:] = OptionBytes(user=0xFE, data=(0x12, 0x34), wrp=(0xFE, 0xFF, 0xFF, 0xFF)).encode()
    chip.flash.reset()
    refused = await flash(Rig(chip), SMALL)
    assert refused.failure is not None
    assert refused.failure.code == ErrorCode.TARGET_LOCKED
    outcome = await flash(Rig(chip), replace(SMALL, opens_protection=True))
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.flash.options) == OptionBytes(user=0xFE, data=(0x12, 0x34)).encode()


@virtual
async def test_option_bytes_are_written_last_and_in_force() -> None:
    chip = used_chip()
    options = OptionBytes(rdp=0x00, data=(0xAB, 0xCD), wrp=(0xFC, 0xFF, 0xFF, 0xFF))
    rig = Rig(chip)
    outcome = await flash(rig, replace(SMALL, options=options))
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.flash.options) == options.encode()
    assert chip.flash.is_protected
    assert cells(chip, SMALL.image.span) == SMALL.image.bytes_in(SMALL.image.span)


# -- what is wrong with a board ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([LostPage(0)], ErrorCode.VERIFY_MISMATCH),
        ([StuckBits(memory=MemoryKind.FLASH, address=0x10, mask=WANTED, level=0)], None),
        ([StuckBits(memory=MemoryKind.FLASH, address=0x10, mask=BLOCKED, level=1)], None),
        ([BusyForever(0)], ErrorCode.TARGET_BUSY),
        ([BusyForever(1)], None),
        ([BusyForever(3)], None),
        *(([GoesSilent(after)], None) for after in range(0, 250, 7)),
        ([ReadFlips(reads=tuple(range(8)), mask=0x10)], None),
    ],
)
@virtual
async def test_a_bad_board_never_passes(faults: list[Stm32F1Fault], code: ErrorCode | None) -> None:
    chip = used_chip(Stm32F1(faults=faults))
    rig = Rig(chip)
    outcome = await flash(rig, SMALL)
    if outcome.verdict is Verdict.PASSED:
        assert cells(chip, SMALL.image.span) == SMALL.image.bytes_in(SMALL.image.span)
        assert isinstance(faults[0], GoesSilent | ReadFlips | BusyForever), "nothing came of it"
        return
    assert outcome.verdict is Verdict.FAILED
    assert outcome.failure is not None
    assert outcome.failure.hint
    assert code is None or outcome.failure.code == code
    assert not rig.device.socket.nrst_low
    if not isinstance(faults[0], GoesSilent):
        assert rig.is_free
    assert rig.is_free or any("may still be halted" in warning for warning in outcome.warnings)


@virtual
async def test_a_verify_error_says_where_and_what() -> None:
    chip = Stm32F1(faults=[StuckBits(memory=MemoryKind.FLASH, address=0x23, mask=0x01, level=1)])
    image = Image.of([Segment(FLASH, b"\x10" * 64)])
    outcome = await flash(Rig(chip), Stm32Wish(image=image))
    assert outcome.failure is not None
    failure = outcome.failure
    assert (failure.code, failure.memory) == (ErrorCode.VERIFY_MISMATCH, "flash")
    assert (failure.address, failure.expected, failure.actual) == (FLASH + 0x23, 0x10, 0x11)


@virtual
async def test_slow_cells_are_waited_for() -> None:
    chip = used_chip(Stm32F1(faults=[SlowWrites(factor=4.0)]))
    assert (await flash(Rig(chip), LOADER)).verdict is Verdict.PASSED
    assert chip.violations == []


@pytest.mark.parametrize(
    ("idcode", "code"), [(0x1000_6411, ErrorCode.SIGNATURE_UNKNOWN), (0, ErrorCode.TARGET_NOT_RESPONDING)]
)
@virtual
async def test_another_chip_is_refused(idcode: int, code: ErrorCode) -> None:
    chip = used_chip(Stm32F1(replace(GENUINE, idcode=idcode)))
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    outcome = await flash(rig, LOADER)
    assert outcome.failure is not None
    assert (outcome.failure.code, bytes(chip.chip.flash)) == (code, before)
    assert rig.is_free


@virtual
async def test_flash_that_is_told_but_not_there_does_not_pass() -> None:
    chip = used_chip(Stm32F1(replace(GENUINE, size_kib=128)))
    rig = Rig(chip)
    outcome = await flash(rig, Stm32Wish(image=program(0x1_0400)))
    assert outcome.verdict is Verdict.FAILED
    assert rig.is_free


@virtual
async def test_a_chip_of_2_kib_pages() -> None:
    chip = Stm32F1(replace(GENUINE, idcode=0x1003_6414, flash_bytes=0x4_0000, size_kib=256, ram_bytes=48 * 1024))
    used_chip(chip)
    image = program(5000)
    outcome = await flash(Rig(chip), Stm32Wish(image=image))
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert cells(chip, Span(FLASH, FLASH + 0x1800)) == image.bytes_in(Span(FLASH, FLASH + 0x1800))
    assert outcome.steps[0].note == "3 pages"


# -- what breaks meanwhile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meddle", [Meddle.STALL, Meddle.TIMEOUT, Meddle.UNPLUG, Meddle.SHORT])
def test_whatever_transfer_breaks_there_is_no_false_pass_and_the_target_is_let_go(meddle: Meddle) -> None:
    async def life(number: int) -> bool:
        """Break one transfer; return whether there was one."""
        chip = used_chip()
        rig = Rig(chip)
        probe = await rig.open()
        begun = len(rig.log)
        rig.meddler = lambda index, one: (
            meddle if index == begun + number and (one.is_in or meddle is not Meddle.SHORT) else None
        )
        outcome = await flash_stm32f1(probe, SMALL, clock=rig.clock, observer=Recorder())
        await probe.aclose()
        is_right = cells(chip, SMALL.image.span) == SMALL.image.bytes_in(SMALL.image.span)
        assert outcome.verdict is not Verdict.PASSED or is_right, number
        if meddle is Meddle.UNPLUG and number < len(rig.log) - begun:
            assert outcome.verdict is Verdict.INTERRUPTED, (number, outcome.failure)
        elif meddle is not Meddle.UNPLUG:
            assert rig.is_free, number
            assert chip.violations == [], number
        return number < len(rig.log) - begun

    step = 1 if meddle is Meddle.STALL else 3
    number = 0
    while run_virtual(life, number):
        number += step
    assert number > 100


@pytest.mark.parametrize("stop_at", range(8))
@virtual
async def test_a_job_that_is_stopped_lets_the_target_go(stop_at: int) -> None:
    chip = used_chip()
    rig = Rig(chip)
    recorder = Recorder(stop_at=stop_at, reason=lambda: JobError(ErrorCode.CANCELLED, "the job was cancelled"))
    outcome = await flash(rig, LOADER, recorder)
    assert outcome.verdict is Verdict.CANCELLED
    assert rig.is_free
    assert chip.violations == []


@pytest.mark.parametrize("after_s", [0.001, 0.02, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7])
@virtual
async def test_a_task_that_is_cancelled_lets_the_target_go(after_s: float) -> None:
    chip = used_chip()
    rig = Rig(chip)
    outcomes = []
    with anyio.move_on_after(after_s):
        outcomes.append(await flash(rig, LOADER))
    assert outcomes == []
    assert rig.is_free
    assert rig.is_closed
    assert chip.violations == []


@pytest.mark.parametrize("first", range(0, 260, 13))
@virtual
async def test_a_target_that_asks_to_wait_is_waited_for(first: int) -> None:
    chip = used_chip(Stm32F1(faults=[ApWait(access=first, times=4)]))
    rig = Rig(chip)
    assert (await flash(rig, SMALL)).verdict is Verdict.PASSED
    assert chip.violations == []
    assert rig.runs
