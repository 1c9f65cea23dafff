"""What is at a place of the USB tree, from a made-up sysfs with the kernel's own spelling."""

from pathlib import Path

import pytest

from ispd.transport.contract import UsbDeviceAt, UsbIdentity
from ispd.transport.usb_place import device_at

CATERINA = {
    "busnum": "1\n",
    "devnum": "17\n",
    "idVendor": "1b4f\n",
    "idProduct": "9205\n",
    "bcdDevice": "0001\n",
    "manufacturer": "SparkFun\n",
    "product": "Pro Micro 5V\n",
}


def plug(root: Path, path: str, attributes: dict[str, str], *nodes: str) -> Path:
    """Make a device's folder, and folders below it."""
    place = root / path
    for node in nodes:
        (place / node).mkdir(parents=True)
    place.mkdir(exist_ok=True)
    for name, content in attributes.items():
        (place / name).write_bytes(content.encode("latin-1"))
    return place


def test_device_with_a_tty(tmp_path: Path) -> None:
    """All of it, numbers in the kernel's bases; the device behind it on the same hub does not interfere."""
    plug(tmp_path, "1-1.4", CATERINA, "1-1.4:1.0/tty/ttyACM3", "1-1.4:1.1")
    plug(tmp_path, "1-1.4.2", {**CATERINA, "devnum": "18"}, "1-1.4.2:1.0/tty/ttyACM0")
    assert device_at("1-1.4", tmp_path) == UsbDeviceAt(
        path="1-1.4",
        bus=1,
        address=17,
        usb=UsbIdentity(vendor_id=0x1B4F, product_id=0x9205, manufacturer="SparkFun", product="Pro Micro 5V"),
        version=0x0001,
        tty="/dev/ttyACM3",
    )


def test_usb_serial_and_garbage(tmp_path: Path) -> None:
    """A converter's tty lies elsewhere; texts that are no UTF-8 do not hide a device."""
    plug(tmp_path, "2-1", {**CATERINA, "bcdDevice": "0936", "serial": "LLM \xff"}, "2-1:1.0/ttyUSB1/tty/ttyUSB1")
    found = device_at("2-1", tmp_path)
    assert found is not None
    assert (found.tty, found.version, found.usb.serial) == ("/dev/ttyUSB1", 0x0936, "LLM �")


@pytest.mark.parametrize("path", ["1-1.3", "", "1-1.4:1.0", "../1-1.4/..", "./1-1.4"])
def test_nothing_is_there(tmp_path: Path, path: str) -> None:
    """An empty port, an interface and nonsense are no devices."""
    plug(tmp_path, "1-1.4", CATERINA, "1-1.4:1.0")
    assert device_at(path, tmp_path) is None


@pytest.mark.parametrize("lost", ["busnum", "devnum", "idProduct", "bcdDevice"])
def test_device_that_is_leaving(tmp_path: Path, lost: str) -> None:
    """What the kernel has half taken down, or has not finished putting up, is not there."""
    place = plug(tmp_path, "1-1.4", CATERINA)
    (place / lost).unlink()
    assert device_at("1-1.4", tmp_path) is None
    (place / lost).write_text("")
    assert device_at("1-1.4", tmp_path) is None


def test_change_during_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is replaced while it is looked at is told as the one that is there now, never as a mixture."""
    place = plug(tmp_path, "1-1.4", CATERINA)
    read_text, looks = Path.read_text, 0

    def replaced(self: Path, *arguments: str | None, **options: str | None) -> str:
        nonlocal looks
        content = read_text(self, *arguments, **options)
        if self.name == "idVendor":
            looks += 1
            if looks == 1:
                (place / "devnum").write_text("18")
                (place / "idProduct").write_text("9206")
        return content

    monkeypatch.setattr(Path, "read_text", replaced)
    found = device_at("1-1.4", tmp_path)
    assert found is not None
    assert (found.address, found.usb.product_id) == (18, 0x9206)
