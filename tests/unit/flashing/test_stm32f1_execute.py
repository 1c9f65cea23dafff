"""STM32F1 flashed through the ST-Link driver, on the bench's device and chip: right bytes, right words, target running."""

from dataclasses import replace

import anyio
import pytest
from tests.unit.flashing.recording_observer import RecordingObserver
from tests.unit.flashing.stm32f1_unit import BOOTLOADERS, FLASH, PARTS, flash, program, recipe, used_chip
from tests.unit.programmers.stlink_rig import Meddle, Rig

from ispd.errors import ErrorCode, IspdError
from ispd.flashing.sck import SckStart
from ispd.flashing.swd_interface import SwdInterface
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import OPTION_BYTES, MemoryKind
from ispd.model.recipe import ClonePolicy, VerifyScope
from ispd.model.span import Span
from ispd.wire.stm32f1 import OptionBytes
from vbench.faults import BusyForever, GoesSilent, LostPage, ReadFlips, SlowWrites, StuckBits
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import GENUINE, ApWait, Stm32F1, Stm32F1Fault, Stm32F1Model
from vbench.virtual_time import run_virtual, virtual

LOADER = recipe(program(7172), keeps_rest=True)
SMALL = recipe(program(301), keeps_rest=True)

WANTED = SMALL.flash.segments[0].data[0x10]
BLOCKED = ~WANTED & 0xFF
"""Bits of the cell at 0x10 that are ones, and those that are zeros."""


def cells(chip: Stm32F1, span: Span) -> bytes:
    return bytes(chip.chip.flash[span.start - FLASH : span.stop - FLASH])


@virtual
async def test_a_bootloader_goes_on_and_the_rest_stays() -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    recorder = RecordingObserver()
    outcome = await flash(rig, LOADER, recorder)
    assert (outcome.verdict, outcome.failure, outcome.warnings) == (Verdict.PASSED, None, ())
    assert cells(chip, Span(FLASH, FLASH + 0x2000)) == LOADER.flash.bytes_in(Span(FLASH, FLASH + 0x2000))
    assert chip.chip.flash[0x2000:] == before[0x2000:]
    assert chip.violations == []
    assert rig.runs
    assert rig.is_closed
    names = ["erase", "write flash", "verify flash", "verify fuses", "leave"]
    assert [record.name for record in outcome.steps] == names
    assert (outcome.steps[0].note, outcome.steps[1].bytes, outcome.steps[2].bytes) == ("8 pages", 7172, 8192)
    assert recorder.events == [
        *("identified stm32f103xb 0x0410 1800000", "intent"),
        *(f"{when} {name}" for name in names for when in ("begin", "end")),
    ]
    assert recorder.progressed[-1] == (7172 + 8192, 7172 + 8192)
    assert recorder.progressed == sorted(recorder.progressed)
    assert (outcome.part, outcome.signature, outcome.sck_hz) == ("stm32f103xb", "0x0410", 1_800_000)
    assert (outcome.chip, outcome.unique_id) == ("revision Y, says 64 KiB, Cortex-M3", "52FF6C064980545247140267")
    assert outcome.fuses_before == outcome.fuses_after == dict.fromkeys(OPTION_BYTES, 0xFF)
    assert (outcome.lock_before, outcome.lock_after) == (0xA5, 0xA5)
    assert len(rig.commands) < 240, "8 pages are erased one by one"


@virtual
async def test_a_full_chip_is_written_by_one_erase() -> None:
    chip = used_chip()
    rig = Rig(chip)
    image = program(0x1_0000)
    outcome = await flash(rig, recipe(image))
    assert outcome.verdict is Verdict.PASSED
    assert bytes(chip.chip.flash) == image.bytes_in(image.span)
    assert (chip.violations, chip.flash.mass_erases) == ([], 1)
    assert outcome.seconds < 2.8, "64 KiB take 1.7 s in the cells and 0.5 s on the way back"
    assert len(rig.commands) < 300


