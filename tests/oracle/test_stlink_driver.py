"""What ispd does by SWD beside st-info, st-flash and OpenOCD, on the same emulated ST-Link and STM32F103, through the system's libusb.

Each finds what another left behind, killed programs included.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.oracle.stlink_programs import (
    GUIDE,
    OPENOCD,
    PLACE,
    PROBE,
    SERIAL,
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
from vbench.stlink_firmware import Mode, StLinkFirmware, odd_serial
from vbench.stm32f1 import ApWait, Stm32F1, Stm32F1Model
from vbench.swd import SwdSocket

pytestmark = pytest.mark.oracle

CLIENT = Path(__file__).parent / "usb" / "swd_client.py"
FAMILY = {"F1xx Medium-density": ["STM32F103xB"]}
"""The part by its name in the stlink tools."""
OLD = bytes(range(1, 0xFF)) * 259
DEADLINE_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    require_programs()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return guide_image(tmp_path)


def ours(*words: str) -> tuple[str, ...]:
    return (sys.executable, str(CLIENT), PLACE, *words)


def verify(path: Path) -> tuple[str, ...]:
    return (*OPENOCD, f"init; reset halt; verify_image {path} 0x08000000 bin; reset run; exit")


def told(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[0])
    return found


def used_chip(model: Stm32F1Model | None = None, *, is_protected: bool = False) -> Stm32F1:
    """Return a chip that has a program already."""
    chip = Stm32F1(model or Stm32F1Model(), is_protected=is_protected)
    chip.chip.flash[:] = OLD[: len(chip.chip.flash)]
    return chip


def as_st_info(found: dict[str, Any]) -> dict[str, str]:
    """Return in the words of st-info what ispd tells of a programmer and its target."""
    families = {tuple(parts): name for name, parts in FAMILY.items()}
    return {
        # a V2-1's second number is that of its mass storage, and OpenOCD writes M, too; st-info writes S for all
        "version": found["firmware"].replace("M", "S"),
        "serial": found["serial"],
        "flash": f"{found['flash_bytes']} (pagesize: {found['flash_page_bytes']})",
        "sram": str(found["ram_bytes"]),
        "chipid": found["signature"],
        "descr": families[tuple(found["parts"])],
    }


@pytest.mark.parametrize(
    ("firmware", "model", "serial"),
    [
        (StLinkFirmware(), Stm32F1Model(), SERIAL),
        (StLinkFirmware(), Stm32F1Model(size_kib=128, flash_bytes=0x2_0000), odd_serial(bytes.fromhex(SERIAL))),
        (StLinkFirmware(jtag=17, third=4), Stm32F1Model(dpidr=0x2BA0_1477), SERIAL),
        (StLinkFirmware(product_id=0x374B, jtag=28, third=18), Stm32F1Model(idcode=0x1303_0410), SERIAL),
    ],
    ids=["guide", "128-KiB-old-serial", "old-firmware-CS32", "V2-1-GD32"],
)
def test_a_probe_says_field_by_field_what_st_info_says(
    firmware: StLinkFirmware, model: Stm32F1Model, serial: str
) -> None:
    chip = used_chip(model)
    with UsbBed({PLACE: StLink(firmware, socket=SwdSocket(chip), serial=serial)}) as bed:
        before = fields(bed.run(PROBE))
        resets = chip.resets
        assert chip.core.is_in_flash
        found = told(bed.run(ours("probe")))
        assert chip.resets == resets
        assert chip.core.is_in_flash
        assert fields(bed.run(PROBE)) == before
    assert as_st_info(found) == before
    assert found["unique_id"] == chip.uid.hex().upper()
    assert found["voltage_mv"] == pytest.approx(chip.supply_mv(), abs=20)
    if model == Stm32F1Model():
        assert before == GUIDE


def test_all_leave_the_same_in_flash_and_a_chip_that_runs(image: Path) -> None:
    left: dict[str, bytes] = {}
    programs = {"ispd": ours("flash", str(image), "keeps_rest"), "st-flash": write(image), "OpenOCD": program(image)}
    for name, command in programs.items():
        chip = used_chip()
        probe = probe_with(chip)
        with UsbBed({PLACE: probe}) as bed:
            result = bed.run(command)
        assert result.returncode == 0, result.stderr
        assert probe.debugger.mode is not Mode.DEBUG
        if name == "ispd":
            assert told(result)["verdict"] == "passed"
        assert chip.core.is_in_flash
        assert chip.violations == []
        left[name] = bytes(chip.chip.flash)
    page_end = -(-image.stat().st_size // 1024) * 1024
    assert left["ispd"].startswith(image.read_bytes())
    assert left["ispd"][page_end:] == OLD[page_end : len(left["ispd"])]
    # what becomes of the rest of the last page is up to each program: it was erased
    assert left["ispd"] == left["st-flash"] == left["OpenOCD"]


@pytest.mark.parametrize(
    ("firmware", "has_nrst"),
    [
        (StLinkFirmware(), False),
        (StLinkFirmware(), True),
        (StLinkFirmware(jtag=17, third=4), False),
        (StLinkFirmware(product_id=0x374F, jtag=7, third=1), True),
    ],
    ids=["without-nrst", "with-nrst", "old-firmware", "V3"],
)
def test_the_others_read_back_what_ispd_wrote(
    image: Path, tmp_path: Path, firmware: StLinkFirmware, has_nrst: bool
) -> None:
    chip, copy, other = used_chip(), tmp_path / "copy.bin", tmp_path / "other.bin"
    other.write_bytes(image.read_bytes()[:-1] + b"\0")
    with UsbBed({PLACE: probe_with(chip, firmware, has_nrst=has_nrst)}) as bed:
        assert told(bed.run(ours("flash", str(image))))["verdict"] == "passed"
        assert chip.core.is_in_flash
        read = bed.run(("st-flash", "read", str(copy), "0x08000000", "0x10000"))
        assert read.returncode == 0, read.stderr
        assert bed.run(verify(other)).returncode == 1
        verified = bed.run(verify(image))
        assert verified.returncode == 0, verified.stderr
        assert chip.core.is_in_flash
    assert copy.read_bytes() == image.read_bytes().ljust(0x1_0000, b"\xff") == chip.chip.flash


def test_a_protected_part_is_unlocked_as_openocd_unlocks_it(image: Path) -> None:
    state: dict[str, tuple[bytes, bytes]] = {}
    for name, command in (("OpenOCD", UNLOCK), ("ispd", ours("flash", str(image), "unlock"))):
        chip = used_chip(is_protected=True)
        before = bytes(chip.chip.flash)
        with UsbBed({PLACE: probe_with(chip)}) as bed:
            refused = told(bed.run(ours("flash", str(image))))
            assert (refused["verdict"], refused["failure"]) == ("failed", "target-locked")
            assert chip.chip.flash == before
            assert bed.run(command).returncode == 0
            assert (chip.flash.is_protected, chip.chip.flash != before) == (False, True)
            assert fields(bed.run(PROBE)) == GUIDE
            done = told(bed.run(ours("flash", str(image))))
        assert done["verdict"] == "passed", done
        assert chip.violations == []
        state[name] = bytes(chip.chip.flash), bytes(chip.flash.options)
    assert state["ispd"] == state["OpenOCD"]


def test_what_ispd_protects_st_flash_cannot_write_and_openocd_opens(image: Path) -> None:
    chip = used_chip()
    probe = probe_with(chip)
    with UsbBed({PLACE: probe}) as bed:
        locked = told(bed.run(ours("flash", str(image), "lock")))
        assert locked["verdict"] == "passed", locked
        assert chip.flash.is_protected
        refused = bed.run(write(image))
        assert refused.returncode != 0
        assert "Unknown memory region" in refused.stdout
        assert bed.run(UNLOCK).returncode == 0
        assert chip.chip.flash.count(0xFF) == len(chip.chip.flash)
        done = told(bed.run(ours("flash", str(image))))
    assert done["verdict"] == "passed", done
    assert chip.core.is_in_flash


def test_a_lost_connection_is_no_success_and_a_busy_bus_no_failure(image: Path) -> None:
    lost = Stm32F1(faults=[GoesSilent(after_instructions=100)])
    with UsbBed({PLACE: probe_with(lost)}) as bed:
        found = told(bed.run(ours("flash", str(image), "keeps_rest")))
    assert (found["verdict"], found["failure"]) == ("failed", "target-lost")
    waiting = Stm32F1(faults=[ApWait(access=30, times=3)])
    with UsbBed({PLACE: probe_with(waiting)}) as bed:
        assert told(bed.run(ours("flash", str(image))))["verdict"] == "passed"
    assert waiting.chip.flash.startswith(image.read_bytes())


def test_a_target_that_openocd_left_halted_is_flashed_and_runs(image: Path) -> None:
    chip = used_chip()
    with UsbBed({PLACE: probe_with(chip)}) as bed:
        assert bed.run((*OPENOCD, "init; reset halt; exit")).returncode == 0
        assert chip.core.is_halted
        assert as_st_info(told(bed.run(ours("probe")))) == GUIDE
        done = told(bed.run(ours("flash", str(image))))
        assert done["verdict"] == "passed", done
        assert chip.core.is_in_flash
        assert fields(bed.run(PROBE)) == GUIDE


@pytest.mark.parametrize("mode", [Mode.DFU, Mode.SWIM, Mode.DEBUG], ids=lambda mode: mode.name)
def test_whatever_mode_the_programmer_was_left_in_it_is_used(mode: Mode) -> None:
    probe = probe_with(used_chip())
    with UsbBed({PLACE: probe}) as bed:
        probe.debugger.mode = mode
        assert as_st_info(told(bed.run(ours("probe")))) == GUIDE
    assert probe.debugger.mode is Mode.MASS_STORAGE


def killed_after(bed: UsbBed, probe: StLink, command: Sequence[str], commands: int) -> None:
    """Kill a program once the ST-Link got that many commands from it."""
    limit = probe.debugger.commands + commands
    with subprocess.Popen(
        command, env=bed.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        deadline = time.monotonic() + DEADLINE_S
        while probe.debugger.commands < limit:
            assert running.poll() is None, f"it ended before:\n{running.communicate()[0]}"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        running.kill()


@pytest.mark.parametrize("commands", [25, 60, 75])
def test_after_a_killed_program_the_next_one_works(image: Path, commands: int) -> None:
    chip = used_chip()
    probe = probe_with(chip)
    with UsbBed({PLACE: probe}) as bed:
        killed_after(bed, probe, write(image), commands)
        done = told(bed.run(ours("flash", str(image))))
        assert done["verdict"] == "passed", done
        killed_after(bed, probe, ours("flash", str(image)), commands)
        written = bed.run(write(image))
        assert written.returncode == 0, written.stderr
        killed_after(bed, probe, ours("flash", str(image)), commands)
        programmed = bed.run(program(image))
        assert programmed.returncode == 0, programmed.stderr
    assert chip.chip.flash.startswith(image.read_bytes())
    assert chip.core.is_in_flash
