"""Production images: a firmware joined with every bootloader of the catalog, in the shape its vendor's file has."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.merge import merge_files
from ispd.catalog.parts import load_parts
from ispd.catalog.recipe import NamedBytes, RecipeOptions, build_recipe
from ispd.errors import ErrorCode, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.report import ImageKind
from ispd.model.span import Span

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
GUIDE = tomllib.loads((Path(__file__).parents[2] / "golden" / "qmk_isp_guide_fuses.toml").read_text())["row"]
JUMP = b"\x0c\x94\x34\x12"
FIRMWARE = JUMP + bytes(range(1, 200)) * 8
SKETCH = JUMP + b"\x33" * 2000

# filler between sketch and bootloader, in one run of 32-byte records
FILLED = {"caterina-leonardo", "caterina-micro"}
PAIRS = [(b, PARTS.avr(name)) for b in BOOTLOADERS for name in b.parts if b.qmk not in ("lufa-ms", "stm32duino")]
"""LUFA's mass storage begins below every boot section: no address tells it from a firmware."""


def loader_code(bootloader: Bootloader) -> bytes:
    """Code with a USB device descriptor, as long as the section allows."""
    assert bootloader.section is not None
    vendor, product = (int(half, 16).to_bytes(2, "little") for half in bootloader.usb[0].split(":"))
    descriptor = b"\x12\x01\x10\x01\x00\x00\x00\x08" + vendor + product + b"\x01\x00\x01\x02\x00\x01"
    return JUMP + descriptor + b"\x22" * (len(bootloader.section) - 100)


def vendors_file(bootloader: Bootloader) -> tuple[str, bytes]:
    """The file as its vendor ships it: bases above 64 KiB, start records, version words at the end, sketches below."""
    assert bootloader.section is not None
    start, code = bootloader.section.start, loader_code(bootloader)
    bank = [] if start < 0x10000 else [record(2, 0, (start >> 4 & 0xF000).to_bytes(2, "big"))]
    lines = [*bank, *data_lines(start & 0xFFFF, code)]
    if bootloader.family == "flip":
        lines += data_lines((bootloader.section.stop - 28) & 0xFFFF, bytes(range(28)))
    if bootloader.id in FILLED:
        lines = data_lines(0, SKETCH.ljust(start, b"\xff") + code, 32)
    elif bootloader.image_is_combined:
        lines = [*data_lines(0, SKETCH), *lines]
    if bootloader.id not in FILLED | {"caterina-itsybitsy3v"}:
        lines.append(record(3, 0, (start >> 4 & 0xF000).to_bytes(2, "big") + (start & 0xFFFF).to_bytes(2, "big")))
    return bootloader.image_file or f"{bootloader.id}.hex", hexfile(*lines, END)