@virtual
async def test_all_of_flash_is_erased_and_on_demand_verified() -> None:
    wanted = recipe(program(301), verify=VerifyScope.FULL)
    chip = used_chip()
    outcome = await flash(Rig(chip), wanted)
    assert (outcome.verdict, outcome.warnings) == (Verdict.PASSED, ())
    assert bytes(chip.chip.flash) == wanted.flash.bytes_in(Span(FLASH, FLASH + 0x1_0000))
    chip = used_chip(Stm32F1(faults=[StuckBits(memory=MemoryKind.FLASH, address=0x8123, mask=1, level=0)]))
    assert (await flash(Rig(chip), recipe(program(301)))).verdict is Verdict.PASSED, "nobody asked for that cell"
    outcome = await flash(Rig(chip), wanted)
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.address) == (Verdict.FAILED, FLASH + 0x8123)


@virtual
async def test_without_an_erase_only_blank_cells_are_written() -> None:
    wanted = recipe(program(301), erase=False)
    used = used_chip()
    before = bytes(used.chip.flash)
    outcome = await flash(Rig(used), wanted)
    assert outcome.failure is not None
    assert (outcome.failure.code, bytes(used.chip.flash)) == (ErrorCode.NOT_BLANK, before)
    chip = Stm32F1()
    body = wanted.flash.segments[0].data
    chip.chip.flash[0x40:0x60] = body[0x40:0x60]
    chip.chip.flash[0x130:0x140] = bytes(16)
    outcome = await flash(Rig(chip), wanted)
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert outcome.steps[0].name == "check flash"
    assert cells(chip, wanted.flash.span) == body
    assert chip.chip.flash[0x130:0x140] == bytes(16), "what lies beside the image stays"
    chip.chip.flash[301] = 0x12
    assert (await flash(Rig(chip), wanted)).verdict is Verdict.PASSED, (
        "equal already, whatever shares the last half-word"
    )
    chip.chip.flash[300] = 0xFF
    outcome = await flash(Rig(chip), wanted)
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.address) == (ErrorCode.NOT_BLANK, FLASH + 300)


@virtual
async def test_pieces_far_apart_and_odd_lengths() -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    image = Image.of([Segment(0x801, b"odd"), Segment(0x3FFF, b"\xff\x00"), Segment(0xF000, b"\xff" * 9)])
    outcome = await flash(Rig(chip), recipe(image, keeps_rest=True))
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
    assert cells(chip, LOADER.flash.span) == LOADER.flash.bytes_in(LOADER.flash.span)
    assert chip.violations == []
    assert len(outcome.warnings) == (chip.model.dpidr == 0x2BA0_1477)


CS32, GD32 = replace(GENUINE, dpidr=0x2BA0_1477), replace(GENUINE, idcode=0x1704_0410)


@pytest.mark.parametrize("policy", list(ClonePolicy))
@pytest.mark.parametrize(("model", "maker"), [(CS32, "CKS32 or CS32"), (GD32, "GigaDevice GD32")])
@virtual
async def test_clones_are_allowed_warned_of_or_rejected_and_always_in_the_record(
    model: Stm32F1Model, maker: str, policy: ClonePolicy
) -> None:
    chip = used_chip(Stm32F1(model))
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    outcome = await flash(rig, replace(LOADER, clones=policy))
    if policy is ClonePolicy.REJECT:
        assert outcome.failure is not None
        assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, ErrorCode.SIGNATURE_MISMATCH)
        assert ("--clones" in outcome.failure.hint, bytes(chip.chip.flash) == before) == (True, True)
    else:
        assert (outcome.verdict, f"clone: {maker}" in outcome.chip) == (Verdict.PASSED, True)
        assert [maker in warning for warning in outcome.warnings] == [True] * (policy is ClonePolicy.WARN)
    assert rig.is_free


