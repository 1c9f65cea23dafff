"""The doctor: each obstacle is produced, and named with its cure."""

import json
import os
import socket as sockets
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.surfaces.fake_station import FakeStation, nobody, served
from tests.surfaces.strangers import NOBODY, needs_root, run_as
from tests.unit.ispctl.conftest import ROOT, Run
from tests.unit.ispctl.fake_machine import RULES, USER, FakeMachine

from ispctl.doctor import Finding, Level, Machine, examine, show_findings
from ispctl.doctor.machine import Account, Process, group_name
from ispctl.errors import NotAllowedError
from ispd.chain.registry import load_tools
from ispd.model.station import Station

USBASP, USBTINY, LEONARDO, DFU = "16c0:05dc", "1781:0c9f", "2341:8036", "03eb:2ff4"
MM_IGNORE = "ID_MM_DEVICE_IGNORE=1"


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root")


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "s"):
        yield tmp_path / "s"


def all_of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def one(findings: list[Finding], check: str) -> Finding:
    [found] = all_of(findings, check)
    return found


# -- the machine as it should be


def test_a_healthy_machine(fake: FakeMachine, socket: Path):
    fake.node("ttyACM0")
    fake.usb("1-1", LEONARDO, port="ttyACM0", interface=("02", "02", "cdc_acm"), notes=("ISPD_DEVICE=1", MM_IGNORE))
    fake.usb("1-2", USBASP, speed="1.5")
    fake.process(7, "ModemManager")
    findings = fake.examine(socket)
    assert {finding.level for finding in findings} == {Level.OK}, show_findings(findings)
    assert "ispd 0.1.0 with 2 slots" in one(findings, "daemon").message
    assert one(findings, "usb").subject == "/dev/bus/usb/001/002"


def test_nothing_plugged_in_is_said(fake: FakeMachine, socket: Path):
    finding = one(fake.examine(socket), "ports")
    assert (finding.level, "plug one in" in finding.cure) == (Level.NOTE, True)


def test_the_list_as_json_and_as_text(fake: FakeMachine, socket: Path):
    fake.usb("1-2", USBASP, mode=0o600)
    findings = fake.examine(socket)
    shown = show_findings(findings)
    assert all(finding.message in shown and finding.cure in shown for finding in findings)
    as_json = [finding.as_json() for finding in findings]
    assert {frozenset(entry) for entry in as_json} == {frozenset({"check", "level", "message", "cure", "subject"})}
    assert json.loads(json.dumps(as_json)) == as_json


# -- the daemon and its socket


def test_no_socket(fake: FakeMachine, tmp_path: Path):
    finding = one(fake.examine(tmp_path / "none.sock"), "daemon")
    assert finding.is_bad
    assert "there is no socket" in finding.message
    assert "systemctl start ispd" in finding.cure


def test_a_dead_socket(fake: FakeMachine, tmp_path: Path):
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    finding = one(fake.examine(tmp_path / "s"), "daemon")
    assert finding.is_bad
    assert "no living daemon behind it" in finding.message


def test_something_else_in_the_place_of_the_socket(fake: FakeMachine, tmp_path: Path):
    (tmp_path / "s").touch()
    assert "is no socket" in one(fake.examine(tmp_path / "s"), "daemon").message


def test_a_daemon_that_says_nothing(fake: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ispctl.doctor.service._ANSWER_S", 0.05)
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        finding = one(fake.examine(tmp_path / "s"), "daemon")
    assert (finding.is_bad, "did not answer" in finding.message) == (True, True)


@pytest.mark.parametrize(
    ("state", "cure"),
    [
        ({"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code"}, "journalctl -u ispd -b -e"),
        ({"LoadState": "loaded", "ActiveState": "inactive", "Result": "success"}, "systemctl enable --now ispd.socket"),
        ({"LoadState": "loaded", "ActiveState": "active", "Result": "success"}, "systemctl restart ispd.socket"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "systemctl unmask"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "systemctl start ispd"),
        ({}, "systemctl start ispd"),
    ],
)
def test_what_the_service_manager_knows_decides_the_cure(
    fake: FakeMachine, tmp_path: Path, state: dict[str, str], cure: str
):
    fake.systemd(**state)
    finding = one(fake.examine(tmp_path / "none.sock"), "daemon")
    assert cure in finding.cure
    assert ("exit-code" in finding.cure) is (state.get("ActiveState") == "failed")


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Path]:
    """Serve nobody: what a user outside the group meets at a socket that is open to all."""
    with served(tmp_path / "s", allows=nobody):
        yield tmp_path / "s"


