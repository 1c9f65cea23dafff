"""What the station sees of an STM32F1 behind an ST-Link: looks that disturb nothing, probes, reads, and a clock that works."""

from dataclasses import replace

import anyio
import pytest
from tests.unit.flashing.recording_observer import RecordingObserver
from tests.unit.flashing.stm32f1_unit import PARTS, flash, on, program, recipe, used_chip
from tests.unit.programmers.stlink_rig import Meddle, Quiet, Rig

from ispd.errors import ErrorCode, ProgrammerError, TargetError
from ispd.flashing.open_target import open_target
from ispd.flashing.swd_interface import SwdInterface
from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import Interface, MemoryKind, Signature
from ispd.programmers.registry import load_drivers
from ispd.transport.contract import BulkTransfer
from vbench.faults import SckCeiling
from vbench.stm32f1 import GENUINE, Stm32F1
from vbench.swd import SwdWiring
from vbench.virtual_time import virtual

F103 = Signature(b"\x04\x10")
UNIQUE_ID = "52FF6C064980545247140267"
NO_ID = bytes([0x09]) + bytes(11)


def hides(rig: Rig) -> None:
    """Have the chip answer only while NRST is low, or the core is held where a reset left it."""
    woken = [False]

    def meddle(index: int, transfer: BulkTransfer) -> bytes | None:
        woken[0] = woken[0] or rig.device.socket.nrst_low
        is_answer = transfer.is_in and rig.log[index - 1].data.startswith(bytes.fromhex("F231"))
        return NO_ID if is_answer and not woken[0] else None

    rig.meddler = meddle


def runs(rig: Rig) -> bool:
    return rig.runs


@virtual
async def test_a_look_neither_stops_nor_resets_the_board() -> None:
    chip = used_chip()
    rig = Rig(chip, wiring=SwdWiring(has_nrst=True))
    async with on(rig) as target:
        resets, stops = chip.resets, []
        chip.on_run = lambda runs, _at: stops.append(runs)
        seen = await target.look()
        assert (seen.words, seen.signature, seen.failure) == ("chip id reads 0x0410", F103, None)
        assert (seen.rung_hz, seen.unique_id) == (1_800_000, UNIQUE_ID)
        await target.probe(PARTS)
        await target.read(PARTS, MemoryKind.FLASH, Quiet())
        assert (chip.resets, stops) == (resets, [])
        assert rig.runs


@pytest.mark.parametrize("wiring", [None, SwdWiring(swapped=True), SwdWiring(supplies=False)])
@virtual
async def test_nobody_there_is_an_answer(wiring: SwdWiring | None) -> None:
    rig = Rig(None if wiring is None else Stm32F1(), wiring=wiring)
    async with on(rig) as target:
        seen = await target.look()
        assert (seen.words, seen.signature) == ("no answer to SWD", None)
        facts = await target.probe(PARTS)
        assert facts.signature is None
        for failure in (seen.failure, facts.failure):
            assert failure is not None
            assert failure.code == ErrorCode.TARGET_NOT_RESPONDING
        with pytest.raises(TargetError):
            await target.read(PARTS, MemoryKind.FLASH, Quiet())
    outcome = await flash(rig, recipe(program(100)))
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, ErrorCode.TARGET_NOT_RESPONDING)


@virtual
async def test_firmware_that_turned_its_debug_pins_off_is_met_under_reset() -> None:
    chip = used_chip()
    rig = Rig(chip, wiring=SwdWiring(has_nrst=True))
    hides(rig)
    async with on(rig) as target:
        assert (await target.look(rungs=(1_800_000, 480_000))).signature is None
        seen = await target.look(rungs=(1_800_000, 25_000))
        assert seen.signature == F103
        assert "F2 3C" in rig.commands, "NRST was low"
        assert rig.runs
    hides(rig)
    wanted = recipe(program(7172))
    outcome = await flash(rig, wanted)
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.chip.flash[:7172]) == wanted.flash.segments[0].data
    assert rig.runs


@virtual
async def test_slower_clocks_are_tried_and_a_fixed_one_alone() -> None:
    chip = Stm32F1(faults=[SckCeiling(hz=200_000)])
    rig = Rig(chip)
    async with on(rig) as target:
        assert target.kind is Interface.SWD
        assert target.rungs() == (1_800_000, 480_000, 125_000, 25_000)
        assert target.rungs(950_000) == (950_000,)
        assert (await target.look()).rung_hz == 125_000
        begun = len(rig.commands)
        assert (await target.look(rungs=(1_800_000, 480_000))).signature is None
        assert "F2 3C" not in rig.commands[begun:], "it may run, and answer to a slower clock"
    outcome = await flash(rig, recipe(program(300)))
    assert (outcome.verdict, outcome.sck_hz) == (Verdict.PASSED, 125_000)
    outcome = await flash(rig, recipe(program(300), sck_hz=480_000))
    assert outcome.failure is not None
    assert outcome.failure.code == ErrorCode.TARGET_NOT_RESPONDING
    assert "480000" in outcome.failure.hint


