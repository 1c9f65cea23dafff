"""Hotplug logic without udev."""

from ispd.transport.contract import PortChange, PortEvent
from ispd.transport.port_table import PortTable, SeenPort, topology_path, usb_identity

ROOT = "/devices/pci0000:00/0000:00:14.0/usb1/1-1"
UNO = {"ID_VENDOR_ID": "2341", "ID_MODEL_ID": "0043", "ID_MODEL": "Uno", "ID_SERIAL_SHORT": "95"}


def seen(
    place: str, node: str = "ttyACM0", interface: str = "1.0", properties: dict[str, str] | None = None
) -> SeenPort:
    path = f"{ROOT}/{place}/{place}:{interface}/tty/{node}"
    return SeenPort(sysfs_path=path, port=f"/dev/{node}", properties=UNO if properties is None else properties)


def shown(events: list[PortEvent]) -> list[tuple[str, str, str]]:
    return [(event.change.value, event.path, event.port) for event in events]


def test_the_place_in_the_usb_tree_comes_from_the_sysfs_path() -> None:
    assert topology_path(f"{ROOT}/1-1.4/1-1.4.2/1-1.4.2:1.0/tty/ttyACM0") == "1-1.4.2"
    assert topology_path("/devices/pci0000:00/usb3/3-2/3-2:1.0/ttyUSB0/tty/ttyUSB0") == "3-2"
    assert topology_path("/devices/platform/serial8250/tty/ttyS0") is None


def test_identity_needs_both_ids() -> None:
    identity = usb_identity(UNO)
    assert identity is not None
    assert (str(identity), identity.product, identity.serial) == ("2341:0043", "Uno", "95")
    assert usb_identity({"ID_VENDOR_ID": "2341"}) is None
    assert usb_identity({"ID_VENDOR_ID": "2341", "ID_MODEL_ID": "virtual"}) is None


def test_a_port_comes_once_and_goes_though_its_removal_tells_no_serial() -> None:
    table = PortTable()
    port = seen("1-1.4")
    assert shown(table.add(port)) == [("added", "1-1.4", "/dev/ttyACM0")]
    assert table.add(port) == []
    gone = table.remove(port.sysfs_path)
    assert shown(gone) == [("removed", "1-1.4", "/dev/ttyACM0")]
    assert gone[0].usb.serial == "95"
    assert table.remove(port.sysfs_path) == []


def test_ports_without_usb_behind_them_are_not_ours() -> None:
    table = PortTable()
    assert (
        table.add(SeenPort(sysfs_path="/devices/platform/serial8250/tty/ttyS0", port="/dev/ttyS0", properties={})) == []
    )
    assert table.add(seen("1-1.4", properties={})) == []


def test_reconciling_makes_up_for_lost_events() -> None:
    table = PortTable()
    table.add(seen("1-1.1", "ttyACM0"))
    table.add(seen("1-1.2", "ttyACM1"))
    moved = seen("1-1.3", "ttyACM0")
    assert shown(table.reconcile([moved, seen("1-1.2", "ttyACM1")])) == [
        ("removed", "1-1.1", "/dev/ttyACM0"),
        ("added", "1-1.3", "/dev/ttyACM0"),
    ]
    assert table.reconcile([seen("1-1.2", "ttyACM1"), moved]) == []


def test_another_device_at_a_known_path_is_a_removal_and_an_arrival() -> None:
    table = PortTable()
    table.add(seen("1-1.1"))
    other = table.add(seen("1-1.1", properties=UNO | {"ID_SERIAL_SHORT": "96"}))
    assert [(event.change, event.usb.serial) for event in other] == [
        (PortChange.REMOVED, "95"),
        (PortChange.ADDED, "96"),
    ]


def test_two_ports_of_one_device_have_different_paths() -> None:
    table = PortTable()
    first, second = seen("1-1.1", "ttyACM0", "1.0"), seen("1-1.1", "ttyACM1", "1.2")
    assert shown(table.reconcile([second, first])) == [
        ("added", "1-1.1", "/dev/ttyACM0"),
        ("added", "1-1.1:2", "/dev/ttyACM1"),
    ]
    assert shown(table.remove(second.sysfs_path)) == [("removed", "1-1.1:2", "/dev/ttyACM1")]
