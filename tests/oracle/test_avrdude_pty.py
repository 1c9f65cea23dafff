"""Our emulated ArduinoISP is what an unmodified avrdude believes it to be."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from vbench.faults import StuckBits
from vbench.line import Flavour
from vbench.pty_board import PtyBoard
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

pytestmark = pytest.mark.oracle

TIME_SCALE = 8.0
FLASH = bytes((address * 7 + (address >> 8)) & 0xFF for address in range(6 * 1024)) + b"\xff" * 300 + b"tail!!"
EEPROM = bytes(range(0x40, 0x60))
EEPROM_PAGE = 4


@pytest.fixture(scope="module")
def avrdude() -> str:
    """Path of the tool. It is a requirement of this suite, so its absence is a failure and not a skip."""
    found = shutil.which("avrdude")
    if found is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "flash.bin"
    path.write_bytes(FLASH)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    return path


def run(avrdude: str, board: PtyBoard, *operations: str, part: str = "m32u4") -> subprocess.CompletedProcess[str]:
    arguments = [avrdude, "-c", "stk500v1", "-P", board.path, "-b", "19200", "-p", part]
    for operation in operations:
        arguments += ["-U", operation]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


def test_writes_verifies_and_reads_back_everything(avrdude: str, image: Path, tmp_path: Path) -> None:
    target = AvrTarget(load_parts().avr("atmega32u4"), seed=1)
    programmer = SerialProgrammer(Flavour.UART, baud=19200, target=target)
    with PtyBoard(programmer, time_scale=TIME_SCALE) as board:
        written = run(
            avrdude,
            board,
            f"flash:w:{image}:r",
            f"eeprom:w:{tmp_path / 'eeprom.bin'}:r",
            "efuse:w:0xFB:m",
            "hfuse:w:0xD9:m",
            "lfuse:w:0xFF:m",
            "lock:w:0xEF:m",
        )
        assert written.returncode == 0, written.stderr
        # a second process: the port survives closing, and the new clock fuses are latched by entering again
        names = ("flash", "eeprom", "lfuse", "hfuse", "efuse", "lock", "signature", "calibration")
        read = run(avrdude, board, *(f"{name}:r:{tmp_path / name}.out:r" for name in names))
        assert read.returncode == 0, read.stderr
        assert board.target is target

    assert target.flash[: len(FLASH)] == FLASH
    assert target.flash[len(FLASH) :].count(0xFF) == len(target.flash) - len(FLASH)
    assert target.fuses == {MemoryKind.LFUSE: 0xFF, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0x0B}
    assert target.lock == 0x2F
    assert target.erase_count == 1
    assert target.violations == []
    assert programmer.mcu.lost == 0
    assert board.unread == 0
    # avrdude 7.1 sends EEPROM byte addresses, the sketch doubles them: each 4-byte page lands at twice its address
    for start in range(0, len(EEPROM), EEPROM_PAGE):
        assert target.eeprom[2 * start : 2 * start + EEPROM_PAGE] == EEPROM[start : start + EEPROM_PAGE]

    def dump(name: str) -> bytes:
        return (tmp_path / f"{name}.out").read_bytes()

    assert dump("flash") == FLASH  # avrdude drops trailing blank cells
    assert dump("eeprom")[: len(EEPROM)] == EEPROM  # and reads where it wrote
    assert [dump(name)[0] for name in ("lfuse", "hfuse", "efuse", "lock")] == [0xFF, 0xD9, 0xFB, 0xEF]
    assert dump("signature") == target.part.signature.value


@pytest.mark.parametrize(
    ("part", "avrdude_id", "flavour", "start"),
    [
        ("atmega2560", "m2560", Flavour.LEONARDO, 0x1FF00),  # crosses 64 Kwords: extended address
        ("at90usb1286", "usb1286", Flavour.TEENSYDUINO, 0x10000 - 256),  # 256-byte pages, word address 0x8000
        ("atmega8a", "m8a", Flavour.UNO, 0x200),  # no ready poll, 64-byte pages
        ("attiny85", "t85", Flavour.UART, 0x1000),
    ],
)
def test_other_parts_on_other_boards(
    avrdude: str, tmp_path: Path, part: str, avrdude_id: str, flavour: Flavour, start: int
) -> None:
    data = bytes((index * 11 + 3) & 0xFF for index in range(1024))
    path = tmp_path / "part.hex"
    path.write_bytes(write_hex(Image.of([Segment(start, data)])))
    target = AvrTarget(load_parts().avr(part))
    with PtyBoard(SerialProgrammer(flavour, target=target, auto_reset=False), time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, f"flash:w:{path}:i", part=avrdude_id)
    assert result.returncode == 0, result.stderr
    assert target.flash[start : start + len(data)] == data
    assert target.flash.count(0xFF) == len(target.flash) - len(data) + data.count(0xFF)
    assert target.violations == []


def test_refuses_a_part_with_another_signature(avrdude: str, image: Path) -> None:
    target = AvrTarget(load_parts().avr("atmega328p"))
    with PtyBoard(SerialProgrammer(target=target), time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, f"flash:w:{image}:r")
    assert result.returncode != 0
    assert "0x1e950f" in result.stderr
    assert target.erase_count == 0


def test_reports_a_bad_cell(avrdude: str, image: Path) -> None:
    bad = StuckBits(memory=MemoryKind.FLASH, address=0x123, mask=0x08, level=1)
    assert not FLASH[0x123] & 0x08
    target = AvrTarget(load_parts().avr("atmega32u4"), faults=[bad])
    with PtyBoard(SerialProgrammer(target=target), time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, f"flash:w:{image}:r")
    assert result.returncode != 0
    assert "0x0123" in result.stderr
    assert target.violations == []
