"""Emulated USB devices as pyusb sees them; and the backend notices what the transport must not do."""

import errno
import threading

import pytest
import usb.core
import usb.util

from vbench.pyusb_backend import PyusbBackend
from vbench.usbtiny import UsbTiny

ECHO = 0
"""A USBtiny's request that brings back wValue and wIndex (jwatte/usbtiny 0ae0511, usbtinyisp/main.c)."""


def find(backend: PyusbBackend) -> usb.core.Device:
    device = usb.core.find(backend=backend)
    assert device is not None
    return device


def test_pyusb_reads_place_descriptors_and_texts() -> None:
    backend = PyusbBackend()
    backend.add("3-1.4.2", UsbTiny())
    device = find(backend)
    assert (device.bus, device.port_numbers, device.speed) == (3, (1, 4, 2), usb.util.SPEED_LOW)
    assert (device.idVendor, device.idProduct, device.bMaxPacketSize0) == (0x1781, 0x0C9F, 8)
    assert (device.manufacturer, device.product, device.serial_number) == (None, "USBtinyISP", None)
    (configuration,) = device
    (interface,) = configuration
    assert (configuration.bConfigurationValue, interface.bInterfaceNumber, interface.bNumEndpoints) == (1, 0, 0)
    assert bytes(device.ctrl_transfer(0xC0, ECHO, 0x1234, 0x5678, 8))[2:6] == bytes.fromhex("34127856")
    usb.util.dispose_resources(device)
    assert (backend.opens, backend.closes, backend.strays) == (1, 1, [])


def test_a_replugged_device_is_another_one() -> None:
    backend = PyusbBackend()
    backend.add("1-1", UsbTiny())
    old = find(backend)
    old.ctrl_transfer(0xC0, ECHO, 0, 0, 8)
    backend.unplug("1-1")
    assert usb.core.find(backend=backend) is None
    backend.plug("1-1")
    with pytest.raises(usb.core.USBError) as gone:
        old.ctrl_transfer(0xC0, ECHO, 0, 0, 8)
    assert gone.value.errno == errno.ENODEV
    new = find(backend)
    assert new.address != old.address
    assert len(new.ctrl_transfer(0xC0, ECHO, 0, 0, 8)) == 8
    for device in (old, new):
        usb.util.dispose_resources(device)


def test_an_interface_is_claimed_once_and_given_back() -> None:
    backend = PyusbBackend()
    backend.add("1-1", UsbTiny())
    first, second = find(backend), find(backend)
    usb.util.claim_interface(first, 0)
    with pytest.raises(usb.core.USBError) as taken:
        usb.util.claim_interface(second, 0)
    assert taken.value.errno == errno.EBUSY
    usb.util.dispose_resources(first)
    usb.util.claim_interface(second, 0)
    usb.util.dispose_resources(second)
    assert (backend.opens, backend.closes) == (2, 2)


def test_use_from_another_thread_and_after_closing_is_noted() -> None:
    backend = PyusbBackend()
    place = backend.add("1-1", UsbTiny())
    handle = backend.open_device(place)
    other = threading.Thread(target=backend.claim_interface, args=(handle, 0))
    other.start()
    other.join()
    assert backend.strays == ["claim in another thread"]
    backend.close_device(handle)
    backend.get_configuration(handle)
    backend.close_device(handle)
    assert backend.strays[1:] == ["get configuration on a closed device", "closed twice"]
