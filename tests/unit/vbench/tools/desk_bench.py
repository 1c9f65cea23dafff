"""The least bench that programs can run on: devices at places, nothing else, on the event loop's clock."""

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
    BytePort,
    PortKind,
    SerialSettings,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbLink,
)
from vbench.bench_port import BenchPort, BenchTime
from vbench.bench_usb import BenchUsbLink
from vbench.tools import run_emulated

__all__ = ["DeskBench"]

_FIRST_ADDRESS = 3
"""Hubs come first, as on the bed for real programs."""


class DeskBench:
    """Devices by place; one that has left by itself is gone."""

    def __init__(self, devices: Mapping[str, Any], tools: Mapping[str, str] | None = None) -> None:
        self._devices = dict(devices)
        self._numbers = {path: number for number, path in enumerate(devices, start=_FIRST_ADDRESS)}
        self._open: set[str] = set()
        self._time = BenchTime(1.0)
        self.tools: Mapping[str, str] = tools or {}

    def now(self) -> float:
        return self._time.now()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def devices(self) -> Sequence[UsbDeviceAt]:
        return [
            UsbDeviceAt(
                path=path,
                bus=1,
                address=self._numbers[path],
                usb=device.usb,
                version=device.version,
                tty=f"/dev/{path}" if device.port_kind is PortKind.SERIAL else None,
            )
            for path, device in self._devices.items()
            if device.power_lost_at is None
        ]

    async def open_usb(self, port: str) -> UsbLink:
        path = port.removeprefix("usb:")
        device = self._free(path)
        self._open.add(path)
        return BenchUsbLink(port, device.usb, device, self._time, lambda: self._open.discard(path))

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        path = settings.port.removeprefix("/dev/")
        device = self._free(path)
        self._open.add(path)
        device.opened(self.now(), baud=settings.baud)
        return BenchPort(settings.port, device, self._time, lambda: self._open.discard(path))

    def _free(self, path: str) -> Any:
        device = self._devices.get(path)
        if device is None or device.power_lost_at is not None:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is nothing at {path}")
        if path in self._open:
            raise TransportError(ErrorCode.PORT_BUSY, f"{path} is in use")
        return device

    async def run(
        self,
        *words: str,
        inputs: Mapping[str, bytes] | None = None,
        outputs: Sequence[str] = (),
        deadline_s: float = 120.0,
    ) -> ToolOutcome:
        run = ToolRun(words=words, deadline_s=deadline_s, inputs=inputs or {}, outputs=tuple(outputs))
        return await run_emulated(run, lambda _: None, self)
