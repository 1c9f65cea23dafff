"""The machine's own hardware."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from ispd.transport.contract import BytePort, Hardware, PortEvent, SerialSettings
from ispd.transport.serial import open_serial_port
from ispd.transport.udev import watch_ports

__all__ = ["Machine", "open_machine"]


class Machine:
    """Real serial ports and real hotplug; see :class:`~ispd.transport.contract.Hardware`."""

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a tty for this process alone."""
        return await open_serial_port(settings)

    def hotplug(self) -> AbstractAsyncContextManager[AsyncIterator[PortEvent]]:
        """Watch USB serial ports through udev."""
        return watch_ports()


@asynccontextmanager
async def open_machine() -> AsyncIterator[Hardware]:
    """Give access to the machine's hardware. Opens nothing yet."""
    yield Machine()