@virtual
async def test_a_probe_tells_what_st_info_tells_and_more() -> None:
    chip = Stm32F1(replace(GENUINE, idcode=0x1303_0410, size_kib=128, flash_bytes=0x2_0000))
    async with on(Rig(chip)) as target:
        facts = await target.probe(PARTS)
    assert [part.id for part in facts.parts] == ["stm32f103xb"]
    assert (facts.flash_bytes, facts.flash_page_bytes, facts.ram_bytes) == (131072, 1024, 20480)
    assert (facts.signature, facts.unique_id, facts.voltage_mv) == (F103, UNIQUE_ID, 3240)
    assert facts.chip == "revision 0x1303, clone: GigaDevice GD32, says 128 KiB, Cortex-M3"
    assert (facts.fuses[MemoryKind.USER], facts.fuses[MemoryKind.WRP3], facts.lock) == (0xFF, 0xFF, 0xA5)
    assert any("clone" in warning for warning in facts.warnings)
    unknown = Stm32F1(replace(GENUINE, idcode=0x1000_6413))
    async with on(Rig(unknown)) as target:
        facts = await target.probe(PARTS)
    assert facts.failure is not None
    assert (str(facts.signature), facts.failure.code) == ("0x0413", ErrorCode.SIGNATURE_UNKNOWN)


@virtual
async def test_what_can_be_read() -> None:
    chip = used_chip()
    async with on(Rig(chip)) as target:
        quiet = Quiet()
        assert await target.read(PARTS, MemoryKind.FLASH, quiet) == bytes(chip.chip.flash)
        assert quiet.done == 0x1_0000
        assert await target.read(PARTS, MemoryKind.SIGNATURE, quiet) == b"\x04\x10"
        assert await target.read(PARTS, MemoryKind.LOCK, quiet) == b"\xa5"
        assert await target.read(PARTS, MemoryKind.USER, quiet) == b"\xff"
        with pytest.raises(ProgrammerError, match="has no lfuse"):
            await target.read(PARTS, MemoryKind.LFUSE, quiet)
    protected = used_chip(Stm32F1(is_protected=True))
    async with on(Rig(protected)) as target:
        assert await target.read(PARTS, MemoryKind.LOCK, quiet) == b"\x00"
        with pytest.raises(TargetError) as refused:
            await target.read(PARTS, MemoryKind.FLASH, quiet)
        assert refused.value.code is ErrorCode.TARGET_LOCKED


@pytest.mark.parametrize("has_nrst", [True, False])
@virtual
async def test_a_held_board_stands_still_and_starts_anew(has_nrst: bool) -> None:
    chip = used_chip()
    rig = Rig(chip, wiring=SwdWiring(has_nrst=has_nrst))
    async with on(rig) as target:
        async with target.held():
            assert not runs(rig)
            await anyio.sleep(2)
            assert not runs(rig)
            resets = chip.resets
        assert runs(rig)
        assert chip.resets > resets
        with pytest.raises(RuntimeError):
            async with target.held():
                raise RuntimeError
        assert runs(rig)


@virtual
async def test_the_light_is_the_programmers_own() -> None:
    rig = Rig(used_chip())
    async with on(rig) as target:
        with pytest.raises(ProgrammerError) as refused:
            await target.identify(rig.clock)
    assert refused.value.code is ErrorCode.PROGRAMMER_CANNOT


@virtual
async def test_the_driver_decides_what_is_spoken() -> None:
    rig = Rig(used_chip())
    target = await open_target(load_drivers()["stlink"], rig, "usb:1-1.4", baud=None, usb=None)
    assert isinstance(target, SwdInterface)
    assert target.identity.kind == "stlink"
    await target.aclose()
    assert rig.is_closed


# -- the right board, and only that one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "code"),
    [("atmega32u4", ErrorCode.PROGRAMMER_CANNOT), ("stm32f103xe", ErrorCode.SIGNATURE_MISMATCH)],
)
@virtual
async def test_a_recipe_for_another_part_touches_nothing(part: str, code: ErrorCode) -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    outcome = await flash(rig, recipe(program(300), part=part, unlock=True))
    assert outcome.failure is not None
    assert (outcome.verdict, outcome.failure.code) == (Verdict.FAILED, code)
    assert bytes(chip.chip.flash) == before
    assert rig.runs
    if code is ErrorCode.PROGRAMMER_CANNOT:
        assert chip.accesses == 0


