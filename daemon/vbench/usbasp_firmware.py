"""Releases and forks of the USBasp firmware, as far as a host can tell them apart."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["RELEASES", "Release", "UsbAspFirmware"]


class UsbAspFirmware(StrEnum):
    """Which firmware runs on a USBasp."""

    STOCK_2005 = "stock-2005"
    """The first: an unofficial USB id, 16-bit addresses, one SCK."""
    STOCK_2007 = "stock-2007"
    """What cheap clones were sold with for years: "cannot set sck period"."""
    STOCK_2009 = "stock-2009"
    STOCK_2011 = "stock-2011"
    NERDRALPH = "nerdralph"
    """1.08: sets SCK and reaches above 128 KiB, but does not know GETCAPABILITIES."""
    DIOANNIDIS = "dioannidis"
    USBASP_FLASH = "usbasp-flash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one firmware can do.

    :param version: bcdDevice.
    :param has_extended_address: sends 4D by itself when address bits 17 and up change.
    :param capabilities: answer to GETCAPABILITIES, None where it does not know the request.
    :param has_tpi: knows requests 11 to 16.
    :param lowers_sck: ENABLEPROG tries ever lower SCKs, beginning at 1.5 MHz with option 0, and DISCONNECT forgets the option.
    :param retries_with_reset: ENABLEPROG pulses reset between its tries.
    :param pulses_at_connect: CONNECT pulses reset.
    :param probes_at89: ENABLEPROG also asks for an AT89S, with reset high, and leaves reset high when nobody answered.
    :param has_long_transfers: V-USB built with 16-bit lengths.
    """

    version: int
    vendor_id: int = 0x16C0
    product_id: int = 0x05DC
    manufacturer: str = "www.fischl.de"
    product: str = "USBasp"
    serial: str = ""
    has_long_address: bool = True
    has_sck_option: bool = True
    has_extended_address: bool = True
    capabilities: int | None = None
    has_tpi: bool = False
    has_3_mhz: bool = False
    lowers_sck: bool = False
    retries_with_reset: bool = True
    pulses_at_connect: bool = True
    probes_at89: bool = False
    has_long_transfers: bool = False

    @property
    def address_mask(self) -> int:
        """Bits of the address it counts with."""
        return 0xFFFF_FFFF if self.has_long_address else 0xFFFF


_TPI = 0x01
_SERIAL_UPDATE, _HID_UART = 0x20, 0x80
_3_MHZ = 0x0100_0000

RELEASES = {
    UsbAspFirmware.STOCK_2005: Release(
        version=0x0100,
        vendor_id=0x03EB,
        product_id=0xC7B4,
        has_long_address=False,
        has_sck_option=False,
        has_extended_address=False,
        retries_with_reset=False,
    ),
    UsbAspFirmware.STOCK_2007: Release(
        version=0x0102, has_sck_option=False, has_extended_address=False, retries_with_reset=False
    ),
    UsbAspFirmware.STOCK_2009: Release(version=0x0103, has_extended_address=False, retries_with_reset=False),
    UsbAspFirmware.STOCK_2011: Release(version=0x0104, capabilities=_TPI, has_tpi=True),
    UsbAspFirmware.NERDRALPH: Release(
        version=0x0108,
        has_tpi=True,
        has_3_mhz=True,
        lowers_sck=True,
    ),
    UsbAspFirmware.DIOANNIDIS: Release(
        version=0x0111,
        serial="0000",
        capabilities=_TPI | _SERIAL_UPDATE | _HID_UART,  # built with everything
        has_tpi=True,
        has_3_mhz=True,
        lowers_sck=True,
        pulses_at_connect=False,
        probes_at89=True,
        has_long_transfers=True,
    ),
    UsbAspFirmware.USBASP_FLASH: Release(version=0x0104, capabilities=_TPI | _3_MHZ, has_tpi=True, has_3_mhz=True),
}
"""Sources: Changelog.txt and usbconfig.h of stefanbeller/USBasp, and the 2007 to 2011 images in nerdralph/usbasp; usbconfig.h
of nerdralph/usbasp (whose newest source, unlike its images, cut the maker's text to "fischl.de") and of dioannidis/usbasp;
the last fork by its published description only."""
