"""From blank chips to keyboards on the kernel's USB: the daemon, real udev, unmodified flashing programs, boards with two cables."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import anyio
import pytest
from tests.vm.inside.board_station import (
    BOOTLOADERS,
    FIRMWARE_USB,
    PARTS,
    BoardStation,
    blank_board,
    check_board,
    driver_at,
    firmware,
    loaded_board,
    processes,
    shown,
)

from ispd.chain.avrdude import touch
from ispd.model.job import JobState
from ispd.transport.machine import Machine
from vbench.board import Board
from vbench.board_faults import EraseLeaves
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.firmware_image import application_image, bootloader_image
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import Stm32Board
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny

pytestmark = pytest.mark.timeout(300)

SLOTS = 8
FIRST_CABLE = 15
"""Ports from here on are for boards' own cables; those before it for programmers."""
BARE = range(24, 27)
"""Ports of slots without programmer."""
NEW = {9: "usbtiny", 10: "usbasp", 11: "leonardo"}
"""Ports of programmers of which the configuration says nothing."""
NEW_CABLES = (28, 23, 29, 27, 25)
"""Ports of the boards on these, and of further ones."""
DFU = BOOTLOADERS.get("atmel-dfu-32u4")
KINDS = ("usbasp", "usbtiny", "uno", "usbasp", "usbtiny", "leonardo", "usbasp", "teensyduino")
SIZES = (28_000, 2_500, 21_000, 3_000, 3_500, 2_000, 4_000, 2_800)
ILL = (3, 6)
FAMILIES = (
    *("caterina-micro", "halfkay-32u4", "bootloadhid-m32a", "qmk-hid-32u4"),
    *("usbasploader-m328p", "halfkay-32u4", "qmk-dfu-32u4"),
)
PROGRAMS = {
    "caterina": "avrdude -p m32u4 -c avr109",
    "halfkay": "teensy_loader_cli --mcu=atmega32u4",
    "flip": "dfu-programmer atmega32u4:",
}


def programmer(kind: str, target: AvrTarget) -> EmulatedUsb | EmulatedSerial:
    """Return a programmer with a board on it."""
    match kind:
        case "usbasp":
            return UsbAsp(target=target)
        case "usbtiny":
            return UsbTiny(target=target)
        case flavour:
            return SerialProgrammer(Flavour(flavour), target=target)


def slot_tables(station: BoardStation) -> str:
    """Return the slots of the configuration: A0.. with a programmer, P0.. without."""
    tables = [
        f'[[slot]]\nname = "A{number}"\nport = "usb:{station.path(number)}"\n'
        f'target_usb = "{station.path(FIRST_CABLE + number)}"\n'
        for number in range(SLOTS)
    ]
    tables += [
        f'[[slot]]\nname = "P{number}"\ntarget_usb = "{station.path(port)}"\n' for number, port in enumerate(BARE)
    ]
    return "".join(tables)


def put_on_slots(station: BoardStation, boards: Sequence[Board]) -> list[str]:
    """Put boards on the first slots, with programmers and cables; return where their own cables are."""
    station.plug_all({n: programmer(KINDS[n], board.target) for n, board in enumerate(boards)})
    return [station.connect(board, FIRST_CABLE + number) for number, board in enumerate(boards)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardStation]:
    with BoardStation(tmp_path_factory.mktemp("workstation")) as station:
        station.start_daemon(slot_tables(station))
        yield station


@pytest.fixture
def station(running: BoardStation) -> Iterator[BoardStation]:
    """Give the workstation; afterwards nothing is plugged in and no job goes on."""
    yield running
    for job in running.call("job.list"):
        if not JobState(job["state"]).is_final:
            running.call("job.cancel", id=job["id"])
    running.disconnect_all()
    running.unplug_all()
    running.wait_for(lambda: not running.names("busy") and not running.call("programmer.list"))