@virtual
async def test_an_image_at_0_is_meant_for_where_flash_begins() -> None:
    chip = used_chip()
    image = Image.of([Segment(0, program(300).segments[0].data)])
    outcome = await flash(Rig(chip), recipe(image))
    assert outcome.verdict is Verdict.PASSED
    assert bytes(chip.chip.flash[:300]) == image.segments[0].data


STEPS = ["erase", "write flash", "verify flash", "write option bytes", "verify fuses", "leave"]


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_board_exchanged_meanwhile_never_passes(step: str) -> None:
    """The other board has the same firmware already, as in a gang: only its serial number tells."""
    wanted = recipe(program(7172), fuses={MemoryKind.DATA0: 0x12})
    other = Stm32F1(uid=bytes(range(12)))
    assert (await flash(Rig(other), wanted)).verdict is Verdict.PASSED
    cells = bytes(other.chip.flash)
    rig = Rig(used_chip())

    async def exchange(name: str) -> None:
        if name == step:
            now = rig.time.now()
            rig.device.socket.remove(now)
            rig.device.socket.insert(other, now)

    outcome = await flash(rig, wanted, RecordingObserver(on_step=exchange))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.failure is not None
    assert outcome.failure.hint
    if step in ("verify fuses", "leave"):
        assert outcome.failure.code == ErrorCode.SIGNATURE_UNSTABLE
    assert bytes(other.chip.flash) == cells, "the board that came is not harmed"


@virtual
async def test_a_chip_that_tells_another_id_the_second_time_is_not_touched() -> None:
    chip = used_chip()
    before = bytes(chip.chip.flash)
    rig = Rig(chip)
    rig.falsify("F2 36 00 20 04 E0", [bytes.fromhex("80000000 10640120")])
    outcome = await flash(rig, recipe(program(300)))
    assert outcome.failure is not None
    assert (outcome.failure.code, bytes(chip.chip.flash)) == (ErrorCode.SIGNATURE_UNSTABLE, before)


@virtual
async def test_a_pause_between_blocks_and_reads_loses_nothing() -> None:
    chip = used_chip()
    observer = RecordingObserver(every_page=True)
    wanted = recipe(program(40_000))
    outcome = await flash(Rig(chip), wanted, observer)
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.chip.flash) == wanted.flash.bytes_in(PARTS.get("bluepill").flash.span)[:0x1_0000]
    assert observer.checkpoints > 15


@virtual
async def test_half_the_ram_is_enough() -> None:
    """An F101C8 has 10 KiB, and says that it is of the same line."""
    chip = used_chip(Stm32F1(replace(GENUINE, ram_bytes=10 * 1024)))
    wanted = recipe(program(20_000))
    outcome = await flash(Rig(chip), wanted)
    assert (outcome.verdict, chip.violations) == (Verdict.PASSED, [])
    assert bytes(chip.chip.flash[:20_000]) == wanted.flash.segments[0].data


@virtual
async def test_a_programmer_unplugged_while_it_looks_says_so() -> None:
    rig = Rig(used_chip())
    async with on(rig) as target:
        rig.meddler = lambda index, _one: Meddle.UNPLUG if index == 30 else None
        with pytest.raises(Exception, match="disconnected"):
            await target.read(PARTS, MemoryKind.FLASH, Quiet())


@pytest.mark.parametrize(("says_kib", "believed", "told"), [(512, 128, "claims 512 KiB"), (0xFFFF, 64, "not tell")])
@virtual
async def test_a_size_that_cannot_be_is_not_believed(says_kib: int, believed: int, told: str) -> None:
    chip = used_chip(Stm32F1(replace(GENUINE, size_kib=says_kib, flash_bytes=0x2_0000)))
    async with on(Rig(chip)) as target:
        facts = await target.probe(PARTS)
    assert facts.flash_bytes == believed * 1024
    assert told in facts.warnings[0]
    outcome = await flash(Rig(chip), recipe(program(believed * 1024 + 2)))
    assert outcome.failure is not None
    assert outcome.failure.code in (ErrorCode.IMAGE_TOO_LARGE, ErrorCode.IMAGE_DOES_NOT_FIT)
    assert chip.flash.mass_erases == 0
    assert (await flash(Rig(chip), recipe(program(believed * 1024)))).verdict is Verdict.PASSED
