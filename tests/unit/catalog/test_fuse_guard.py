"""The fuse guard, family by family: the same byte is harmless on one part and the end of another."""

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.fuse_guard import judge_fuses, judge_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, RefusedError
from ispd.model.part import AvrPart, MemoryKind

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE


def judge(
    part: str, fuses: dict[MemoryKind, int], current: dict[MemoryKind, int] | None = None, **options: int
) -> list[tuple[str, str]]:
    """Findings as (level, bits), with the part's own presets known."""
    chosen = PARTS.avr(part)
    findings = judge_fuses(chosen, fuses, current, known_presets(chosen, BOOTLOADERS), **options)
    return [(finding.level.value, finding.bits) for finding in findings]


@pytest.mark.parametrize(
    ("part", "fuses", "expected"),
    [
        # bit 6 of the high byte: RSTDISBL on a U2, DWEN on a mega328P, JTAGEN on a U4, WDTON on a mega8
        ("atmega32u2", {H: 0x99}, [("refuse", "rstdisbl")]),
        ("atmega328p", {H: 0x99}, [("refuse", "dwen")]),
        ("atmega32u4", {H: 0x99}, []),
        ("atmega8", {H: 0x99}, [("confirm", "wdton")]),
        # bit 7: DWEN on a U2, RSTDISBL on the others, OCDEN on a U4
        ("atmega32u2", {H: 0x19}, [("refuse", "dwen"), ("refuse", "rstdisbl")]),
        ("atmega8u2", {H: 0x5D}, [("refuse", "dwen")]),
        ("at90usb162", {H: 0x9B}, [("refuse", "rstdisbl")]),
        ("atmega328p", {H: 0x19}, [("refuse", "dwen"), ("refuse", "rstdisbl")]),
        ("atmega328", {H: 0x5D}, [("refuse", "rstdisbl")]),
        ("atmega168", {H: 0x5F}, [("refuse", "rstdisbl")]),
        ("atmega8a", {H: 0x59}, [("refuse", "rstdisbl")]),
        ("atmega32u4", {H: 0x5B}, [("confirm", "jtagen"), ("confirm", "ocden")]),
        ("attiny85", {H: 0x5F}, [("refuse", "rstdisbl")]),
        ("attiny84", {H: 0x9F}, [("refuse", "dwen")]),
        # SPIEN can only be a mistake
        ("atmega32u4", {H: 0xFB}, [("refuse", "spien"), ("confirm", "jtagen"), ("check", "")]),
        ("attiny25", {H: 0xFF}, [("refuse", "spien")]),
        # clocks
        ("atmega32u4", {L: 0xE0}, [("confirm", "cksel")]),
        ("atmega32u4", {L: 0xE1}, [("confirm", "cksel")]),
        ("atmega32u4", {L: 0xE4}, [("confirm", "cksel")]),
        ("atmega32u4", {L: 0xDF}, [("confirm", "cksel")]),
        ("atmega32u4", {L: 0xE2}, []),
        ("atmega328p", {L: 0xE3}, [("confirm", "cksel")]),
        ("atmega328p", {L: 0xF7}, [("confirm", "cksel")]),
        ("atmega328pb", {L: 0xE6}, [("confirm", "cksel")]),
        ("atmega32a", {L: 0xE5}, [("confirm", "cksel")]),
        ("atmega32a", {L: 0xE4}, []),
        ("attiny85", {L: 0xE1}, []),
        ("attiny84", {L: 0xE1}, [("confirm", "cksel")]),
        # surprises
        ("atmega32u4", {L: 0x92}, [("confirm", "ckout")]),
        ("atmega32u4", {H: 0x91}, [("confirm", "eesave")]),
        ("atmega32u4", {H: 0x8B}, [("confirm", "wdton")]),
        ("atmega328p", {E: 0xF8}, [("confirm", "bodlevel")]),
        # bytes of other rows of the table are known: nobody is asked
        ("atmega32u4", {L: 0xFF, H: 0xD0, E: 0xF8}, []),
        ("atmega32u4", {E: 0xCB}, []),
        ("atmega32u4", {L: 0x52, H: 0x99, E: 0xFB}, []),
        # absent bits: all 1 and all 0 are ways of writing, anything else is for another part
        ("atmega328p", {E: 0x05}, []),
        ("atmega328p", {E: 0xFD}, []),
        ("atmega328p", {E: 0xAD}, [("check", "")]),
        # two bytes swapped
        ("atmega32u4", {L: 0xD9}, [("confirm", "cksel"), ("check", "")]),
        ("atmega32u4", {H: 0xF3}, [("refuse", "spien"), ("confirm", "jtagen"), ("confirm", "eesave"), ("check", "")]),
    ],
)
def test_verdict_follows_the_parts_own_bits(part, fuses, expected):
    found = judge(part, fuses)
    assert sorted(found) == sorted(expected)
    assert [level for level, _ in found] == sorted(
        (level for level, _ in found), key=["refuse", "confirm", "check"].index
    )


