"""A workstation inside the guest: emulated devices on the kernel's USB, and the daemon as users start it."""

import base64
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ispctl.client import Client
from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from ispd.model.job import JobState
from ispd.transport.contract import PortKind
from vbench.emulated import EmulatedProgrammer
from vbench.target import AvrTarget
from vbench.vhci import VhciBus
from vbench.violation import ViolationKind

__all__ = ["Workstation", "broken_by_avrdude", "sample"]

_DEADLINE_S = 60.0


def sample(size_bytes: int, *, seed: int = 0) -> bytes:
    """Return an image in which no page is blank."""
    return random.Random(seed).randbytes(size_bytes)


def broken_by_avrdude(target: AvrTarget) -> list[str]:
    """Return the chip's rules that were broken, but for avrdude's polling: it reads a fuse or lock byte until it is right."""
    polls = (0x50, 0x58)  # data sheets, "Serial Programming Instruction Set"
    broken = (
        one for one in target.violations if one.kind is not ViolationKind.WHILE_BUSY or one.instruction[0] not in polls
    )
    return [str(violation) for violation in broken]


def _has_tty(device: Path) -> bool:
    return any(device.glob("*/tty/*"))


def _answers(place: Path) -> bool:
    """Tell whether somebody listens; a daemon that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        return end.connect_ex(str(place)) == 0


class Workstation:
    """Use as a context manager: the daemon and all devices go with it.

    :param time_scale: bench seconds per real second.
    """

    look_s = 0.02
    """How often it is looked whether something has happened. The devices here share their interpreter with whoever looks."""

    def __init__(self, folder: Path, *, time_scale: float = 1.0) -> None:
        self.folder = folder
        self.socket = folder / "ispd.sock"
        self._bus = VhciBus(time_scale=time_scale)
        self._plugged: set[int] = set()
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._bus.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_daemon()
        self._bus.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ devices

    def plug(self, programmer: EmulatedProgrammer, port: int) -> str:
        """Plug a device in, wait until udev has announced it, and return its topology path."""
        return self.plug_all({port: programmer})[port]

    def plug_all(self, programmers: Mapping[int, EmulatedProgrammer]) -> dict[int, str]:
        """Plug devices in one right after the other, wait until udev has announced all, and return their topology paths."""
        paths = {port: self.push_in(programmer, port) for port, programmer in programmers.items()}
        for port, programmer in programmers.items():
            device = Path("/sys/bus/usb/devices") / paths[port]
            if programmer.port_kind is PortKind.SERIAL:
                self.wait_for(partial(_has_tty, device))
            else:
                self.wait_for((device / "bNumConfigurations").exists)
        subprocess.run(["udevadm", "settle"], check=True, timeout=_DEADLINE_S)
        return paths

    def push_in(self, programmer: EmulatedProgrammer, port: int) -> str:
        """Plug a device in and wait for nothing; return its topology path."""
        path = self._bus.plug(programmer, port)
        self._plugged.add(port)
        return path

    def unplug(self, port: int) -> None:
        """Pull a device's plug."""
        self._bus.unplug(port)
        self._plugged.discard(port)

    def unplug_all(self) -> None:
        """Pull all plugs."""
        for port in tuple(self._plugged):
            self.unplug(port)

    def insert(self, port: int, target: AvrTarget) -> None:
        """Put a board on the programmer at a port."""
        self._bus.insert(port, target)

    def remove(self, port: int) -> AvrTarget:
        """Take the board off the programmer at a port."""
        target = self._bus.remove(port)
        assert isinstance(target, AvrTarget)
        return target

    def moment(self, bench_s: float) -> float:
        """Return when a bench time was, in monotonic seconds."""
        return time.monotonic() - (self._bus.now() - bench_s) / self._bus.time_scale

    def tty(self, path: str) -> str:
        """Return the device node of the serial board at a place of the USB tree."""
        (found,) = (Path("/sys/bus/usb/devices") / path).glob("*/tty/*")
        return f"/dev/{found.name}"

    # ------------------------------------------------------------------ the daemon

    def start_daemon(self, more: str = "") -> None:
        """Start ``ispd`` with hotplug, and wait for its socket.

        :param more: tables of its configuration: slots.
        """
        config = self.folder / "ispd.toml"
        config.write_text(
            f'[daemon]\nsocket = "{self.socket}"\nstate_dir = "{self.folder / "state"}"\n[dbus]\nbus = "off"\n{more}'
        )
        command = [sys.executable, "-m", "ispd", "--config", str(config), "--log-level", "warning"]
        daemon = self._daemon = subprocess.Popen(command)
        self.wait_for(lambda: _answers(self.socket) or daemon.poll() is not None)
        assert daemon.poll() is None, "the daemon has ended"

    def stop_daemon(self) -> None:
        """End the daemon as systemd does; harmless where none runs."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(timeout=_DEADLINE_S)
            self._daemon = None

    def kill_daemon(self) -> None:
        """End the daemon as a power failure does."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(timeout=_DEADLINE_S)
        self._daemon = None

    @property
    def daemon_pid(self) -> int:
        """The daemon's process."""
        assert self._daemon is not None
        return self._daemon.pid

    @contextmanager
    def daemon_held(self) -> Iterator[None]:
        """Let the daemon run no instruction inside the context."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``ispctl --json``."""
        command = [sys.executable, "-m", "ispctl", "--socket", str(self.socket), "--json", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the API over a connection of its own: takes a fraction of what ``ispctl`` takes to start."""
        with Client(self.socket) as client:
            client.deadline = time.monotonic() + _DEADLINE_S
            return client.call(method, **params)

    def slots(self) -> list[dict[str, Any]]:
        """Return all slots."""
        slots: list[dict[str, Any]] = self.call("slot.list")
        return slots

    def slot(self, name: str) -> dict[str, Any]:
        """Return one slot; an empty one where there is none of this name yet."""
        return next(
            (slot for slot in self.slots() if slot["name"] == name), {"state": None, "failure": None, "step": None}
        )

    def names(self, state: str) -> set[str]:
        """Return the slots that are in a state."""
        return {slot["name"] for slot in self.slots() if slot["state"] == state}

    def units(self, job: int) -> list[dict[str, Any]]:
        """Return the records of a job."""
        units: list[dict[str, Any]] = self.call("unit.list", job=job)
        return units

    def image_file(self, image: bytes) -> Path:
        """Write an image as a hex file and return its path."""
        file = self.folder / "image.hex"
        file.write_bytes(write_hex(Image.of([Segment(0, image)])))
        return file

    def enqueue(self, image: bytes, slots: str, *options: str) -> int:
        """Enqueue an image for some slots with ``ispctl`` and return the job's number."""
        done = self.ctl("enqueue", str(self.image_file(image)), "--slots", slots, *options)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["id"])

    def submit(self, image: bytes, slots: Sequence[str], **params: object) -> int:
        """Enqueue an image for some slots over the API and return the job's number."""
        content = base64.b64encode(write_hex(Image.of([Segment(0, image)]))).decode("ascii")
        job = self.call("job.enqueue", images=[{"name": "image.hex", "content": content}], slots=list(slots), **params)
        return int(job["id"])

    def ended(self, job: int) -> dict[str, Any]:
        """Wait until nothing about a job can change any more; return its units by slot, the last of each."""
        self.wait_for(lambda: JobState(self.call("job.get", id=job)["state"]).is_final)
        return {unit["slot"]: unit for unit in reversed(self.units(job))}

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Look again and again until a condition holds; fails after a minute."""
        end = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            time.sleep(self.look_s)
