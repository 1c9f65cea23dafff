"""``ispctl doctor`` on a real kernel with real udev: obstacles are produced, named, and gone when their cure was followed.

What needs the installed service is in ``test_service``; crowded hubs, which the kernel's virtual controller cannot show, are
tried on made-up trees in ``tests/unit/ispctl``.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.surfaces.strangers import command_as, run_as
from tests.vm.inside.installed import ROOT, must

from ispctl.client import Client
from ispctl.doctor import Finding, Level, Machine, examine
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.usbasp import UsbAsp
from vbench.vhci import VhciBus

RULES = Path("/etc/udev/rules.d/70-ispd.rules")
SERIAL_PORT = 1
NO_SOCKET = Path("/run/nobody-listens-here")
DEADLINE_S = 60.0
_QUOTED = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def bus() -> Iterator[VhciBus]:
    with VhciBus() as bus:
        yield bus


@pytest.fixture(scope="module")
def usbasp(bus: VhciBus) -> Path:
    """Plug a USBasp in and return its folder under /sys."""
    return plug(bus, UsbAsp(), 0)


@pytest.fixture(scope="module")
def leonardo(bus: VhciBus) -> Path:
    """Plug a serial programmer in and return its folder under /sys."""
    return plug(bus, SerialProgrammer(Flavour.LEONARDO), SERIAL_PORT)


@pytest.fixture
def _without_rules() -> Iterator[None]:
    """Be on a machine that never saw the rules."""
    RULES.unlink(missing_ok=True)
    look_again()
    yield
    shutil.copy(ROOT / "systemd/ispd.rules", RULES)
    look_again()


@pytest.fixture(scope="module", autouse=True)
def _rules() -> Iterator[None]:
    """Install the rules, and leave the machine as it was."""
    kept = RULES.read_bytes() if RULES.exists() else None
    shutil.copy(ROOT / "systemd/ispd.rules", RULES)
    yield
    RULES.unlink()
    if kept is not None:
        RULES.write_bytes(kept)
    look_again()


def look_again() -> None:
    """Let udev read its rules, and apply them to what is there."""
    must("udevadm", "control", "--reload")
    must("udevadm", "trigger", "--subsystem-match=usb", "--subsystem-match=tty")
    must("udevadm", "settle")


def plug(bus: VhciBus, device: EmulatedUsb | EmulatedSerial, port: int) -> Path:
    """Plug a device in, wait until udev is through with it, and return its folder under /sys."""
    folder = Path("/sys/bus/usb/devices") / bus.plug(device, port)
    serial = isinstance(device, SerialProgrammer)
    wait_for(lambda: list(folder.glob("*/tty/*")) if serial else (folder / "bNumConfigurations").exists())
    must("udevadm", "settle")
    return folder


def wait_for(condition: Any) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def node_of(folder: Path) -> str:
    bus, device = (int((folder / name).read_text()) for name in ("busnum", "devnum"))
    return f"/dev/bus/usb/{bus:03}/{device:03}"


def tty_of(folder: Path) -> str:
    (port,) = folder.glob("*/tty/*")
    return f"/dev/{port.name}"


BARE = Machine(which=lambda _tool: None)
"""This machine without its tools, which take their time to answer."""


def found(check: str, subject: str | None = None, *, machine: Machine = BARE) -> Finding | None:
    """Look as root, and return what was found under a word; None where there is no such finding."""
    findings = examine(machine, NO_SOCKET)
    return next((one for one in findings if one.check == check and subject in (None, one.subject)), None)


def follow(cure: str, which: int) -> None:
    """Run a command of a cure as it stands there."""
    subprocess.run(_QUOTED.findall(cure)[which], shell=True, check=True)
    must("udevadm", "settle")


# -- rights


@contextmanager
def daemon_of(user: str, folder: Path) -> Iterator[Path]:
    """Run the daemon as a user who has just logged in, and return its socket."""
    account = pwd.getpwnam(user)
    config, socket = folder / "ispd.toml", folder / "ispd.sock"
    config.write_text(f'[daemon]\nsocket = "{socket}"\nstate_dir = "{folder}/state"\n[dbus]\nbus = "off"\n')
    for place in (folder, config):
        os.chown(place, account.pw_uid, account.pw_gid)
    command = [sys.executable, "-m", "ispd", "--config", str(config), "--log-level", "warning"]
    groups = os.getgrouplist(user, account.pw_gid)
    with subprocess.Popen(command_as(account.pw_uid, account.pw_gid, command, groups=groups)) as process:
        try:
            wait_for(lambda: socket.exists() or process.poll() is not None)
            assert process.poll() is None
            yield socket
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def doctor_of(user: str, socket: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Run the command as a user; return what it found by word and subject."""
    account = pwd.getpwnam(user)
    command = [sys.executable, "-m", "ispctl", "--socket", str(socket), "--json", "doctor"]
    done = run_as(account.pw_uid, account.pw_gid, command, groups=os.getgrouplist(user, account.pw_gid))
    return {(one["check"], one["subject"]): one for one in json.loads(done.stdout)}