def test_what_does_not_change_is_not_asked():
    now = {L: 0xDF, H: 0x51, E: 0xF3}
    assert judge("atmega32u4", {L: 0xEF}, now) == []
    assert judge("atmega328p", {L: 0xF7}, {L: 0xFF}) == []
    assert judge("atmega32u4", {L: 0xE0}, now) == [("confirm", "cksel")]
    assert judge("atmega32u4", {H: 0x91}, now) == [("confirm", "jtagen")]
    assert judge("atmega32u4", {H: 0x53}, now) == []
    assert judge("atmega32u4", {H: 0x43}, now) == [("confirm", "wdton")]
    # what ends ISP is refused whatever the part holds now
    assert judge("atmega328p", {H: 0x99}, {H: 0x99}) == [("refuse", "dwen")]


def test_brown_out_above_the_supply_is_refused_even_for_a_preset():
    assert judge("atmega32u4", {E: 0xF8}, supply_mv=5000) == []
    assert judge("atmega32u4", {E: 0xF8}, supply_mv=4300) == []
    assert judge("atmega32u4", {E: 0xF8}, supply_mv=3300) == [("refuse", "bodlevel")]
    assert judge("atmega32u4", {E: 0xFE}, supply_mv=3300) == []
    # the classic parts need BODEN as well
    assert judge("atmega32a", {L: 0x24}, supply_mv=3300) == [("refuse", "bodlevel")]
    assert judge("atmega32a", {L: 0x64}, supply_mv=3300) == []


@pytest.mark.parametrize(
    ("part", "fuses"), [("atmega32u4", {L: 256}), ("atmega32u4", {E: -1}), ("atmega32a", {E: 0xFF})]
)
def test_what_cannot_be_written_is_an_error_and_not_a_question(part, fuses):
    with pytest.raises(RefusedError) as caught:
        judge(part, fuses)
    assert caught.value.code is ErrorCode.INVALID_PARAMETER
    assert caught.value.facts.field == next(iter(fuses))


def test_every_byte_of_every_part_is_judged_by_its_bits():
    """Exhaustive: refusal happens exactly when a bit that ends ISP is touched, for all 256 values of every fuse byte."""
    for part in PARTS.of(AvrPart):
        fatal = [part.bits[name] for name in ("rstdisbl", "dwen") if name in part.bits]
        for fuse in part.fuses:
            for value in range(256):
                refused = any(f.level == "refuse" for f in judge_fuses(part, {fuse.memory: value}, None, ()))
                ends_isp = any(g.memory == fuse.memory and g.is_programmed(value) for g in fatal)
                spien = part.bits["spien"]
                asks_spien = spien.memory == fuse.memory and not spien.is_programmed(value)
                assert refused == (ends_isp or asks_spien), (part.id, fuse.memory, value)


def test_lock_byte():
    part, tiny = PARTS.avr("atmega32u4"), PARTS.avr("attiny85")

    def levels(on: AvrPart, lock: int, current: int | None = None, erase: bool = True) -> list[tuple[str, str]]:
        return [(finding.level.value, finding.bits) for finding in judge_lock(on, lock, current, erase=erase)]

    assert levels(part, 0xFF) == levels(part, 0x3F) == levels(part, 0x2F) == levels(part, 0xEF) == []
    assert levels(part, 0x3E) == levels(part, 0x3C) == [("check", "lb")]
    assert levels(part, 0x3D) == [("confirm", "lb")]
    assert levels(part, 0x3B) == [("check", "blb0")]
    assert levels(tiny, 0x03) == []
    # only a chip erase opens bits again
    assert levels(part, 0x3F, 0x2F) == []
    assert levels(part, 0x3F, 0x2F, erase=False) == [("refuse", "")]
    assert levels(part, 0xEF, 0x2F, erase=False) == []
    with pytest.raises(RefusedError):
        judge_lock(part, 0x100)
