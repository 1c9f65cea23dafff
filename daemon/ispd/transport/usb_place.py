"""What is at a place of the USB tree right now, as the kernel tells it in sysfs. Nothing is opened or sent."""

from pathlib import Path

from ispd.transport.contract import UsbDeviceAt, UsbIdentity

__all__ = ["device_at"]

_DEVICES = Path("/sys/bus/usb/devices")


def device_at(path: str, devices: Path = _DEVICES) -> UsbDeviceAt | None:
    """Return the device at ``path`` (``1-1.4``), None where there is none or it just leaves."""
    place = devices / path
    try:
        return UsbDeviceAt(
            path=path,
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
            tty=_tty(place, path),
        )
    except (OSError, ValueError):
        return None


def _read(place: Path, name: str) -> str:
    return (place / name).read_text(encoding="utf-8", errors="replace").strip()


def _text(place: Path, name: str) -> str:
    """Return a text that a device may lack."""
    return _read(place, name) if (place / name).exists() else ""


def _tty(place: Path, path: str) -> str | None:
    """Return the node of the first serial port among the device's interfaces."""
    found = sorted(place.glob(f"{path}:*/tty/tty*")) + sorted(place.glob(f"{path}:*/ttyUSB*"))
    return f"/dev/{found[0].name}" if found else None
