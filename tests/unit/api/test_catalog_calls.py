"""The catalog's methods, and what a job may be made of, as a client calls them."""

from base64 import b64encode
from typing import Any

import pytest
from anyio import CapacityLimiter
from tests.surfaces.fake_station import FakeStation, anybody
from tests.unit.catalog.elfs import elf
from tests.unit.catalog.hexlines import END, data_lines, hexfile

from ispd.api.call import Call, Peer
from ispd.api.handlers import load_handlers
from ispd.api.invoke import invoke
from ispd.api.values import ExplainedPart, Merged
from ispd.catalog.imagefile import read_image
from ispd.errors import ErrorCode, IspdError
from ispd.model.image import Image, Segment
from ispd.model.job import Job
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from ispd.model.report import FindingLevel, ImageKind, ImageReport

pytestmark = pytest.mark.anyio

HANDLERS = load_handlers()
JUMP = b"\x0c\x94\x34\x12"
FIRMWARE, SKETCH, LOADER = JUMP + b"\x11" * 300, JUMP + b"\x33" * 200, JUMP + b"\x22" * 100
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE


class NoSession:
    def subscribe(self) -> int:
        return 0

    def unsubscribe(self) -> None:
        pass


async def call(name: str, station: FakeStation | None = None, /, **params: Any) -> Any:
    to = Call(
        station=station or FakeStation(),
        session=NoSession(),
        peer=Peer(uid=1000),
        allows=anybody,
        workers=CapacityLimiter(1),
    )
    return await invoke(HANDLERS[name], params, to)


async def refused(name: str, **params: Any) -> IspdError:
    with pytest.raises(IspdError) as caught:
        await call(name, **params)
    return caught.value


async def enqueued(**params: Any) -> tuple[Recipe, Job]:
    station = FakeStation()
    job = await call("job.enqueue", station, **params)
    return station.recipes[1], job


def file(name: str, content: bytes, **more: int) -> dict[str, Any]:
    return {"name": name, "content": b64encode(content).decode(), **more}


APP = file("app.hex", hexfile(*data_lines(0, FIRMWARE), END))
COMBINED = file("combined.hex", hexfile(*data_lines(0, SKETCH), *data_lines(0x7000, LOADER), END))


@pytest.mark.parametrize(
    ("params", "fuses", "lock", "eeprom_bytes"),
    [
        ({"lfuse": 0x5E}, {L: 0x5E}, None, 0),
        ({"efuse": 0}, {E: 0}, None, 0),
        ({"lock": 0x2F}, {}, 0x2F, 0),
        ({"eeprom": file("left.eep", hexfile(*data_lines(0, b"\x01\x02\x03"), END))}, {}, None, 3),
        ({"bootloader": "atmel-dfu", "part": "m32u4"}, {L: 0x5E, H: 0xD9, E: 0xF3}, None, 0),
    ],
)
async def test_without_an_image_only_what_was_named_is_written(params, fuses, lock, eeprom_bytes):
    recipe, job = await enqueued(**params)
    assert (recipe.flash, recipe.erase, recipe.fuses, recipe.lock) == (Image(()), False, fuses, lock)
    assert (0 if recipe.eeprom is None else len(recipe.eeprom)) == eeprom_bytes
    assert job.warnings == ()


async def test_how_a_board_is_written_comes_from_the_parameters_or_the_recipe():
    recipe, _ = await enqueued(images=[APP], sck_hz=125_000, verify="full", part="ATmega32U4")
    assert (recipe.sck_hz, recipe.verify) == (125_000, VerifyScope.FULL)
    toml = b'sck_hz = 1000\nverify = "full"\nstrip_sketch = true\n'
    written = {"name": "b.toml", "content": b64encode(toml).decode()}
    recipe, job = await enqueued(images=[APP, COMBINED], recipe=written, verify="written")
    assert (recipe.sck_hz, recipe.verify) == (1000, VerifyScope.WRITTEN)
    assert recipe.flash == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))
    assert "only the bootloader from 0x7000 on" in job.warnings[0]
    for more in ({"erase": False, "images": [APP]}, {"lfuse": 0x5E}):
        error = await refused("job.enqueue", verify="full", part="m32u4", **more)
        assert (error.code, error.facts.field) == (ErrorCode.RECIPE_INVALID, "verify")
    for field, value in (("sck_hz", 0), ("verify", "none")):
        error = await refused("job.enqueue", images=[APP], **{field: value})
        assert (error.code, error.facts.field) == (ErrorCode.INVALID_PARAMETER, field)


