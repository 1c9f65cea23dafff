"""Emulated USB programmers where unmodified programs find them: umockdev stands in for kernel and udev.

The emulations run in this process. Bench time is real time plus what the devices' work would have taken, which nobody waits
for: a host's own waits count in full, transfers cost only the bridge.
"""

import errno
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from ispd.transport.contract import ControlTransfer
from vbench.emulated import EmulatedBulk
from vbench.usb_device import UsbDevice

__all__ = ["UsbBed", "missing_packages"]

_PYTHON = "/usr/bin/python3"
_WRAPPER = "umockdev-wrapper"
_PRELOAD = "libumockdev-preload.so.0"
_BRIDGE = Path(__file__).with_name("bridge.py")
_CONTROLLER = "/devices/pci0000:00/0000:00:14.0/usb1"
_HUB_CLASS = 9
_PROBE = "import gi; gi.require_version('UMockdev', '1.0'); from gi.repository import UMockdev"


def missing_packages() -> str | None:
    """Return the Debian packages this bed lacks, None where all are there."""
    if shutil.which(_WRAPPER) is None:
        return "umockdev"
    probe = subprocess.run([_PYTHON, "-c", _PROBE], capture_output=True, check=False, timeout=30)
    return "python3-gi gir1.2-umockdev-1.0" if probe.returncode else None


