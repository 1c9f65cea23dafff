"""Who answers on the line: synchronisation and identity of an STK500v1 peer.

An Uno's own bootloader (Optiboot) speaks STK500v1 as well and writes whatever it is given into the programmer itself.
Commands therefore pass only through :meth:`Sketch.command`, which refuses them unless this very conversation, since the
last loss of framing, began with an identity that no bootloader has.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import anyio

from ispd.errors import (
    ErrorCode,
    LinkTimeoutError,
    LocalProtocolError,
    ProgrammerError,
    RemoteProtocolError,
)
from ispd.transport.link import SerialLink
from ispd.wire.engine import Request
from ispd.wire.stk500v1 import SYNC_REPLY, GetParameter, Inquiry, Parameter, SignOn, Sync
from ispd.wire.window import Window, WindowPump

__all__ = ["PATIENCE_S", "Sketch"]

R = TypeVar("R")

PATIENCE_S = 3.5
"""How long to wait for a sign of life. An Uno that was reset by DTR answers after 1.7 s: 1 s of bootloader, 0.54 s of
blinking, start-up; the rest is for boards that have to be freed from half a block."""

_TRY_S = 0.2
_QUIET_S = 0.06
"""Late answers to earlier tries are over after this much silence: longer than any USB converter holds bytes back."""

_SETTLE_S = 0.3
_SETTLE_LIMIT_S = 1.0
"""Before a half-sent block is completed, the sketch gets time to finish the one before: 136 ms on the line at 19200 baud
and 100 ms of work for the largest. Until then its ring has no room."""

_FLOOD = bytes(56)
_BOOT_TRIES = 10
_STUCK_TRIES = 3
"""A sketch that waits for the rest of a block takes zeros for data, and zero is no end byte, so that nothing is
written. Sent only after so many silent tries that a booting board would have answered (fewer where one was heard
already), and never more at once than a 63 byte ring holds."""

_BOOTLOADER_EXIT_S = 1.3
"""Optiboot's watchdog ends it after 1 s without correctly framed bytes, so that this long we are silent."""

_BOOTLOADER_ROUNDS = 2
_INQUIRY_S = 0.6

_SKETCH_TYPE = 0x53
"""What ArduinoISP answers to parameter 93 (``S``, serial programmer); Optiboot answers 03."""

_SKETCH_NAMES = frozenset({"AVR ISP", "AVR STK"})
_ONE_AT_A_TIME = Window(ahead_bytes=0, ahead_requests=0)


