"""A workstation inside the guest: emulated devices on the kernel's USB, and the daemon as users start it."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from vbench.emulated import EmulatedUsb
from vbench.vhci import VhciBus

__all__ = ["Workstation", "sample"]

_DEADLINE_S = 60.0


def sample(size_bytes: int, *, seed: int = 0) -> bytes:
    """Return an image in which no page is blank."""
    return random.Random(seed).randbytes(size_bytes)


class Workstation:
    """Use as a context manager: the daemon and all devices go with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "ispd.sock"
        self._bus = VhciBus()
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._bus.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(timeout=_DEADLINE_S)
        self._bus.__exit__(kind, error, trace)

    def plug(self, programmer: EmulatedUsb, port: int) -> str:
        """Plug a device in, wait until udev has announced it, and return its topology path."""
        path = self._bus.plug(programmer, port)
        self.wait_for(lambda: Path(f"/sys/bus/usb/devices/{path}/bNumConfigurations").exists())
        subprocess.run(["udevadm", "settle"], check=True, timeout=_DEADLINE_S)
        return path

    def unplug(self, port: int) -> None:
        """Pull a device's plug."""
        self._bus.unplug(port)

    def start_daemon(self) -> None:
        """Start ``ispd`` with hotplug, and wait for its socket."""
        config = self.folder / "ispd.toml"
        config.write_text(
            f'[daemon]\nsocket = "{self.socket}"\nstate_dir = "{self.folder / "state"}"\n[dbus]\nbus = "off"\n'
        )
        command = [sys.executable, "-m", "ispd", "--config", str(config), "--log-level", "warning"]
        daemon = self._daemon = subprocess.Popen(command)
        self.wait_for(lambda: self.socket.exists() or daemon.poll() is not None)
        assert daemon.poll() is None, "the daemon has ended"

    def ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``ispctl --json``."""
        command = [sys.executable, "-m", "ispctl", "--socket", str(self.socket), "--json", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def slots(self) -> list[dict[str, Any]]:
        """Return all slots."""
        slots: list[dict[str, Any]] = self._result("slots")
        return slots

    def slot(self, name: str) -> dict[str, Any]:
        """Return one slot; an empty one where there is none of this name yet."""
        return next(
            (slot for slot in self.slots() if slot["name"] == name), {"state": None, "failure": None, "step": None}
        )

    def units(self, job: int) -> list[dict[str, Any]]:
        """Return the records of a job."""
        units: list[dict[str, Any]] = self._result("units", "--job", str(job))
        return units

    def image_file(self, image: bytes) -> Path:
        """Write an image as a hex file and return its path."""
        file = self.folder / "image.hex"
        file.write_bytes(write_hex(Image.of([Segment(0, image)])))
        return file

    def enqueue(self, image: bytes, slots: str, *options: str) -> int:
        """Enqueue an image for some slots and return the job's number."""
        job = self._result("enqueue", str(self.image_file(image)), "--slots", slots, *options)
        return int(job["id"])

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Look again and again until a condition holds; fails after a minute."""
        end = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            time.sleep(0.02)

    def _result(self, *arguments: str) -> Any:
        done = self.ctl(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
