"""The systemd service: installed, used by an operator without root, restarted, upgraded, removed."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.vm.inside.station import Workstation, sample

from ispd.catalog.parts import load_parts
from vbench.target import AvrTarget
from vbench.usbtiny import UsbTiny

ROOT = Path(__file__).parents[3]
SOCKET = Path("/run/ispd/ispd.sock")
PLACES = {"/opt": 1, "/var/lib": 1, "/run": 1, "/etc": 4, "/usr/local": 4}
"""Where an installation could leave something, and how deep."""
MOST_EXPOSURE = 1.5
VERSION_ON_THE_BUS = (
    *("busctl", "--system", "get-property", "org.ispd.Station1", "/org/ispd/Station1"),
    *("org.ispd.Station1.Manager", "Version"),
)
_VOLATILE = re.compile(
    r"^/etc/(passwd|group|g?shadow|sub[ug]id)|^/var/lib/(systemd|dbus|private)|^/run/(?!ispd)|\\.pyc$|__pycache__"
)


def run(*command: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command, as root or as somebody else."""
    words = command if user is None else ("runuser", "-u", user, "--", *command)
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def must(*command: str, user: str | None = None) -> str:
    """Run a command that has to succeed and return what it printed."""
    done = run(*command, user=user)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def result(*command: str, user: str) -> Any:
    """Run ``ispctl --json`` as a user."""
    return json.loads(must("/usr/local/bin/ispctl", "--json", *command, user=user))


def files() -> set[str]:
    """Return all files in the places where an installation could leave something."""
    found = {
        path
        for place, depth in PLACES.items()
        for path in must("find", place, "-xdev", "-maxdepth", str(depth)).splitlines()
    }
    return {path for path in found if not _VOLATILE.search(path)}


def node_of(path: str) -> str:
    """Return the device node of what hangs at a place of the USB tree."""
    bus, device = (int(Path(f"/sys/bus/usb/devices/{path}/{name}").read_text()) for name in ("busnum", "devnum"))
    return f"/dev/bus/usb/{bus:03}/{device:03}"


@pytest.mark.timeout(600)
def test_the_service_from_installation_to_removal(tmp_path: Path) -> None:
    before = files()
    software = Path(os.environ["ISPD_SOFTWARE"])
    if not (software / "share/stamp").exists():
        pytest.skip("the software could not be installed on the host")
    must("cp", "-a", str(software), "/opt/ispd")
    installed = run(str(ROOT / "scripts/install"))
    assert installed.returncode == 0, installed.stderr + run("journalctl", "--no-pager", "-u", "ispd.service").stdout
    must("useradd", "--groups", "ispd", "anna")
    must("useradd", "otto")
    assert must("systemctl", "is-active", "ispd.service").strip() == "active"
    assert must("stat", "-c", "%U:%G %a", str(SOCKET)).split() == ["ispd:ispd", "660"]
    assert must("stat", "-c", "%U:%G %a", "/var/lib/ispd").split() == ["ispd:ispd", "750"]
    exposure = re.search(
        r"(\d+\.\d+)", must("systemd-analyze", "security", "--no-pager", "ispd.service").splitlines()[-1]
    )
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSURE
    assert run("/usr/local/bin/ispctl", "slots", user="otto").returncode == 4

    must("systemctl", "try-reload-or-restart", "dbus.service")  # it reads who is in which group only then
    assert must(*VERSION_ON_THE_BUS, user="anna").startswith('s "')
    assert run(*VERSION_ON_THE_BUS, user="otto").returncode != 0

    target, image = AvrTarget(load_parts().get("atmega32u4")), sample(1500)
    with Workstation(tmp_path) as station:
        path = station.plug(UsbTiny(target=target), 0)
        assert must("stat", "-c", "%G %a", node_of(path)).split() == ["plugdev", "660"]
        station.wait_for(lambda: [slot["name"] for slot in result("slots", user="anna")] == [path])
        station.wait_for(lambda: result("slots", user="anna")[0]["state"] == "idle")
        file = station.image_file(image)
        tmp_path.chmod(0o755)
        for folder in tmp_path.parents:
            folder.chmod(0o755)
        must("/usr/local/bin/ispctl", "enqueue", str(file), "--wait", user="anna")
        assert target.flash[: len(image)] == image

        job = result("enqueue", str(file), "--count", "5", user="anna")["id"]
        must("systemctl", "restart", "ispd.service")
        assert result("job", str(job), user="anna")["state"] in ("queued", "running")
        must("/usr/local/bin/ispctl", "cancel", str(job), user="anna")
    assert "ready" in must("journalctl", "--no-pager", "-u", "ispd.service")

    config = Path("/etc/ispd/ispd.toml")
    config.write_text(config.read_text() + "# mine\n")
    must(str(ROOT / "scripts/install"))
    assert config.read_text().endswith("# mine\n")
    assert len(result("jobs", user="anna")) == 2

    must(str(ROOT / "scripts/uninstall"))
    assert run("systemctl", "cat", "ispd.service").returncode != 0
    assert run("getent", "passwd", "ispd").returncode != 0
    assert sorted(files() - before) == [], "left behind"
