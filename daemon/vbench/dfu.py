"""USB DFU 1.1 as devices speak it: requests, states, status codes, descriptors of an interface with alternate settings."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ispd.transport.contract import UsbIdentity
from vbench.usb_descriptors import Descriptors

__all__ = ["DfuDescriptors", "DfuFacts", "Request", "State", "Status", "status_reply"]

_APPLICATION_SPECIFIC, _FIRMWARE_UPGRADE, _DFU_MODE = 0xFE, 1, 2
_FUNCTIONAL = 0x21
_FIRST_NAME = 4
"""String index of the first alternate setting, behind those of the device."""


class Request(IntEnum):
    """bRequest (DFU 1.1, table 3.2)."""

    DETACH = 0
    DNLOAD = 1
    UPLOAD = 2
    GETSTATUS = 3
    CLRSTATUS = 4
    GETSTATE = 5
    ABORT = 6


class State(IntEnum):
    """bState (DFU 1.1, chapter 6.1.2), of a device in DFU mode."""

    IDLE = 2
    DNLOAD_SYNC = 3
    DNBUSY = 4
    DNLOAD_IDLE = 5
    MANIFEST_SYNC = 6
    MANIFEST = 7
    MANIFEST_WAIT_RESET = 8
    UPLOAD_IDLE = 9
    ERROR = 10


class Status(IntEnum):
    """bStatus (DFU 1.1, chapter 6.1.2)."""

    OK = 0
    TARGET = 1
    FILE = 2
    WRITE = 3
    ERASE = 4
    CHECK_ERASED = 5
    PROG = 6
    VERIFY = 7
    ADDRESS = 8
    NOTDONE = 9
    FIRMWARE = 10
    VENDOR = 11
    USBR = 12
    POR = 13
    UNKNOWN = 14
    STALLEDPKT = 15


def status_reply(status: Status, state: State, *, poll_ms: int = 0) -> bytes:
    """Return the answer to GETSTATUS; ``poll_ms``: how long the host is to wait before it asks again."""
    return bytes((status,)) + poll_ms.to_bytes(3, "little") + bytes((state, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DfuFacts:
    """What one DFU device is.

    :param version: bcdDevice.
    :param usb_release: bcdUSB.
    :param release: bcdDFU.
    :param attributes: bmAttributes of the functional descriptor (1 download, 2 upload, 4 tolerant of manifestation, 8 will detach).
    :param names: texts of the alternate settings, in order.
    """

    version: int
    usb_release: int
    release: int
    attributes: int
    detach_ms: int
    transfer_bytes: int
    names: tuple[str, ...]


class DfuDescriptors(Descriptors):
    """One interface of class FE/1/2 with an alternate setting for each name."""

    def __init__(self, usb: UsbIdentity, facts: DfuFacts) -> None:
        settings = b"".join(
            struct.pack(
                "<9B", 9, 4, 0, number, 0, _APPLICATION_SPECIFIC, _FIRMWARE_UPGRADE, _DFU_MODE, _FIRST_NAME + number
            )
            for number in range(len(facts.names))
        )
        self._functional = struct.pack(
            "<BBBHHH", 9, _FUNCTIONAL, facts.attributes, facts.detach_ms, facts.transfer_bytes, facts.release
        )
        super().__init__(
            usb,
            version=facts.version,
            release=facts.usb_release,
            usb_class=(0, 0, 0),
            packet_bytes=64,
            interfaces=settings + self._functional,
        )
        self._names: Sequence[str] = facts.names

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == _FUNCTIONAL:
            return self._functional
        number = index - _FIRST_NAME
        if kind == 3 and 0 <= number < len(self._names):
            text = self._names[number].encode("utf-16-le")
            return bytes((2 + len(text), 3)) + text
        return super()._descriptor(kind, index)
