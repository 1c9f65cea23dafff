"""Synthetic images are bootloaders and firmware to the catalog's checks, and say to the bench what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.catalog.avr_image import boot_starts, check_pair, find_bootloader
from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.lint import check_image
from ispd.catalog.parts import load_parts
from ispd.catalog.usb_descriptor import usb_id_in
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import AvrPart
from vbench.firmware_image import FirmwareKind, application_image, bootloader_image, find_firmware

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
ALL = [
    pytest.param(bootloader, part, id=f"{bootloader.id}-{part.id}")
    for bootloader in BOOTLOADERS
    if not bootloader.is_any
    for part in map(PARTS.get, bootloader.parts)
    if isinstance(part, AvrPart) and bootloader.section is not None and bootloader.section.start in boot_starts(part)
]
"""LUFA's mass storage loader is larger than any boot section."""


def cells(part: AvrPart, *images: Image) -> bytearray:
    flash = bytearray(b"\xff" * part.flash.size_bytes)
    for segment in (segment for image in images for segment in image.segments):
        flash[segment.start : segment.span.stop] = segment.data
    return flash


@pytest.mark.parametrize(("bootloader", "part"), ALL)
def test_the_catalog_recognises_every_bootloader(bootloader: Bootloader, part: AvrPart) -> None:
    image = bootloader_image(bootloader, part)
    assert bootloader.section is not None
    assert image.span in bootloader.section
    assert find_bootloader(part, image) == bootloader.section.start
    assert usb_id_in(image, image.span) == bootloader.usb[0]
    assert check_image(part, image, bootloader.fuses) == ()
    assert check_pair(part, image, bootloader.fuses, tuple(BOOTLOADERS), bootloader.id) == ()
    facts = find_firmware(cells(part, image), bootloader.section.start)
    assert facts is not None
    assert (facts.kind, facts.is_whole) == (FirmwareKind.BOOTLOADER, True)
    assert (facts.name, facts.family, facts.variant) == (bootloader.id, bootloader.family, bootloader.qmk)
    assert f"{facts.vendor_id:04X}:{facts.product_id:04X}" == bootloader.usb[0]


@pytest.mark.parametrize(("bootloader", "part"), ALL)
def test_a_firmware_below_a_bootloader_passes_the_checks(bootloader: Bootloader, part: AvrPart) -> None:
    firmware = application_image(part, 5000 if part.flash.size_bytes > 8192 else 1500, usb="1209:BEEF")
    both = Image.of([*firmware.segments, *bootloader_image(bootloader, part).segments])
    assert check_image(part, both, bootloader.fuses) == ()
    assert usb_id_in(both, firmware.span) == "1209:BEEF"
    facts = find_firmware(cells(part, both), 0)
    assert facts is not None
    assert (facts.kind, facts.span, facts.is_whole) == (FirmwareKind.APPLICATION, firmware.span, True)


@given(address=st.integers(0, 1999), mask=st.integers(1, 255))
def test_one_wrong_bit_is_noticed(address: int, mask: int) -> None:
    part = PARTS.avr("atmega32u4")
    flash = cells(part, application_image(part, 2000, seed=7))
    flash[address] ^= mask
    facts = find_firmware(flash, 0)
    assert facts is None or not facts.is_whole


def test_seeds_make_other_images_of_the_same_shape() -> None:
    part = PARTS.avr("atmega32u4")
    one, other = (application_image(part, 4000, seed=seed).segments[0].data for seed in (1, 2))
    assert sum(a != b for a, b in zip(one[200:], other[200:], strict=True)) > 3700
    assert one == application_image(part, 4000, seed=1).segments[0].data
    assert b"\xff" not in one[200:], "no page is blank"


def test_what_does_not_fit_is_refused() -> None:
    part, other = PARTS.avr("atmega32u4"), PARTS.avr("atmega328p")
    loader = BOOTLOADERS.get("atmel-dfu-32u4")
    with pytest.raises(ValueError, match="no bootloader"):
        bootloader_image(loader, other)
    with pytest.raises(ValueError, match="4096"):
        bootloader_image(loader, part, size_bytes=4098)
    with pytest.raises(ValueError, match="possible"):
        application_image(part, 40)
    assert find_firmware(bytes(32768), 0) is None
    assert find_firmware(b"\xff" * 64, 60) is None