async def test_a_raw_file_goes_to_its_address():
    recipe, _ = await enqueued(images=[file("app.bin", FIRMWARE), file("boot.bin", LOADER, base=0x7000)])
    assert recipe.flash == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))
    report: ImageReport = await call("image.inspect", image=file("boot.bin", LOADER, base=0x7000))
    assert (report.kind, report.bootloader_start) == (ImageKind.BOOTLOADER, 0x7000)
    assert (await refused("image.inspect", image=file("a.hex", b":00000001FF\n", base=0))).facts.field == "base"


async def test_an_elf_file_names_its_part_and_is_not_put_into_another():
    linked = file("kb.elf", elf((0, FIRMWARE), (0x810000, b"\x01"), (0x820000, b"\x5e\xd9\xf3"), device="atmega32u4"))
    recipe, job = await enqueued(images=[linked], eeprom=linked, lfuse=0x5E)
    assert (recipe.part, recipe.flash) == ("atmega32u4", Image((Segment(0, FIRMWARE),)))
    assert recipe.eeprom == Image((Segment(0, b"\x01"),))
    assert job.warnings == ("kb.elf names hfuse 0xD9, efuse 0xF3, which this job does not write",)
    _, job = await enqueued(images=[linked])
    assert any("1 bytes for the EEPROM" in warning for warning in job.warnings)
    for name, params in (
        ("job.enqueue", {"images": [linked]}),
        ("image.inspect", {"image": linked}),
        ("image.merge", {"images": [linked, APP]}),
    ):
        error = await refused(name, part="m328p", **params)
        assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
        assert "kb.elf was linked for ATmega32U4" in error.message
    report: ImageReport = await call("image.inspect", image=linked)
    assert report.parts_that_fit == ("atmega32u4",)


async def test_a_keyboard_fills_what_nobody_said():
    rules = file("rules.mk", b"MCU = atmega32u4  # chip\nBOOTLOADER = atmel-dfu\n")
    recipe, job = await enqueued(images=[APP], keyboard=rules)
    assert (recipe.part, recipe.bootloader, recipe.fuses[H]) == ("atmega32u4", "atmel-dfu-32u4", 0xD9)
    assert not [warning for warning in job.warnings if "rules.mk" in warning]
    _, job = await enqueued(images=[APP], keyboard=file("rules.mk", b"MCU = atmega32u4\n"))
    assert job.warnings == ("rules.mk names no bootloader of the catalog, so it sets no fuses",)
    # another controller on the bench than the one the keyboard was made for: its bootloader means nothing there
    recipe, job = await enqueued(images=[APP], keyboard=rules, part="m328p")
    assert (recipe.part, recipe.bootloader, recipe.fuses) == ("atmega328p", None, {})
    assert job.warnings == ("rules.mk is for atmega32u4; this job is for m328p",)
    error = await refused("job.enqueue", images=[APP], keyboard=file("k.json", b'{"development_board": "promicro"}'))
    assert error.code is ErrorCode.UNKNOWN_BOOTLOADER
    assert "caterina-promicro16" in error.hint


async def test_fuses_are_explained_as_asked_and_as_they_count():
    explained: ExplainedPart = await call("part.get", id="m328p", efuse=0x04, lock=0x2F)
    fuses = explained.fuses
    assert [(b.memory, b.value, b.asked, b.mask, b.effective) for b in fuses.bytes] == [
        (L, 0x62, False, 0xFF, 0x62),
        (H, 0xD9, False, 0xFF, 0xD9),
        (E, 0x04, True, 0x07, 0x04),
        (MemoryKind.LOCK, 0x2F, True, 0x3F, 0x2F),
    ]
    assert [bit.meaning for bit in fuses.bits if bit.memory is MemoryKind.LOCK] == [
        "no program can write the boot section",
        "the application section is open to programs",
        "open",
    ]
    assert fuses.verdict is None
    assert (await call("part.get", id="m328p", hfuse=0x99)).fuses.verdict is FindingLevel.REFUSE
    assert (await call("part.get", id="m328p", lfuse=0xF0)).fuses.verdict is FindingLevel.CONFIRM
    assert (await call("part.get", id="m328p", lock=0x3C)).fuses.verdict is FindingLevel.CHECK


