"""What is planned for an STM32F1: pure, from the recipe and what the chip says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.flashing.stm32f1_unit import FLASH, PARTS, program, recipe

from ispd.errors import ErrorCode, RefusedError, TargetError
from ispd.flashing.steps import Leave, VerifyBits, VerifyCells
from ispd.flashing.stm32f1_identify import ChipId, Stm32Facts
from ispd.flashing.stm32f1_plan import (
    CheckBlank,
    EraseAll,
    ErasePages,
    WriteFlash,
    WriteOptions,
    plan_stm32f1,
    plan_unlock,
)
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind, Stm32Part
from ispd.model.recipe import Recipe, VerifyScope
from ispd.model.span import Span
from ispd.wire.stm32f1 import OptionBytes

OPEN = 0xFFFF_FFFF


def part(name: str) -> Stm32Part:
    found = PARTS.get(name)
    assert isinstance(found, Stm32Part)
    return found


C8 = Stm32Facts(
    id=ChipId(0x2003_6410, "52FF6C064980545247140267"),
    part=part("stm32f103xb"),
    flash_bytes=64 * 1024,
    tells_size=True,
    is_read_protected=False,
    options=OptionBytes(),
    wrpr=OPEN,
    ram_bytes=20 * 1024,
    chip="revision Y, says 64 KiB",
)


def test_a_bootloader_is_erased_written_read_back_and_started() -> None:
    image = program(13500)
    plan = plan_stm32f1(recipe(image), C8)
    erase, write, verify, bits, leave = plan.steps
    assert isinstance(erase, EraseAll)
    assert isinstance(write, WriteFlash)
    assert [(one.start, len(one.data)) for one in write.blocks] == [
        *((FLASH, 1024), (FLASH + 1024, 3072), (FLASH + 4096, 8192), (FLASH + 12288, 1212))
    ]
    assert isinstance(verify, VerifyCells)
    whole = Span(FLASH, FLASH + 0x3800)
    assert verify.spans == (whole,)
    assert Image.of(verify.expected) == Image.of([Segment(FLASH, image.bytes_in(whole))])
    assert isinstance(bits, VerifyBits)
    assert bits.expected[MemoryKind.LOCK] == 0xA5
    assert isinstance(leave, Leave)
    assert plan.total_bytes == 13500 + 0x3800
    assert [step.is_destructive for step in plan.steps] == [True, True, False, False, False]
    assert plan.warnings == ()


def test_how_much_is_erased_and_looked_at() -> None:
    image = program(100, at=FLASH + 0x2000)
    first, *_ = plan_stm32f1(recipe(image, keeps_rest=True), C8).steps
    assert isinstance(first, ErasePages)
    assert first.pages == (FLASH + 0x2000,)
    first, write, verify, *_ = plan_stm32f1(recipe(image, erase=False), C8).steps
    assert isinstance(first, CheckBlank)
    assert isinstance(write, WriteFlash)
    assert write.after_check
    assert isinstance(verify, VerifyCells)
    assert verify.expected == image.segments, "nobody knows what lies beside"
    plan = plan_stm32f1(recipe(image, verify=VerifyScope.FULL), C8)
    assert isinstance(plan.steps[2], VerifyCells)
    assert Image.of(plan.steps[2].expected).span == C8.flash
    for wanted in (recipe(image, keeps_rest=True), recipe(image, erase=False)):
        with pytest.raises(RefusedError, match="erase of all"):
            plan_stm32f1(replace(wanted, verify=VerifyScope.FULL), C8)


@given(
    pieces=st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=5000)), min_size=1, max_size=6),
    name=st.sampled_from(["stm32f103xb", "stm32f103xe"]),
    keeps_rest=st.booleans(),
)
def test_any_image_is_written_once_within_limits_and_read_back_whole(
    pieces: list[tuple[int, bytes]], name: str, keeps_rest: bool
) -> None:
    cells: dict[int, int] = {}
    for start, data in pieces:
        cells.update(enumerate(data, start))
    image = Image.of(Segment(FLASH + at, bytes((value,))) for at, value in cells.items())
    facts = replace(C8, part=part(name), flash_bytes=1 << 17)
    page_bytes = facts.part.flash.page_bytes
    steps = plan_stm32f1(recipe(image, keeps_rest=keeps_rest), facts).steps
    (verify,) = [step for step in steps if isinstance(step, VerifyCells)]
    blocks = [block for step in steps if isinstance(step, WriteFlash) for block in step.blocks]
    touched = {(FLASH + at) // page_bytes * page_bytes for at in cells}
    assert isinstance(steps[0], ErasePages if keeps_rest else EraseAll)
    if isinstance(steps[0], ErasePages):
        assert list(steps[0].pages) == sorted(touched)
    programmed: dict[int, int] = {}
    for block in blocks:
        assert block.start % 2 == len(block.data) % 2 == 0
        assert 0 < len(block.data) <= facts.block_bytes
        assert not programmed.keys() & set(range(block.start, block.span.stop)), "nothing is programmed twice"
        programmed.update(enumerate(block.data, block.start))
    expected = {at: value for one in verify.expected for at, value in enumerate(one.data, one.start)}
    assert expected.keys() == {at for page in touched for at in range(page, page + page_bytes)}
    for at, value in expected.items():
        assert value == cells.get(at - FLASH, 0xFF)
        assert programmed.get(at, 0xFF) == value, "what is not programmed is blank after the erase"
    assert programmed.keys() <= expected.keys()


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (recipe(), ErrorCode.RECIPE_INVALID),
        (recipe(fuses={MemoryKind.LFUSE: 1}), ErrorCode.RECIPE_INVALID),
        (recipe(program(100), eeprom=program(10, at=0)), ErrorCode.RECIPE_INVALID),
        (recipe(program(100, at=0x2000_0000)), ErrorCode.IMAGE_DOES_NOT_FIT),
        (recipe(program(100, at=0x0802_0000)), ErrorCode.IMAGE_DOES_NOT_FIT),
        (recipe(program(100, at=FLASH - 50)), ErrorCode.IMAGE_DOES_NOT_FIT),
        (recipe(program(64 * 1024 + 1)), ErrorCode.IMAGE_TOO_LARGE),
    ],
)
def test_what_cannot_be_is_refused(wanted: Recipe, code: ErrorCode) -> None:
    with pytest.raises(RefusedError) as refused:
        plan_stm32f1(wanted, C8)
    assert refused.value.code is code


def test_a_protected_chip_that_tells_no_size_is_asked_again_once_it_is_open() -> None:
    hidden = replace(C8, is_read_protected=True, tells_size=False)
    wanted = recipe(program(100 * 1024), unlock=True)
    assert plan_unlock(wanted, hidden) is not None
    assert plan_stm32f1(wanted, hidden).steps
    with pytest.raises(RefusedError):
        plan_stm32f1(wanted, C8)


def test_a_protection_that_is_in_the_way_needs_consent() -> None:
    locked = replace(C8, is_read_protected=True, options=OptionBytes(rdp=0, user=0xFE, data=(1, 2)))
    guarded = replace(C8, wrpr=OPEN & ~1, options=OptionBytes(wrp=(0xFE, 0xFF, 0xFF, 0xFF)))
    wanted = recipe(program(100), keeps_rest=True)
    for facts, kind in ((locked, "read"), (guarded, "write")):
        with pytest.raises(TargetError, match=f"{kind} protected") as refused:
            plan_unlock(wanted, facts)
        assert refused.value.code is ErrorCode.TARGET_LOCKED
        assert refused.value.hint == "--unlock removes the protection and erases all of its flash"
        step = plan_unlock(replace(wanted, unlock=True), facts)
        assert step is not None
        assert step.options == facts.options.opened()
        assert step.expects_blank == (kind == "read")
    elsewhere = replace(C8, wrpr=OPEN & ~2)
    assert plan_unlock(wanted, elsewhere) is None
    with pytest.raises(TargetError):
        plan_unlock(replace(wanted, keeps_rest=False), elsewhere)
    assert plan_unlock(wanted, C8) is None
    assert plan_unlock(recipe(fuses={MemoryKind.DATA0: 1}), guarded) is None, "only flash is in its way"


def test_option_bytes_before_the_lock_and_only_where_they_change() -> None:
    def written(wanted: Recipe) -> list[tuple[str, OptionBytes]]:
        return [(one.name, one.options) for one in plan_stm32f1(wanted, C8).steps if isinstance(one, WriteOptions)]

    both = recipe(fuses={MemoryKind.USER: 0x06}, lock=0)
    options = OptionBytes(user=0xFE)
    assert written(both) == [("write option bytes", options), ("write lock", replace(options, rdp=0))]
    assert written(recipe(lock=0)) == [("write lock", OptionBytes(rdp=0))]
    assert written(recipe(fuses={MemoryKind.USER: 0x07}, lock=0xA5)) == []
    assert "unplug" in plan_stm32f1(both, C8).warnings[0]


def test_a_chip_whose_option_bytes_were_cut_short_is_told_from_one_that_somebody_protected() -> None:
    for options, is_erased in ((OptionBytes(rdp=0xFF), True), (OptionBytes(rdp=0x00), False)):
        with pytest.raises(TargetError) as refused:
            plan_unlock(recipe(program(100)), replace(C8, is_read_protected=True, options=options))
        assert ("cut short" in refused.value.message) == is_erased
