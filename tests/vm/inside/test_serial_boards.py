"""Serial programmers behind the kernel's own driver (cdc_acm): real /dev/ttyACM*, line coding, DTR, hang-up.

Where avrdude 7.1 and the emulated boards disagree, the firmware decides:

- EEPROM over ArduinoISP: avrdude sends byte addresses, the sketch takes them for word addresses and doubles them. Each page
  lands at twice its address, and avrdude reads it back from there: its verification passes on cells that are wrong.
- A fuse or lock byte that is being written is polled by reading it; see test_programmers.
- An Uno is reset by the opening of its port; Optiboot listens at another rate and gives way, so avrdude gets through to the
  sketch after some of its attempts. The daemon waits for the same, and leaves DTR alone after that.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.vm.inside.station import Workstation, broken_by_avrdude, sample

from ispd.catalog.parts import load_parts
from ispd.model.part import MemoryKind
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.line import Flavour
from vbench.serial_board import SerialBoard
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

PARTS = load_parts()
IMAGE_BYTES = 1000
EEPROM = bytes(range(0x40, 0x60))
EEPROM_PAGE = 4
TIME_SCALE = 8.0
"""For avrdude, which reads all of a memory: what takes 12 s at 19200 baud takes 1.5 s."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A serial programmer, and what avrdude has to be told about it."""

    make: Callable[[AvrTarget], SerialBoard]
    avrdude: tuple[str, ...]
    usb_id: str
    driver: str


KINDS = {
    "uno": Kind(
        lambda target: SerialProgrammer(Flavour.UNO, target=target),
        ("-c", "stk500v1", "-b", "19200"),
        "2341:0043",
        "stk500v1",
    ),
    "leonardo": Kind(
        lambda target: SerialProgrammer(Flavour.LEONARDO, target=target),
        ("-c", "avrisp", "-b", "19200"),
        "2341:8036",
        "stk500v1",
    ),
    "teensyduino": Kind(
        lambda target: SerialProgrammer(Flavour.TEENSYDUINO, target=target), ("-c", "avrisp"), "16C0:0483", "stk500v1"
    ),
    "bus-pirate-v4": Kind(
        lambda target: BusPirate(BusPirateHardware.V4, target=target),
        ("-c", "buspirate", "-x", "spifreq=1"),
        "04D8:FB00",
        "buspirate",
    ),
}


def fresh() -> AvrTarget:
    """Return a factory-fresh ATmega16U2."""
    return AvrTarget(PARTS.avr("atmega16u2"), seed=1)


def avrdude(kind: Kind, port: str, *operations: str) -> "subprocess.CompletedProcess[str]":
    """Run avrdude on a port."""
    command = ["avrdude", *kind.avrdude, "-P", port, "-p", "m16u2"]
    for operation in operations:
        command += ["-U", operation]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", KINDS)
