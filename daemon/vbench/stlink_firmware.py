"""Which ST-Link it is, which firmware runs on it, and what that firmware can do.

Source: version gates as OpenOCD's ``stlink_usb.c`` and pyOCD know them; nobody but ST has the firmware.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from ispd.transport.contract import UsbIdentity
from vbench.usb_descriptors import Descriptors

__all__ = ["VENDOR_ID", "Mode", "StLinkFirmware", "Status", "odd_serial"]

VENDOR_ID = 0x0483
_TEXT = "STMicroelectronics"
_V1_ID, _V2_ID = 0x3744, 0x3748
_V2_1_IDS = frozenset({0x374A, 0x374B, 0x3752})
_V3_IDS = frozenset({0x374E, 0x374F, 0x3753, 0x3754})
_V2_1_ID, _V3_ID = 0x374B, 0x374F
_V3_BARE_ID = 0x3754
"""A V3 without mass storage."""
_RELEASE = re.compile(r"V([123])(?:J(\d{1,2}))?(?:([SM])(\d{1,2}))?")
_BULK = 2
_VERSION = 0x0100
"""bcdDevice."""


class Mode(IntEnum):
    """What F5 answers."""

    DFU = 0
    MASS_STORAGE = 1
    DEBUG = 2
    SWIM = 3
    LOADER = 4


class Status(IntEnum):
    """First byte of an answer."""

    OK = 0x80
    FAULT = 0x81
    UNKNOWN_COMMAND = 0x08
    NO_IDCODE = 0x09
    AP_WAIT = 0x10
    AP_FAULT = 0x11
    AP_ERROR = 0x12
    BAD_AP = 0x1D


@dataclass(frozen=True, slots=True, kw_only=True)
class StLinkFirmware:
    """A probe by its product id and release. V2J37S7 is the release of the QMK guide's example.

    :param product_id: says V1, V2, V2-1 or V3.
    :param jtag: the J number, which gates commands.
    :param third: the S number (SWIM) of a dongle and of a V3 without mass storage, else the M number.
    """

    product_id: int = _V2_ID
    jtag: int = 37
    third: int = 7

    def __post_init__(self) -> None:
        if self.product_id not in {_V1_ID, _V2_ID} | _V2_1_IDS | _V3_IDS:
            raise ValueError(f"{self.product_id:04X} is no ST-Link of the bench")

    @classmethod
    def named(cls, release: str) -> Self:
        """Return the probe of a release as ST writes it: V2J37S7 of a dongle, V2J40M27 of a V2-1 (M), V3J10M3, V3J10S1 of a V3
        without mass storage, V1.

        Raises ``ValueError``.
        """
        found = _RELEASE.fullmatch(release)
        if found is None:
            raise ValueError(f"{release!r} is no release of an ST-Link, as V2J37S7, V2J40M27, V3J10M3 or V1 are")
        bare_id, disk_id = {"1": (_V1_ID, _V1_ID), "2": (_V2_ID, _V2_1_ID), "3": (_V3_BARE_ID, _V3_ID)}[found[1]]
        product_id = disk_id if found[3] == "M" else bare_id
        return cls(product_id=product_id, jtag=int(found[2] or 0), third=int(found[4] or 0))

    @property
    def generation(self) -> int:
        """1 to 3."""
        return {_V1_ID: 1, _V2_ID: 2}.get(self.product_id, 2 if self.product_id in _V2_1_IDS else 3)

    @property
    def out_endpoint(self) -> int:
        """Address of the endpoint that takes commands; all answer on 81."""
        return 0x02 if self.product_id in (_V1_ID, _V2_ID) else 0x01

    @property
    def version(self) -> bytes:
        """What F1 answers. A V3 tells its release elsewhere."""
        word = 3 << 12 if self.generation == 3 else self.generation << 12 | self.jtag << 6 | self.third
        return word.to_bytes(2, "big") + VENDOR_ID.to_bytes(2, "little") + self.product_id.to_bytes(2, "little")

    @property
    def extended_version(self) -> bytes:
        """What FB answers on a V3: the releases of SWIM, JTAG and mass storage are its bytes 1 to 3 (``stlink_usb_version`` of OpenOCD)."""
        ids = VENDOR_ID.to_bytes(2, "little") + self.product_id.to_bytes(2, "little")
        swim, storage = (self.third, 0) if self.product_id == _V3_BARE_ID else (0, self.third)
        return bytes((3, swim, self.jtag, storage, 0, 0, 0, 0)) + ids

    def has(self, release: int) -> bool:
        """Tell whether it can do what came with this J number; a V3 begins where J32 of a V2 is."""
        return self.generation == 3 or self.jtag >= release

    @property
    def first_mode(self) -> Mode:
        """Mode after it was plugged in."""
        return Mode.DFU if self.product_id == _V2_ID else Mode.MASS_STORAGE

    @property
    def short_bytes(self) -> int:
        """Longest access by single bytes."""
        return 512 if self.generation == 3 else 64

    def identity(self, serial: str) -> UsbIdentity:
        """Return how it presents itself."""
        product = "STLINK-V3" if self.generation == 3 else "STM32 STLink"
        return UsbIdentity(
            vendor_id=VENDOR_ID, product_id=self.product_id, manufacturer=_TEXT, product=product, serial=serial
        )

    def descriptors(self, usb: UsbIdentity) -> Descriptors:
        """Return its descriptors: the debug interface with endpoints for commands, answers and trace."""
        trace = 0x83 if self.out_endpoint == 0x02 else 0x82
        endpoints = b"".join(bytes((7, 5, address, _BULK, 64, 0, 0)) for address in (0x81, self.out_endpoint, trace))
        interface = bytes((9, 4, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0)) + endpoints
        return Descriptors(
            usb, version=_VERSION, release=0x0200, usb_class=(0, 0, 0), packet_bytes=64, interfaces=interface
        )


def odd_serial(number: bytes) -> str:
    """Return a serial number as old firmware gives it: its bytes where characters should be."""
    return "".join(map(chr, number))