@virtual
async def test_the_same_debug_port_in_front_of_a_cortex_m4_is_no_clone() -> None:
    rig = Rig(used_chip(Stm32F1(CS32)))
    rig.falsify("F2 36 00 ED 00 E0", [bytes.fromhex("80000000 41C20F41")])
    outcome = await flash(rig, replace(LOADER, clones=ClonePolicy.REJECT))
    assert (outcome.verdict, "clone" in outcome.chip, outcome.warnings) == (Verdict.PASSED, False, ())


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
    rig, recorder = Rig(chip), RecordingObserver()
    outcome = await flash(rig, replace(LOADER, unlock=True), recorder)
    assert outcome.verdict is Verdict.PASSED
    assert cells(chip, LOADER.flash.span) == LOADER.flash.bytes_in(LOADER.flash.span)
    assert chip.chip.flash[0x2000:] == b"\xff" * 0xE000, "opening erased the rest"
    assert (chip.flash.is_protected, chip.violations) == (False, [])
    assert bytes(chip.flash.options) == OptionBytes().encode()
    assert (outcome.steps[0].name, outcome.steps[0].note) == ("unlock", "flash was erased")
    assert recorder.events.count("intent") == 1
    assert outcome.warnings == ("the chip is read protected; its protection is removed",), "its size is told by now"
    assert recorder.warnings == outcome.warnings, "before anything was changed"
    assert (outcome.lock_before, outcome.lock_after) == (0x00, 0xA5)
    assert outcome.chip == "revision Y, says 64 KiB, Cortex-M3", "read again once it can be read"
    assert rig.runs


@virtual
async def test_a_chip_that_tells_its_serial_number_only_once_it_is_open_is_known_by_it_from_then_on() -> None:
    rig = Rig(used_chip(Stm32F1(is_protected=True)))
    rig.falsify("F2 07 E8 F7 FF 1F", [bytes(12)] * 3)
    outcome = await flash(rig, replace(SMALL, unlock=True))
    assert rig.chip is not None
    assert (outcome.verdict, outcome.unique_id) == (Verdict.PASSED, rig.chip.uid.hex().upper())


@virtual
async def test_write_protected_pages_are_opened_and_the_other_options_stay() -> None:
    chip = used_chip()
    chip.flash.options[:] = OptionBytes(user=0xFE, data=(0x12, 0x34), wrp=(0xFE, 0xFF, 0xFF, 0xFF)).encode()
    chip.flash.reset()
    refused = await flash(Rig(chip), SMALL)
    assert refused.failure is not None
    assert refused.failure.code == ErrorCode.TARGET_LOCKED
    outcome = await flash(Rig(chip), replace(SMALL, unlock=True))
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.flash.options) == OptionBytes(user=0xFE, data=(0x12, 0x34)).encode()


@virtual
async def test_option_bytes_are_written_after_flash_and_reading_is_protected_last() -> None:
    chip = used_chip()
    rig = Rig(chip)
    fuses = {MemoryKind.DATA0: 0xAB, MemoryKind.DATA1: 0xCD, MemoryKind.WRP0: 0xFC, MemoryKind.USER: 0x03}
    outcome = await flash(rig, replace(SMALL, fuses=fuses, lock=0x00, accept_fuses=True, force_fuses=True))
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    options = OptionBytes(rdp=0x00, user=0xFB, data=(0xAB, 0xCD), wrp=(0xFC, 0xFF, 0xFF, 0xFF))
    assert bytes(chip.flash.options) == options.encode(), "bits that do not exist are ones"
    assert chip.flash.is_protected
    assert cells(chip, SMALL.flash.span) == SMALL.flash.bytes_in(SMALL.flash.span)
    assert [step.name for step in outcome.steps[2:]] == [
        *("verify flash", "write option bytes", "verify fuses", "write lock", "verify lock", "leave")
    ]
    assert outcome.fuses_after[MemoryKind.WRP0] == 0xFC
    assert (outcome.lock_before, outcome.lock_after) == (0xA5, 0x00)
    assert any("unplug the board's supply once" in warning for warning in outcome.warnings)