def give_to_group(path: Path) -> int:
    """Give a socket to some group that is not root's, where that can be done; return its group."""
    if os.geteuid() == 0:
        os.chown(path, 0, 54321)
    return path.stat().st_gid


def test_a_user_outside_the_group(fake: FakeMachine, refusing: Path):
    group = group_name(give_to_group(refusing))
    finding = one(fake.examine(refusing), "socket")
    assert finding.is_bad
    assert f"usermod -aG {group} {USER}" in finding.cure


def test_a_user_in_the_group_who_has_not_logged_in_since(fake: FakeMachine, refusing: Path):
    gid = give_to_group(refusing)
    fake.database[USER] = frozenset({gid})
    finding = one(fake.examine(refusing), "group")
    assert finding.is_bad
    assert "logged in before" in finding.message
    assert f"newgrp {group_name(gid)}" in finding.cure


def test_a_socket_closed_to_its_own_group(fake: FakeMachine, refusing: Path):
    fake.groups = frozenset({give_to_group(refusing)})
    refusing.chmod(0o600)
    finding = one(fake.examine(refusing), "socket")
    assert "0600" in finding.message
    assert "SocketMode=0660" in finding.cure


@needs_root
def test_nobody_is_told_to_join_roots_group(fake: FakeMachine, refusing: Path):
    finding = one(fake.examine(refusing), "socket")
    assert "usermod" not in finding.cure
    assert "scripts/install" in finding.cure


def test_a_folder_that_may_not_be_entered(fake: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_path: Path) -> None:
        raise NotAllowedError("no")

    monkeypatch.setattr("ispctl.doctor.service.Client", refuse)
    finding = one(fake.examine(tmp_path / "closed" / "s"), "socket")  # its facts can not be had either
    assert (finding.is_bad, f"may not enter {tmp_path / 'closed'}" in finding.message) == (True, True)


@needs_root
def test_a_real_user_at_a_real_socket():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'clients'}"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "s"
        with served(path):
            os.chown(path, 0, 54321)
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            command = [sys.executable, "-m", "ispctl", "--socket", str(path), "--json", "doctor"]
            done = run_as(NOBODY, NOBODY, command, environment=environment)
            assert done.returncode == 1, done.stderr
            finding = next(entry for entry in json.loads(done.stdout) if entry["check"] == "socket")
            assert (finding["level"], "usermod -aG 54321 nobody" in finding["cure"]) == ("bad", True)
            done = run_as(NOBODY, 54321, command, environment=environment)
            finding = next(entry for entry in json.loads(done.stdout) if entry["check"] == "daemon")
            assert finding["level"] == "ok"


# -- rules, permissions, libraries


def test_missing_rules(fake: FakeMachine, socket: Path):
    (fake.root / "etc/udev/rules.d/70-ispd.rules").unlink()
    finding = one(fake.examine(socket), "rules")
    assert (finding.level, "scripts/install" in finding.cure) == (Level.NOTE, True)


def test_a_device_that_came_before_the_rules(fake: FakeMachine, socket: Path):
    fake.usb("1-1.4", USBASP, notes=())
    finding = all_of(fake.examine(socket), "rules")[1]
    assert (finding.subject, "udevadm trigger" in finding.cure) == ("1-1.4", True)
    assert "16C0:05DC" in finding.message


def test_rules_where_a_package_puts_them(fake: FakeMachine, socket: Path):
    (fake.root / "etc/udev/rules.d/70-ispd.rules").unlink()
    fake.file("usr/lib/udev/rules.d/70-ispd.rules", RULES.read_text())
    assert one(fake.examine(socket), "rules").message == "/usr/lib/udev/rules.d/70-ispd.rules"


@pytest.mark.parametrize("usb_id", [USBASP, USBTINY, DFU])
@pytest.mark.parametrize("notes", [("ISPD_DEVICE=1",), (), None], ids=["marked", "unmarked", "unseen"])
def test_a_usb_device_that_may_not_be_used(fake: FakeMachine, socket: Path, usb_id: str, notes: tuple[str, ...] | None):
    path = fake.usb("1-1.4", usb_id, mode=0o660, notes=notes)
    finding = one(fake.examine(socket), "usb")
    assert (finding.level, finding.subject) == (Level.BAD, "/dev/bus/usb/001/001")
    assert "1-1.4" in finding.message
    fake.groups = frozenset({path.stat().st_gid})
    assert one(fake.examine(socket), "usb").level is Level.OK


