"""ST-Link V2, V2-1 and V3 as SWD programmers. Sources are named in :mod:`ispd.wire.stlink_firmware`."""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError
from ispd.model.span import Span
from ispd.programmers.contract import Monitor, ProgrammerIdentity
from ispd.programmers.stlink_channel import StlinkChannel
from ispd.programmers.stlink_entry import Entry, leave, read_version
from ispd.programmers.swd_contract import Place, SwdCapabilities, SwdConnection, SwdSettings
from ispd.transport.clock import Clock
from ispd.transport.contract import Opener, UsbIdentity, UsbLink
from ispd.wire.cortex_m import CoreRegister, core_name
from ispd.wire.stlink import DriveReset, GetClocks, GetMode, Mode, ResetLine
from ispd.wire.stlink_firmware import (
    DEFAULT_HZ,
    MODELS,
    SAFE_WINDOW_BYTES,
    SWD_DIVISORS,
    VENDOR_ID,
    WIDE_WINDOW_BYTES,
    Firmware,
    Generation,
    Model,
    Piece,
    pieces,
    shown_serial,
)
from ispd.wire.stlink_packet import StlinkCommand
from ispd.wire.stlink_target import (
    GetMemoryStatus,
    ReadMemory,
    ReadRegister,
    ReadWord,
    WriteMemory,
    WriteRegister,
    WriteWord,
)

__all__ = ["KIND", "StlinkProbe", "open_stlink"]

KIND: Final = "stlink"

C = TypeVar("C", bound=StlinkCommand[Any])

_BATCH_BYTES: Final = 4096
"""Pieces of memory are written in batches up to this, a block for a chip's RAM: a longer one could not be cancelled for long."""

_WIDE_CORES: Final = frozenset({"Cortex-M3", "Cortex-M4"})


class StlinkProbe:
    """An open ST-Link; see :class:`~ispd.programmers.swd_contract.SwdProgrammer`. Made by :func:`open_stlink`."""

    def __init__(
        self, channel: StlinkChannel, firmware: Firmware, clocks: tuple[int, ...] | None, clock: Clock
    ) -> None:
        self._channel = channel
        self._firmware = firmware
        self._clock = clock
        self._identity = ProgrammerIdentity(
            kind=KIND, port=channel.name, firmware=str(firmware), serial=shown_serial(channel.identity.serial)
        )
        self._clocks = clocks
        self._window_bytes = SAFE_WINDOW_BYTES
        self._is_connected = False

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the device was opened."""
        return self._identity

    @property
    def capabilities(self) -> SwdCapabilities:
        """Clocks: the ladder of a V2 since J22, a V3's own list, else the one of power-up."""
        clocks: tuple[int, ...] = (DEFAULT_HZ,)
        if self._clocks is not None:
            clocks = self._clocks
        elif self._firmware.sets_divisor:
            clocks = tuple(SWD_DIVISORS)
        default_hz = max((hz for hz in clocks if hz <= DEFAULT_HZ), default=clocks[0])
        return SwdCapabilities(clock_hz=clocks, default_hz=default_hz)

    async def connect(self, settings: SwdSettings) -> SwdConnection:
        """Take hold of the target; see the contract."""
        entry = Entry(self._channel, self._firmware, self.capabilities, self._clock)
        self._is_connected = True  # before the call: what is begun must be ended
        is_done = False
        try:
            found = await entry.enter(settings)
            is_done = True
        finally:
            if not is_done:
                await leave(self._channel, had_reset=settings.under_reset)
                self._is_connected = False
        is_wide = core_name(found.cpuid) in _WIDE_CORES
        self._window_bytes = WIDE_WINDOW_BYTES if is_wide else SAFE_WINDOW_BYTES
        return found

    async def disconnect(self) -> None:
        """Let the core run, and go."""
        if not self._is_connected:
            return
        failure = await leave(self._channel, had_reset=True)
        self._is_connected = False
        if failure is not None:
            raise failure

    async def read(self, span: Span, monitor: Monitor) -> bytes:
        """Read any bytes of memory."""
        self._check_connected()
        found = bytearray()
        for piece in self._pieces(span):
            if monitor.stop_requested:
                break
            reading: StlinkCommand[bytes | None] = ReadMemory(
                piece.width, piece.span.start, len(piece.span), self._firmware.byte_limit
            )
            data, _ = await self._channel.ask_all([reading, self._status("reading memory", piece)])
            found += data or b""
            monitor.advance(len(piece.span))
        return bytes(found)

    async def write(self, address: int, data: bytes) -> None:
        """Write any bytes of memory."""
        self._check_connected()
        batch: list[StlinkCommand[None]] = []
        size = 0
        for piece in self._pieces(Span(address, address + len(data))):
            if batch and size + len(piece.span) > _BATCH_BYTES:
                await self._channel.ask_all(batch)
                batch, size = [], 0
            part = data[piece.span.start - address : piece.span.stop - address]
            writing = WriteMemory(piece.width, piece.span.start, part, self._firmware.byte_limit)
            batch += [writing, self._status("writing memory", piece)]
            size += len(part)
        if batch:
            await self._channel.ask_all(batch)

    async def read_word(self, address: int) -> int:
        """Read a word of 32 bits."""
        return await self._channel.ask(self._connected(ReadWord(address)))

    async def write_word(self, address: int, value: int) -> None:
        """Write a word of 32 bits."""
        await self._channel.ask(self._connected(WriteWord(address, value)))

    async def read_register(self, register: CoreRegister) -> int:
        """Read a register of the halted core."""
        return await self._channel.ask(self._connected(ReadRegister(register)))

    async def write_register(self, register: CoreRegister, value: int) -> None:
        """Write a register of the halted core."""
        await self._channel.ask(self._connected(WriteRegister(register, value)))

    async def read_all(self, places: Sequence[Place]) -> tuple[int, ...]:
        """Read registers and words in one batch."""
        self._check_connected()
        return tuple(await self._channel.ask_all([_reading(place) for place in places]))

    async def write_all(self, values: Sequence[tuple[Place, int]]) -> None:
        """Write registers and words in one batch, which ends with the first that fails."""
        self._check_connected()
        await self._channel.ask_all([_writing(place, value) for place, value in values])

    async def hold_reset(self, *, is_held: bool) -> None:
        """Move NRST."""
        await self._channel.ask(self._connected(DriveReset(ResetLine.LOW if is_held else ResetLine.HIGH)))

    async def aclose(self) -> None:
        """Close the device; never raises."""
        await self._channel.aclose()

    def _pieces(self, span: Span) -> Sequence[Piece]:
        return tuple(pieces(span, window_bytes=self._window_bytes, byte_limit=self._firmware.byte_limit))

    def _status(self, what: str, piece: Piece) -> StlinkCommand[None]:
        return GetMemoryStatus(self._firmware.tells_fault_address, what, piece.span.start)

    def _connected(self, command: C) -> C:
        """Return the command, which makes sense only on a connected target."""
        self._check_connected()
        return command

    def _check_connected(self) -> None:
        if not self._is_connected:
            raise LocalProtocolError("no target is connected")


