"""Reports: what a person reads about fuses, parts and bootloaders."""

import msgspec
import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.fuses import known_presets
from ispd.catalog.parts import load_parts
from ispd.catalog.reports import describe_bootloader, describe_part, explain_fuses
from ispd.errors import RefusedError
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.report import FuseReport

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE


def explain(part: str, fuses: dict[MemoryKind, int]) -> FuseReport:
    chosen = PARTS.avr(part)
    return explain_fuses(chosen, fuses, known_presets(chosen, BOOTLOADERS))


@pytest.mark.parametrize(
    ("part", "fuses", "clock_hz", "clock", "brown_out", "boot", "preset"),
    [
        (
            "m32u4",
            {},
            None,
            "crystal or resonator, divided by 8",
            "2.6 V",
            "0x7000..0x7FFF (4096 bytes); the part starts at 0x0000",
            "factory",
        ),
        (
            "m32u4",
            {L: 0x52, E: 0xFB},
            1_000_000,
            "8 MHz, divided by 8 to 1 MHz",
            "2.6 V",
            "0x7000",
            "factory, RC order code",
        ),
        ("m32u4", {L: 0xFF, H: 0xD0, E: 0xC8}, None, "crystal", "4.3 V", "starts at 0x7000", "caterina-astar"),
        ("m32u4", {L: 0xE3}, None, "reserved", "2.6 V", "0x7000", None),
        ("usb1286", {}, None, "crystal", "2.6 V", "0x1E000..0x1FFFF (8192 bytes)", "factory"),
        ("m328p", {L: 0xD7, H: 0xD0, E: 0x04}, None, "full swing", "4.3 V", "0x7000..0x7FFF", "usbasploader-m328p"),
        ("m328p", {H: 0xDA, E: 0xF8}, 1_000_000, "1 MHz", "reserved", "0x7800..0x7FFF (2048 bytes)", None),
        ("m32a", {L: 0x0F, H: 0xD0}, None, "crystal", "4.0 V", "starts at 0x7000", "bootloadhid-m32a"),
        ("m32a", {}, 1_000_000, "1 MHz", "off", "(4096 bytes)", "factory"),
        ("m168", {E: 0xF8}, 1_000_000, "1 MHz", "off", "0x3800..0x3FFF (2048 bytes); the part starts at 0x3800", None),
        ("t85", {L: 0xE1}, 16_000_000, "PLL", "off", "none", None),
        ("t85", {L: 0x63}, 200_000, "divided by 8 to 200 kHz", "off", "none", None),
    ],
)
def test_fuses_in_words(part, fuses, clock_hz, clock, brown_out, boot, preset):
    report = explain(part, fuses)
    assert report.clock_hz == clock_hz
    assert clock in report.clock
    assert brown_out in report.brown_out
    assert boot in report.boot_section
    assert report.preset == preset
    chosen = PARTS.avr(part)
    assert report.fuses == {f.memory.value: fuses.get(f.memory, f.default) for f in chosen.fuses}
    # every bit that exists is explained, once
    for fuse in chosen.fuses:
        assert sum(chosen.bits[bit.name].mask for bit in report.bits if bit.memory == fuse.memory) == fuse.mask
    assert all(bit.meaning for bit in report.bits)


def test_a_bit_is_told_by_its_state():
    on, off = (
        {bit.name: (bit.programmed, bit.meaning) for bit in explain("m32u4", {H: value}).bits} for value in (0x98, 0xD9)
    )
    assert on["jtagen"][0] is on["bootrst"][0] is True
    assert off["jtagen"] == (False, "JTAG off")
    assert off["bootrst"] == (False, "starts at address 0")
    assert on["bootrst"][1] == "starts in the boot section"
    assert [f.bits for f in explain("m328p", {H: 0x59}).findings] == ["rstdisbl"]
    with pytest.raises(RefusedError):
        explain("m32a", {E: 0xFF})


@pytest.mark.parametrize(
    ("part", "lfuse", "crystal"),
    [
        ("m32u4", 0xFF, "crystal or resonator, 8 to 16 MHz"),
        ("m328p", 0xEC, "crystal or resonator, 3 to 8 MHz"),
        ("t85", 0xE8, "crystal or resonator, 0.4 to 0.9 MHz"),
        ("m32a", 0xFF, "crystal or resonator, 3 to 8 MHz"),
        ("m328p", 0xF7, "crystal, full swing"),
        ("m32u4", 0xE2, "internal RC oscillator, 8 MHz"),
    ],
)
def test_a_crystal_is_told_with_its_range(part, lfuse, crystal):
    meanings = {bit.name: bit.meaning for bit in explain(part, {L: lfuse}).bits}
    assert meanings["cksel"] == crystal


