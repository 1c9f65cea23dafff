"""Looking for what keeps programmers from working, without asking the daemon to do anything."""

from pathlib import Path

from ispctl.doctor.finding import Finding, Level, show_findings
from ispctl.doctor.hubs import examine_hubs
from ispctl.doctor.machine import Machine
from ispctl.doctor.ports import examine_lost_ports, examine_nodes, examine_rules
from ispctl.doctor.programs import examine_holders, examine_kernel_log, examine_programs
from ispctl.doctor.service import ask_daemon
from ispctl.doctor.stlinks import examine_stlinks
from ispctl.doctor.tools import examine_libusb, examine_tools
from ispctl.doctor.usb import known_devices, usb_devices

__all__ = ["Finding", "Level", "Machine", "examine", "show_findings"]


def examine(machine: Machine, socket: Path) -> list[Finding]:
    """Return all findings, in the order to read them."""
    answer = ask_daemon(machine, socket)
    devices = usb_devices(machine)
    known = known_devices(machine, devices, [str(one["path"]) for one in answer.programmers])
    return [
        *answer.findings,
        *examine_rules(machine, known),
        *examine_libusb(machine, known),
        *examine_nodes(machine, known),
        *examine_lost_ports(devices),
        *examine_programs(machine),
        *examine_holders(machine, known),
        *examine_kernel_log(machine),
        *examine_stlinks(devices, answer.programmers),
        *examine_hubs(devices, known),
        *examine_tools(machine),
    ]
