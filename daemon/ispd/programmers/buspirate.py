"""Bus Pirate v3 and v4 in their binary SPI mode; reset of the target is on CS.

The target's supply is on from entering to leaving and off otherwise. Where the Bus Pirate feeds the board, a board
between jobs is then without current and can be taken off and put on safely; where the board has a supply of its own
(USB, for what follows after ISP) nothing is fed back into it. avrdude does the same for the time it runs.
"""

import contextlib
from collections.abc import Sequence
from typing import Final, Literal

import anyio

from ispd.errors import IspdError, LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind
from ispd.model.span import Span
from ispd.programmers.buspirate_memory import TargetMemory
from ispd.programmers.buspirate_spi import Mode, Pirate
from ispd.programmers.contract import Capabilities, IspProgrammer, Monitor, ProgrammerIdentity
from ispd.transport.contract import Opener, PortKind, SerialSettings, UsbIdentity
from ispd.wire import avr_isp
from ispd.wire.buspirate import Bulk, Marked, Peripherals, Pins, Speed, SpiMode
from ispd.wire.buspirate_text import DEFAULT_BAUD
from ispd.wire.engine import Chain, Request

__all__ = ["DRIVER", "BusPirateDriver", "BusPirateProgrammer"]

KIND: Final = "buspirate"

_SPEEDS: Final = (31_250, 125_000, 250_000, 1_000_000, 2_000_000)
"""SCK by speed code (16 MHz through the SPI unit's prescalers). Codes from 5 on are wrong up to firmware 6.1."""

_SAFE_CODES: Final = 4
"""Speed codes 0 to 3 mean the same in every firmware."""

_DEFAULT_SCK_HZ: Final = 125_000
"""Slow enough for a factory-fresh part at 1 MHz."""

_POWER_S: Final = 0.05
"""From supply on to the first instruction, as avrdude waits; more than the 20 ms that reset must be low."""

_RESET_S: Final = 0.0205
"""Data sheets, "Serial Programming Algorithm": at least 20 ms after reset went low."""

_TRIES: Final = 4
_OTHER_EDGE_TRIES: Final = 2
_COMMAND_S: Final = 0.5
_CLOSE_S: Final = 1.5
_FIRST_SIGNATURE_BYTE: Final = 0x1E
"""Atmel's; every AVR's signature begins with it."""

_V4: Final = (0x04D8, 0xFB00)
"""A v3 shows nothing but its FTDI converter (0403:6001), which may be anything: it is named in the configuration."""