def _reading(place: Place) -> StlinkCommand[int]:
    return ReadRegister(place) if isinstance(place, CoreRegister) else ReadWord(place)


def _writing(place: Place, value: int) -> StlinkCommand[None]:
    return WriteRegister(place, value) if isinstance(place, CoreRegister) else WriteWord(place, value)


async def open_stlink(hardware: Opener, port: str, clock: Clock) -> StlinkProbe:
    """Open the ST-Link at a place in the USB tree, make sure that it is one and can do SWD, and return it.

    Raises ``TransportError``, or ``ProgrammerError`` with ``programmer-cannot`` for an ST-Link/V1, for firmware that is too old
    and for what is none, ``programmer-is-bootloader`` for a V3 whose firmware was not started, ``programmer-silent`` for one that is stuck.
    """
    link = await hardware.open_usb(port)
    is_ready = False
    try:
        channel = StlinkChannel(link, _model(link), clock, DEFAULT_HZ)
        firmware = await read_version(channel)
        clocks = await _clocks(channel) if firmware.lists_clocks else None
        is_ready = True
    finally:
        if not is_ready:
            await link.aclose()
    return StlinkProbe(channel, firmware, clocks, clock)


async def _clocks(channel: StlinkChannel) -> tuple[int, ...]:
    """Return the clocks of a V3. Raises ``ProgrammerError`` (programmer-is-bootloader) where its firmware was not started."""
    if await channel.ask(GetMode()) is Mode.LOADER:
        raise _is_loader(channel.name)
    return await channel.ask(GetClocks())


def _is_loader(port: str) -> ProgrammerError:
    return ProgrammerError(
        ErrorCode.PROGRAMMER_IS_BOOTLOADER,
        f"the ST-Link V3 on {port} is in its loader",
        hint="re-plug it; if it stays so, install its firmware anew with ST's STSW-LINK007",
    )


def _model(link: UsbLink) -> Model:
    """Return what is there by its id, before anything is sent."""
    usb: UsbIdentity = link.identity
    model = MODELS.get(usb.product_id) if usb.vendor_id == VENDOR_ID else None
    if model is None:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT, f"{link.name} is {usb}, which is no ST-Link", hint="check the port's name"
        )
    if model.generation is Generation.V1:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"{link.name} is an ST-Link/V1, which is not supported",
            hint="use an ST-Link/V2, V2-1 or V3",
        )
    if model.generation is Generation.V3_LOADER:
        raise _is_loader(link.name)
    return model
