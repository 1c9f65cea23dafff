"""Emulated USB programmers as the machine's hardware, reached by the product's own USB transport."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import anyio

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
    TURN_S,
    BytePort,
    PortEvent,
    SerialSettings,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbLink,
)
from ispd.transport.usb import UsbBus
from vbench.pyusb_backend import PyusbBackend

__all__ = ["UsbHardware"]


class UsbHardware:
    """A machine with USB devices and nothing else, in real time. What is plugged in is the backend's affair."""

    def __init__(self, backend: PyusbBackend) -> None:
        self._backend = backend
        self._bus = UsbBus(backend)

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Raise ``TransportError``: there are no serial ports."""
        raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {settings.port}")

    async def open_usb(self, port: str) -> UsbLink:
        """Open a device by its place in the tree, through pyusb and a worker thread."""
        return await self._bus.open(port)

    async def device_at(self, path: str) -> UsbDeviceAt | None:  # noqa: ARG002 - boards have no port here
        """Return None: only programmers are on this machine."""
        return None

    async def run_tool(
        self,
        run: ToolRun,
        on_output: Callable[[bytes], object] = lambda _: None,  # noqa: ARG002 - what is missing prints nothing
    ) -> ToolOutcome:
        """Raise ``TransportError`` (tool-missing): there are no programs."""
        raise TransportError(ErrorCode.TOOL_MISSING, f"there is no program {run.words[0]}")

    @asynccontextmanager
    async def hotplug(self, on_turn: Callable[[], object] = lambda: None) -> AsyncIterator[AsyncIterator[PortEvent]]:
        """Watch the backend: devices plugged in come first, then changes as they happen, in whatever thread."""
        news: asyncio.Queue[PortEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        with self._backend.watched(lambda event: loop.call_soon_threadsafe(news.put_nowait, event)):
            async with aclosing(_changes(news, on_turn)) as changes:
                yield changes


async def _changes(news: "asyncio.Queue[PortEvent]", on_turn: Callable[[], object]) -> AsyncGenerator[PortEvent, None]:
    """Yield changes, and come round while there are none."""
    while True:
        on_turn()
        change: PortEvent | None = None
        with anyio.move_on_after(TURN_S):
            change = await news.get()
        if change is not None:
            yield change
