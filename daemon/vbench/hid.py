"""Descriptors of a HID device that is spoken to by reports on endpoint 0 (HID 1.11, chapters 6.2 and 7.1)."""

import struct
from dataclasses import dataclass

from ispd.transport.contract import UsbIdentity
from vbench.usb_descriptors import Descriptors

__all__ = ["HidDescriptors", "HidFacts"]

_HID_CLASS = 3
_HID, _REPORT = 0x21, 0x22
"""Descriptor types."""
_INTERRUPT_IN = 0x81


@dataclass(frozen=True, slots=True, kw_only=True)
class HidFacts:
    """What one HID device is.

    :param version: bcdDevice.
    :param release: bcdHID.
    :param report: its report descriptor.
    :param packet_bytes: size of endpoint 0.
    :param endpoint_bytes: size of its interrupt endpoint, on which it never sends anything.
    """

    version: int
    release: int
    report: bytes
    packet_bytes: int
    endpoint_bytes: int
    interval_ms: int


class HidDescriptors(Descriptors):
    """One HID interface with one interrupt endpoint."""

    def __init__(self, usb: UsbIdentity, facts: HidFacts) -> None:
        self._hid = struct.pack("<BBHBBBH", 9, _HID, facts.release, 0, 1, _REPORT, len(facts.report))
        self._report = facts.report
        interface = struct.pack("<9B", 9, 4, 0, 0, 1, _HID_CLASS, 0, 0, 0)
        endpoint = struct.pack("<BBBBHB", 7, 5, _INTERRUPT_IN, 3, facts.endpoint_bytes, facts.interval_ms)
        super().__init__(
            usb,
            version=facts.version,
            usb_class=(0, 0, 0),
            packet_bytes=facts.packet_bytes,
            interfaces=interface + self._hid + endpoint,
        )

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        match kind:
            case 0x21:
                return self._hid
            case 0x22:
                return self._report
            case _:
                return super()._descriptor(kind, index)
