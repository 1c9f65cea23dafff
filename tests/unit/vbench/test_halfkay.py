"""HalfKay and LUFA's HID bootloader: blocks, erasing, and the way to the application."""

import pytest
from tests.unit.vbench.loader_rig import LOADER_BYTE, ClassHost, make_chip, started

from ispd.catalog.parts import Parts
from vbench.board_chip import Chip
from vbench.board_face import Exit, ResetFlag
from vbench.halfkay import HalfKay, LufaHid, start_loader

SET_REPORT, OUTPUT = 9, 0x0200
HALFKAY, LUFA = "16C0:0478", "03EB:2067"
BLOCK = bytes(range(128))


def halfkay(chip: Chip) -> tuple[ClassHost, HalfKay]:
    loader = start_loader(chip, started(HALFKAY))
    assert isinstance(loader, HalfKay)
    return ClassHost(loader), loader


def lufa(chip: Chip, variant: str = "") -> tuple[ClassHost, LufaHid]:
    loader = start_loader(chip, started(LUFA, variant=variant))
    assert isinstance(loader, LufaHid)
    return ClassHost(loader), loader


def block(address: int, data: bytes = BLOCK) -> bytes:
    return address.to_bytes(2, "little") + data


def test_the_first_block_erases_the_application_and_takes_longer(parts: Parts) -> None:
    chip = make_chip(parts, section_bytes=512, application=bytes(0x7E00))
    host, _ = halfkay(chip)
    assert host.give(SET_REPORT, OUTPUT, block(0))
    assert host.took_s == pytest.approx(253 * 4.5e-3, rel=0.02)  # 252 pages erased, one written
    assert host.give(SET_REPORT, OUTPUT, block(0x7D80))
    assert host.took_s < 10e-3
    assert chip.target.flash[:128] == BLOCK
    assert chip.target.flash[0x7D80:0x7E00] == BLOCK
    assert chip.target.flash[128:0x7D80].count(0xFF) == 0x7D00
    assert set(chip.target.flash[0x7E00:]) == {LOADER_BYTE}


def test_its_own_place_is_the_limit_and_not_the_fuses(parts: Parts) -> None:
    """With a factory's BOOTSZ the section is larger than HalfKay, and the application reaches into it."""
    whole = make_chip(parts, application=bytes(0x7E00), lock=0xFF)
    chip = Chip(whole.target, section=whole.section, start=0x7E00, ram={})
    host, _ = halfkay(chip)
    assert host.give(SET_REPORT, OUTPUT, block(0x7D80))
    assert chip.target.flash[:0x7D80].count(0xFF) == 0x7D80
    assert chip.target.flash[0x7D80:0x7E00] == BLOCK
    assert host.give(SET_REPORT, OUTPUT, block(0x7E00))
    assert set(chip.target.flash[0x7E00:]) == {LOADER_BYTE}


def test_addresses_count_in_256_bytes_on_large_parts(parts: Parts) -> None:
    chip = make_chip(parts, "at90usb1286", section_bytes=1024)
    host, _ = halfkay(chip)
    data = bytes(range(256))
    assert host.give(SET_REPORT, OUTPUT, block(0x1FB, data))
    assert chip.target.flash[0x1FB00:0x1FC00] == data


@pytest.mark.parametrize("family", [halfkay, lufa])
@pytest.mark.parametrize("address", [0x7E00, 0x7F80, 0x0040])
def test_the_boot_section_and_crooked_addresses_are_left_alone(parts: Parts, family: type, address: int) -> None:
    chip = make_chip(parts, section_bytes=512, lock=0xFF)
    host, _ = family(chip)
    before = bytes(chip.target.flash)
    assert host.give(SET_REPORT, OUTPUT, block(address))
    assert chip.target.flash == before


def test_halfkay_goes_to_the_application_when_told(parts: Parts) -> None:
    host, loader = halfkay(make_chip(parts, section_bytes=512))
    host.give(SET_REPORT, OUTPUT, block(0))
    unasked = loader.departure
    assert host.give(SET_REPORT, OUTPUT, b"\xff" * 130)
    assert unasked is None
    assert loader.departure is not None
    assert loader.departure.exit is Exit.APPLICATION
    assert loader.departure.at >= host.now, "the transfer itself is answered"


@pytest.mark.parametrize(
    ("flags", "application", "stays"),
    [
        (ResetFlag.EXTERNAL, b"\x0c", True),
        (ResetFlag.NONE, b"\x0c", True),
        (ResetFlag.POWER_ON, b"\x0c", False),
        (ResetFlag.WATCHDOG, b"\x0c", False),
        (ResetFlag.POWER_ON, b"", True),
    ],
)
def test_halfkay_stays_for_the_button_and_on_a_blank_chip(
    parts: Parts, flags: ResetFlag, application: bytes, stays: bool
) -> None:
    chip = make_chip(parts, section_bytes=512, application=application)
    loader = start_loader(chip, started(HALFKAY, flags=flags))
    assert isinstance(loader, HalfKay) is stays
    assert (loader.face is not None) is stays


def test_lufa_erases_page_by_page_and_leaves_by_its_watchdog(parts: Parts) -> None:
    chip = make_chip(parts, application=bytes(0x7000))
    host, loader = lufa(chip)
    assert host.give(SET_REPORT, OUTPUT, block(0x100))
    assert chip.target.flash[0x100:0x180] == BLOCK
    assert chip.target.flash.count(0) == 0x7000 - 128 + BLOCK.count(0)
    assert host.give(SET_REPORT, OUTPUT, b"\xff\xff" + bytes(128))
    assert loader.departure is not None
    assert loader.departure.exit is Exit.RESET
    passed = start_loader(chip, started(LUFA, at=9.0, flags=ResetFlag.WATCHDOG))
    assert passed.face is None
    assert passed.departure is not None
    assert (passed.departure.at, passed.departure.exit) == (9.0, Exit.APPLICATION)
    stays = start_loader(chip, started(LUFA, flags=ResetFlag.WATCHDOG))
    assert isinstance(stays, LufaHid), "the key is used up"


def test_lufa_waits_for_ever_for_the_rest_of_a_page_and_knows_no_other_request(parts: Parts) -> None:
    host, _ = lufa(make_chip(parts))
    assert not host.give(SET_REPORT, OUTPUT, block(0, BLOCK[:64]))
    assert not host.give(0x0A, 0)


def test_identities_and_reports(parts: Parts) -> None:
    host, loader = lufa(make_chip(parts), "qmk-hid")
    assert (loader.version, lufa(make_chip(parts))[1].version) == (0x0936, 0x0001)
    report = host.descriptor(0x22, recipient=1)
    assert report.startswith(bytes.fromhex("06 DC FF 09 FB"))
    assert bytes.fromhex("96 82 00") in report, "130 bytes"
    host, _ = halfkay(make_chip(parts, "at90usb1286", section_bytes=1024))
    assert bytes.fromhex("96 02 01") in host.descriptor(0x22, recipient=1), "258 bytes"
    assert host.descriptor(2)[14] == 3
