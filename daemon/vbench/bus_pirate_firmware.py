"""The Bus Pirate firmwares in the field, as data: what each answers, and where it differs.

Sources: DangerousPrototypes/Bus_Pirate at tag v6.1 (33f5aea) and 2188001 (v6.3-beta1 r2151): SPI.c, binIO.c, procMenu.c;
BusPirate/Bus_Pirate at v7.0 (01e9bda), ffc833c, b580ca9, 8febbb9 and 761f6f6: spi.c, binary_io.c, proc_menu.c. What firmwares
before 5.10 lack is said by avrdude (buspirate.c) and flashrom (buspirate_spi.c).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

__all__ = ["FIRMWARES", "Firmware", "Zero"]

_MODES = "[HiZ 1-WIRE UART I2C SPI 2WIRE 3WIRE KEYB LCD PIC DIO]"
_STOCK_URL = "http://dangerousprototypes.com"

# SCK in Hz: the PIC's 16 MHz instruction clock, divided by primary and secondary prescaler of its SPI unit
_SLOW = (16e6 / 64 / 8, 16e6 / 64 / 2, 16e6 / 64, 16e6 / 16)
_TO_6_1 = (*_SLOW, 16e6 / 8, 16e6 / 64 / 6, 16e6 / 64 / 4, 16e6 / 64 / 2)
"""Codes 5 to 7 were meant as 2.6, 4 and 8 MHz, but have the wrong primary prescaler."""
_STOCK = (*_SLOW, 16e6 / 8, 16e6 / 6, 16e6 / 4, 16e6 / 2)
_COMMUNITY = (*_SLOW, 16e6 / 64 / 5, 16e6 / 4 / 3, 16e6 / 8, 16e6 / 6, 16e6 / 5, 16e6 / 4, 16e6 / 3, 16e6 / 2)
_V8 = (*_STOCK, 16e6 / 64 / 5, 16e6 / 4 / 3, 16e6 / 5, 16e6 / 3)
_BUFFER_BYTES = 4096


class Zero(Enum):
    """What "write then read" answers when it has nothing to do, or nothing to read."""

    DONE = 1
    """01, as after any other transfer."""
    REFUSED = 0
    """00."""
    SILENT = -1
    """Nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """One firmware.

    :param title: how it names itself in the banner, a trailing space included.
    :param sck_hz: SCK by speed code.
    :param write_then_read: whether commands 04 and 05 exist.
    :param avr_extended: whether command 06 exists.
    :param extended_needs_uart: whether command 06 looks for its next byte in the UART, which on a v4 gets none: it hangs.
    :param inverts_edge: whether the clock edge bit of 8x means the opposite.
    :param empty: answer to 04 and 05 with both lengths 0.
    :param write_only: answer to 04 and 05 with a read length of 0.
    :param buffer_bytes: longest write and read of 04 and 05; None: bytes are passed through as they come, up to 65,535.
    :param hastens_replies: whether it makes the FTDI chip, or its own USB unit, send at the end of each SPI command. (Builds
        of 2024 try to, but change CTS before the reply has left the PIC.)
    :param v4_leaves_binary: whether 0F leads back to the terminal on a v4; else it stays in binary mode.
    """

    title: str
    url: str = _STOCK_URL
    modes: str = ""
    sck_hz: tuple[float, ...]
    write_then_read: bool = True
    avr_extended: bool = True
    extended_needs_uart: bool = False
    inverts_edge: bool = False
    empty: Zero = Zero.DONE
    write_only: Zero = Zero.DONE
    buffer_bytes: int | None = _BUFFER_BYTES
    hastens_replies: bool = False
    v4_leaves_binary: bool = True


_V7_1 = "Community Firmware v7.1 - goo.gl/gCzQnW "

FIRMWARES: Mapping[str, Firmware] = MappingProxyType(
    {
        "5.2": Firmware(title="Firmware v5.2 ", sck_hz=_TO_6_1, write_then_read=False, avr_extended=False),
        "5.10": Firmware(title="Firmware v5.10 (r559) ", sck_hz=_TO_6_1, avr_extended=False),
        "6.1": Firmware(title="Firmware v6.1 r1676 ", sck_hz=_TO_6_1, extended_needs_uart=True),
        "6.3-r2151": Firmware(title="Firmware v6.3-beta1 r2151 ", sck_hz=_STOCK),
        "7.0": Firmware(title="Community Firmware v7.0 - goo.gl/gCzQnW ", modes=_MODES, sck_hz=_STOCK),
        # builds of 2017-08 to 2019-02
        "7.1-2018": Firmware(title=_V7_1, modes=_MODES, sck_hz=_COMMUNITY, inverts_edge=True, v4_leaves_binary=False),
        # builds of 2019-03 to 2024-02
        "7.1": Firmware(
            title=_V7_1,
            modes=_MODES,
            sck_hz=_COMMUNITY,
            empty=Zero.REFUSED,
            write_only=Zero.SILENT,
            v4_leaves_binary=False,
        ),
        # builds of 2024-02 to 2025-07
        "7.1-2024": Firmware(
            title=_V7_1,
            modes=_MODES,
            sck_hz=_COMMUNITY,
            empty=Zero.REFUSED,
            v4_leaves_binary=False,
        ),
        "8.0": Firmware(
            title="ElderlyPirate Firmware v8.0 ",
            url="http://github.com/ElderlyPirate",
            modes=_MODES,
            sck_hz=_V8,
            empty=Zero.REFUSED,
            buffer_bytes=None,
            hastens_replies=True,
        ),
    }
)
"""Firmwares by the name bench files use."""
