"""Hubs that many programmers share.

Low- and full-speed devices behind a high-speed hub go through its transaction translators (USB 2.0, 11.14). A hub has one
for all its ports (bDeviceProtocol 1) or one for each (2); a slower hub below it has none of its own.
"""

from collections.abc import Iterator

from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.usb import UsbDevice

__all__ = ["examine_hubs"]

_SINGLE, _MULTI = "01", "02"
_HIGH_SPEED = 480
_LOW_SPEED = 1.5
_VENDOR_CLASS = "ff"

SHARED_PER_MS = 7
"""Low-speed transactions that one translator carries in a millisecond, for all devices behind it together."""

ALONE_PER_MS = 5
"""What a low-speed programmer makes use of when it is alone: a transaction takes 0.2 ms at best."""

_MOST_LOW = 2
"""So many low-speed devices still get nearly all they can use; a third one slows the others."""

_MOST_SLOW = 7
"""Full-speed programmers need little of a translator, but one transaction in a millisecond should be left to each."""


def examine_hubs(devices: list[UsbDevice], known: list[UsbDevice]) -> Iterator[Finding]:
    """Name each translator that too many share, where a programmer is among them."""
    programmers = {device.name for device in known}
    for hub in devices:
        is_fast_hub = hub.is_hub and hub.speed == _HIGH_SPEED and not hub.name.startswith("usb")
        if is_fast_hub and hub.protocol in (_SINGLE, _MULTI):
            for sharing in _translators(hub, devices):
                low = sum(device.speed == _LOW_SPEED for device in sharing)
                is_ours = any(device.name in programmers or _may_be_programmer(device) for device in sharing)
                if is_ours and (low > _MOST_LOW or len(sharing) > _MOST_SLOW):
                    yield _crowded(hub, sharing, low)


def _translators(hub: UsbDevice, devices: list[UsbDevice]) -> list[list[UsbDevice]]:
    """Return the low- and full-speed devices behind each of the hub's translators."""
    children = [device for device in devices if _parent(device.name) == hub.name]
    if hub.protocol == _MULTI:
        return [_slow([child], devices) for child in children]
    return [_slow(children, devices)]


def _slow(roots: list[UsbDevice], devices: list[UsbDevice]) -> list[UsbDevice]:
    found = []
    for device in roots:
        if device.speed >= _HIGH_SPEED:
            continue  # a fast hub has translators of its own, other fast devices need none
        if device.is_hub:
            found += _slow([child for child in devices if _parent(child.name) == device.name], devices)
        else:
            found.append(device)
    return found


def _parent(name: str) -> str:
    """Return the hub a device is plugged into: of 1-1.4 it is 1-1, and of 1-1 the root hub."""
    upper, dot, _ = name.rpartition(".")
    return upper if dot else f"usb{name.partition('-')[0]}"


def _may_be_programmer(device: UsbDevice) -> bool:
    """USBasp and USBtinyISP speak a protocol of their own; keyboards and mice do not."""
    return any(interface.kind.startswith(_VENDOR_CLASS) for interface in device.interfaces)


def _crowded(hub: UsbDevice, sharing: list[UsbDevice], low: int) -> Finding:
    share = ""
    if low > _MOST_LOW:
        percent = round(100 * SHARED_PER_MS / (low * ALONE_PER_MS))
        share = f", so that each of them reaches about {percent} % of its speed when all work"
    message = (
        f"{len(sharing)} slow devices ({low} of them low-speed) share one transaction translator of {hub.title}:"
        f" it carries about {SHARED_PER_MS} low-speed transactions per millisecond{share}"
    )
    cure = "spread the programmers over several hubs, use hubs with a translator per port (multi-TT), or the machine's own ports"
    return Finding("hub", Level.NOTE, message, cure, hub.name)
