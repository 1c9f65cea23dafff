"""The AVR as its data sheet describes it: entry, echo, clocks."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import FRAME_S, SCK_HZ, Bus

from ispd.catalog.parts import Parts
from ispd.model.part import MemoryKind
from vbench.target import AvrTarget, Circuit

MakeBus = Callable[..., Bus]


# -- clock -------------------------------------------------------------------------------------------------------------


def test_a_clock_from_outside_acts_at_once_where_the_latched_fuses_want_one(make_bus: MakeBus) -> None:
    bus = make_bus(fuses={MemoryKind.LFUSE: 0xE0}, entered=False)
    assert not bus.enter()
    bus.target.feed_clock(8e6)
    assert bus.frame("AC 53 00 00")[2] == 0x53, "it was held in reset all the time"
    bus.put("AC A0 00 FF")  # a crystal, from the next reset on
    bus.target.feed_clock(None)
    assert bus.ask("30 00 00 00") != 0x1E
    bus.target.feed_clock(8e6)
    assert bus.ask("30 00 00 00") == 0x1E
    assert bus.enter()
    bus.target.feed_clock(None)
    assert bus.ask("30 00 00 00") == 0x1E


# -- entry -------------------------------------------------------------------------------------------------------------


def test_reply_bytes_echo_what_was_sent_one_byte_before(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False)
    bus.pulse()
    assert bus.frame("AC 53 00 00")[1:] == bytes.fromhex("AC 53 00")
    assert bus.frame("30 12 00 77") == bytes.fromhex("00 30 12 1E")
    assert bus.frame("30 00 01 00") == bytes.fromhex("77 30 00 95")
    assert bus.frame("4C 01 02 03")[:3] == bytes.fromhex("00 4C 01")


def test_entry_needs_20_ms_of_reset_and_then_a_new_pulse(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False)
    assert not bus.enter(wait_s=19.9e-3)
    assert bus.kinds() == ["entry-too-early"]
    bus.now += 0.1
    assert bus.frame("AC 53 00 00") == bytes(4), "deaf until the next pulse"
    assert bus.enter(wait_s=20e-3)


def test_nothing_is_carried_out_before_program_enable(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False)
    bus.target.flash[0] = 0x12
    bus.pulse()
    bus.put("AC 80 00 00")
    assert bus.frame("30 00 00 00")[3] == 0x00, "byte 4 is the echo of byte 3"
    assert bus.target.erase_count == 0
    bus.target.set_reset(False, bus.now)
    assert bus.frame("AC 53 00 00") == bytes(4), "out of reset the pins are just pins"


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_a_shifted_frame_matches_nothing_until_the_next_pulse(make_bus: MakeBus, extra: int) -> None:
    bus = make_bus(entered=False)
    bus.pulse()
    bus.frame("00" * extra)
    for _ in range(5):
        bus.frame("AC 53 00 00")
        assert not bus.target.programming
    assert bus.enter()


def test_byte_by_byte_and_frame_by_frame_are_the_same(parts: Parts) -> None:
    script = "30000000 30000100 40000011 48000022 40000133 4C000000 F0000000 20000000 AC530000 58000000 A0000100"
    replies = []
    for fast in (True, False):
        bus = Bus(AvrTarget(parts.avr("atmega32u4")))
        bus.enter()
        got = []
        for frame in script.split():
            sent = bytes.fromhex(frame)
            got.append(
                bus.target.instruction(sent[0], sent[1], sent[2], sent[3], bus.now, SCK_HZ)
                if fast
                else [bus.target.clock(byte, bus.now + 8 * i / SCK_HZ, SCK_HZ) for i, byte in enumerate(sent)][3]
            )
            bus.now += FRAME_S
        replies.append((got, bytes(bus.target.flash), bus.kinds(), bus.target.instructions))
    assert replies[0] == replies[1]


# -- clocks ------------------------------------------------------------------------------------------------------------

CRYSTAL, RC_8, RC_1, EXTERNAL = 0xFF, 0xE2, 0x62, 0xE0


@pytest.mark.parametrize(
    ("part", "lfuse", "circuit", "works", "fails"),
    [
        ("atmega32u4", 0x5E, Circuit(), 499e3, 500e3),  # 16 MHz crystal / 8: below f/4
        ("atmega32u4", CRYSTAL, Circuit(), 16e6 / 6, 16e6 / 6 * 1.001),  # from 12 MHz: f/6
        ("atmega32u4", CRYSTAL, Circuit(crystal_hz=8e6), 1.99e6, 2e6),
        ("atmega328p", RC_1, Circuit(), 249e3, 250e3),
        ("atmega328p", RC_8, Circuit(), 1.99e6, 2e6),
        ("atmega8a", 0xE1, Circuit(), 249e3, 250e3),  # classic parts: 1 MHz RC without divider
        ("attiny85", 0x61, Circuit(), 499e3, 500e3),  # PLL 16 MHz / 8
        ("atmega328p", EXTERNAL, Circuit(external_hz=1e6), 249e3, 250e3),
    ],
)
def test_sck_limit_follows_the_latched_fuses(
    make_bus: MakeBus, part: str, lfuse: int, circuit: Circuit, works: float, fails: float
) -> None:
    options = {"fuses": {MemoryKind.LFUSE: lfuse}, "circuit": circuit}
    assert make_bus(part, sck_hz=works, **options).ask("30 00 00 00") == 0x1E
    bus = make_bus(part, sck_hz=fails, entered=False, **options)
    assert not bus.enter()
    bus.sck_hz = works
    assert bus.frame("AC 53 00 00")[2] != 0x53, "the frame is lost until the next pulse"
    assert bus.enter()


def test_too_fast_replies_come_a_bit_late(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False, sck_hz=4e6)
    bus.pulse()
    assert bus.frame("AC 53 00 00") == bytes([0x7F, 0xAC >> 1, 0x53 >> 1, 0x00])
    assert bus.target.violations == []


@pytest.mark.parametrize(
    ("fuses", "circuit"),
    [
        ({MemoryKind.LFUSE: CRYSTAL}, Circuit(crystal_hz=None)),
        ({MemoryKind.LFUSE: EXTERNAL}, Circuit()),
        ({MemoryKind.LFUSE: 0xE4}, Circuit()),  # watch crystal that is not fitted
        ({MemoryKind.LFUSE: 0xE1}, Circuit()),  # reserved
        ({MemoryKind.HFUSE: 0x59}, Circuit()),  # RSTDISBL
        ({MemoryKind.HFUSE: 0x99}, Circuit()),  # DWEN
        ({MemoryKind.EFUSE: 0xFC}, Circuit(supply_mv=3300)),  # brown-out at 4.3 V
    ],
)
def test_unreachable_by_its_fuses(make_bus: MakeBus, fuses: dict[MemoryKind, int], circuit: Circuit) -> None:
    bus = make_bus("atmega328p", fuses=fuses, circuit=circuit, entered=False)
    assert not bus.enter()
    assert bus.frame("30 00 00 00") == bytes(4)


def test_new_clock_fuses_act_only_after_leaving_and_entering_again(make_bus: MakeBus) -> None:
    bus = make_bus("atmega328p")
    bus.put(f"AC A0 00 {CRYSTAL:02X}")
    assert bus.ask("50 00 00 00") == CRYSTAL, "reads back at once"
    assert bus.target.clock_hz == 1e6, "but the clock is still the old one"
    assert bus.enter()
    assert bus.target.clock_hz == 16e6
    bus.sck_hz = 2e6
    assert bus.ask("30 00 00 00") == 0x1E


def test_a_reset_disabling_fuse_acts_at_the_next_entry_for_good(make_bus: MakeBus) -> None:
    bus = make_bus("atmega328p")
    bus.put("AC A8 00 59")
    assert bus.ask("30 00 00 00") == 0x1E
    assert not bus.enter()
    assert not bus.enter()
