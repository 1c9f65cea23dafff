"""QMK keyboard metadata: part and bootloader, or a refusal that says what is missing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.keyboard import Keyboard, read_keyboard
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, RefusedError


@pytest.mark.parametrize(
    ("metadata", "part", "bootloader"),
    [
        ({"processor": "atmega32u4", "bootloader": "atmel-dfu"}, "atmega32u4", "atmel-dfu"),
        ({"processor": "ATmega32A", "bootloader": "usbasploader"}, "atmega32a", "usbasploader"),
        ({"development_board": "promicro"}, "atmega32u4", "caterina"),
        ({"development_board": "promicro", "bootloader": "qmk-dfu"}, "atmega32u4", "qmk-dfu"),
        ({"development_board": "elite_c", "layouts": {"L": []}}, "atmega32u4", "atmel-dfu"),
        ({"processor": "at90usb1286"}, "at90usb1286", None),
        ({"processor": "atmega32u4", "bootloader": "custom"}, "atmega32u4", None),
    ],
)
def test_part_and_bootloader_of_json(metadata: dict[str, object], part: str, bootloader: str | None):
    for name in ("keyboard.json", "info.json"):
        keyboard = read_keyboard(name, json.dumps(metadata).encode())
        assert (keyboard.part, keyboard.bootloader) == (part, bootloader)
        assert bool(keyboard.notes) == (bootloader is None)


@pytest.mark.parametrize(
    ("text", "part", "bootloader"),
    [
        ("MCU = atmega32u4\nBOOTLOADER = atmel-dfu\n", "atmega32u4", "atmel-dfu"),
        ("# MCU name\r\nMCU=at90usb1286 # chip\r\n  BOOTLOADER\t:=  halfkay   # Teensy\r\n", "at90usb1286", "halfkay"),
        ("MCU ?= atmega32a\nBOOTLOADER ?= USBasp\nMCU ?= atmega328p", "atmega32a", "USBasp"),
        ("MCU = atmega32u2\nMCU = atmega16u2\nOPT_DEFS += -DX=$(Y)\n", "atmega16u2", None),
        ("override MCU = \\\n  atmega328p\n#BOOTLOADER = caterina\n", "atmega328p", None),
        ("MCU = atmega32u4\nifeq ($(X),y)\nMCU = atmega32u4\nendif\nSRC += a.c\n", "atmega32u4", None),
        ("BOOTLOADER_SIZE = 4096\nMCU = atmega32u4\n", "atmega32u4", None),
        ("CONVERT_TO = elite_c\nMCU = atmega32u2\n", "atmega32u4", "atmel-dfu"),
        ("MCU = atmega32u4\nBOOTLOADER =\n", "atmega32u4", None),
    ],
)
def test_part_and_bootloader_of_rules(text: str, part: str, bootloader: str | None):
    keyboard = read_keyboard("rules.mk", text.encode())
    assert (keyboard.part, keyboard.bootloader) == (part, bootloader)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("keyboard.json", b'{"processor": "RP2040", "bootloader": "rp2040"}', "RP2040 is neither"),
        ("keyboard.json", b'{"processor": "AT32F415"}', "AT32F415 is neither"),
        ("keyboard.json", b'{"development_board": "proton_c"}', "STM32F303 is neither"),
        ("keyboard.json", b'{"development_board": "teensy9"}', "'teensy9'"),
        ("keyboard.json", b"[" * 100_000, "no QMK keyboard metadata"),
        ("keyboard.json", b'{"a":' * 100_000, "no QMK keyboard metadata"),
        ("rules.mk", b"BOOTLOADER = caterina\n", "names no processor"),
        ("rules.mk", b"MCU = $(CHIP)\n", "MCU is not one plain value"),
        ("rules.mk", b"ifeq ($(REV),2)\nMCU = atmega32u4\nelse\nMCU = at90usb1286\nendif\n", "MCU is not one plain"),
        ("rules.mk", b"MCU = atmega32u4\nifdef DFU\nBOOTLOADER = atmel-dfu\nendif\n", "BOOTLOADER is not one plain"),
        ("rules.mk", b"MCU = atmega32u4\nCONVERT_TO = proton_c\n", "STM32F303 is neither"),
        ("rules.mk", b"MCU = atmega32u4\nCONVERT_TO = svlinky\n", "'svlinky'"),
        ("rules.mk", b"MCU = atmega32\xff\n", "utf-8"),
        ("rules.mk", b"MCU = atmega32u4\n" + b"#" * (1 << 20), "too long"),
    ],
)
def test_what_cannot_be_used_is_told(name: str, content: bytes, told: str):
    with pytest.raises(RefusedError) as caught:
        read_keyboard(name, content)
    assert caught.value.code is ErrorCode.RECIPE_INVALID
    assert told in caught.value.message
    assert "--part" in caught.value.hint


def test_the_usual_controllers_are_in_the_catalog():
    parts = load_parts()
    bootloaders = load_bootloaders(parts)
    keyboard = read_keyboard("k.json", b'{"development_board": "elite_c"}')
    assert bootloaders.get(keyboard.bootloader or "", parts.avr(keyboard.part)).id == "atmel-dfu-32u4"
    for content in (b'{"development_board": "bluepill"}', b'{"processor": "STM32F103", "bootloader": "stm32duino"}'):
        keyboard = read_keyboard("k.json", content)
        part = parts.get(keyboard.part)
        assert (part.id, keyboard.bootloader) == ("stm32f103xb", "stm32duino")
        assert bootloaders.get("stm32duino", part).id == "stm32duino-pc13"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"{}", b'{"processor": 5}', b'{"layouts": {}}', b'{"development_board": "blackpill"}']
)
def test_what_names_no_controller_is_refused(content: bytes):
    with pytest.raises(RefusedError) as caught:
        read_keyboard("keyboard.json", content)
    assert caught.value.code is ErrorCode.RECIPE_INVALID
    assert "keyboard.json" in caught.value.message


keys = st.sampled_from(["processor", "bootloader", "development_board"])
rules = st.lists(
    st.tuples(
        st.sampled_from(["MCU", "BOOTLOADER", "CONVERT_TO", "ifeq (", "endif", "SRC"]),
        st.sampled_from(["=", ":=", "?=", "+=", "", "\\\n"]),
        st.sampled_from(["atmega32u4", "caterina", "$(X)", "promicro", "#", ""]) | st.text(max_size=8),
    ).map(" ".join),
    max_size=6,
).map("\n".join)


@settings(max_examples=300)
@given(
    st.sampled_from(["k.json", "rules.mk", "k"]),
    st.binary(max_size=64) | st.dictionaries(keys, st.text()).map(json.dumps).map(str.encode) | rules.map(str.encode),
)
def test_whatever_comes_is_a_keyboard_or_refused(name: str, content: bytes):
    try:
        outcome: object = read_keyboard(name, content)
    except RefusedError as error:
        outcome = error.code
    assert isinstance(outcome, Keyboard) or outcome is ErrorCode.RECIPE_INVALID
