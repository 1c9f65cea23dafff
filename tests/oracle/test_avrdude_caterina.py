"""Our emulated Caterina is what an unmodified avrdude believes it to be."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ispd.catalog.parts import Parts, load_parts
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Exit
from vbench.caterina import Caterina
from vbench.faults import LostPage
from vbench.pty_board import PtyBoard
from vbench.target import AvrTarget

pytestmark = pytest.mark.oracle

TIME_SCALE = 8.0
BOOT_START = 0x7000
FLASH = bytes((address * 7 + (address >> 8)) & 0xFF for address in range(6 * 1024)) + b"\xff" * 300 + b"tail!!"
EEPROM = bytes(range(0x40, 0x60))
LEONARDO = UsbIdentity(vendor_id=0x2341, product_id=0x0036)
LOADER = bytes(range(256)) * 16
FUSES = {MemoryKind.LFUSE: 0xFF, MemoryKind.HFUSE: 0xD8, MemoryKind.EFUSE: 0xFB}


@pytest.fixture(scope="module")
def avrdude() -> str:
    """Path of the tool. It is a requirement of this suite, so its absence is a failure and not a skip."""
    found = shutil.which("avrdude")
    if found is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    return found


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "flash.bin").write_bytes(FLASH)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    return tmp_path


def in_loader(parts: Parts, **options: object) -> tuple[AvrTarget, Caterina]:
    chip = AvrTarget(parts.avr("atmega32u4"), fuses=FUSES, lock=0x2F, **options)  # type: ignore[arg-type]  # passed through
    chip.flash[BOOT_START:] = LOADER
    chip.power_on(0.0, reset_active=False)
    size = len(chip.flash)
    return chip, Caterina(Chip(chip, section=Span(BOOT_START, size), start=BOOT_START, ram={}), LEONARDO)


def run(avrdude: str, board: PtyBoard, *operations: str, part: str = "m32u4") -> subprocess.CompletedProcess[str]:
    arguments = [avrdude, "-c", "avr109", "-P", board.path, "-p", part]
    for operation in operations:
        arguments += ["-U", operation]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


def test_writes_verifies_and_reads_back_everything(avrdude: str, parts: Parts, images: Path) -> None:
    chip, loader = in_loader(parts)
    with PtyBoard(loader, time_scale=TIME_SCALE) as board:
        result = run(
            avrdude,
            board,
            f"flash:w:{images / 'flash.bin'}:r",
            f"eeprom:w:{images / 'eeprom.bin'}:r",
            f"flash:r:{images / 'flash.out'}:r",
            f"eeprom:r:{images / 'eeprom.out'}:r",
            f"signature:r:{images / 'signature.out'}:r",
            *(f"{name}:r:{images / name}.out:r" for name in ("lfuse", "hfuse", "efuse", "lock")),
        )
    assert result.returncode == 0, result.stderr
    assert f"{len(FLASH)} bytes of flash verified" in result.stderr
    assert f"{len(EEPROM)} bytes of eeprom verified" in result.stderr
    assert chip.flash[: len(FLASH)] == FLASH
    assert chip.flash[len(FLASH) : BOOT_START].count(0xFF) == BOOT_START - len(FLASH)
    assert chip.flash[BOOT_START:] == LOADER
    assert chip.eeprom[: len(EEPROM)] == EEPROM
    assert chip.erase_count == 0

    def dump(name: str) -> bytes:
        return (images / f"{name}.out").read_bytes()

    assert dump("flash") == FLASH + b"\xff" * (BOOT_START - len(FLASH)) + LOADER
    assert dump("eeprom")[: len(EEPROM)] == EEPROM
    assert [dump(name)[0] for name in ("lfuse", "hfuse", "efuse", "lock")] == [0xFF, 0xD8, 0xFB, 0xEF]
    assert dump("signature") == chip.part.signature.value


def test_leaves_after_the_session_and_not_before(avrdude: str, parts: Parts, images: Path) -> None:
    _, loader = in_loader(parts)
    with PtyBoard(loader, time_scale=TIME_SCALE) as board:
        asked = run(avrdude, board)
        while_blank = loader.departure
        written = run(avrdude, board, f"flash:w:{images / 'flash.bin'}:r")
        assert (asked.returncode, written.returncode) == (0, 0), asked.stderr + written.stderr
        assert while_blank is None
        assert loader.departure is not None
        assert loader.departure.exit is Exit.APPLICATION


def test_a_page_that_stays_wrong_fails_the_verification(avrdude: str, parts: Parts, images: Path) -> None:
    _, loader = in_loader(parts, faults=[LostPage(0x180)])
    with PtyBoard(loader, time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, f"flash:w:{images / 'flash.bin'}:r")
    assert result.returncode != 0
    assert "verification mismatch" in result.stderr
    assert "0x0180" in result.stderr


def test_another_part_is_told_by_its_signature(avrdude: str, parts: Parts, images: Path) -> None:
    chip, loader = in_loader(parts)
    with PtyBoard(loader, time_scale=TIME_SCALE) as board:
        result = run(avrdude, board, f"flash:w:{images / 'flash.bin'}:r", part="m16u4")
    assert result.returncode != 0
    assert "0x1e9587" in result.stderr
    assert chip.flash[:BOOT_START].count(0xFF) == BOOT_START
