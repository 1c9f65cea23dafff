"""Programmers that come, go and are pulled while they work, on the kernel's USB with the real udev.

The seeds only choose an order; whatever they are, the outcome has to be the same.
"""

import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest
from tests.vm.inside.station import Workstation, sample
from tests.vm.inside.timeline import Timeline, Told

from ispd.catalog.parts import load_parts
from ispd.transport.contract import PortKind
from ispd.transport.udev import RECONCILE_S
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.faults import PowerLoss
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny

pytestmark = pytest.mark.timeout(300)

PARTS = load_parts()
IMAGE_BYTES = 1024
VISIBLE_S = 0.5
"""From udev's report to the daemon's own: the promise."""
CROWD_VISIBLE_S = 5.0
"""The same where sixteen come at once. The kernel holds udev back until its hub is through and lets all of it go in one moment:
sixteen workers of udev, sixteen programmers being opened and as many emulated ones share two emulated processors."""
FREE_S = 2.0
"""From the pulled plug to a slot that takes the next programmer: the promise."""
PULLS = 2
"""Rounds in which each of five programmers is pulled, at another instruction each time."""
STORM_EVENTS = 64
NETLINK_KOBJECT_UEVENT, UDEV_GROUP = 15, 2
"""From linux/netlink.h and systemd's sd-device: where udev tells what it has done."""
PROPERTIES_BYTES, PROPERTIES_BYTES_AT = struct.Struct("=I"), 20
"""How many bytes of properties follow, in the head of its message (systemd's ``monitor_netlink_header``)."""
PADDING_BYTES = 6000
"""libudev reads at most 8 KB at a time."""
STORM_IMAGE_BYTES = 6000
KINDS = ("usbasp", "usbtiny", "uno", "usbasp", "usbtiny", "leonardo", "teensyduino", "bus-pirate")


def programmer(kind: str, target: AvrTarget, *faults: PowerLoss) -> EmulatedUsb | EmulatedSerial:
    """Return a programmer with a board on it."""
    match kind:
        case "usbasp":
            return UsbAsp(target=target, faults=faults)
        case "usbtiny":
            return UsbTiny(target=target, faults=faults)
        case "bus-pirate":
            return BusPirate(BusPirateHardware.V4, target=target, faults=faults)
        case flavour:
            return SerialProgrammer(Flavour(flavour), target=target, faults=faults)


