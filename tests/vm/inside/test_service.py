"""The systemd service from installation to removal: who may use it and how, over its socket and over the system bus.

The tests follow each other on one installation, which the last one takes away.
"""

import json
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.strangers import run_as
from tests.vm.inside import installed
from tests.vm.inside.bluepills import BluepillStation, bluepill, chained_cells, firmware_above
from tests.vm.inside.board_station import FIRMWARE_USB, shown
from tests.vm.inside.installed import ISPCTL, ROOT, bus_call, command_of, doctor, may_read, must, result, run
from tests.vm.inside.station import Workstation, sample

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from vbench.stlink import StLink
from vbench.stm32 import stm32_loader
from vbench.swd import SwdSocket
from vbench.target import AvrTarget
from vbench.usbtiny import UsbTiny

SOCKET, STATE = Path("/run/ispd/ispd.sock"), "/var/lib/ispd"
MOST_EXPOSURE = 1.5
IMAGE = sample(1500)
BUSCTL = ("busctl", "--system")
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
NAME, ROOT_OBJECT, MANAGER = "org.ispd.Station1", "/org/ispd/Station1", "org.ispd.Station1.Manager"
STLINK, CABLE = 2, 4
"""Ports of an ST-Link and of its board's own cable."""
HEX = write_hex(Image.of([Segment(0, IMAGE)]))

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def before() -> set[str]:
    """Install the service, with an operator ``anna`` and a stranger ``otto``; return the files that were there before."""
    software = Path(os.environ["ISPD_SOFTWARE"])
    if not software.exists():
        pytest.skip("the software could not be installed on the host")
    found = installed.files()
    must("tar", "-xf", str(software), "-C", "/opt")
    done = run(str(ROOT / "scripts/install"))
    assert done.returncode == 0, done.stderr + run("journalctl", "--no-pager", "-u", "ispd.service").stdout
    must("useradd", "--groups", "ispd", "anna")
    must("useradd", "otto")
    must("systemctl", "try-reload-or-restart", "dbus.service")  # it reads who is in which group only then
    return found


@pytest.fixture(scope="module")
def board(before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, AvrTarget]]:
    """Plug a programmer with a board in; return the slot's name and the board."""
    target = AvrTarget(load_parts().avr("atmega32u4"))
    with Workstation(tmp_path_factory.mktemp("station")) as station:
        path = station.plug(UsbTiny(target=target), 0)
        assert must("stat", "-c", "%G %a", node_of(path)).split() == ["plugdev", "660"]
        station.wait_for(
            lambda: [(slot["name"], slot["state"]) for slot in result("slots", user="anna")] == [(path, "idle")]
        )
        yield path, target


def node_of(path: str) -> str:
    """Return the device node of what hangs at a place of the USB tree."""
    bus, device = (int(Path(f"/sys/bus/usb/devices/{path}/{name}").read_text()) for name in ("busnum", "devnum"))
    return f"/dev/bus/usb/{bus:03}/{device:03}"


def state_of(unit: str) -> str:
    return run("systemctl", "is-active", unit).stdout.strip()


def stop(*units: str) -> None:
    must("systemctl", "stop", *units)
    assert {state_of(unit) for unit in units} == {"inactive"}


@pytest.mark.usefixtures("before")
def test_it_runs_tightly_and_strangers_are_refused() -> None:
    assert (state_of("ispd.service"), state_of("ispd.socket")) == ("active", "active")
    assert must("stat", "-c", "%U:%G %a", str(SOCKET)).split() == ["ispd:ispd", "660"]
    assert must("stat", "-c", "%U:%G %a", STATE).split() == ["ispd:ispd", "750"]
    records = dict(
        line.split(" ", 1) for line in must("find", STATE, "-type", "f", "-printf", "%f %u:%g %m\n").splitlines()
    )
    assert "journal.db" in records
    assert set(records.values()) == {"ispd:ispd 600"}
    station = json.loads(must(*BUSCTL, "--json=short", "call", NAME, ROOT_OBJECT, MANAGER, "StationGet", user="anna"))
    told = {name: station["data"][0][name]["data"] for name in ("socket", "state_dir")}
    assert told == {"socket": str(SOCKET), "state_dir": STATE}
    report = must("systemd-analyze", "security", "--no-pager", "ispd.service")
    exposure = re.search(r"(\d+\.\d+)", report.splitlines()[-1])
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSURE
    assert run(ISPCTL, "slots", user="otto").returncode == 4