@virtual
async def test_what_is_set_already_is_not_written_again() -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    outcome = await flash(Rig(chip), recipe(fuses={MemoryKind.USER: 0x07, MemoryKind.DATA0: 0xFF}, lock=0xA5))
    assert (outcome.verdict, bytes(chip.chip.flash)) == (Verdict.PASSED, before)
    assert [step.name for step in outcome.steps] == ["verify fuses", "leave"]


@virtual
async def test_a_protected_chip_is_not_changed_in_its_option_bytes_either() -> None:
    chip = used_chip(Stm32F1(is_protected=True))
    options = bytes(chip.flash.options)
    for wanted in (recipe(fuses={MemoryKind.DATA0: 1}), recipe(lock=0xA5), recipe(lock=0x01)):
        outcome = await flash(Rig(chip), wanted)
        assert outcome.failure is not None
        assert (outcome.failure.code, bytes(chip.flash.options)) == (ErrorCode.TARGET_LOCKED, options)


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
        assert cells(chip, SMALL.flash.span) == SMALL.flash.bytes_in(SMALL.flash.span)
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
    chip = Stm32F1(faults=[StuckBits(memory=MemoryKind.FLASH, address=0x423, mask=0x01, level=1)])
    image = Image.of([Segment(FLASH + 0x400, b"\x10" * 64)])
    outcome = await flash(Rig(chip), recipe(image, keeps_rest=True))
    assert outcome.failure is not None
    failure = outcome.failure
    assert (failure.code, failure.memory) == (ErrorCode.VERIFY_MISMATCH, "flash")
    assert (failure.address, failure.expected, failure.actual) == (FLASH + 0x423, 0x10, 0x11)


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
    outcome = await flash(rig, recipe(program(0x1_0400)))
    assert outcome.failure is not None
    assert outcome.failure.address is not None
    assert outcome.failure.address <= FLASH + 0x1_0000 < outcome.failure.address + 0x2000
    assert (outcome.verdict, "claims" in outcome.failure.hint) == (Verdict.FAILED, True)
    assert rig.is_free
    outcome = await flash(rig, recipe(program(2000), verify=VerifyScope.FULL))
    assert outcome.failure is not None
    assert (outcome.verdict, "128 KiB" in outcome.failure.hint) == (Verdict.FAILED, True)
    assert rig.is_free


@virtual
async def test_a_chip_of_2_kib_pages() -> None:
    chip = Stm32F1(replace(GENUINE, idcode=0x1003_6414, flash_bytes=0x4_0000, size_kib=256, ram_bytes=48 * 1024))
    used_chip(chip)
    image = program(5000)
    outcome = await flash(Rig(chip), recipe(image, keeps_rest=True))
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
        outcome = await SwdInterface(probe).flash(
            SMALL,
            parts=PARTS,
            bootloaders=BOOTLOADERS,
            clock=rig.clock,
            observer=RecordingObserver(),
            start=SckStart(),
        )
        await probe.aclose()
        is_right = cells(chip, SMALL.flash.span) == SMALL.flash.bytes_in(SMALL.flash.span)
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
    outcome = await flash(rig, LOADER, RecordingObserver(stop_at=stop_at))
    assert outcome.verdict is Verdict.CANCELLED
    assert rig.is_free
    assert chip.violations == []


@pytest.mark.parametrize("after_s", [0.001, 0.02, 0.1, 0.2, 0.4, 0.5, 0.6, 0.65])
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


@virtual
async def test_option_bytes_are_written_whole_though_the_task_is_cancelled_while_they_are_erased() -> None:
    chip = used_chip()
    rig = Rig(chip)
    outcomes = []
    with anyio.CancelScope() as scope:

        def cancel(_index: int, _transfer: object) -> None:
            if chip.flash.options[:2] == b"\xff\xff":
                scope.cancel()

        rig.meddler = cancel
        outcomes.append(await flash(rig, recipe(fuses={MemoryKind.DATA0: 0x5A})))
    assert (scope.cancelled_caught, outcomes) == (True, [])
    assert bytes(chip.flash.options) == OptionBytes(data=(0x5A, 0xFF)).encode(), "else the chip is read protected"
    assert (rig.is_free, chip.violations) == (True, [])


