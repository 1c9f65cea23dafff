"""How an ST-Link takes hold of a target, and lets it go again."""

from contextlib import suppress
from typing import Final

import anyio

from ispd.errors import (
    ErrorCode,
    IspdError,
    LinkClosedError,
    LinkTimeoutError,
    ProgrammerError,
    RemoteProtocolError,
    TargetError,
)
from ispd.programmers.stlink_channel import StlinkChannel
from ispd.programmers.swd_contract import SwdCapabilities, SwdConnection, SwdSettings
from ispd.transport.clock import Clock
from ispd.wire.cortex_m import CPUID, DEMCR, DEMCR_CATCH_RESET, DEMCR_TRACE, DHCSR, Dhcsr, dhcsr
from ispd.wire.stlink import (
    DriveReset,
    EnterSwd,
    GetExtendedVersion,
    GetIdCode,
    GetMode,
    GetVersion,
    GetVoltage,
    LeaveDebug,
    LeaveDfu,
    LeaveSwim,
    Mode,
    OpenAccessPort,
    ResetLine,
    SetClock,
    SetDivisor,
)
from ispd.wire.stlink_firmware import DEFAULT_HZ, SWD_DIVISORS, Firmware, supported_clock
from ispd.wire.stlink_packet import StlinkCommand
from ispd.wire.stlink_status import UNKNOWN_COMMAND, SwdStatusError
from ispd.wire.stlink_target import ReadWord, WriteWord

__all__ = ["Entry", "leave", "read_version"]

_LOWEST_MV: Final = 2000
_HIGHEST_MV: Final = 3600
"""Supply of an STM32F1 (its data sheets, "General operating conditions")."""
_DEAD_MV: Final = 1800
"""Below this the chip's own supervision keeps it in power-on reset, debug port included (PDR, the same data sheets): one that
answers has more, and the ST-Link does not measure, as clones without the divider."""

_RESET_S: Final = 0.002
"""How long NRST is held low; 1 ms is enough."""
_HALT_S: Final = 0.1
_HALT_POLL_S: Final = 0.001

_LEAVE_S: Final = 5.0
_LEAVE_TRIES: Final = 2
"""A disturbance may hit the very command that lets the target go."""


async def read_version(channel: StlinkChannel) -> Firmware:
    """Return the firmware's version.

    An ST-Link that somebody was killed at gives the rest of an old answer first, and gets a second try.
    Raises ``ProgrammerError``: programmer-cannot where it is too old for SWD as spoken here, programmer-silent where it is stuck.
    """
    firmware = await _ask_version(channel) or await _ask_version(channel)
    if firmware is None:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_SILENT,
            f"the ST-Link on {channel.name} does not answer",
            hint="unplug it and plug it in again: a program that was killed while it used it leaves it stuck",
        )
    if firmware.lists_clocks:
        firmware = await channel.ask(GetExtendedVersion())
    if not firmware.can_debug:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"the ST-Link on {channel.name} has firmware {firmware}, which is too old",
            hint="update it with ST's STSW-LINK007",
        )
    return firmware


async def _ask_version(channel: StlinkChannel) -> Firmware | None:
    try:
        return await channel.ask(GetVersion())
    except (LinkTimeoutError, RemoteProtocolError):
        return None


