"""USBtiny programmers: Adafruit's USBtinyISP, SparkFun's Pocket AVR Programmer, Arduino's ISP, and others of that firmware.

The firmware keeps no version and finds no clock by itself; sources are named in :mod:`ispd.wire.usbtiny`. An identity
without a serial number is normal: the place in the USB tree tells two of them apart.
"""

from collections.abc import Sequence
from typing import Final, Literal

import anyio

from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError, RemoteProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Capabilities, IspProgrammer, Monitor, ProgrammerIdentity
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbtiny_target import REQUEST_S, TinyTarget
from ispd.transport.contract import Opener, PortKind, UsbIdentity
from ispd.wire.usbtiny import PERIODS, Echo, PowerDown, sck_hz

__all__ = ["DRIVER", "UsbTinyDriver", "UsbTinyProgrammer"]

KIND: Final = "usbtiny"

_DEFAULT_HZ: Final = 200_000
"""Without a wish: what a factory-fresh part follows, 8 MHz divided by 8, of which SCK stays below a fourth."""

_SCK_HZ: Final = tuple(sck_hz(period) for period in reversed(PERIODS))

_PROGRAMMERS: Final = frozenset(
    {
        (0x1781, 0x0C9F),  # USBtinyISP and Pocket AVR Programmer; Adafruit's boards borrow it, see below
        (0x2341, 0x0049),  # Arduino ISP
        (0x2A03, 0x0049),  # the same, arduino.org
        (0x16D0, 0x0BA5),  # eHaJo ISP stick
        (0x1209, 0x6570),  # iascaled's
    }
)

_BOOTLOADER: Final = (0x2341, 0x0C9F)
"""Arduino Gemma in its bootloader."""

_BOOTLOADER_PRODUCTS: Final = ("trinket", "gemma")
"""Adafruit's boards speak USBtiny in their bootloader, which writes into the board itself."""

_ECHO: Final = Echo(0x5AA5, 0x0FF0)


def _is_bootloader(usb: UsbIdentity) -> bool:
    product = usb.product.lower()
    return (usb.vendor_id, usb.product_id) == _BOOTLOADER or any(name in product for name in _BOOTLOADER_PRODUCTS)


def _period(limit_hz: int) -> int:
    """Return the SCK parameter of the fastest clock not above a limit, of the slowest where all are above."""
    return next((period for period in PERIODS if sck_hz(period) <= limit_hz), PERIODS[-1])


class UsbTinyProgrammer:
    """An open USBtiny; see :class:`~ispd.programmers.contract.IspProgrammer`. Made by :class:`UsbTinyDriver`."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel
        self._identity = ProgrammerIdentity(
            kind=KIND, port=channel.name, firmware=channel.identity.product or "USBtiny"
        )
        self._part: AvrPart | None = None
        self._target: TinyTarget | None = None

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the device was opened; the firmware has a name and no version."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """Flash of any size, 250 clocks from 4 to 345 kHz, flash and EEPROM in bulk."""
        return Capabilities(max_flash_bytes=None, sck_hz=_SCK_HZ, bulk=frozenset({MemoryKind.FLASH, MemoryKind.EEPROM}))

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        """Take the target into programming mode with a reset pulse and return the SCK in Hz."""
        period = _period(_DEFAULT_HZ if sck_hz is None else sck_hz)
        self._target = None
        self._part = part
        target = TinyTarget(self._channel, part, period)
        await target.enter()
        self._target = target
        return _SCK_HZ[-period]

    async def leave(self) -> None:
        """Let go of all pins; shielded, so that a cancelled task does it too. Harmless at any time."""
        with anyio.CancelScope(shield=True):
            self._target = None
            await self._channel.submit([PowerDown()], timeout_s=REQUEST_S)

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        return await (await self._entered()).transfer(instructions)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM."""
        return await (await self._entered()).read(memory, span, monitor)

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes; ``part`` must be the one programming mode was entered with."""
        if part != self._part:
            raise LocalProtocolError(f"programming mode was not entered for {part.id}")
        return await (await self._entered()).write(memory, pages, monitor)

    async def aclose(self) -> None:
        """Close the device; never raises."""
        await self._channel.aclose()

    async def _entered(self) -> TinyTarget:
        """Return the target in programming mode; enters again where the programmer let go of it."""
        if self._target is None:
            raise LocalProtocolError("programming mode was not entered")
        if self._target.is_lost:
            await self._target.enter()
        return self._target


class UsbTinyDriver:
    """See :class:`~ispd.programmers.contract.Driver`."""

    kind: str = KIND
    interface: Literal[Interface.ISP] = Interface.ISP
    port_kind: PortKind = PortKind.USB
    default_baud: int | None = None

    def claims(self, usb: UsbIdentity) -> bool:
        """Claim USBtiny's identities, unless the device says that it is a board in its bootloader."""
        return (usb.vendor_id, usb.product_id) in _PROGRAMMERS and not _is_bootloader(usb)

    async def open(
        self,
        hardware: Opener,
        port: str,
        *,
        baud: int | None = None,  # noqa: ARG002 - not a serial port
        usb: UsbIdentity | None = None,  # noqa: ARG002 - the open device tells better
    ) -> IspProgrammer:
        """Open the device, see that it echoes, and release a target that an earlier run may have left in reset."""
        channel = ControlChannel(await hardware.open_usb(port))
        is_ready = False
        try:
            if _is_bootloader(channel.identity):
                raise _bootloader_error(channel)
            if not await _echoes(channel):
                raise _silent_error(channel)
            programmer = UsbTinyProgrammer(channel)
            await programmer.leave()
            is_ready = True
        finally:
            if not is_ready:
                await channel.aclose()
        return programmer


async def _echoes(channel: ControlChannel) -> bool:
    """Tell whether the device answers as this firmware does."""
    try:
        (is_echo,) = await channel.submit([_ECHO], timeout_s=REQUEST_S)
    except RemoteProtocolError:
        return False
    return is_echo


def _silent_error(channel: ControlChannel) -> ProgrammerError:
    return ProgrammerError(
        ErrorCode.PROGRAMMER_SILENT,
        f"the device {channel.identity} on {channel.name} does not answer as a USBtiny programmer",
        hint="re-plug it; check that the slot's port and programmer kind belong together",
    )


def _bootloader_error(channel: ControlChannel) -> ProgrammerError:
    return ProgrammerError(
        ErrorCode.PROGRAMMER_IS_BOOTLOADER,
        f"{channel.identity.product or channel.identity} on {channel.name} is a board in its bootloader, not an ISP "
        "programmer; nothing was written",
        hint="plug a programmer into this port, or name another port for this slot",
    )


DRIVER: Final = UsbTinyDriver()
