"""Damaged parts and broken boards, as they show on the wire."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import Bus

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

MakeBus = Callable[..., Bus]


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
    bus.load_words(0, bytes(128))
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
    assert slow.busy_s("AC 80 00 00") == pytest.approx(27e-3)

    lossy = make_bus(faults=[LostPage(address=0x85)])
    for page in ("00", "40", "80"):
        lossy.load_words(0, bytes(128))
        lossy.put(f"4C 00 {page} 00")
    assert lossy.target.flash[:384] == bytes(128) + b"\xff" * 128 + bytes(128)
