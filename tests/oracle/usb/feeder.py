"""Announces mocked USB devices and ttys as udev would, by umockdev. One JSON document per line in, one line out for each.

Runs in Debian's own Python (it has ``gi``) under ``umockdev-wrapper``, with nothing of the project on its path.
"""

import json
import os
import sys
from typing import Any

import gi  # type: ignore[import-not-found]  # Debian's Python has it, the one that checks types has not

gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev  # type: ignore[import-not-found]  # noqa: E402  # as above, after its version


def describe(device: dict[str, Any]) -> str:
    """Return a device as umockdev takes it."""
    properties = {"SUBSYSTEM": device["subsystem"], "DEVNAME": f"/dev/{device['node']}", **device["properties"]}
    return "\n".join(
        [
            f"P: {device['sysfs']}",
            f"N: {device['node']}",
            *(f"E: {key}={value}" for key, value in properties.items()),
            "",
        ]
    )


def main() -> None:
    """Serve until standard input ends."""
    testbed = UMockdev.Testbed.new()
    print(json.dumps({"root": testbed.get_root_dir()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        for device in command.get("add", []):
            testbed.add_from_string(describe(device))
            if command["told"]:
                testbed.uevent("/sys" + device["sysfs"], "add")
        for device in command.get("remove", []):
            if command["told"]:
                testbed.uevent("/sys" + device["sysfs"], "remove")
            testbed.remove_device("/sys" + device["sysfs"])
        print("{}", flush=True)
    os._exit(0)  # umockdev's threads may still wait for clients


if __name__ == "__main__":
    main()
