"""The bootloader files as a whole: nothing that QMK flashes is missing, and what the chain needs of each is there."""

import re
from itertools import combinations

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.catalog.sections import is_below_firmware
from ispd.catalog.split import check_served
from ispd.chain.registry import load_tools, tool_for
from ispd.errors import RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.recipe import PlanKind

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
ALL = list(BOOTLOADERS)

# qmk_firmware: builddefs/bootloader.mk and data/schemas/keyboard.jsonschema, without `custom` and `unknown`
QMK_NAMES = [
    "apm32-dfu",
    "at32-dfu",
    "atmel-dfu",
    "bootloadhid",
    "caterina",
    "gd32v-dfu",
    "halfkay",
    "kiibohd",
    "lufa-dfu",
    "lufa-ms",
    "md-boot",
    "qmk-dfu",
    "qmk-hid",
    "rp2040",
    "stm32-dfu",
    "stm32duino",
    "tinyuf2",
    "uf2boot",
    "usbasploader",
    "wb32-dfu",
]

# ids that QMK Toolbox and the QMK command line look for, by QMK's name
QMK_IDS = {
    "atmel-dfu": "03EB:2FEF 03EB:2FF0 03EB:2FF3 03EB:2FF4 03EB:2FF9 03EB:2FFA 03EB:2FFB",
    "caterina": """1B4F:9203 1B4F:9205 1B4F:9207 1FFB:0101 2341:0036 2341:0037 239A:000C 239A:000D 239A:000E 2A03:0036
 2A03:0037 2A03:0040 1209:2302""",
    "halfkay": "16C0:0478",
    "qmk-hid": "03EB:2067",
    "lufa-ms": "03EB:2045",
    "bootloadhid": "16C0:05DF",
    "usbasploader": "16C0:05DC",
    "stm32-dfu": "0483:DF11",
    "apm32-dfu": "314B:0106",
    "at32-dfu": "2E3C:DF11",
    "gd32v-dfu": "28E9:0189",
    "stm32duino": "1EAF:0003",
    "kiibohd": "1C11:B007",
    "wb32-dfu": "342D:DFA0",
    "md-boot": "03EB:6124",
    "rp2040": "2E8A:0003",
}

# the parts for which qmk_firmware knows a size of the boot section, by the name of the bootloader
QMK_SECTIONS = {
    4096: "at90usb162 atmega16u2 atmega32u2 atmega16u4 atmega32u4 at90usb646 at90usb647",
    8192: "at90usb1286 at90usb1287",
}


def test_every_bootloader_of_qmk_is_here():
    assert set(QMK_NAMES) <= {bootloader.qmk for bootloader in ALL}
    for name, ids in QMK_IDS.items():
        known = {usb for bootloader in ALL if bootloader.qmk == name for usb in bootloader.usb}
        assert set(ids.split()) <= known, name


@pytest.mark.parametrize("name", ["atmel-dfu", "lufa-dfu", "qmk-dfu"])
def test_each_usb_avr_has_its_dfu_bootloader(name):
    for size_bytes, parts in QMK_SECTIONS.items():
        for part in map(PARTS.get, parts.split()):
            bootloader = BOOTLOADERS.get(name, part)
            assert bootloader.section is not None
            assert len(bootloader.section) == size_bytes
            assert bootloader.application_max_bytes == part.flash.size_bytes - size_bytes
            # dfu-programmer's own limit
            assert bootloader.tool_max_bytes == (57_344 if part.id.startswith("at90usb64") else None)
            assert bootloader.usb_release == (0x0936 if name == "qmk-dfu" else None)


@pytest.mark.parametrize("bootloader", ALL, ids=lambda bootloader: bootloader.id)
def test_a_bootloader_is_complete(bootloader: Bootloader):
    """For something, seen by something, flashed by something; what nobody confirmed is a field that there is."""
    assert bootloader.parts or bootloader.chips
    assert not (bootloader.parts and bootloader.chips)
    assert all(re.fullmatch(r"[A-Z0-9]+", chip) for chip in bootloader.chips)
    assert bootloader.usb or bootloader.by_hand
    assert set(bootloader.unverified) <= {*Bootloader.__dataclass_fields__, "section_start", "section_bytes"}
    assert bool(bootloader.application_start) <= (not bootloader.parts or is_below_firmware(bootloader))
    if bootloader.parts and not bootloader.by_hand:
        assert bootloader.section is not None
        assert bootloader.application_max_bytes is not None


@pytest.mark.parametrize("bootloader", ALL, ids=lambda bootloader: bootloader.id)
def test_what_no_tool_serves_says_what_to_do_by_hand(bootloader: Bootloader):
    tool = tool_for(bootloader.family, load_tools())
    assert (tool is None) == bool(bootloader.by_hand)
    if tool is None:
        with pytest.raises(RefusedError) as caught:
            check_served(bootloader, PlanKind.CHAIN_ONLY)
        assert caught.value.hint == bootloader.by_hand


def test_an_id_that_is_several_has_a_reason():
    """Two bootloaders of one id: one family of one chip, told apart at most by release; else the files say why."""
    for first, second in combinations(ALL, 2):
        if not set(first.usb) & set(second.usb):
            continue
        alike = (first.family, first.parts, first.chips) == (second.family, second.parts, second.chips)
        assert alike or (first.shares_usb and first.shares_usb == second.shares_usb), (first.id, second.id)


def test_an_application_is_never_taken_for_a_bootloader():
    bootloaders = {usb for bootloader in ALL for usb in bootloader.usb}
    assert not bootloaders & {usb for bootloader in ALL for usb in bootloader.usb_application}


def test_what_stands_for_all_has_the_ids_of_all_and_is_none_itself():
    every = BOOTLOADERS.any_of("caterina")
    others = [one for one in ALL if one.qmk == "caterina"]
    assert every is not None
    assert every not in ALL
    assert BOOTLOADERS.get(every.id) == every
    assert set(every.usb) == {usb for one in others for usb in one.usb}
    assert {(one.family, one.parts, one.section) for one in others} == {(every.family, every.parts, every.section)}
    assert not every.fuses
    assert BOOTLOADERS.any_of("atmel-dfu") is None