class RealStation(FakeStation):
    """A station without a bench, so that its programmers are this machine's."""

    def describe(self) -> Station:
        return replace(super().describe(), bench=False)


def test_without_rules_the_cure_is_to_install_them(fake: FakeMachine, tmp_path: Path):
    (fake.root / "etc/udev/rules.d/70-ispd.rules").unlink()
    # known by the daemon alone, which names a programmer at this place
    fake.usb("1-1.4", USBASP, mode=0o600, notes=())
    with served(tmp_path / "s", RealStation()):
        assert "scripts/install" in one(fake.examine(tmp_path / "s"), "usb").cure
    with served(tmp_path / "s"):  # those of a bench are not on this machine
        assert not all_of(fake.examine(tmp_path / "s"), "usb")


def test_devices_nobody_knows_are_left_alone(fake: FakeMachine, socket: Path):
    fake.usb("1-3", "046d:c31c", mode=0o600, interface=("03", "01", "usbhid"), notes=())
    assert not all_of(fake.examine(socket), "usb")


def test_a_serial_port_that_may_not_be_used(fake: FakeMachine, socket: Path):
    path = fake.node("ttyUSB0", 0o660)
    known = fake.node("ttyACM0", 0o660)
    fake.usb("1-1", LEONARDO, port="ttyACM0", interface=("02", "02", "cdc_acm"))
    programmer, adapter = all_of(fake.examine(socket), "port")
    assert (programmer.subject, programmer.level) == ("/dev/ttyACM0", Level.BAD)  # a programmer: lost
    assert (adapter.subject, adapter.level) == ("/dev/ttyUSB0", Level.NOTE)  # may be anything
    fake.groups = frozenset({path.stat().st_gid, known.stat().st_gid})
    assert {finding.level for finding in all_of(fake.examine(socket), "port")} == {Level.OK}


def test_the_rights_that_count_are_the_daemons(fake: FakeMachine, socket: Path):
    path = fake.node("ttyACM0", 0o660)
    fake.groups = frozenset({path.stat().st_gid})  # the asking user may
    status = "Name:\tispd\nUid:\t900\t900\t900\t900\nGid:\t900\t900\t900\t900\nGroups:\t900 901\n"
    fake.process(50, "python3", command="/usr/bin/python3 -m ispd --config x", status=status)
    finding = one(fake.examine(socket), "port")
    assert (finding.level, "900 may not use it" in finding.message) == (Level.NOTE, True)


def test_a_node_that_is_gone_again(fake: FakeMachine, socket: Path):
    (fake.root / "dev/ttyACM0").symlink_to("nowhere")
    finding = one(fake.examine(socket), "port")
    assert (finding.level, "No such file" in finding.message) == (Level.NOTE, True)


@pytest.mark.parametrize("status", ["", "Name:\tispd\n", "Uid:\tmany\nGid:\t1\n", "Uid:\t1\nGid:\t1\n"])
def test_a_daemon_whose_rights_can_not_be_seen(fake: FakeMachine, socket: Path, status: str):
    fake.node("ttyACM0", 0o600)
    fake.process(50, "ispd", status=status)
    assert f"{USER} may not use it" in one(fake.examine(socket), "port").message


def test_this_process_and_one_that_has_ended():
    me = Process(os.getpid(), "python", Path("/proc/self"))
    account = me.account()
    assert account is not None
    assert (account.uid, os.getegid() in account.groups) == (os.geteuid(), True)
    with Path("/proc/self/status").open() as status:
        assert status.name
        opened = me.open_files()
    assert opened is not None
    assert any(name.endswith("/status") for name in opened)
    ended = Process(2**22 + 1, "gone", Path("/proc/4194305"))
    system = Machine()
    assert (system.uid_of("root"), system.uid_of("no such user")) == (0, None)
    assert 0 in system.groups_of(0)
    assert system.groups_of(2**31 - 7) == frozenset()
    assert (ended.account(), ended.open_files(), ended.is_daemon) == (None, set(), False)


@pytest.mark.parametrize(
    ("account", "owner", "mode", "may"),
    [
        (Account(0, frozenset()), 900, 0o000, True),
        (Account(900, frozenset({901})), 900, 0o600, True),
        (Account(900, frozenset({901})), 900, 0o066, False),  # the owner's bits count for the owner alone
        (Account(902, frozenset({901})), 900, 0o060, True),
        (Account(902, frozenset({901})), 900, 0o606, False),
        (Account(902, frozenset({903})), 900, 0o606, True),
        (Account(902, frozenset({903})), 900, 0o604, False),
    ],
)
def test_whose_bits_count(account: Account, owner: int, mode: int, may: bool):
    facts = os.stat_result((mode, 0, 0, 1, owner, 901, 0, 0, 0, 0))
    assert account.may_use(facts) is may


