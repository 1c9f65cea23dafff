"""Our emulated ST-Link and STM32F103 are what unmodified st-info, st-flash and OpenOCD believe them to be.

The expected texts are those of the QMK ISP guide, and of the programs' own sources where the guide shows none.
"""

import subprocess
from pathlib import Path

import pytest
from tests.oracle.stlink_programs import (
    BYTE_SUM,
    GUIDE,
    PLACE,
    PROBE,
    SERIAL,
    SIZE,
    UNLOCK,
    fields,
    guide_image,
    probe_with,
    program,
    require_programs,
    write,
)
from tests.oracle.usb.bed import UsbBed

from vbench.faults import GoesSilent
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware, odd_serial
from vbench.stm32 import stm32_loader
from vbench.stm32_board import Stm32Board
from vbench.stm32f1 import ApWait, Stm32F1, Stm32F1Model
from vbench.swd import SwdSocket, SwdWiring

pytestmark = pytest.mark.oracle

NOBODY = {**GUIDE, "flash": "0 (pagesize: 0)", "sram": "0", "chipid": "0x0000", "descr": "unknown device"}
PAGES = range(0x0800_0000, 0x0800_2000, 0x400)
GUIDE_LOG = [
    "INFO common.c: F1xx Medium-density: 20 KiB SRAM, 64 KiB flash in at least 1 KiB pages.",
    "INFO common.c: Attempting to write 7172 (0x1c04) bytes to stm32 address: 134217728 (0x8000000)",
    *(f"INFO common.c: Flash page at addr: 0x{page:08x} erased" for page in PAGES),
    "INFO common.c: Finished erasing 8 pages of 1024 (0x400) bytes",
    "INFO common.c: Starting Flash write for VL/F0/F3/F1_XL",
    "INFO flash_loader.c: Successfully loaded flash loader in sram",
    "INFO flash_loader.c: Clear DFSR",
    "INFO common.c: Starting verification of write complete",
    "INFO common.c: Flash written and verified! jolly good!",
    "WARN common.c: NRST is not connected",
]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    require_programs()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return guide_image(tmp_path)


def log_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return st-flash's log without its times."""
    return [line.partition(" ")[2] for line in result.stderr.splitlines()]


@pytest.mark.parametrize("serial", [SERIAL, odd_serial(bytes.fromhex(SERIAL))], ids=["text", "bytes"])
def test_the_probe_example_of_the_guide(serial: str) -> None:
    probe = StLink(socket=SwdSocket(Stm32F1()), serial=serial)
    with UsbBed({PLACE: probe}) as bed:
        first, again = fields(bed.run(PROBE)), fields(bed.run(PROBE))
    assert first == again == GUIDE


@pytest.mark.parametrize("has_nrst", [False, True], ids=["without-nrst", "with-nrst"])
def test_the_write_of_the_guide_line_by_line(image: Path, has_nrst: bool) -> None:
    chip = Stm32F1()
    before = bytes(chip.chip.flash)
    with UsbBed({PLACE: probe_with(chip, has_nrst=has_nrst)}) as bed:
        result = bed.run(write(image))
    assert result.returncode == 0, result.stderr
    assert log_of(result) == GUIDE_LOG
    assert f"stlink checksum: 0x{BYTE_SUM:08x}" in result.stdout
    assert result.stdout.rstrip().endswith("8/  8 pages written")
    assert chip.chip.flash == image.read_bytes() + before[SIZE:]
    assert chip.violations == []
    assert not chip.core.is_halted


def test_openocd_programs_verifies_and_resets(image: Path) -> None:
    chip = Stm32F1()
    chip.chip.flash[:8192] = bytes(8192)
    with UsbBed({PLACE: probe_with(chip)}) as bed:
        result = bed.run(program(image))
    assert result.returncode == 0, result.stderr
    assert "** Verified OK **" in result.stderr
    assert "Info : flash size = 64 KiB" in result.stderr
    assert chip.chip.flash[:SIZE] == image.read_bytes()
    assert chip.violations == []


