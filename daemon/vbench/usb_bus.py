"""Emulated USB programmers as the machine's hardware, reached by the product's own USB transport."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import BytePort, PortEvent, SerialSettings, UsbLink
from ispd.transport.usb import UsbBus
from vbench.pyusb_backend import PyusbBackend

__all__ = ["UsbHardware"]


class UsbHardware:
    """A machine with USB devices and nothing else, in real time. What is plugged in is the backend's affair."""

    def __init__(self, backend: PyusbBackend) -> None:
        self._bus = UsbBus(backend)

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Raise ``TransportError``: there are no serial ports."""
        raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {settings.port}")

    async def open_usb(self, port: str) -> UsbLink:
        """Open a device by its place in the tree, through pyusb and a worker thread."""
        return await self._bus.open(port)

    @asynccontextmanager
    async def hotplug(
        self,
        on_turn: Callable[[], object] = lambda: None,  # noqa: ARG002 - nothing comes or goes here
    ) -> AsyncIterator[AsyncIterator[PortEvent]]:
        """Watch nothing: ports are opened by name here."""
        yield _no_events()


async def _no_events() -> AsyncIterator[PortEvent]:
    await anyio.sleep_forever()
    yield  # type: ignore[misc]  # never reached: it makes this a generator
