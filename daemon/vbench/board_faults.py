"""What can be wrong with a board's USB side. Enumerations are counted from 1 over the board's life."""

from dataclasses import dataclass

__all__ = ["BoardFault", "EraseLeaves", "NeverEnumerates", "Stalls", "Vanishes", "WrongIdentity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseLeaves:
    """A chip erase over USB answers OK and erases nothing: the "Not blank at 0x1" disease.

    :param chip_erases: it is cured once this many chip erases were carried out by ISP.
    :param tries: it is over after this many erases over USB, None for never.
    :param residue: what the failed erase leaves at address 0 where the cells were blank.
    """

    chip_erases: int = 1
    tries: int | None = None
    residue: bytes = b"\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanishes:
    """The board leaves the bus in the middle of a transfer, and comes back at the next reset or re-plug.

    :param transfer: which one, from 0 over the board's life: control transfers of its class or vendor; bytes from the host on a serial port.
    """

    transfer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalls:
    """The board refuses a control transfer, and does nothing of what it asked.

    :param transfer: which one, from 0 over the board's life, counted like those of :class:`Vanishes`.
    """

    transfer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongIdentity:
    """An enumeration shows another USB id.

    :param usb: the id (``16C0:0478``).
    :param enumeration: which one, None for each.
    """

    usb: str
    enumeration: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverEnumerates:
    """An enumeration does not come.

    :param enumeration: which one, None for each.
    """

    enumeration: int | None = None


BoardFault = EraseLeaves | Vanishes | Stalls | WrongIdentity | NeverEnumerates
"""What can be wrong with a board's USB side."""