def test_avrdude_writes_and_reads_back_what_is_in_the_chip(name: str, tmp_path: Path) -> None:
    kind, target, image = KINDS[name], fresh(), sample(IMAGE_BYTES)
    is_sketch = kind.driver == "stk500v1"
    (tmp_path / "flash.bin").write_bytes(image)
    (tmp_path / "eeprom.bin").write_bytes(EEPROM)
    programmer = kind.make(target)
    with Workstation(tmp_path, time_scale=TIME_SCALE) as station:
        port = station.tty(station.plug(programmer, 2))
        files = [f"flash:w:{tmp_path}/flash.bin:r", f"eeprom:w:{tmp_path}/eeprom.bin:r"]
        written = avrdude(kind, port, *files, "efuse:w:0xF7:m", "hfuse:w:0xD1:m", "lfuse:w:0xDF:m", "lock:w:0xEF:m")
        assert written.returncode == 0, written.stderr
        # a second process: the tty outlives its closing, and the new clock fuses are latched by entering again
        names = ("flash", "eeprom", "lfuse", "hfuse", "efuse", "lock", "signature")
        read = avrdude(kind, port, *(f"{memory}:r:{tmp_path}/{memory}.out:r" for memory in names))
        assert read.returncode == 0, read.stderr
    assert target.flash[: len(image)] == image
    assert target.fuses == {MemoryKind.LFUSE: 0xDF, MemoryKind.HFUSE: 0xD1, MemoryKind.EFUSE: 0x07}
    assert target.lock == 0x2F
    for start in range(0, len(EEPROM), EEPROM_PAGE):
        place = 2 * start if is_sketch else start
        assert target.eeprom[place : place + EEPROM_PAGE] == EEPROM[start : start + EEPROM_PAGE]
    assert broken_by_avrdude(target) == []
    assert programmer.lost == 0
    if isinstance(programmer, SerialProgrammer) and programmer.flavour is Flavour.UNO:
        assert programmer.resets >= 2, "once by each process, at least"

    def dump(memory: str) -> bytes:
        return (tmp_path / f"{memory}.out").read_bytes()

    assert dump("flash") == image  # avrdude drops trailing blank cells
    assert dump("eeprom")[: len(EEPROM)] == EEPROM
    assert [dump(memory)[0] for memory in ("lfuse", "hfuse", "efuse", "lock")] == [0xDF, 0xD1, 0xF7, 0xEF]
    assert dump("signature") == target.part.signature.value


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workstation]:
    """Give a workstation whose daemon runs: it takes longer to start here than it takes to flash."""
    with Workstation(tmp_path_factory.mktemp("workstation")) as station:
        station.start_daemon()
        yield station


@pytest.fixture
def station(running: Workstation) -> Iterator[Workstation]:
    """Give the workstation; all plugs are pulled afterwards."""
    yield running
    running.unplug_all()
    running.wait_for(lambda: running.names("vacant") == {slot["name"] for slot in running.slots()})


def test_the_daemon_meets_serial_boards_and_each_flashes_its_own_image(station: Workstation) -> None:
    targets = {name: fresh() for name in KINDS}
    programmers = {name: kind.make(targets[name]) for name, kind in KINDS.items()}
    paths = station.plug_all(dict(enumerate(programmers.values())))
    places = dict(zip(KINDS, paths.values(), strict=True))
    station.wait_for(lambda: station.names("idle") == {*places.values()})
    found = {one["slot"]: one for one in station.call("programmer.list")}
    for name, kind in KINDS.items():
        one = found[places[name]]
        assert (one["kind"], one["usb_id"], one["port"]) == (kind.driver, kind.usb_id, station.tty(places[name]))
    images = {name: sample(IMAGE_BYTES, seed=number) for number, name in enumerate(KINDS)}
    jobs = {name: station.submit(images[name], [places[name]], hfuse=0xDB, lock=0xEF) for name in KINDS}
    for name, job in jobs.items():
        unit = station.ended(job)[places[name]]
        assert unit["verdict"] == "passed", (name, unit["failure"])
        target = targets[name]
        assert target.flash[:IMAGE_BYTES] == images[name], name
        assert (target.fuses[MemoryKind.HFUSE], target.lock) == (0xDB, 0x2F)
        assert [str(violation) for violation in target.violations] == []
        assert programmers[name].lost == 0


def test_an_uno_is_reset_by_the_first_opening_only_also_by_a_daemon_that_was_restarted(station: Workstation) -> None:
    target = fresh()
    uno = SerialProgrammer(Flavour.UNO, target=target)
    path = station.plug(uno, 7)
    station.wait_for(lambda: station.names("idle") == {path})
    assert uno.resets == 1
    station.stop_daemon()
    station.start_daemon()
    station.wait_for(lambda: station.names("idle") == {path})
    assert uno.resets == 1
    image = sample(300)
    assert station.ended(station.submit(image, [path]))[path]["verdict"] == "passed"
    assert target.flash[: len(image)] == image
    station.stop_daemon()
    # what other programs do: hang up at the end, and so reset it the next time
    hang_up = ["stty", "-F", station.tty(path), "hupcl"]
    subprocess.run(hang_up, check=True, timeout=30)
    station.wait_for(lambda: uno.resets == 1)
    subprocess.run(hang_up, check=True, timeout=30)
    station.wait_for(lambda: uno.resets == 2)
    station.start_daemon()
