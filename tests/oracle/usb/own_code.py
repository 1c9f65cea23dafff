"""A process that brings a firmware through a bootloader on the bed by the daemon's own code and USB transport.

Arguments: place, bootloader, part, bytes of the firmware. Tells what became of it as one JSON document.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain.contract import ChainWork
from ispd.chain.registry import load_tools, tool_for
from ispd.errors import IspdError
from ispd.model.image import Image
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, ToolOutcome, ToolRun, UsbDeviceAt, UsbLink
from ispd.transport.usb import UsbBus
from ispd.transport.usb_place import device_at
from vbench.firmware_image import application_image

__all__: list[str] = []


class Desk:
    """See :class:`~ispd.chain.contract.Desk`."""

    def __init__(self, path: str) -> None:
        self.clock = SystemClock()
        self.done_bytes = 0
        self._path = path
        self._bus = UsbBus()

    async def here(self) -> UsbDeviceAt:
        """Look."""
        found = device_at(self._path, Path(os.environ["UMOCKDEV_DIR"]) / "sys/bus/usb/devices")
        assert found is not None
        return found

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Refuse: this is own code."""
        raise AssertionError(run, on_text)

    async def open_usb(self) -> UsbLink:
        """Open the device through libusb."""
        return await self._bus.open(f"usb:{self._path}")

    async def open_serial(self, baud: int) -> BytePort:
        """Refuse: there is no tty."""
        raise AssertionError(baud)

    def advance(self, done_bytes: int) -> None:
        """Count."""
        self.done_bytes += done_bytes


async def main() -> None:
    """Write and start."""
    place, name, part_id, size = sys.argv[1:]
    parts = load_parts()
    part, bootloader = parts.avr(part_id), load_bootloaders(parts).get(name)
    firmware = application_image(part, int(size), seed=3, usb="FEED:1234")
    work, desk = ChainWork(part=part, bootloader=bootloader, firmware=firmware), Desk(place)
    tool = tool_for(bootloader.family, load_tools())
    assert tool is not None
    try:
        found = await tool.write(work, desk)
        await tool.start(work, desk)
    except IspdError as error:
        print(json.dumps({"error": error.code, "told": error.message}))
        return
    is_same = None if found is None else Image.of(found) == firmware
    print(json.dumps({"read_back": is_same, "done_bytes": desk.done_bytes}))


if __name__ == "__main__":
    anyio.run(main)