@pytest.mark.usefixtures("_without_rules")
def test_a_programmer_closed_to_the_daemon_is_opened_by_following_the_cures(usbasp: Path, tmp_path: Path) -> None:
    must("useradd", "berta")
    for place in tmp_path.parents:
        place.chmod(place.stat().st_mode | 0o055)
    node = node_of(usbasp)
    with daemon_of("berta", tmp_path) as socket:
        with Client(socket) as client:
            wait_for(lambda: client.call("slot.list"))
        told = doctor_of("berta", socket)
        assert told["daemon", ""]["level"] == "ok"
        assert (told["rules", ""]["level"], "are not installed" in told["rules", ""]["message"]) == ("note", True)
        closed = told["usb", node]
        assert (closed["level"], "berta may not use it" in closed["message"]) == ("bad", True)

        copied = re.search(r"copy (\S+) to (\S+);", closed["cure"])
        assert copied is not None
        shutil.copy(ROOT / copied[1], copied[2])
        early = found("rules", usbasp.name)
        assert early is not None
        assert "came before the rules" in early.message
        follow(closed["cure"], 1)
        assert found("rules", usbasp.name) is None
        still = found("usb", node)  # the rights that count are those of the daemon, whoever looks
        assert still is not None
        assert (still.level, "berta may not use it, group plugdev" in still.message) == (Level.BAD, True)
        follow(still.cure, 0)
    # from a new login, as the cure says; the daemon that is to be started again would have these rights
    told = doctor_of("berta", socket)
    assert {told["rules", ""]["level"], told["usb", node]["level"]} == {"ok"}
    assert (told["daemon", ""]["level"], "no socket" in told["daemon", ""]["message"]) == ("bad", True)


# -- other programs

MEDDLER = """
import contextlib, fcntl, struct, sys
open("/proc/self/comm", "w").write(sys.argv[1])
opened = open(sys.argv[2], "r+b", buffering=0) if sys.argv[2] else None
match sys.argv[3]:
    case "claim":
        fcntl.ioctl(opened, 0x8004550F, struct.pack("I", 0))
    case "configure":
        with contextlib.suppress(OSError):  # busy; the kernel notes who wanted it
            fcntl.ioctl(opened, 0x80045505, struct.pack("I", 1))
print("ready", flush=True)
sys.stdin.read()
"""
"""A program by any name that holds a device. The requests are ``USBDEVFS_CLAIMINTERFACE`` and ``USBDEVFS_SETCONFIGURATION``
(linux/usbdevice_fs.h)."""


@contextmanager
def meddler(name: str, node: str = "", act: str = "") -> Iterator[int]:
    """Run a process of a name; return its number."""
    command = [sys.executable, "-I", "-S", "-c", MEDDLER, name, node, act]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.communicate()


@pytest.mark.usefixtures("_without_rules")
def test_modem_manager_is_no_obstacle_once_udev_keeps_it_from_the_port(leonardo: Path) -> None:
    port = tty_of(leonardo)
    with meddler("ModemManager") as number:
        running, probing = found("ModemManager"), found("modem-probing", port)
        assert running is not None
        assert (running.level, f"process {number}" in running.message) == (Level.NOTE, True)
        assert probing is not None
        assert "install ispd's udev rules, or `udevadm trigger`" in probing.cure
        shutil.copy(ROOT / "systemd/ispd.rules", RULES)
        must("udevadm", "control", "--reload")
        follow(probing.cure, 0)
        running = found("ModemManager")
        assert running is not None
        assert (running.level, found("modem-probing", port)) == (Level.OK, None)


def test_who_holds_a_device_is_named_and_the_cure_is_that_programs(leonardo: Path, usbasp: Path) -> None:
    port, node = tty_of(leonardo), node_of(usbasp)
    assert found("holder") is None
    for name, held, act, level, cure in (
        ("ModemManager", port, "", Level.BAD, "systemctl disable --now ModemManager"),
        ("brltty", port, "", Level.BAD, "systemctl mask --now brltty-udev.service"),
        ("minicom", port, "", Level.BAD, "kill {}"),
        ("fwupd", node, "", Level.NOTE, "systemctl mask --now fwupd.service"),
        ("fwupd", node, "claim", Level.BAD, "systemctl mask --now fwupd.service"),
    ):
        with meddler(name, held, act) as number:
            holder = found("holder", held)
        assert holder is not None
        assert (holder.level, f"{name} (process {number})" in holder.message) == (level, True)
        assert f"`{cure.format(number)}`" in holder.cure
    assert found("holder") is None


def test_a_serial_port_that_lost_its_driver_is_back_after_the_cure(bus: VhciBus, leonardo: Path) -> None:
    must("rmmod", "cdc_acm")
    lost = found("lost-port", leonardo.name)
    assert lost is not None
    assert lost.is_bad
    follow(lost.cure, 0)
    bus.unplug(SERIAL_PORT)
    assert plug(bus, SerialProgrammer(Flavour.LEONARDO), SERIAL_PORT) == leonardo
    assert found("lost-port") is None


def test_who_took_a_device_from_its_driver_stands_in_the_kernels_log(leonardo: Path) -> None:
    assert found("taken", machine=Machine()) is None
    with meddler("brltty", node_of(leonardo), "configure"):
        taken = found("taken", "brltty", machine=Machine())
    assert taken is not None
    assert "from the driver cdc_acm" in taken.message
    assert "brltty-udev" in taken.cure


@pytest.mark.parametrize("tool", ["avrdude", "dfu-programmer", "dfu-util"])
def test_debians_tools_are_good_and_missing_ones_are_named(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    there = found(tool, machine=Machine())
    assert there is not None
    assert there.level is Level.OK, there
    monkeypatch.setenv("PATH", "/nowhere")
    missing = found(tool, machine=Machine())
    assert missing is not None
    assert (missing.level, missing.cure.startswith(f"`apt install {tool}`")) == (Level.NOTE, True)
