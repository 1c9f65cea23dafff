"""From options to a recipe: what is joined, what is set, what is refused before a board is touched."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.hexlines import END, data_lines, hexfile

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.catalog.recipe import NamedBytes, RecipeOptions, admit, build_recipe
from ispd.catalog.recipefile import read_recipe, recipe_files
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe, VerifyScope

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
JUMP = b"\x0c\x94\x34\x12"
FIRMWARE, LOADER = JUMP + b"\x11" * 3000, JUMP + b"\x22" * 1000


def named(name: str, start: int, data: bytes) -> NamedBytes:
    return NamedBytes(name, hexfile(*data_lines(start, data), END))


APP, BOOT = named("app.hex", 0, FIRMWARE), named("boot.hex", 0x7000, LOADER)


def build(**options: Any) -> Recipe:
    return build_recipe(RecipeOptions(**options), PARTS, BOOTLOADERS)


def refusal(**options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        build(**options)
    return caught.value


def test_everything_asked_for_is_in_the_recipe():
    recipe = build(
        files=(APP, BOOT),
        eeprom=named("board.eep", 0, b"\x01\x02"),
        part="ATmega32U4",
        bootloader="atmel-dfu",
        lock=0x2F,
        sck_hz=125_000,
        supply_mv=5000,
    )
    assert recipe.flash == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))
    assert recipe.eeprom == Image((Segment(0, b"\x01\x02"),))
    assert (recipe.part, recipe.bootloader) == ("atmega32u4", "atmel-dfu-32u4")
    assert recipe.fuses == {L: 0x5E, H: 0xD9, E: 0xF3}
    assert (recipe.lock, recipe.sck_hz, recipe.supply_mv, recipe.erase) == (0x2F, 125_000, 5000, True)
    assert [source.name for source in recipe.sources] == ["app.hex", "boot.hex", "board.eep"]
    assert recipe.warnings == ()


def test_an_explicit_fuse_wins_over_the_bootloaders_with_a_warning():
    recipe = build(files=(APP, BOOT), bootloader="caterina-micro", efuse=0xF8)
    assert recipe.fuses == {L: 0xFF, H: 0xD8, E: 0xF8}
    assert recipe.warnings == ("efuse 0xF8 was given; caterina-micro is made for 0xFB",)
    # the JTAG variant of the guide is as good
    assert build(files=(APP, BOOT), bootloader="atmel-dfu-32u4", hfuse=0x99).warnings == ()


def test_the_lock_byte_comes_with_the_bootloader_unless_another_is_given():
    """Its vendor closes the boot section; boards of the guide's own list, which names no lock byte, stay open."""
    assert build(files=(APP, BOOT), bootloader="caterina-micro").lock == 0x2F
    assert build(files=(APP, BOOT), bootloader="atmel-dfu-32u4").lock is None
    opened = build(files=(APP, BOOT), bootloader="caterina-micro", lock=0x3F)
    assert (opened.lock, opened.warnings) == (0x3F, ("lock 0x3F was given; caterina-micro is made for 0x2F",))
    # what differs in bits that do not exist differs in nothing
    same = build(files=(APP, BOOT), bootloader="caterina-micro", lock=0xEF, efuse=0xCB)
    assert (same.lock, same.fuses[E], same.warnings) == (0xEF, 0xCB, ())
    # without an erase nothing is opened: where the board has more bits closed, the job is refused there
    closed = build(bootloader="caterina-micro")
    assert (closed.lock, closed.erase) == (0x2F, False)
    u4 = PARTS.avr("m32u4")
    assert admit(closed, u4, BOOTLOADERS, {MemoryKind.LOCK: 0x3F}) == ()
    with pytest.raises(RefusedError, match="only a chip erase opens them") as caught:
        admit(closed, u4, BOOTLOADERS, {MemoryKind.LOCK: 0x0F})
    assert "--force-fuses" not in caught.value.hint


def test_a_name_of_several_is_decided_by_the_image():
    usb = b"\x12\x01\x10\x01\x02\x00\x00\x08\x4f\x1b\x05\x92\x00\x01\x02\x01\x00\x01"
    loader = named("Caterina.hex", 0x7000, LOADER + usb)
    for part in ("m32u4", None):
        recipe = build(files=(APP, loader), part=part, bootloader="caterina")
        assert (recipe.part, recipe.bootloader, recipe.lock) == ("atmega32u4", "caterina-promicro16", 0x2F)
    assert refusal(files=(APP, BOOT), part="m32u4", bootloader="caterina").code is ErrorCode.UNKNOWN_BOOTLOADER