def test_what_an_access_list_gives_counts_too(fake: FakeMachine, socket: Path, monkeypatch: pytest.MonkeyPatch):
    fake.usb("1-2", USBASP, mode=0o600)
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.setattr(os, "access", lambda path, how: (path.name, how) == ("001", os.R_OK | os.W_OK))
    assert one(fake.examine(socket), "usb").level is Level.OK


def test_the_services_rights_count_where_it_is_stopped(fake: FakeMachine, tmp_path: Path):
    path = fake.node("ttyACM0", 0o660)
    fake.systemd(LoadState="loaded", ActiveState="inactive")
    fake.users["ispd"] = 900
    assert "900 may not use it" in one(fake.examine(tmp_path / "none"), "port").message
    fake.database[900] = frozenset({path.stat().st_gid})
    assert "900 may use it" in one(fake.examine(tmp_path / "none"), "port").message


def test_missing_libusb(fake: FakeMachine, socket: Path):
    (fake.root / "usr/lib/x86_64-linux-gnu/libusb-1.0.so.0").unlink()
    assert one(fake.examine(socket), "libusb").level is Level.NOTE
    fake.usb("1-2", USBTINY)
    finding = one(fake.examine(socket), "libusb")
    assert (finding.is_bad, finding.cure) == (True, "`apt install libusb-1.0-0`")


# -- other programs


def test_programs_that_meddle(fake: FakeMachine, socket: Path):
    for number, name in enumerate(("ModemManager", "brltty", "fwupd"), start=10):
        fake.process(number, name)
    findings = fake.examine(socket)
    for name, cure in (("ModemManager", "disable --now"), ("brltty", "brltty-udev"), ("fwupd", "mask")):
        assert one(findings, name).level is Level.NOTE
        assert cure in one(findings, name).cure


def test_a_port_modem_manager_is_free_to_write_into(fake: FakeMachine, socket: Path):
    fake.process(10, "ModemManager")
    for name, notes in (("ttyACM0", ("ISPD_DEVICE=1", MM_IGNORE)), ("ttyACM1", ("ISPD_DEVICE=1",)), ("ttyUSB0", None)):
        fake.node(name)
        fake.usb(f"1-{name}", LEONARDO, port=name, notes=notes)
    free = all_of(fake.examine(socket), "modem-probing")
    assert [finding.subject for finding in free] == ["/dev/ttyACM1", "/dev/ttyUSB0"]
    assert "ID_MM_DEVICE_IGNORE" in free[0].message


@pytest.mark.parametrize(
    ("name", "cure"),
    [("ModemManager", "disable --now"), ("brltty", "mask"), ("fwupd", "mask"), ("minicom", "kill 11")],
)
def test_a_program_that_holds_a_port(fake: FakeMachine, socket: Path, name: str, cure: str):
    path = fake.node("ttyACM3")
    fake.process(11, name, path)
    fake.process(12, "ispd", path)
    finding = one(fake.examine(socket), "holder")
    assert (finding.level, finding.subject) == (Level.BAD, "/dev/ttyACM3")
    assert f"{name} (process 11)" in finding.message
    assert cure in finding.cure


@pytest.mark.parametrize(("driver", "level"), [("usbfs", Level.BAD), ("", Level.NOTE)])
def test_a_program_that_holds_a_usb_device(fake: FakeMachine, socket: Path, driver: str, level: Level):
    path = fake.usb("1-2", USBASP, interface=("ff", "00", driver))
    fake.process(11, "fwupd", path)
    finding = one(fake.examine(socket), "holder")
    assert (finding.level, finding.subject) == (level, "/dev/bus/usb/001/001")
    assert "fwupd (process 11)" in finding.message