def firmware(size_bytes: int = len(FIRMWARE)) -> tuple[str, bytes]:
    data = (FIRMWARE * (size_bytes // len(FIRMWARE) + 1))[:size_bytes]
    lines = [line for at in range(0, size_bytes, 0x10000) for line in _bank(at, data[at : at + 0x10000])]
    return "keyboard.hex", hexfile(*lines, END)


def _bank(at: int, data: bytes) -> list[str]:
    return [record(4, 0, (at >> 16).to_bytes(2, "big")), *data_lines(0, data)]


def files(*named: tuple[str, bytes]) -> list[ImageFile]:
    return [read_image(name, content) for name, content in named]


def expected(bootloader: Bootloader, app: ImageFile) -> Image:
    assert bootloader.section is not None
    loader = read_image(*vendors_file(bootloader)).image
    inside = [Segment(max(s.start, bootloader.section.start), s.data[max(0, bootloader.section.start - s.start) :])
              for s in loader.segments if s.span.stop > bootloader.section.start]  # fmt: skip
    return app.image.merged(Image(tuple(inside)))


@pytest.mark.parametrize(("bootloader", "part"), PAIRS, ids=lambda value: value.id)
@pytest.mark.parametrize("knows_part", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_a_firmware_and_a_bootloader_make_a_production_image(
    bootloader: Bootloader, part: AvrPart, knows_part: bool, order: int
):
    app, loader = files(firmware(), vendors_file(bootloader))
    on = part if knows_part else None
    if bootloader.image_is_combined:
        with pytest.raises(RefusedError) as caught:
            merge_files([app, loader][::order], on, parts=PARTS)
        assert caught.value.code is ErrorCode.IMAGE_OVERLAP
        assert f"{loader.name} is a combined file" in caught.value.hint
        assert "--strip-sketch" in caught.value.hint
    made = merge_files([app, loader][::order], on, parts=PARTS, strip_sketch=bootloader.image_is_combined)
    assert made.image == expected(bootloader, app)
    assert bool(made.warnings) == bootloader.image_is_combined
    assert len(made.notes) == (loader.start_record is not None)
    # and what is written is recognised again
    text = write_hex(made.image)
    assert [line[7:9] for line in text.decode().splitlines()].count("01") == 1
    again = inspect_image(read_image("production.hex", text), PARTS, BOOTLOADERS)
    assert bootloader.section is not None
    assert (again.kind, again.bootloader_start) == (ImageKind.PRODUCTION, bootloader.section.start)
    assert bootloader.id in again.bootloaders
    assert part.id in again.parts_that_fit
    made_for = {name for known in map(BOOTLOADERS.get, again.bootloaders) for name in known.parts}
    assert set(again.parts_that_fit) == made_for | {twin for name in made_for for twin in PARTS.avr(name).twins}


@pytest.mark.parametrize(("bootloader", "part"), PAIRS, ids=lambda value: value.id)
def test_the_firmware_may_fill_what_the_bootloader_leaves_and_no_byte_more(bootloader: Bootloader, part: AvrPart):
    assert bootloader.section is not None
    loader = read_image(*vendors_file(bootloader))
    full, over = (read_image(*firmware(bootloader.section.start + more)) for more in (0, 1))
    made = merge_files([full, loader], part, strip_sketch=True)
    assert made.image.bytes_in(Span(0, bootloader.section.start)) == full.image.segments[0].data
    with pytest.raises(RefusedError) as caught:
        merge_files([over, loader], part, strip_sketch=True)
    assert caught.value.code is ErrorCode.IMAGE_OVERLAP
    assert caught.value.facts.address == bootloader.section.start


@pytest.mark.parametrize(("bootloader", "part"), PAIRS, ids=lambda value: value.id)
def test_a_bootloaders_file_is_named_and_a_production_job_has_nothing_to_remark(bootloader: Bootloader, part: AvrPart):
    content = vendors_file(bootloader)
    report = inspect_image(read_image(*content), PARTS, BOOTLOADERS)
    assert report.kind is (ImageKind.PRODUCTION if bootloader.image_is_combined else ImageKind.BOOTLOADER)
    assert bootloader.id in report.bootloaders
    options = RecipeOptions(
        files=(NamedBytes(*firmware()), NamedBytes(*content)),
        part=part.id,
        bootloader=bootloader.id,
        strip_sketch=bootloader.image_is_combined,
    )
    recipe = build_recipe(options, PARTS, BOOTLOADERS)
    assert (recipe.fuses, recipe.lock, recipe.bootloader) == (dict(bootloader.fuses), bootloader.lock, bootloader.id)
    assert [warning for warning in recipe.warnings if "only the bootloader" not in warning] == []
    # the image of one kind of bootloader with the fuses of another never runs as it should
    others = {"atmel-dfu": "caterina-micro", "caterina": "atmel-dfu-32u4"}
    if part.id == "atmega32u4" and bootloader.qmk in others:
        with pytest.raises(RefusedError) as caught:
            build_recipe(RecipeOptions(files=options.files, part=part.id, bootloader=others[bootloader.qmk],
                                       strip_sketch=True), PARTS, BOOTLOADERS)  # fmt: skip
        assert caught.value.code is ErrorCode.IMAGE_FUSE_MISMATCH


@pytest.mark.parametrize("row", GUIDE, ids=lambda row: f"{row['table']}: {row['mcu']}")
def test_each_name_of_the_guides_row_sets_the_guides_bytes(row: dict[str, Any]):
    """By the catalog's id, and by the name in a keyboard's rules.mk where the image tells which of several is meant."""
    bootloader = BOOTLOADERS.get(row["bootloader"])
    fuses = {MemoryKind.LFUSE: row["lfuse"], MemoryKind.HFUSE: row["hfuse"][-1]}
    fuses |= {MemoryKind.EFUSE: row["efuse"]} if "efuse" in row else {}
    image = NamedBytes(*vendors_file(bootloader))
    for part in row["parts"]:
        for name in (bootloader.id, bootloader.qmk, bootloader.qmk.upper()):
            recipe = build_recipe(RecipeOptions(part=part, bootloader=name, files=(image,)), PARTS, BOOTLOADERS)
            assert (recipe.fuses, recipe.bootloader, recipe.lock) == (fuses, bootloader.id, bootloader.lock)
        only_fuses = build_recipe(RecipeOptions(part=part, bootloader=bootloader.id), PARTS, BOOTLOADERS)
        assert (only_fuses.fuses, only_fuses.lock, only_fuses.erase) == (fuses, bootloader.lock, False)


def test_bootloaders_of_other_controllers_are_refused():
    others = [bootloader for bootloader in BOOTLOADERS if bootloader.chips]
    for name in ("stm32duino", *(bootloader.id for bootloader in others)):
        with pytest.raises(RefusedError) as caught:
            build_recipe(
                RecipeOptions(part="m32u4", bootloader=name, files=(NamedBytes(*firmware()),)), PARTS, BOOTLOADERS
            )
        assert caught.value.code is ErrorCode.UNKNOWN_BOOTLOADER
    assert len(PAIRS) >= 25
    assert {b.id for b in BOOTLOADERS} == {b.id for b, _ in PAIRS} | {"lufa-ms", "stm32duino-pc13"} | {
        b.id for b in others
    }
