"""Outside programs and libraries: there, and new enough."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ispctl.doctor.finding import Finding, Level
from ispctl.doctor.machine import Machine
from ispctl.doctor.usb import UsbDevice

__all__ = ["TOOLS", "Tool", "examine_libusb", "examine_tools"]

_LIBUSB = (
    "usr/lib/*/libusb-1.0.so.0",
    "usr/lib/libusb-1.0.so.0",
    "usr/lib64/libusb-1.0.so.0",
    "usr/local/lib/libusb-1.0.so.0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program that is of use beside ispd.

    :param asks: arguments with which it tells its version and does nothing else.
    :param calls_itself: what stands before the version, where that is not its name.
    :param needed: oldest version that is good enough, and ``why``.
    :param flawed: versions that are not good though newer, from the first up to but without the second, and why.
    """

    name: str
    purpose: str
    asks: tuple[str, ...]
    needed: tuple[int, ...]
    why: str
    cure: str
    flawed: tuple[tuple[int, ...], tuple[int, ...], str] | None = None
    calls_itself: str = ""

    def version(self, said: str) -> tuple[int, ...] | None:
        """Return the version in what the tool said."""
        name = re.escape(self.calls_itself or self.name)
        match = re.search(rf"{name}(?: version)? v?(\d+(?:\.\d+)+)", said, re.IGNORECASE)
        return tuple(map(int, match[1].split("."))) if match else None

    def objection(self, version: tuple[int, ...]) -> str:
        """Return what speaks against a version; nothing where it is good."""
        if version < self.needed:
            return f"{_dotted(self.needed)} is needed: {self.why}"
        if self.flawed is not None and self.flawed[0] <= version < self.flawed[1]:
            return f"{_dotted(self.flawed[1])} is needed, or one before {_dotted(self.flawed[0])}: {self.flawed[2]}"
        return ""


TOOLS = (
    Tool(
        name="avrdude",
        purpose="for boards with a Caterina bootloader (Pro Micro, Leonardo)",
        asks=("-?",),  # it has no option for the version alone: its usage ends with it
        needed=(7, 1),
        why="older ones read wrongly above 64 KiB through a USBtinyISP; only from 7.3 on it tells identical USBasps apart",
        cure="`apt install avrdude`",
    ),
    Tool(
        name="dfu-programmer",
        purpose="for boards with the Atmel or QMK DFU bootloader",
        asks=("--version",),
        needed=(0, 6, 1),
        why="it is the oldest whose commands and messages are known",
        # its NEWS for 0.8.1
        flawed=((0, 7), (0, 8, 1), "it fails to choose among several boards"),
        cure="`apt install dfu-programmer`; Debian's 0.6.1 is good",
    ),
    Tool(
        name="dfu-util",
        purpose="for STM32 boards",
        asks=("--version",),
        needed=(0, 11),
        why="its messages and exit codes are the ones that are understood, and boards are chosen by their USB path",
        cure="`apt install dfu-util`",
    ),
    Tool(
        name="teensy_loader_cli",
        purpose="for boards with the HalfKay bootloader (Teensy)",
        # no option for the version alone: it tells it, and ends with the file that it does not find, before it looks for a board
        asks=("--mcu=atmega32u4", "-v", "no-such-file.hex"),
        needed=(2, 2),
        why="it is the oldest whose messages are known",
        cure="`apt install teensy-loader-cli`",
        calls_itself="Teensy Loader, Command Line,",
    ),
)


def examine_tools(machine: Machine) -> Iterator[Finding]:
    """Look for each tool and ask it for its version."""
    for tool in TOOLS:
        path = machine.which(tool.name)
        if path is None:
            yield Finding(tool.name, Level.NOTE, f"is not installed; {tool.purpose}", tool.cure)
            continue
        version = tool.version(machine.run([path, *tool.asks]))
        needed = _dotted(tool.needed)
        if version is None:
            message = f"{path} does not tell its version; {needed} is needed: {tool.why}"
            yield Finding(tool.name, Level.NOTE, message, f"does `{tool.name} {' '.join(tool.asks)}` work?")
        elif objection := tool.objection(version):
            yield Finding(tool.name, Level.NOTE, f"{path} is version {_dotted(version)}, {objection}", tool.cure)
        else:
            yield Finding(tool.name, Level.OK, f"{path}, version {_dotted(version)}")


def examine_libusb(machine: Machine, known: list[UsbDevice]) -> Iterator[Finding]:
    """Look for the library that USB programmers are reached through."""
    place = next((found for pattern in _LIBUSB for found in sorted(machine.root.glob(pattern))), None)
    if place is not None:
        yield Finding("libusb", Level.OK, machine.shown(place))
        return
    waiting = [device.title for device in known if not device.ports]
    message = "libusb-1.0 is not installed"
    if waiting:
        message += f": {', '.join(waiting)} can not be used"
    yield Finding("libusb", Level.BAD if waiting else Level.NOTE, message, "`apt install libusb-1.0-0`")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