class Entry:
    """One attempt at a target."""

    def __init__(self, channel: StlinkChannel, firmware: Firmware, capabilities: SwdCapabilities, clock: Clock) -> None:
        self._channel = channel
        self._firmware = firmware
        self._capabilities = capabilities
        self._clock = clock
        self._warnings: list[str] = []

    async def enter(self, settings: SwdSettings) -> SwdConnection:
        """Take hold of the target; see ``SwdProgrammer.connect``. What was begun is left to the caller to end."""
        await self._leave_old_mode()
        voltage_mv = await self._check_voltage()
        clock_hz = await self._set_clock(settings)
        try:
            id_code = await self._find_target(under_reset=settings.under_reset)
        except TargetError as error:
            if voltage_mv is not None and voltage_mv < _DEAD_MV:
                raise _no_supply(voltage_mv) from error
            raise
        if settings.under_reset:
            await self._halt_at_reset()
        cpuid = await self._channel.ask(ReadWord(CPUID))
        return SwdConnection(
            clock_hz=clock_hz, id_code=id_code, cpuid=cpuid, voltage_mv=voltage_mv, warnings=tuple(self._warnings)
        )

    async def _find_target(self, *, under_reset: bool) -> int:
        """Speak to the target for the first time, and return its id. Raises ``TargetError`` where nobody answers."""
        if under_reset:
            # before entering, too: by then the target's program may have turned its debug pins off. There the ST-Link may not
            # know yet which pin it is, and refuse; then the second one must do.
            with suppress(TargetError):
                await self._channel.ask(DriveReset(ResetLine.LOW))
        await self._channel.ask(EnterSwd())
        if under_reset:
            await self._channel.ask(DriveReset(ResetLine.LOW))
            await self._clock.sleep(_RESET_S)
        if self._firmware.opens_access_ports:
            await self._knows(OpenAccessPort())  # where that is not known, nothing needs to be opened
        id_code = await self._channel.ask(GetIdCode())
        if id_code == 0:
            raise SwdStatusError(0x09, "reading the id")
        return id_code

    async def _leave_old_mode(self) -> None:
        """Make it idle: after power-up its firmware waits in DFU mode, others may have left it in SWIM or debug mode."""
        leaving: dict[Mode, StlinkCommand[None]] = {
            Mode.DFU: LeaveDfu(),
            Mode.SWIM: LeaveSwim(),
            Mode.DEBUG: LeaveDebug(),
        }
        mode = await self._channel.ask(GetMode())
        if mode in leaving:
            await self._channel.ask(leaving[mode])
            mode = await self._channel.ask(GetMode())
        if mode in (Mode.DFU, Mode.LOADER):
            raise ProgrammerError(
                ErrorCode.PROGRAMMER_IS_BOOTLOADER,
                f"the ST-Link on {self._channel.name} does not leave its loader",
                hint="re-plug it; if it stays so, install its firmware anew with ST's STSW-LINK007",
            )

    async def _check_voltage(self) -> int | None:
        """Return the target's supply in mV, None where it is not known. Raises ``TargetError`` where it is too low.

        A reading that no answering target can have is left to what follows.
        """
        if not self._firmware.reads_voltage:
            return None
        voltage_mv = await self._channel.ask(GetVoltage())
        if voltage_mv is None:
            self._warnings.append("the ST-Link does not measure the board's supply")
        elif _DEAD_MV <= voltage_mv < _LOWEST_MV:
            raise _no_supply(voltage_mv)
        elif voltage_mv < _LOWEST_MV:
            self._warnings.append(f"the board's supply reads {voltage_mv / 1000:.2f} V, which is not believed")
        elif voltage_mv > _HIGHEST_MV:
            self._warnings.append(f"the board's supply is {voltage_mv / 1000:.2f} V, more than 3.6 V")
        return voltage_mv

    async def _set_clock(self, settings: SwdSettings) -> int:
        """Set SWD's clock where that can be done, and return the one in use."""
        limit_hz = self._capabilities.default_hz if settings.clock_hz is None else settings.clock_hz
        clock_hz = supported_clock(self._capabilities.clock_hz, limit_hz)
        setting: StlinkCommand[None] | None = None
        if self._firmware.lists_clocks:
            setting = SetClock(clock_hz)
        elif self._firmware.sets_divisor:
            setting = SetDivisor(SWD_DIVISORS[clock_hz])
        # the slower one counts until it is certain which is set
        self._channel.clock_hz = min(self._channel.clock_hz, clock_hz)
        if setting is not None and not await self._knows(setting):
            self._warnings.append("the ST-Link does not set SWD's clock, whatever its version says")
            clock_hz = DEFAULT_HZ
        self._channel.clock_hz = clock_hz
        return clock_hz

    async def _knows(self, command: StlinkCommand[None]) -> bool:
        """Carry out what follows from the firmware's version; false where there is no such command: clones claim what they like."""
        try:
            await self._channel.ask(command)
        except SwdStatusError as error:
            if error.status not in UNKNOWN_COMMAND:
                raise
            return False
        return True

    async def _halt_at_reset(self) -> None:
        """Let go of NRST with the core told to halt at its first instruction; raises ``TargetError`` where it does not."""
        await self._channel.ask(WriteWord(DHCSR, dhcsr(Dhcsr.DEBUG | Dhcsr.HALT)))
        await self._channel.ask(WriteWord(DEMCR, DEMCR_CATCH_RESET))
        # forgets the reset at power-up: one that goes on is seen again (ARM DDI 0403, DHCSR.S_RESET_ST)
        await self._channel.ask(ReadWord(DHCSR))
        await self._channel.ask(DriveReset(ResetLine.HIGH))
        seen = Dhcsr(0)
        deadline = self._clock.monotonic() + _HALT_S
        while Dhcsr.IS_HALTED not in seen:
            if self._clock.monotonic() > deadline:
                raise TargetError(
                    ErrorCode.TARGET_NOT_RESPONDING,
                    "the core does not halt after a reset",
                    hint="check NRST, SWDIO, SWCLK and the board's supply",
                )
            await self._clock.sleep(_HALT_POLL_S)
            seen |= Dhcsr(await self._channel.ask(ReadWord(DHCSR)))
        await self._channel.ask(WriteWord(DEMCR, DEMCR_TRACE))
        if Dhcsr.WAS_RESET not in seen:
            self._warnings.append("NRST does not reset the target: is it connected?")