def fresh() -> AvrTarget:
    """Return a factory-fresh ATmega32U4."""
    return AvrTarget(PARTS.avr("atmega32u4"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workstation]:
    """Give a workstation whose daemon runs: it takes longer to start here than most of what is asked of it."""
    with Workstation(tmp_path_factory.mktemp("workstation")) as station:
        station.start_daemon()
        yield station


@pytest.fixture
def station(running: Workstation) -> Iterator[Workstation]:
    """Give the workstation; all plugs are pulled afterwards."""
    yield running
    running.unplug_all()
    running.wait_for(lambda: running.names("vacant") == {slot["name"] for slot in running.slots()})


def flash_each_its_own(station: Workstation, boards: Mapping[str, AvrTarget], *, seed: int) -> None:
    """Flash all boards at once, by slot, each with another image, and look at their cells."""
    images = {path: sample(IMAGE_BYTES, seed=seed + number) for number, path in enumerate(boards)}
    jobs = {path: station.submit(images[path], [path], lock=0xEF) for path in boards}
    for path, job in jobs.items():
        unit = station.ended(job)[path]
        assert unit["verdict"] == "passed", unit["failure"]
    for path, target in boards.items():
        assert target.flash[:IMAGE_BYTES] == images[path], path
        assert target.flash[IMAGE_BYTES:].count(0xFF) == len(target.flash) - IMAGE_BYTES
        assert target.lock == 0x2F
        assert [str(violation) for violation in target.violations] == [], path


def latency_s(timeline: Timeline, device: EmulatedUsb | EmulatedSerial, path: str) -> float:
    """Return how long after udev the daemon told of a programmer on a slot that was not known before."""
    subsystem = "tty" if device.port_kind is PortKind.SERIAL else "usb"
    reported = timeline.first(lambda told: (told.subsystem, told.action, told.path) == (subsystem, "add", path))
    shown = timeline.first(lambda told: told.slot(path) is not None)
    return max(0.0, shown.at - reported.at)


def test_sixteen_programmers_are_seen_at_once_and_flash_at_once_each_its_own_image(station: Workstation) -> None:
    kinds = {port: KINDS[port % len(KINDS)] for port in range(16)}
    targets = {port: fresh() for port in kinds}
    devices = {port: programmer(kind, targets[port]) for port, kind in kinds.items()}
    with Timeline(station.socket) as timeline:
        paths = station.plug_all(devices)
        late = {port: latency_s(timeline, devices[port], path) for port, path in paths.items()}
    assert max(late.values()) <= CROWD_VISIBLE_S, late
    station.wait_for(lambda: station.names("idle") == {*paths.values()})
    flash_each_its_own(station, {path: targets[port] for port, path in paths.items()}, seed=100)


def test_a_programmer_is_seen_within_half_a_second(station: Workstation) -> None:
    late = {}
    with Timeline(station.socket) as timeline:
        for port, kind in enumerate(dict.fromkeys(KINDS), start=20):
            device = programmer(kind, fresh())
            path = station.plug(device, port)
            station.wait_for(lambda path=path: path in station.names("idle"))  # type: ignore[misc]  # an argument kept
            late[kind] = latency_s(timeline, device, path)
    assert max(late.values()) <= VISIBLE_S, late
    assert median(late.values()) <= VISIBLE_S / 2, late


def test_slots_return_by_place_in_whatever_order_they_come(station: Workstation) -> None:
    ports = dict(enumerate(dict.fromkeys(KINDS), start=8))
    paths = station.plug_all({port: programmer(kind, fresh()) for port, kind in ports.items()})
    station.wait_for(lambda: station.names("idle") == {*paths.values()})
    kinds = {one["slot"]: one["kind"] for one in station.call("programmer.list")}
    order = random.Random(4)
    for port in order.sample(sorted(ports), len(ports)):
        station.unplug(port)
    station.wait_for(lambda: not station.call("programmer.list"))
    targets = {port: fresh() for port in ports}
    # serial boards one by one, in an order that gives all of them other nodes than before
    backwards = sorted(ports, reverse=True)
    again = {port: station.plug(programmer(ports[port], targets[port]), port) for port in backwards}
    assert {port: again[port] for port in paths} == paths
    station.wait_for(lambda: station.names("idle") == {*paths.values()})
    after = {one["slot"]: one for one in station.call("programmer.list")}
    assert {path: one["kind"] for path, one in after.items()} == kinds
    for port, path in paths.items():
        if ports[port] not in ("usbasp", "usbtiny"):
            assert after[path]["port"] == station.tty(path)
    flash_each_its_own(station, {again[port]: target for port, target in targets.items()}, seed=200)


def test_a_programmer_pulled_at_any_point_ends_its_unit_only_and_its_slot_is_free_at_once(station: Workstation) -> None:
    pulled = dict(enumerate(("usbtiny", "usbasp", "uno", "leonardo", "bus-pirate"), start=16))
    lasting = dict(enumerate(("usbtiny", "leonardo"), start=24))
    boards = {port: fresh() for port in (*pulled, *lasting)}
    devices = {port: programmer(kind, boards[port]) for port, kind in (pulled | lasting).items()}
    paths = station.plug_all(devices)
    station.wait_for(lambda: station.names("idle") == {*paths.values()})
    flash_each_its_own(station, {paths[port]: board for port, board in boards.items()}, seed=300)
    lengths = {port: devices[port].socket.instructions for port in pulled}
    order = random.Random(16)
    begun = set()
    for number in range(PULLS):
        for port, kind in pulled.items():
            station.unplug(port)
            at = order.randint(lengths[port] // 5, lengths[port] * 19 // 20)
            devices[port] = programmer(kind, boards[port], PowerLoss(instructions=at))
        station.plug_all({port: devices[port] for port in pulled})
        station.wait_for(lambda: station.names("idle") | station.names("passed") == {*paths.values()})
        image = sample(IMAGE_BYTES, seed=400 + number)
        with Timeline(station.socket) as timeline:
            units = station.ended(station.submit(image, list(paths.values())))
            for port, path in paths.items():
                if port in lasting:
                    assert units[path]["verdict"] == "passed", units[path]["failure"]
                    assert boards[port].flash[:IMAGE_BYTES] == image
                    continue
                assert units[path]["verdict"] == "interrupted", (port, units[path])
                lost_at = devices[port].power_lost_at
                assert lost_at is not None
                lost = station.moment(lost_at)
                free = timeline.first(lambda told, path=path: is_vacant(told, path), since=lost)  # type: ignore[misc]
                assert free.at - lost <= FREE_S, pulled[port]
                begun.add(len(units[path]["attempts"][-1]["steps"]))
    assert len(begun) > 1, "in more than one step"
    for port in pulled:
        station.unplug(port)
    station.plug_all({port: programmer(kind, boards[port]) for port, kind in pulled.items()})
    station.wait_for(lambda: station.names("idle") | station.names("passed") == {*paths.values()})
    flash_each_its_own(station, {paths[port]: boards[port] for port in pulled}, seed=500)


def is_vacant(told: Told, path: str) -> bool:
    """Tell whether a message says that a slot takes another programmer."""
    slot = told.slot(path)
    return slot is not None and slot["state"] == "vacant"


def test_a_storm_of_plugs_ends_in_what_is_really_there(station: Workstation) -> None:
    lasting = fresh()
    working = station.plug(UsbTiny(target=lasting), 15)
    station.wait_for(lambda: station.names("idle") == {working})
    image = sample(STORM_IMAGE_BYTES)
    job = station.submit(image, [working])
    order = random.Random(64)
    boards: dict[int, AvrTarget] = {}
    for _ in range(STORM_EVENTS):
        port = order.randrange(8)
        if port in boards:
            station.unplug(port)
            del boards[port]
        else:
            boards[port] = fresh()
            station.push_in(programmer(KINDS[port], boards[port]), port)
    assert 0 < len(boards) < 8
    paths = {port: f"1-{port + 1}" for port in boards}
    station.wait_for(lambda: station.names("idle") | station.names("passed") == {working, *paths.values()})
    flash_each_its_own(station, {paths[port]: board for port, board in boards.items()}, seed=600)
    unit = station.ended(job)[working]
    assert unit["verdict"] == "passed", unit["failure"]
    assert lasting.flash[:STORM_IMAGE_BYTES] == image


def test_events_that_were_lost_are_made_up_for_by_a_listing(station: Workstation) -> None:
    stays, goes, comes = fresh(), fresh(), fresh()
    first, second = station.plug(UsbTiny(target=stays), 0), station.plug(UsbTiny(target=goes), 1)
    station.wait_for(lambda: station.names("idle") == {first, second})
    with station.daemon_held():
        flood(lambda: lost_by(station.daemon_pid) > 0)
        station.unplug(1)
        third = station.plug(UsbAsp(target=comes), 2)
    begun = time.monotonic()
    station.wait_for(lambda: station.names("idle") == {first, third})
    assert time.monotonic() - begun < RECONCILE_S / 2, "not only at the next regular comparison"
    flash_each_its_own(station, {first: stays, third: comes}, seed=700)


def flood(is_enough: Callable[[], bool]) -> None:
    """Say again what udev says of a console, until it is enough; it is news to nobody.

    Blown up by a property without meaning: a monitor's socket takes 128 MB, so that small ones would have to be many.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as udev:
        udev.bind((0, UDEV_GROUP))
        subprocess.run(["udevadm", "trigger", "--settle", "/sys/class/tty/tty1"], check=True, timeout=60)
        message = bytearray(udev.recv(65536))
    padding = b"PADDING=" + b"x" * PADDING_BYTES + b"\0"
    (length,) = PROPERTIES_BYTES.unpack_from(message, PROPERTIES_BYTES_AT)
    PROPERTIES_BYTES.pack_into(message, PROPERTIES_BYTES_AT, length + len(padding))
    message += padding
    end = time.monotonic() + 60
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sender:
        while not is_enough():
            assert time.monotonic() < end, "nothing is lost"
            for _ in range(100):
                sender.sendto(message, (0, UDEV_GROUP))


def lost_by(process: int) -> int:
    """Return how many events the kernel could not keep for a process (/proc/net/netlink, column ``Drops``)."""
    links = [os.path.realpath(entry) for entry in Path(f"/proc/{process}/fd").iterdir()]
    sockets = {link.rpartition("[")[2].rstrip("]") for link in links if "/socket:[" in link}
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]
    return sum(int(row[8]) for row in rows if row[9] in sockets)
