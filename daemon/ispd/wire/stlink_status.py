"""Status codes of an ST-Link, as errors.

Source: ``STLINK_SWD_*`` and ``STLINK_DEBUG_ERR_*`` of OpenOCD 0.12 (``stlink_usb.c``) and pyOCD (``constants.py``).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ispd.errors import ErrorCode, Facts, IspdError, RemoteProtocolError, TargetError

__all__ = ["HARMLESS", "UNKNOWN_COMMAND", "SwdStatusError", "SwdWaitError", "check_status"]

_OK: Final = 0x80
HARMLESS: Final = frozenset({_OK, 0x0D})
"""Statuses that mean success. 0D: what was read back after writing a register differs, which it does for registers with bits of their own."""
UNKNOWN_COMMAND: Final = frozenset({0x08, 0x42})
"""How firmware answers to commands that it does not have."""
_WAIT: Final = frozenset({0x10, 0x14})
_NOBODY: Final = frozenset({0x04, 0x05, 0x09, 0x0B, 0x15, 0x16, 0x17})
"""The target's debug port does not answer, or not in a way that can be understood."""

_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x01: "unknown error",  # how older firmware tells a fault
        0x02: "SPI error",
        0x03: "DMA error",
        0x04: "nothing in the chain",
        0x05: "no device connected",
        0x06: "internal error",
        0x07: "command wait",
        0x08: "command error",
        0x09: "no IDCODE",
        0x0A: "wrong alignment",
        0x0B: "debug power is off",
        0x0C: "register not written",
        0x0E: "open in another mode",
        0x10: "AP wait",
        0x11: "AP fault",
        0x12: "AP error",
        0x13: "AP parity error",
        0x14: "DP wait",
        0x15: "DP fault",
        0x16: "DP error",
        0x17: "DP parity error",
        0x18: "AP write data error",
        0x19: "AP sticky error",
        0x1A: "AP overrun",
        0x1D: "no such AP",
        0x20: "no trace",
        0x40: "settings changed",
        0x41: "clock not supported",
        0x42: "unknown command",
        0x81: "fault",
    }
)
_WIRING: Final = (
    "check SWDIO, SWCLK, GND and the board's supply; shorten the wires or lower the SWD clock; where the board's program may have"
    " turned the debug pins off, connect NRST, or set BOOT0 to 1 and press the board's reset button"
)
"""Without NRST such a program runs before anybody is heard; from BOOT0 the chip starts in its system memory instead (RM0008, 3.4)."""


class SwdStatusError(TargetError):
    """The target did not do what the ST-Link asked of it. ``status`` is the ST-Link's code."""

    def __init__(self, status: int, what: str, address: int | None = None) -> None:
        name = _NAMES[status]
        where = "" if address is None else f" at 0x{address:08X}"
        is_nobody = status in _NOBODY
        super().__init__(
            ErrorCode.TARGET_NOT_RESPONDING if is_nobody else ErrorCode.TARGET_LOST,
            f"the target does not answer to SWD ({what}: {name})"
            if is_nobody
            else f"the target refused {what}{where} ({name})",
            hint=_WIRING if is_nobody else "keep the board in place; check its supply, then flash it again",
            facts=Facts(address=address),
        )
        self.status = status


class SwdWaitError(SwdStatusError):
    """The target was not ready: the same may be tried again, and fails for good only after some times."""


def check_status(status: int, what: str, *, address: int | None = None) -> None:
    """Return for a status that means success.

    :param what: the command, for the message.
    :param address: where it happened, None where the command has no address or it is not known.

    Raises ``SwdWaitError`` and ``SwdStatusError``; ``RemoteProtocolError`` for a status nobody knows.
    """
    if status not in HARMLESS:
        raise _error(status, what, address)


def _error(status: int, what: str, address: int | None) -> IspdError:
    if status in _WAIT:
        return SwdWaitError(status, what, address)
    if status in _NAMES:
        return SwdStatusError(status, what, address)
    return RemoteProtocolError(f"{what} ended with status 0x{status:02X}, which nobody knows", is_usb=True)
