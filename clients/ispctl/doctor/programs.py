"""Other programs that meddle with programmers, and those that hold a port right now."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.machine import Machine, Process
from ispctl.doctor.usb import UsbDevice

__all__ = ["examine_holders", "examine_kernel_log", "examine_programs"]

_IGNORE = "ID_MM_DEVICE_IGNORE"
"""The property that keeps ModemManager away (ModemManager's documentation, udev)."""

_CURES = {
    "ModemManager": "it writes into every new serial port: `systemctl disable --now ModemManager`, or a udev rule with"
    f' ENV{{{_IGNORE}}}="1"',
    "brltty": "it takes CH340 and CP2102 adapters for Braille displays: `systemctl mask --now brltty-udev.service`",
    "fwupd": "it opens bootloaders it knows: `systemctl mask --now fwupd.service` while flashing",
}
_DEBUGGERS = (
    "openocd",
    "st-util",
    "st-flash",
    "st-trace",
    "stlink-server",
    "ST-LINK_gdbserv",  # as the kernel cuts it
    "STM32_Programme",
    "pyocd",
    "pyocd-gdbserver",
    "probe-rs",
    "cargo-embed",
    "cargo-flash",
    "blackmagic",
)
"""Programs that keep an ST-Link for as long as they run; names as in /proc/PID/comm, 15 characters at most."""
_MARK_IT = "install ispd's udev rules, or `udevadm trigger` where they are; for other adapters a rule of your own"

_TAKEN = re.compile(r"usbfs: interface \d+ claimed by (\S+) while '([^']{1,16})' sets config")
"""The kernel's words when a program takes a device from its driver (drivers/usb/core/devio.c)."""


def examine_programs(machine: Machine) -> Iterator[Finding]:
    """Name the meddlers that run. ModemManager does no harm where udev told it to leave every port alone."""
    running = {process.name: process.pid for process in machine.processes()}
    for name, cure in _CURES.items():
        if name not in running:
            continue
        open_to_it = _without_ignore(machine) if name == "ModemManager" else []
        if name == "ModemManager" and machine.nodes() and not open_to_it:
            yield Finding(name, Level.OK, f"runs (process {running[name]}), and leaves the ports alone")
            continue
        yield Finding(name, Level.NOTE, f"is running (process {running[name]})", cure)
        for node in open_to_it:
            message = f"ModemManager is free to write into it: udev has no {_IGNORE} for it"
            yield Finding("modem-probing", Level.NOTE, message, _MARK_IT, machine.shown(node))


def _without_ignore(machine: Machine) -> list[Path]:
    def is_ignored(node: Path) -> bool:
        notes = machine.udev_properties(machine.text("sys/class/tty", node.name, "dev"))
        return notes is not None and notes.get(_IGNORE) == "1"

    return [node for node in machine.nodes() if not is_ignored(node)]


def examine_holders(machine: Machine, known: list[UsbDevice]) -> Iterator[Finding]:
    """Name who has a programmer open: a serial port is lost to us then, a USB device only where it was claimed."""
    places = {os.path.realpath(node): (node, Level.BAD) for node in machine.nodes()}
    for device in known:
        for node in machine.nodes():
            if node.name in device.ports and device.is_used_by_usb:
                places[os.path.realpath(node)] = (node, Level.NOTE)
        is_claimed = any(interface.driver == "usbfs" for interface in device.interfaces)
        places[os.path.realpath(device.node)] = (device.node, Level.BAD if is_claimed else Level.NOTE)
    hidden = []
    for process in machine.processes():
        if process.is_daemon:
            continue
        opened = process.open_files()
        if opened is None:
            hidden.append(process.name)
            continue
        for place in sorted(places.keys() & opened):
            node, level = places[place]
            message = f"is held open by {process.name} (process {process.pid})"
            yield Finding("holder", level, message, _cure(process), machine.shown(node))
    if places and (meddlers := sorted({*_CURES, *_DEBUGGERS} & set(hidden))):
        message = f"whether {' or '.join(meddlers)} holds a port only root can see"
        yield Finding("holder", Level.NOTE, message, "`sudo ispctl doctor`")


def _cure(process: Process) -> str:
    end = f"`kill {process.pid}`"
    if process.name in _DEBUGGERS:
        return f"it debugs a chip through it: end it, or its IDE's session ({end}), then re-plug the programmer"
    return _CURES.get(process.name, f"end that program: {end}")


def examine_kernel_log(machine: Machine) -> Iterator[Finding]:
    """Name programs that took a device from its driver, where the kernel's log may be read."""
    found = dict.fromkeys(_TAKEN.findall(machine.run(["dmesg"])) if machine.which("dmesg") else ())
    for driver, name in found:
        if name != "ispd":
            message = f"took a device from the driver {driver} since the machine was started"
            yield Finding(
                "taken", Level.NOTE, f"{name} {message}", _CURES.get(name, "see `dmesg`; end that program"), name
            )
