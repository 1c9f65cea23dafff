"""ST-Links and Bluepills on the kernel's USB: the daemon beside st-info, st-flash, OpenOCD and dfu-util, as they come from Debian."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vm.inside import swd_programs
from tests.vm.inside.bluepills import (
    ODD_SERIAL,
    BluepillStation,
    FrailSocket,
    bluepill,
    chained_cells,
    firmware_above,
    holds,
    probe_of,
    program,
)
from tests.vm.inside.board_station import FIRMWARE_USB, processes, shown
from tests.vm.inside.swd_programs import GUIDE

from ispd.model.job import JobState
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32 import APPLICATION, stm32_loader
from vbench.swd import SwdSocket

pytestmark = pytest.mark.timeout(300)

CROWD = 16
CHAIN = range(16, 21)
V1_PORT = 21
CABLES = range(22, 27)
"""Ports of ST-Links, and of their boards' own USB cables."""
TOOLS_PORT, TOOLS_CABLE = 27, 28
PULLED = {2: 64, 5: 300, 11: 600}
"""Ports whose ST-Link is pulled, by how much of its new program has got into flash."""
LASTING = (0, 1, 3)
"""Ports of some that are flashed at the same time."""
SIZES = (9_000, 4_000, 6_001, 5_000, 40_000)
"""Of the firmwares that follow a bootloader."""
PROTECTED, CUT, CUT_AT = 1, 4, 4_096
"""Which of these boards comes read-protected, and whose cable is pulled, after how much of its firmware."""
STM32DUINO, LOADER_USB = "stm32duino-pc13", "1EAF:0003"
PROBE_TEXT = (
    f"firmware: {GUIDE['version']}",
    f"serial: {GUIDE['serial']}",
    "flash: 65536 bytes, pages of 1024",
    f"RAM: {GUIDE['sram']} bytes",
    f"signature: {GUIDE['chipid']}",
    "protection: none",
)
"""The same to people, in the words of ``ispctl probe``."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BluepillStation]:
    """Give a workstation with five slots for chains."""
    pytest.importorskip("unicorn")  # that takes seconds here, while which no device could answer
    with BluepillStation(tmp_path_factory.mktemp("workstation")) as station:
        station.start_daemon(
            "".join(
                f'[[slot]]\nname = "S{number}"\nport = "usb:{station.path(port)}"\ntarget_usb = "{station.path(cable)}"\n'
                for number, (port, cable) in enumerate(zip(CHAIN, CABLES, strict=True))
            )
        )
        yield station


@pytest.fixture
def station(running: BluepillStation) -> Iterator[BluepillStation]:
    """Give the workstation; afterwards nothing is plugged in and no job goes on."""
    yield running
    for job in running.call("job.list"):
        if not JobState(job["state"]).is_final:
            running.call("job.cancel", id=job["id"])
    running.disconnect_all()
    running.unplug_all()
    running.wait_for(lambda: not running.names("busy") and not running.call("programmer.list"))


def test_sixteen_at_once_get_their_own_program_and_those_that_are_pulled_are_found_again_by_place(
    station: BluepillStation,
) -> None:
    boards = {port: bluepill(port) for port in range(CROWD)}
    paths = station.plug_all({port: probe_of(port, board) for port, board in boards.items()})
    old = station.plug(StLink(StLinkFirmware.named("V1"), socket=SwdSocket()), V1_PORT)
    station.wait_for(lambda: {*paths.values()} <= station.names("idle") and station.slot(old)["failure"])
    told = station.slot(old)["failure"]
    assert (told["code"], "ST-Link/V1" in told["message"]) == ("programmer-cannot", True)
    shown_as = {(p["usb_id"], p["firmware"], p["serial"]) for p in station.call("programmer.list") if p["slot"] != old}
    assert shown_as == {
        ("0483:3748", "V2J37S7", GUIDE["serial"]),
        ("0483:3748", "V2J17S4", ODD_SERIAL),
        ("0483:374B", "V2J40M27", GUIDE["serial"]),
        ("0483:374F", "V3J10M3", GUIDE["serial"]),
    }
    jobs = {port: station.flash_bin([program(port)], path) for port, path in paths.items()}
    for port, path in paths.items():
        unit = station.ended(jobs[port])[path]
        assert unit["verdict"] == "passed", unit["failure"]
        assert (unit["signature"], unit["unique_id"]) == ("0x0410", boards[port].swd.uid.hex().upper())
        assert holds(boards[port], program(port)), path

    for port, upto in PULLED.items():
        station.unplug(port)
        station.push_in(StLink(socket=FrailSocket(boards[port], program(100 + port), upto)), port)
    pulled = {paths[port] for port in PULLED}
    station.wait_for(lambda: pulled <= station.names("idle"))
    jobs = {port: station.flash_bin([program(100 + port)], paths[port]) for port in (*PULLED, *LASTING)}
    for port, job in jobs.items():
        unit = station.ended(job)[paths[port]]
        assert unit["verdict"] == ("interrupted" if port in PULLED else "passed"), unit["failure"]
        assert holds(boards[port], program(100 + port)) or port in PULLED
    for port in PULLED:
        station.unplug(port)
        station.push_in(probe_of(port + 1, boards[port]), port)
    station.wait_for(lambda: pulled <= station.names("idle"))
    jobs = {port: station.flash_bin([program(200 + port)], paths[port]) for port in PULLED}
    for port in PULLED:
        assert station.ended(jobs[port])[paths[port]]["verdict"] == "passed"
        assert holds(boards[port], program(200 + port))


def test_one_device_is_probed_unlocked_and_flashed_alike_by_the_stock_tools_and_by_the_daemon(
    station: BluepillStation, tmp_path: Path
) -> None:
    """The guide's bootloader in its read-protected board; each finds what the other has left, right after it let go."""
    if swd_programs.missing():
        pytest.skip(f"not installed: {swd_programs.missing()}")
    board, loader, back = bluepill(0, is_protected=True), tmp_path / "loader.bin", tmp_path / "back.bin"
    loader.write_bytes(stm32_loader())
    before = program(1, 40_000)
    board.chip.flash[: len(before)] = before
    probe = StLink(socket=SwdSocket(board.swd))
    slot = station.plug(probe, TOOLS_PORT)
    station.wait_for(lambda: slot in station.names("idle"))
    enqueue = ("enqueue", str(loader), "--part", "bluepill", "--slots", slot, "--wait")

    refused = station.ctl(*enqueue)
    assert (refused.returncode, "target-locked" in refused.stdout, "--unlock" in refused.stdout) == (1, True, True)
    station.lend(slot)
    swd_programs.refuse_write(loader)
    assert (holds(board, before), board.swd.flash.is_protected) == (True, True), "both left it alone"

    swd_programs.unlock()
    assert (board.swd.flash.is_protected, holds(board, b"")) == (False, True)
    swd_programs.write(loader)
    theirs = bytes(board.chip.flash), bytes(board.swd.flash.options)
    assert holds(board, stm32_loader())
    assert swd_programs.st_info() == GUIDE

    with station.bus.lock:
        board.chip.flash[: len(before)] = before
        board.swd.flash.protect()
    station.take_back(slot)
    done = station.ctl(*enqueue, "--unlock")
    assert done.returncode == 0, done.stdout
    assert (bytes(board.chip.flash), bytes(board.swd.flash.options)) == theirs
    assert board.swd.violations == []
    check_probe(json.loads(station.ctl("probe", slot).stdout))
    lines = station.say("probe", slot).splitlines()
    assert set(PROBE_TEXT) <= {*lines}
    assert any(line.startswith("part: stm32f103xb") and "medium density" in line for line in lines)

    station.lend(slot)
    assert swd_programs.st_info() == GUIDE
    swd_programs.verify(loader, back)
    assert back.read_bytes() == theirs[0]
    station.take_back(slot)
    check_probe(station.call("slot.probe", name=slot))
    with station.bus.lock:
        probe.socket.remove(station.bus.now())
    path = station.connect(board, TOOLS_CABLE)
    station.wait_for(lambda: shown(path) == LOADER_USB)