def test_eight_boards_from_blank_chips_to_running_keyboards_at_once_two_of_them_ill(station: BoardStation) -> None:
    """The same identity eight times and no serial number; two cannot get blank over USB, which ISP cures."""
    boards = [blank_board(DFU, faults=[EraseLeaves(chip_erases=2)] if n in ILL else []) for n in range(SLOTS)]
    apps = [firmware(DFU, size, seed=number) for number, size in enumerate(SIZES)]
    cables = put_on_slots(station, boards)
    names = [f"A{number}" for number in range(SLOTS)]
    station.wait_for(lambda: {*names} <= station.names("idle"))
    loader = bootloader_image(DFU, boards[0].target.part)
    words = (*station.files(loader, apps[0]), "--chain", "--bootloader", DFU.id, "--slots", names[0])
    jobs = [station.begin(*words)]
    jobs += [station.flash(DFU, (loader, app), name) for name, app in list(zip(names, apps, strict=True))[1:]]
    for number, (name, job) in enumerate(zip(names, jobs, strict=True)):
        unit = station.ended(job)[name]
        assert unit["verdict"] == "passed", unit["failure"]
        assert (unit["plan"], unit["target_usb"]) == ("chained", cables[number])
        assert shown(cables[number]) == unit["application_usb"] == FIRMWARE_USB
        check_board(boards[number], DFU, apps[number])
        verdicts = [attempt["verdict"] for attempt in unit["attempts"]]
        assert verdicts == (["needs-rescue", "passed"] if number in ILL else ["passed"])
        assert any("rescued by ISP" in warning for warning in unit["warnings"]) is (number in ILL)
        steps = station.steps(unit)
        assert "dfu-programmer atmega32u4:" in steps["write over USB"]["output"]
        assert steps["write over USB"]["bytes"] == len(apps[number])
        if number in ILL:
            ill = station.steps(unit, 0)
            assert unit["attempts"][0]["failure"]["code"] == "not-blank"
            assert {"erase over USB, try 2 of 3", "erase over USB, try 3 of 3"} <= ill.keys()
            assert {"erase", "write flash"} <= steps.keys(), "saved by ISP"


def test_boards_come_one_after_the_other_to_bare_ports_and_the_ill_one_is_rescued_on_a_slot_with_a_programmer(
    station: BoardStation,
) -> None:
    app = firmware(DFU, 2_200, seed=20)
    well = [loaded_board(DFU) for _ in range(3)]
    ill = loaded_board(DFU, faults=[EraseLeaves(chip_erases=1)])
    loader = bootloader_image(DFU, ill.target.part)
    words = (*station.files(loader, app), "--chain-only", "--bootloader", DFU.id, "--slots", "P0,P1", "--count", "3")
    job = station.begin(*words)
    station.wait_for(lambda: {"P0", "P1"} <= station.names("waiting"))
    station.connect(well[0], BARE[0])
    station.connect(ill, BARE[1])
    station.wait_for(lambda: {"P0"} <= station.names("passed") and {"P1"} <= station.names("failed"))
    station.disconnect(BARE[1])
    station.disconnect(BARE[0])
    station.wait_for(lambda: {"P0", "P1"} <= station.names("waiting"))
    station.connect(well[1], BARE[1])
    station.connect(well[2], BARE[0])
    station.ended(job)
    units = {unit["id"]: unit for unit in station.units(job)}
    assert sorted((unit["slot"], unit["verdict"]) for unit in units.values()) == [
        ("P0", "passed"),
        ("P0", "passed"),
        ("P1", "needs-rescue"),
        ("P1", "passed"),
    ]
    (sick,) = [unit for unit in units.values() if unit["verdict"] == "needs-rescue"]
    assert (sick["failure"]["code"], "ispctl rescue" in sick["failure"]["hint"]) == ("not-blank", True)
    for board in well:
        check_board(board, DFU, app)
    station.plug(UsbAsp(target=ill.target), 0)
    station.connect(ill, FIRST_CABLE)
    station.wait_for(lambda: {"A0"} <= station.names("idle"))
    saved = station.ctl("rescue", "A0", "--wait")
    assert saved.returncode == 0, saved.stderr
    check_board(ill, DFU, app)


