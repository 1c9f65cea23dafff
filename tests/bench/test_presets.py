"""From an option on the command line to the bits in the chip: presets, and jobs that write fuses, lock bits or EEPROM only."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record
from tests.unit.flashing.bench_unit import BOOTLOADERS, PARTS, check_left_alone, flash, holds, soil
from tests.unit.flashing.direct_programmer import DirectProgrammer
from tests.unit.flashing.recording_observer import RecordingObserver

from ispd.catalog.recipe import NamedBytes, RecipeOptions, build_recipe
from ispd.errors import ErrorCode
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

GUIDE = tomllib.loads((Path(__file__).parents[1] / "golden" / "qmk_isp_guide_fuses.toml").read_text())["row"]
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
JUMP = b"\x0c\x94\x34\x12"
CLOCKS = (8_000, 125_000, 187_500, 1_500_000)


def make(**options: Any) -> Recipe:
    return build_recipe(RecipeOptions(**options), PARTS, BOOTLOADERS)


def named(name: str, start: int, data: bytes) -> NamedBytes:
    bank = record(4, 0, (start >> 16).to_bytes(2, "big"))
    return NamedBytes(name, hexfile(bank, *data_lines(start & 0xFFFF, data), END))


async def run(target: AvrTarget, recipe: Recipe) -> RecordingObserver:
    """Flash a board that must pass; return what was told on the way."""
    observer = RecordingObserver()
    outcome = await flash(DirectProgrammer(target, sck_hz=CLOCKS), recipe, observer)
    check_left_alone(target)
    assert outcome.verdict is Verdict.PASSED, outcome.failure
    assert holds(target, recipe)
    return observer


def written(observer: RecordingObserver) -> list[str]:
    return [step.name for step in observer.records if step.name.startswith(("write", "erase"))]


@pytest.mark.parametrize("row", GUIDE, ids=lambda row: row["bootloader"])
@virtual
async def test_each_row_of_the_guide_arrives_in_a_fresh_chip(row: dict[str, Any]):
    """With its lock byte where its vendor has one, and no byte written a second time."""
    bootloader = BOOTLOADERS.get(row["bootloader"])
    assert bootloader.section is not None
    part = PARTS.avr(row["parts"][-1])
    files = (
        named("app.hex", 0, JUMP + b"\x11" * 300),
        named("boot.hex", bootloader.section.start, JUMP + b"\x22" * 200),
    )
    recipe = make(files=files, part=part.id, bootloader=row["bootloader"])
    target = AvrTarget(part)
    await run(target, recipe)
    wanted = {L: row["lfuse"], H: row["hfuse"][-1], **({E: row["efuse"]} if "efuse" in row else {})}
    assert {memory: target.fuses[memory] & part.mask(memory) for memory in wanted} == {
        memory: value & part.mask(memory) for memory, value in wanted.items()
    }
    locked = 0x3F if bootloader.lock is None else bootloader.lock & 0x3F
    assert target.lock & 0x3F == locked
    # once more: the erase opens the lock bits, the fuses are as they should be
    again = written(await run(target, recipe))
    assert again == ["erase", "write flash", *([] if bootloader.lock is None else ["write lock"])]
    # and without an image there is nothing left to do at all
    assert written(await run(target, make(part=part.id, bootloader=row["bootloader"]))) == []


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"lfuse": 0xE2, "part": "m328p"}, ["write lfuse"]),
        ({"efuse": 0x04, "hfuse": 0xD0}, ["write efuse", "write hfuse"]),
        ({"lock": 0x2F}, ["write lock"]),
        ({"lock": 0xFF}, []),
        ({"lfuse": 0x62, "efuse": 0x07}, []),  # as it left the factory, in the bits that exist
        ({"eeprom": named("left.eep", 14, b"\x01")}, ["write eeprom"]),
        ({"bootloader": "usbasploader", "part": "m328p"}, ["write efuse", "write hfuse", "write lfuse"]),
    ],
)
@virtual
async def test_without_an_image_what_was_not_named_stays_as_it_was(options: dict[str, Any], steps: list[str]):
    target = soil(AvrTarget(PARTS.avr("m328p")))
    recipe = make(**options)
    flash_before, eeprom_before = bytes(target.flash), bytearray(target.eeprom)
    assert sorted(written(await run(target, recipe))) == sorted(steps)
    assert bytes(target.flash) == flash_before
    for segment in () if recipe.eeprom is None else recipe.eeprom.segments:
        eeprom_before[segment.start : segment.span.stop] = segment.data
    assert bytes(target.eeprom) == bytes(eeprom_before)


@virtual
async def test_lock_bits_come_last_and_are_only_opened_by_an_erase():
    part = PARTS.avr("m32u4")
    app = named("app.hex", 0, JUMP + b"\x11" * 50)
    target = AvrTarget(part)
    steps = written(await run(target, make(files=(app,), part="m32u4", lfuse=0xFF, efuse=0xFB, lock=0x0C)))
    assert steps[-1] == "write lock"
    assert target.lock & 0x3F == 0x0C
    for lock in (0x2F, 0x0F, 0x3F):
        outcome = await flash(DirectProgrammer(target, sck_hz=CLOCKS), make(lock=lock, part="m32u4"))
        assert outcome.failure is not None
        assert outcome.failure.code in (ErrorCode.FUSE_REFUSED, ErrorCode.TARGET_LOCKED)
        assert target.lock & 0x3F == 0x0C
        check_left_alone(target)
    assert "erase" in written(await run(target, make(files=(app,), part="m32u4", lock=0x3F)))
    assert target.lock & 0x3F == 0x3F


@virtual
async def test_all_of_flash_is_read_back_where_the_recipe_says_so():
    part = PARTS.avr("t85")
    app = named("app.hex", 0, JUMP + b"\x11" * 50)
    observers = [
        await run(soil(AvrTarget(part)), make(files=(app,), part="t85", verify=scope)) for scope in VerifyScope
    ]
    read = [next(step.bytes for step in o.records if step.name == "verify flash") for o in observers]
    assert read == [64, part.flash.size_bytes]