class Sketch:
    """The peer behind a link, once it was recognised. ``window`` is what its receive buffer allows."""

    def __init__(self, link: SerialLink, window: Window) -> None:
        self._link = link
        self._window = window
        self._confirmed_epoch: int | None = None

    @property
    def name(self) -> str:
        """Path of the port."""
        return self._link.name

    @property
    def window(self) -> Window:
        """How far the peer lets us run ahead."""
        return self._window

    @property
    def epoch(self) -> int:
        """Changes with each loss of framing: what the peer was told before may be forgotten."""
        return self._link.epoch

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer is in step and was recognised as a programmer since the last loss of framing."""
        return self._link.in_sync and self._confirmed_epoch == self._link.epoch

    async def ensure(self, *, ask_again: bool = False) -> None:
        """Get in step and make sure who answers; at once where both are known, unless ``ask_again``.

        A bootloader is left alone until it gives way to the sketch. Raises ``ProgrammerError`` with
        ``programmer-silent`` or ``programmer-is-bootloader``.
        """
        if ask_again and self.is_confirmed and not await self._is_recognised():
            self._link.lose_sync()
        bootloader_rounds = 0
        end = anyio.current_time() + PATIENCE_S
        while not self.is_confirmed:
            if not self._link.in_sync and not await self._synchronise(end):
                raise self._silent() if bootloader_rounds == 0 else self._is_bootloader()
            if await self._is_recognised():
                self._confirmed_epoch = self._link.epoch
            elif self._link.in_sync:
                self._link.lose_sync()
                bootloader_rounds += 1
                if bootloader_rounds > _BOOTLOADER_ROUNDS:
                    raise self._is_bootloader()
                await self._link.listen(limit_s=_BOOTLOADER_EXIT_S)
                end = anyio.current_time() + PATIENCE_S - _BOOTLOADER_EXIT_S

    async def reconfirm(self) -> None:
        """Ask again who answers: one short round trip, due before anything is written.

        A board that was reset in between sits in its bootloader now. Raises ``ProgrammerError`` with
        ``programmer-is-bootloader``, or what :meth:`SerialLink.exchange` raises; the framing then counts as lost.
        """
        if not self.is_confirmed:
            raise LocalProtocolError("the programmer was not recognised yet")
        if not await self._recognise():
            self._link.lose_sync()
            raise self._is_bootloader()

    async def firmware(self) -> str:
        """Return the version of the sketch, for example ``1.18``."""
        major = await self._ask(GetParameter(Parameter.SOFTWARE_MAJOR))
        minor = await self._ask(GetParameter(Parameter.SOFTWARE_MINOR))
        return f"{major or 0}.{minor or 0}"

    async def command(
        self,
        requests: Iterable[Request[R]],
        *,
        deadline_s: float,
        window: Window | None = None,
        stop: Callable[[], bool] | None = None,
        on_reply: Callable[[R], None] | None = None,
    ) -> list[R]:
        """Send requests to a recognised programmer through its window (or another) and return their replies.

        With ``stop`` fewer replies than requests come back; errors are those of :meth:`SerialLink.exchange`.
        """
        if not self.is_confirmed:
            raise LocalProtocolError("nothing is sent to a peer that was not recognised as a programmer")
        pump = WindowPump(requests, window or self._window, stop=stop)
        return await self._link.exchange(pump, deadline_s=deadline_s, on_reply=on_reply)

    async def aclose(self) -> None:
        """Close the port; never raises."""
        await self._link.aclose()

    async def _synchronise(self, end: float) -> bool:
        """Find the peer's place in the framing; False where nothing sensible answered until ``end``."""
        if self._link.owed_bytes:
            await self._link.listen(limit_s=_SETTLE_LIMIT_S, quiet_s=_SETTLE_S)
            await self._link.say(bytes(self._link.owed_bytes))
        silent_tries, has_answered = 0, False
        while anyio.current_time() < end:
            is_stuck = silent_tries >= (_STUCK_TRIES if has_answered else _BOOT_TRIES)
            await self._link.say((_FLOOD if is_stuck else b"") + Sync().encode())
            heard = await self._link.listen(limit_s=_TRY_S, until=SYNC_REPLY)
            silent_tries = 0 if heard else silent_tries + 1
            has_answered = has_answered or bool(heard)
            if heard.endswith(SYNC_REPLY):
                late = await self._link.listen(limit_s=_TRY_S, quiet_s=_QUIET_S)
                if late == SYNC_REPLY * (len(late) // len(SYNC_REPLY)):
                    self._link.confirm_sync()
                    return True
        return False

    async def _recognise(self) -> bool:
        """Tell whether a programmer answers, and not something else."""
        if await self._ask(GetParameter(Parameter.PROGRAMMER_TYPE)) == _SKETCH_TYPE:
            return True
        return await self._ask(SignOn()) in _SKETCH_NAMES

    async def _is_recognised(self) -> bool:
        """Tell whether a programmer answers; no, with the framing lost, where nothing sensible does."""
        try:
            return await self._recognise()
        except (LinkTimeoutError, RemoteProtocolError):
            return False

    async def _ask(self, inquiry: Inquiry) -> int | str | None:
        """Ask what may be asked of anyone."""
        pump: WindowPump[int | str | None] = WindowPump([inquiry], _ONE_AT_A_TIME)
        replies = await self._link.exchange(pump, deadline_s=_INQUIRY_S)
        return replies[0]

    def _silent(self) -> ProgrammerError:
        return ProgrammerError(
            ErrorCode.PROGRAMMER_SILENT,
            f"nothing on {self.name} answers as an ISP programmer",
            hint="check that the board carries the ArduinoISP sketch and the baud rate it was built for (19200 as shipped); "
            "a USB-native board (Leonardo) also keeps silent where DTR and RTS do not reach it: plug it in without a hub",
        )

    def _is_bootloader(self) -> ProgrammerError:
        return ProgrammerError(
            ErrorCode.PROGRAMMER_IS_BOOTLOADER,
            f"a bootloader answers on {self.name}, not an ISP programmer; nothing was written",
            hint="fit 10 uF between RESET and GND of the programmer and wait two seconds; "
            "if it stays, load the ArduinoISP sketch into it again",
        )
