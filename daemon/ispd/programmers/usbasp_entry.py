"""What answers as a USBasp, and the way into programming mode: which firmware, which SCK in truth, or no programmer at all.

A keyboard that runs USBaspLoader shows USBasp's own identity and answers most requests alike, but it is a target: writing
through it would write into it. It betrays itself by its SPI replies. A target in programming mode repeats each byte of
an instruction while the next one is clocked (data sheets, "Serial Programming Instruction Set"); the loader's answers
hold three zeros (baerwolf/USBaspLoader ``main.c``), or repeat the bytes undelayed (df4iah's), or are empty. It also says
that programming mode was entered, each time; a programmer without a target never does.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import anyio

from ispd.errors import ErrorCode, ProgrammerError, RemoteProtocolError
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbasp_clock import HARDWARE_SPI_S, SOFTWARE_HZ, block_s, nearest_hz, spi_s
from ispd.wire import avr_isp
from ispd.wire.usbasp import (
    CAN_3_MHZ,
    SCK_OPTIONS,
    Connect,
    Disconnect,
    EnableProg,
    GetCapabilities,
    SetIspSck,
    Transmit,
    can_3_mhz,
)

__all__ = [
    "FASTEST_HZ",
    "FIXED_HZ",
    "SLOW_JUMPER_HZ",
    "Entry",
    "Firmware",
    "enter",
    "is_faster_at_3_mhz",
    "let_go",
    "recognise",
]

FIXED_HZ: Final = 375_000
"""SCK of firmware without SETISPSCK."""

SLOW_JUMPER_HZ: Final = 8_000
"""SCK while jumper J3 is closed (stock firmware, PC2 low), whatever is asked."""

FASTEST_HZ: Final = 3_000_000
"""What some forks have, and some only say to have."""

_REQUEST_S: Final = 1.0
_ENABLE_S: Final = 5.0
"""Forks try every option down to 500 Hz, 66 ms each and more, before they give up; avrdude's time-out."""

_LOOK_HZ: Final = 93_750
"""Slow enough for a target at 1 MHz, and still the SPI unit's own."""

_RELEASED_S: Final = 0.005
"""Between letting go of reset and pulling it again: a capacitor of 100 nF at the usual 10 kOhm charges in 1 ms. CONNECT's own
pulse lasts 5 us at times, too short for slow targets."""

_RESET_S: Final = (0.025, 0.1)
"""Reset low before entering: data sheets ask for 20 ms; the second time what avrdude waits."""

_FORK_S: Final = 0.2
"""A vain ENABLEPROG that takes longer has pulled reset anew and waited many times by itself (forks)."""

_ROUNDS: Final = 3
_OPTION_TRIES_S: Final = 0.06
"""Three tries in vain at one option, before a fork goes to the next slower one: 3 * (0.32 + 19.84) ms and SPI (nerdralph),
and 3 * 1.6 ms more for its question for an AT89S (dioannidis)."""

_FIRST_TRY_S: Final = 0.018
_STEP_LIMIT: Final = 12
"""Entries in search of the clock: twice for each hardware clock of the firmware."""

_FASTER: Final = 0.95
"""A block takes 8 ms instead of 10 on SPI at 3 MHz, and up to 27 ms of USB either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What the firmware was found to be able to do. ``capabilities`` None: it does not know the request."""

    capabilities: int | None
    sets_sck: bool

    @property
    def max_flash_bytes(self) -> int | None:
        """Largest flash it addresses: 16 bits before 2007, 4D since 2011 (Changelog.txt)."""
        if self.capabilities is not None:
            return None
        return 0x20000 if self.sets_sck else 0x10000

    @property
    def sck_hz(self) -> tuple[int, ...]:
        """SPI clocks it offers, slowest first."""
        if not self.sets_sck:
            return (FIXED_HZ,)
        return tuple(SCK_OPTIONS) if can_3_mhz(self.capabilities) else tuple(SCK_OPTIONS)[:-1]

    def without_3_mhz(self) -> "Firmware":
        """Return the same firmware, not believed about its fastest clock."""
        return replace(self, capabilities=(self.capabilities or 0) & ~CAN_3_MHZ)

    def __str__(self) -> str:
        if not self.sets_sck:
            return "USBasp before 2009: cannot set SCK, 375 kHz fixed (8 kHz with jumper J3); new firmware is advised"
        if self.capabilities is None:
            return "USBasp of 2009"
        return f"USBasp since 2011, capabilities {self.capabilities:08X}"


