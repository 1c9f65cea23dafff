"""Our emulated Bus Pirate is what an unmodified avrdude believes it to be.

The benches run faster than life, so that what avrdude leaves to the slowness of USB (it does not wait between reset and the
first instruction) is never too short here. On a v4 in real time it is: see the data sheet's 20 ms.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.pty_board import PtyBoard
from vbench.target import AvrTarget

pytestmark = pytest.mark.oracle

TIME_SCALE = 16.0
V3, V4 = BusPirateHardware.V3, BusPirateHardware.V4
FLASH = bytes((address * 7 + (address >> 8)) & 0xFF for address in range(1500)) + b"\xff" * 300 + b"tail!!"
EEPROM = bytes(range(0x40, 0x54))
BY_BYTES = ("-x", "nopagedread")
"""avrdude 7.1 crashes where it can read by pages but not write by pages; so it is told to do neither."""


@pytest.fixture(scope="module")
def avrdude() -> str:
    """Path of the tool. It is a requirement of this suite, so its absence is a failure and not a skip."""
    found = shutil.which("avrdude")
    if found is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    return found


def run(
    avrdude: str, board: PtyBoard, part: str, *operations: str, options: Sequence[str] = ("-x", "spifreq=1")
) -> subprocess.CompletedProcess[str]:
    arguments = [avrdude, "-c", "buspirate", "-P", board.path, "-p", part, *options]
    for operation in operations:
        arguments += ["-U", operation]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("hardware", "firmware", "part", "avrdude_id", "fuses"),
    [
        (V3, "6.1", "atmega32u4", "m32u4", {"efuse": 0xFB, "hfuse": 0xD9, "lfuse": 0xFF, "lock": 0xEF}),
        (V4, "6.3-r2151", "atmega32u4", "m32u4", {"efuse": 0xFB, "hfuse": 0xD9, "lfuse": 0xFF, "lock": 0xEF}),
        (V3, "7.0", "atmega8a", "m8a", {"hfuse": 0xD1, "lfuse": 0xFF, "lock": 0xEF}),
        (V4, "7.0", "attiny85", "t85", {"efuse": 0xFE, "hfuse": 0xDD, "lfuse": 0xE2, "lock": 0xFE}),
        (V3, "6.1", "atmega1284p", "m1284p", {"efuse": 0xFD, "hfuse": 0xD3, "lfuse": 0xFF, "lock": 0xEF}),
    ],
)
def test_writes_verifies_and_reads_back_everything(
    avrdude: str,
    tmp_path: Path,
    hardware: BusPirateHardware,
    firmware: str,
    part: str,
    avrdude_id: str,
    fuses: dict[str, int],
) -> None:
    (tmp_path / "flash.bin").write_bytes(FLASH)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    target = AvrTarget(load_parts().avr(part), seed=1)
    programmer = BusPirate(hardware, firmware, target=target)
    with PtyBoard(programmer, time_scale=TIME_SCALE) as board:
        written = run(
            avrdude,
            board,
            avrdude_id,
            f"flash:w:{tmp_path / 'flash.bin'}:r",
            f"eeprom:w:{tmp_path / 'eeprom.bin'}:r",
            *(f"{name}:w:0x{value:02X}:m" for name, value in fuses.items()),
        )
        assert written.returncode == 0, written.stderr
        assert "paged flash write enabled" in written.stderr
        assert not target.powered, "it switches the supply off when it leaves"
        # a second process: the port survives closing, and the new clock fuses are latched
        names = ("lfuse", "lock", "signature")
        read = run(avrdude, board, avrdude_id, *(f"{name}:r:{tmp_path / name}.out:r" for name in names))
        assert read.returncode == 0, read.stderr
        assert board.target is target

    assert target.flash[: len(FLASH)] == FLASH
    assert target.flash[len(FLASH) :].count(0xFF) == len(target.flash) - len(FLASH)
    assert target.eeprom[: len(EEPROM)] == EEPROM
    wanted = {MemoryKind(name): value & target.part.mask(MemoryKind(name)) for name, value in fuses.items()}
    assert {**target.fuses, MemoryKind.LOCK: target.lock} == wanted
    assert target.erase_count == 1
    assert target.violations == []
    assert programmer.lost == 0
    assert board.unread == 0
    assert (tmp_path / "lfuse.out").read_bytes() == bytes([fuses["lfuse"]])
    assert (tmp_path / "lock.out").read_bytes()[0] & target.part.lock_mask == target.lock
    assert (tmp_path / "signature.out").read_bytes() == target.part.signature.value


@pytest.mark.parametrize(
    ("hardware", "firmware", "options"),
    [
        (V3, "5.10", ()),  # no paged reads: avrdude finds out
        (V3, "7.1", BY_BYTES),  # no reply at all to "write 512, read 0"; but refuses the probe, so that none is sent
        (V4, "7.1-2024", BY_BYTES),
        (V3, "8.0", BY_BYTES),
        (V4, "8.0", BY_BYTES),
    ],
)
def test_firmwares_that_take_it_byte_by_byte(
    avrdude: str, tmp_path: Path, hardware: BusPirateHardware, firmware: str, options: tuple[str, ...]
) -> None:
    data = FLASH[:200]
    (tmp_path / "flash.bin").write_bytes(data)
    target = AvrTarget(load_parts().avr("atmega32u4"))
    with PtyBoard(BusPirate(hardware, firmware, target=target), time_scale=TIME_SCALE) as board:
        result = run(
            avrdude, board, "m32u4", f"flash:w:{tmp_path / 'flash.bin'}:r", options=("-x", "spifreq=1", *options)
        )
    assert result.returncode == 0, result.stderr
    assert target.flash[: len(data)] == data
    assert target.violations == []


def test_falls_back_where_the_bulk_read_refuses(avrdude: str, tmp_path: Path) -> None:
    """Word address plus byte count must stay below 65,536: the top of an ATmega1284P's flash does not."""
    data = bytes((index * 11 + 3) & 0xFF for index in range(512))
    start = 0x20000 - len(data)
    path = tmp_path / "top.hex"
    path.write_bytes(write_hex(Image.of([Segment(start, data)])))
    target = AvrTarget(load_parts().avr("atmega1284p"))
    with PtyBoard(BusPirate(target=target), time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, "m1284p", f"flash:w:{path}:i")
    assert result.returncode == 0, result.stderr
    assert "Paged Read command returned zero" in result.stderr
    assert target.flash[start:] == data
    assert target.violations == []


def test_the_inverted_clock_edge_shows(avrdude: str, tmp_path: Path) -> None:
    target = AvrTarget(load_parts().avr("atmega32u4"))
    with PtyBoard(BusPirate(V3, "7.1-2018", target=target), time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, "m32u4", "lfuse:w:0xFF:m")
    assert result.returncode != 0
    assert target.erase_count == 0
    assert target.fuses[MemoryKind.LFUSE] == 0x5E


def test_its_clock_rescues_a_target_without_one(avrdude: str) -> None:
    """An ATtiny85 fused for an external clock, which the Bus Pirate makes on AUX."""
    target = AvrTarget(load_parts().avr("attiny85"), fuses={MemoryKind.LFUSE: 0xE0})
    with PtyBoard(BusPirate(target=target), time_scale=TIME_SCALE) as board:
        without = run(avrdude, board, "t85", "lfuse:w:0xE2:m")
        rescued = run(avrdude, board, "t85", "lfuse:w:0xE2:m", options=("-x", "spifreq=1", "-x", "cpufreq=1000"))
    assert without.returncode != 0
    assert rescued.returncode == 0, rescued.stderr
    assert target.fuses[MemoryKind.LFUSE] == 0xE2
    assert target.violations == []
