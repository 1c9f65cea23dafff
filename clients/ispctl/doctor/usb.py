"""USB devices as sysfs and udev show them, and which of them ispd knows.

The ids of programmers stand in the udev rules that come with ispd. They are read from the rules that are installed, and
from udev's own notes of them, so that there is no second list.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ispctl.doctor.machine import Machine

__all__ = ["Interface", "UsbDevice", "find_rules", "known_devices", "usb_devices"]

RULES = "70-ispd.rules"
_RULE_FOLDERS = ("etc/udev/rules.d", "run/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d")
"""Where udev looks (udev(7))."""

_RULE = re.compile(r'ATTRS\{idVendor\}=="([0-9a-f]{4})", ATTRS\{idProduct\}=="([0-9a-f|]+)"')
_MARK = "ISPD_DEVICE"
"""The property that the rules give to what they know."""

_HUB_CLASS = "09"
_VENDOR_CLASS = "ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface: its class and subclass in four hexadecimal digits, and the kernel driver bound to it, empty where none is."""

    kind: str
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsbDevice:
    """One device.

    :param name: bus and ports, as ``1-1.4``; root hubs are ``usb1``.
    :param usb_id: vendor and product, ``16c0:05dc``.
    :param speed: in Mbit/s: 1.5 low, 12 full, 480 high.
    :param node: where programs reach it.
    :param ports: names of its serial ports, ``ttyACM0``.
    :param notes: udev's properties; None where udev has not seen it.
    """

    name: str
    usb_id: str
    product: str
    speed: float
    kind: str
    protocol: str
    node: Path
    ports: tuple[str, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    notes: Mapping[str, str] | None = field(default=None, hash=False)

    @property
    def is_hub(self) -> bool:
        """True for hubs, root hubs included."""
        return self.kind == _HUB_CLASS

    @property
    def has_own_interface(self) -> bool:
        """True where an interface that no driver of the kernel wants comes first: a debug probe, whatever else it is."""
        first = next(iter(self.interfaces), None)
        return first is not None and first.kind.startswith(_VENDOR_CLASS) and first.driver in ("", "usbfs")

    @property
    def is_used_by_usb(self) -> bool:
        """True where programs reach it as a USB device: it has no serial port, or one that is not what matters about it."""
        return not self.ports or self.has_own_interface

    @property
    def is_marked(self) -> bool:
        """True where the rules have seen it and know it."""
        return self.notes is not None and self.notes.get(_MARK) == "1"

    @property
    def title(self) -> str:
        """What it is, for a person."""
        vendor, product = self.usb_id.upper().split(":")
        return f"{self.product or 'device'} ({vendor}:{product}) at {self.name}"


def usb_devices(machine: Machine) -> list[UsbDevice]:
    """Return all devices, hubs included, by name."""
    folders = sorted((machine.root / "sys/bus/usb/devices").glob("*"))
    return [_device(machine, folder) for folder in folders if (folder / "idVendor").is_file()]


def known_devices(machine: Machine, devices: list[UsbDevice], programmers: list[str]) -> list[UsbDevice]:
    """Return the devices that are programmers or keyboards' bootloaders.

    :param programmers: USB paths of those the daemon names.
    """
    ids = _rule_ids(machine)
    return [
        device
        for device in devices
        if not device.is_hub and (device.is_marked or device.usb_id in ids or device.name in programmers)
    ]


def find_rules(machine: Machine) -> Path | None:
    """Return the installed udev rules of ispd."""
    places = (machine.root / folder / RULES for folder in _RULE_FOLDERS)
    return next((place for place in places if place.is_file()), None)


def _rule_ids(machine: Machine) -> frozenset[str]:
    rules = find_rules(machine)
    if rules is None:
        return frozenset()
    matches = _RULE.findall(machine.text(str(rules.relative_to(machine.root))))
    return frozenset(f"{vendor}:{product}" for vendor, products in matches for product in products.split("|"))


def _device(machine: Machine, folder: Path) -> UsbDevice:
    where = str(folder.relative_to(machine.root))

    def text(name: str) -> str:
        return machine.text(where, name)

    bus, number = text("busnum"), text("devnum")
    return UsbDevice(
        name=folder.name,
        usb_id=f"{text('idVendor')}:{text('idProduct')}".lower(),
        product=text("product"),
        speed=_speed(text("speed")),
        kind=text("bDeviceClass"),
        protocol=text("bDeviceProtocol"),
        node=machine.root / "dev/bus/usb" / bus.zfill(3) / number.zfill(3),
        # CDC-ACM has tty/ttyACM0 below its interface, USB serial adapters have ttyUSB0
        ports=tuple(sorted(port.name for pattern in ("tty/tty*", "ttyUSB*") for port in folder.glob(f"*:*/{pattern}"))),
        interfaces=tuple(
            Interface(
                kind=machine.text(where, one.name, "bInterfaceClass")
                + machine.text(where, one.name, "bInterfaceSubClass"),
                driver=_driver(one),
            )
            for one in sorted(folder.glob("*:*"))
        ),
        notes=machine.udev_properties(text("dev")),
    )


def _speed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _driver(interface: Path) -> str:
    try:
        return (interface / "driver").readlink().name
    except OSError:
        return ""
