"""On a real kernel: avrdude and the daemon with emulated USB programmers, behind real USB, libusb and udev.

Where what avrdude 7.1 shows is not what stands in the chip's cells, or breaks a rule of the chip, the sources decide:

- Bits that a fuse or lock byte does not have: the cells hold 0, avrdude shows 1. A chip that is read sends ones for them (data
  sheets, "Reading the Fuse and Lock Bits"), so both are right.
- Blank cells at the end of flash: avrdude leaves them out of its file (``avr_mem_hiaddr`` in avr.c, for flash only).
- A fuse or lock byte that is being written: avrdude polls it by reading (``avr_write_byte_default`` in avr.c), which a busy chip
  does not have to answer (data sheets, "Serial Programming Algorithm"). The emulated chip answers FF and counts it; what avrdude
  waits for, it gets, so the count is allowed for here, for these two instructions only.
"""

import base64
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vm.inside.station import Workstation, broken_by_avrdude, sample

from ispctl.client import Client
from ispd.catalog.parts import load_parts
from ispd.model.part import MemoryKind
from vbench.emulated import EmulatedUsb
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny
from vbench.vhci import VhciBus

PARTS = load_parts()
MEMORIES = ("flash", "eeprom", "lfuse", "hfuse", "efuse", "lock", "signature")
EEPROM = bytes(range(0x20, 0x60))
SMALL_BYTES = 1200
TIME_SCALE = 4.0
"""For avrdude, which reads all of a memory."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A programmer as it is made, and as avrdude calls it."""

    make: Callable[[AvrTarget], EmulatedUsb]
    avrdude: str


KINDS = {
    "usbasp-2007": Kind(lambda target: UsbAsp(UsbAspFirmware.STOCK_2007, target=target), "usbasp"),
    "usbasp-2011": Kind(lambda target: UsbAsp(UsbAspFirmware.STOCK_2011, target=target), "usbasp"),
    "usbtiny": Kind(lambda target: UsbTiny(target=target), "usbtiny"),
}


def fresh(part: str = "atmega32u4") -> AvrTarget:
    """Return a factory-fresh board."""
    return AvrTarget(PARTS.avr(part), seed=1)


def plug(bus: VhciBus, devices: Mapping[int, EmulatedUsb]) -> None:
    """Plug devices in, and return when udev is through with them."""
    for port, device in devices.items():
        place = Path("/sys/bus/usb/devices") / bus.plug(device, port) / "bNumConfigurations"
        end = time.monotonic() + 60
        while not place.exists():
            assert time.monotonic() < end, f"{place.parent.name} does not appear"
            time.sleep(0.02)
    subprocess.run(["udevadm", "settle"], check=True, timeout=60)


def avrdude(kind: Kind, *operations: str) -> None:
    """Run avrdude on a small board."""
    command = ["avrdude", "-c", kind.avrdude, "-p", "m8u2"]
    for operation in operations:
        command += ["-U", operation]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def failure_of(client: Client, slot: str) -> str | None:
    """Return the code of what is wrong with a slot; None where nothing is, or there is no such slot yet."""
    found = [one["failure"] for one in client.call("slot.list") if one["name"] == slot]
    return found[0]["code"] if found and found[0] is not None else None


def attached(name: str, content: bytes) -> dict[str, str]:
    """Return a file as the API takes it."""
    return {"name": name, "content": base64.b64encode(content).decode()}


def check_what_avrdude_reads(kind: Kind, target: AvrTarget, folder: Path) -> None:
    """Let avrdude read everything, and compare with the chip's cells."""
    avrdude(kind, *(f"{memory}:r:{folder / memory}.out:r" for memory in MEMORIES))
    read = {memory: (folder / f"{memory}.out").read_bytes() for memory in MEMORIES}
    assert read["flash"] == target.flash.rstrip(b"\xff")
    assert read["eeprom"] == target.eeprom
    assert read["signature"] == target.part.signature.value
    for name in (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE):
        fuse = target.part.fuse(name)
        assert fuse is not None
        assert read[name.value] == bytes([target.fuses[name] | ~fuse.mask & 0xFF]), name
    assert read["lock"] == bytes([target.lock | ~target.part.lock_mask & 0xFF])