def test_a_real_process_that_holds_a_real_terminal(fake: FakeMachine, socket: Path):
    master, slave = os.openpty()
    (fake.root / "dev/ttyACM0").symlink_to(os.ttyname(slave))
    (fake.root / "proc").rmdir()
    (fake.root / "proc").symlink_to("/proc")
    holder = [sys.executable, "-c", "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        [*holder, os.ttyname(slave)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        os.close(slave)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        held = all_of(fake.examine(socket), "holder")
        assert [f"(process {process.pid})" in finding.message for finding in held] == [True]
        process.communicate()
    assert not all_of(fake.examine(socket), "holder")
    os.close(master)


def test_what_only_root_can_see_is_said(fake: FakeMachine, socket: Path, monkeypatch: pytest.MonkeyPatch):
    fake.node("ttyACM0")
    fake.process(10, "ModemManager")
    fake.process(11, "bash")
    monkeypatch.setattr("ispctl.doctor.machine.Process.open_files", lambda _process: None)
    finding = one(fake.examine(socket), "holder")
    assert "ModemManager" in finding.message
    assert finding.cure == "`sudo ispctl doctor`"


def test_a_port_that_brltty_took(fake: FakeMachine, socket: Path):
    fake.usb("1-5", "1a86:7523", interface=("ff", "01", "usbfs"), notes=("BRLTTY_BRAILLE_DRIVER=bm",))
    finding = one(fake.examine(socket), "lost-port")
    assert (finding.is_bad, finding.subject) == (True, "1-5")
    assert "brltty" in finding.message
    fake.usb("1-6", "1a86:7523", port="ttyUSB0", notes=("BRLTTY_BRAILLE_DRIVER=bm",))
    assert one(fake.examine(socket), "lost-port").subject == "1-5"  # the other one was left alone


def test_a_serial_interface_without_a_driver(fake: FakeMachine, socket: Path):
    fake.usb("1-5", LEONARDO, interface=("02", "02", ""))
    assert "modprobe cdc_acm" in one(fake.examine(socket), "lost-port").cure


def test_what_the_kernel_saw(fake: FakeMachine, socket: Path):
    fake.tools["dmesg"] = (
        "[  7.1] ch341-uart converter now attached to ttyUSB0\n"
        "[  7.9] usb 1-5: usbfs: interface 0 claimed by ch341 while 'brltty' sets config #1\n"
        "[  8.0] ch341-uart ttyUSB0: ch341-uart converter now disconnected from ttyUSB0\n"
    )
    finding = one(fake.examine(socket), "taken")
    assert (finding.subject, "ch341" in finding.message) == ("brltty", True)


# -- hubs


def programmers_on(fake: FakeMachine, hub: str, count: int, speed: str = "1.5") -> None:
    for port in range(1, count + 1):
        fake.usb(f"{hub}.{port}", USBASP, speed=speed)


@pytest.mark.parametrize(
    ("count", "speed", "translators", "crowded"),
    [
        (2, "1.5", "01", False),
        (3, "1.5", "01", True),
        (16, "1.5", "01", True),
        (16, "1.5", "02", False),
        (7, "12", "01", False),
        (8, "12", "01", True),
        (8, "480", "01", False),
    ],
)
def test_programmers_that_share_a_hubs_translator(
    fake: FakeMachine, socket: Path, count: int, speed: str, translators: str, crowded: bool
):
    fake.hub("usb1")
    fake.hub("1-1", translators=translators)
    programmers_on(fake, "1-1", count, speed)
    found = all_of(fake.examine(socket), "hub")
    assert [finding.subject for finding in found] == (["1-1"] if crowded else [])


def test_hubs_below_hubs_are_counted_where_they_share(fake: FakeMachine, socket: Path):
    fake.hub("usb1")
    fake.hub("1-1")
    programmers_on(fake, "1-1", 2)
    fake.hub("1-1.4", speed="12", translators="00")  # a slow hub has no translator of its own
    programmers_on(fake, "1-1.4", 2)
    fake.hub("1-1.5")  # a fast one has
    programmers_on(fake, "1-1.5", 2)
    fake.usb("1-10", USBASP, speed="1.5")  # and this is not below 1-1
    finding = one(fake.examine(socket), "hub")
    assert (finding.subject, "4 slow devices (4 of them low-speed)" in finding.message) == ("1-1", True)
    assert "35 %" in finding.message


def test_slow_hubs_share_also_behind_one_port_of_a_hub_with_many_translators(fake: FakeMachine, socket: Path):
    fake.hub("1-1", translators="02")
    fake.hub("1-1.1", speed="12", translators="00")
    programmers_on(fake, "1-1.1", 3)
    programmers_on(fake, "1-1", 0)
    assert "3 slow devices" in one(fake.examine(socket), "hub").message


def test_keyboards_and_mice_alone_are_no_matter(fake: FakeMachine, socket: Path):
    fake.hub("1-1")
    for port in range(1, 6):
        fake.usb(f"1-1.{port}", "046d:c31c", speed="1.5", interface=("03", "01", "usbhid"), notes=())
    assert not all_of(fake.examine(socket), "hub")


def test_the_root_hub_is_no_hub_to_share(fake: FakeMachine, socket: Path):
    fake.hub("usb1")
    for port in range(1, 9):
        fake.usb(f"1-{port}", USBASP, speed="1.5")
    assert not all_of(fake.examine(socket), "hub")


# -- tools


def test_missing_tools(fake: FakeMachine, socket: Path):
    fake.tools.clear()
    findings = fake.examine(socket)
    for tool in ("avrdude", "dfu-programmer", "dfu-util", "teensy_loader_cli"):
        assert one(findings, tool).level is Level.NOTE
        assert f"apt install {tool.replace('_', '-')}" in one(findings, tool).cure


def test_every_program_that_brings_firmware_to_boards_is_looked_for(fake: FakeMachine, socket: Path):
    fake.tools.clear()
    findings = fake.examine(socket)
    for tool in load_tools():
        if tool.program is not None:
            assert one(findings, tool.program).level is Level.NOTE


@pytest.mark.parametrize(
    ("tool", "said", "part_of_message"),
    [
        (
            "avrdude",
            "avrdude version 6.3-20171130, URL: <http://savannah.nongnu.org/projects/avrdude/>",
            "version 6.3, 7.1",
        ),
        ("avrdude", "avrdude: Version 5.11, compiled", "does not tell"),
        ("dfu-programmer", "dfu-programmer 0.5.4\n", "version 0.5.4, 0.6.1"),
        ("dfu-programmer", "dfu-programmer 0.7.2\n", "version 0.7.2, 0.8.1"),
        ("dfu-util", "dfu-util 0.9\n\nCopyright", "version 0.9, 0.11"),
        ("dfu-util", "", "does not tell"),
        ("dfu-util", "Segmentation fault", "does not tell"),
        ("teensy_loader_cli", "Teensy Loader, Command Line, Version 2.1\n", "version 2.1, 2.2"),
    ],
)
def test_tools_that_are_too_old_or_broken(fake: FakeMachine, socket: Path, tool: str, said: str, part_of_message: str):
    fake.tools[tool] = said
    finding = one(fake.examine(socket), tool)
    assert finding.level is Level.NOTE
    assert part_of_message in finding.message
    assert " is needed" in finding.message
    assert finding.cure


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("avrdude", "avrdude version 7.1, https://github.com/avrdudes/avrdude\n"),
        ("dfu-programmer", "dfu-programmer 0.6.1\n"),
        ("dfu-programmer", "dfu-programmer 0.8.1\n"),
        ("dfu-programmer", "dfu-programmer 1.1.0\n"),
        ("dfu-util", "dfu-util 0.11\n\nCopyright"),
        (
            "teensy_loader_cli",
            'Teensy Loader, Command Line, Version 2.2\nerror reading intel hex file "no-such-file.hex"\n',
        ),
    ],
)
def test_tools_that_are_good(fake: FakeMachine, socket: Path, tool: str, said: str):
    """What Debian 12 has, and later ones."""
    fake.tools[tool] = said
    assert one(fake.examine(socket), tool).level is Level.OK


def test_real_tools_are_asked_and_hanging_ones_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ispctl.doctor.machine._TOOL_S", 0.2)
    tools = {
        "dfu-programmer": "echo dfu-programmer 0.6.1 >&2; exit 1",
        "dfu-util": "exec sleep 60",
        "avrdude": "exit 0",
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "avrdude").write_text("no program at all")
    findings = examine(Machine(root=tmp_path, which=lambda tool: str(tmp_path / tool)), tmp_path / "none.sock")
    assert "version 0.6.1" in one(findings, "dfu-programmer").message  # on stderr, with an exit code of 1
    assert "does not tell" in one(findings, "dfu-util").message
    assert "does not tell" in one(findings, "avrdude").message


# -- as a command


def test_the_exit_code_tells_whether_something_will_not_work(run: Run, tmp_path: Path):
    done = run("doctor")
    assert done.returncode == 1
    assert done.stdout.startswith("bad   daemon: there is no socket")
    done = run("--json", "doctor")
    assert (done.returncode, json.loads(done.stdout)[0]["check"]) == (1, "daemon")
    with served(tmp_path / "ispd.sock"):
        findings = json.loads(run("--json", "doctor").stdout)
    assert findings[0]["level"] == "ok"
