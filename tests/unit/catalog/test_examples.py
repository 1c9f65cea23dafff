"""The example recipes: each one is what its first lines say, and asks for nothing the guard would question."""

import hashlib
import json
import re
import struct
import tomllib
from pathlib import Path

import pytest
from tests.unit.catalog.elfs import elf
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.keyboard import read_keyboard
from ispd.catalog.parts import load_parts
from ispd.catalog.recipe import build_recipe
from ispd.catalog.recipefile import read_recipe, recipe_files
from ispd.errors import ErrorCode, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.recipe import PlanKind

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
EXAMPLES = Path(__file__).parents[3] / "config" / "examples"
RECIPES = sorted((EXAMPLES / "recipes").glob("*.toml"))
JUMP = b"\x0c\x94\x34\x12"
DIGEST = re.compile(r'^sha256 = "[0-9a-f]{64}"$', re.MULTILINE)


def made_up(name: str, start: int, *, combined: bool) -> bytes:
    """A file of the kind that the recipe names."""
    if name.endswith(".bin"):
        begin = start + 0x2000 if name == "keyboard.bin" else start
        return struct.pack("<II", 0x2000_5000, begin + 0x101).ljust(0x200, b"\x11")
    if name.endswith(".elf"):
        return elf((0, JUMP + b"\x11" * 400))
    if name.endswith(".eep"):
        return hexfile(*data_lines(0, bytes(14) + b"\x01"), END)
    if name == "keyboard.hex":
        return hexfile(*data_lines(0, JUMP + b"\x11" * 400), END)
    sketch = data_lines(0, JUMP + b"\x33" * 100) if combined else []
    bank = [record(4, 0, (start >> 16).to_bytes(2, "big"))]
    return hexfile(*sketch, *bank, *data_lines(start & 0xFFFF, JUMP + b"\x22" * 400), END)


def _meant(name: str) -> Bootloader:
    return BOOTLOADERS.any_of(name) or BOOTLOADERS.get(name)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_example_is_a_complete_job(path: Path):
    text = path.read_text()
    said = tomllib.loads(text)
    plan = PlanKind(said.get("plan", "isp-only"))
    bootloader = _meant(said["bootloader"]) if "bootloader" in said else None
    start = 0 if bootloader is None or bootloader.section is None else bootloader.section.start
    names = recipe_files(path.name, text.encode())
    files = {name: made_up(name, start, combined=said.get("strip_sketch", False)) for name in names}
    for file in said.get("image", []):
        if "sha256" not in file:
            continue
        # the vendor's file and no other
        assert bootloader is not None
        assert (file["file"], file["sha256"]) == (bootloader.image_file, bootloader.image_sha256)
        with pytest.raises(RefusedError) as caught:
            read_recipe(path.name, text.encode(), files)
        assert caught.value.code is ErrorCode.CHECKSUM_MISMATCH
        text = DIGEST.sub(f'sha256 = "{hashlib.sha256(files[file["file"]]).hexdigest()}"', text)
    recipe = build_recipe(read_recipe(path.name, text.encode(), files), PARTS, BOOTLOADERS)
    assert recipe.part is not None
    assert recipe.plan is plan
    assert recipe.unlock is said.get("unlock", False)
    assert recipe.fuses == ({} if bootloader is None else dict(bootloader.fuses))
    assert recipe.lock == (None if bootloader is None else bootloader.lock)
    assert recipe.erase is (bool(said.get("image")) and plan is not PlanKind.CHAIN_ONLY)
    assert [w for w in recipe.warnings if "only the bootloader from" not in w] == []
    over_usb = [] if recipe.firmware is None else [segment.start for segment in recipe.firmware.segments]
    application = 0 if bootloader is None else bootloader.application_start
    wanted = {PlanKind.CHAINED: ([application], [start]), PlanKind.CHAIN_ONLY: ([application], [])}.get(
        plan, ([], [application, start])
    )
    assert (over_usb, [segment.start for segment in recipe.flash.segments]) == (
        wanted if said.get("image") else ([], [])
    )


def test_the_examples_cover_each_kind_of_the_guide():
    named = {tomllib.loads(path.read_text()).get("bootloader", "") for path in RECIPES}
    families = {_meant(name).family for name in named if name}
    assert families == {"flip", "caterina", "bootloadhid", "usbasploader", "dfu"}


def test_the_example_keyboard_names_its_controller():
    content = (EXAMPLES / "keyboard.json").read_bytes()
    keyboard = read_keyboard("keyboard.json", content)
    assert BOOTLOADERS.get(keyboard.bootloader or "", PARTS.avr(keyboard.part)).id == "atmel-dfu-32u4"
    assert json.loads(content)["processor"] == "atmega32u4"


def test_every_key_of_a_recipe_is_explained():
    """In board.toml, written out or commented out."""
    text = (EXAMPLES / "board.toml").read_text()
    keys = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " = " in line}
    assert {
        "part",
        "bootloader",
        "lock",
        "plan",
        "erase",
        "keep_rest",
        "unlock",
        "clones",
        "verify",
        "strip_sketch",
        "accept_fuses",
        "sck_hz",
        "supply_mv",
    } <= keys
    assert {"lfuse", "hfuse", "efuse", "file", "sha256"} <= keys
    assert "[option_bytes] with user, data0, data1, wrp0 to wrp3" in text
    assert "`base`" in text
    commented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    files = {name: (EXAMPLES / name).read_bytes() for name in recipe_files("board.toml", commented.encode())}
    options = read_recipe("board.toml", commented.encode(), files)
    assert (options.bootloader, options.strip_sketch, options.sck_hz) == ("caterina-micro", True, 125_000)
    assert (options.keeps_rest, options.unlock, options.clones) == (True, True, "warn")