class UsbBed:
    """USB devices at places of a mocked tree (``1-1.4``), for programs started with :meth:`run` or ``environment``.

    Use as a context manager; it ends the bridge. Look at a device only while no program talks to it.

    :param real_time: transfers last as long as on the device; the bridge's own half a millisecond comes on top of it.
    """

    def __init__(self, devices: Mapping[str, UsbDevice | EmulatedBulk], *, real_time: bool = False) -> None:
        self._devices = dict(devices)
        self._is_real_time = real_time
        self._skipped = dict.fromkeys(devices, 0.0)
        self.work_s = dict.fromkeys(devices, 0.0)
        """Bench seconds that each device's transfers took, without what the host did between them."""
        self._numbers = {path: number for number, path in enumerate(devices, start=3)}
        self._origin = time.monotonic()
        self.environment: dict[str, str] = {}
        """What a program needs in its environment to see the devices."""

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        self._bridge = subprocess.Popen(
            [_WRAPPER, _PYTHON, str(_BRIDGE), str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            text=True,
        )
        theirs.close()
        self._socket = ours
        self._server = threading.Thread(target=self._serve, name="usb-bed")
        self._server.start()
        root = self._line()["root"]
        self.environment = {**os.environ, "LD_PRELOAD": _PRELOAD, "UMOCKDEV_DIR": root}
        self._plug_hub("usb1", _CONTROLLER, 1)
        self._plug_hub("1-1", f"{_CONTROLLER}/1-1", 2)
        for path in self._devices:
            self.plug(path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._bridge.stdin is not None
        assert self._bridge.stdout is not None
        self._bridge.stdin.close()
        self._bridge.wait(timeout=30)
        self._bridge.stdout.close()
        self._server.join()
        self._socket.close()

    # -- plugs -----------------------------------------------------------------------------------------------------

    def plug(self, path: str) -> None:
        """Put a device's plug in."""
        device = self._devices[path]
        texts = {"manufacturer": device.usb.manufacturer, "product": device.usb.product, "serial": device.usb.serial}
        self._tell(
            "plug",
            path=path,
            number=self._numbers[path],
            sysfs=self._sysfs(path),
            descriptors=(device.descriptors.device + device.descriptors.configuration).hex(),
            speed="1.5" if isinstance(device, UsbDevice) else "12",
            texts={name: text for name, text in texts.items() if text and text.isprintable()},
            is_served=True,
        )

    def unplug(self, path: str) -> None:
        """Pull a device's plug."""
        self._devices[path].power_off(self.now(path))
        self._tell("unplug", path=path, sysfs=self._sysfs(path))

    def _plug_hub(self, name: str, sysfs: str, number: int) -> None:
        device = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, _HUB_CLASS, 0, 1, 64, 0x1D6B, 2, 0x0601, 0, 0, 0, 1)
        configuration = struct.pack("<BBHBBBBB", 9, 2, 18, 1, 1, 0, 0xE0, 0)
        interface = struct.pack("<9B", 9, 4, 0, 0, 0, _HUB_CLASS, 0, 0, 0)
        self._tell(
            "plug",
            path=name,
            number=number,
            sysfs=sysfs,
            descriptors=(device + configuration + interface).hex(),
            speed="480",
            texts={},
            is_served=False,
        )

    @staticmethod
    def _sysfs(path: str) -> str:
        return f"{_CONTROLLER}/1-1/{path}"

    def _tell(self, verb: str, **what: Any) -> None:
        assert self._bridge.stdin is not None
        self._bridge.stdin.write(json.dumps({verb: what}) + "\n")
        self._bridge.stdin.flush()
        self._line()

    def _line(self) -> Any:
        assert self._bridge.stdout is not None
        line = self._bridge.stdout.readline()
        if not line:
            raise RuntimeError(f"the bridge ended with {self._bridge.wait(timeout=10)}")
        return json.loads(line)

    # -- programs --------------------------------------------------------------------------------------------------

    def run(self, arguments: Sequence[str], *, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program that sees the devices, to its end."""
        return subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def cpu_s(self) -> float:
        """Return the CPU seconds that the bed has used so far: the devices in this process, and the bridge."""
        fields = Path(f"/proc/{self._bridge.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()

    # -- transfers -------------------------------------------------------------------------------------------------

    def now(self, path: str) -> float:
        """Return bench time as a device sees it: real seconds and the work of its transfers."""
        return time.monotonic() - self._origin + self._skipped[path]

    def _serve(self) -> None:
        with self._socket.makefile("rw", encoding="ascii") as stream:
            for line in stream:
                stream.write(json.dumps(self._answer(json.loads(line))) + "\n")
                stream.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, object]:
        if "endpoint" in request:
            return self._bulk(request)
        path = request["path"]
        device = self._devices[path]
        kind, code, value, index, length = request["setup"]
        data = bytes.fromhex(request["data"])
        timeout_s = request["timeout_ms"] / 1000 or math.inf
        at = self.now(path)
        begun = time.monotonic()
        transfer = ControlTransfer(request_type=kind, request=code, value=value, index=index, data=data, length=length)
        reply = device.control(transfer, at)
        emulated_s = time.monotonic() - begun
        if device.power_lost_at is not None:
            self._pass(path, 0.0, emulated_s)
            return {"errno": errno.ENODEV, "data": ""}
        if reply.ends_at - at > timeout_s or reply.ends_at == math.inf:
            self._pass(path, 0.0 if timeout_s == math.inf else timeout_s, emulated_s)
            return {"errno": errno.ETIMEDOUT, "data": ""}
        self._pass(path, reply.ends_at - at, emulated_s)
        self.work_s[path] += reply.ends_at - at
        if reply.stalled:
            return {"errno": errno.EPIPE, "data": ""}
        return {"errno": 0, "data": reply.data.hex()}

    def _bulk(self, request: dict[str, Any]) -> dict[str, object]:
        path, endpoint = request["path"], request["endpoint"]
        device = cast("EmulatedBulk", self._devices[path])
        at, begun = self.now(path), time.monotonic()
        device.run(at)
        is_in = bool(endpoint & 0x80)
        reply = (
            device.bulk_in(endpoint, request["length"], at)
            if is_in
            else device.bulk_out(endpoint, bytes.fromhex(request["data"]), at)
        )
        emulated_s = time.monotonic() - begun
        if device.power_lost_at is not None:
            self._pass(path, 0.0, emulated_s)
            return {"errno": errno.ENODEV, "data": ""}
        if reply is None or reply.ends_at == math.inf:
            self._pass(path, 0.0, emulated_s)
            return {"errno": errno.ETIMEDOUT, "data": ""}
        self._pass(path, reply.ends_at - at, emulated_s)
        self.work_s[path] += reply.ends_at - at
        return {"errno": errno.EPIPE if reply.stalled else 0, "data": reply.data.hex()}

    def _pass(self, path: str, seconds: float, emulated_s: float) -> None:
        """Let bench time pass; what it cost to emulate a transfer is nobody's time."""
        if self._is_real_time:
            time.sleep(max(0.0, seconds - emulated_s))
        else:
            self._skipped[path] += seconds - emulated_s
