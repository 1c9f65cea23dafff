"""The doctor on ST-Links: a probe with a serial port beside it, debuggers that hold one, and those that are no good."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.fake_station import served
from tests.unit.ispctl.fake_machine import FakeMachine

from ispctl.doctor import Finding, Level
from ispctl.doctor.stlinks import examine_stlinks

V2, NUCLEO = "0483:3748", "0483:374b"


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root")


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "s"):
        yield tmp_path / "s"


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.check, one.subject) for one in findings if one.is_bad]


def nucleo(fake: FakeMachine, *, mode: int = 0o666, tty_mode: int = 0o666, driver: str = "usbfs") -> tuple[Path, Path]:
    """Plug in a Nucleo; return the nodes of its ST-Link and of its serial port."""
    tty = fake.node("ttyACM0", tty_mode)
    node = fake.usb("1-1", NUCLEO, mode=mode, interface=("ff", "ff", driver))
    serial = "sys/bus/usb/devices/1-1/1-1:1.2"
    fake.file(f"{serial}/bInterfaceClass", "02\n")
    fake.file(f"{serial}/bInterfaceSubClass", "02\n")
    (fake.root / serial / "driver").symlink_to("../../../bus/usb/drivers/cdc_acm")
    (fake.root / serial / "tty/ttyACM0").mkdir(parents=True)
    return node, tty


def test_of_a_nucleo_the_debug_probe_matters_and_not_its_serial_port(fake: FakeMachine, socket: Path) -> None:
    node, tty = nucleo(fake, tty_mode=0o600)
    fake.process(11, "minicom", tty)
    assert bad(fake.examine(socket)) == []
    node.chmod(0o600)
    assert bad(fake.examine(socket)) == [("usb", "/dev/bus/usb/001/001")]


def test_a_nucleos_serial_interface_without_a_driver_is_nobodys_loss(fake: FakeMachine, socket: Path) -> None:
    fake.usb("1-1", NUCLEO, interface=("ff", "ff", ""))
    fake.file("sys/bus/usb/devices/1-1/1-1:1.2/bInterfaceClass", "02\n")
    fake.file("sys/bus/usb/devices/1-1/1-1:1.2/bInterfaceSubClass", "02\n")
    assert bad(fake.examine(socket)) == []


@pytest.mark.parametrize("name", ["openocd", "st-util", "stlink-server", "pyocd", "probe-rs", "ST-LINK_gdbserv"])
def test_a_debugger_that_holds_a_probe_is_named(fake: FakeMachine, socket: Path, name: str) -> None:
    path = fake.usb("1-2", V2, interface=("ff", "ff", "usbfs"))
    fake.process(11, name, path)
    [holder] = [one for one in fake.examine(socket) if one.check == "holder"]
    assert (holder.level, f"{name} (process 11)" in holder.message) == (Level.BAD, True)
    assert "debugs a chip" in holder.cure
    assert "kill 11" in holder.cure


@pytest.mark.parametrize(("usb_id", "words"), [("0483:3744", "V2, V2-1 or V3"), ("0483:374d", "plug it in again")])
def test_what_cannot_be_used_is_named_with_its_cure(fake: FakeMachine, socket: Path, usb_id: str, words: str) -> None:
    fake.usb("1-3", usb_id, interface=("08", "06", "usb-storage"))
    [found] = [one for one in fake.examine(socket) if one.check == "stlink"]
    assert (found.is_bad, found.subject, words in found.cure) == (True, "1-3", True)


@pytest.mark.parametrize(
    ("firmware", "words"),
    [
        ("V2J12S0", "clock or measure"),
        ("V2J17S4", "cannot set SWD's clock"),
        ("V2J21M5", "cannot set SWD's clock"),
        ("V2J22S0", ""),
        ("V2J37S7", ""),
        ("V3J6M3", ""),
        (None, ""),
    ],
)
def test_old_firmware_is_named_with_what_it_lacks(firmware: str | None, words: str) -> None:
    found = list(examine_stlinks([], [{"kind": "stlink", "firmware": firmware, "path": "1-4", "port": "usb:1-4"}]))
    assert [(words in one.message, one.level, one.subject) for one in found] == (
        [(True, Level.NOTE, "1-4")] if words else []
    )
    assert list(examine_stlinks([], [{"kind": "usbasp", "firmware": firmware, "path": "1-4"}])) == []
