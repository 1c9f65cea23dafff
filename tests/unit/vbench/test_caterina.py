"""Caterina: commands, times, resets, and what it does not look after."""

import math

import pytest
from tests.unit.vbench.loader_rig import LOADER_BYTE, identity, make_chip, started
from tests.unit.vbench.serial_end import SerialEnd

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.model.span import Span
from vbench.board import Board
from vbench.board_chip import Chip
from vbench.board_face import Exit, ResetFlag
from vbench.board_shown import ShownSerial
from vbench.caterina import BOOT_KEY, BOOT_KEY_AT, Caterina, CaterinaBuild, start_loader
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget

LEONARDO, PRO_MICRO, PRO_MICRO_8 = "2341:0036", "1B4F:9205", "1B4F:9203"
PAGE = bytes(range(128))
APPLICATION = b"\x0c\x94\x34\x00"


def in_loader(chip: Chip, usb: str = LEONARDO) -> SerialEnd[Caterina]:
    loader = start_loader(chip, started(usb, at=0.0, flags=ResetFlag.NONE))
    assert isinstance(loader, Caterina)
    return SerialEnd(loader)


def test_answers_questions(parts: Parts) -> None:
    chip = make_chip(parts)
    host = in_loader(chip)
    answers = {
        b"S": b"CATERIN",
        b"V": b"10",
        b"p": b"S",
        b"a": b"Y",
        b"b": b"Y\x00\x80",
        b"t": b"\x44\x00",
        b"s": b"\x87\x95\x1e",
        b"TD": b"\r",
        b"P": b"\r",
        b"L": b"\r",
        b"r": b"\xef",
        b"Q": bytes([chip.fuse(next(f.memory for f in chip.part.fuses if f.memory == "efuse"))]),
        b"v": b"?",
        b"x": b"?",
    }
    assert {asked: host.ask(asked, len(answer)) for asked, answer in answers.items()} == answers
    host.send(b"\x1b")
    assert host.wait(0.1) == b""


def test_blocks_are_erased_written_and_read_by_word_addresses(parts: Parts) -> None:
    chip = make_chip(parts, application=bytes(512))
    host = in_loader(chip)
    assert host.ask(b"A\x00\x40", 1) == b"\r"
    begun = host.now
    assert host.ask(b"B\x00\x80F" + PAGE, 1) == b"\r"
    assert 9e-3 < host.now - begun < 13e-3
    assert chip.target.flash[0x80:0x100] == PAGE
    assert chip.target.flash[:512].count(0) == 512 - 128 + 1
    host.ask(b"A\x00\x41", 1)
    assert host.ask(b"g\x00\x04F", 4) == b"\x02\x03\x04\x05"
    assert host.ask(b"R", 2) == b"\x07\x06"
    assert host.ask(b"g\x00\x04X", 1) == b"?"


def test_eeprom_is_counted_in_words_too(parts: Parts) -> None:
    chip = make_chip(parts)
    host = in_loader(chip)
    host.ask(b"A\x00\x10", 1)
    assert host.ask(b"B\x00\x03Eabc", 1) == b"\r"
    assert host.ask(b"Dd", 1) == b"\r"
    assert chip.target.eeprom[0x0F:0x15] == b"\xffabcd\xff"
    host.ask(b"A\x00\x11", 1)
    assert host.ask(b"d", 1) + host.ask(b"g\x00\x02E", 2) == b"bcd"


def test_erasing_spares_the_loader(parts: Parts) -> None:
    chip = make_chip(parts, application=bytes(0x7000), lock=0xFF)
    host = in_loader(chip)
    begun = host.now
    assert host.ask(b"e", 1) == b"\r"
    assert host.now - begun == pytest.approx(224 * 9e-3, rel=0.02)
    assert chip.target.flash[:0x7000].count(0xFF) == 0x7000
    assert set(chip.target.flash[0x7000:]) == {LOADER_BYTE}


def test_lock_bits_alone_keep_it_from_overwriting_itself(parts: Parts) -> None:
    locked, opened = make_chip(parts), make_chip(parts, lock=0xFF)
    for chip in (locked, opened):
        host = in_loader(chip)
        host.ask(b"A\x38\x00", 1)
        host.send(b"B\x00\x80F" + PAGE)
        host.wait(0.1)
        departure = host.programmer.departure
        assert (departure is not None and departure.exit is Exit.HANG) is (chip is opened)
    assert set(locked.target.flash[0x7000:]) == {LOADER_BYTE}
    assert opened.target.flash[0x7000:0x7080] == PAGE


def test_a_locked_application_section_takes_nothing_though_it_says_so(parts: Parts) -> None:
    chip = make_chip(parts, lock=0x2B)
    host = in_loader(chip)
    host.ask(b"A\x00\x00", 1)
    assert host.ask(b"B\x00\x80F" + PAGE, 1) == b"\r"
    assert chip.target.flash[:128].count(0xFF) == 128


def leaves(host: SerialEnd[Caterina]) -> float:
    host.wait(0.01)
    departure = host.programmer.departure
    return math.inf if departure is None else departure.at


def test_stays_eight_seconds_from_the_last_block_and_for_ever_when_blank(parts: Parts) -> None:
    chip = make_chip(parts)
    host = in_loader(chip)
    assert leaves(host) == math.inf
    host.wait(60)
    host.ask(b"B\x00\x80F" + PAGE, 1)
    assert leaves(host) == pytest.approx(host.now + 8, abs=0.05)
    host.wait(5)
    host.ask(b"S", 7)
    assert leaves(host) == pytest.approx(host.now + 3, abs=0.05)
    host.ask(b"g\x00\x02F", 2)
    assert leaves(host) == pytest.approx(host.now + 8, abs=0.05)
    host.wait(9)
    assert host.programmer.departure is not None
    assert host.programmer.departure.exit is Exit.APPLICATION


