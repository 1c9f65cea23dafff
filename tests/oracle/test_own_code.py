"""Own code for bootloaders, with the daemon's USB transport, pyusb and the system's libusb-1.0, on emulated boards."""

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from tests.oracle.chain_desk import BoardOnBed
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from vbench.board import Board
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice

pytestmark = pytest.mark.oracle

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
CLIENT = Path(__file__).parent / "usb" / "own_code.py"
PLACE = "1-1.4"
SIZE = 3000


@pytest.mark.parametrize(
    ("name", "part", "read_back"),
    [
        ("bootloadhid-m32a", "atmega32a", None),
        ("usbasploader-m328p", "atmega328p", True),
        ("qmk-hid-32u4", "atmega32u4", None),
    ],
)
def test_a_firmware_goes_on_through_libusb_and_runs(name: str, part: str, read_back: bool | None) -> None:
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")
    chip, bootloader = PARTS.avr(part), BOOTLOADERS.get(name)
    # no vendor states fuses for QMK HID; Caterina's start the same section at every reset
    fuses = bootloader.fuses or BOOTLOADERS.get("caterina-micro").fuses
    target = AvrTarget(chip, fuses=fuses)
    for segment in bootloader_image(bootloader, chip).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    board = BoardOnBed(Board(target, bootloaders=[bootloader]))
    with UsbBed({PLACE: cast("UsbDevice", board)}) as bed:
        arguments = [sys.executable, str(CLIENT), PLACE, name, part, str(SIZE)]
        done = subprocess.run(arguments, env=bed.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"read_back": read_back, "done_bytes": SIZE}
    firmware = application_image(chip, SIZE, seed=3, usb="FEED:1234")
    assert all(target.flash[s.start : s.span.stop] == s.data for s in firmware.segments)
    assert board.look(3.0) == "FEED:1234"
    assert not target.violations