def test_the_bootloader_names_the_part_only_when_there_is_one():
    assert build(files=(APP,), bootloader="caterina-micro").part == "atmega32u4"
    assert build(files=(named("a.hex", 0, FIRMWARE),), bootloader="atmel-dfu-usb64").part is None
    # a same-signature twin will do, any other part not
    assert build(files=(APP,), part="m32", bootloader="bootloadhid").fuses == {L: 0x0F, H: 0xD0}
    assert refusal(files=(APP,), part="m328p", bootloader="caterina-micro").code is ErrorCode.UNKNOWN_BOOTLOADER


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ({}, ErrorCode.RECIPE_INVALID, "nothing to write"),
        ({"files": (APP,), "part": "m32u5"}, ErrorCode.UNKNOWN_PART, "m32u5"),
        ({"files": (APP,), "bootloader": "caterina", "part": "m32u4"}, ErrorCode.UNKNOWN_BOOTLOADER, "more than one"),
        ({"files": (APP,), "lfuse": 0x100}, ErrorCode.INVALID_PARAMETER, "lfuse"),
        ({"files": (APP,), "lock": -1}, ErrorCode.INVALID_PARAMETER, "lock"),
        ({"files": (APP,), "sck_hz": 0}, ErrorCode.INVALID_PARAMETER, "sck_hz"),
        ({"files": (APP,), "sck_hz": 1 << 70}, ErrorCode.INVALID_PARAMETER, "sck_hz"),
        ({"files": (APP,), "supply_mv": 1 << 70}, ErrorCode.INVALID_PARAMETER, "supply_mv"),
        ({"files": (APP,), "erase": False, "verify": VerifyScope.FULL}, ErrorCode.RECIPE_INVALID, "after a chip erase"),
        ({"files": (APP,), "part": "m32a", "efuse": 0xFF}, ErrorCode.INVALID_PARAMETER, "no efuse"),
        ({"files": (APP, APP, named("b.hex", 8, b"\x01"))}, ErrorCode.IMAGE_OVERLAP, "b.hex"),
        ({"files": (named("a.hex", 0x7FFF, b"\x01\x02"),), "part": "m32u4"}, ErrorCode.IMAGE_DOES_NOT_FIT, "0x8000"),
        (
            {"files": (APP,), "eeprom": named("a.eep", 0x400, b"\x01"), "part": "m32u4"},
            ErrorCode.IMAGE_DOES_NOT_FIT,
            "eeprom",
        ),
        ({"files": (APP,), "part": "m328p", "hfuse": 0x99}, ErrorCode.FUSE_REFUSED, "debugWIRE"),
        (
            {"files": (named("a.hex", 0, JUMP + b"\x11" * 0x7800),), "bootloader": "caterina-micro"},
            ErrorCode.IMAGE_FUSE_MISMATCH,
            "0x7000",
        ),
        ({"files": (APP,), "bootloader": "caterina-astar", "supply_mv": 3300}, ErrorCode.FUSE_REFUSED, "4300 mV"),
    ],
)
def test_refused_before_anything_is_touched(options, code, told):
    error = refusal(**options)
    assert error.code is code
    assert told in error.message


def test_the_ends_of_the_ranges_are_legal():
    recipe = build(files=(APP,), lfuse=0, hfuse=0xFF, lock=0, sck_hz=1, supply_mv=1)
    assert (recipe.fuses, recipe.lock) == ({L: 0, H: 0xFF}, 0)
    assert (recipe.sck_hz, recipe.supply_mv) == (1, 1)


def test_without_an_image_nothing_is_erased():
    recipe = build(part="m32u4", efuse=0xFB)
    assert (len(recipe.flash), recipe.erase, recipe.fuses) == (0, False, {E: 0xFB})
    assert not build(part="m32u4", eeprom=named("a.eep", 0, b"\x01")).erase
    assert build(part="m32u4", files=(APP,)).erase
    assert not build(part="m32u4", files=(APP,), erase=False).erase


def test_all_questions_are_asked_at_once_and_can_be_accepted():
    options = {"files": (APP,), "part": "m32u4", "lfuse": 0xE0, "hfuse": 0x81}
    error = refusal(**options)
    assert error.code is ErrorCode.FUSE_CONFIRM
    assert all(words in error.message for words in ("lfuse 0xE0", "XTAL1", "hfuse 0x81", "WDTON", "EESAVE"))
    accepted = build(**options, accept_fuses=True)
    assert len(accepted.warnings) == 3
    assert accepted.fuses == {L: 0xE0, H: 0x81}
    # a yes does not cover what is refused, and the swap that caused it is named
    swapped = {"files": (APP,), "part": "m32u4", "hfuse": 0xF3, "accept_fuses": True}
    error = refusal(**swapped)
    assert error.code is ErrorCode.FUSE_REFUSED
    assert "0xF3 is the efuse of" in error.message
    assert build(**swapped, force_fuses=True).force_fuses


def test_without_a_part_the_checks_wait_for_the_board():
    recipe = build(files=(named("a.hex", 0, JUMP + b"\x11" * 0x3000),), hfuse=0x99)
    assert recipe.part is None
    assert admit(recipe, PARTS.avr("m32u4"), BOOTLOADERS) == ()
    for part, code in (
        ("m328p", ErrorCode.FUSE_REFUSED),
        ("m8", ErrorCode.FUSE_CONFIRM),
        ("usb82", ErrorCode.FUSE_REFUSED),
    ):
        with pytest.raises(RefusedError) as caught:
            admit(recipe, PARTS.avr(part), BOOTLOADERS)
        assert caught.value.code is code
    with pytest.raises(RefusedError) as caught:
        admit(build(files=files_of(recipe)), PARTS.avr("m8"), BOOTLOADERS)
    assert caught.value.code is ErrorCode.IMAGE_DOES_NOT_FIT


