"""The engine under the firmware: bytes lost in a full ring, wire times, flavours, and exactness under any chunking."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.vbench.rigs import Host

from ispd.catalog.parts import Parts, load_parts
from vbench.faults import CorruptReply, DropReply, LineNoise, Mute, PowerLoss
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

BYTE_S = 10 / 19200
PAGE = bytes(range(128))


@pytest.fixture
def make_host(parts: Parts) -> Callable[..., Host]:
    def make(flavour: Flavour = Flavour.UART, **options: object) -> Host:
        target = AvrTarget(parts.avr("atmega32u4"))
        return Host(SerialProgrammer(flavour, target=target, **options))  # type: ignore[arg-type]

    return make


MakeHost = Callable[..., Host]

# -- the receive ring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "lost"), [(60, 0), (63, 0), (64, 1), (100, 37)])
def test_bytes_beyond_63_are_lost_while_the_sketch_programs(make_host: MakeHost, ahead: int, lost: int) -> None:
    host = make_host()
    host.enter()
    host.load_address(0)
    host.send(b"d\x00\x80F" + PAGE + b" ")
    assert host.ask(b"", 1) == b"\x14"
    host.send((b"0 " * 50)[:ahead])
    replies = host.until(host.now + 1.0)
    assert host.programmer.mcu.lost == lost
    assert replies[:1] == b"\x10"
    assert len(replies) == 1 + (ahead - lost) // 2 * 2


def test_native_usb_loses_nothing(make_host: MakeHost) -> None:
    for flavour in (Flavour.LEONARDO, Flavour.TEENSYDUINO):
        host = make_host(flavour)
        host.enter()
        host.load_address(0)
        host.send(b"d\x00\x80F" + PAGE + b" " + b"0 " * 200)
        assert host.until(host.now + 1.0) == b"\x14\x10" * 201
        assert host.programmer.mcu.lost == 0


# -- times -------------------------------------------------------------------------------------------------------------


def arrivals(host: Host, data: bytes, until: float) -> list[tuple[float, int]]:
    """Send now; return the time of each byte that comes back."""
    host.send(data)
    seen = []
    while (due := max(host.programmer.next_time(), host.now)) <= until:
        host.now = due
        seen += [(due, byte) for byte in host.programmer.take(due)]
    host.now = until
    return seen


def test_wire_times_on_a_plain_uart(make_host: MakeHost) -> None:
    host = make_host()
    times = [at for at, _ in arrivals(host, b"1 ", 1.0)]
    assert times == pytest.approx([(3 + index) * BYTE_S for index in range(9)])


def test_a_16u2_delivers_on_its_latency_tick(make_host: MakeHost) -> None:
    host = make_host(Flavour.UNO, auto_reset=False)
    seen = arrivals(host, b"1 ", 1.0)
    assert bytes(byte for _, byte in seen) == b"\x14AVR ISP\x10"
    for at, _ in seen:
        assert at / 4.096e-3 == pytest.approx(round(at / 4.096e-3))


def test_a_leonardo_delivers_on_the_next_frame_and_needs_a_modem_line(make_host: MakeHost) -> None:
    host = make_host(Flavour.LEONARDO)
    assert [at for at, _ in arrivals(host, b"0 ", 0.5)] == pytest.approx([2e-3, 2e-3])
    host.programmer.opened(host.now, baud=19200, dtr=False, rts=False)
    assert arrivals(host, b"0 ", 1.0) == []
    host.programmer.opened(host.now, baud=19200, dtr=False, rts=True)
    assert len(arrivals(host, b"0 ", 1.5)) == 2


def test_teensyduino_flushes_3_ms_after_the_last_byte_or_when_a_packet_is_full(make_host: MakeHost) -> None:
    host = make_host(Flavour.TEENSYDUINO)
    assert [at for at, _ in arrivals(host, b"0 ", 0.5)] == pytest.approx([5e-3, 5e-3])
    host.enter()
    host.load_address(0)
    began = host.now
    seen = arrivals(host, b"t\x01\x00F ", host.now + 1.0)
    assert len(seen) == 258
    first = [at for at, _ in seen[:64]]
    assert first[0] == first[63] < began + 64 * 0.268e-3 + 3e-3, "the first full packet did not wait"
    assert seen[-1][0] - seen[191][0] > 3e-3, "the rest waited for the flush"


def test_a_full_transmit_ring_holds_the_sketch_back(make_host: MakeHost) -> None:
    host = make_host()
    host.enter()
    host.load_address(0)
    began = host.now
    seen = arrivals(host, b"t\x01\x00F ", host.now + 1.0)
    assert len(seen) == 258
    assert seen[-1][0] - began == pytest.approx((5 + 258) * BYTE_S, rel=0.02), "the line is the limit at 19200"


def test_the_other_baud_rate_brings_garbage_both_ways(make_host: MakeHost) -> None:
    host = make_host()
    assert host.ask(b"0 ", 2) == b"\x14\x10"
    host.programmer.opened(host.now, baud=115200)
    host.send(b"0 ")
    assert host.until(host.now + 1.0) not in (b"\x14\x10", b"")


# -- reset and bootloader ----------------------------------------------------------------------------------------------


def test_opening_an_uno_resets_it_once_and_the_sketch_answers_after_1_6_s(make_host: MakeHost) -> None:
    host = make_host(Flavour.UNO)
    host.send(b"0 ")
    assert host.until(1.5) == b"", "wrong baud for Optiboot, and before Serial.begin"
    host.send(b"0 ")
    assert host.until(1.65) == b"\x14\x10", "buffered while the LEDs blink"
    host.programmer.opened(host.now, baud=19200)
    assert host.ask(b"0 ", 2, within_s=0.1) == b"\x14\x10", "DTR was on already"


def test_optiboot_answers_early_at_its_own_baud_rate(make_host: MakeHost) -> None:
    host = make_host(Flavour.UNO, baud=115200)
    assert host.ask(b"0 ", 2, within_s=0.1) == b"\x14\x10"
    assert host.ask(b"A\x80 A\x93 u ", 11) == b"\x14\x03\x10\x14\x03\x10\x14\x1e\x95\x0f\x10"[:11]
    host.until(3.0)
    assert host.ask(b"A\x93 ", 3) == b"\x14S\x10", "the sketch, once the window is over"


@pytest.mark.parametrize("last_words", [b"Q ", b"0z", b"A\x80z"])
def test_optiboot_leaves_at_once_when_told_or_confused(make_host: MakeHost, last_words: bytes) -> None:
    host = make_host(Flavour.UNO, baud=115200)
    host.ask(b"0 V\x30\x00\x00\x00 ", 5)
    host.send(last_words)
    host.until(host.now + 0.05)
    assert host.ask(b"A\x93 ", 3) == b"\x14S\x10", "the sketch hears it while it blinks"
    assert 0.5 < host.now < 0.7


def test_each_byte_keeps_optiboot_for_another_second(make_host: MakeHost) -> None:
    host = make_host(Flavour.UNO, baud=115200)
    for _ in range(5):
        assert host.ask(b"A\x93 ", 3) == b"\x14\x03\x10"
        host.until(host.now + 0.9)


def test_a_stuck_bootloader_writes_the_programmer_itself(make_host: MakeHost) -> None:
    host = make_host(Flavour.UNO, stuck_in_bootloader=True)
    host.send(b"0 A\x93 ")
    assert host.until(5.0) == b"", "at another baud rate there is nothing but framing errors"
    fast = make_host(Flavour.UNO, baud=115200, stuck_in_bootloader=True)
    fast.until(5.0)
    assert fast.ask(b"P U\x40\x00 ", 4) == b"\x14\x10\x14\x10"
    assert fast.ask(b"d\x00\x80F" + PAGE + b" ", 2) == b"\x14\x10"
    assert fast.ask(b"U\x40\x00 t\x00\x80F ", 132) == b"\x14\x10\x14" + PAGE + b"\x10"
    assert fast.programmer.optiboot.writes == 1
    target = fast.programmer.socket.target
    assert target is not None
    assert target.flash.count(0xFF) == 32768
    assert target.erase_count == 0


# -- faults ------------------------------------------------------------------------------------------------------------


def test_line_faults_hit_the_replies_they_name(make_host: MakeHost) -> None:
    faults = [CorruptReply(index=1, mask=0x04), DropReply(index=2), LineNoise(index=4, data=b"!!"), Mute(6)]
    host = make_host(faults=faults)
    host.send(b"0 " * 4)
    assert host.until(1.0) == b"\x14\x14" + b"\x10" + b"!!" + b"\x14\x10"


def test_power_loss_at_a_byte_and_at_an_instruction(make_host: MakeHost) -> None:
    host = make_host(faults=[PowerLoss(bytes=5)])
    host.send(b"0 0 0 0 ")
    assert host.until(1.0) == b"\x14\x10", "the second reply was still on the wire"
    assert host.programmer.power_lost_at == pytest.approx(4 * BYTE_S)
    assert not host.programmer.mcu.powered

    host = make_host(faults=[PowerLoss(instructions=3)])
    host.enter()
    host.send(b"u ")
    host.until(host.now + 1.0)
    assert host.programmer.power_lost_at is not None
    target = host.programmer.socket.target
    assert target is not None
    assert (target.instructions, target.powered) == (2, False)
    host.programmer.power_on(host.now)
    host.programmer.opened(host.now, baud=19200)
    assert host.ask(b"0 ", 2) == b"\x14\x10"


# -- exactness ---------------------------------------------------------------------------------------------------------

SCRIPT = (
    b"0 A\x93 "
    b"B"
    + bytes.fromhex("0000000101010103ffffffff0080040000008000")
    + b" P V\xac\x80\x00\x00 U\x00\x00 d\x00\x80F"
    + PAGE
    + b" U\x00\x00 t\x00\x40F zz0 d\x00\x06E"
    + b"eeprom 0 "
)


def outcome(chunks: list[tuple[bytes, float]], looks: list[float], flavour: Flavour) -> tuple[object, ...]:
    """Feed chunks at their times, looking at the board in between; return all that can be observed afterwards."""
    target = AvrTarget(load_parts().avr("atmega32u4"), seed=9)
    programmer = SerialProgrammer(flavour, target=target, auto_reset=False)
    programmer.opened(0.0, baud=19200)
    replies = bytearray()
    moments = [(at, 0, index) for index, (_, at) in enumerate(chunks)] + [(at, 1, 0) for at in looks]
    now = 0.0
    for at, kind, index in sorted(moments):
        now = at
        replies += programmer.take(at)
        if kind == 0:
            programmer.feed(chunks[index][0], at)
    while (due := programmer.next_time()) != math.inf:
        now = max(now, due)
        replies += programmer.take(now)
    return (
        bytes(replies),
        bytes(target.flash),
        bytes(target.eeprom),
        programmer.mcu.lost,
        programmer.mcu.now,
        target.violations,
    )


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.sets(st.integers(1, len(SCRIPT) - 1), max_size=12),
    lead=st.floats(0.0, 0.9),
    looks=st.lists(st.floats(0.0, 2.0), max_size=12),
    flavour=st.sampled_from([Flavour.UART, Flavour.UNO]),
)
def test_any_chunking_of_the_host_stream_gives_the_same_result(
    cuts: set[int], lead: float, looks: list[float], flavour: Flavour
) -> None:
    # a chunk handed over before the line is free arrives exactly when it would have arrived in one piece
    whole = outcome([(SCRIPT, 0.0)], [], flavour)
    edges = [0, *sorted(cuts), len(SCRIPT)]
    chunks = [(SCRIPT[start:stop], max(0.0, start * BYTE_S - 1e-3) * lead) for start, stop in pairwise(edges)]
    assert outcome(chunks, looks, flavour) == whole


def test_the_script_above_overflows_the_ring() -> None:
    lost = outcome([(SCRIPT, 0.0)], [], Flavour.UART)[3]
    assert isinstance(lost, int)
    assert lost > 0
