"""On a real kernel: avrdude and the daemon with emulated USB programmers, behind real USB, libusb and udev."""

import subprocess
from pathlib import Path

import pytest
from tests.vm.inside.station import Workstation, sample

from ispd.catalog.parts import load_parts
from ispd.model.part import MemoryKind
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny
from vbench.violation import ViolationKind

PARTS = load_parts()
BITS = (0x50, 0x58)
"""Instructions that read fuse and lock bytes (data sheets, "Serial Programming Instruction Set")."""


def fresh() -> AvrTarget:
    """Return a factory-fresh ATmega32U4."""
    return AvrTarget(PARTS.get("atmega32u4"))


@pytest.mark.parametrize("kind", ["usbasp", "usbtiny"])
def test_avrdude_believes_the_emulated_programmer(kind: str, tmp_path: Path) -> None:
    target, image = fresh(), sample(4000)
    eeprom = bytes(range(64))
    (tmp_path / "flash.bin").write_bytes(image)
    (tmp_path / "eeprom.bin").write_bytes(eeprom)
    with Workstation(tmp_path) as station:
        station.plug(UsbAsp(target=target) if kind == "usbasp" else UsbTiny(target=target), 3)
        job = ["-U", f"flash:w:{tmp_path}/flash.bin:r", "-U", f"eeprom:w:{tmp_path}/eeprom.bin:r"]
        bits = ["-U", "efuse:w:0xCB:m", "-U", "hfuse:w:0xD9:m", "-U", "lock:w:0xEF:m"]
        command = ["avrdude", "-c", kind, "-p", "m32u4", *job, *bits]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    assert target.flash[: len(image)] == image
    assert target.eeprom[: len(eeprom)] == eeprom
    assert target.fuses[MemoryKind.HFUSE] == 0xD9
    assert target.lock & 0x3F == 0x2F
    # avrdude waits for a fuse or lock byte by reading it until it is right
    wrong = [
        one for one in target.violations if one.kind is not ViolationKind.WHILE_BUSY or one.instruction[0] not in BITS
    ]
    assert [str(violation) for violation in wrong] == []


def test_the_daemon_meets_programmers_as_they_are_plugged_in_and_flashes_each_board_its_own(tmp_path: Path) -> None:
    targets = {port: fresh() for port in (0, 1, 4, 5)}
    with Workstation(tmp_path) as station:
        station.start_daemon()
        paths = {}
        for port, target in targets.items():
            paths[port] = station.plug(UsbAsp(target=target) if port < 4 else UsbTiny(target=target), port)
        station.wait_for(
            lambda: {slot["name"] for slot in station.slots() if slot["state"] == "idle"} == {*paths.values()}
        )
        images = {port: sample(1500 + 256 * port, seed=port) for port in targets}
        jobs = [station.enqueue(images[port], paths[port], "--hfuse", "0xD9", "--lock", "0xEF") for port in targets]
        assert [station.ctl("wait", str(job)).returncode for job in jobs] == [0] * 4
        for port, target in targets.items():
            assert target.flash[: len(images[port])] == images[port], port
            assert target.fuses[MemoryKind.HFUSE] == 0xD9
            assert target.lock & 0x3F == 0x2F
            assert [str(violation) for violation in target.violations] == []


def test_a_programmer_pulled_while_flashing_ends_its_unit_only_and_comes_back_by_place(tmp_path: Path) -> None:
    lasting, pulled = fresh(), fresh()
    with Workstation(tmp_path) as station:
        station.start_daemon()
        first, second = station.plug(UsbTiny(target=lasting), 0), station.plug(UsbTiny(target=pulled), 1)
        station.wait_for(lambda: sum(slot["state"] == "idle" for slot in station.slots()) == 2)
        image = sample(12000)
        job = station.enqueue(image, f"{first},{second}")
        station.wait_for(lambda: station.slot(second)["step"] == "write flash")
        station.unplug(1)
        assert station.ctl("wait", str(job)).returncode == 1
        verdicts = {unit["slot"]: unit["verdict"] for unit in station.units(job)}
        assert verdicts == {first: "passed", second: "interrupted"}
        assert lasting.flash[: len(image)] == image
        assert station.slot(second)["state"] == "vacant"
        assert station.plug(UsbTiny(target=pulled), 1) == second
        station.wait_for(lambda: station.slot(second)["state"] == "idle")
        assert station.ctl("enqueue", str(station.image_file(image)), "--slots", second, "--wait").returncode == 0
        assert pulled.flash[: len(image)] == image


def test_a_keyboard_in_its_usbasp_bootloader_is_never_written(tmp_path: Path) -> None:
    keyboard = UsbAspLoader(PARTS.get("atmega32a"))
    with Workstation(tmp_path) as station:
        station.start_daemon()
        path = station.plug(keyboard, 2)
        station.wait_for(lambda: station.slot(path)["failure"] is not None)
        assert station.slot(path)["failure"]["code"] == "programmer-is-bootloader"
        assert station.ctl("enqueue", str(station.image_file(sample(600))), "--slots", path, "--wait").returncode == 1
    assert keyboard.writes == 0
