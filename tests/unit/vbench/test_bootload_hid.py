"""BootloadHID: what its reports do to the cells, and what it does not look after."""

import pytest
from tests.unit.vbench.loader_rig import ClassHost, make_chip, started

from ispd.catalog.parts import Parts
from vbench.board_chip import Chip
from vbench.board_face import Exit
from vbench.bootload_hid import BootloadHid, start_loader

GET_REPORT, SET_REPORT = 1, 9
USB = "16C0:05DF"
PAGE = bytes(range(128))


def in_loader(chip: Chip) -> tuple[ClassHost, BootloadHid]:
    loader = start_loader(chip, started(USB))
    assert isinstance(loader, BootloadHid)
    return ClassHost(loader), loader


def page(address: int, data: bytes = PAGE) -> bytes:
    return b"\x02" + address.to_bytes(3, "little") + data


def test_tells_the_sizes_and_shows_both_reports(parts: Parts) -> None:
    host, loader = in_loader(make_chip(parts, "atmega32a"))
    assert (loader.usb.manufacturer, loader.usb.product) == ("obdev.at", "HIDBoot")
    assert host.ask(GET_REPORT, 0x0301, length=7) == bytes.fromhex("01 80 00 00 80 00 00")
    report = host.descriptor(0x22, recipient=1)
    assert len(report) == 33
    assert bytes.fromhex("85 01 95 06") in report
    assert bytes.fromhex("85 02 95 83") in report
    assert len(report).to_bytes(2, "little") in host.descriptor(0x21, recipient=1)
    device, configuration = host.descriptor(1), host.descriptor(2)
    assert (device[7], configuration[14]) == (8, 3), "low speed, HID"
    assert int.from_bytes(configuration[2:4], "little") == len(configuration)


def test_a_page_is_erased_and_written_and_takes_its_time(parts: Parts) -> None:
    chip = make_chip(parts, "atmega32a")
    host, _ = in_loader(chip)
    chip.target.flash[0x80:0x100] = bytes(128)
    assert host.give(SET_REPORT, 0x0302, page(0x80))
    assert chip.target.flash[0x80:0x100] == PAGE
    assert chip.target.flash[:0x80].count(0xFF) == 0x80
    assert host.took_s == pytest.approx(9e-3 + 19 * 0.2e-3)  # erase and write, 132 bytes by eight, SETUP and status


def test_a_report_that_begins_within_a_page_erases_nothing_before_the_next_one(parts: Parts) -> None:
    chip = make_chip(parts, "atmega32a")
    host, _ = in_loader(chip)
    host.give(SET_REPORT, 0x0302, page(0, b"\x0f" * 128))
    host.give(SET_REPORT, 0x0302, page(0x40))
    assert chip.target.flash[:0x40] == b"\x0f" * 0x40
    assert chip.target.flash[0x40:0x80] == bytes(value & 0x0F for value in PAGE[:0x40])
    assert chip.target.flash[0x80:0x100].count(0xFF) == 0x80, "the second half of the report waits in the buffer"


def test_lock_bits_alone_keep_it_from_overwriting_itself(parts: Parts) -> None:
    locked, opened = make_chip(parts, "atmega32a"), make_chip(parts, "atmega32a", lock=0xFF)
    host, loader = in_loader(locked)
    before = bytes(locked.target.flash)
    assert host.give(SET_REPORT, 0x0302, page(0x7000))
    assert locked.target.flash == before
    assert loader.departure is None
    host, loader = in_loader(opened)
    host.give(SET_REPORT, 0x0302, page(0x7000))
    assert loader.departure is not None
    assert loader.departure.exit is Exit.HANG


def test_leaves_on_request_and_stays_on_a_blank_chip_only(parts: Parts) -> None:
    chip = make_chip(parts, "atmega32a")
    host, loader = in_loader(chip)
    host.give(SET_REPORT, 0x0302, page(0))
    unasked = loader.departure
    assert host.give(SET_REPORT, 0x0301, bytes(7))
    assert unasked is None
    assert loader.departure is not None
    assert loader.departure.exit is Exit.APPLICATION
    assert 0.1 < loader.departure.at - host.now < 0.5
    again = start_loader(chip, started(USB, at=5.0))
    assert again.face is None
    assert again.departure is not None
    assert again.departure.at == 5.0
