"""An emulated ST-Link on the guest's kernel, as st-info, st-flash and OpenOCD see it."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from vbench.stlink import StLink
from vbench.stm32 import stm32_loader
from vbench.stm32_board import Stm32Board
from vbench.swd import SwdSocket
from vbench.vhci import VhciBus
from vbench.vhci_board import VhciBoard

DEVICES = Path("/sys/bus/usb/devices")
PORT, BOARD_PORT = 2, 4
GUIDE = {
    "version": "V2J37S7",
    "serial": "2C1219002B135937334D4E00",
    "flash": "65536 (pagesize: 1024)",
    "sram": "20480",
    "chipid": "0x0410",
    "descr": "F1xx Medium-density",
}
UNLOCK = "init; reset halt; stm32f1x unlock 0; reset halt; exit"
OPENOCD = ("openocd", "-f", "interface/stlink.cfg", "-f", "target/stm32f1x.cfg", "-c")
_DEADLINE_S = 120.0


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool, package in (("st-flash", "stlink-tools"), ("openocd", "openocd")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {package}")


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


def test_a_locked_bluepill_is_unlocked_flashed_and_shows_its_bootloader(tmp_path: Path) -> None:
    board = Stm32Board(has_loader=False, is_protected=True)
    probe = StLink(socket=SwdSocket(board.swd))
    path = tmp_path / "loader.bin"
    path.write_bytes(stm32_loader())
    write = ("st-flash", "--reset", "--format", "binary", "write", str(path), "0x08000000")
    with VhciBus() as bus:
        wait_for_id(bus.plug(probe, PORT), "0483:3748")
        run("udevadm", "settle")
        refused = run(*write)
        assert refused.returncode != 0
        assert "Unknown memory region" in refused.stdout, refused.stderr
        unlocked = run(*OPENOCD, UNLOCK)
        assert unlocked.returncode == 0, unlocked.stderr
        assert not board.swd.flash.is_protected
        told = run("st-info", "--probe")
        assert dict(re.findall(r"^ +(\w+): +(.*)$", told.stdout, re.MULTILINE)) == GUIDE
        written = run(*write)
        assert written.returncode == 0, written.stderr
        assert "Flash written and verified! jolly good!" in written.stderr
        programmed = run(*OPENOCD, f"program {path} 0x08000000 verify reset exit")
        assert "** Verified OK **" in programmed.stderr
        assert board.swd.violations == []
        with bus.lock:
            probe.socket.remove(bus.now())
        with VhciBoard(bus, board, BOARD_PORT) as cable:
            wait_for_id(cable.path, "1EAF:0003")


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