class _OtherEnd(Enum):
    """Who is behind the device."""

    TARGET = "target"
    NOBODY = "nobody"
    LOADER = "loader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """How entering programming mode went. ``sck_hz`` is the clock in use, as far as it can be told."""

    sck_hz: int
    has_target: bool
    is_slow_jumper: bool = False


async def recognise(channel: ControlChannel) -> Firmware:
    """Find out what answers, before anything is written; the target, if any, is looked at and released.

    Raises ``ProgrammerError`` with ``programmer-silent`` or ``programmer-is-bootloader``.
    """
    is_held = False
    try:
        (capabilities,) = await channel.submit([GetCapabilities()], timeout_s=_REQUEST_S)
        (sets_sck,) = await channel.submit([SetIspSck(SCK_OPTIONS[_LOOK_HZ])], timeout_s=_REQUEST_S)
        is_held = True
        await channel.submit([Connect()], timeout_s=_REQUEST_S)
        await anyio.sleep(_RESET_S[0])
        if await _enable(channel) and await _other_end(channel) is _OtherEnd.LOADER:
            is_held = False
            raise bootloader_error(channel)
    except RemoteProtocolError as error:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_SILENT,
            f"the device {channel.identity} on {channel.name} does not answer as a USBasp: {error.message}",
            hint="check that the slot's port and programmer kind belong together; 16C0:05DC is shared by many devices",
        ) from error
    finally:
        if is_held:
            with anyio.CancelScope(shield=True):
                await let_go(channel)
    return Firmware(capabilities=capabilities, sets_sck=sets_sck)


def bootloader_error(channel: ControlChannel) -> ProgrammerError:
    """Return the error for a board that only pretends to be a programmer."""
    return ProgrammerError(
        ErrorCode.PROGRAMMER_IS_BOOTLOADER,
        f"{channel.name} is a board in its USBaspLoader bootloader, not a USBasp; nothing was written",
        hint="this is a keyboard: unplug it, or reset it so that it leaves its bootloader; plug a USBasp into this port",
    )


async def let_go(channel: ControlChannel) -> None:
    """Release the target. Never to be sent to a bootloader, which it would end."""
    await channel.submit([Disconnect()], timeout_s=_REQUEST_S)


async def enter(channel: ControlChannel, firmware: Firmware, sck_hz: int) -> Entry:
    """Enter programming mode at ``sck_hz``, one of the firmware's clocks, through a reset that the target must notice.

    Where a fork went down to a slower clock by itself the entry is repeated at that one, so that it is known; only
    when it took long twice, since the host may have been busy.
    Raises ``ProgrammerError`` with ``programmer-is-bootloader``.
    """
    doubted_hz: int | None = None
    for _ in range(_STEP_LIMIT):
        enable_s, has_target = await _connect(channel, firmware, sck_hz)
        other_end = await _other_end(channel) if has_target else _OtherEnd.NOBODY
        if other_end is _OtherEnd.LOADER:
            raise bootloader_error(channel)
        if other_end is _OtherEnd.NOBODY:
            spi_is_on = not has_target and enable_s <= _FORK_S
            return Entry(
                sck_hz=sck_hz if spi_is_on else await _by_software(channel, firmware, sck_hz), has_target=False
            )
        took_s = await spi_s(channel, sck_hz, has_capabilities=firmware.capabilities is not None)
        steps = int((enable_s - _FIRST_TRY_S) / _OPTION_TRIES_S)
        if took_s >= HARDWARE_SPI_S:
            actual_hz = nearest_hz(took_s)
            is_jumper = actual_hz == SLOW_JUMPER_HZ != sck_hz and enable_s < _FORK_S
            return Entry(sck_hz=actual_hz, has_target=True, is_slow_jumper=is_jumper)
        if steps == 0 or sck_hz <= SOFTWARE_HZ or not firmware.sets_sck:
            break
        sck_hz, doubted_hz = (_slower(sck_hz, steps), None) if doubted_hz == sck_hz else (sck_hz, sck_hz)
    return Entry(sck_hz=sck_hz, has_target=True)


async def _connect(channel: ControlChannel, firmware: Firmware, sck_hz: int) -> tuple[float, bool]:
    """Pull reset and enable programming, a second time with more patience; return how long the last try took."""
    enable_s, has_target = 0.0, False
    for reset_s in _RESET_S:
        await let_go(channel)
        await anyio.sleep(_RELEASED_S)
        if firmware.sets_sck:
            await channel.submit([SetIspSck(SCK_OPTIONS[sck_hz])], timeout_s=_REQUEST_S)
        await channel.submit([Connect()], timeout_s=_REQUEST_S)
        await anyio.sleep(reset_s)
        begun = anyio.current_time()
        has_target = await _enable(channel)
        enable_s = anyio.current_time() - begun
        if has_target or enable_s > _FORK_S:
            break
    return enable_s, has_target


async def _enable(channel: ControlChannel) -> bool:
    """Tell whether a target answers."""
    (has_target,) = await channel.submit([EnableProg()], timeout_s=_ENABLE_S)
    return has_target


async def _other_end(channel: ControlChannel) -> _OtherEnd:
    """Tell what it is that is said to answer: a loader where no reply is what SPI would bring, each time it is asked.

    A target that was lost just now is no loader: asked again, the programmer says so.
    """
    for _ in range(_ROUNDS):
        for index in range(3):
            if not await _pretends(channel, avr_isp.read_signature(index)):
                return _OtherEnd.TARGET
        if not await _enable(channel):
            return _OtherEnd.NOBODY
    return _OtherEnd.LOADER


async def _by_software(channel: ControlChannel, firmware: Firmware, sck_hz: int) -> int:
    """Make sure that instructions can be sent though nobody answered, and return the clock they are sent at.

    Forks leave their SPI unit off then, and TRANSMIT would wait for it for ever (``ispTransmit_hw``); connected anew at a
    clock of software they move the pins themselves. Stock firmware stays at its clock, to show what is on the line.
    """
    if not firmware.sets_sck:
        return sck_hz
    sck_hz = min(sck_hz, SOFTWARE_HZ)
    await channel.submit([SetIspSck(SCK_OPTIONS[sck_hz])], timeout_s=_REQUEST_S)
    await channel.submit([Connect()], timeout_s=_REQUEST_S)
    return sck_hz


async def _pretends(channel: ControlChannel, instruction: bytes) -> bool:
    """Tell whether the reply to an instruction is one that a loader makes up."""
    try:
        (reply,) = await channel.submit([Transmit(instruction)], timeout_s=_REQUEST_S)
    except RemoteProtocolError:
        return True
    return reply[:3] in (bytes(3), instruction[:3])


async def is_faster_at_3_mhz(channel: ControlChannel, firmware: Firmware) -> bool | None:
    """Tell whether option 13 is what it is called, by the time that blocks take; None without a target at 1.5 MHz.

    A firmware without it takes the option for another one, mostly 375 kHz.
    """
    seconds = []
    for sck_hz in (FASTEST_HZ // 2, FASTEST_HZ):
        entry = await enter(channel, firmware, sck_hz)
        if not entry.has_target or entry.sck_hz != sck_hz:
            return None if sck_hz != FASTEST_HZ else False
        seconds.append(min([await block_s(channel) for _ in range(_ROUNDS)]))
    return seconds[1] < seconds[0] * _FASTER


def _slower(sck_hz: int, steps: int) -> int:
    clocks = tuple(SCK_OPTIONS)
    return clocks[max(0, clocks.index(sck_hz) - steps)]
