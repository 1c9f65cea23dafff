"""Boards' own USB cables on the guest's kernel: they come and go as their chips start, and real programs flash them."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.image import Image
from vbench.board import Board
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget
from vbench.vhci import VhciBus
from vbench.vhci_board import VhciBoard

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
DEVICES = Path("/sys/bus/usb/devices")
APPLICATION = "FEED:6060"
PORT = 3
_DEADLINE_S = 60.0


def board_with(name: str) -> Board:
    """Return a board with a bootloader and its fuses, and nothing else in it."""
    loader = BOOTLOADERS.get(name)
    target = AvrTarget(PARTS.avr("atmega32u4"), fuses=loader.fuses, seed=1)
    put(target, bootloader_image(loader, target.part))
    return Board(target)


def put(target: AvrTarget, image: Image) -> None:
    for segment in image.segments:
        target.flash[segment.start : segment.span.stop] = segment.data


def shown(path: str) -> str | None:
    """Return the id of what the kernel sees at a place."""
    try:
        vendor, product = ((DEVICES / path / name).read_text().strip() for name in ("idVendor", "idProduct"))
    except OSError:
        return None
    return f"{vendor}:{product}".upper()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)


@pytest.mark.parametrize("name", ["atmel-dfu-32u4", "qmk-dfu-32u4"])
def test_dfu_programmer_flashes_a_board_and_its_firmware_comes_up(name: str, tmp_path: Path) -> None:
    board = board_with(name)
    image = application_image(board.target.part, 6000, seed=1)
    (tmp_path / "app.hex").write_bytes(write_hex(image))
    with VhciBus() as bus, VhciBoard(bus, board, PORT) as cable:
        wait_for(lambda: shown(cable.path) == "03EB:2FF4")
        run("udevadm", "settle")
        number, address = ((DEVICES / cable.path / key).read_text().strip() for key in ("busnum", "devnum"))
        chip = f"atmega32u4:{number},{address}"
        assert run("dfu-programmer", "atmega32u4:1,99", "get").returncode == 1
        erased = run("dfu-programmer", chip, "erase")
        assert erased.returncode == 0, erased.stderr
        flashed = run("dfu-programmer", chip, "flash", str(tmp_path / "app.hex"))
        assert flashed.returncode == 0, flashed.stderr
        assert "6000 bytes used" in flashed.stderr
        run("dfu-programmer", chip, "reset")
        wait_for(lambda: shown(cable.path) == APPLICATION)
        with bus.lock:
            board.target.set_reset(True, bus.now())
        wait_for(lambda: shown(cable.path) is None)
        with bus.lock:
            board.target.set_reset(False, bus.now())
        wait_for(lambda: shown(cable.path) == "03EB:2FF4")
    assert board.target.flash[:6000] == image.segments[0].data
    assert board.target.violations == []


def test_avrdude_flashes_a_caterina_through_the_kernels_tty(tmp_path: Path) -> None:
    board = board_with("caterina-promicro16")
    image = application_image(board.target.part, 2000, seed=2)
    (tmp_path / "app.hex").write_bytes(write_hex(image))
    with VhciBus() as bus, VhciBoard(bus, board, PORT) as cable:
        wait_for(lambda: shown(cable.path) == "1B4F:9205" and [*(DEVICES / cable.path).glob("*/tty/*")])
        run("udevadm", "settle")
        (tty,) = (DEVICES / cable.path).glob("*/tty/*")
        words = ("-c", "avr109", "-p", "m32u4", "-P", f"/dev/{tty.name}", "-U", f"flash:w:{tmp_path}/app.hex:i")
        result = run("avrdude", *words)
        assert result.returncode == 0, result.stderr
        assert "2000 bytes of flash verified" in result.stderr
        wait_for(lambda: shown(cable.path) == APPLICATION)
    assert board.target.flash[:2000] == image.segments[0].data
