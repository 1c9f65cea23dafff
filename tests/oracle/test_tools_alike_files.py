"""What real and emulated programs make of files that somebody has been at: the same words, the same cells, request for request."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.oracle.test_tools_alike import PLACE, cells, heard, installed, version_of
from tests.oracle.test_tools_alike_loaders import in_halfkay
from tests.oracle.usb.bed import UsbBed, missing_packages
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.flip_device import FlipDevice

from ispd.catalog.parts import Parts, load_parts
from ispd.transport.contract import ToolOutcome
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.oracle

SEEDS = range(60)
LENGTHS = {1: 0, 2: 2, 3: 4, 4: 2, 5: 4, 9: 1}
BASES = (bytes(2), b"\x10\x00", b"\x00\x01", b"\x07\x00", b"\x80\x00", b"\x00\x80")
ADDRESSES = (0, 1, 16, 0x100, 0x6FF0, 0x7000, 0x7FFE)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts()


def record(address: int, kind: int, data: bytes) -> bytes:
    content = bytes((len(data),)) + address.to_bytes(2) + bytes((kind,)) + data
    return b":" + (content + bytes((-sum(content) & 0xFF,))).hex().upper().encode()


def spoilt(line: bytes, chance: random.Random) -> bytes:
    """Return a line as it was, or mostly."""
    ways = (line[:-1], line.lower(), line + b" ", b" " + line, line.replace(b"0", b"g", 1), line + b"0")
    return chance.choice(ways) if chance.random() < 0.06 else line


def any_file(chance: random.Random) -> bytes:
    """Make an Intel HEX file with records of all types, not always in good order."""
    lines = []
    for _ in range(chance.randint(0, 8)):
        kind = chance.choices((0, 2, 3, 4, 5, 1, 9), (20, 1, 1, 1, 1, 0.3, 0.3))[0]
        length = LENGTHS.get(kind, chance.choice((0, 1, 16, 32, 255)))
        data = bytes(chance.choice((0, 255, chance.randrange(256))) for _ in range(length))
        if kind in (2, 4):
            data = chance.choice(BASES)
        address = chance.choice((*ADDRESSES, chance.randrange(0x7000))) if kind == 0 else chance.choice((0, 0, 0, 1))
        lines.append(record(address, kind, data))
    if chance.random() < 0.9:
        lines.append(b":00000001FF")
    ends = chance.choices((b"\n", b"\r\n", b"\n\n", b"\r"), (20, 2, 0.5, 0.2), k=len(lines))
    text = b"".join(spoilt(line, chance) + end for line, end in zip(lines, ends, strict=True))
    return text.rstrip() if chance.random() < 0.1 else text


def run_real(words: tuple[str, ...], device: object, folder: Path) -> subprocess.CompletedProcess[bytes]:
    with UsbBed({PLACE: device}) as bed:  # type: ignore[dict-item]  # it answers like the bench's own
        return subprocess.run(words, env=bed.environment, cwd=folder, capture_output=True, check=False, timeout=60)


def run_emulated(words: tuple[str, ...], device: object, text: bytes, version: dict[str, str]) -> ToolOutcome:
    return run_virtual(lambda: DeskBench({PLACE: device}, version).run(*words, inputs={"any.hex": text}))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", installed() or ["dfu-programmer"], ids=os.path.dirname)
def test_dfu_programmer(program: str, seed: int, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip("dfu-programmer is not installed")
    version = version_of(program)
    chance = random.Random(seed)
    text = any_file(chance)
    (tmp_path / "any.hex").write_bytes(text)
    options = chance.choice(((), ("--suppress-bootloader-mem",), ("--suppress-validation",), ("--quiet",)))
    words = ("atmega32u4", "flash", *options, "any.hex")
    here, there = FlipDevice(), FlipDevice()
    real = run_real((program, *words), there, tmp_path)
    emulated = run_emulated(("dfu-programmer", *words), here, text, {"dfu-programmer": version})
    assert emulated.errors.decode() == real.stderr.decode()
    assert emulated.exit_code == real.returncode
    assert cells({PLACE: here}) == cells({PLACE: there})
    assert heard({PLACE: here}) == heard({PLACE: there})


@pytest.mark.parametrize("seed", SEEDS)
def test_teensy_loader(seed: int, parts: Parts, tmp_path: Path) -> None:
    if shutil.which("teensy_loader_cli") is None:
        pytest.skip("teensy_loader_cli is not installed")
    text = any_file(random.Random(seed))
    (tmp_path / "any.hex").write_bytes(text)
    words = ("teensy_loader_cli", "-mmcu=atmega32u4", "-v", "any.hex")
    (here, its), (there, other) = in_halfkay(parts), in_halfkay(parts)
    real = run_real(words, other, tmp_path)
    emulated = run_emulated(words, its, text, {})
    assert (emulated.output, emulated.errors) == (real.stdout, real.stderr)
    assert emulated.exit_code == real.returncode
    assert here.flash == there.flash
