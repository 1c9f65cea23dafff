"""STM32F1 in the catalog: images at their place in flash, a bootloader below the firmware, option bytes, and no mixing with AVRs."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.catalog.elfs import elf
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.admission import admit
from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.cortex_image import located
from ispd.catalog.imagefile import read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.merge import merge_files
from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.parts import load_parts
from ispd.catalog.plans import as_merged
from ispd.catalog.recipe import build_recipe
from ispd.catalog.recipefile import read_recipe
from ispd.catalog.reports import describe_part, explain_fuses
from ispd.catalog.rescue import as_rescue
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import Interface, MemoryKind, Signature, Stm32Part
from ispd.model.recipe import ClonePolicy, PlanKind, Recipe, VerifyScope
from ispd.model.report import FindingLevel, ImageKind

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
XB = PARTS.get("bluepill")
U4 = PARTS.avr("m32u4")
START, APPLICATION = 0x0800_0000, 0x0800_2000
JUMP = b"\x0c\x94\x34\x12"
DEVICE = bytes.fromhex("1201000100000040af1e0300010201020301")
"""The device descriptor of the STM32duino bootloader: bcdUSB 1.00, 64 bytes, 1EAF:0003, bcdDevice 2.01."""
LOADER = struct.pack("<II", 0x2000_2800, START + 0xF1).ljust(0x1000, b"\x11") + DEVICE + b"\x22" * 3058
USER, WRP0, WRP3, LFUSE = MemoryKind.USER, MemoryKind.WRP0, MemoryKind.WRP3, MemoryKind.LFUSE


def program(start: int, size_bytes: int = 3000) -> bytes:
    return struct.pack("<II", 0x2000_5000, start + 0x101).ljust(size_bytes, b"\x33")


def placed(name: str, start: int, data: bytes) -> NamedBytes:
    return NamedBytes(
        name, hexfile(record(4, 0, (start >> 16).to_bytes(2, "big")), *data_lines(start & 0xFFFF, data), END)
    )


BOOT = NamedBytes("generic_boot20_pc13.bin", LOADER)
APP = NamedBytes("keyboard.bin", program(APPLICATION))
WHOLE = NamedBytes("whole.bin", program(START))
AVR = placed("avr.hex", 0, JUMP + b"\x11" * 3000)


def build(plan: PlanKind | None, *files: NamedBytes, **options: Any) -> Recipe:
    return build_recipe(RecipeOptions(plan=plan, files=files, **options), PARTS, BOOTLOADERS)


def refusal(plan: PlanKind | None, *files: NamedBytes, **options: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        build(plan, *files, **options)
    return caught.value


def test_parts_are_found_by_every_name_and_say_what_they_are():
    lines = {str(part.signature): part.id for part in PARTS.of(Stm32Part)}
    assert lines == {
        "0x0410": "stm32f103xb",
        "0x0412": "stm32f103x6",
        "0x0414": "stm32f103xe",
        "0x0418": "stm32f107xc",
        "0x0420": "stm32f100xb",
        "0x0428": "stm32f100xe",
        "0x0430": "stm32f103xg",
    }
    for name in ("STM32F103", "stm32f103c8", "STM32F103CBT6", " bluepill ", "stm32f102r8"):
        assert PARTS.get(name) is XB
    assert PARTS.by_signature(Signature(b"\x04\x10"), Stm32Part) == (XB,)
    report = describe_part(XB)
    assert (report.interface, report.signature, report.flash_start) == (Interface.SWD, "0x0410", START)
    assert (report.flash_bytes, report.smallest_flash_bytes, report.flash_page_bytes) == (131072, 65536, 1024)
    assert (report.ram_bytes, report.eeprom_bytes, report.avrdude_id, report.boot_sizes) == (20480, 0, "", ())
    assert "stm32f103c8t6" in report.aliases
    with pytest.raises(RefusedError):
        PARTS.avr("bluepill")


@pytest.mark.parametrize(
    "file",
    [
        WHOLE,
        NamedBytes("whole.bin", WHOLE.content, 0),
        NamedBytes("whole.bin", WHOLE.content, START),
        placed("whole.hex", 0, WHOLE.content),
        placed("whole.hex", START, WHOLE.content),
        NamedBytes("whole.elf", elf((START, WHOLE.content), machine=40, clear=(0x2000_0000, 64))),
    ],
    ids=["plain", "at 0", "at flash", "hex at 0", "hex", "elf"],
)
def test_a_firmware_goes_to_the_begin_of_flash(file: NamedBytes):
    recipe = build(None, file, part="bluepill")
    assert recipe.flash == Image((Segment(START, WHOLE.content),))
    assert (recipe.part, recipe.warnings, recipe.clones) == (XB.id, (), ClonePolicy.WARN)


def test_what_is_for_another_family_or_address_is_refused():
    for part, file in (
        ("bluepill", AVR),
        ("m32u4", WHOLE),
        ("m32u4", placed("whole.hex", START, WHOLE.content)),
        ("bluepill", NamedBytes("a.elf", elf((0, JUMP * 4)))),
        ("m32u4", NamedBytes("a.elf", elf((START, WHOLE.content), machine=40))),
        ("bluepill", NamedBytes("no_stack.bin", bytes(64))),
        ("bluepill", NamedBytes("one.bin", WHOLE.content[:1])),
        ("bluepill", NamedBytes("tail.bin", WHOLE.content[4:], START + 4)),
        ("bluepill", NamedBytes("elsewhere.bin", program(0x0900_0000))),
        ("bluepill", NamedBytes("long.bin", bytes(0x1001), START + 0x1F000)),
    ):
        assert refusal(None, file, part=part).code is ErrorCode.IMAGE_DOES_NOT_FIT, file.name
    # before the board said what it is, nobody can tell
    for found, file in ((XB, AVR), (U4, WHOLE)):
        with pytest.raises(RefusedError) as caught:
            admit(build(None, file), found, BOOTLOADERS)
        assert caught.value.code is ErrorCode.IMAGE_DOES_NOT_FIT
        (told,) = admit(build(None, file, force_fuses=True), found, BOOTLOADERS)
        assert "like a program" in told
    assert admit(build(None, WHOLE), XB, BOOTLOADERS) == ()
    (told,) = build(None, placed("app.hex", APPLICATION, APP.content), part="bluepill").warnings
    assert "nothing is at 0x08000000" in told
    assert build(None, placed("app.hex", APPLICATION, APP.content), part="bluepill", keeps_rest=True).warnings == ()


@pytest.mark.parametrize("files", [(BOOT, APP), (APP, BOOT), (placed("b.hex", START, LOADER), APP)])
def test_a_bootloader_and_its_firmware_find_their_places(files: tuple[NamedBytes, ...]):
    loader, firmware = Image((Segment(START, LOADER),)), Image((Segment(APPLICATION, APP.content),))
    # recognised by its USB id
    for options in ({}, {"part": "bluepill"}, {"bootloader": "stm32duino"}):
        recipe = build(PlanKind.CHAINED, *files, **options)
        assert (recipe.part, recipe.bootloader, recipe.warnings) == (XB.id, "stm32duino-pc13", ())
        assert (recipe.flash, recipe.firmware) == (loader, firmware)
        assert as_merged(recipe).flash == loader.merged(firmware)
    for plan in (PlanKind.MERGED, PlanKind.ISP_ONLY):
        assert build(plan, *files, part="bluepill").flash == loader.merged(firmware)
    assert build(PlanKind.AUTO, *files).firmware == firmware


def test_another_build_of_the_bootloader_is_told_by_where_it_starts():
    own = NamedBytes("own_boot.bin", program(START, 4000))
    for plan in (PlanKind.CHAINED, PlanKind.MERGED):
        recipe = build(plan, APP, own, bootloader="stm32duino")
        assert recipe.flash.span.start == START
        assert recipe.warnings == ()


def test_a_firmware_for_another_place_is_refused():
    """The commonest mistake: a .bin linked for the begin of flash."""
    for plan in (PlanKind.CHAINED, PlanKind.AUTO, PlanKind.MERGED, PlanKind.ISP_ONLY):
        error = refusal(plan, BOOT, WHOLE, part="bluepill")
        assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
        assert "0x08000100" in error.message
    for file in (placed("whole.hex", START, program(START, 20_000)), AVR):
        error = refusal(PlanKind.CHAINED, BOOT, file, part="bluepill")
        assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
        assert "begins at 0x08002000" in error.message
    long_enough = NamedBytes("keyboard.bin", program(APPLICATION, 20_000))
    (told,) = build(None, long_enough, part="bluepill").warnings
    assert "--bootloader stm32duino-pc13" in told
    unplaced = build(None, long_enough)
    for image in (unplaced.flash, located(unplaced.flash, XB.flash.span)):
        (told,) = admit(replace(unplaced, flash=image), XB, BOOTLOADERS)
        assert "--bootloader stm32duino-pc13" in told
    assert admit(build(None, long_enough, part="bluepill"), XB, BOOTLOADERS) == ()
    assert refusal(PlanKind.CHAINED, BOOT, part="bluepill").code is ErrorCode.RECIPE_INVALID
    assert refusal(PlanKind.CHAINED, APP, bootloader="stm32duino").code is ErrorCode.RECIPE_INVALID


def test_the_file_with_a_sketch_is_told_and_can_be_stripped():
    sketch = program(APPLICATION, 22_268 - 0x2000)[:-1] + b"\x44"
    combined = NamedBytes("generic_boot20_pc13.bin", LOADER.ljust(0x2000, b"\xff") + sketch)
    assert "bootloader_only_binaries/" in build(None, combined, part="bluepill").warnings[0]
    error = refusal(PlanKind.CHAINED, combined, NamedBytes("kb.bin", program(APPLICATION, 15_000)))
    assert error.code is ErrorCode.IMAGE_OVERLAP
    assert "--strip-sketch" in error.hint
    for plan in (PlanKind.CHAINED, PlanKind.MERGED):
        stripped = build(
            plan, combined, NamedBytes("kb.bin", program(APPLICATION, 15_000)), part="bluepill", strip_sketch=True
        )
        assert stripped.flash.bytes_in(stripped.flash.span)[: len(LOADER)] == LOADER
        assert "only the bootloader up to 0x08001FFF" in " ".join(stripped.warnings)


def test_two_bins_in_one_place_are_told_to_say_where_they_belong():
    files = [read_image(file.name, file.content) for file in (BOOT, APP)]
    with pytest.raises(RefusedError) as caught:
        merge_files(files, None)
    assert caught.value.code is ErrorCode.IMAGE_OVERLAP
    assert f"{APP.name}@0x0800" in caught.value.hint


def test_a_board_that_lost_its_bootloader_gets_it_back():
    only = build(PlanKind.CHAIN_ONLY, APP, bootloader="stm32duino")
    assert (len(only.flash), only.part) == (0, XB.id)
    rescue = as_rescue(only, PARTS, BOOTLOADERS, [BOOT])
    assert (rescue.plan, rescue.erase, rescue.fuses, rescue.lock) == (PlanKind.CHAINED, True, {}, None)
    assert (rescue.flash, rescue.firmware) == (Image((Segment(START, LOADER),)), only.firmware)


def test_option_bytes_are_guarded_like_fuses():
    assert build(None, WHOLE, part="bluepill", option_bytes={USER: 0xFF, WRP0: 0xFF}).fuses == {USER: 0xFF, WRP0: 0xFF}
    for options, told in (
        ({USER: 0xFE}, "WDG_SW"),
        ({USER: 0xF9}, "nRST_STOP"),
        ({WRP0: 0xFC}, "0x08000000..0x08001FFF"),
    ):
        error = refusal(None, WHOLE, part="bluepill", option_bytes=options)
        assert (error.code, told in error.message) == (ErrorCode.FUSE_CONFIRM, True)
        accepted = build(None, WHOLE, part="bluepill", option_bytes=options, accept_fuses=True)
        assert accepted.fuses == options
        # what the chip has already is not asked again
        assert admit(build(None, WHOLE, option_bytes=options), XB, BOOTLOADERS, options) == ()
    # protection of the bootloader's own pages does not keep it from bringing the firmware; of others it does
    assert build(PlanKind.CHAINED, BOOT, APP, option_bytes={WRP0: 0xFC}, accept_fuses=True).fuses == {WRP0: 0xFC}
    error = refusal(PlanKind.CHAINED, BOOT, APP, option_bytes={WRP3: 0x7F}, accept_fuses=True)
    assert (error.code, "0x0801F000" in error.message) == (ErrorCode.FUSE_REFUSED, True)


def test_what_the_family_does_not_have_is_refused_by_name():
    for options, part, told in (
        ({"lfuse": 0xFF}, "bluepill", "no lfuse"),
        ({"eeprom": placed("a.eep", 0, b"\x01")}, "bluepill", "no eeprom"),
        ({"option_bytes": {USER: 0xFF}}, "m32u4", "no user"),
        ({"option_bytes": {USER: 0x1FF}}, None, "user must be"),
        ({"keeps_rest": True}, "m32u4", "ISP erases the whole chip"),
        ({"keeps_rest": True, "erase": False}, None, "--no-erase"),
        ({"keeps_rest": True, "verify": VerifyScope.FULL}, None, "--keep-rest"),
        ({"unlock": True, "erase": False}, None, "--unlock"),
    ):
        file = AVR if part == "m32u4" else WHOLE
        error = refusal(None, file, part=part, **options)
        assert error.code in (ErrorCode.INVALID_PARAMETER, ErrorCode.RECIPE_INVALID)
        assert told in f"{error.message} {error.hint}"
    assert "no --unlock" in build(None, AVR, part="m32u4", unlock=True).warnings[0]
    for plan in (PlanKind.CHAINED, PlanKind.AUTO):
        error = refusal(plan, BOOT, APP, lock=0x00)
        assert (error.code, "--plan merged" in error.hint) == (ErrorCode.RECIPE_INVALID, True)
    (told,) = build(PlanKind.MERGED, BOOT, APP, part="bluepill", lock=0x00).warnings
    assert "closes flash" in told
    assert "unlock" in refusal(PlanKind.CHAIN_ONLY, APP, bootloader="stm32duino", unlock=True).message


def test_a_recipe_file_says_all_of_it():
    text = b'part = "bluepill"\nkeep_rest = true\nunlock = true\nclones = "reject"\n[option_bytes]\nuser = 0xFF\nwrp3 = 0x7F\n'
    options = read_recipe("r.toml", text, {})
    assert (options.keeps_rest, options.unlock, options.clones) == (True, True, ClonePolicy.REJECT)
    assert options.option_bytes == {USER: 0xFF, WRP3: 0x7F}
    with pytest.raises(RefusedError):
        read_recipe("r.toml", b"[option_bytes]\nrdp = 0\n", {})


def test_option_bytes_are_explained():
    report = explain_fuses(XB, {USER: 0xFE, WRP3: 0x7F}, (), lock=0x00)
    meanings = {bit.name: (bit.programmed, bit.meaning) for bit in report.bits}
    assert meanings["wdg_sw"] == (True, "the watchdog starts with the chip")
    assert meanings["nrst_stop"] == (False, "Stop mode without a reset")
    assert meanings["wrp3"] == (True, "protects 0x0801F000..0x0801FFFF from being written")
    assert meanings["rdp"][0]
    assert (report.verdict, report.fuses["data0"]) == (FindingLevel.CONFIRM, 0xFF)
    assert [byte.mask for byte in report.bytes if byte.memory is USER] == [0x07]


def test_images_are_described():
    boot = inspect_image(read_image(BOOT.name, BOOT.content), PARTS, BOOTLOADERS)
    assert (boot.kind, boot.bootloader_start, boot.bootloaders) == (ImageKind.BOOTLOADER, START, ("stm32duino-pc13",))
    assert boot.parts_that_fit == (XB.id,)
    app = inspect_image(read_image(WHOLE.name, WHOLE.content), PARTS, BOOTLOADERS)
    assert (app.kind, set(app.parts_that_fit)) == (ImageKind.APPLICATION, {part.id for part in PARTS.of(Stm32Part)})
    assert app.findings == ("it begins with a vector table: stack 0x20005000, first instruction at 0x08000100",)
    linked = inspect_image(read_image("a.elf", elf((START, WHOLE.content), machine=40)), PARTS, BOOTLOADERS)
    assert linked.parts_that_fit == app.parts_that_fit
