"""The memories of an AVR as its data sheet describes them: pages, waits, fuses, lock."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import Bus

from ispd.catalog.parts import Parts
from ispd.model.part import AvrPart, MemoryKind

MakeBus = Callable[..., Bus]


# -- flash -------------------------------------------------------------------------------------------------------------


def test_page_write_clears_bits_only_and_leaves_a_blank_buffer(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.load_words(0, bytes(range(128)))
    bus.put("4C 00 7F 00")  # in-page bits are ignored: page 1 starts at word 0x40
    assert bus.target.flash[0x80:0x100] == bytes(range(128))
    bus.load_words(2, b"\xf0\x0f")
    bus.put("4C 00 40 00")
    assert bus.target.flash[0x82] == 2 & 0xF0, "1 -> 0 only"
    assert bus.target.flash[0x84] == 4, "what was not loaded again stays"
    assert bus.ask("20 00 41 00") == bus.target.flash[0x82]
    assert bus.ask("28 00 41 00") == bus.target.flash[0x83]
    assert bus.target.violations == []


def test_reset_blanks_the_page_buffer(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.load_words(0, b"\x00" * 8)
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
    bus.load_words(0, b"\x12\x34")
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


@pytest.mark.parametrize("part", ["atmega32u4", "atmega328p", "atmega1284p", "attiny85", "at90usb1286"])
def test_busy_times_come_from_the_data_sheet(make_bus: MakeBus, parts: Parts, part: str) -> None:
    times = parts.avr(part).times
    for instruction, seconds in (
        ("AC 80 00 00", times.erase_s),
        ("C0 00 00 12", times.eeprom_s),
        ("C2 00 00 00", times.eeprom_s),
        ("AC A0 00 62", times.fuse_s),
        ("AC E0 00 FF", times.fuse_s),
    ):
        bus = make_bus(part)
        assert bus.busy_s(instruction) == pytest.approx(seconds), instruction
        while bus.ask("F0 00 00 00") & 1:
            pass
        assert bus.ask("30 00 00 00") == 0x1E
        assert bus.target.violations == []


def test_page_times_spread_around_4_ms_and_depend_on_the_seed_alone(make_bus: MakeBus) -> None:
    def times(seed: int) -> list[float]:
        bus = make_bus(seed=seed)
        measured = []
        for _ in range(60):
            measured.append(round(bus.busy_s("4C 00 00 00"), 9))
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
    bus.load_words(0, b"\x12\x34")
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
    bus.load_words(0, bytes(128))
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
    bits = parts.avr(part).bits["spien"]
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
    for part in parts.of(AvrPart):
        bus = make_bus(part.id, sck_hz=100e3, unimplemented=0x00)
        assert bytes(bus.ask(f"30 00 0{index} 00") for index in range(3)) == part.signature.value
        read = {MemoryKind.LFUSE: "50 00", MemoryKind.HFUSE: "58 08", MemoryKind.EFUSE: "50 08"}
        for fuse in part.fuses:
            assert bus.ask(f"{read[fuse.memory]} 00 00") == fuse.default & fuse.mask, (part.id, fuse.memory)
        assert bus.ask("38 00 00 00") == 0x5A
        seen += 1
    assert seen >= 34