def test_a_protected_chip_is_unknown_until_openocd_unlocks_it(image: Path) -> None:
    chip = Stm32F1(is_protected=True)
    chip.chip.flash[:4] = b"old!"
    with UsbBed({PLACE: probe_with(chip)}) as bed:
        refused = bed.run(write(image))
        assert refused.returncode != 0
        assert "Unknown memory region" in refused.stdout
        assert chip.chip.flash[:4] == b"old!"
        unlocked = bed.run(UNLOCK)
        assert unlocked.returncode == 0, unlocked.stderr
        assert (chip.flash.is_protected, chip.flash.mass_erases) == (False, 1)
        assert chip.chip.flash.count(0xFF) == len(chip.chip.flash)
        assert fields(bed.run(PROBE)) == GUIDE
        written = bed.run(write(image))
    assert written.returncode == 0, written.stderr
    assert chip.chip.flash[:SIZE] == image.read_bytes()
    assert chip.violations == []


def test_a_protected_chip_that_shows_its_size_refuses_the_erase(image: Path) -> None:
    chip = Stm32F1(Stm32F1Model(hides_size=False), is_protected=True)
    with UsbBed({PLACE: probe_with(chip)}) as bed:
        result = bed.run(write(image))
    assert result.returncode != 0
    assert "ERROR common.c: Flash memory is write protected" in log_of(result)


@pytest.mark.parametrize("wiring", [SwdWiring(swapped=True), SwdWiring(supplies=False)], ids=["swapped", "no-power"])
def test_nobody_on_the_wires(image: Path, wiring: SwdWiring) -> None:
    with UsbBed({PLACE: StLink(socket=SwdSocket(Stm32F1(), wiring=wiring))}) as bed:
        assert fields(bed.run(PROBE)) == NOBODY
        refused = bed.run(program(image))
    assert refused.returncode == 1
    assert "unable to connect to the target" in refused.stderr
    assert ("target voltage may be too low" in refused.stderr) == (not wiring.supplies)


def test_a_serial_number_of_another_length_hides_the_probe() -> None:
    with UsbBed({PLACE: StLink(socket=SwdSocket(Stm32F1()), serial="1234")}) as bed:
        result = bed.run(PROBE)
    assert (result.returncode, result.stdout.strip()) == (0, "Found 0 stlink programmers")


def test_openocd_refuses_a_clone_that_stlink_takes(image: Path) -> None:
    with UsbBed({PLACE: probe_with(Stm32F1(Stm32F1Model(dpidr=0x2BA0_1477)))}) as bed:
        assert fields(bed.run(PROBE)) == GUIDE
        refused = bed.run(program(image))
    assert refused.returncode == 1
    assert "UNEXPECTED idcode: 0x2ba01477" in refused.stderr


@pytest.mark.parametrize(
    ("firmware", "shown"),
    [
        (StLinkFirmware(product_id=0x374B, jtag=28, third=18), "V2J28M18 (API v2) VID:PID 0483:374B"),
        (StLinkFirmware(product_id=0x374F, jtag=7, third=1), "V3J7M1 (API v3) VID:PID 0483:374F"),
        (StLinkFirmware(jtag=17, third=4), "V2J17S4 (API v2) VID:PID 0483:3748"),
    ],
    ids=["v2-1", "v3", "old"],
)
def test_other_probes(image: Path, firmware: StLinkFirmware, shown: str) -> None:
    chip = Stm32F1()
    with UsbBed({PLACE: probe_with(chip, firmware)}) as bed:
        result = bed.run(program(image))
        written = bed.run(write(image))
    assert "** Verified OK **" in result.stderr, result.stderr
    assert shown in result.stderr
    assert written.returncode == 0, written.stderr


def test_a_lost_connection_is_no_success_and_a_busy_bus_no_failure(image: Path) -> None:
    lost = Stm32F1(faults=[GoesSilent(after_instructions=200)])
    with UsbBed({PLACE: probe_with(lost)}) as bed:
        assert bed.run(write(image)).returncode != 0
    waiting = Stm32F1(faults=[ApWait(access=30, times=3)])
    with UsbBed({PLACE: probe_with(waiting)}) as bed:
        result = bed.run(program(image))
    assert result.returncode == 0, result.stderr
    assert waiting.chip.flash[:SIZE] == image.read_bytes()


def test_a_bootloader_written_by_st_flash_shows_on_usb(tmp_path: Path) -> None:
    board = Stm32Board(has_loader=False)
    path = tmp_path / "loader.bin"
    path.write_bytes(stm32_loader())
    socket = SwdSocket(board.swd)
    with UsbBed({PLACE: StLink(socket=socket)}) as bed:
        assert fields(bed.run(PROBE)) == GUIDE
        assert bed.run(write(path)).returncode == 0
    socket.remove(1000.0)
    board.attach(1001.0)
    face = board.face(1010.0)
    assert face is not None
    assert str(face.usb) == "1EAF:0003"
