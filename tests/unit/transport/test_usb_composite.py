"""A debug probe that is a serial port and a disk, too: only the interface that is spoken to is touched."""

from types import SimpleNamespace
from typing import Any

import pytest

from ispd.model.span import Span
from ispd.programmers.stlink_probe import open_stlink
from ispd.programmers.swd_contract import SwdSettings
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, SerialSettings, UsbLink
from ispd.transport.usb import UsbBus
from vbench.pyusb_backend import PyusbBackend
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket

pytestmark = pytest.mark.anyio

_DEBUG, _DISK, _SERIAL, _SERIAL_DATA = range(4)
_CLASSES = {_DEBUG: 0xFF, _DISK: 0x08, _SERIAL: 0x02, _SERIAL_DATA: 0x0A}
_ENDPOINTS = {
    _DEBUG: ((0x81, 2), (0x01, 2), (0x82, 2)),
    _DISK: ((0x83, 2), (0x03, 2)),
    _SERIAL: ((0x84, 3),),
    _SERIAL_DATA: ((0x85, 2), (0x05, 2)),
}
"""Address and kind of endpoints as a Nucleo's ST-Link has them: debug, mass storage, serial port."""


class Nucleo(PyusbBackend):
    """Every device has four interfaces; drivers of the kernel sit on all but the first. ``touched`` says what was done to which."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[tuple[str, int]] = []

    def get_configuration_descriptor(self, dev: Any, config: int) -> SimpleNamespace:
        found = super().get_configuration_descriptor(dev, config)
        found.bNumInterfaces = len(_CLASSES)
        return found

    def get_interface_descriptor(self, dev: Any, intf: int, alt: int, config: int) -> SimpleNamespace:
        if intf not in _CLASSES:
            raise IndexError(intf)
        found = super().get_interface_descriptor(dev, 0, alt, config)
        found.bInterfaceNumber, found.bInterfaceClass = intf, _CLASSES[intf]
        found.bNumEndpoints = len(_ENDPOINTS[intf])
        return found

    def get_endpoint_descriptor(self, dev: Any, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        found = super().get_endpoint_descriptor(dev, 0, 0, alt, config)
        found.bEndpointAddress, found.bmAttributes = _ENDPOINTS[intf][ep]
        return found

    def is_kernel_driver_active(self, dev_handle: Any, intf: int) -> bool:  # noqa: ARG002 - pyusb's signature
        return intf != _DEBUG

    def set_configuration(self, dev_handle: Any, config_value: int) -> None:
        self.touched.append(("configuration", config_value))
        super().set_configuration(dev_handle, config_value)

    def claim_interface(self, dev_handle: Any, intf: int) -> None:
        self.touched.append(("claim", intf))
        super().claim_interface(dev_handle, intf)

    def detach_kernel_driver(self, dev_handle: Any, intf: int) -> None:  # noqa: ARG002 - pyusb's signature
        self.touched.append(("detach", intf))


class UsbOnly:
    """A machine with a USB bus and nothing else."""

    def __init__(self, backend: PyusbBackend) -> None:
        self._bus = UsbBus(backend)

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        raise AssertionError(settings)

    async def open_usb(self, port: str) -> UsbLink:
        return await self._bus.open(port)


class Quiet:
    """A monitor that never stops anything."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        pass


async def test_the_disk_and_the_serial_port_of_a_nucleo_are_left_alone() -> None:
    backend = Nucleo()
    chip = Stm32F1()
    backend.add("1-1.4", StLink(StLinkFirmware(product_id=0x374B), socket=SwdSocket(chip)))
    probe = await open_stlink(UsbOnly(backend), "usb:1-1.4", SystemClock())
    await probe.connect(SwdSettings())
    await probe.write(0x2000_0000, b"hello")
    assert await probe.read(Span(0x2000_0000, 0x2000_0005), Quiet()) == b"hello"
    await probe.disconnect()
    await probe.aclose()
    assert set(backend.touched) == {("claim", _DEBUG)}
    assert (backend.opens, backend.closes, backend.strays) == (1, 1, [])
