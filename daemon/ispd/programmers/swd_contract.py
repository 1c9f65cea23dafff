"""What a programmer that speaks SWD to an ARM core offers to the floors above, whatever its bytes look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ispd.model.part import Interface
from ispd.model.span import Span
from ispd.programmers.contract import AnyDriver, Monitor, ProgrammerIdentity
from ispd.transport.contract import Opener, UsbIdentity
from ispd.wire.cortex_m import CoreRegister

__all__ = ["Place", "SwdCapabilities", "SwdConnection", "SwdDriver", "SwdProgrammer", "SwdSettings"]

Place = CoreRegister | int
"""A register of the halted core, or the address of a word of 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwdCapabilities:
    """What an SWD programmer can do.

    :param clock_hz: SWD clocks it can be set to, slowest first; a single entry means fixed.
    :param default_hz: the one that is used without a wish.
    """

    clock_hz: tuple[int, ...]
    default_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwdSettings:
    """How to connect.

    :param clock_hz: a limit: the fastest clock not above it is used, the slowest there is where all are above. None leaves the
        choice to the programmer.
    :param under_reset: hold NRST low meanwhile and halt the core at its first instruction, for firmware that turns its debug
        pins off or sleeps.
    """

    clock_hz: int | None = None
    under_reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SwdConnection:
    """What was found while connecting.

    :param clock_hz: SWD clock in use.
    :param id_code: DPIDR of the debug port, ``0x1BA01477`` for a genuine STM32F1.
    :param cpuid: what core it is.
    :param voltage_mv: the target's supply, None where it cannot be measured.
    :param warnings: what an operator should know.
    """

    clock_hz: int
    id_code: int
    cpuid: int
    voltage_mv: int | None
    warnings: tuple[str, ...] = ()


class SwdProgrammer(Protocol):
    """An open programmer that speaks SWD to one target with a Cortex-M core.

    Every method raises ``LinkClosedError`` when the programmer is unplugged, ``LinkTimeoutError`` when it goes silent,
    ``RemoteProtocolError`` when it answers outside its protocol, and ``TargetError`` where the target does not do what was
    asked. After any of them but the first the next call finds its place in the protocol again. What a target asks to wait
    for is tried again some times before it counts as refused.
    """

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""

    @property
    def capabilities(self) -> SwdCapabilities:
        """What this programmer can do."""

    async def connect(self, settings: SwdSettings) -> SwdConnection:
        """Take hold of the target's debug port. Under reset the core is halted afterwards, else it runs on.

        Raises ``TargetError`` (target-not-responding) where nobody answers or there is no supply, ``ProgrammerError`` where the
        programmer is in no state to do it. The target is let go then.
        """

    async def disconnect(self) -> None:
        """Let go: NRST is high, the core runs, debugging is off. Harmless when not connected."""

    async def read(self, span: Span, monitor: Monitor) -> bytes:
        """Read any bytes of memory. Fewer than asked only when ``monitor`` stopped it."""

    async def write(self, address: int, data: bytes) -> None:
        """Write any bytes of memory (not flash, which takes half-words only)."""

    async def read_word(self, address: int) -> int:
        """Read a word of 32 bits, of memory or of a register."""

    async def write_word(self, address: int, value: int) -> None:
        """Write a word of 32 bits."""

    async def read_register(self, register: CoreRegister) -> int:
        """Read a register of the halted core."""

    async def write_register(self, register: CoreRegister, value: int) -> None:
        """Write a register of the halted core."""

    async def read_all(self, places: Sequence[Place]) -> tuple[int, ...]:
        """Read registers and words in this order, at the cost of one; the first that fails is the last that is tried."""

    async def write_all(self, values: Sequence[tuple[Place, int]]) -> None:
        """Write registers and words in this order, at the cost of one.

        The first that the target refuses is the last that is tried, and none is written twice: what comes out is its error, and
        nothing behind it was sent.
        """

    async def hold_reset(self, *, is_held: bool) -> None:
        """Pull NRST low, or let it go."""

    async def aclose(self) -> None:
        """Close the link; never raises. Call :meth:`disconnect` first where the target may be held."""


class SwdDriver(AnyDriver, Protocol):
    """One kind of programmer that speaks SWD."""

    interface: Literal[Interface.SWD]

    async def open(
        self, hardware: Opener, port: str, *, baud: int | None = None, usb: UsbIdentity | None = None
    ) -> SwdProgrammer:
        """Open the port, make sure who answers, and return the programmer.

        Raises ``TransportError``, or ``ProgrammerError`` with ``programmer-cannot`` for one that is too old,
        ``programmer-is-bootloader``, or ``programmer-silent`` for one that is stuck.
        """
