"""The machine's own hardware."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio import to_thread

from ispd.transport.contract import (
    BytePort,
    Hardware,
    PortEvent,
    SerialSettings,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbLink,
)
from ispd.transport.process import run_tool
from ispd.transport.serial import open_serial_port
from ispd.transport.udev import watch_ports
from ispd.transport.usb import UsbBus
from ispd.transport.usb_place import device_at

__all__ = ["Machine", "open_machine"]


class Machine:
    """Real ports and real hotplug; see :class:`~ispd.transport.contract.Hardware`."""

    def __init__(self) -> None:
        self._usb = UsbBus()

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a tty for this process alone."""
        return await open_serial_port(settings)

    async def open_usb(self, port: str) -> UsbLink:
        """Open the USB device at a place in the USB tree for this process alone."""
        return await self._usb.open(port)

    async def device_at(self, path: str) -> UsbDeviceAt | None:
        """Look into sysfs, in a thread: the kernel holds back who reads a device's texts while it resets or configures it."""
        return await to_thread.run_sync(device_at, path, abandon_on_cancel=True)

    async def run_tool(self, run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None) -> ToolOutcome:
        """Run a program of this machine."""
        return await run_tool(run, on_output)

    def hotplug(
        self, on_turn: Callable[[], object] = lambda: None
    ) -> AbstractAsyncContextManager[AsyncIterator[PortEvent]]:
        """Watch serial ports and USB devices through udev."""
        return watch_ports(on_turn)


@asynccontextmanager
async def open_machine() -> AsyncIterator[Hardware]:
    """Give access to the machine's hardware. Opens nothing yet."""
    yield Machine()