def test_slots_learn_which_ports_are_theirs_and_a_daemon_that_is_killed_at_work_still_knows(
    station: BoardStation,
) -> None:
    """Several boards run on several ports; ports are in another order than programmers."""
    caterina = BOOTLOADERS.get("caterina-micro")
    boards = [
        loaded_board(DFU, firmware(DFU, 2_000, seed=30)),
        loaded_board(DFU),
        loaded_board(caterina),
        loaded_board(DFU),
        loaded_board(DFU, firmware(DFU, 2_000, seed=31)),
    ]
    programmers = {port: programmer(kind, boards[n].target) for n, (port, kind) in enumerate(NEW.items())}
    slots = list(station.plug_all(programmers).values())
    cables = [station.connect(board, port) for board, port in zip(boards, NEW_CABLES, strict=True)]
    station.wait_for(lambda: all(map(shown, cables)) and {*slots} <= station.names("idle"))
    app = firmware(DFU, 9_000, seed=32)
    loader = bootloader_image(DFU, boards[1].target.part)
    files = station.files(loader, app)
    refused = station.ctl("enqueue", *files, "--chain", "--bootloader", DFU.id, "--slots", slots[1])
    assert (refused.returncode, "learn" in refused.stderr) == (2, True)
    learnt = station.ctl("slot", slots[1], "learn")
    assert learnt.returncode == 0, learnt.stderr
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda slot: station.call("slot.learn", name=slot), (slots[0], slots[2])))
    assert [station.slot(slot)["target_usb"] for slot in slots] == cables[: len(slots)]
    assert [shown(cable) for cable in cables[len(slots) :]] == [DFU.usb[0], FIRMWARE_USB], "nobody touched these"

    job = station.flash(DFU, (loader, app), slots[1], count=1)
    station.wait_for(lambda: station.slot(slots[1])["step"] == "write over USB" and processes("dfu-programmer"))
    station.kill_daemon()
    station.start_daemon(slot_tables(station))
    unit = station.ended(job)[slots[1]]
    assert unit["verdict"] == "passed", unit["failure"]
    assert (len(station.units(job)), unit["target_usb"]) == (1, cables[1])
    assert [attempt["verdict"] for attempt in unit["attempts"]] == ["interrupted", "passed"]
    assert "erase" in station.steps(unit), "from the start"
    assert processes("dfu-programmer") == []
    check_board(boards[1], DFU, app)


def test_every_family_by_its_real_program_or_by_own_code(station: BoardStation) -> None:
    loaders = [BOOTLOADERS.get(name) for name in FAMILIES]
    boards = [blank_board(loader) for loader in loaders]
    apps = [firmware(loader, 3_000 + 100 * number, seed=40 + number) for number, loader in enumerate(loaders)]
    blue = [Stm32Board() for _ in range(2)]
    contents = [stm32_application(5_000 + 1000 * number, seed=number, usb=FIRMWARE_USB) for number in range(2)]
    cables = put_on_slots(station, boards)
    for board, port in zip(blue, BARE, strict=False):
        station.connect(board, port)
    names = [f"A{number}" for number in range(len(boards))]
    station.wait_for(lambda: {*names} <= station.names("idle"))
    jobs = [
        station.flash(loader, (bootloader_image(loader, board.target.part), app), name)
        for loader, board, app, name in zip(loaders, boards, apps, names, strict=True)
    ]
    blue_jobs = [station.flash_raw("stm32duino-pc13", content, f"P{n}") for n, content in enumerate(contents)]
    for number, content in enumerate(contents):
        unit = station.ended(blue_jobs[number])[f"P{number}"]
        assert (unit["verdict"], unit["application_usb"]) == ("passed", FIRMWARE_USB), unit["failure"]
        assert "dfu-util -p" in station.steps(unit)["write over USB"]["output"]
        assert blue[number].chip.flash[APPLICATION : APPLICATION + len(content)] == content
    turns = []
    for number, loader in enumerate(loaders):
        unit = station.ended(jobs[number])[names[number]]
        assert (unit["verdict"], unit["application_usb"]) == ("passed", FIRMWARE_USB), (loader.id, unit["failure"])
        assert shown(cables[number]) == FIRMWARE_USB
        check_board(boards[number], loader, apps[number])
        write = station.steps(unit)["write over USB"]
        assert PROGRAMS.get(loader.family, "") in write["output"]
        if loader.family == "halfkay":
            begun = datetime.fromisoformat(write["started"]).timestamp()
            turns.append((begun, begun + write["seconds"]))
    first, second = sorted(turns)
    assert first[1] <= second[0], "it takes whichever it finds, so one after the other"