class BusPirateProgrammer:
    """An open Bus Pirate; see :class:`~ispd.programmers.contract.IspProgrammer`. Made by :class:`BusPirateDriver`."""

    def __init__(self, pirate: Pirate) -> None:
        self._pirate = pirate
        self._identity = ProgrammerIdentity(kind=KIND, port=pirate.name, firmware=pirate.firmware.text)
        codes = len(_SPEEDS) if pirate.firmware.has_sound_speeds else _SAFE_CODES
        self._speeds = _SPEEDS[:codes]
        self._edges = (True, False) if pirate.firmware.may_invert_edge else (True,)
        self._part: AvrPart | None = None
        self._code = 0
        self._memory: TargetMemory | None = None

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """Flash of any size, the clocks whose codes mean the same everywhere, flash and EEPROM in bulk."""
        return Capabilities(
            max_flash_bytes=None, sck_hz=self._speeds, bulk=frozenset({MemoryKind.FLASH, MemoryKind.EEPROM})
        )

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        """Switch the supply on and take the target into programming mode with a reset pulse."""
        limit_hz = _DEFAULT_SCK_HZ if sck_hz is None else sck_hz
        await self._let_go()
        self._part = part
        self._code = max((code for code, hz in enumerate(self._speeds) if hz <= limit_hz), default=0)
        await self._pirate.ensure()
        if part is not None:
            await self._pirate.suit(self._speeds[self._code])
        self._memory = await self._enter()
        return self._speeds[self._code]

    async def leave(self) -> None:
        """Make all pins inputs and switch the supply off; shielded, so that a cancelled task does it too."""
        with anyio.CancelScope(shield=True):
            await self._let_go()
            await self._pirate.to_bitbang()

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        memory = await self._entered()
        return await memory.transfer(instructions)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM."""
        target = await self._entered()
        return await target.read(memory, span, monitor)

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes; ``part`` must be the one programming mode was entered with."""
        if part != self._part:
            raise LocalProtocolError(f"programming mode was not entered for {part.id}")
        target = await self._entered()
        match memory:
            case MemoryKind.FLASH:
                return await target.write_flash(pages, monitor)
            case MemoryKind.EEPROM:
                return await target.write_eeprom(pages, monitor)
            case _:
                raise LocalProtocolError(f"{memory} is not written in blocks")

    async def aclose(self) -> None:
        """Put the Bus Pirate back into its terminal at 115200 baud and close the port; never raises."""
        with anyio.move_on_after(_CLOSE_S, shield=True):
            with contextlib.suppress(IspdError):  # unplugged or mute: there is nothing left to put back
                await self._pirate.restore()
        await self._pirate.aclose()

    async def _let_go(self) -> None:
        """Wait until the target has written the last page, before reset is moved."""
        if self._memory is not None:
            await anyio.sleep_until(self._memory.ready_at)
        self._memory = None

    async def _entered(self) -> TargetMemory:
        """Return the target in programming mode; enters again where the step was lost since."""
        if self._memory is None:
            raise LocalProtocolError("programming mode was not entered")
        if self._memory.is_stale:
            await self._pirate.ensure()
            self._memory = await self._enter()
        return self._memory

    async def _enter(self) -> TargetMemory:
        """Enter with the clock edge that is known to be right, or find out which is.

        Firmwares of 2017 to 2019 have that bit inverted; a target then sends garbage as its signature. Without a target
        nothing can be told, and the next entering tries again.
        """
        for edge in self._edges:
            await self._pull_reset(edge=edge)
            if await self._knock(_TRIES if edge else _OTHER_EDGE_TRIES) and await self._is_proven():
                self._edges = (edge,)
                break
        else:
            if len(self._edges) > 1:
                await self._pull_reset(edge=True)
                await self._knock(1)
        return TargetMemory(self._pirate, self._part, self._speeds[self._code])

    async def _pull_reset(self, *, edge: bool) -> None:
        """Set SPI up, which releases reset, then switch the supply on and pull reset low for as long as it takes.

        So a board without a supply of its own comes up with reset and SCK low, and any other sees a pulse.
        """
        is_fresh = self._pirate.mode is not Mode.SPI
        self._pirate.mode = Mode.SPI
        settings: tuple[Request[object], ...] = (Speed(self._code), Pins(edge=edge))
        # four bytes: no more than a v3 takes without reading
        batch = Chain((SpiMode(), *settings) if is_fresh else settings, Peripherals(power=True, cs_high=False))
        await self._pirate.command([batch], deadline_s=_COMMAND_S)
        await anyio.sleep(_POWER_S if is_fresh else _RESET_S)

    async def _knock(self, tries: int) -> bool:
        """Enable programming, with another pulse of reset before each further try; False where 53 was not repeated."""
        for number in range(tries):
            if number:
                pulse: list[Request[None]] = [
                    Marked(Peripherals(power=True, cs_high=cs_high)) for cs_high in (True, False)
                ]
                await self._pirate.command(pulse, deadline_s=_COMMAND_S)
                await anyio.sleep(_RESET_S)
            reply = await self._pirate.command([Marked(Bulk(avr_isp.program_enable()))], deadline_s=_COMMAND_S)
            if reply[0][2] == avr_isp.program_enable()[1]:
                return True
        return False

    async def _is_proven(self) -> bool:
        """Tell whether the clock edge is right: no doubt about it, or the target's signature begins as it must."""
        if len(self._edges) == 1:
            return True
        reply = await self._pirate.command([Marked(Bulk(avr_isp.read_signature(0)))], deadline_s=_COMMAND_S)
        return reply[0][3] == _FIRST_SIGNATURE_BYTE


class BusPirateDriver:
    """See :class:`~ispd.programmers.contract.Driver`."""

    kind: str = KIND
    interface: Literal[Interface.ISP] = Interface.ISP
    port_kind: PortKind = PortKind.SERIAL
    default_baud: int | None = DEFAULT_BAUD

    def claims(self, usb: UsbIdentity) -> bool:
        """Claim the v4 by its own identity; v5 and v6 speak this only after it was chosen on the device."""
        return (usb.vendor_id, usb.product_id) == _V4

    async def open(
        self,
        hardware: Opener,
        port: str,
        *,
        baud: int | None = None,
        usb: UsbIdentity | None = None,
    ) -> IspProgrammer:
        """Open the port and find the Bus Pirate at ``baud`` (115200), or at a rate an earlier run left it at."""
        first = DEFAULT_BAUD if baud is None else baud
        is_v4 = usb is not None and self.claims(usb)
        pirate = Pirate(await hardware.open_serial(SerialSettings(port=port, baud=first)), first, is_v4=is_v4)
        is_ready = False
        try:
            await pirate.open()
            is_ready = True
        finally:
            if not is_ready:
                await pirate.aclose()
        return BusPirateProgrammer(pirate)


DRIVER: Final = BusPirateDriver()
