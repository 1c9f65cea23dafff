"""Unmodified st-info, st-flash and OpenOCD, as the QMK ISP guide calls them, and the devices they meet on the bed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.oracle.usb.bed import missing_packages

from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket, SwdWiring

__all__ = [
    "BYTE_SUM",
    "GUIDE",
    "OPENOCD",
    "PLACE",
    "PROBE",
    "SERIAL",
    "SIZE",
    "UNLOCK",
    "fields",
    "guide_image",
    "probe_with",
    "program",
    "require_programs",
    "write",
]

PLACE = "1-1.4"
SERIAL = "2C1219002B135937334D4E00"
PROBE = ("st-info", "--probe")
OPENOCD = ("openocd", "-f", "interface/stlink.cfg", "-f", "target/stm32f1x.cfg", "-c")
UNLOCK = (*OPENOCD, "init; reset halt; stm32f1x unlock 0; reset halt; exit")
GUIDE = {
    "version": "V2J37S7",
    "serial": SERIAL,
    "flash": "65536 (pagesize: 1024)",
    "sram": "20480",
    "chipid": "0x0410",
    "descr": "F1xx Medium-density",
}
SIZE, BYTE_SUM = 7172, 0x8E534
"""Of the guide's bootloader file."""


def require_programs() -> None:
    """Skip the test where a program or the bed's packages are missing."""
    for tool, package in (("st-flash", "stlink-tools"), ("openocd", "openocd")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {package}")
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


def guide_image(folder: Path) -> Path:
    """Make a file as long as the guide's bootloader and with the same sum of bytes, vectors included."""
    content = bytearray((0x2000_2800).to_bytes(4, "little") + (0x0800_00F1).to_bytes(4, "little"))
    content += bytes((index * 37 + 11) % 162 for index in range(SIZE - len(content)))
    index = 8
    while (missing := BYTE_SUM - sum(content)) != 0:
        content[index] = min(max(content[index] + missing, 0), 0xFF)
        index += 1
    path = folder / "generic_boot20_pc13.bin"
    path.write_bytes(content)
    return path


def probe_with(chip: Stm32F1, firmware: StLinkFirmware | None = None, *, has_nrst: bool = False) -> StLink:
    """Return a programmer with a chip on it."""
    return StLink(firmware, socket=SwdSocket(chip, wiring=SwdWiring(has_nrst=has_nrst)))


def fields(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return what ``st-info --probe`` shows of the one programmer."""
    assert result.returncode == 0
    assert "Found 1 stlink programmers" in result.stdout
    return dict(re.findall(r"^ +(\w+): +(.*)$", result.stdout, re.MULTILINE))


def write(path: Path, *options: str) -> tuple[str, ...]:
    """Return the guide's command."""
    return ("st-flash", *options, "--reset", "--format", "binary", "write", str(path), "0x08000000")


def program(path: Path) -> tuple[str, ...]:
    """Return OpenOCD's way to do the same."""
    return (*OPENOCD, f"program {path} 0x08000000 verify reset exit")
