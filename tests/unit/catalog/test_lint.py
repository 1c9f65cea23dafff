"""Image against part and fuses: limits, vectors, and the boot section the fuses make."""

import pytest

from ispd.catalog.avr_image import check_pair, find_bootloader
from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.lint import check_fit, check_image
from ispd.catalog.parts import load_parts
from ispd.catalog.usb_descriptor import usb_id_in
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
U4 = PARTS.avr("atmega32u4")
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
DFU = {L: 0x5E, H: 0xD9, E: 0xF3}
CATERINA = {L: 0xFF, H: 0xD8, E: 0xFB}
JUMP = b"\x0c\x94\x34\x12"


def code(start: int, size_bytes: int, head: bytes = JUMP) -> Segment:
    """Non-blank code that begins with a jump."""
    return Segment(start, (head + bytes(range(1, 200)) * (size_bytes // 199 + 1))[:size_bytes])


def usb(vendor: int, product: int) -> bytes:
    body = b"\x12\x01\x10\x01\x00\x00\x00\x08" + vendor.to_bytes(2, "little") + product.to_bytes(2, "little")
    return body + b"\x01\x00\x01\x02\x00\x01"


APP = code(0, 20_000)
LOADER = code(0x7000, 3000)
FULL = Image((APP, LOADER))


@pytest.mark.parametrize(
    ("image", "fuses", "told"),
    [
        (Image((APP,)), {}, []),
        (Image((APP,)), {**DFU, E: 0xFB}, []),
        (Image((APP,)), DFU, ["HWBE lets the HWB pin start the part at 0x7000, but the image has no bootloader there"]),
        (Image((code(0, 0x7400),)), DFU, []),
        # no gap between firmware and loader
        (Image.of((code(0, 0x7000), LOADER)), CATERINA, []),
        (FULL, DFU, []),
        (FULL, CATERINA, []),
        (Image((LOADER,)), DFU, []),
        (Image(()), CATERINA, []),
        # nothing where the fuses make the part start
        (
            Image((APP,)),
            CATERINA,
            [
                "BOOTRST makes the part start at 0x7000, but the image has no bootloader there, and the chip erase leaves none"
            ],
        ),
        # BOOTSZ too large, then too small, with the loader reached only by luck
        (Image((code(0x7800, 1000),)), DFU, ["begins at 0x7800, the boot section at 0x7000: BOOTSZ must select 2048"]),
        (FULL, {**CATERINA, H: 0xDE}, ["begins at 0x7000, the boot section at 0x7E00: BOOTSZ must select 4096"]),
        (Image((code(0x7100, 1000),)), DFU, ["no BOOTSZ setting begins there"]),
        # a loader that no reset enters
        (FULL, {**DFU, E: 0xFB}, ["neither BOOTRST nor HWBE is programmed"]),
        (FULL, {H: 0xD9}, ["BOOTRST is not programmed"]),
        # vectors
        (Image((code(0, 100, b"\x00\x00"),)), {}, ["the word at address 0 is 0x0000, not a jump"]),
        (Image((code(0x100, 100),)), {}, ["nothing is at address 0"]),
        (Image((code(0, 100, b"\x10\xc0"),)), {}, []),
    ],
)
def test_what_is_told(image, fuses, told):
    warnings = check_image(U4, image, fuses)
    assert len(warnings) == len(told)
    assert all(words in warning for words, warning in zip(told, warnings, strict=True))


@pytest.mark.parametrize(
    ("image", "fuses", "told"),
    [
        # starts inside the loader
        (Image((APP, code(0x7000, 4000))), {**CATERINA, H: 0xDA}, "BOOTSZ must select 4096"),
        # starts inside the firmware
        (Image((code(0, 0x7400),)), CATERINA, "in the middle of the firmware"),
    ],
)
def test_a_board_that_certainly_would_not_run_is_refused_unless_forced(image, fuses, told):
    with pytest.raises(RefusedError) as caught:
        check_image(U4, image, fuses)
    assert caught.value.code is ErrorCode.IMAGE_FUSE_MISMATCH
    assert told in caught.value.message
    assert told in check_image(U4, image, fuses, force=True)[-1]


def test_without_erase_the_rest_may_be_there_already():
    assert check_image(U4, Image((APP,)), CATERINA, erase=False) == ()
    assert check_image(U4, Image((code(0x100, 100),)), {}, erase=False) == ()


def test_limits_name_address_size_and_part():
    check_fit(U4, MemoryKind.FLASH, Image((Segment(0x7FFF, b"\x01"),)))
    check_fit(U4, MemoryKind.EEPROM, Image((Segment(0x3FF, b"\x01"),)))
    for kind, start, hint in (
        (MemoryKind.FLASH, 0x7FFF, "another part"),
        (MemoryKind.EEPROM, 0x3FF, "another part"),
        (MemoryKind.FLASH, 0x810000, "objcopy"),
    ):
        with pytest.raises(RefusedError) as caught:
            check_fit(U4, kind, Image((Segment(0, b"\x01"), Segment(start, b"\x01\x02"))))
        error = caught.value
        size_bytes = U4.memory(kind).size_bytes
        assert f"from 0x{max(start, size_bytes):04X} on" in error.message
        assert error.code is ErrorCode.IMAGE_DOES_NOT_FIT
        assert error.facts.address == max(start, size_bytes)
        assert str(size_bytes) in error.message
        assert "ATmega32U4" in error.message
        assert hint in error.hint


def test_the_first_byte_outside_is_named():
    inside, outside = Segment(0x7FF0, bytes(16)), Segment(0x9000, b"\x01")
    with pytest.raises(RefusedError) as caught:
        check_fit(U4, MemoryKind.FLASH, Image((inside, outside)))
    assert caught.value.facts.address == 0x9000


def test_where_a_bootloader_is_found():
    assert find_bootloader(U4, FULL) == 0x7000
    assert find_bootloader(U4, Image((APP,))) is None
    # one run of bytes, blank filler between sketch and loader, as the Arduino files are
    filled = Image((Segment(0, FULL.bytes_in(Span(0, 0x7FDA))),))
    assert find_bootloader(U4, filled) == 0x7000
    # a firmware that reaches into the section is no loader; a start record settles it
    assert find_bootloader(U4, Image((code(0, 0x7400),))) is None
    flush = Image((code(0, 0x7000), LOADER))
    assert find_bootloader(U4, flush) is None
    assert find_bootloader(U4, flush, start_record=0x7000) == 0x7000
    # a loader without a vector table, alone in its section
    assert find_bootloader(U4, Image((code(0x7E00, 500, b"\x11\x24"),))) == 0x7E00
    assert find_bootloader(PARTS.avr("attiny85"), Image((code(0x1E00, 100),))) is None
    assert find_bootloader(PARTS.avr("at90usb1286"), Image((code(0x1E000, 100),))) == 0x1E000


def test_image_and_fuses_are_a_pair():
    known = BOOTLOADERS.presets(U4)

    def told(
        vendor: int, product: int, fuses: dict[MemoryKind, int], named: str | None = None, force: bool = False
    ) -> tuple[str, ...]:
        loader = Segment(0x7000, LOADER.data + usb(vendor, product))
        return check_pair(U4, Image((APP, loader)), fuses, known, named, force=force)

    assert told(0x03EB, 0x2FF4, DFU) == told(0x2341, 0x0037, CATERINA) == told(0x1234, 0x5678, DFU) == ()
    for usb_id, fuses, effect, cure in (
        ((0x03EB, 0x2FF4), CATERINA, "starts at every power-up", "--bootloader atmel-dfu-32u4"),
        ((0x2341, 0x0037), DFU, "a reset does not enter it", "--bootloader caterina-micro"),
    ):
        with pytest.raises(RefusedError) as caught:
            told(*usb_id, fuses)
        assert caught.value.code is ErrorCode.IMAGE_FUSE_MISMATCH
        assert effect in caught.value.message
        assert cure in caught.value.hint
        assert effect in told(*usb_id, fuses, force=True)[0]
    assert "of caterina-micro, not of caterina-leonardo" in told(0x2341, 0x0037, CATERINA, "caterina-leonardo")[0]
    assert told(0x2341, 0x0037, {}, "caterina-micro") == ()
    # a descriptor-like pair of bytes in front of the real one
    noise = Image((Segment(0, b"\x12\x01\xff\xff" + usb(0xFEED, 0x0001)),))
    assert usb_id_in(noise, Span(0, 0x8000)) == "FEED:0001"
    assert usb_id_in(noise, Span(8, 0x8000)) is None