@pytest.mark.usefixtures("before")
def test_on_the_system_bus_strangers_see_that_it_is_there_and_nothing_else() -> None:
    """No property needs a guard of the daemon's own: the bus lets nobody else's request through, to neither of its names."""
    (owner,) = re.findall(r'"(:\S+)"', must(*BUSCTL, "call", *BUS, "GetNameOwner", "s", NAME))
    asks = [
        (interface, destination)
        for destination in (NAME, owner)
        for interface in (
            ("get-property", ROOT_OBJECT, MANAGER, "StateDir"),
            ("call", ROOT_OBJECT, "org.freedesktop.DBus.Properties", "GetAll", "s", MANAGER),
            ("call", ROOT_OBJECT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
            ("call", ROOT_OBJECT, MANAGER, "StationGet"),
        )
    ]
    for (verb, *rest), destination in asks:
        done = run(*BUSCTL, verb, destination, *rest, user="otto")
        assert (done.returncode != 0, done.stdout, "denied" in done.stderr) == (True, "", True), done
        assert run(*BUSCTL, verb, destination, *rest, user="anna").returncode == 0
    assert MANAGER in must(*BUSCTL, "introspect", "--xml-interface", NAME, ROOT_OBJECT, user="otto")


def test_an_operator_flashes(board: tuple[str, AvrTarget]) -> None:
    _, target = board
    with may_read(HEX) as file:
        must(ISPCTL, "enqueue", str(file), "--wait", user="anna")
        assert target.flash[: len(IMAGE)] == IMAGE
    assert "ready" in must("journalctl", "--no-pager", "-u", "ispd.service")


def test_a_board_is_flashed_over_the_bus_by_the_hardened_service(board: tuple[str, AvrTarget]) -> None:
    """The image goes as an open descriptor of a file that the service itself could not read."""
    slot, target = board
    image = sample(1000, seed=5)
    with may_read(write_hex(Image.of([Segment(0, image)]))) as file:
        anna = pwd.getpwnam("anna")
        os.chown(file, anna.pw_uid, anna.pw_gid)
        file.chmod(0o600)
        command = [installed.PYTHON, "-c", installed.ENQUEUE_BY_DESCRIPTOR, str(file), slot]
        done = run_as(anna.pw_uid, anna.pw_gid, command, groups=os.getgrouplist("anna", anna.pw_gid))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["passed"]
    assert target.flash[: len(image)] == image
    assert target.flash[len(image) :].strip(b"\xff") == b""


@pytest.fixture
def own_rules(before: set[str]) -> Iterator[None]:
    """Hide what other packages' udev rules say of ST-Links: those of stlink-tools let everybody write into them."""
    assert "/etc/udev/rules.d/70-ispd.rules" not in before
    others = [file for file in Path("/usr/lib/udev/rules.d").glob("*.rules") if "3748" in file.read_text()]
    hidden = [Path("/etc/udev/rules.d") / file.name for file in others]
    for file in hidden:
        file.symlink_to("/dev/null")
    must("udevadm", "control", "--reload")
    yield
    for file in hidden:
        file.unlink()
    must("udevadm", "control", "--reload")


@pytest.mark.usefixtures("own_rules")
def test_an_operator_brings_a_bluepill_from_its_old_bootloader_to_a_new_firmware(tmp_path: Path) -> None:
    """By an ST-Link, and by dfu-util inside the service's sandbox, on the port that the slot has learnt."""
    pytest.importorskip("unicorn")
    board, app = bluepill(1, has_loader=True), firmware_above(1, 3_000)
    with BluepillStation(tmp_path) as station:
        slot = station.plug(StLink(socket=SwdSocket(board.swd)), STLINK)
        assert must("stat", "-c", "%G %a", node_of(slot)).split() == ["plugdev", "660"]
        cable = station.connect(board, CABLE)
        station.wait_for(lambda: shown(cable) == "1EAF:0003" and result("slot", slot, user="anna")["state"] == "idle")
        must(ISPCTL, "slot", slot, "learn", user="anna")
        with may_read(stm32_loader(), "loader.bin") as loader, may_read(app, "app.bin") as firmware:
            words = ("--chain", "--bootloader", "stm32duino-pc13", "--part", "bluepill", "--slots", slot, "--wait")
            must(ISPCTL, "enqueue", str(loader), str(firmware), *words, user="anna")
        whole = chained_cells(app)
        assert bytes(board.chip.flash) == whole.ljust(len(board.chip.flash), b"\xff")
        assert shown(cable) == FIRMWARE_USB


@pytest.mark.usefixtures("before")
def test_a_call_on_the_bus_starts_the_service_and_so_does_a_connection_and_the_queue_is_kept() -> None:
    with may_read(HEX) as file:
        job = result("enqueue", str(file), "--count", "5", user="anna")["id"]
    stop("ispd.socket", "ispd.service")
    assert bus_call("otto", "StationGet").startswith("refused")
    assert state_of("ispd.service") == "inactive", "a call that is refused starts nothing"
    assert bus_call("anna", "StationGet").startswith("a{sv} ")
    assert state_of("ispd.service") == "active"
    stop("ispd.service")
    assert state_of("ispd.socket") == "active"
    assert run(ISPCTL, "slots", user="otto").returncode == 4
    assert state_of("ispd.service") == "inactive", "a connection that is refused starts nothing"
    assert result("job", str(job), user="anna")["state"] in ("queued", "running")
    assert state_of("ispd.service") == "active"
    must(ISPCTL, "cancel", str(job), user="anna")


BUS_FILE = """<busconfig>
  <policy context="mandatory">
    <allow send_destination="org.ispd.Station1" send_interface="org.ispd.Station1.Manager"/>
  </policy>
</busconfig>
"""
RULE = """polkit.addRule(function(action, subject) {
    if (action.id == "org.ispd.station1.operate" && subject.user == "otto") return polkit.Result.YES;
});
"""


POLKIT = Path("/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service")


@pytest.mark.skipif(not POLKIT.exists(), reason="polkitd is not installed (Debian package polkitd)")
@pytest.mark.usefixtures("before")
def test_polkit_decides_about_those_outside_the_group() -> None:
    """A machine without polkit, one whose polkit knows of no exception, and one whose rule lets a user in."""
    let_through, rule = Path("/etc/dbus-1/system.d/local-ispd.conf"), Path("/etc/polkit-1/rules.d/50-ispd.rules")
    hidden = POLKIT.with_suffix(".hidden")
    let_through.write_text(BUS_FILE)
    POLKIT.rename(hidden)
    try:
        must("systemctl", "reload", "dbus.service")
        assert "needs the privilege to view" in bus_call("otto", "SlotList")  # the bus lets it through to the daemon
        assert bus_call("anna", "SlotList").startswith("aa{sv} ")
        hidden.rename(POLKIT)
        must("systemctl", "reload", "dbus.service")
        assert state_of("polkit.service") == "inactive"
        assert "needs the privilege to view" in bus_call("otto", "SlotList")
        assert state_of("polkit.service") == "active", "it was asked"
        rule.write_text(RULE)
        rule.chmod(0o644)
        must("systemctl", "restart", "polkit.service")
        assert bus_call("otto", "SlotList").startswith("aa{sv} ")
        assert bus_call("otto", "JobCancel", "x", "1").startswith("refused: Call failed: job 1 ")
    finally:
        let_through.unlink()
        rule.unlink(missing_ok=True)
        if hidden.exists():
            hidden.rename(POLKIT)
        must("systemctl", "reload", "dbus.service")


@pytest.mark.usefixtures("before")
def test_the_doctor_cures_a_service_that_is_stopped_and_one_that_is_closed_to_a_user() -> None:
    stop("ispd.socket", "ispd.service")
    (found,) = (one for one in doctor() if one["check"] == "daemon")
    assert (found["level"], "the service is stopped" in found["cure"]) == ("bad", True)
    must(*command_of(found["cure"]).split())
    assert [one["level"] for one in doctor() if one["check"] == "daemon"] == ["ok"]

    (found,) = (one for one in doctor("otto") if one["check"] == "socket")
    assert (found["level"], "otto may not use" in found["message"]) == ("bad", True)
    must(*command_of(found["cure"]).split())
    otto = pwd.getpwnam("otto")
    old_login = run_as(otto.pw_uid, otto.pw_gid, [ISPCTL, "--json", "doctor"])
    (found,) = (one for one in json.loads(old_login.stdout) if one["check"] == "group")
    assert (found["level"], "logged in before that" in found["message"]) == ("bad", True)
    assert [one["level"] for one in doctor("otto") if one["check"] == "daemon"] == ["ok"]


def test_an_upgrade_keeps_what_was_configured_and_recorded_and_removal_leaves_nothing(before: set[str]) -> None:
    config = Path("/etc/ispd/ispd.toml")
    config.write_text(config.read_text() + "# mine\n")
    jobs = result("jobs", user="anna")
    must(str(ROOT / "scripts/install"))
    assert config.read_text().endswith("# mine\n")
    assert result("jobs", user="anna") == jobs

    must(str(ROOT / "scripts/uninstall"))
    assert run("systemctl", "cat", "ispd.service").returncode != 0
    assert run("getent", "passwd", "ispd").returncode != 0
    assert sorted(installed.files() ^ before) == [], "left behind, or taken away"
