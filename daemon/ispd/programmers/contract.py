"""What a programmer offers to the floors above, whatever its bytes look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import Opener, PortKind, UsbIdentity

__all__ = ["AnyDriver", "Capabilities", "IspDriver", "IspProgrammer", "Monitor", "ProgrammerIdentity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a programmer can do.

    :param max_flash_bytes: largest flash it can write and read back, None without limit.
    :param sck_hz: SPI clocks it can be set to, slowest first; a single entry means fixed.
    :param bulk: memories with accelerated ``read`` and ``write``; the others go through ``transfer``.
    """

    max_flash_bytes: int | None
    sck_hz: tuple[int, ...]
    bulk: frozenset[MemoryKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgrammerIdentity:
    """What the opened programmer said about itself.

    :param serial: its serial number, to be shown and never relied on: clones share them. Empty where it has or tells none.
    """

    kind: str
    port: str
    firmware: str
    serial: str = ""


class Monitor(Protocol):
    """Watches a long transfer."""

    def advance(self, done_bytes: int) -> None:
        """Take note that ``done_bytes`` more are finished."""

    @property
    def stop_requested(self) -> bool:
        """True when no further page is to be started; checked before each page."""


class IspProgrammer(Protocol):
    """An open programmer that speaks serial programming (ISP) to one AVR target.

    Every method raises ``LinkClosedError`` when the programmer is unplugged, ``LinkTimeoutError`` when it goes silent,
    ``RemoteProtocolError`` when its framing is lost; after the last one the next call re-synchronises first.
    """

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""

    @property
    def capabilities(self) -> Capabilities:
        """What this programmer can do."""

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        """Take the target into programming mode and return the SCK in Hz that is in use.

        ``sck_hz`` is a limit: the fastest clock not above it is used, the slowest there is where all are above. None leaves
        the choice to the programmer. ``part`` None is for looking at an unknown target. Entering again latches new clock fuses: the target sees a
        reset pulse. Does not tell whether a target is there; its signature does.
        """

    async def leave(self) -> None:
        """Release reset; the target runs. Harmless when not in programming mode."""

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send 4-byte SPI instructions back to back and return the fourth reply byte of each."""

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM. Returns fewer bytes than asked only when ``monitor`` stopped it."""

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes, in order, and return how many of ``pages`` are finished.

        Fewer than all only when ``monitor`` stopped it; the target is then idle and still in programming mode.
        """

    async def aclose(self) -> None:
        """Close the link; never raises. Call :meth:`leave` first where the target may be in reset."""


class AnyDriver(Protocol):
    """What all drivers tell of their kind of programmer; each module of this package holds one as ``DRIVER``."""

    kind: str
    port_kind: PortKind
    default_baud: int | None

    def claims(self, usb: UsbIdentity) -> bool:
        """Tell whether a hotplugged port of ``port_kind`` with this identity is certainly this kind of programmer."""


class IspDriver(AnyDriver, Protocol):
    """One kind of programmer that speaks ISP."""

    interface: Literal[Interface.ISP]

    async def open(
        self, hardware: Opener, port: str, *, baud: int | None = None, usb: UsbIdentity | None = None
    ) -> IspProgrammer:
        """Open the port, make sure who answers, and return the programmer.

        Raises ``TransportError``, or ``ProgrammerError`` with ``programmer-silent`` or ``programmer-is-bootloader``.
        """
