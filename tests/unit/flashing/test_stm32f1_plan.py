"""What is planned for an STM32F1: pure, from what is wanted and what the chip says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.flashing.stm32f1_unit import FLASH, program

from ispd.errors import ErrorCode, RefusedError, TargetError
from ispd.flashing.stm32f1_identify import Stm32Facts
from ispd.flashing.stm32f1_plan import (
    EraseAll,
    ErasePages,
    OpenProtection,
    RunTarget,
    Stm32Erase,
    Stm32Wish,
    VerifyFlash,
    WriteFlash,
    WriteOptions,
    plan_opening,
    plan_stm32f1,
)
from ispd.model.image import Image, Segment
from ispd.model.span import Span
from ispd.wire.stm32f1 import FAMILIES, OptionBytes

OPEN = 0xFFFF_FFFF
C8 = Stm32Facts(
    chip_id=0x410,
    revision=0x2003,
    family=FAMILIES[0x410],
    flash_bytes=64 * 1024,
    flash_kib=64,
    unique_id="52FF6C064980545247140267",
    is_read_protected=False,
    options=OptionBytes(),
    wrpr=OPEN,
)


def test_a_bootloader_is_erased_written_read_back_and_started() -> None:
    image = program(7172)
    erase, write, verify, run = plan_stm32f1(Stm32Wish(image=image), C8).steps
    assert isinstance(erase, ErasePages)
    assert erase.pages == tuple(range(FLASH, FLASH + 0x2000, 0x400))
    assert isinstance(write, WriteFlash)
    assert [(one.start, len(one.data)) for one in write.blocks] == [(FLASH, 4096), (FLASH + 4096, 3076)]
    assert isinstance(verify, VerifyFlash)
    assert verify.expected == (Segment(FLASH, image.bytes_in(Span(FLASH, FLASH + 0x2000))),)
    assert isinstance(run, RunTarget)
    assert (write.bytes, verify.bytes) == (7172, 8192)
    assert [step.is_destructive for step in (erase, write, verify, run)] == [True, True, False, False]


def test_the_whole_chip_and_option_bytes_where_they_are_asked_for() -> None:
    options = OptionBytes(rdp=0)
    wish = Stm32Wish(image=program(100), erase=Stm32Erase.CHIP, options=options)
    steps = plan_stm32f1(wish, C8).steps
    assert isinstance(steps[0], EraseAll)
    assert isinstance(steps[3], WriteOptions)
    assert steps[3].options == options
    assert [step.name for step in steps] == ["erase chip", "write flash", "verify flash", "write options", "run"]


@given(
    pieces=st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=5000)), min_size=1, max_size=6),
    chip_id=st.sampled_from([0x410, 0x412, 0x414]),
    base=st.sampled_from([0, FLASH]),
)
def test_any_image_is_written_once_within_limits_and_read_back_whole(
    pieces: list[tuple[int, bytes]], chip_id: int, base: int
) -> None:
    cells: dict[int, int] = {}
    for start, data in pieces:
        cells.update(enumerate(data, start))
    image = Image.of(Segment(base + at, bytes((value,))) for at, value in cells.items())
    family = replace(FAMILIES[chip_id], largest_flash_bytes=1 << 17)
    facts = replace(C8, family=family, flash_bytes=1 << 17)
    erase, write, verify, _ = plan_stm32f1(Stm32Wish(image=image), facts).steps
    assert isinstance(erase, ErasePages)
    assert isinstance(write, WriteFlash)
    assert isinstance(verify, VerifyFlash)
    touched = {(FLASH + at) // family.page_bytes * family.page_bytes for at in cells}
    assert list(erase.pages) == sorted(touched)
    programmed: dict[int, int] = {}
    for block in write.blocks:
        assert block.start % 2 == len(block.data) % 2 == 0
        assert 0 < len(block.data) <= family.buffer_bytes
        assert not programmed.keys() & set(range(block.start, block.span.stop)), "nothing is programmed twice"
        programmed.update(enumerate(block.data, block.start))
    expected = {at: value for one in verify.expected for at, value in enumerate(one.data, one.start)}
    assert expected.keys() == {at for page in touched for at in range(page, page + family.page_bytes)}
    for at, value in expected.items():
        assert value == cells.get(at - FLASH, 0xFF)
        assert programmed.get(at, 0xFF) == value, "what is not programmed is blank after the erase"
    assert programmed.keys() <= expected.keys()


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (Image(()), ErrorCode.IMAGE_INVALID),
        (program(100, at=0x2000_0000), ErrorCode.IMAGE_DOES_NOT_FIT),
        (program(100, at=0x0802_0000), ErrorCode.IMAGE_DOES_NOT_FIT),
        (program(100, at=FLASH - 50), ErrorCode.IMAGE_DOES_NOT_FIT),
        (program(64 * 1024 + 1), ErrorCode.IMAGE_TOO_LARGE),
        (program(64 * 1024 + 1, at=0), ErrorCode.IMAGE_TOO_LARGE),
    ],
)
def test_what_does_not_fit_is_refused(image: Image, code: ErrorCode) -> None:
    with pytest.raises(RefusedError) as refused:
        plan_stm32f1(Stm32Wish(image=image), C8)
    assert refused.value.code is code


def test_more_flash_than_the_chip_tells_is_used_on_demand() -> None:
    wish = Stm32Wish(image=program(64 * 1024 + 1), flash_bytes=128 * 1024)
    assert len(plan_stm32f1(wish, C8).steps) == 4


def test_a_protection_that_is_in_the_way_needs_consent() -> None:
    locked = replace(C8, is_read_protected=True, options=OptionBytes(rdp=0, user=0xFE, data=(1, 2)))
    guarded = replace(C8, wrpr=OPEN & ~1, options=OptionBytes(wrp=(0xFE, 0xFF, 0xFF, 0xFF)))
    wish = Stm32Wish(image=program(100))
    for facts, kind in ((locked, "read"), (guarded, "write")):
        with pytest.raises(TargetError, match=f"{kind} protected") as refused:
            plan_opening(wish, facts)
        assert refused.value.code is ErrorCode.TARGET_LOCKED
        assert "erases" in refused.value.hint
        (step,) = plan_opening(replace(wish, opens_protection=True), facts).steps
        assert isinstance(step, OpenProtection)
        assert step.options == facts.options.opened()
        assert step.expects_blank == (kind == "read")
    elsewhere = replace(C8, wrpr=OPEN & ~2)
    assert plan_opening(wish, elsewhere).steps == ()
    with pytest.raises(TargetError):
        plan_opening(replace(wish, erase=Stm32Erase.CHIP), elsewhere)
    assert plan_opening(wish, C8).steps == ()


def test_an_image_for_another_address_is_doubted() -> None:
    def warnings(image: Image) -> tuple[str, ...]:
        return plan_stm32f1(Stm32Wish(image=image), C8).warnings

    def starting(stack: int, reset: int, length: int = 1000) -> Image:
        head = stack.to_bytes(4, "little") + reset.to_bytes(4, "little")
        return Image.of([Segment(FLASH, head.ljust(length, b"\1"))])

    assert warnings(program(1000)) == ()
    assert warnings(starting(0x2000_5000, FLASH + 0x101)) == ()
    assert "another address" in warnings(starting(0x2000_5000, FLASH + 0x2101))[0]
    for stack, reset in ((0x0102_0304, FLASH + 0x101), (0x2000_5000, FLASH + 0x100), (0x2000_5000, 0x2000_0001)):
        assert "not begin like a program" in warnings(starting(stack, reset))[0]
    assert warnings(program(100, at=FLASH + 0x2000)) == (), "an application behind a bootloader"
