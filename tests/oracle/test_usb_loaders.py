"""Our emulated USB bootloaders are what unmodified programs believe them to be.

dfu-util, teensy_loader_cli and avrdude are required; bootloadHID and LUFA's hid_bootloader_cli, which Debian does not have, are
driven too where they are on the search path.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.oracle.chain_desk import BoardOnBed
from tests.oracle.usb.bed import UsbBed, missing_packages

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.bootloader import Bootloader
from ispd.model.part import MemoryKind
from vbench.board import Board
from vbench.board_faults import BoardFault, Vanishes
from vbench.faults import LostPage
from vbench.firmware_image import application_image, bootloader_image
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import DfuSeBoard, Stm32Board
from vbench.target import AvrTarget

pytestmark = pytest.mark.oracle

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
PLACE, OTHER = "1-1.4", "1-1.5"
KEYBOARD = "FEED:1234"
FIRMWARE = stm32_application(20_001, seed=7, usb=KEYBOARD)


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    for tool in ("dfu-util", "teensy_loader_cli", "avrdude"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not installed")
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.bin"
    path.write_bytes(FIRMWARE)
    return path


def bed_of(devices: Mapping[str, BoardOnBed[Any]]) -> UsbBed:
    return UsbBed(devices)  # type: ignore[arg-type]  # a board is as much of a device as the bed asks for


def dfu(bed: UsbBed, *words: str | Path, place: str = PLACE) -> subprocess.CompletedProcess[str]:
    return bed.run(["dfu-util", "-d", "1EAF:0003", "-p", place, *map(str, words)])


def test_dfu_util_lists_the_alternates_by_place() -> None:
    with bed_of({PLACE: BoardOnBed(Stm32Board()), OTHER: BoardOnBed(Stm32Board(flash_bytes=0x2_0000))}) as bed:
        listed = dfu(bed, "-l")
    assert listed.returncode == 0
    lines = [line for line in listed.stdout.splitlines() if line.startswith("Found DFU")]
    assert [line.split("alt=")[1][0] for line in lines] == ["2", "1", "0"]
    assert all(f'path="{PLACE}"' in line and 'serial="LLM 003"' in line for line in lines)
    assert "ver=0201" in lines[0]
    assert 'name="STM32duino bootloader v1.0  Upload to Flash 0x8002000"' in lines[0]


def test_dfu_util_downloads_and_the_bus_reset_starts_the_firmware(firmware: Path) -> None:
    board = Stm32Board(application=stm32_application(30_000, seed=1))
    device = BoardOnBed(board)
    with bed_of({PLACE: device}) as bed:
        done = dfu(bed, "-a", "2", "-R", "-D", firmware)
    assert "Download done." in done.stdout
    assert "state(8) = dfuMANIFEST-WAIT-RESET, status(0) = No error condition is present" in done.stdout
    assert done.returncode in (0, 74, 251), done.stderr
    assert board.chip.flash[APPLICATION : APPLICATION + len(FIRMWARE)] == FIRMWARE
    assert device.look(1.0) == KEYBOARD


def test_dfu_util_uploads_what_is_there(tmp_path: Path) -> None:
    board = Stm32Board(application=FIRMWARE)
    with bed_of({PLACE: BoardOnBed(board)}) as bed:
        read = dfu(bed, "-a", "2", "-U", tmp_path / "back.bin")
    assert read.returncode == 0, read.stderr
    back = (tmp_path / "back.bin").read_bytes()
    assert back == bytes(board.chip.flash[APPLICATION:])
    assert back.startswith(FIRMWARE)


def test_dfu_util_is_refused_the_ram(firmware: Path) -> None:
    board = Stm32Board()
    with bed_of({PLACE: BoardOnBed(board)}) as bed:
        done = dfu(bed, "-a", "0", "-D", firmware)
    assert done.returncode != 0
    assert "Download done." not in done.stdout
    assert board.chip.flash[APPLICATION:].count(0xFF) == len(board.chip.flash) - APPLICATION


def test_dfu_util_does_not_notice_a_page_that_stays_wrong(firmware: Path) -> None:
    board = Stm32Board(faults=[LostPage(APPLICATION + 0x1000)])
    device = BoardOnBed(board)
    with bed_of({PLACE: device}) as bed:
        done = dfu(bed, "-a", "2", "-R", "-D", firmware)
    assert "Download done." in done.stdout
    assert board.chip.flash[APPLICATION : APPLICATION + len(FIRMWARE)] != FIRMWARE
    assert device.look(1.0) is None


def test_dfu_util_loses_a_board_that_vanishes(firmware: Path) -> None:
    device = BoardOnBed(Stm32Board(faults=[Vanishes(transfer=9)]))
    with bed_of({PLACE: device}) as bed:
        done = dfu(bed, "-a", "2", "-R", "-D", firmware)
    assert done.returncode != 0
    assert "Download done." not in done.stdout
    assert device.power_lost_at is not None


def test_dfu_util_writes_by_the_rom_leaves_it_and_reads_back(tmp_path: Path) -> None:
    content = stm32_application(9_001, seed=3, start=0, usb=KEYBOARD)
    (tmp_path / "rom.bin").write_bytes(content)
    board = DfuSeBoard(application=bytes(20_000))
    device = BoardOnBed(board)
    with bed_of({PLACE: device}) as bed:
        done = bed.run(dfuse("0x08000000:leave", "-D", tmp_path / "rom.bin"))
    assert "File downloaded successfully" in done.stdout, done.stderr
    assert board.chip.flash[: len(content)] == content
    assert board.chip.flash[10_240:20_000] == bytes(9_760), "only pages that the file needs are erased"
    assert device.look(1.0) == KEYBOARD
    with bed_of({PLACE: BoardOnBed(DfuSeBoard(application=content))}) as bed:
        read = bed.run(dfuse(f"0x08000000:{len(content)}", "-U", tmp_path / "back.bin"))
        beyond = bed.run(dfuse("0x0803F000", "-D", tmp_path / "rom.bin"))
    assert read.returncode == 0, read.stderr
    assert (tmp_path / "back.bin").read_bytes() == content
    assert "File downloaded successfully" not in beyond.stdout


def dfuse(where: str, *words: str | Path) -> list[str]:
    return ["dfu-util", "-a", "0", "-d", "0483:DF11", "-p", PLACE, "-s", where, *map(str, words)]


def loaded(name: str, faults: Sequence[BoardFault] = ()) -> BoardOnBed[Board]:
    """A board with a bootloader of the catalog on it, and nothing else."""
    bootloader = BOOTLOADERS.get(name)
    part = PARTS.avr(bootloader.parts[0])
    fuses = dict(bootloader.fuses) or {MemoryKind.LFUSE: 0xFF, MemoryKind.HFUSE: _section_fuse(bootloader)}
    target = AvrTarget(part, fuses=fuses)
    for segment in bootloader_image(bootloader, part).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    return BoardOnBed(Board(target, bootloaders=[bootloader], faults=faults))


def _section_fuse(bootloader: Bootloader) -> int:
    """High fuse byte of ATmega32U4 and AT90USB1286 where the catalog has none: BOOTRST, and the smallest section or the largest."""
    return 0xDE if bootloader.family == "halfkay" else 0xD8


def firmware_file(device: BoardOnBed[Board], folder: Path, size_bytes: int) -> tuple[Path, bytes]:
    image = application_image(device.board.target.part, size_bytes, usb=KEYBOARD)
    path = folder / "firmware.hex"
    path.write_bytes(write_hex(image))
    return path, image.bytes_in(image.span)


@pytest.mark.parametrize(
    ("name", "mcu", "size_bytes"),
    [("halfkay-32u4", "TEENSY2", 20_000), ("halfkay-usb1286", "TEENSY2PP", 80_000)],
)
def test_teensy_loader_cli_writes_and_reboots(tmp_path: Path, name: str, mcu: str, size_bytes: int) -> None:
    device = loaded(name)
    path, content = firmware_file(device, tmp_path, size_bytes)
    with bed_of({PLACE: device}) as bed:
        done = bed.run(["teensy_loader_cli", f"--mcu={mcu}", "-v", str(path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Found HalfKay Bootloader" in done.stdout
    assert device.board.target.flash[:size_bytes] == content
    assert device.look(1.0) == KEYBOARD


def test_teensy_loader_cli_fails_on_a_board_that_vanishes(tmp_path: Path) -> None:
    device = loaded("halfkay-32u4", [Vanishes(transfer=12)])
    path, _ = firmware_file(device, tmp_path, 4000)
    with bed_of({PLACE: device}) as bed:
        done = bed.run(["teensy_loader_cli", "--mcu=TEENSY2", "-v", str(path)])
    assert done.returncode != 0
    assert "error writing to Teensy" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["usbasploader-m32a", "usbasploader-m328p"])
def test_avrdude_takes_a_board_for_a_usbasp_and_writes_into_its_own_flash(tmp_path: Path, name: str) -> None:
    device = loaded(name)
    path, content = firmware_file(device, tmp_path, 6000)
    part = device.board.target.part.avrdude_id
    with bed_of({PLACE: device}) as bed:
        done = bed.run(["avrdude", "-c", "usbasp", "-p", part, "-U", f"flash:w:{path}:i"])
    assert done.returncode == 0, done.stderr
    assert "6000 bytes of flash verified" in done.stderr
    assert device.board.target.flash[:6000] == content
    assert device.look(60.0) == "16C0:05DC", "it stays until its button is pressed or somebody knows the hidden command"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("bootloadhid-m32a", ["bootloadHID", "-r"]),
        ("qmk-hid-32u4", ["hid_bootloader_cli", "-mmcu=atmega32u4", "-v"]),
        ("halfkay-32u4", ["hid_bootloader_cli", "-mmcu=atmega32u4", "-v"]),
    ],
)
def test_host_programs_of_the_hid_bootloaders_write_and_start(tmp_path: Path, name: str, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on the search path; Debian has no package of it")
    device = loaded(name)
    path, content = firmware_file(device, tmp_path, 20_000)
    with bed_of({PLACE: device}) as bed:
        done = bed.run([*command, str(path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert device.board.target.flash[:20_000] == content
    assert device.look(1.0) == KEYBOARD
