"""The AVR as its data sheet describes it: entry, echo, clocks, memories, lock, waits."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import FRAME_S, SCK_HZ, Bus

from ispd.catalog.parts import Parts
from ispd.model.part import MemoryKind
from vbench.faults import (
    BusyForever,
    GoesSilent,
    LostPage,
    MisoStuck,
    MosiMisoShort,
    NoisyReplies,
    ReadFlips,
    SckCeiling,
    Silent,
    SlowWrites,
    StuckBits,
    WrongSignature,
)
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
        bus = Bus(AvrTarget(parts.get("atmega32u4")))
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


# -- flash -------------------------------------------------------------------------------------------------------------


def load_words(bus: Bus, start: int, data: bytes) -> None:
    for index in range(0, len(data), 2):
        bus.ask(f"40 00 {(start + index) // 2 & 0xFF:02X} {data[index]:02X}")
        bus.ask(f"48 00 {(start + index) // 2 & 0xFF:02X} {data[index + 1]:02X}")


def test_page_write_clears_bits_only_and_leaves_a_blank_buffer(make_bus: MakeBus) -> None:
    bus = make_bus()
    load_words(bus, 0, bytes(range(128)))
    bus.put("4C 00 7F 00")  # in-page bits are ignored: page 1 starts at word 0x40
    assert bus.target.flash[0x80:0x100] == bytes(range(128))
    load_words(bus, 2, b"\xf0\x0f")
    bus.put("4C 00 40 00")
    assert bus.target.flash[0x82] == 2 & 0xF0, "1 -> 0 only"
    assert bus.target.flash[0x84] == 4, "what was not loaded again stays"
    assert bus.ask("20 00 41 00") == bus.target.flash[0x82]
    assert bus.ask("28 00 41 00") == bus.target.flash[0x83]
    assert bus.target.violations == []


def test_reset_blanks_the_page_buffer(make_bus: MakeBus) -> None:
    bus = make_bus()
    load_words(bus, 0, b"\x00" * 8)
    assert bus.enter()
    bus.put("4C 00 00 00")
    assert bus.target.flash == bytearray(b"\xff") * 32768


def test_high_byte_before_its_low_byte_is_dropped(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.ask("40 00 00 11")
    bus.ask("48 00 01 22")
    bus.put("4C 00 00 00")
    assert bus.target.flash[:4] == b"\x11\xff\xff\xff"
    assert bus.kinds() == ["high-byte-first"]


def test_extended_address_reaches_the_upper_half_and_sticks(make_bus: MakeBus) -> None:
    bus = make_bus("atmega2560")
    bus.ask("4D 00 01 00")
    load_words(bus, 0, b"\x12\x34")
    bus.put("4C 00 00 00")
    assert bus.target.flash[0x20000:0x20002] == b"\x12\x34"
    assert bus.ask("28 00 00 00") == 0x34
    bus.ask("4D 00 00 00")
    assert bus.ask("28 00 00 00") == 0xFF
    assert bus.target.violations == []
    small = make_bus("atmega1284p")
    small.ask("4D 00 00 00")
    assert small.kinds() == ["unsupported-instruction"]


def test_writes_beyond_the_memory_are_refused(make_bus: MakeBus) -> None:
    bus = make_bus("attiny85")
    bus.put("4C 10 00 00")
    bus.put("C0 02 00 55")
    bus.put("C2 02 00 00")
    assert bus.kinds() == ["address-range"] * 3
    assert bus.target.flash.count(0xFF) == 8192
    assert bus.target.eeprom.count(0xFF) == 512


# -- waits -------------------------------------------------------------------------------------------------------------


def busy_s(bus: Bus, instruction: str) -> float:
    bus.ask(instruction)
    return bus.target.core.busy_until - bus.now


@pytest.mark.parametrize("part", ["atmega32u4", "atmega328p", "atmega1284p", "attiny85", "at90usb1286"])
def test_busy_times_come_from_the_data_sheet(make_bus: MakeBus, parts: Parts, part: str) -> None:
    times = parts.get(part).times
    for instruction, seconds in (
        ("AC 80 00 00", times.erase_s),
        ("C0 00 00 12", times.eeprom_s),
        ("C2 00 00 00", times.eeprom_s),
        ("AC A0 00 62", times.fuse_s),
        ("AC E0 00 FF", times.fuse_s),
    ):
        bus = make_bus(part)
        assert busy_s(bus, instruction) == pytest.approx(seconds), instruction
        while bus.ask("F0 00 00 00") & 1:
            pass
        assert bus.ask("30 00 00 00") == 0x1E
        assert bus.target.violations == []


def test_page_times_spread_around_4_ms_and_depend_on_the_seed_alone(make_bus: MakeBus) -> None:
    def times(seed: int) -> list[float]:
        bus = make_bus(seed=seed)
        measured = []
        for _ in range(60):
            measured.append(round(busy_s(bus, "4C 00 00 00"), 9))
            bus.settle()
        return measured

    first = times(1)
    assert first == times(1)
    assert first != times(2)
    assert min(first) >= 3.6e-3
    assert max(first) <= 4.4e-3
    assert max(first) - min(first) > 0.6e-3


@pytest.mark.parametrize(
    ("instruction", "shown"),
    [
        ("40 00 00 12", None),
        ("4C 00 00 00", None),
        ("C0 00 00 12", None),
        ("AC 80 00 00", None),
        ("AC A0 00 12", None),
        ("AC E0 00 00", None),
        ("A0 00 00 00", 0xFF),
        ("30 00 00 00", 0xFF),
        ("58 00 00 00", 0xFF),
        ("38 00 00 00", 0xFF),
    ],
)
def test_anything_but_polling_while_busy_is_dropped_and_counted(
    make_bus: MakeBus, instruction: str, shown: int | None
) -> None:
    bus = make_bus()
    bus.target.eeprom[0] = 0x12
    load_words(bus, 0, b"\x12\x34")
    bus.ask("4C 00 00 00")
    before = (bytes(bus.target.flash), bytes(bus.target.eeprom), dict(bus.target.fuses), bus.target.lock)
    assert bus.ask("F0 00 00 00") == 0x01
    assert bus.ask("20 00 00 00") == 0xFF, "the data poll of the memory being written"
    assert bus.target.violations == []
    answer = bus.ask(instruction)
    assert shown is None or answer == shown
    assert bus.kinds() == ["while-busy"]
    assert bus.target.violations[0].instruction == bytes.fromhex(instruction)
    assert before == (bytes(bus.target.flash), bytes(bus.target.eeprom), dict(bus.target.fuses), bus.target.lock)


def test_reset_while_busy_is_counted(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.ask("AC 80 00 00")
    bus.target.set_reset(False, bus.now)
    assert bus.kinds() == ["reset-while-busy"]


@pytest.mark.parametrize("part", ["atmega8", "atmega8a", "atmega16a", "atmega32a"])
def test_old_parts_have_no_ready_poll_and_no_eeprom_pages(make_bus: MakeBus, part: str) -> None:
    bus = make_bus(part)
    bus.ask("F0 00 00 00")
    bus.ask("C1 00 00 12")
    bus.ask("C2 00 00 00")
    assert bus.kinds() == ["unsupported-instruction"] * 3
    assert bus.ask("50 08 05 00") == 0x05, "no extended fuse either: the echo shows"
    bus.put("AC A4 00 00")
    assert bus.kinds()[-1] == "unsupported-instruction"


def test_unknown_instructions_are_counted(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.ask("99 00 00 00")
    bus.ask("AC 20 00 00")
    assert bus.kinds() == ["unknown-instruction"] * 2


def test_losing_power_in_a_page_write_leaves_it_half_done(make_bus: MakeBus) -> None:
    bus = make_bus()
    load_words(bus, 0, bytes(128))
    bus.ask("4C 00 00 00")
    bus.target.power_off(bus.now)
    assert bus.target.flash[:128] == bytes(64) + b"\xff" * 64
    assert bus.frame("30 00 00 00") == bytes(4)
    bus.target.power_on(bus.now, reset_active=True)
    bus.now += 0.02
    assert bus.frame("AC 53 00 00")[2] == 0x53, "power applied with reset low is an entry too"


# -- EEPROM, fuses, lock -----------------------------------------------------------------------------------------------


def test_eeprom_bytes_and_pages(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.put("C0 01 23 00")
    bus.put("C0 01 23 5A")
    assert bus.ask("A0 01 23 00") == 0x5A, "erases by itself"
    bus.ask("C1 00 02 77")
    bus.put("C2 01 20 00")
    assert bus.target.eeprom[0x120:0x124] == b"\xff\xff\x77\x5a", "only loaded bytes are written"


def test_chip_erase_and_eesave(make_bus: MakeBus) -> None:
    bus = make_bus(lock=0xFC)
    bus.target.flash[:] = bytes(32768)
    bus.target.eeprom[0] = 0x12
    bus.put("AC 9F 00 00")
    assert (bus.target.flash.count(0xFF), bus.target.eeprom[0], bus.target.lock) == (32768, 0xFF, 0x3F)
    bus.target.eeprom[0] = 0x12
    bus.put("AC A8 00 91")  # EESAVE programmed: acts at once
    bus.put("AC 80 00 00")
    assert bus.target.eeprom[0] == 0x12
    assert bus.target.fuses[MemoryKind.HFUSE] == 0x91, "fuses survive"
    assert bus.target.erase_count == 2


def test_fuses_keep_spien_and_show_what_does_not_exist_as_told(make_bus: MakeBus) -> None:
    for unimplemented, shown in ((0xFF, 0xFB), (0x00, 0x0B)):
        bus = make_bus(unimplemented=unimplemented)
        bus.put("AC A4 00 CB")
        assert bus.ask("50 08 00 00") == shown
        assert bus.target.fuses[MemoryKind.EFUSE] == 0x0B
        bus.put("AC A8 00 FF")
        assert bus.ask("58 08 00 00") == 0xDF, "SPIEN stays programmed"
        assert bus.target.violations == []


@pytest.mark.parametrize("part", ["atmega32u4", "atmega88p", "attiny85", "atmega8", "atmega16u2"])
def test_spien_cannot_be_lost_on_any_family(make_bus: MakeBus, parts: Parts, part: str) -> None:
    bus = make_bus(part)
    bus.put("AC A8 00 FF")
    bits = parts.get(part).bits["spien"]
    assert bits.is_programmed(bus.target.fuses[bits.memory])
    assert bus.enter()


def test_lock_bits_only_clear(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.put("AC E0 00 EF")
    bus.put("AC FF 00 FB")
    assert bus.target.lock == 0x2B
    bus.put("AC E0 00 FF")
    assert bus.ask("58 00 00 00") == 0xEB


def test_write_lock_refuses_writing_and_allows_reading(make_bus: MakeBus) -> None:
    bus = make_bus(lock=0xFE)
    bus.target.flash[0] = 0x42
    for instruction in ("40 00 00 00", "4C 00 00 00", "C0 00 00 00", "C1 00 00 00", "C2 00 00 00", "AC A0 00 00"):
        bus.put(instruction)
    assert bus.kinds() == ["write-locked"] * 6
    assert bus.ask("20 00 00 00") == 0x42
    assert bus.target.fuses[MemoryKind.LFUSE] == 0x5E
    bus.put("AC E0 00 FC")
    assert bus.target.lock == 0x3C, "lock bits can still be programmed"
    bus.put("AC 80 00 00")
    bus.put("AC A0 00 FF")
    assert bus.target.fuses[MemoryKind.LFUSE] == 0xFF, "chip erase opens it"


def test_read_lock_shows_the_echo_but_the_true_signature(make_bus: MakeBus) -> None:
    bus = make_bus(lock=0xFC)
    dump = [bus.ask(f"{low_or_high} 00 {word:02X} 00") for word in range(3) for low_or_high in ("20", "28")]
    assert dump == [0, 0, 1, 1, 2, 2]
    assert bus.ask("A0 00 07 00") == 7
    assert [bus.ask(f"30 00 0{index} 00") for index in range(3)] == [0x1E, 0x95, 0x87]
    assert bus.target.violations == []


def test_every_part_answers_its_signature_and_factory_fuses(make_bus: MakeBus, parts: Parts) -> None:
    seen = 0
    for part in parts:
        bus = make_bus(part.id, sck_hz=100e3, unimplemented=0x00)
        assert bytes(bus.ask(f"30 00 0{index} 00") for index in range(3)) == part.signature.value
        read = {MemoryKind.LFUSE: "50 00", MemoryKind.HFUSE: "58 08", MemoryKind.EFUSE: "50 08"}
        for fuse in part.fuses:
            assert bus.ask(f"{read[fuse.memory]} 00 00") == fuse.default & fuse.mask, (part.id, fuse.memory)
        assert bus.ask("38 00 00 00") == 0x5A
        seen += 1
    assert seen >= 34


# -- faults ------------------------------------------------------------------------------------------------------------


def test_stuck_bits_survive_erase_and_write(make_bus: MakeBus) -> None:
    bus = make_bus(
        faults=[
            StuckBits(memory=MemoryKind.FLASH, address=5, mask=0x11, level=1),
            StuckBits(memory=MemoryKind.FLASH, address=7, mask=0x80, level=0),
            StuckBits(memory=MemoryKind.EEPROM, address=2, mask=0x01, level=0),
            StuckBits(memory=MemoryKind.LFUSE, address=0, mask=0x01, level=0),
            StuckBits(memory=MemoryKind.LOCK, address=0, mask=0x01, level=1),
        ]
    )
    bus.put("AC 80 00 00")
    assert bus.target.flash[7] == 0x7F, "not blank after erase"
    assert bus.target.eeprom[2] == 0xFE
    load_words(bus, 0, bytes(128))
    bus.put("4C 00 00 00")
    assert bus.target.flash[:8] == b"\0\0\0\0\0\x11\0\0"
    bus.put("AC A0 00 FF")
    bus.put("AC E0 00 FC")
    assert (bus.target.fuses[MemoryKind.LFUSE], bus.target.lock) == (0xFE, 0x3D)


def test_read_flips_leave_the_cell_right(make_bus: MakeBus) -> None:
    bus = make_bus(faults=[ReadFlips(mask=0x10, reads=(1,))])
    assert [bus.ask("20 00 00 00") for _ in range(3)] == [0xFF, 0xEF, 0xFF]
    noisy = make_bus(faults=[ReadFlips(rate=0.1)], seed=4)
    flipped = sum(noisy.ask("20 00 00 00") != 0xFF for _ in range(2000))
    assert 120 < flipped < 280
    assert noisy.target.flash[0] == 0xFF


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        (Silent(), "00 00 00 00"),
        (Silent(level=0xFF), "FF FF FF FF"),
        (MisoStuck(level=0xFF), "FF FF FF FF"),
        (MosiMisoShort(), "30 00 01 00"),
        (WrongSignature(b"\x1e\x95\x0f"), "00 30 00 95"),
        (GoesSilent(after_instructions=1), "00 00 00 00"),
        (SckCeiling(hz=100e3), "00 18 00 00"),
    ],
)
def test_what_a_broken_board_answers(make_bus: MakeBus, fault: object, reply: str) -> None:
    bus = make_bus(entered=False, faults=[fault])
    bus.enter()
    assert bus.frame("30 00 01 00") == bytes.fromhex(reply)


def test_miso_stuck_still_lets_commands_in(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False, faults=[MisoStuck(level=0x00)])
    assert not bus.enter()
    bus.put("AC 80 00 00")
    assert bus.target.erase_count == 1


def test_noise_hits_identity_too(make_bus: MakeBus) -> None:
    bus = make_bus(entered=False, faults=[NoisyReplies(rate=0.2)], seed=3)
    bus.pulse()
    bus.frame("AC 53 00 00")
    signatures = {bytes(bus.ask(f"30 00 0{index} 00") for index in range(3)) for _ in range(20)}
    assert len(signatures) > 2
    assert b"\x1e\x95\x87" in signatures


def test_busy_for_ever_slow_and_lost_pages(make_bus: MakeBus) -> None:
    stuck = make_bus(faults=[BusyForever(after_writes=2)])
    stuck.put("AC 80 00 00")
    assert stuck.ask("F0 00 00 00") == 0
    stuck.put("4C 00 00 00")
    stuck.now += 1e6
    assert stuck.ask("F0 00 00 00") == 1

    slow = make_bus(faults=[SlowWrites(factor=3.0)])
    assert busy_s(slow, "AC 80 00 00") == pytest.approx(27e-3)

    lossy = make_bus(faults=[LostPage(address=0x85)])
    for page in ("00", "40", "80"):
        load_words(lossy, 0, bytes(128))
        lossy.put(f"4C 00 {page} 00")
    assert lossy.target.flash[:384] == bytes(128) + b"\xff" * 128 + bytes(128)
