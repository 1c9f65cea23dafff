"""The bench's emulated avrdude and teensy_loader_cli say and do what the real ones do, on the bench's own bootloaders.

The real avrdude has Caterina behind a pseudo-terminal, the real teensy_loader_cli HalfKay on the bed of mocked USB devices;
the emulated ones have the same on virtual time.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.oracle.test_avrdude_caterina import LEONARDO, in_loader
from tests.oracle.usb.bed import UsbBed, missing_packages
from tests.unit.vbench.tools.desk_bench import DeskBench

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import Parts, load_parts
from ispd.model.image import Image, Segment
from ispd.model.span import Span
from ispd.transport.contract import ToolOutcome, UsbIdentity
from vbench.board_chip import Chip
from vbench.halfkay import HalfKay
from vbench.pty_board import PtyBoard
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.oracle

PROGRAM = bytes((address * 5 + (address >> 8)) & 0xFF for address in range(3000))
PLACE = "1-1.4"


def hex_of(*segments: tuple[int, bytes]) -> bytes:
    return write_hex(Image.of([Segment(start, data) for start, data in segments]))


GOOD = hex_of((0, PROGRAM))
FILES: Mapping[str, bytes] = {
    "good.hex": GOOD,
    "gaps.hex": hex_of((0x100, b"one"), (0x480, b"\xff\xfe" * 100), (0x6FF0, b"end")),
    "trailing.hex": hex_of((0, PROGRAM + b"\xff" * 200)),
    "one.hex": hex_of((5, b"1")),
    "large.hex": hex_of((0, b"a" * 0x8010)),
    "loader.hex": hex_of((0, PROGRAM[:300]), (0x7000, b"loader")),
    "empty.hex": b":00000001FF\n",
    "no_end.hex": GOOD.replace(b":00000001FF\n", b""),
    "no_newline.hex": GOOD.rstrip(),
    "middle.hex": b":0100000041BE\n:00000001FF\n:0101000041BD\n:00000001FF\n",
    "twice.hex": b":0100000041BE\n:0100000042BD\n:00000001FF\n",
    "sum.hex": b":0100000041BF\n:00000001FF\n",
    "digits.hex": b":01000000zzBE\n:00000001FF\n",
    "type9.hex": b":00000009F7\n:00000001FF\n",
    "start.hex": b":0400000300007000" + b"89\n" + GOOD,
    "blank_line.hex": GOOD.replace(b"\n", b"\n\n", 1),
    "text.hex": b"no hex\n",
    "long.hex": b":80" + b"0000" + b"00" + b"11" * 128 + b"00\n:00000001FF\n",
    "one_digit.hex": b":000000000\n" + GOOD,
    "bare_return.hex": b":0100000041BE\r:0100000142BC\n:00000001FF\n",
    "good.bin": PROGRAM,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts()


def result_of(folder: Path) -> bytes | None:
    out = folder / "out"
    return out.read_bytes() if out.exists() else None


# -- avrdude -----------------------------------------------------------------------------------------------------------

PART = ("-p", "m32u4")
AVRDUDE = {
    "nothing to do": PART,
    "write": (*PART, "-U", "flash:w:good.hex:i"),
    "write by name alone": (*PART, "-U", "good.hex"),
    "write raw": (*PART, "-U", "flash:w:good.bin:r"),
    "write, format guessed": (*PART, "-U", "flash:w:good.bin"),
    "write, format not to be guessed": (*PART, "-U", "flash:w:text.hex"),
    "write, no verify": (*PART, "-V", "-U", "flash:w:good.hex:i"),
    "write, no erase": (*PART, "-D", "-U", "flash:w:gaps.hex:i"),
    "write and read": (*PART, "-V", "-U", "flash:w:good.hex:i", "-U", "flash:r:out:r"),
    "write and read as hex": (*PART, "-V", "-U", "flash:w:gaps.hex:i", "-U", "flash:r:out:i"),
    "quiet": (*PART, "-q", "-U", "flash:w:good.hex:i"),
    "very quiet": (*PART, "-qq", "-U", "flash:w:good.hex:i"),
    "very quiet, and wrong": (*PART, "-qq", "-U", "flash:w:sum.hex:i"),
    "erase alone": (*PART, "-e"),
    "verify what is not there": (*PART, "-U", "flash:v:good.hex:i"),
    "written, then verified by itself": (*PART, "-V", "-U", "flash:w:good.hex:i", "-U", "flash:v:good.hex:i"),
    "another chip": ("-p", "m328p", "-U", "flash:w:good.hex:i"),
    "another chip, by force": ("-p", "m32u2", "-F", "-U", "flash:w:good.hex:i"),
    "chip by its long name": ("-p", "ATmega32U4"),
    "no such file": (*PART, "-U", "flash:w:none.hex:i"),
    "no such way": (*PART, "-U", "flash:x:good.hex:i"),
    "no such format": (*PART, "-U", "flash:w:good.hex:z"),
    "no colon": (*PART, "-U", "flash:w"),
    "no baud rate": (*PART, "-b", "fast"),
    **{f"write {name}": (*PART, "-U", f"flash:w:{name}:i") for name in FILES if name not in ("good.hex", "good.bin")},
}


def without_times(text: str) -> str:
    return re.sub(r"100% \d+\.\d\ds", "100%", text)


@pytest.mark.parametrize("name", AVRDUDE)
def test_avrdude(name: str, parts: Parts, folder: Path) -> None:
    if shutil.which("avrdude") is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    there, loader = in_loader(parts)
    (folder / "out").unlink(missing_ok=True)
    with PtyBoard(loader, time_scale=8.0) as board:
        words = ["avrdude", "-c", "avr109", "-P", board.path, *AVRDUDE[name]]
        real = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
        path = board.path

    here, again = in_loader(parts)

    async def main() -> ToolOutcome:
        bench = DeskBench({"ttyACM0": Seen(again)})
        return await bench.run(
            *("avrdude", "-c", "avr109", "-P", "/dev/ttyACM0"), *AVRDUDE[name], inputs=FILES, outputs=["out"]
        )

    emulated = run_virtual(main)
    assert without_times(emulated.errors.decode()) == without_times(real.stderr.replace(path, "/dev/ttyACM0"))
    assert emulated.output.decode() == real.stdout
    assert emulated.exit_code == real.returncode
    assert here.flash == there.flash
    assert emulated.files.get("out") == result_of(folder)


def test_avrdude_without_its_port(folder: Path) -> None:
    words = ("avrdude", "-c", "avr109", "-P", "/dev/ttyACM77", *PART, "-U", "flash:w:good.hex:i")
    real = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    emulated = run_virtual(lambda: DeskBench({}).run(*words, inputs=FILES))
    assert emulated.errors.decode() == real.stderr
    assert emulated.exit_code == real.returncode


class Seen:
    """A loader as :class:`DeskBench` wants its devices."""

    version = 0x0001
    usb = LEONARDO

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


# -- teensy_loader_cli -------------------------------------------------------------------------------------------------

CHIP = ("-mmcu=atmega32u4",)
TEENSY = {
    "nothing": (),
    "no file": CHIP,
    "no chip": ("good.hex",),
    "no such chip": ("--mcu=atmega16", "good.hex"),
    "chips": ("--list-mcus=",),
    "no such flag": (*CHIP, "-x", "good.hex"),
    "no such option": (*CHIP, "--fast=1", "good.hex"),
    "write": (*CHIP, "-v", "good.hex"),
    "write silently": (*CHIP, "good.hex"),
    "write, chip by two words": ("--mcu", "ATmega32U4", "-v", "-w", "good.hex"),
    "write and stay": (*CHIP, "-v", "-n", "good.hex"),
    "start only": (*CHIP, "-v", "-b"),
    "no such file": (*CHIP, "-v", "none.hex"),
    **{
        f"write {name}": (*CHIP, "-v", name)
        for name in FILES
        if name.endswith(".hex") and name not in ("good.hex", "large.hex")
    },
    "write too much": (*CHIP, "-v", "large.hex"),
}


def in_halfkay(parts: Parts) -> tuple[AvrTarget, HalfKay]:
    chip = AvrTarget(parts.avr("atmega32u4"))
    chip.flash[:0x4000] = b"\x55" * 0x4000
    chip.power_on(0.0, reset_active=False)
    size = len(chip.flash)
    section = Span(0x7E00, size)
    usb = UsbIdentity(vendor_id=0x16C0, product_id=0x0478)
    return chip, HalfKay(Chip(chip, section=section, start=section.start, ram={}), usb, at=0.0)


def first_line_of_help(text: str) -> str:
    head, found, rest = text.partition("Usage: teensy_loader_cli")
    return head + found + rest.partition("\n")[0] if found else text


@pytest.mark.parametrize("is_there", [True, False], ids=["board", "no board"])
@pytest.mark.parametrize("name", TEENSY)
def test_teensy_loader(name: str, is_there: bool, parts: Parts, folder: Path) -> None:
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")
    if shutil.which("teensy_loader_cli") is None:
        pytest.skip("teensy_loader_cli is not installed")
    if not is_there and "-w" in TEENSY[name]:
        pytest.skip("it would wait for ever")
    there, loader = in_halfkay(parts)
    with UsbBed({PLACE: loader} if is_there else {}) as bed:  # type: ignore[dict-item]  # a face answers like a device
        words = ("teensy_loader_cli", *TEENSY[name])
        real = subprocess.run(
            words, cwd=folder, env=bed.environment, capture_output=True, text=True, check=False, timeout=60
        )
    here, again = in_halfkay(parts)

    async def main() -> ToolOutcome:
        return await DeskBench({PLACE: again} if is_there else {}).run(*words, inputs=FILES)

    emulated = run_virtual(main)
    assert first_line_of_help(emulated.errors.decode()) == first_line_of_help(real.stderr)
    assert emulated.output.decode() == real.stdout
    assert emulated.exit_code == real.returncode
    assert here.flash == there.flash