def check_cells(target: AvrTarget, image: bytes) -> None:
    """Compare the chip's cells with what a test writes into every board."""
    assert target.flash == image.ljust(len(target.flash), b"\xff")
    assert target.eeprom == EEPROM.ljust(len(target.eeprom), b"\xff")
    assert target.fuses == {MemoryKind.LFUSE: 0xDE, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0x05}
    assert target.lock == 0x2F


@pytest.mark.parametrize("name", KINDS)
def test_avrdude_writes_and_reads_every_emulated_programmer(name: str, tmp_path: Path) -> None:
    kind, target, image = KINDS[name], fresh("atmega8u2"), sample(SMALL_BYTES)
    (tmp_path / "flash.bin").write_bytes(image)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    with VhciBus(time_scale=TIME_SCALE) as bus:
        plug(bus, {0: kind.make(target)})
        memories = f"flash:w:{tmp_path}/flash.bin:r", f"eeprom:w:{tmp_path}/eeprom.bin:r"
        avrdude(kind, *memories, "efuse:w:0xF5:m", "hfuse:w:0xD9:m", "lfuse:w:0xDE:m", "lock:w:0xEF:m")
        check_cells(target, image)
        check_what_avrdude_reads(kind, target, tmp_path)
    assert broken_by_avrdude(target) == []


def test_the_daemon_flashes_each_board_its_own_leaves_a_bootloader_alone_and_avrdude_reads_what_it_wrote(
    tmp_path: Path,
) -> None:
    targets = {name: fresh("atmega8u2") for name in KINDS}
    images = {name: sample(SMALL_BYTES, seed=seed) for seed, name in enumerate(KINDS)}
    bits = {"lfuse": 0xDE, "hfuse": 0xD9, "efuse": 0xF5, "lock": 0xEF, "accept_fuses": True}
    with Workstation(tmp_path) as station:
        station.start_daemon()
        with Client(station.socket) as client:
            paths = {
                name: station.plug(KINDS[name].make(target), port)
                for port, (name, target) in enumerate(targets.items())
            }
            wanted = {(path, "idle") for path in paths.values()}
            station.wait_for(lambda: {(slot["name"], slot["state"]) for slot in client.call("slot.list")} == wanted)
            keyboard = UsbAspLoader(PARTS.avr("atmega32a"))
            closed = station.plug(keyboard, len(KINDS))
            station.wait_for(lambda: failure_of(client, closed) == "programmer-is-bootloader")
            jobs = {}
            for name, path in paths.items():
                files = {"images": [attached("a.bin", images[name])], "eeprom": attached("e.bin", EEPROM)}
                jobs[name] = client.call("job.enqueue", slots=[path], **files, **bits)["id"]
            station.wait_for(lambda: all(client.call("job.get", id=job)["state"] == "done" for job in jobs.values()))
            verdicts = {unit["job"]: unit["verdict"] for unit in client.call("unit.list")}
            assert verdicts == dict.fromkeys(jobs.values(), "passed")
            refused = client.call("job.enqueue", images=[attached("a.bin", sample(600))], slots=[closed])["id"]
            station.wait_for(lambda: client.call("job.get", id=refused)["state"] in ("done", "empty"))
            assert (client.call("job.get", id=refused)["passed"], keyboard.writes) == (0, 0)
    for name, target in targets.items():
        check_cells(target, images[name])
        assert [str(violation) for violation in target.violations] == [], name
        with VhciBus(time_scale=TIME_SCALE) as bus:
            plug(bus, {0: KINDS[name].make(target)})
            check_what_avrdude_reads(KINDS[name], target, tmp_path)
