"""An emulated ST-Link on the guest's kernel, halted by OpenOCD."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from vbench.stlink import StLink
from vbench.stm32_board import Stm32Board
from vbench.vhci import VhciBus
from vbench.vhci_board import VhciBoard

DEVICES = Path("/sys/bus/usb/devices")
PORT, BOARD_PORT = 2, 4
OPENOCD = ("openocd", "-f", "interface/stlink.cfg", "-f", "target/stm32f1x.cfg", "-c")
_DEADLINE_S = 120.0


@pytest.fixture(autouse=True)
def _tools() -> None:
    if shutil.which("openocd") is None:
        pytest.skip("openocd is not installed (Debian package)")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)


def wait_for_id(path: str, usb: str) -> None:
    """Wait until the kernel shows a device with this id at a place."""
    end, shown = time.monotonic() + _DEADLINE_S, ""
    while shown != usb:
        assert time.monotonic() < end, shown
        time.sleep(0.02)
        files = [DEVICES / path / name for name in ("idVendor", "idProduct")]
        shown = ":".join(file.read_text().strip() for file in files if file.exists()).upper()


def test_a_bluepill_that_is_halted_stays_on_the_bus_until_it_runs_again() -> None:
    """Its pull-up is a resistor: the kernel sees nothing of a halt, and an unplugging when the next program begins."""
    board = Stm32Board()
    with VhciBus() as bus:
        wait_for_id(bus.plug(StLink(), PORT), "0483:3748")
        bus.insert(PORT, board)
        with VhciBoard(bus, board, BOARD_PORT) as cable:
            wait_for_id(cable.path, "1EAF:0003")
            run("udevadm", "settle")
            first = device_number(cable.path)
            assert first is not None
            halted = run(*OPENOCD, "init; halt; exit")
            assert board.swd.core.is_halted, halted.stderr
            assert device_number(cable.path) == first
            run(*OPENOCD, "init; reset run; exit")
            end = time.monotonic() + _DEADLINE_S
            while device_number(cable.path) in (first, None):
                assert time.monotonic() < end
                time.sleep(0.02)
            wait_for_id(cable.path, "1EAF:0003")


def device_number(path: str) -> str | None:
    """Return the address of the device at a place, another one after each enumeration; None where none is."""
    try:
        return (DEVICES / path / "devnum").read_text().strip()
    except OSError:
        return None
