"""Boards of the bench in Atmel's bootloader are what unmodified dfu-programmer 0.6.1 and avrdude believe them to be."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import Parts, load_parts
from ispd.model.image import Image, Segment
from vbench.board import Board
from vbench.board_faults import BoardFault, EraseLeaves, Vanishes
from vbench.board_shown import ShownUsb
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget

pytestmark = pytest.mark.oracle

PLACE, OTHER = "1-1.4", "1-1.5"
ATMEL, QMK, LARGE = "atmel-dfu-32u4", "qmk-dfu-32u4", "atmel-dfu-usb128"
APPLICATION = "FEED:6060"
OLD = bytes(range(7, 207)) * 15


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if shutil.which("dfu-programmer") is None:
        pytest.fail("dfu-programmer is not installed: apt-get install dfu-programmer")
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts()


@pytest.fixture(scope="module")
def bootloaders(parts: Parts) -> Bootloaders:
    return load_bootloaders(parts)


class Rig:
    """Boards in their bootloaders, seen by programs."""

    def __init__(self, boards: Mapping[str, Board], folder: Path) -> None:
        self.boards = boards
        self.folder = folder
        faces = {}
        for path, board in boards.items():
            board.attach(0.0)
            face = board.face(0.3)
            assert isinstance(face, ShownUsb)
            faces[path] = face
        self.bed = UsbBed(faces)  # type: ignore[arg-type]  # they are devices as far as transfers and descriptors go

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.bed.run(words)

    def dump(self, chip: str, kind: str = "dump") -> bytes:
        """Run a reading command, whose output is no text."""
        file = self.folder / "dump"
        result = self.bed.run(["sh", "-c", f'exec dfu-programmer {chip} {kind} >"$0"', str(file)])
        assert (result.returncode, result.stderr) == (0, "")
        return file.read_bytes()

    def shows(self, path: str = PLACE) -> str | None:
        """Who is there when everything that was asked for has happened."""
        face = self.boards[path].face(self.bed.now(path) + 1.0)
        return None if face is None else str(face.usb)


def board(parts: Parts, bootloaders: Bootloaders, name: str, *faults: BoardFault, old: bytes = b"") -> Board:
    loader = bootloaders.get(name)
    part = parts.avr(loader.parts[0])
    target = AvrTarget(part, fuses=loader.fuses)
    target.flash[: len(old)] = old
    for segment in bootloader_image(loader, part).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    made = Board(target, faults=faults)
    if old:  # it would start that: the reset button enters the loader by the HWB pin
        target.power_on(0.0, reset_active=True)
        target.set_reset(False, 0.0)
    return made


@pytest.fixture
def files(parts: Parts, tmp_path: Path) -> Path:
    for name, part, size in (("small.hex", "atmega32u4", 27000), ("large.hex", "at90usb1286", 122000)):
        (tmp_path / name).write_bytes(write_hex(application_image(parts.avr(part), size, seed=3)))
    (tmp_path / "eeprom.hex").write_bytes(write_hex(Image.of([Segment(0, b"\x00" * 14 + b"\x01")])))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "chip", "file", "reset_result"),
    [
        (ATMEL, "atmega32u4", "small.hex", 1),
        (QMK, "atmega32u4", "small.hex", 0),
        (LARGE, "at90usb1286", "large.hex", 1),
    ],
)
def test_the_whole_flow(
    parts: Parts, bootloaders: Bootloaders, files: Path, name: str, chip: str, file: str, reset_result: int
) -> None:
    made = board(parts, bootloaders, name, old=OLD)
    rig = Rig({PLACE: made}, files)
    image = application_image(made.target.part, 27000 if file == "small.hex" else 122000, seed=3)
    with rig.bed:
        version = "0x20 (32)" if name == QMK else "0x00 (0)"
        assert rig.run("dfu-programmer", chip, "get").stdout == f"Bootloader Version: {version}\n"
        erased = rig.run("dfu-programmer", chip, "erase")
        assert (erased.returncode, erased.stderr) == (0, "")
        limit = made.target.part.flash.size_bytes - (0x2000 if name == LARGE else 0x1000)
        assert set(rig.dump(chip)) == {0xFF}
        flashed = rig.run("dfu-programmer", chip, "flash", str(files / file))
        assert flashed.returncode == 0, flashed.stderr
        assert flashed.stderr == f"Validating...\n{len(image)} bytes used ({len(image) / limit * 100:.2f}%)\n"
        assert rig.dump(chip)[: len(image)] == image.segments[0].data
        eeprom = rig.run("dfu-programmer", chip, "flash-eeprom", str(files / "eeprom.hex"))
        assert eeprom.returncode == 0, eeprom.stderr
        assert rig.dump(chip, "dump-eeprom")[:16] == b"\x00" * 14 + b"\x01\xff"
        # a device that leaves while it is asked to is an error to this version, and what was wanted
        assert rig.run("dfu-programmer", chip, "reset").returncode == reset_result
        assert rig.shows() == APPLICATION
    assert made.target.flash[: len(image)] == image.segments[0].data
    assert made.target.violations == []


def test_the_factory_loader_is_protected_until_it_was_erased(
    parts: Parts, bootloaders: Bootloaders, files: Path
) -> None:
    made = board(parts, bootloaders, ATMEL, old=OLD)
    rig = Rig({PLACE: made}, files)
    with rig.bed:
        assert rig.run("dfu-programmer", "atmega32u4", "dump").returncode == 1
        refused = rig.run("dfu-programmer", "atmega32u4", "flash", str(files / "small.hex"))
        assert refused.returncode == 1
        assert made.target.flash[: len(OLD)] == OLD
        assert rig.run("dfu-programmer", "atmega32u4", "erase").returncode == 0
        assert rig.run("dfu-programmer", "atmega32u4", "flash", str(files / "small.hex")).returncode == 0
        started = rig.run("dfu-programmer", "atmega32u4", "start")
        assert started.returncode == 1
        assert rig.shows() == APPLICATION


def test_not_blank_at_0x1(parts: Parts, bootloaders: Bootloaders, files: Path) -> None:
    """Version 0.6.1 erases, does not look, and fails when it compares; the cells are the old ones, some bits cleared."""
    made = board(parts, bootloaders, QMK, EraseLeaves(), old=OLD)
    rig = Rig({PLACE: made}, files)
    with rig.bed:
        for _ in range(2):
            erased = rig.run("dfu-programmer", "atmega32u4", "erase")
            assert made.target.flash[: len(OLD)] == OLD
            assert (erased.returncode, erased.stderr.split("\n")[0]) == (1, "")


def test_an_address_chooses_one_of_two_boards(parts: Parts, bootloaders: Bootloaders, files: Path) -> None:
    boards = {place: board(parts, bootloaders, ATMEL, old=OLD) for place in (PLACE, OTHER)}
    rig = Rig(boards, files)
    with rig.bed:
        assert rig.run("dfu-programmer", "atmega32u4:1,4", "erase").returncode == 0
        assert boards[PLACE].target.flash[: len(OLD)] == OLD
        assert boards[OTHER].target.flash[: len(OLD)] == b"\xff" * len(OLD)
        assert rig.run("dfu-programmer", "atmega32u4:1,9", "erase").returncode == 1
        assert boards[PLACE].target.flash[: len(OLD)] == OLD


def test_a_board_that_vanishes_while_it_is_written(parts: Parts, bootloaders: Bootloaders, files: Path) -> None:
    made = board(parts, bootloaders, QMK, Vanishes(transfer=30))
    rig = Rig({PLACE: made}, files)
    with rig.bed:
        assert rig.run("dfu-programmer", "atmega32u4", "flash", str(files / "small.hex")).returncode == 1
        assert rig.shows() is None
    assert 0 < len(bytes(made.target.flash[:27000]).rstrip(b"\xff")) < 27000


@pytest.mark.parametrize("name", [ATMEL, QMK])
def test_avrdude_is_a_second_client(parts: Parts, bootloaders: Bootloaders, files: Path, name: str) -> None:
    made = board(parts, bootloaders, name, old=OLD)
    rig = Rig({PLACE: made}, files)
    with rig.bed:
        result = rig.run("avrdude", "-c", "flip1", "-p", "m32u4", "-P", "usb", "-U", f"flash:w:{files / 'small.hex'}:i")
    assert result.returncode == 0, result.stderr
    assert "27000 bytes of flash verified" in result.stderr
    assert made.target.flash[:27000] == application_image(made.target.part, 27000, seed=3).segments[0].data
