"""Which ports are there: events and listings in, changes out. Pure; ``udev`` feeds it.

Ports are keyed by their sysfs path, because that is all that a removal still tells: udev's records of vendor and serial
number are gone by then. The slot is the place in the USB tree (``1-1.4.2``), taken from the same path.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from ispd.transport.contract import USB_PORT_PREFIX, PortChange, PortEvent, PortKind, UsbIdentity

__all__ = ["PortTable", "SeenPort", "topology_path", "usb_identity"]

_TOPOLOGY = re.compile(r"/(\d+-\d+(?:\.\d+)*)(?=/|$)")
_INTERFACE = re.compile(r"/\d+-\d+(?:\.\d+)*:\d+\.(\d+)(?=/)")
_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")
_HUB = "9/"
"""How the kernel's ``TYPE`` (class/subclass/protocol) of a hub begins (USB 2.0, 11.23.1)."""


def topology_path(sysfs_path: str) -> str | None:
    """Return where in the USB tree a port hangs: bus, root port, hub ports. None for a port that is not on USB.

    ``/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4/1-1.4:1.0/tty/ttyACM0`` gives ``1-1.4``, the same ports in the
    same order as udev's ``ID_PATH``. A root hub (``../usb1``) has no such place.
    """
    found = _TOPOLOGY.findall(sysfs_path)
    return found[-1] if found else None


def usb_identity(properties: Mapping[str, str]) -> UsbIdentity | None:
    """Return the identity from udev's properties, None without ``ID_VENDOR_ID`` and ``ID_MODEL_ID``.

    Manufacturer and product are verbatim. In the serial number udev has replaced what it does not like by underscores.
    """
    try:
        vendor, product = int(properties["ID_VENDOR_ID"], 16), int(properties["ID_MODEL_ID"], 16)
    except (KeyError, ValueError):
        return None
    return UsbIdentity(
        vendor_id=vendor,
        product_id=product,
        manufacturer=_text(properties, "ID_VENDOR"),
        product=_text(properties, "ID_MODEL"),
        serial=properties.get("ID_SERIAL_SHORT", ""),
    )


def _text(properties: Mapping[str, str], key: str) -> str:
    """Return what the device says: ``.._ENC`` holds it with escapes, the plain property mangled.

    The texts in sysfs are not read: the kernel holds them back while the device is being reset or configured. Where the
    device says nothing, udev's usb_id writes the number instead.
    """
    encoded = properties.get(f"{key}_ENC", properties.get(key, ""))
    if encoded == properties.get(f"{key}_ID"):
        return ""
    return _ESCAPED.sub(lambda run: bytes.fromhex(run[0].replace(r"\x", "")).decode("utf-8", "replace"), encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPort:
    """A tty or a whole USB device as udev shows it; ``node`` is its device node."""

    kind: PortKind
    sysfs_path: str
    node: str
    properties: Mapping[str, str]


class PortTable:
    """The ports known to be there. Each method returns the events that lead from what was known to what is."""

    def __init__(self) -> None:
        self._known: dict[str, PortEvent] = {}

    def add(self, seen: SeenPort) -> list[PortEvent]:
        """Take note of a port; a port that is known already, unchanged, gives nothing."""
        known = self._known.get(seen.sysfs_path)
        event = self._event(seen)
        if event is None or (known is not None and _is_same(known, event)):
            return []
        self._known[seen.sysfs_path] = event
        return [event] if known is None else [_removed(known), event]

    def remove(self, sysfs_path: str) -> list[PortEvent]:
        """Take note that a port went; an unknown one gives nothing."""
        known = self._known.pop(sysfs_path, None)
        return [] if known is None else [_removed(known)]

    def reconcile(self, present: Iterable[SeenPort], *, told: AbstractSet[str] = frozenset()) -> list[PortEvent]:
        """Compare with a full listing: what is missing went, what is new came, in this order.

        :param told: sysfs paths that :meth:`add` or :meth:`remove` heard of since the listing began; they are left as they are.
        """
        listing = sorted((seen for seen in present if seen.sysfs_path not in told), key=lambda seen: seen.sysfs_path)
        gone = self._known.keys() - {seen.sysfs_path for seen in listing} - told
        events = [event for path in sorted(gone) for event in self.remove(path)]
        return events + [event for seen in listing for event in self.add(seen)]

    def _event(self, seen: SeenPort) -> PortEvent | None:
        """Return the ``added`` event of a USB port, None for a hub, and for a port that is not on USB."""
        place, usb = topology_path(seen.sysfs_path), usb_identity(seen.properties)
        if place is None or usb is None:
            return None
        if seen.kind is PortKind.SERIAL:
            path, port = self._own_path(place, seen.sysfs_path), seen.node
        elif seen.properties.get("TYPE", "").startswith(_HUB):
            return None
        else:
            path, port = place, USB_PORT_PREFIX + place
        return PortEvent(
            change=PortChange.ADDED, kind=seen.kind, path=path, port=port, usb=usb, properties=dict(seen.properties)
        )

    def _own_path(self, path: str, sysfs_path: str) -> str:
        """Tell several ttys of one USB device apart: the first keeps the device's path, others add their interface."""
        taken = {
            event.path for known, event in self._known.items() if known != sysfs_path and event.kind is PortKind.SERIAL
        }
        interface = _INTERFACE.search(sysfs_path)
        return path if path not in taken or interface is None else f"{path}:{interface[1]}"


def _is_same(known: PortEvent, event: PortEvent) -> bool:
    """Tell whether two events are about one device, plugged in once.

    Most properties differ between an event and a listing (``ACTION``, ``SEQNUM`` ..) and mean nothing. When udev first saw the
    device stays with it and is new after a re-plug, though nothing else may be.
    """
    first_seen = [each.properties.get("USEC_INITIALIZED") for each in (known, event)]
    return replace(known, properties=event.properties) == event and (
        None in first_seen or first_seen[0] == first_seen[1]
    )


def _removed(known: PortEvent) -> PortEvent:
    return replace(known, change=PortChange.REMOVED)
