"""Requests of the USB class of human interface devices, as bootloaders borrow it to need no driver.

Source: Device Class Definition for HID 1.11, 7.2. All go to the device's first interface.
"""

from enum import IntEnum
from typing import Final

from ispd.wire.control import ControlFields

__all__ = ["ReportKind", "get_report", "set_report"]

_CLASS_IN: Final = 0xA1
"""bmRequestType of a class request to an interface that brings data."""
_CLASS_OUT: Final = 0x21
_GET_REPORT: Final = 0x01
_SET_REPORT: Final = 0x09


class ReportKind(IntEnum):
    """What a report is: the upper byte of wValue."""

    OUTPUT = 2
    FEATURE = 3


def get_report(kind: ReportKind, report_id: int, length: int) -> ControlFields:
    """Return the transfer that brings a report of ``length`` bytes; the first of them repeats an id other than 0."""
    return ControlFields(request_type=_CLASS_IN, request=_GET_REPORT, value=kind << 8 | report_id, length=length)


def set_report(kind: ReportKind, report_id: int, data: bytes) -> ControlFields:
    """Return the transfer that sends a report; ``data`` begins with an id other than 0."""
    return ControlFields(request_type=_CLASS_OUT, request=_SET_REPORT, value=kind << 8 | report_id, data=data)
