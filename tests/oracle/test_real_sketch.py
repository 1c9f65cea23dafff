"""The ArduinoISP sketch itself, as Debian ships it, in simavr: it must agree with our emulation and our driver."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conformance.beds import Watch
from tests.oracle.sketch.board import Board
from tests.oracle.sketch.build import build_sketch, merge_bootloader
from tests.oracle.sketch.hardware import SketchHardware
from tests.oracle.sketch.pty import PtySketch
from tests.oracle.sketch.twin import Dialogue, run_emulation, run_sketch

from ispd.catalog.parts import load_parts
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.stk500v1 import DRIVER
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.oracle

PART = load_parts().avr("atmega32u4")
CODE = bytes((address * 5 + (address >> 7)) & 0xFF for address in range(2048))
SET_DEVICE = bytes.fromhex("42 00 00 00 01 01 01 01 03 00 00 00 00 00 80 04 00 00 00 80 00 20")
ENTER = SET_DEVICE + b"P "
BLOCK = b"U\x00\x00 d\x01\x00F" + bytes(range(256)) + b" "


@pytest.fixture(scope="module")
def sketch() -> bytes:
    """Flash content of an Uno with the sketch alone."""
    return build_sketch()


def entered(*pieces: tuple[bytes, float]) -> Dialogue:
    dialogue = Dialogue().say(SET_DEVICE, then_wait=0.1).say(b"P ", then_wait=0.2)
    for data, then_wait in pieces:
        dialogue.say(data, then_wait=then_wait)
    return dialogue


DIALOGUES = {
    "who is there": Dialogue().say(b"0 1 A\x80 A\x81 A\x82 A\x93 A\x98 ", then_wait=0.2),
    "enter before set device": Dialogue().say(b"P ", then_wait=0.3).say(ENTER, then_wait=0.3),
    "broken framing": Dialogue().say(b"0! \x40\x89\x05  z z! R 0 ", then_wait=0.3),
    "signature, fuses, enter twice": entered((b"P u V\x30\x00\x01\x00 V\x50\x00\x00\x00 V\x58\x08\x00\x00 Q ", 0.3)),
    "erase and a block of two pages": entered((b"V\xac\x80\x00\x00 ", 0.1), (BLOCK, 0.6), (b"U\0\0 t\x01\x00F ", 0.4)),
    "prefetch while the page is written": entered(
        (b"V\xac\x80\x00\x00 ", 0.1), (BLOCK, 0.15), (BLOCK[:60], 0.2), (BLOCK[60:], 0.6)
    ),
    "reads six deep": entered((b"".join(b"U" + bytes([n, 0]) + b" t\x00\x10F " for n in range(6)), 0.5)),
    "bytes lost behind a full ring": entered((BLOCK, 0.145), (b"0 " * 100, 0.8)),
    "eeprom by word address": entered((b"U\x02\x00 d\x00\x03EABC U\x02\x00 t\x00\x04E ", 0.6)),
    "eeprom too large": entered((b"U\0\0 d\x08\x00E0123 0 ", 0.3)),
    "unknown memories": entered((b"t\x00\x01X d\x00\x01X 0 ", 0.3)),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_our_emulation_says_and_does_what_the_sketch_does(sketch: bytes, name: str) -> None:
    real, ours = run_sketch(sketch, PART, DIALOGUES[name]), run_emulation(PART, DIALOGUES[name])
    assert ours.reply_bytes == real.reply_bytes
    assert [frame for _, frame in ours.instructions] == [frame for _, frame in real.instructions]
    assert bytes(ours.target.flash) == bytes(real.target.flash)
    assert bytes(ours.target.eeprom) == bytes(real.target.eeprom)
    assert real.replies
    assert ours.replies[-1][0] == pytest.approx(real.replies[-1][0], rel=0.05, abs=0.01)


async def session(hardware: SketchHardware) -> tuple[bytes, bytes]:
    programmer = await DRIVER.open(hardware, hardware.port_name, baud=19200)
    watch = Watch()
    await programmer.enter(PART, None)
    await programmer.transfer([b"\xac\x80\x00\x00"])
    while (await programmer.transfer([b"\xf0\x00\x00\x00"]))[0] & 1:
        pass
    pages = [Segment(start, CODE[start : start + 128]) for start in range(0, len(CODE), 128)]
    assert await programmer.write(PART, MemoryKind.FLASH, pages, watch) == len(pages)
    await programmer.write(PART, MemoryKind.EEPROM, [Segment(5, b"odd start")], watch)
    flash = await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), watch)
    eeprom = await programmer.read(MemoryKind.EEPROM, Span(5, 14), watch)
    await programmer.leave()
    await programmer.aclose()
    return flash, eeprom


@pytest.mark.parametrize("with_bootloader", [False, True], ids=["sketch", "optiboot-and-reset"])
def test_our_driver_flashes_through_the_sketch(sketch: bytes, with_bootloader: bool) -> None:
    flash, start = merge_bootloader(sketch) if with_bootloader else (sketch, 0)
    target = AvrTarget(PART)
    with Board(flash, target, start=start) as board:
        hardware = SketchHardware(board, opens_with_reset=with_bootloader)
        assert run_virtual(session, hardware) == (CODE, b"odd start")
        # while Optiboot still listens at its own speed it may miss bytes; the sketch never does
        assert with_bootloader or board.overruns == 0
        assert board.flash[: len(flash)] == flash, "the programmer itself was written"
    assert bytes(target.flash[: len(CODE)]) == CODE
    assert bytes(target.eeprom[5:14]) == b"odd start"
    assert target.violations == []
    assert not target.in_reset


def test_avrdude_flashes_our_target_through_the_sketch(sketch: bytes, tmp_path: Path) -> None:
    # avrdude waits on the machine's clock, which a busy machine runs ahead of the simulation: the cells decide here
    avrdude = shutil.which("avrdude")
    assert avrdude is not None, "avrdude is not installed: apt-get install avrdude"
    image = tmp_path / "flash.bin"
    image.write_bytes(CODE[:1024])
    target = AvrTarget(PART)
    with Board(sketch, target) as board, PtySketch(board, time_scale=4.0) as pty:
        command = [avrdude, "-c", "stk500v1", "-P", pty.path, "-b", "19200", "-p", "m32u4"]
        operations = ["-U", f"flash:w:{image}:r", "-U", "hfuse:w:0xD9:m", "-U", "lock:w:0xEF:m"]
        done = subprocess.run([*command, *operations], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert bytes(target.flash[:1024]) == CODE[:1024]
    assert (target.fuses[MemoryKind.HFUSE], target.lock & 0x3F) == (0xD9, 0x2F)