@pytest.mark.parametrize("first", range(0, 260, 13))
@virtual
async def test_a_target_that_asks_to_wait_is_waited_for(first: int) -> None:
    chip = used_chip(Stm32F1(faults=[ApWait(access=first, times=4)]))
    rig = Rig(chip)
    assert (await flash(rig, SMALL)).verdict is Verdict.PASSED
    assert chip.violations == []
    assert rig.runs


EVERYTHING = recipe(program(301), unlock=True, fuses={MemoryKind.DATA0: 0x5A}, lock=0x00)


@pytest.mark.parametrize("meddle", [Meddle.STALL, Meddle.TIMEOUT, Meddle.UNPLUG, Meddle.EMPTY])
def test_whatever_breaks_from_unlocking_to_locking_there_is_no_false_pass(meddle: Meddle) -> None:
    async def life(number: int) -> bool:
        chip = used_chip(Stm32F1(is_protected=True))
        rig = Rig(chip)
        rig.meddler = lambda index, one: (
            meddle if index == number and (one.is_in or meddle is not Meddle.EMPTY) else None
        )
        try:
            outcome = await flash(rig, EVERYTHING)
        except IspdError:
            return True  # it did not even open
        if outcome.verdict is Verdict.PASSED:
            assert cells(chip, SMALL.flash.span) == SMALL.flash.bytes_in(SMALL.flash.span), number
            assert bytes(chip.flash.options) == OptionBytes(rdp=0x00, data=(0x5A, 0xFF)).encode(), number
        elif outcome.verdict is Verdict.FAILED:
            assert outcome.failure is not None
            assert outcome.failure.hint, number
            assert not rig.device.socket.nrst_low, number
        if meddle is not Meddle.UNPLUG:
            assert chip.violations == [], number
        return number < len(rig.log)

    number = 0
    while run_virtual(life, number):
        number += 13
    assert number > 600


@pytest.mark.parametrize("stop_at", range(14))
@virtual
async def test_a_job_stopped_anywhere_is_cancelled_or_done(stop_at: int) -> None:
    chip = used_chip(Stm32F1(is_protected=True))
    rig = Rig(chip)
    observer = RecordingObserver(stop_at=stop_at)
    outcome = await flash(rig, EVERYTHING, observer)
    is_over = observer.checkpoints <= stop_at
    assert (outcome.verdict is Verdict.PASSED) == is_over
    assert is_over or outcome.verdict is Verdict.CANCELLED
    assert (rig.is_free, chip.violations) == (True, [])
    if stop_at == 0:
        assert chip.flash.is_protected
        assert chip.flash.mass_erases == 0, "nothing was changed"


@pytest.mark.parametrize(("place", "value"), [(0, 0x00), (8, 0xFE)], ids=["RDP", "WRP0"])
@virtual
async def test_a_protection_that_counts_from_the_next_reset_on_is_one(place: int, value: int) -> None:
    """Somebody wrote option bytes and did not reset the chip: our reset would shut it in the midst of the work."""
    for consent in (False, True):
        chip = used_chip()
        chip.flash.options[place : place + 2] = bytes((value, value ^ 0xFF))
        before = bytes(chip.chip.flash)
        outcome = await flash(Rig(chip), replace(SMALL, unlock=consent))
        if consent:
            assert (outcome.verdict, chip.flash.is_protected, chip.violations) == (Verdict.PASSED, False, [])
            assert bytes(chip.flash.options) == OptionBytes().encode()
        else:
            assert outcome.failure is not None
            assert (outcome.failure.code, bytes(chip.chip.flash)) == (ErrorCode.TARGET_LOCKED, before)
