"""Commands of the wire over the bulk endpoints of an open ST-Link."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeVar

import anyio
import anyio.lowlevel

from ispd.errors import ErrorCode, IspdError, LinkTimeoutError, ProtocolError, RemoteProtocolError, TargetError
from ispd.transport.clock import Clock
from ispd.transport.contract import BulkTransfer, UsbIdentity, UsbLink
from ispd.wire.stlink import GetMode
from ispd.wire.stlink_firmware import MAX_BLOCK_BYTES, Model
from ispd.wire.stlink_packet import Packet, StlinkCommand
from ispd.wire.stlink_status import HARMLESS, SwdWaitError

__all__ = ["StlinkChannel"]

R = TypeVar("R")

_TRIES: Final = 8
_FIRST_PAUSE_S: Final = 0.001
"""How often a command is repeated that met a target not ready, and the first pause, which doubles (OpenOCD's
``MAX_WAIT_RETRIES`` and its pauses); 255 ms altogether."""

_COMMAND_S: Final = 1.0
"""What a command may take besides its bits on the wire (OpenOCD's ``STLINK_READ_TIMEOUT``)."""
_CLOCKS_PER_BYTE: Final = 32
"""SWD clocks for a byte: a transfer of a word has 46, with the idle ones, retries and the address port below 128."""
_DRAIN_S: Final = 0.05
_MAX_DRAINS: Final = 4
"""An answer that comes late has come by then; and there are one or two, not many."""


class StlinkChannel:
    """An open device that understands :class:`~ispd.wire.stlink_packet.StlinkCommand` values.

    ``clock_hz``: SWD clock in use, by which time limits are set; to be changed along with the clock.
    """

    def __init__(self, link: UsbLink, model: Model, clock: Clock, clock_hz: int) -> None:
        self.clock_hz = clock_hz
        self._link = link
        self._model = model
        self._clock = clock
        self._has_lost_place = False

    @property
    def name(self) -> str:
        """Port of the device."""
        return self._link.name

    @property
    def identity(self) -> UsbIdentity:
        """What the device says it is."""
        return self._link.identity

    async def ask(self, command: StlinkCommand[R]) -> R:
        """Carry out a command, again where the target asks to wait, and return what its answer means.

        Raises what ``UsbLink.submit`` and the command's ``decode`` raise, ``TargetError`` (target-busy) where the target
        still asks to wait at last.
        """
        return (await self.ask_all([command]))[-1]

    async def ask_all(self, commands: Sequence[StlinkCommand[R]]) -> list[R]:
        """Carry out commands in one batch, and return what their answers mean.

        The first one that fails ends it: those after it were not sent. Where the target asks to wait all goes on from there; what
        was done is not done again. Commands without a status belong to the next one that has one, and are repeated with it.
        """
        meanings: list[R] = []
        tries, pause_s = 0, _FIRST_PAUSE_S
        while len(meanings) < len(commands):
            packets = [command.encode() for command in commands[len(meanings) :]]
            done, error = _decode(commands[len(meanings) :], packets, await self._submit(packets))
            if done:
                meanings += done
                tries, pause_s = 0, _FIRST_PAUSE_S
            if isinstance(error, SwdWaitError):
                tries += 1
                if tries == _TRIES:
                    raise _still_waits() from error
                await self._clock.sleep(pause_s)
                pause_s *= 2
            elif error is not None:
                self._has_lost_place = isinstance(error, ProtocolError)
                raise error
        return meanings

    async def aclose(self) -> None:
        """Close the device; never raises."""
        await self._link.aclose()

    async def _submit(self, packets: Sequence[Packet]) -> list[bytes]:
        """Carry out the commands' transfers in one batch, and return the answer of each, up to the first that is no success."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._find_place()
        # for each alike: while it is busy with one the ST-Link takes the next one not
        timeout_s = self._timeout_s(sum(len(packet.data) + packet.reply_bytes for packet in packets))
        transfers: list[BulkTransfer] = []
        answers: list[int | None] = []
        for packet in packets:
            transfers.append(self._out(packet.command, timeout_s))
            if packet.data:
                transfers.append(self._out(packet.data, timeout_s))
            answers.append(len(transfers) if packet.reply_bytes else None)
            if packet.reply_bytes:
                transfers.append(self._in(packet, timeout_s))
        self._has_lost_place = True
        # half a command would leave an ST-Link that takes the next one for data
        with anyio.CancelScope(shield=True):
            replies = await self._link.submit(transfers)
        self._has_lost_place = False
        return [b"" if index is None else replies[index] for index in answers if (index or 0) < len(replies)]

    async def _find_place(self) -> None:
        """Make sure that the next bytes are taken for a command, and the next answer is that command's.

        A harmless command goes first: an ST-Link that was promised data and got none takes it for them. Then what it
        answers is taken away, with what an answer that came too late left in the endpoint.
        """
        if not self._has_lost_place:
            return
        with suppress(LinkTimeoutError, RemoteProtocolError):
            await self._link.submit([self._out(GetMode().encode().command, _COMMAND_S)])
        late = BulkTransfer(endpoint=self._model.in_endpoint, length=MAX_BLOCK_BYTES, timeout_s=_DRAIN_S)
        with suppress(LinkTimeoutError):
            for _ in range(_MAX_DRAINS):
                await self._link.submit([late])
        self._has_lost_place = False

    def _out(self, data: bytes, timeout_s: float) -> BulkTransfer:
        return BulkTransfer(endpoint=self._model.out_endpoint, data=data, timeout_s=timeout_s)

    def _in(self, packet: Packet, timeout_s: float) -> BulkTransfer:
        return BulkTransfer(
            endpoint=self._model.in_endpoint,
            length=packet.reply_bytes,
            timeout_s=timeout_s,
            good_heads=HARMLESS if packet.has_status else None,
        )

    def _timeout_s(self, moved_bytes: int) -> float:
        return _COMMAND_S + moved_bytes * _CLOCKS_PER_BYTE / self.clock_hz


def _decode(
    commands: Sequence[StlinkCommand[R]], packets: Sequence[Packet], replies: Sequence[bytes]
) -> tuple[list[R], IspdError | None]:
    """Return the meanings of the answers up to the last good status, and what is wrong behind it."""
    meanings: list[R] = []
    good = 0
    for command, packet, reply in zip(commands, packets, replies, strict=False):
        try:
            meanings.append(command.decode(reply))
        except (TargetError, ProtocolError) as error:
            return meanings[:good], error
        good = len(meanings) if packet.has_status else good
    return meanings, None


def _still_waits() -> TargetError:
    return TargetError(
        ErrorCode.TARGET_BUSY,
        f"the target still asks to wait after {_TRIES} tries",
        hint="where the board's program may sleep, connect NRST, or set BOOT0 to 1 and press the board's reset button; else lower "
        "the SWD clock, check the board's supply, then flash it again",
    )
