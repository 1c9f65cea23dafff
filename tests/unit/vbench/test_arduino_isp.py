"""ArduinoISP 1.18 with its traps: what each command answers, and where the sketch loses its framing."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import Host

from ispd.catalog.parts import Parts
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

OK = b"\x14\x10"
MakeHost = Callable[..., Host]


@pytest.fixture
def make_host(parts: Parts) -> MakeHost:
    def make(part: str | None = "atmega32u4", **options: object) -> Host:
        target = AvrTarget(parts.avr(part), **options) if part else None  # type: ignore[arg-type]  # passed through
        return Host(SerialProgrammer(target=target))

    return make


def target_of(host: Host) -> AvrTarget:
    target = host.programmer.socket.target
    assert target is not None
    return target


def answer(host: Host, request: bytes, within_s: float = 3.0) -> bytes:
    """Everything a request brings within a while, leftovers of a lost framing included."""
    host.send(request)
    return host.until(host.now + within_s)


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"0 ", "14 10"),
        (b"1 ", "14 41 56 52 20 49 53 50 10"),
        (b"A\x80 ", "14 02 10"),
        (b"A\x81 ", "14 01 10"),
        (b"A\x82 ", "14 12 10"),
        (b"A\x93 ", "14 53 10"),
        (b"A\x84 ", "14 00 10"),
        (b"B" + bytes(20) + b" ", "14 10"),
        (b"E" + bytes(5) + b" ", "14 10"),
        (b"U\x34\x12 ", "14 10"),
        (b"\x60\x01\x02 ", "14 10"),
        (b"\x61\x01 ", "14 10"),
        (b"Q ", "14 10"),
        (b"R ", "12"),  # chip erase is not implemented
        (b"z ", "12"),
        (b"zz", "15"),
        (b" ", "15"),
        (b"0z", "15"),
        (b"1z", "15"),
        (b"A\x80z", "15"),
        (b"B" + bytes(20) + b"z", "15"),
        (b"uz", "15"),
        (b"t\x00\x02Fz", "15"),
        (b"d\x00\x02F\x01\x02z", "15"),
        (b"@\x89\x05 ", "15 12"),  # '@' takes its parameter for an EOP; 05 is the next unknown command
        (b"d\x00\x02Xzz", "11 15"),  # unknown memory: the data is taken for commands
        (b"t\x00\x02X ", "14 11"),
        (b"E" + bytes(4) + b"  ", "14 10"),  # always five bytes, whatever the count says
    ],
)
def test_answers(make_host: MakeHost, request_: bytes, reply: str) -> None:
    assert answer(make_host(), request_) == bytes.fromhex(reply)


def test_error_led_follows_framing_and_is_cleared_by_sync_or_leave(make_host: MakeHost) -> None:
    host = make_host()
    answer(host, b"zz")
    assert host.programmer.sketch.error == 1
    answer(host, b"0 ")
    assert host.programmer.sketch.error == 0
    answer(host, b"  ")
    answer(host, b"Q ")
    assert host.programmer.sketch.error == 0


def test_entry_takes_70_ms_and_a_second_one_does_nothing(make_host: MakeHost) -> None:
    host = make_host()
    host.set_device()
    began = host.now
    host.ask(b"P ", 2)
    assert 0.070 < host.now - began < 0.076
    assert host.programmer.sketch.pmode
    assert target_of(host).programming
    before = target_of(host).instructions
    began = host.now
    host.ask(b"P ", 2)
    assert host.now - began < 0.003
    assert target_of(host).instructions == before
    host.ask(b"Q ", 2)
    assert not target_of(host).in_reset
    assert not target_of(host).programming


def test_p_acts_before_its_end_of_packet_and_never_reports_a_missing_target(make_host: MakeHost) -> None:
    host = make_host(None)
    host.set_device()
    assert host.ask(b"P ", 2) == OK
    assert host.ask(b"u ", 5) == b"\x14\xff\xff\xff\x10"
    spoiled = make_host()
    assert answer(spoiled, b"Pz") == b"\x15"
    assert target_of(spoiled).programming


def test_at89s_device_codes_turn_reset_round(make_host: MakeHost) -> None:
    host = make_host()
    host.set_device(code=0xE0)
    host.ask(b"P ", 2)
    assert not target_of(host).in_reset
    assert host.ask(b"u ", 5)[1:4] != b"\x1e\x95\x87"


def test_universal_and_signature(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    assert host.ask(b"u ", 5) == b"\x14\x1e\x95\x87\x10"
    assert host.ask(b"V\x30\x00\x02\x00 ", 3) == b"\x14\x87\x10"
    assert host.ask(b"V\x50\x00\x00\x00 ", 3) == b"\x14\x5e\x10"


def pages(size: int) -> bytes:
    return bytes((index * 5 + 1) & 0xFF for index in range(size))


@pytest.mark.parametrize(("page_bytes", "commits"), [(128, 2), (256, 1), (64, 4), (32, 8), (512, 128), (0, 128)])
def test_the_device_block_decides_how_often_a_block_is_committed(
    make_host: MakeHost, page_bytes: int, commits: int
) -> None:
    host = make_host()
    host.set_device(page_bytes=page_bytes)
    host.ask(b"P ", 2)
    host.erase()
    host.load_address(0x100)
    before = host.programmer.socket.instructions
    began = host.now
    host.ask(b"d\x01\x00F" + pages(256) + b" ", 2, within_s=10)
    assert host.programmer.socket.instructions - before == 256 + commits
    assert host.now - began > commits * 30e-3
    if page_bytes in (128, 512, 0):
        assert target_of(host).flash[0x200:0x300] == pages(256), "bits only clear, so extra commits do no harm"
    assert target_of(host).violations == []


def test_a_page_takes_its_spi_time_and_the_30_ms_flicker(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    host.load_address(0)
    host.send(b"d\x00\x80F" + pages(128) + b" ")
    assert host.ask(b"", 1) == b"\x14"
    insync = host.now
    host.ask(b"", 1)
    assert host.now - insync == pytest.approx(129 * 4 * 67e-6 + 30e-3, abs=1e-3)


def test_consecutive_blocks_continue_without_a_new_address(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    host.load_address(0)
    for block in range(2):
        host.ask(b"d\x00\x80F" + bytes([block]) * 128 + b" ", 2)
    host.load_address(0)
    assert host.ask(b"t\x00\x80F ", 130) == b"\x14" + bytes(128) + b"\x10"
    assert host.ask(b"t\x00\x80F ", 130) == b"\x14" + b"\x01" * 128 + b"\x10"


def test_more_than_256_bytes_overrun_the_buffer_and_the_sketch_is_gone(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    host.load_address(0)
    assert answer(host, b"d\x01\x01F" + pages(257) + b" ") == b""
    assert host.programmer.sketch.crashed
    assert answer(host, b"0 ") == b""


def test_eeprom_address_is_doubled_and_does_not_advance(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    host.load_address(0x10)
    began = host.now
    data = bytes(range(40))
    assert host.ask(b"d\x00\x28E" + data + b" ", 2) == OK
    assert host.now - began > 40 * 45e-3
    assert target_of(host).eeprom[0x20:0x48] == data
    assert target_of(host).eeprom[:0x20] == b"\xff" * 0x20
    assert host.ask(b"t\x00\x28E ", 42) == b"\x14" + data + b"\x10"
    assert host.ask(b"t\x00\x28E ", 42) == b"\x14" + data + b"\x10"
    assert target_of(host).violations == []
    assert host.programmer.mcu.lost == 0, "each 32-byte chunk is read before it is written"


def test_an_eeprom_block_above_the_declared_size_loses_framing(make_host: MakeHost) -> None:
    host = make_host()
    host.set_device(eeprom_bytes=4)
    host.ask(b"P ", 2)
    host.load_address(0)
    # the first data byte is taken for the EOP; what follows is parsed as commands: '0', then 'U' with its arguments
    assert answer(host, b"d\x00\x08Ez0 U\x01\x00 ") == b"\x15" + OK + OK
    assert answer(host, b"d\x00\x08E 0 ") == b"\x14\x11" + OK, "a 20 there passes for the EOP"
    assert target_of(host).eeprom.count(0xFF) == 1024


def test_without_a_device_block_every_eeprom_write_is_too_large(make_host: MakeHost) -> None:
    host = make_host()
    host.ask(b"P ", 2)
    assert answer(host, b"d\x00\x01E\x20 ")[:2] == b"\x14\x11"


def test_reads_are_streamed_in_word_order(make_host: MakeHost) -> None:
    host = make_host()
    target_of(host).flash[0x200:0x208] = b"ABCDEFGH"
    host.enter()
    host.load_address(0x100)
    assert host.ask(b"t\x00\x08F ", 10) == b"\x14ABCDEFGH\x10"


def test_a_locked_part_shows_word_addresses(make_host: MakeHost) -> None:
    host = make_host(lock=0xFC)
    host.enter()
    host.load_address(0)
    assert host.ask(b"t\x00\x06F ", 8) == b"\x14\x00\x00\x01\x01\x02\x02\x10"
    assert host.ask(b"u ", 5) == b"\x14\x1e\x95\x87\x10"


def test_extended_address_goes_through_universal(make_host: MakeHost) -> None:
    host = make_host("atmega2560")
    target_of(host).flash[0x20000:0x20004] = b"HIGH"
    host.enter()
    host.ask(b"V\x4d\x00\x01\x00 ", 3)
    host.load_address(0)
    assert host.ask(b"t\x00\x04F ", 6) == b"\x14HIGH\x10"
