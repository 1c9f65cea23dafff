"""USBasp and its clones and forks. Sources are named in :mod:`ispd.wire.usbasp`.

The firmware forgets everything with DISCONNECT: each entering sets SCK first, then connects. What it calls automatic SCK
is never used.
"""

from collections.abc import Sequence
from typing import Final, Literal

import anyio

from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Capabilities, IspProgrammer, Monitor, ProgrammerIdentity
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbasp_entry import (
    FASTEST_HZ,
    SLOW_JUMPER_HZ,
    Entry,
    Firmware,
    enter,
    is_faster_at_3_mhz,
    let_go,
    recognise,
)
from ispd.programmers.usbasp_target import AspTarget
from ispd.transport.contract import Opener, PortKind, UsbIdentity

__all__ = ["DRIVER", "UsbAspDriver", "UsbAspProgrammer"]

KIND: Final = "usbasp"

_DEFAULT_HZ: Final = 187_500
"""Without a wish: what a factory-fresh part follows, 8 MHz divided by 8, of which SCK stays below a fourth."""

_FISCHL: Final = ("www.fischl.de", "USBasp")
_CLAIMED: Final = frozenset(
    {
        (0x16C0, 0x05DC, *_FISCHL),  # V-USB's shared id: only with the texts
        (0x03EB, 0xC7B4, *_FISCHL),  # before 2006-09-16
        (0x16C0, 0x092F, "www.nicai-systems.com", "NIBObee"),
    }
)


class UsbAspProgrammer:
    """An open USBasp; see :class:`~ispd.programmers.contract.IspProgrammer`. Made by :class:`UsbAspDriver`."""

    def __init__(self, channel: ControlChannel, firmware: Firmware) -> None:
        self._channel = channel
        self._firmware = firmware
        self._identity = ProgrammerIdentity(kind=KIND, port=channel.name, firmware=str(firmware))
        self._part: AvrPart | None = None
        self._target: AspTarget | None = None
        self._has_3_mhz: bool | None = None
        self._is_slow_jumper = False
        self._is_bootloader = False

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the device was opened."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """Clocks from 500 Hz to 1.5 MHz, or one: with old firmware, or as long as the "slow SCK" jumper is closed."""
        return Capabilities(
            max_flash_bytes=self._firmware.max_flash_bytes,
            sck_hz=(SLOW_JUMPER_HZ,) if self._is_slow_jumper else self._firmware.sck_hz,
            bulk=frozenset({MemoryKind.FLASH, MemoryKind.EEPROM}),
        )

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        """Take the target into programming mode with a reset pulse and return the SCK in Hz as it was found to be.

        That is 8000 while the jumper is closed, and less than asked where the firmware went down by itself. Raises
        ``ProgrammerError`` with ``programmer-is-bootloader``, should the device be one after all.
        """
        self._target = None
        self._part = part
        try:
            entry = await self._enter(_DEFAULT_HZ if sck_hz is None else sck_hz)
        except ProgrammerError as error:
            self._is_bootloader = error.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
            raise
        if entry.has_target:
            self._is_slow_jumper = entry.is_slow_jumper
        self._target = AspTarget(self._channel, part, entry.sck_hz)
        return entry.sck_hz

    async def leave(self) -> None:
        """Let go of all pins; shielded, so that a cancelled task does it too. Harmless at any time."""
        with anyio.CancelScope(shield=True):
            self._target = None
            if not self._is_bootloader:
                await let_go(self._channel)

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        return await self._entered().transfer(instructions)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM."""
        return await self._entered().read(memory, span, monitor)

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes; ``part`` must be the one programming mode was entered with."""
        if part != self._part:
            raise LocalProtocolError(f"programming mode was not entered for {part.id}")
        return await self._entered().write(memory, pages, monitor)

    async def aclose(self) -> None:
        """Close the device; never raises."""
        await self._channel.aclose()

    async def _enter(self, limit_hz: int) -> Entry:
        """Enter at the fastest clock not above the limit; before 3 MHz is used for the first time it is put to the proof."""
        if limit_hz >= FASTEST_HZ in self._firmware.sck_hz and self._has_3_mhz is None:
            self._has_3_mhz = await is_faster_at_3_mhz(self._channel, self._firmware)
            if self._has_3_mhz is False:
                self._firmware = self._firmware.without_3_mhz()
        usable = [hz for hz in self._firmware.sck_hz if hz < FASTEST_HZ or self._has_3_mhz]
        return await enter(
            self._channel, self._firmware, max((hz for hz in usable if hz <= limit_hz), default=usable[0])
        )

    def _entered(self) -> AspTarget:
        if self._target is None:
            # the firmware would jump to nowhere if it was never connected
            raise LocalProtocolError("programming mode was not entered")
        return self._target


class UsbAspDriver:
    """See :class:`~ispd.programmers.contract.Driver`."""

    kind: str = KIND
    interface: Literal[Interface.ISP] = Interface.ISP
    port_kind: PortKind = PortKind.USB
    default_baud: int | None = None

    def claims(self, usb: UsbIdentity) -> bool:
        """Claim only what names itself a USBasp: the id alone is shared by many devices that are none."""
        return (usb.vendor_id, usb.product_id, usb.manufacturer, usb.product) in _CLAIMED

    async def open(
        self,
        hardware: Opener,
        port: str,
        *,
        baud: int | None = None,  # noqa: ARG002 - not a serial port
        usb: UsbIdentity | None = None,  # noqa: ARG002 - a configured clone may show anything
    ) -> IspProgrammer:
        """Open the device, find out what it is, and release a target that an earlier run may have left in reset."""
        channel = ControlChannel(await hardware.open_usb(port))
        is_ready = False
        try:
            programmer = UsbAspProgrammer(channel, await recognise(channel))
            is_ready = True
        finally:
            if not is_ready:
                await channel.aclose()
        return programmer


DRIVER: Final = UsbAspDriver()