def test_a_pulled_cable_and_a_cancelled_job_end_their_units_only_and_leave_no_process(station: BoardStation) -> None:
    hid = BOOTLOADERS.get("bootloadhid-m32a")
    boards = [loaded_board(loader) for loader in (DFU, DFU, DFU, hid)]
    large, small = firmware(DFU, 20_000, seed=50), firmware(DFU, 12_000, seed=51)
    cables = put_on_slots(station, boards)
    names = [f"A{number}" for number in range(len(boards))]
    station.wait_for(lambda: all(station.slot(name)["board_usb"] for name in names))
    assert driver_at(cables[3]) == "usbhid"
    only = {"plan": "chain-only"}
    pulled = station.flash(DFU, (large,), "A0", **only)
    lasting = station.flash(DFU, (small,), "A1", **only)
    cancelled = station.flash(DFU, (large,), "A2", **only)
    station.wait_for(lambda: station.slot("A0")["step"] == "write over USB")
    station.disconnect(FIRST_CABLE)
    station.wait_for(lambda: station.slot("A2")["step"] == "write over USB")
    assert station.ctl("cancel", str(cancelled)).returncode == 0
    units = [station.ended(job)[name] for name, job in zip(names, (pulled, lasting, cancelled), strict=False)]
    assert processes("dfu-programmer") == []
    assert [unit["verdict"] for unit in units] == ["failed", "passed", "cancelled"]
    assert units[0]["failure"]["code"] == "bootloader-not-seen"
    check_board(boards[1], DFU, small)

    held = station.flash(hid, (firmware(hid, 24_000, seed=52),), "A3", **only)
    station.wait_for(lambda: station.slot("A3")["step"] == "write over USB" and driver_at(cables[3]) != "usbhid")
    station.call("job.cancel", id=held)
    assert station.ended(held)["A3"]["verdict"] == "cancelled"
    assert driver_at(cables[3]) == "usbhid", "what was taken from the kernel is given back"

    station.connect(boards[0], FIRST_CABLE)
    station.wait_for(lambda: station.slot("A0")["board_usb"])
    again = {
        "A0": (boards[0], DFU, station.flash(DFU, (small,), "A0", **only)),
        "A2": (boards[2], DFU, station.flash(DFU, (small,), "A2", **only)),
        "A3": (boards[3], hid, station.flash(hid, (firmware(hid, 2_000, seed=53),), "A3", **only)),
    }
    for name, (board, loader, job) in again.items():
        assert station.ended(job)[name]["verdict"] == "passed", station.ended(job)[name]["failure"]
        check_board(board, loader, small if loader is DFU else firmware(hid, 2_000, seed=53))


def test_a_running_sketch_is_asked_for_its_bootloader_by_1200_baud(station: BoardStation) -> None:
    """The kernel sets the line's rate, and lets DTR go when the port is closed."""
    caterina = BOOTLOADERS.get("caterina-micro")
    part = PARTS.avr("atmega32u4")
    sketch = application_image(part, 2_000, seed=60, usb="2341:8037", has_serial_port=True)
    path = station.connect(loaded_board(caterina, sketch), NEW_CABLES[0])
    station.wait_for(lambda: shown(path) == "2341:8037")
    station.wait_for_tty(path)
    anyio.run(touch, Machine(), station.tty(path), path)
    station.wait_for(lambda: shown(path) == caterina.usb[0])
