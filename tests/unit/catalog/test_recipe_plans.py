"""Which way the firmware takes: what of the files is bootloader, what firmware, and what is refused before a board is touched."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.catalog.plans import as_chained, as_merged, image_digest
from ispd.catalog.recipe import NamedBytes, RecipeOptions, admit, build_recipe
from ispd.catalog.recipefile import read_recipe
from ispd.catalog.rescue import as_rescue
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.recipe import PlanKind, Recipe, VerifyScope
from ispd.model.span import Span

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
JUMP = b"\x0c\x94\x34\x12"
FIRMWARE = JUMP + b"\x11" * 3000
VIA = [PlanKind.CHAINED, PlanKind.AUTO, PlanKind.CHAIN_ONLY]
BY_ISP_TOO = [PlanKind.CHAINED, PlanKind.AUTO]


def device(vendor: int, product: int, release: int = 0x0001) -> bytes:
    """A USB device descriptor as it lies in a bootloader's flash."""
    ids = b"".join(value.to_bytes(2, "little") for value in (vendor, product, release))
    return b"\x12\x01\x10\x01\x02\x00\x00\x08" + ids + b"\x02\x01\x00\x01"


DFU = JUMP + b"\x22" * 1000 + device(0x03EB, 0x2FF4)
CATERINA = JUMP + b"\x33" * 1000 + device(0x2341, 0x0037)


def named(name: str, start: int, data: bytes) -> NamedBytes:
    bank = [record(4, 0, (start >> 16).to_bytes(2, "big"))] if start >> 16 else []
    return NamedBytes(name, hexfile(*bank, *data_lines(start & 0xFFFF, data), END))


def joined(name: str, *pieces: tuple[int, bytes]) -> NamedBytes:
    return NamedBytes(name, hexfile(*(line for start, data in pieces for line in data_lines(start, data)), END))


APP, BOOT = named("app.hex", 0, FIRMWARE), named("boot.hex", 0x7000, DFU)
MICRO = joined("Caterina-Micro.hex", (0, JUMP + b"\x44" * 4000), (0x7000, CATERINA))


def build(plan: PlanKind | None, *files: NamedBytes, **options: Any) -> Recipe:
    return build_recipe(RecipeOptions(plan=plan, files=files, **options), PARTS, BOOTLOADERS)


