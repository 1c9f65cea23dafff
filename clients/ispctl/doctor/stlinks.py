"""ST-Links: those that cannot be used, and firmware that cannot do everything."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.usb import UsbDevice

__all__ = ["examine_stlinks"]

_UPDATE = "update it with ST's STSW-LINK007 (ST-LinkUpgrade); a clone may refuse, or not survive it"
_REFUSED = {
    "0483:3744": ("an ST-Link/V1, which is not supported", "use an ST-Link/V2, V2-1 or V3"),
    "0483:374d": ("an ST-Link V3 that waits in its loader", f"plug it in again; if it stays so, {_UPDATE}"),
}
_FIRMWARE = re.compile(r"V([12])J(\d+)")
_FIRST_WITH_VOLTAGE, _FIRST_WITH_CLOCK = 13, 22
"""Releases of a V2's firmware that measure the board's supply, and that set SWD's clock (OpenOCD, ``stlink_usb.c``)."""


def examine_stlinks(devices: list[UsbDevice], programmers: list[dict[str, Any]]) -> Iterator[Finding]:
    """Name the ST-Links that are plugged in and no good, and those the daemon has open whose firmware is old."""
    for device in devices:
        if device.usb_id in _REFUSED:
            what, cure = _REFUSED[device.usb_id]
            yield Finding("stlink", Level.BAD, f"{device.title} is {what}", cure, device.name)
    for programmer in programmers:
        yield from _firmware(programmer)


def _firmware(programmer: Mapping[str, Any]) -> Iterator[Finding]:
    found = _FIRMWARE.match(str(programmer.get("firmware") or ""))
    if programmer.get("kind") != "stlink" or found is None or int(found[2]) >= _FIRST_WITH_CLOCK:
        return
    lacks = (
        ["set SWD's clock"]
        if int(found[2]) >= _FIRST_WITH_VOLTAGE
        else ["set SWD's clock", "measure the board's supply"]
    )
    message = f"the ST-Link's firmware {programmer['firmware']} is old: it cannot {' or '.join(lacks)}"
    yield Finding("stlink", Level.NOTE, message, _UPDATE, str(programmer.get("path") or programmer.get("port") or ""))