def check_probe(told: dict[str, Any]) -> None:
    """Compare what the daemon tells of a board with each field that the guide shows."""
    assert {
        "version": told["firmware"],
        "serial": told["serial"],
        "flash": f"{told['flash_bytes']} (pagesize: {told['flash_page_bytes']})",
        "sram": f"{told['ram_bytes']}",
        "chipid": told["signature"],
        "descr": {"stm32f103xb": "F1xx Medium-density"}[told["parts"][0]],
    } == GUIDE
    assert (told["lock"], told["unique_id"]) == (0xA5, bluepill(0).swd.uid.hex().upper())


def test_four_bluepills_get_their_bootloader_by_swd_and_each_its_firmware_by_dfu_util(station: BluepillStation) -> None:
    """All show one serial number. One comes protected; a fifth loses its cable in the midst."""
    boards = [bluepill(number, is_protected=number == PROTECTED) for number in range(len(CHAIN))]
    apps = [firmware_above(number, size) for number, size in enumerate(SIZES)]
    names = [f"S{number}" for number in range(len(boards))]
    station.plug_all({port: StLink(socket=SwdSocket(board.swd)) for port, board in zip(CHAIN, boards, strict=True)})
    cables = [station.connect(board, port) for port, board in zip(CABLES, boards, strict=True)]
    station.wait_for(lambda: {*names} <= station.names("idle"))
    jobs = [
        station.flash_bin(
            [stm32_loader(), app], name, plan="chained", bootloader=STM32DUINO, part="bluepill", unlock=n == PROTECTED
        )
        for n, (name, app) in enumerate(zip(names, apps, strict=True))
    ]
    station.wait_for(lambda: boards[CUT].chip.flash[APPLICATION + CUT_AT] != 0xFF)
    station.disconnect(CABLES[CUT])
    for number, (name, job) in enumerate(zip(names, jobs, strict=True)):
        unit = station.ended(job)[name]
        assert unit["unique_id"] == boards[number].swd.uid.hex().upper()
        assert (unit["plan"], unit["target_usb"]) == ("chained", cables[number])
        assert ("unlock" in station.steps(unit)) is (number == PROTECTED)
        if number == CUT:
            assert (unit["verdict"], unit["failure"]["code"]) == ("failed", "bootloader-not-seen")
            continue
        assert unit["verdict"] == "passed", unit["failure"]
        assert shown(cables[number]) == unit["application_usb"] == FIRMWARE_USB
        cells = chained_cells(apps[number])
        assert bytes(boards[number].chip.flash[: len(cells)]) == cells
        assert f"dfu-util -p {cables[number]} -d 1eaf:0003 -a 2" in station.steps(unit)["write over USB"]["output"]
    assert processes("dfu-util") == []