@pytest.mark.parametrize(
    ("part", "bootloader", "values"),
    [
        ("m32u4", "atmel-dfu", [0x5E, 0xD9, 0xF3]),
        ("usb1287", "ATMEL-DFU", [0x5E, 0xD9, 0xF3]),
        ("m32u4", "caterina-astar", [0xFF, 0xD0, 0xF8, 0xEF]),
        ("m32", "bootloadHID", [0x0F, 0xD0]),
    ],
)
async def test_fuses_of_a_bootloader_are_explained(part, bootloader, values):
    explained: ExplainedPart = await call("part.get", id=part, bootloader=bootloader)
    assert [one.value for one in explained.fuses.bytes] == values
    assert (explained.fuses.verdict, all(one.asked for one in explained.fuses.bytes)) == (None, True)
    changed: ExplainedPart = await call("part.get", id=part, bootloader=bootloader, lfuse=0xE2)
    assert [one.value for one in changed.fuses.bytes] == [0xE2, *values[1:]]


async def test_a_bootloader_for_another_part_explains_nothing():
    for bootloader in ("caterina", "caterina-micro", "nothing"):
        error = await refused("part.get", id="m328p", bootloader=bootloader)
        assert error.code is ErrorCode.UNKNOWN_BOOTLOADER


async def test_an_eeprom_file_is_measured_by_the_eeprom():
    kept = file("kept.eep", hexfile(*data_lines(0x1F0, b"\x01" * 16), END))
    report: ImageReport = await call("image.inspect", image=kept)
    assert (report.kind, report.looks_like, report.findings) == (ImageKind.EEPROM, "EEPROM data", ())
    assert "atmega16u4" in report.parts_that_fit
    assert "attiny45" not in report.parts_that_fit
    assert await call("image.inspect", image=kept, part="m16u4") == report
    error = await refused("image.inspect", image=kept, part="t45")
    assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
    assert "eeprom of ATtiny45 ends at 0x00FF" in error.message
    linked = file("kb.elf", elf((0, FIRMWARE), (0x810000, bytes(5)), device="atmega32u4"))
    report = await call("image.inspect", image=linked, memory="eeprom", part="m32u4")
    assert (report.kind, report.size_bytes) == (ImageKind.EEPROM, 5)
    report = await call("image.inspect", image=file("k.bin", bytes(5)), memory="eeprom")
    assert report.kind is ImageKind.EEPROM


async def test_an_eeprom_file_never_gets_into_flash():
    """Its bytes would be written from address 0 on, after a chip erase."""
    left = file("left.eep", hexfile(*data_lines(0, b"\x01" * 15), END))
    for name, params in (("job.enqueue", {"images": [left]}), ("image.merge", {"images": [left, APP]})):
        error = await refused(name, **params)
        assert error.code is ErrorCode.IMAGE_INVALID
        assert "--eeprom" in error.hint


@pytest.mark.parametrize("part", ["m32u4", None])
async def test_a_combined_bootloader_is_refused_or_stripped_as_asked(part):
    error = await refused("image.merge", images=[APP, COMBINED], part=part)
    assert error.code is ErrorCode.IMAGE_OVERLAP
    assert "--strip-sketch takes the bootloader only" in error.hint
    merged: Merged = await call("image.merge", images=[APP, COMBINED], part=part, strip_sketch=True)
    expected = Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))
    assert read_image("production.hex", merged.content).image == expected
    assert (merged.report.kind, merged.report.bootloader_start) == (ImageKind.PRODUCTION, 0x7000)
    assert "combined.hex: only the bootloader from 0x7000 on was taken" in merged.report.findings[0]


async def test_each_bootloader_says_what_serves_it():
    listed = {report.id: report for report in await call("bootloader.list")}
    tools = {id_: listed[id_].tool for id_ in ("atmel-dfu-32u4", "caterina-micro", "stm32duino-pc13", "halfkay-32u4")}
    assert tools == {
        "atmel-dfu-32u4": "dfu-programmer",
        "caterina-micro": "avrdude",
        "stm32duino-pc13": "dfu-util",
        "halfkay-32u4": "teensy_loader_cli",
    }
    assert all(bool(report.tool) is not bool(report.by_hand) for report in listed.values())