def refusal(plan: PlanKind | None, *files: NamedBytes, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        build(plan, *files, **options)
    return caught.value


def images(recipe: Recipe) -> tuple[Image, Image | None]:
    return recipe.flash, recipe.firmware


SPLIT = (Image((Segment(0x7000, DFU),)), Image((Segment(0, FIRMWARE),)))


@pytest.mark.parametrize("plan", VIA)
@pytest.mark.parametrize("files", [(APP, BOOT), (BOOT, APP), (joined("production.hex", (0, FIRMWARE), (0x7000, DFU)),)])
def test_bootloader_and_firmware_are_told_apart_however_they_come(plan, files):
    recipe = build(plan, *files, part="m32u4", bootloader="atmel-dfu")
    assert (recipe.plan, recipe.part, recipe.bootloader) == (plan, "atmega32u4", "atmel-dfu-32u4")
    assert images(recipe) == SPLIT
    assert recipe.warnings == ()
    assert recipe.fuses == ({} if plan is PlanKind.CHAIN_ONLY else {L: 0x5E, H: 0xD9, E: 0xF3})


def test_without_a_plan_and_merged_everything_goes_on_by_isp():
    whole = Image((*SPLIT[1].segments, *SPLIT[0].segments))
    for plan in (None, PlanKind.ISP_ONLY, PlanKind.MERGED):
        recipe = build(plan, APP, BOOT, part="m32u4", bootloader="atmel-dfu")
        assert (recipe.plan, images(recipe)) == (plan or PlanKind.ISP_ONLY, (whole, None))
    # nobody has to name part or bootloader for that
    assert build(PlanKind.MERGED, APP, BOOT).flash == whole
    for files, lacks in (((APP,), "no bootloader"), ((BOOT,), "no firmware")):
        for said in ({}, {"part": "m32u4"}, {"part": "m32u4", "bootloader": "atmel-dfu"}):
            error = refusal(PlanKind.MERGED, *files, **said)
            assert (error.code, lacks in error.message) == (ErrorCode.RECIPE_INVALID, True)


def test_a_recipe_turns_into_another_of_the_same_bytes():
    recipe = build(PlanKind.AUTO, APP, BOOT, bootloader="atmel-dfu-32u4")
    merged, chained = as_merged(recipe), as_chained(recipe)
    direct = build(PlanKind.MERGED, APP, BOOT, bootloader="atmel-dfu-32u4")
    assert merged == direct
    assert chained == build(PlanKind.CHAINED, APP, BOOT, bootloader="atmel-dfu-32u4")
    assert image_digest(recipe) == image_digest(chained) == image_digest(merged) == merged.flash.sha256
    assert image_digest(build(None, part="m32u4", lfuse=0x5E, hfuse=0xD9)) == ""


# ---------------------------------------------------------------- which bootloader, which part


@pytest.mark.parametrize("plan", VIA)
@pytest.mark.parametrize("said", [{}, {"part": "m32u4"}, {"bootloader": "atmel-dfu-32u4"}])
def test_a_bootloader_image_says_which_it_is(plan, said):
    recipe = build(plan, APP, BOOT, **said)
    assert (recipe.part, recipe.bootloader) == ("atmega32u4", "atmel-dfu-32u4")
    # what was only recognised sets no fuses by itself, and says so where they would be written
    is_silent = "bootloader" in said or plan is PlanKind.CHAIN_ONLY
    assert len(recipe.warnings) == (0 if is_silent else 1)
    assert is_silent or "--bootloader atmel-dfu-32u4" in recipe.warnings[0]
    assert bool(recipe.fuses) == ("bootloader" in said and plan is not PlanKind.CHAIN_ONLY)


def test_bootloaders_of_one_usb_id_are_told_apart_by_their_release():
    qmk = named("qmk.hex", 0x7000, JUMP + b"\x22" * 1000 + device(0x03EB, 0x2FF4, 0x0936))
    assert build(PlanKind.CHAINED, APP, qmk, part="m32u4").bootloader == "qmk-dfu-32u4"


def test_a_part_says_which_bootloader_where_all_of_its_are_alike():
    recipe = build(PlanKind.CHAIN_ONLY, named("app.hex", 0, FIRMWARE), part="atmega16u2")
    assert (recipe.bootloader, images(recipe)) == ("atmel-dfu-16u2", (Image(()), SPLIT[1]))
    assert image_digest(recipe) == SPLIT[1].sha256
    error = refusal(PlanKind.CHAIN_ONLY, APP, part="m32u4")
    assert error.code is ErrorCode.RECIPE_INVALID
    assert "atmel-dfu-32u4" in error.hint
    assert "caterina-micro" in error.hint
    assert "lufa-ms" not in error.hint
    # nothing at all is known
    assert "--bootloader" in refusal(PlanKind.CHAIN_ONLY, APP).hint
    # twins are one part here
    assert build(PlanKind.CHAIN_ONLY, APP, bootloader="atmel-dfu-usb64").part == "at90usb646"
    assert build(PlanKind.CHAIN_ONLY, APP, part="usb647", bootloader="atmel-dfu").part == "at90usb647"


def test_a_bootloader_that_nobody_knows_is_none_of_the_parts_own():
    """A serial bootloader on the one part that has a single USB bootloader in the catalog."""
    serial = named("ATmegaBOOT.hex", 0x7800, JUMP + b"\x22" * 1000)
    for plan in VIA:
        assert refusal(plan, APP, serial, part="m328p").code is ErrorCode.RECIPE_INVALID
    assert build(PlanKind.CHAIN_ONLY, APP, part="m328p").bootloader == "usbasploader-m328p"


def test_boards_that_need_a_hand_say_so():
    loader = named("main.hex", 0x7000, JUMP + b"\x22" * 1000 + device(0x16C0, 0x05DC))
    (told,) = build(PlanKind.CHAINED, APP, loader, bootloader="usbasploader-m328p", accept_fuses=True).warnings
    assert "BOOT button" in told
    assert "--plan merged" in told
    assert build(PlanKind.CHAIN_ONLY, APP, loader, bootloader="usbasploader-m328p").warnings == ()


def test_an_image_of_another_bootloader_than_the_named_is_refused():
    """The board would never show up as what it is waited for."""
    caterina = named("boot.hex", 0x7000, CATERINA)
    for plan in VIA:
        error = refusal(plan, APP, caterina, bootloader="atmel-dfu-32u4")
        assert error.code is ErrorCode.RECIPE_INVALID
        assert "2341:0037" in error.message
        assert "03EB:2FF4" in error.message
    assert (
        "2341:0037"
        in build(PlanKind.CHAIN_ONLY, APP, caterina, bootloader="atmel-dfu-32u4", force_fuses=True).warnings[0]
    )
    error = refusal(PlanKind.CHAINED, APP, BOOT, part="m328p", bootloader="atmel-dfu-32u4")
    assert error.code is ErrorCode.UNKNOWN_BOOTLOADER


def test_where_only_the_board_knows_which_one_it_has_any_of_the_name_will_do():
    """A keyboard's metadata says `caterina`; which board it is soldered to nobody wrote down."""
    for part in ("m32u4", None):
        recipe = build(PlanKind.CHAIN_ONLY, APP, part=part, bootloader="caterina")
        assert (recipe.part, recipe.bootloader) == ("atmega32u4", "caterina-any")
    # with its image it is one
    micro = named("boot.hex", 0x7000, CATERINA)
    assert build(PlanKind.CHAIN_ONLY, APP, micro, part="m32u4", bootloader="caterina").bootloader == "caterina-micro"
    assert build(PlanKind.CHAINED, APP, micro, part="m32u4", bootloader="caterina").bootloader == "caterina-micro"
    # the right names of several that differ in more stay asked for
    assert refusal(PlanKind.CHAIN_ONLY, APP, bootloader="atmel-dfu").code is ErrorCode.UNKNOWN_BOOTLOADER
    assert refusal(PlanKind.CHAIN_ONLY, APP, bootloader="caterina", part="m328p").code is ErrorCode.UNKNOWN_BOOTLOADER


def test_a_firmware_that_nothing_would_start_is_told_of():
    late = named("late.hex", 0x100, FIRMWARE)
    assert "begins at 0x0100" in build(PlanKind.CHAIN_ONLY, late, bootloader="atmel-dfu-32u4").warnings[0]
    data = named("data.hex", 0, b"\x00\x01" * 100)
    assert "not a jump" in build(PlanKind.CHAIN_ONLY, data, bootloader="atmel-dfu-32u4").warnings[0]


def test_lock_bits_that_come_too_early_can_be_forced_and_are_fine_by_isp():
    forced = build(PlanKind.CHAINED, APP, BOOT, bootloader="atmel-dfu-32u4", lock=0x3B, force_fuses=True)
    assert forced.lock == 0x3B
    assert build(PlanKind.MERGED, APP, BOOT, bootloader="atmel-dfu-32u4", lock=0x3B).lock == 0x3B


# ---------------------------------------------------------------- combined files


@pytest.mark.parametrize("plan", VIA)
def test_the_sketch_of_a_combined_file_is_never_taken_for_the_firmware(plan):
    error = refusal(plan, APP, MICRO, bootloader="caterina-micro")
    assert error.code is ErrorCode.IMAGE_OVERLAP
    assert "--strip-sketch" in error.hint
    recipe = build(plan, APP, MICRO, bootloader="caterina-micro", strip_sketch=True)
    assert images(recipe) == (Image((Segment(0x7000, CATERINA),)), SPLIT[1])
    assert len(recipe.warnings) == 1
    # nor where it does not even get in the way
    high = joined("high.hex", (0x4000, b"\x55" * 100), (0x7000, CATERINA))
    recipe = build(plan, APP, high, bootloader="caterina-micro")
    assert recipe.firmware == SPLIT[1]
    assert "high.hex: only the bootloader" in recipe.warnings[0]
    # alone, its sketch is the firmware
    alone = build(plan, MICRO, bootloader="caterina-micro")
    assert alone.firmware == Image((Segment(0, JUMP + b"\x44" * 4000),))


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("plan", VIA)
def test_a_firmware_that_reaches_into_the_bootloader_is_too_large(plan):
    long = named("long.hex", 0, JUMP + b"\x11" * 28_669)
    for files in ((long,), (long, BOOT)):
        error = refusal(plan, *files, part="m32u4", bootloader="atmel-dfu")
        assert error.code is ErrorCode.IMAGE_TOO_LARGE
        assert "28673" in error.message
        assert "28672" in error.message
    full = named("full.hex", 0, JUMP + b"\x11" * 28_668)
    assert build(plan, full, BOOT, bootloader="atmel-dfu-32u4").firmware == Image(
        (Segment(0, JUMP + b"\x11" * 28_668),)
    )
    # a production file without a gap is no long firmware: its bootloader is recognised
    production = joined("production.hex", (0, JUMP + b"\x11" * 28_668 + DFU))
    assert build(plan, production, bootloader="atmel-dfu-32u4").flash == SPLIT[0]


def test_what_the_tool_takes_is_a_limit_too():
    """dfu-programmer keeps 8 KiB of an AT90USB646 for a bootloader of 4."""
    loader = named("boot.hex", 0xF000, JUMP + b"\x22" * 100 + device(0x03EB, 0x2FF9))
    long = named("app.hex", 0, JUMP + b"\x11" * 57_341)
    for plan in VIA:
        error = refusal(plan, long, loader, part="usb646", bootloader="atmel-dfu")
        assert error.code is ErrorCode.IMAGE_TOO_LARGE
        assert "57345" in error.message
        assert "57344" in error.message
        assert "merged" in error.hint
    assert build(PlanKind.MERGED, long, loader, part="usb646", bootloader="atmel-dfu").firmware is None


@given(st.integers(4, 0x8000), st.integers(1, 0x1000), st.sampled_from(VIA))
@settings(max_examples=60, deadline=None)
def test_no_byte_is_lost_or_moved(start, length, plan):
    """Whatever is taken at all: bootloader and firmware together are the files, the firmware below the section, the bootloader in it."""
    extra = Segment(start, b"\x66" * length)
    files = (BOOT, joined("app.hex", (0, JUMP)), named("extra.hex", start, extra.data))
    options = RecipeOptions(plan=plan, files=files, bootloader="atmel-dfu-32u4")
    meets = [extra.span.overlap(Image((Segment(0x7000, DFU),)).span), extra.span.overlap(Span(0x7000, 0x7001))]
    if any(map(len, meets)) or extra.span.stop > 0x8000:
        with pytest.raises(RefusedError):
            build_recipe(options, PARTS, BOOTLOADERS)
        return
    recipe = build_recipe(options, PARTS, BOOTLOADERS)
    assert recipe.firmware is not None
    assert recipe.firmware.span.stop <= 0x7000 <= recipe.flash.span.start
    assert as_merged(recipe).flash == Image.of([Segment(0, JUMP), Segment(0x7000, DFU), extra])


# ---------------------------------------------------------------- refused in clear words


@pytest.mark.parametrize(
    ("plans", "files", "options", "code", "told"),
    [
        (BY_ISP_TOO, (APP,), {"bootloader": "atmel-dfu-32u4"}, ErrorCode.RECIPE_INVALID, "no image of the bootloader"),
        (VIA, (BOOT,), {"bootloader": "atmel-dfu-32u4"}, ErrorCode.RECIPE_INVALID, "no firmware"),
        (VIA, (), {"bootloader": "atmel-dfu-32u4"}, ErrorCode.RECIPE_INVALID, "no firmware"),
        (VIA, (APP, BOOT), {"bootloader": "atmel-dfu-32u4", "erase": False}, ErrorCode.RECIPE_INVALID, "an erase"),
        (VIA, (APP,), {"bootloader": "lufa-ms"}, ErrorCode.RECIPE_INVALID, "nothing here flashes through"),
        (
            [*BY_ISP_TOO, PlanKind.MERGED, PlanKind.ISP_ONLY],
            (APP,),
            {"bootloader": "stm32-dfu"},
            ErrorCode.RECIPE_INVALID,
            "reached by no programmer",
        ),
        (list(PlanKind), (APP,), {"bootloader": "rp2040"}, ErrorCode.RECIPE_INVALID, "nothing here flashes through"),
        (BY_ISP_TOO, (APP,), {"bootloader": "caterina", "part": "m32u4"}, ErrorCode.UNKNOWN_BOOTLOADER, "more than"),
        (BY_ISP_TOO, (APP, BOOT), {"bootloader": "caterina-any"}, ErrorCode.RECIPE_INVALID, "no bootloader that"),
        # written before the firmware comes
        (
            BY_ISP_TOO,
            (APP, BOOT),
            {"bootloader": "atmel-dfu-32u4", "lock": 0x3B},
            ErrorCode.FUSE_REFUSED,
            "closes the app",
        ),
        (
            BY_ISP_TOO,
            (APP, BOOT),
            {"bootloader": "atmel-dfu-32u4", "lock": 0x27},
            ErrorCode.FUSE_REFUSED,
            "closes the app",
        ),
        (
            [PlanKind.CHAIN_ONLY],
            (APP,),
            {"bootloader": "atmel-dfu-32u4", "lock": 0x2F},
            ErrorCode.RECIPE_INVALID,
            "lock",
        ),
        (
            [PlanKind.CHAIN_ONLY],
            (APP,),
            {"bootloader": "atmel-dfu-32u4", "hfuse": 0xD9},
            ErrorCode.RECIPE_INVALID,
            "hfuse",
        ),
        (
            [PlanKind.CHAIN_ONLY],
            (APP,),
            {"bootloader": "atmel-dfu-32u4", "eeprom": named("e.eep", 0, b"\x00")},
            ErrorCode.RECIPE_INVALID,
            "eeprom",
        ),
        (
            [PlanKind.CHAIN_ONLY],
            (APP,),
            {"bootloader": "atmel-dfu-32u4", "verify": VerifyScope.FULL},
            ErrorCode.RECIPE_INVALID,
            "verified",
        ),
        (BY_ISP_TOO, (APP, BOOT), {"bootloader": "atmel-dfu-32u4", "hfuse": 0xF9}, ErrorCode.FUSE_REFUSED, "hfuse"),
        # one half is judged as ever: Caterina without BOOTRST is never reached by a reset
        (
            BY_ISP_TOO,
            (APP, named("boot.hex", 0x7000, CATERINA)),
            {"bootloader": "caterina-micro", "hfuse": 0xD9},
            ErrorCode.IMAGE_FUSE_MISMATCH,
            "BOOTRST",
        ),
    ],
)
def test_refusals(plans, files, options, code, told):
    for plan in plans:
        error = refusal(plan, *files, **options)
        assert error.code is code
        assert told in error.message
        assert error.hint or code is ErrorCode.UNKNOWN_BOOTLOADER


def test_the_isp_half_is_at_ease_without_a_firmware():
    part = PARTS.avr("m32u4")
    recipe = build(PlanKind.CHAINED, APP, BOOT, bootloader="atmel-dfu-32u4", verify=VerifyScope.FULL)
    assert admit(recipe, part, BOOTLOADERS, {L: 0x62, H: 0x99, E: 0xFF, MemoryKind.LOCK: 0xFF}) == ()
    only = build(PlanKind.CHAIN_ONLY, APP, bootloader="atmel-dfu-32u4")
    # wrong fuses and closed lock bits are not a chain-only job's to judge
    assert admit(only, part, BOOTLOADERS, {L: 0x00, H: 0xFF, E: 0xFF, MemoryKind.LOCK: 0x00}) == ()
    with pytest.raises(RefusedError) as caught:
        admit(only, PARTS.avr("m328p"), BOOTLOADERS)
    assert caught.value.code is ErrorCode.UNKNOWN_BOOTLOADER


# ---------------------------------------------------------------- a bootloader below the firmware


def test_a_firmware_for_an_stm32_goes_to_where_its_bootloader_wants_it():
    raw = NamedBytes("bluepill.bin", bytes.fromhex("00500020 09210008") + bytes(2000))
    recipe = build(PlanKind.CHAIN_ONLY, raw, bootloader="stm32duino")
    assert (recipe.part, recipe.bootloader) == ("stm32f103xb", "stm32duino-pc13")
    assert images(recipe) == (Image(()), Image((Segment(0x08002000, raw.content),)))
    placed = NamedBytes("bluepill.bin", raw.content, 0x08002000)
    assert build(PlanKind.CHAIN_ONLY, placed, bootloader="stm32duino").firmware == recipe.firmware
    elsewhere = NamedBytes("bluepill.bin", bytes.fromhex("00500020 09010008") + bytes(2000))
    error = refusal(PlanKind.CHAIN_ONLY, elsewhere, bootloader="stm32duino")
    assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
    assert "0x08000108" in error.message
    low = NamedBytes("bluepill.bin", raw.content, 0x08000000)
    assert refusal(PlanKind.CHAIN_ONLY, low, bootloader="stm32duino").code is ErrorCode.IMAGE_DOES_NOT_FIT
    long = NamedBytes("bluepill.bin", b"\x01" * 122_881)
    error = refusal(PlanKind.CHAIN_ONLY, long, bootloader="stm32duino")
    assert error.code is ErrorCode.IMAGE_TOO_LARGE
    assert "122881" in error.message
    assert "122880" in error.message


# ---------------------------------------------------------------- the rescue lane


def test_a_rescue_is_the_whole_chain():
    for plan in BY_ISP_TOO:
        recipe = build(plan, APP, BOOT, bootloader="atmel-dfu-32u4", lock=0x2F)
        assert as_rescue(recipe, PARTS, BOOTLOADERS) == as_chained(recipe)
    # a board that came with its bootloader gets the fuses and the lock byte that belong to it
    only = build(PlanKind.CHAIN_ONLY, APP, MICRO, bootloader="caterina-micro", strip_sketch=True)
    rescue = as_rescue(only, PARTS, BOOTLOADERS)
    assert (rescue.plan, rescue.erase, rescue.lock) == (PlanKind.CHAINED, True, 0x2F)
    assert rescue.fuses == {L: 0xFF, H: 0xD8, E: 0xFB}
    assert images(rescue) == (Image((Segment(0x7000, CATERINA),)), SPLIT[1])


def test_a_rescue_takes_the_bootloader_that_was_brought_for_it():
    only = build(PlanKind.CHAIN_ONLY, APP, bootloader="caterina-micro")
    with pytest.raises(RefusedError) as caught:
        as_rescue(only, PARTS, BOOTLOADERS)
    assert caught.value.code is ErrorCode.NOTHING_TO_RESCUE
    assert "Caterina-Micro.hex" in caught.value.hint
    # as the vendor's file comes, with its sketch
    rescue = as_rescue(only, PARTS, BOOTLOADERS, [MICRO])
    assert images(rescue) == (Image((Segment(0x7000, CATERINA),)), SPLIT[1])
    assert [source.name for source in rescue.sources] == ["app.hex", "Caterina-Micro.hex"]
    for wrong, code in ((APP, ErrorCode.RECIPE_INVALID), (BOOT, ErrorCode.RECIPE_INVALID)):
        with pytest.raises(RefusedError) as caught:
            as_rescue(only, PARTS, BOOTLOADERS, [wrong])
        assert caught.value.code is code


def test_the_image_says_which_of_any_is_put_back():
    only = build(PlanKind.CHAIN_ONLY, APP, bootloader="caterina", part="m32u4")
    assert only.bootloader == "caterina-any"
    with pytest.raises(RefusedError) as caught:
        as_rescue(only, PARTS, BOOTLOADERS)
    assert caught.value.code is ErrorCode.NOTHING_TO_RESCUE
    rescue = as_rescue(only, PARTS, BOOTLOADERS, [MICRO])
    assert (rescue.bootloader, rescue.lock, rescue.fuses) == ("caterina-micro", 0x2F, {L: 0xFF, H: 0xD8, E: 0xFB})
    with pytest.raises(RefusedError) as caught:
        as_rescue(only, PARTS, BOOTLOADERS, [named("nameless.hex", 0x7000, JUMP + b"\x22" * 1000)])
    assert caught.value.code is ErrorCode.RECIPE_INVALID


def test_where_there_is_nothing_to_rescue():
    raw = NamedBytes("keyboard.bin", b"\x00\x20\x00\x20" * 500)
    for recipe in (
        build(None, APP, BOOT, part="m32u4"),
        build(PlanKind.MERGED, APP, BOOT, part="m32u4"),
        build(PlanKind.CHAIN_ONLY, raw, bootloader="stm32-dfu"),
    ):
        with pytest.raises(RefusedError) as caught:
            as_rescue(recipe, PARTS, BOOTLOADERS)
        assert caught.value.code is ErrorCode.NOTHING_TO_RESCUE
        assert caught.value.hint


def test_a_recipe_file_says_the_plan():
    text = (
        b'plan = "chained"\nbootloader = "atmel-dfu-32u4"\n[[image]]\nfile = "app.hex"\n[[image]]\nfile = "boot.hex"\n'
    )
    options = read_recipe("r.toml", text, {"app.hex": APP.content, "boot.hex": BOOT.content})
    assert images(build_recipe(options, PARTS, BOOTLOADERS)) == SPLIT
    with pytest.raises(RefusedError) as caught:
        read_recipe("r.toml", text.replace(b"chained", b"chain"), {})
    assert "plan" in caught.value.message
