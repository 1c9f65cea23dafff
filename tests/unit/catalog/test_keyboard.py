"""QMK keyboard metadata: part and bootloader, or a refusal that says what is missing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.keyboard import Keyboard, read_keyboard
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, RefusedError


@pytest.mark.parametrize(
    ("metadata", "keyboard"),
    [
        ({"processor": "atmega32u4", "bootloader": "atmel-dfu"}, Keyboard("atmega32u4", "atmel-dfu")),
        ({"processor": "ATmega32A", "bootloader": "usbasploader"}, Keyboard("atmega32a", "usbasploader")),
        ({"development_board": "promicro"}, Keyboard("atmega32u4", "caterina")),
        ({"development_board": "promicro", "bootloader": "qmk-dfu"}, Keyboard("atmega32u4", "qmk-dfu")),
        ({"development_board": "elite_c", "layouts": {"L": []}}, Keyboard("atmega32u4", "atmel-dfu")),
        ({"processor": "at90usb1286"}, Keyboard("at90usb1286", None)),
    ],
)
def test_part_and_bootloader(metadata: dict[str, object], keyboard: Keyboard):
    assert read_keyboard("keyboard.json", json.dumps(metadata).encode()) == keyboard


def test_the_usual_controllers_are_in_the_catalog():
    parts = load_parts()
    bootloaders = load_bootloaders(parts)
    keyboard = read_keyboard("k.json", b'{"development_board": "elite_c"}')
    assert bootloaders.get(keyboard.bootloader or "", parts.get(keyboard.part)).id == "atmel-dfu-32u4"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"{}", b'{"processor": 5}', b'{"layouts": {}}', b'{"development_board": "blackpill"}']
)
def test_what_names_no_controller_is_refused(content: bytes):
    with pytest.raises(RefusedError) as caught:
        read_keyboard("keyboard.json", content)
    assert caught.value.code is ErrorCode.RECIPE_INVALID
    assert "keyboard.json" in caught.value.message


@given(
    st.binary(max_size=64)
    | st.dictionaries(st.sampled_from(["processor", "bootloader"]), st.text()).map(json.dumps).map(str.encode)
)
def test_whatever_comes_is_a_keyboard_or_refused(content: bytes):
    try:
        outcome: object = read_keyboard("k", content)
    except RefusedError as error:
        outcome = error.code
    assert isinstance(outcome, Keyboard) or outcome is ErrorCode.RECIPE_INVALID
