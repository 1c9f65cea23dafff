"""Ports and devices: udev's rules, who may use them, and serial ports that should be there and are not."""

import os
from collections.abc import Iterator
from pathlib import Path

from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.machine import Account, Machine, group_name, user_name
from ispctl.doctor.usb import UsbDevice, find_rules

__all__ = ["examine_lost_ports", "examine_nodes", "examine_rules"]

_INSTALL = (
    "install them: `scripts/install`, or copy systemd/ispd.rules to /etc/udev/rules.d/70-ispd.rules;"
    " then `udevadm control --reload; udevadm trigger`"
)
_AGAIN = "plug it in again, or `udevadm control --reload; udevadm trigger`"
_SERIAL = "0202"  # communication class, abstract control model (USB CDC 1.2, 4.2 and 4.3)
_BRLTTY_NOTE = "BRLTTY_BRAILLE_DRIVER"
"""Property that brltty's own rules give to devices they take for a Braille display (Debian: 85-brltty.rules)."""


def examine_rules(machine: Machine, known: list[UsbDevice]) -> Iterator[Finding]:
    """Look for the udev rules, and for devices that came before them."""
    rules = find_rules(machine)
    if rules is None:
        message = "the udev rules of ispd are not installed: devices stay closed to it, and ModemManager finds them"
        yield Finding("rules", Level.NOTE, message, _INSTALL)
        return
    yield Finding("rules", Level.OK, machine.shown(rules))
    for device in known:
        if device.notes is not None and not device.is_marked:
            yield Finding("rules", Level.NOTE, f"{device.title} came before the rules", _AGAIN, device.name)


def examine_nodes(machine: Machine, known: list[UsbDevice]) -> Iterator[Finding]:
    """Tell whether the daemon may use each serial port and each USB programmer."""
    account = machine.daemon_account()
    nodes = machine.nodes()
    usb = [device for device in known if device.is_used_by_usb]
    if not nodes and not usb:
        yield Finding("ports", Level.NOTE, "no programmer is connected", "plug one in; `dmesg` says what came")
    by_port = {port: device for device in known for port in device.ports}
    for node in nodes:
        yield _node(machine, account, "port", node, by_port.get(node.name))
    for device in usb:
        yield _node(machine, account, "usb", device.node, device)


def _node(machine: Machine, account: Account, check: str, node: Path, device: UsbDevice | None) -> Finding:
    shown = machine.shown(node)
    what = f"{device.title}: " if device is not None else ""
    try:
        facts = node.stat()
    except OSError as error:
        # it went while we looked, or a container without device nodes
        return Finding(check, Level.NOTE, f"{what}{error.strerror}", _AGAIN, shown)
    group, user = group_name(facts.st_gid), user_name(account.uid)
    # modes do not show what udev's uaccess gives to whoever sits at the machine; the kernel knows, for this process
    if account.may_use(facts) or (account.uid == os.geteuid() and os.access(node, os.R_OK | os.W_OK)):
        return Finding(check, Level.OK, f"{what}{user} may use it, group {group}", subject=shown)
    cure = _INSTALL if device is not None and find_rules(machine) is None else ""
    if facts.st_gid != 0:
        join = f"`usermod -aG {group} {user}`; then start the daemon again, from a new login where it is your own"
        cure = f"{cure}; or {join}" if cure else join
    # a port of a device that nobody knows may be anything; a programmer that is closed to the daemon is lost to it
    is_needed = device is not None and (check == "usb" or not device.is_used_by_usb)
    level = Level.BAD if is_needed else Level.NOTE
    return Finding(check, level, f"{what}{user} may not use it, group {group}", cure or _AGAIN, shown)


def examine_lost_ports(devices: list[UsbDevice]) -> Iterator[Finding]:
    """Find serial devices without a port: it was taken away just after it came, or never came."""
    for device in devices:
        if device.is_hub or device.ports:
            continue
        if device.notes is not None and _BRLTTY_NOTE in device.notes:
            message = f"{device.title} has lost its serial port to brltty, which takes it for a Braille display"
            cure = "`systemctl mask --now brltty-udev.service brltty.service`, or `apt remove brltty`; then plug it in again"
            yield Finding("lost-port", Level.BAD, message, cure, device.name)
        elif any(one.kind == _SERIAL and not one.driver for one in device.interfaces) and not device.has_own_interface:
            message = f"{device.title} has a serial interface without a driver"
            yield Finding("lost-port", Level.BAD, message, "`modprobe cdc_acm`, then plug it in again", device.name)
