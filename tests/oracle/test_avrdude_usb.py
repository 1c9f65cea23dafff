"""Our emulated USB programmers are what an unmodified avrdude believes them to be.

Two habits of avrdude 7.1 break rules of the chips and are allowed for by name: it polls a fuse or lock byte by reading it
while it is being written (and takes FF, which a busy chip shows, for a fuse of FF that is done: the lock write that
followed would be lost, so the fuses here are others), and it pulses reset 4.5 ms after the erase of an ATtiny85, which takes 9.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import Parts, load_parts
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from vbench.faults import StuckBits
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny, UsbTinyModel
from vbench.violation import Violation, ViolationKind

pytestmark = pytest.mark.oracle

FLASH = bytes((address * 7 + (address >> 8)) & 0xFF for address in range(6 * 1024)) + b"\xff" * 300 + b"tail!!"
EEPROM = bytes(range(0x40, 0x60))
MEMORIES = ("flash", "eeprom", "lfuse", "hfuse", "efuse", "lock", "signature", "calibration")
PLACE = "1-1.4"

Programmer = Callable[[AvrTarget], UsbDevice]


def faults_of_the_host(target: AvrTarget) -> list[Violation]:
    """Rules that were broken, without reads of fuse and lock bytes that are being written."""
    return [
        violation
        for violation in target.violations
        if violation.kind is not ViolationKind.WHILE_BUSY or violation.instruction[0] not in (0x50, 0x58)
    ]


def usbasp(firmware: UsbAspFirmware, **options: object) -> Programmer:
    return lambda target: UsbAsp(firmware, target=target, **options)  # type: ignore[arg-type]  # passed through


def usbtiny(model: UsbTinyModel) -> Programmer:
    return lambda target: UsbTiny(model, target=target)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts()


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if shutil.which("avrdude") is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "flash.bin"
    path.write_bytes(FLASH)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    return path


def run(
    bed: UsbBed, programmer: str, part: str, *operations: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    arguments = ["avrdude", "-c", programmer, "-p", part, *options]
    for operation in operations:
        arguments += ["-U", operation]
    return bed.run(arguments)


@pytest.mark.parametrize(
    ("programmer", "name"),
    [
        (usbasp(UsbAspFirmware.STOCK_2007), "usbasp"),
        (usbasp(UsbAspFirmware.STOCK_2011), "usbasp"),
        (usbasp(UsbAspFirmware.NERDRALPH, manufacturer="fischl.de"), "usbasp-clone"),
        (usbasp(UsbAspFirmware.DIOANNIDIS), "usbasp"),
        (usbtiny(UsbTinyModel.USBTINYISP), "usbtiny"),
        (usbtiny(UsbTinyModel.ARDUINO_ISP), "arduinoisp"),
    ],
    ids=["stock-2007", "stock-2011", "nerdralph", "dioannidis", "usbtinyisp", "arduino-isp"],
)
def test_writes_verifies_and_reads_back_everything(
    parts: Parts, image: Path, tmp_path: Path, programmer: Programmer, name: str
) -> None:
    target = AvrTarget(parts.avr("atmega32u4"), seed=1)
    with UsbBed({PLACE: programmer(target)}) as bed:
        written = run(
            bed,
            name,
            "m32u4",
            f"flash:w:{image}:r",
            f"eeprom:w:{tmp_path / 'eeprom.bin'}:r",
            "efuse:w:0xFB:m",
            "hfuse:w:0xD9:m",
            "lfuse:w:0xDE:m",
            "lock:w:0xEF:m",
        )
        assert written.returncode == 0, written.stderr
        # a second process: the new clock fuses are latched by entering again
        read = run(bed, name, "m32u4", *(f"{memory}:r:{tmp_path / memory}.out:r" for memory in MEMORIES))
        assert read.returncode == 0, read.stderr

    assert target.flash[: len(FLASH)] == FLASH
    assert target.flash.count(0xFF) == len(target.flash) - len(FLASH) + FLASH.count(0xFF)
    assert target.eeprom[: len(EEPROM)] == EEPROM
    assert target.eeprom.count(0xFF) == len(target.eeprom) - len(EEPROM)
    assert target.fuses == {MemoryKind.LFUSE: 0xDE, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0x0B}
    assert target.lock == 0x2F
    assert target.erase_count == 1
    assert faults_of_the_host(target) == []
    assert not target.in_reset

    def dump(memory: str) -> bytes:
        return (tmp_path / f"{memory}.out").read_bytes()

    assert dump("flash") == FLASH  # avrdude drops trailing blank cells
    assert dump("eeprom")[: len(EEPROM)] == EEPROM
    assert [dump(memory)[0] for memory in ("lfuse", "hfuse", "efuse", "lock")] == [0xDE, 0xD9, 0xFB, 0xEF]
    assert dump("signature") == target.part.signature.value


@pytest.mark.parametrize(
    ("programmer", "name"),
    [(usbasp(UsbAspFirmware.STOCK_2011), "usbasp"), (usbtiny(UsbTinyModel.USBTINYISP), "usbtiny")],
    ids=["usbasp", "usbtiny"],
)
@pytest.mark.parametrize(
    ("part", "start", "options"),
    [
        ("attiny85", 0x1000, ("-B", "8")),
        ("atmega8a", 0x200, ("-B", "8")),  # no ready poll, 64-byte pages
        ("at90usb1286", 0x10000 - 256, ()),  # 256-byte pages across 64 KiB
        ("atmega2560", 0x1FF00, ("-B", "8")),  # across 128 KiB: extended address
    ],
)
def test_other_parts(
    parts: Parts,
    tmp_path: Path,
    programmer: Programmer,
    name: str,
    part: str,
    start: int,
    options: tuple[str, ...],
) -> None:
    data = bytes((index * 11 + 3) & 0xFF for index in range(1024))
    path = tmp_path / "part.hex"
    path.write_bytes(write_hex(Image.of([Segment(start, data)])))
    target = AvrTarget(parts.avr(part))
    with UsbBed({PLACE: programmer(target)}) as bed:
        result = run(bed, name, target.part.avrdude_id, f"flash:w:{path}:i", options=options)
    assert result.returncode == 0, result.stderr
    assert target.flash[start : start + len(data)] == data
    assert target.flash.count(0xFF) == len(target.flash) - len(data) + data.count(0xFF)
    allowed = {ViolationKind.RESET_WHILE_BUSY} if part == "attiny85" else set()
    assert {violation.kind for violation in target.violations} <= allowed


@pytest.mark.parametrize(
    ("programmer", "name", "waits_s", "seconds"),
    [
        (UsbTiny(stretch=1.0), "usbtiny", 224 * 4.5e-3, 25),
        (UsbTiny(), "usbtiny", 224 * 4.5e-3, 52),
        (UsbAsp(), "usbasp", 0.2, 9.5),
    ],
    ids=["usbtiny-undisturbed", "usbtiny", "usbasp"],
)
def test_takes_its_time(
    parts: Parts, tmp_path: Path, programmer: UsbDevice, name: str, waits_s: float, seconds: float
) -> None:
    """28 KiB written and verified as avrdude does it: what public measurements and counted instructions lead to expect.

    avrdude's own waits are put in by number: how long this machine takes over them depends on what else it does.
    """
    path = tmp_path / "flash.bin"
    path.write_bytes((FLASH[:4096] * 7)[: 28 * 1024])
    programmer.socket.insert(AvrTarget(parts.avr("atmega32u4")), 0.0)
    with UsbBed({PLACE: programmer}) as bed:
        result = run(bed, name, "m32u4", f"flash:w:{path}:r")
    assert result.returncode == 0, result.stderr
    assert bed.work_s[PLACE] + waits_s == pytest.approx(seconds, rel=0.05)


def test_reports_a_bad_cell(parts: Parts, image: Path) -> None:
    bad = StuckBits(memory=MemoryKind.FLASH, address=0x123, mask=0x08, level=1)
    assert not FLASH[0x123] & 0x08
    target = AvrTarget(parts.avr("atmega32u4"), faults=[bad])
    with UsbBed({PLACE: UsbAsp(target=target)}) as bed:
        result = run(bed, "usbasp", "m32u4", f"flash:w:{image}:r")
    assert result.returncode != 0
    assert "0x0123" in result.stderr
    assert target.violations == []


def test_tells_programmers_by_their_texts(parts: Parts) -> None:
    clone = UsbAsp(target=AvrTarget(parts.avr("atmega32u4")), manufacturer="Clone")
    with UsbBed({PLACE: clone}) as bed:
        strict, lenient = run(bed, "usbasp", "m32u4"), run(bed, "usbasp-clone", "m32u4")
    assert "cannot find USB device" in strict.stderr
    assert "0x1e9587" in lenient.stderr


def test_takes_a_bootloader_with_the_same_texts_for_a_programmer(parts: Parts, tmp_path: Path) -> None:
    loader = UsbAspLoader(parts.avr("atmega32a"))
    data = bytes(range(1, 129)) * 3
    path = tmp_path / "app.bin"
    path.write_bytes(data)
    with UsbBed({PLACE: loader}) as bed:
        result = run(bed, "usbasp", "m32a", f"flash:w:{path}:r")
    assert result.returncode == 0, result.stderr
    assert loader.flash[: len(data)] == data
    assert loader.writes > 0
