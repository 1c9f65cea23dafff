"""The whole of ispd on an ST-Link that st-info and st-flash see, too: daemon, command line, the system's libusb."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.oracle.stlink_programs import GUIDE, PLACE, PROBE, fields, guide_image, probe_with, require_programs, write
from tests.oracle.usb.bed import UsbBed

from vbench.stm32f1 import Stm32F1

pytestmark = pytest.mark.oracle

DEADLINE_S = 30.0
Ispctl = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    require_programs()


@contextmanager
def daemon_on(bed: UsbBed, folder: Path) -> Iterator[Ispctl]:
    """Run a daemon with the bed's programmer on slot A1; yield what runs ``ispctl`` and returns its output."""
    socket, config = folder / "ispd.sock", folder / "ispd.toml"
    config.write_text(
        f'[daemon]\nsocket = "{socket}"\nstate_dir = "{folder / "state"}"\n[hotplug]\nudev = false\n'
        f'[[slot]]\nname = "A1"\nprogrammer = "stlink"\nport = "usb:{PLACE}"\n'
    )

    def ispctl(*words: str) -> str:
        command = [sys.executable, "-m", "ispctl", "--socket", str(socket), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command = [sys.executable, "-m", "ispd", "--config", str(config)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env=bed.environment, stdout=log, stderr=log) as daemon,
    ):
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not socket.exists():
                assert daemon.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield ispctl
        finally:
            daemon.terminate()
    assert daemon.returncode == 0


def shown_fields(text: str) -> dict[str, str]:
    """Return in the words of st-info what ``ispctl probe`` shows."""
    shown = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    part, _, line = shown["part"].partition(", ")
    assert part == "stm32f103xb"
    density = line.rpartition("(")[2].removesuffix(" density)")
    size, pages = shown["flash"].split(" bytes, pages of ")
    return {
        "version": shown["firmware"],
        "serial": shown["serial"],
        "flash": f"{size} (pagesize: {pages})",
        "sram": shown["RAM"].removesuffix(" bytes"),
        "chipid": shown["signature"],
        "descr": f"F1xx {density.capitalize()}-density",
    }


def test_the_probe_example_and_the_write_of_the_guide(tmp_path: Path) -> None:
    image = guide_image(tmp_path)
    ours, theirs = Stm32F1(), Stm32F1()
    ours.chip.flash[:] = theirs.chip.flash[:] = b"\xa5" * len(ours.chip.flash)
    with UsbBed({PLACE: probe_with(theirs)}) as bed:
        assert fields(bed.run(PROBE)) == GUIDE
        assert bed.run(write(image)).returncode == 0
    with UsbBed({PLACE: probe_with(ours)}) as bed:
        with daemon_on(bed, tmp_path) as ispctl:
            assert shown_fields(ispctl("probe", "A1")) == GUIDE
            assert (ours.resets, ours.core.is_in_flash) == (1, True), "nobody disturbed what runs"
            ispctl("enqueue", "--wait", "--keep-rest", "--part", "bluepill", str(image))
            assert ours.core.is_in_flash
            unit = json.loads(ispctl("--json", "unit", "1"))
        assert fields(bed.run(PROBE)) == GUIDE
    assert (unit["verdict"], unit["signature"], unit["sck_hz"]) == ("passed", "0x0410", 1_800_000)
    assert (unit["unique_id"], unit["lock"]) == (ours.uid.hex().upper(), 0xA5)
    assert ours.chip.flash == theirs.chip.flash
    assert ours.violations == []