async def leave(channel: StlinkChannel, *, had_reset: bool) -> IspdError | None:
    """Let the core run and go, whatever happened before, cancellation included; return what went wrong first.

    :param had_reset: NRST may be low.
    """
    go = WriteWord(DHCSR, dhcsr(Dhcsr.DEBUG))
    commands: list[StlinkCommand[None]] = [WriteWord(DEMCR, 0), go, WriteWord(DHCSR, dhcsr(Dhcsr(0))), LeaveDebug()]
    if had_reset:
        commands.insert(0, DriveReset(ResetLine.HIGH))
    failure: IspdError | None = None
    runs = False
    with anyio.move_on_after(_LEAVE_S, shield=True) as scope:
        for command in commands:
            wrong = await _insist(channel, command)
            if isinstance(wrong, LinkClosedError):  # unplugged: nothing holds the target any more
                return wrong
            if runs and isinstance(wrong, TargetError):  # its program has turned the debug pins off already
                continue
            runs = runs or (command is go and wrong is None)
            failure = failure or wrong
    return LinkTimeoutError(channel.name, _LEAVE_S) if scope.cancelled_caught else failure


async def _insist(channel: StlinkChannel, command: StlinkCommand[None]) -> IspdError | None:
    """Carry out a command, once more where it was disturbed on its way; return what went wrong at last."""
    wrong: IspdError | None = None
    for _ in range(_LEAVE_TRIES):
        try:
            await channel.ask(command)
        except (LinkTimeoutError, RemoteProtocolError) as error:
            wrong = error
        except IspdError as error:  # the target's own word, or the plug
            return error
        else:
            return None
    return wrong


def _no_supply(voltage_mv: int) -> TargetError:
    return TargetError(
        ErrorCode.TARGET_NOT_RESPONDING,
        f"the target has {'no' if voltage_mv < _DEAD_MV else 'too low a'} supply: {voltage_mv / 1000:.2f} V",
        hint="connect 3.3 V and GND; a genuine ST-Link/V2 supplies nothing, and must have the board's 3.3 V on its VAPP pin",
    )