def test_its_time_runs_though_nobody_opens_the_port(parts: Parts) -> None:
    loader = start_loader(make_chip(parts, application=APPLICATION), started(LEONARDO, at=2.0))
    assert loader.departure is not None
    assert (loader.departure.at, loader.departure.exit) == (10.0, Exit.APPLICATION)


@pytest.mark.parametrize(("usb", "stay_s"), [(LEONARDO, 0.5), (PRO_MICRO, 0.5), (PRO_MICRO_8, 1.0)])
def test_leaves_soon_when_told(parts: Parts, usb: str, stay_s: float) -> None:
    host = in_loader(make_chip(parts), usb)
    assert host.ask(b"E", 1) == b"\r"
    assert leaves(host) == math.inf, "nothing is there to start"
    host.ask(b"B\x00\x80F" + PAGE, 1)
    assert host.ask(b"E", 1) == b"\r"
    assert leaves(host) == pytest.approx(host.now + stay_s, abs=0.03)


EXTERNAL, POWER_ON, WATCHDOG = ResetFlag.EXTERNAL, ResetFlag.POWER_ON, ResetFlag.WATCHDOG


@pytest.mark.parametrize(
    ("usb", "flags", "key", "wait_s"),
    [
        (LEONARDO, EXTERNAL, False, None),
        (LEONARDO, POWER_ON, False, 0.0),
        (LEONARDO, POWER_ON | EXTERNAL, False, None),
        (LEONARDO, WATCHDOG, False, 0.0),
        (LEONARDO, WATCHDOG, True, None),
        (PRO_MICRO, EXTERNAL, False, 0.75),
        (PRO_MICRO, EXTERNAL, True, None),
        (PRO_MICRO, POWER_ON, False, 0.0),
        (PRO_MICRO, WATCHDOG, True, None),
        (PRO_MICRO, ResetFlag.NONE, False, None),
    ],
)
def test_what_a_reset_leads_to_with_an_application(
    parts: Parts, usb: str, flags: ResetFlag, key: bool, wait_s: float | None
) -> None:
    chip = make_chip(parts, application=APPLICATION)
    if key:
        chip.ram[BOOT_KEY_AT] = chip.ram[BOOT_KEY_AT + 1] = BOOT_KEY
    loader = start_loader(chip, started(usb, at=3.0, flags=flags))
    assert (loader.face is not None) is (wait_s is None)
    if wait_s is not None:
        assert loader.departure is not None
        assert (loader.departure.at, loader.departure.exit) == (3.0 + wait_s, Exit.APPLICATION)
    assert BOOT_KEY_AT not in chip.ram


@pytest.mark.parametrize(("second", "stays"), [(0.7, True), (0.8, False)])
def test_two_resets_count_within_750_ms(parts: Parts, second: float, stays: bool) -> None:
    chip = make_chip(parts, application=APPLICATION)
    start_loader(chip, started(PRO_MICRO, at=1.0))
    assert (start_loader(chip, started(PRO_MICRO, at=1.0 + second)).face is not None) is stays


def test_builds_are_told_by_their_ids(parts: Parts) -> None:
    found = {}
    for usb in (LEONARDO, PRO_MICRO, PRO_MICRO_8, "1FFB:0101", "239A:000E"):
        loader = start_loader(make_chip(parts), started(usb, flags=WATCHDOG))
        assert isinstance(loader, Caterina)
        found[usb] = loader.build
        assert (loader.usb.vendor_id, loader.usb.product_id) == (identity(usb).vendor_id, identity(usb).product_id)
    sparkfun = CaterinaBuild.SPARKFUN
    assert list(found.values()) == [
        CaterinaBuild.ARDUINO,
        sparkfun,
        CaterinaBuild.SPARKFUN_8_MHZ,
        sparkfun,
        CaterinaBuild.ARDUINO,
    ]


def test_on_a_board_from_a_blank_chip_to_its_application(parts: Parts) -> None:
    """After ISP a single reset leads a blank SparkFun board into its loader, 750 ms later than an Arduino one."""
    bootloader = load_bootloaders(parts).get("caterina-promicro16")
    part = parts.avr("atmega32u4")
    target = AvrTarget(part, fuses=dict(bootloader.fuses), lock=0x2F)
    for segment in bootloader_image(bootloader, part).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    board = Board(target)
    target.power_on(0.0, reset_active=True)
    board.attach(0.0)
    target.set_reset(False, 1.0)
    assert board.face(1.9) is None
    face = board.face(2.1)
    assert isinstance(face, ShownSerial)
    assert str(face.usb) == PRO_MICRO
    image = application_image(part, 2048)
    now = 2.1
    for address in range(0, 2048, 128):
        for command, count in (
            (b"A" + (address // 2).to_bytes(2, "big"), 1),
            (b"B\x00\x80F" + image.bytes_in(Span(address, address + 128)), 1),
        ):
            face.feed(command, now)
            got = b""
            while len(got) < count:
                now = max(now, face.next_time())
                got += face.take(now)
            assert got == b"\r"
    face.feed(b"E", now)
    assert face.take(now + 0.01) == b"\r"
    assert board.face(now + 0.4) is face
    assert board.face(now + 0.6) is None
    running = board.face(now + 1.2)
    assert running is not None
    assert str(running.usb) == "FEED:6060"