@pytest.mark.parametrize(
    ("part", "lfuse", "start"),
    [
        ("m32u4", 0x5E, "starts after 258 clocks and 65 ms"),
        ("m32u4", 0xFF, "starts after 16384 clocks and 65 ms"),
        ("m328p", 0xD7, "starts after 16384 clocks"),
        ("m328p", 0x62, "starts after 6 clocks and 65 ms"),
        ("m328p", 0x72, "reserved setting"),
        ("m32a", 0x1F, "starts after 16384 clocks"),
        ("m32a", 0xE1, "starts after 6 clocks and 65 ms"),
        ("t85", 0x51, "start-up delay setting 1 of the clock source"),
    ],
)
def test_a_start_up_time_is_told(part, lfuse, start):
    assert {bit.name: bit.meaning for bit in explain(part, {L: lfuse}).bits}["sut"] == start


def test_with_full_swing_a_classic_part_takes_any_crystal():
    meanings = {bit.name: bit.meaning for bit in explain("m32a", {L: 0x0F, H: 0xC9}).bits}
    assert meanings["cksel"] == "crystal or resonator, 1 MHz and more"


def test_bits_that_do_not_exist_are_masked_and_both_values_shown():
    report = explain("m328p", {E: 0xFC})
    assert [(one.value, one.mask, one.effective, one.asked) for one in report.bytes] == [
        (0x62, 0xFF, 0x62, False),
        (0xD9, 0xFF, 0xD9, False),
        (0xFC, 0x07, 0x04, True),
    ]
    # the guide writes the byte with its absent bits 0: it is the same byte
    assert explain("m328p", {L: 0xD7, H: 0xD0, E: 0xFC}).preset == "usbasploader-m328p"
    for part in PARTS.of(AvrPart):
        for one in explain(part.id, {}).bytes:
            assert one.effective == one.value & part.mask(one.memory)


@pytest.mark.parametrize(
    ("part", "lock", "meanings"),
    [
        ("m32u4", 0xFF, ["open to programs", "open to programs", "open"]),
        (
            "m32u4",
            0x0C,
            ["neither read nor write the boot section", "open to programs", "neither read nor written by ISP"],
        ),
        (
            "m32u4",
            0x36,
            [
                "open to programs",
                "bootloader cannot read the application section",
                "can be read but not written by ISP",
            ],
        ),
        ("t85", 0x03, ["open"]),
        ("t85", 0xFD, ["not a documented mode"]),
    ],
)
def test_lock_bits_in_words(part, lock, meanings):
    chosen = PARTS.avr(part)
    bits = [b for b in explain_fuses(chosen, {}, lock=lock).bits if b.memory is MemoryKind.LOCK]
    assert len(bits) == len(meanings)
    assert all(words in bit.meaning for words, bit in zip(meanings, bits, strict=True))


def test_every_report_is_plain_data():
    """They go out over the API as they are."""
    reports: list[object] = [describe_part(part) for part in PARTS]
    reports += [describe_bootloader(b) for b in BOOTLOADERS]
    reports += [explain(part.id, {}) for part in PARTS.of(AvrPart)]
    for report in reports:
        assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(report)), type(report)) == report
    u4 = describe_part(PARTS.avr("m32u4"))
    assert (u4.signature, u4.boot_sizes) == ("1E 95 87", (512, 1024, 2048, 4096))
    assert u4.isp_pins == {"sck": "PB1", "copi": "PB2", "cipo": "PB3"}
    assert (u4.fuses, u4.fuse_masks["efuse"]) == ({"lfuse": 0x5E, "hfuse": 0x99, "efuse": 0xF3}, 0x0F)
    assert describe_part(PARTS.avr("t85")).boot_sizes == ()
    dfu = describe_bootloader(BOOTLOADERS.get("atmel-dfu-usb128"))
    assert (dfu.chips, dfu.tool_max_bytes, dfu.application_start, dfu.by_hand) == ((), None, 0, "")
    uf2 = describe_bootloader(BOOTLOADERS.get("rp2040"))
    assert (uf2.chips, uf2.application_start, uf2.section_start) == (("RP2040",), 0x10000000, None)
    assert "drive" in uf2.by_hand
    assert "Teensy" in describe_bootloader(BOOTLOADERS.get("halfkay-32u4")).shares_usb
    assert describe_bootloader(BOOTLOADERS.get("atmel-dfu-usb64")).tool_max_bytes == 57_344
    assert (dfu.section_start, dfu.section_bytes, dfu.fuse_alternatives) == (0x1E000, 8192, {"hfuse": (0x99,)})
