"""What is at a place of the USB tree right now, as the kernel tells it in sysfs. Nothing is opened or sent.

Reading a device's texts waits for whoever has it locked in the kernel (drivers/usb/core/sysfs.c, ``usb_string_attr``): a hub that
resets it, a driver that is being bound.
"""

from pathlib import Path

from ispd.transport.contract import UsbDeviceAt, UsbIdentity

__all__ = ["device_at"]

_DEVICES = Path("/sys/bus/usb/devices")


_LOOKS = 3
"""How often a look is begun again because the device was replaced meanwhile; a re-plug takes far longer than a look."""


def device_at(path: str, devices: Path = _DEVICES) -> UsbDeviceAt | None:
    """Return the device at ``path`` (``1-1.4``), None where there is none or it just leaves.

    What is returned is of one device: its address, which no other gets until it left, is the same before and after.
    """
    place = devices / path
    if place.name != path:
        return None
    try:
        for _ in range(_LOOKS):
            found = _look(place)
            if found.address == int(_read(place, "devnum")):
                return found
    except (OSError, ValueError):
        return None
    return None


def _look(place: Path) -> UsbDeviceAt:
    return UsbDeviceAt(
        path=place.name,
        bus=int(_read(place, "busnum")),
        address=int(_read(place, "devnum")),
        usb=UsbIdentity(
            vendor_id=int(_read(place, "idVendor"), 16),
            product_id=int(_read(place, "idProduct"), 16),
            manufacturer=_text(place, "manufacturer"),
            product=_text(place, "product"),
            serial=_text(place, "serial"),
        ),
        version=int(_read(place, "bcdDevice"), 16),
        tty=_tty(place),
    )


def _read(place: Path, name: str) -> str:
    return (place / name).read_text(encoding="utf-8", errors="replace").strip()


def _text(place: Path, name: str) -> str:
    """Return a text that a device may lack."""
    return _read(place, name) if (place / name).exists() else ""


def _tty(place: Path) -> str | None:
    """Return the node of the first serial port among the device's interfaces."""
    found = sorted(place.glob(f"{place.name}:*/tty/tty*")) + sorted(place.glob(f"{place.name}:*/ttyUSB*"))
    return f"/dev/{found[0].name}" if found else None