def files_of(recipe: Recipe) -> tuple[NamedBytes, ...]:
    return tuple(named("a.hex", segment.start, segment.data) for segment in recipe.flash.segments)


def test_what_the_board_holds_now_answers_questions_and_decides_the_boot_section():
    u4 = PARTS.avr("m32u4")
    plain = build(files=(APP,))
    assert admit(plain, u4, BOOTLOADERS) == ()
    assert "no bootloader there" in admit(plain, u4, BOOTLOADERS, {L: 0xFF, H: 0xD8, E: 0xFB})[0]
    clock = build(files=(APP,), lfuse=0xDF)
    with pytest.raises(RefusedError):
        admit(clock, u4, BOOTLOADERS, {L: 0x52, H: 0x99, E: 0xFB})
    assert admit(clock, u4, BOOTLOADERS, {L: 0x5E, H: 0x99, E: 0xFB}) == ()
    reopen = build(files=(APP,), lock=0x3F, erase=False)
    with pytest.raises(RefusedError) as caught:
        admit(reopen, u4, BOOTLOADERS, {MemoryKind.LOCK: 0x2F})
    assert caught.value.code is ErrorCode.FUSE_REFUSED
    assert admit(build(files=(APP,), lock=0x3F), u4, BOOTLOADERS, {MemoryKind.LOCK: 0x2F}) == ()


def test_a_firmware_in_the_bootloaders_way_is_told():
    long = named("a.hex", 0, JUMP + b"\x11" * 0x7100)
    assert build(files=(long,), part="m32u4").warnings == ()
    warnings = build(files=(long,), bootloader="atmel-dfu-32u4").warnings
    assert "atmel-dfu-32u4 leaves it 28672 bytes, up to 0x6FFF" in warnings[0]


def test_a_raw_binary_goes_where_it_is_told():
    recipe = build(files=(NamedBytes("app.bin", FIRMWARE), NamedBytes("boot.bin", LOADER, 0x7000)))
    assert recipe.flash == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))


byte = st.none() | st.integers(-1, 256)
blob = st.binary(max_size=80) | st.binary(min_size=1, max_size=80).map(
    lambda data: hexfile(*data_lines(0x6FF0, data), END)
)
file = st.builds(NamedBytes, st.sampled_from(["a.hex", "b.bin"]), blob, st.none() | st.integers(-1, 0x8001))


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        RecipeOptions,
        files=st.lists(file, max_size=3).map(tuple),
        eeprom=st.none() | file,
        part=st.sampled_from([None, "m32u4", "m328p", "m8", "t85", "usb1286", ""]),
        bootloader=st.sampled_from([None, "caterina-micro", "atmel-dfu", "lufa-ms", "stm32duino", "x"]),
        lfuse=byte,
        hfuse=byte,
        efuse=byte,
        lock=byte,
        erase=st.booleans(),
        force_fuses=st.booleans(),
        accept_fuses=st.booleans(),
        sck_hz=st.none() | st.integers(-1, 1),
        verify=st.none() | st.sampled_from(VerifyScope),
        strip_sketch=st.booleans(),
        supply_mv=st.none() | st.integers(-1, 5000),
    )
)
def test_any_options_give_a_recipe_or_a_refusal(options):
    """And so does the part that the recipe meets later."""
    try:
        recipe = build_recipe(options, PARTS, BOOTLOADERS)
    except RefusedError:
        return
    assert all(0 <= value <= 0xFF for value in recipe.fuses.values())
    for part in map(PARTS.get, ("m32u4", "m328p", "m168", "m8", "t85", "m2560")):
        try:
            admit(recipe, part, BOOTLOADERS)
        except RefusedError:
            continue
        assert recipe.flash.span.stop <= part.flash.size_bytes
        assert set(recipe.fuses) <= {fuse.memory for fuse in part.fuses}


def test_the_examples_recipe_is_complete():
    """It is the demonstration's job: every memory gets written, and the guard asks nothing."""
    folder = Path(__file__).parents[3] / "config" / "examples"
    content = (folder / "board.toml").read_bytes()
    files = {name: (folder / name).read_bytes() for name in recipe_files("board.toml", content)}
    recipe = build_recipe(read_recipe("board.toml", content, files), PARTS, BOOTLOADERS)
    assert recipe.part == "atmega32u4"
    assert recipe.fuses == {L: 0xFF, H: 0xD8, E: 0xFB}
    assert (recipe.lock, recipe.erase) == (0x2F, True)
    assert [segment.start for segment in recipe.flash.segments] == [0, 0x7000]
    assert recipe.eeprom is not None
    assert len(recipe.eeprom) > 64
    assert recipe.warnings == ()
