"""Standard requests of a USB device with one configuration (USB 2.0, chapter 9)."""

import struct

from ispd.transport.contract import ControlTransfer, UsbIdentity

__all__ = ["Descriptors"]

_DEVICE, _CONFIGURATION, _STRING = 1, 2, 3
_VENDOR_SPECIFIC = 0xFF
_ENGLISH = 0x0409
_BUS_POWERED = 0x80
_MAX_POWER = 50
"""In units of 2 mA."""


class Descriptors:
    """Descriptors made from an identity; texts that are empty have no string, as in firmware that leaves them out.

    :param version: bcdDevice.
    :param release: bcdUSB.
    :param usb_class: class, subclass and protocol of the device.
    :param packet_bytes: size of endpoint 0: 8 at low speed, 8 to 64 at full speed.
    :param interfaces: interface descriptors with all that belongs to them; one that is vendor specific where not given.
    :param count: how many interfaces those are (alternate settings do not count).
    """

    def __init__(
        self,
        usb: UsbIdentity,
        *,
        version: int,
        release: int = 0x0110,
        usb_class: tuple[int, int, int] = (_VENDOR_SPECIFIC, 0, 0),
        packet_bytes: int = 8,
        interfaces: bytes | None = None,
        count: int = 1,
    ) -> None:
        self._texts = ("", usb.manufacturer, usb.product, usb.serial)
        indices = [index if text else 0 for index, text in enumerate(self._texts)][1:]
        self.device = struct.pack(
            "<BBHBBBBHHHBBBB",
            *(18, _DEVICE, release, *usb_class, packet_bytes),
            *(usb.vendor_id, usb.product_id, version, *indices, 1),
        )
        if interfaces is None:
            interfaces = struct.pack("<9B", 9, 4, 0, 0, 0, _VENDOR_SPECIFIC, 0, 0, 0)
        self.configuration = (
            struct.pack("<BBHBBBBB", 9, _CONFIGURATION, 9 + len(interfaces), count, 1, 0, _BUS_POWERED, _MAX_POWER)
            + interfaces
        )

    def answer(self, transfer: ControlTransfer) -> bytes | None:
        """Return what a standard request brings, None where the device refuses it."""
        match transfer.request:
            case 0x00:  # GET_STATUS
                return bytes(2)
            case 0x06:  # GET_DESCRIPTOR
                return self._descriptor(transfer.value >> 8, transfer.value & 0xFF)
            case 0x08:  # GET_CONFIGURATION
                return bytes((1,))
            case 0x0A:  # GET_INTERFACE
                return bytes((0,))
            case 0x01 | 0x03 | 0x05 | 0x09 | 0x0B:  # features, address, configuration, interface: nothing to tell
                return b""
            case _:
                return None

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        match kind:
            case 1:
                return self.device
            case 2:
                return self.configuration
            case 3 if index == 0:
                return struct.pack("<BBH", 4, _STRING, _ENGLISH)
            case 3 if index < len(self._texts) and self._texts[index]:
                text = self._texts[index].encode("utf-16-le")
                return bytes((2 + len(text), _STRING)) + text
            case _:
                return None
