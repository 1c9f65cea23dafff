"""The daemon's hotplug through pyudev and the system's libudev, on devices that umockdev announces."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from tests.oracle.usb.bed import missing_packages

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(120)]

FOLDER = Path(__file__).parent / "usb"
HUB = "/devices/pci0000:00/0000:00:14.0/usb1/1-1"
FISCHL = {
    "ID_VENDOR_ID": "16c0",
    "ID_MODEL_ID": "05dc",
    "ID_VENDOR": "www.fischl.de",
    "ID_VENDOR_ENC": "www.fischl.de",
    "ID_MODEL": "USB_asp",
    "ID_MODEL_ENC": r"USB\x20asp",
}
SHOWN = ["16C0:05DC", "www.fischl.de", "USB asp"]


def whole(number: int) -> dict[str, Any]:
    """A USB device at port ``number`` of the hub."""
    return {
        "sysfs": f"{HUB}/1-1.{number}",
        "subsystem": "usb",
        "node": f"bus/usb/001/{number + 1:03d}",
        "properties": FISCHL | {"DEVTYPE": "usb_device", "TYPE": "255/0/0"},
    }


def tty(number: int) -> dict[str, Any]:
    """The tty of the device at port ``number``."""
    return {
        "sysfs": f"{HUB}/1-1.{number}/1-1.{number}:1.0/tty/ttyACM{number}",
        "subsystem": "tty",
        "node": f"ttyACM{number}",
        "properties": FISCHL,
    }


class Bench:
    """The feeder and the watcher, spoken to line by line."""

    def __init__(self, feeder: "subprocess.Popen[str]", watcher: "subprocess.Popen[str]") -> None:
        self._feeder, self._watcher = feeder, watcher

    def feed(self, *, told: bool = True, **devices: Sequence[dict[str, Any]]) -> None:
        """Add or remove devices; not ``told`` is an event that was lost."""
        assert self._feeder.stdin is not None
        self._feeder.stdin.write(json.dumps({**devices, "told": told}) + "\n")
        self._feeder.stdin.flush()
        next_line(self._feeder.stdout)

    def seen(self, count: int) -> list[list[str]]:
        """Return the next changes the watcher tells."""
        return [next_line(self._watcher.stdout) for _ in range(count)]


def next_line(stream: IO[str] | None) -> Any:
    assert stream is not None
    return json.loads(stream.readline())


@contextmanager
def bench(*present: dict[str, Any], compare_s: float = 1000.0) -> Iterator[Bench]:
    if missing := missing_packages():
        pytest.skip(f"udev cannot be mocked without the Debian packages {missing}")
    feed = ["umockdev-wrapper", "/usr/bin/python3", str(FOLDER / "feeder.py")]
    watch = [sys.executable, str(FOLDER / "watcher.py"), str(compare_s)]
    with subprocess.Popen(feed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as feeder:
        assert feeder.stdin is not None
        root = next_line(feeder.stdout)["root"]
        feeder.stdin.write(json.dumps({"add": present, "told": False}) + "\n")
        feeder.stdin.flush()
        next_line(feeder.stdout)
        environment = {**os.environ, "LD_PRELOAD": "libumockdev-preload.so.0", "UMOCKDEV_DIR": root}
        with subprocess.Popen(watch, env=environment, stdout=subprocess.PIPE, text=True) as watcher:
            assert next_line(watcher.stdout) == {}
            try:
                yield Bench(feeder, watcher)
            finally:
                watcher.kill()
                feeder.stdin.close()


def test_devices_and_their_ttys_come_and_go_by_place() -> None:
    hub = {**whole(99), "properties": FISCHL | {"DEVTYPE": "usb_device", "TYPE": "9/0/1"}}
    with bench(hub, whole(1), tty(1)) as told:
        assert told.seen(2) == [["added", "usb", "usb:1-1.1", *SHOWN], ["added", "serial", "/dev/ttyACM1", *SHOWN]]
        told.feed(add=[whole(2), tty(2)])
        assert told.seen(2) == [["added", "usb", "usb:1-1.2", *SHOWN], ["added", "serial", "/dev/ttyACM2", *SHOWN]]
        told.feed(remove=[tty(1), whole(1)])
        assert [line[:3] for line in told.seen(2)] == [
            ["removed", "serial", "/dev/ttyACM1"],
            ["removed", "usb", "usb:1-1.1"],
        ]


def test_64_devices_are_all_seen_coming_and_going() -> None:
    devices = [whole(number) for number in range(1, 65)]
    # umockdev gives up when more than some ten events wait
    groups = [devices[first : first + 4] for first in range(0, 64, 4)]
    with bench() as told:
        for group in groups:
            told.feed(add=group)
            assert [line[0] for line in told.seen(len(group))] == ["added"] * len(group)
        left: list[str] = []
        for group in groups:
            told.feed(remove=group)
            left += [line[2] for line in told.seen(len(group))]
    assert left == [f"usb:1-1.{number}" for number in range(1, 65)]


def test_lost_events_are_made_up_for() -> None:
    with bench(whole(1), compare_s=0.2) as told:
        assert [line[:3] for line in told.seen(1)] == [["added", "usb", "usb:1-1.1"]]
        told.feed(told=False, remove=[whole(1)])
        told.feed(told=False, add=[whole(2)])
        assert sorted(line[:3] for line in told.seen(2)) == [
            ["added", "usb", "usb:1-1.2"],
            ["removed", "usb", "usb:1-1.1"],
        ]
