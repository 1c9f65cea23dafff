"""Hotplug logic without udev."""

from dataclasses import replace

from ispd.transport.contract import PortChange, PortEvent, PortKind, UsbIdentity
from ispd.transport.port_table import PortTable, SeenPort, topology_path, usb_identity

ROOT = "/devices/pci0000:00/0000:00:14.0/usb1/1-1"
UNO = {"ID_VENDOR_ID": "2341", "ID_MODEL_ID": "0043", "ID_MODEL": "Uno", "ID_SERIAL_SHORT": "95"}


def seen(
    place: str, node: str = "ttyACM0", interface: str = "1.0", properties: dict[str, str] | None = None
) -> SeenPort:
    path = f"{ROOT}/{place}/{place}:{interface}/tty/{node}"
    return SeenPort(
        kind=PortKind.SERIAL,
        sysfs_path=path,
        node=f"/dev/{node}",
        properties=UNO if properties is None else properties,
    )


def whole(place: str, properties: dict[str, str] | None = None) -> SeenPort:
    return SeenPort(
        kind=PortKind.USB,
        sysfs_path=f"{ROOT}/{place}",
        node="/dev/bus/usb/001/005",
        properties=UNO if properties is None else properties,
    )


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
    built_in = replace(seen("1-1.4"), sysfs_path="/devices/platform/serial8250/tty/ttyS0")
    assert table.add(built_in) == []
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


def test_a_listing_knows_nothing_of_what_was_told_while_it_was_taken() -> None:
    table = PortTable()
    stays, goes, comes = seen("1-1.1", "ttyACM0"), seen("1-1.2", "ttyACM1"), seen("1-1.3", "ttyACM2")
    table.reconcile([stays, goes])
    table.remove(goes.sysfs_path)
    table.add(comes)
    told = {goes.sysfs_path, comes.sysfs_path}
    assert table.reconcile([stays, goes], told=told) == []
    assert shown(table.reconcile([stays, goes])) == [
        ("removed", "1-1.3", "/dev/ttyACM2"),
        ("added", "1-1.2", "/dev/ttyACM1"),
    ]


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


def test_a_board_with_a_tty_is_one_place_with_two_kinds_of_port() -> None:
    table = PortTable()
    tty, board = seen("1-1.4"), whole("1-1.4")
    events = table.reconcile([tty, board])
    assert [(event.kind.value, event.path, event.port) for event in events] == [
        ("usb", "1-1.4", "usb:1-1.4"),
        ("serial", "1-1.4", "/dev/ttyACM0"),
    ]
    assert [event.kind for event in table.remove(tty.sysfs_path)] == [PortKind.SERIAL]
    assert shown(table.add(tty)) == [("added", "1-1.4", "/dev/ttyACM0")], "the USB device does not take the tty's path"
    assert [event.kind for event in table.remove(board.sysfs_path)] == [PortKind.USB]


def test_hubs_and_root_hubs_are_no_ports() -> None:
    table = PortTable()
    hub = {"ID_VENDOR_ID": "05e3", "ID_MODEL_ID": "0608"}
    assert table.add(whole("1-1.4", hub | {"TYPE": "9/0/1"})) == []
    root = replace(whole("1-1", hub), sysfs_path="/devices/pci0000:00/0000:00:14.0/usb1")
    assert table.add(root) == []
    assert shown(table.add(whole("1-1.4", UNO | {"TYPE": "0/0/0"}))) == [("added", "1-1.4", "usb:1-1.4")]


def test_texts_are_what_the_device_says_and_not_what_udev_makes_of_them() -> None:
    clone = {
        "ID_VENDOR_ID": "16c0",
        "ID_MODEL_ID": "05dc",
        "ID_VENDOR": "www.fischl.de_\u00b5",
        "ID_VENDOR_ENC": r"www.fischl.de\x20\xc2\xb5\x5c",
        "ID_MODEL": "USBasp",
    }
    expected = UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de \u00b5\\", product="USBasp")
    assert usb_identity(clone) == expected
    nameless = {
        "ID_VENDOR_ID": "1781",
        "ID_MODEL_ID": "0c9f",
        "ID_VENDOR": "1781",
        "ID_VENDOR_ENC": "1781",
        "ID_MODEL": "0c9f",
    }
    assert usb_identity(nameless) == UsbIdentity(vendor_id=0x1781, product_id=0x0C9F)


def test_an_event_and_a_listing_of_the_same_device_are_one_and_a_replug_is_not() -> None:
    table = PortTable()
    told = UNO | {"ACTION": "add", "SEQNUM": "4711", "USEC_INITIALIZED": "1000"}
    assert len(table.add(whole("1-1.4", told))) == 1
    assert table.add(whole("1-1.4", told | {"ACTION": "bind", "SEQNUM": "4712", "DRIVER": "usb"})) == []
    assert table.reconcile([whole("1-1.4", UNO | {"USEC_INITIALIZED": "1000", "TAGS": ":uaccess:"})]) == []
    replugged = table.reconcile([whole("1-1.4", UNO | {"USEC_INITIALIZED": "2000"})])
    assert [event.change for event in replugged] == [PortChange.REMOVED, PortChange.ADDED]
