"""The udev rules know every device that a driver claims or a bootloader shows."""

import re
from pathlib import Path

from ispd import programmers
from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.wire.stlink_firmware import MODELS, VENDOR_ID

RULES = Path(__file__).parents[2] / "systemd/ispd.rules"
_RULE = re.compile(r'ATTRS\{idVendor\}=="([0-9a-f]{4})", ATTRS\{idProduct\}=="([0-9a-f|]+)"')
_CLAIMED = re.compile(r"(?<!\w)\(0x([0-9A-F]{4}), 0x([0-9A-F]{4})\b")
"""Identities in the drivers."""


def known_to_udev() -> set[str]:
    return {
        f"{vendor}:{product}"
        for vendor, products in _RULE.findall(RULES.read_text())
        for product in products.split("|")
    }


def test_every_programmer_has_a_rule() -> None:
    folder = Path(programmers.__path__[0])
    claimed = {
        f"{vendor}:{product}".lower()
        for file in folder.glob("*.py")
        for vendor, product in _CLAIMED.findall(file.read_text())
    }
    assert len(claimed) >= 15, "the pattern finds the drivers' tables"
    assert claimed | {f"{VENDOR_ID:04x}:{product:04x}" for product in MODELS} <= known_to_udev()


def test_every_bootloader_has_a_rule() -> None:
    shown = {usb.lower() for bootloader in load_bootloaders(load_parts()) for usb in bootloader.usb}
    assert shown <= known_to_udev()
