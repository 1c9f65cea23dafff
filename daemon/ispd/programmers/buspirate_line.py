"""Finding a Bus Pirate in whatever state it is: its rate, its menus, half a command. Knows bytes, not the target.

A v3 never gets more than its 4-byte FIFO holds without a sign that it read them: one byte too many and it is deaf until
it loses its supply. Zeros do no harm anywhere: 20 of them lead from the terminal's prompt into bit-bang mode, one leads there
from SPI mode, and inside half a command they are its missing bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import anyio

from ispd.errors import LinkClosedError, LinkTimeoutError, TransportError
from ispd.transport.contract import BytePort
from ispd.transport.link import SerialLink
from ispd.wire.buspirate import BITBANG_REPLY, TO_TERMINAL, Remainder
from ispd.wire.buspirate_text import (
    DEFAULT_BAUD,
    PROMPT,
    RATE_CONFIRM,
    RATE_DIALOGUE,
    divisor_of,
    is_main_prompt,
)
from ispd.wire.engine import Request
from ispd.wire.window import Window, WindowPump

__all__ = ["PirateLine"]

R = TypeVar("R")

_ZEROS: Final = bytes(4)
_BURSTS: Final = 6
"""24 zeros: 20 make the terminal change to bit-bang mode."""

_FIRST_S: Final = 0.3
"""Pause after the first burst: where that was the rest of an ``05``, it now clocks out up to 1028 bytes, at 31 kHz."""

_BURST_S: Final = 0.012
"""Pause after each burst: time to work on it, and for the answer to come through a converter (flashrom waits 10 ms)."""

_PATIENT: Final = ((130, 0.04), (140, 0.075))
"""Bursts and the pause after each, for firmware that waits for the rest of an ``05``: up to 1028 bytes, a page of 256. When
it has them it clocks them out, deaf to all but 4 more: at 125 kHz 34 ms for half of them, 70 ms for all."""

_QUIET_S: Final = 0.03
"""Longer than any converter holds bytes back (16 ms)."""

_TEXT_S: Final = 0.5
"""The longest menu is 600 characters: 52 ms at 115200 baud."""

_RESET_S: Final = 0.5
"""From ``0F`` to the prompt: 41 ms of start-up, 20 ms for the banner."""

_MENUS: Final = 10
"""Menus ask up to six questions; a newline answers each with its default."""

_STREAM_S: Final = 8.0
"""A reading of flash that nobody wants any more: at most 65535 bytes."""

_TEXT_BURST: Final = 40
"""More than four zeros can bring in bit-bang mode (20 bytes): something else is being sent."""

_ANSWER_S: Final = 0.1
_SETTLE_TRIES: Final = 3
_CONFIRM_TRIES: Final = 3
_SWITCH_S: Final = 0.01
_NO_WINDOW: Final = Window(ahead_bytes=0, ahead_requests=0)


class PirateLine:
    """The line to a Bus Pirate. In step means: it was in bit-bang mode, and every answer since was the one due.

    :param rates: rates to look for it at, the likeliest first.
    """

    def __init__(self, port: BytePort, rates: Sequence[int]) -> None:
        self._port = port
        self._link = SerialLink(port)
        self._rates = tuple(dict.fromkeys(rates))
        self._baud = self._rates[0]

    @property
    def name(self) -> str:
        """Path of the port."""
        return self._link.name

    @property
    def baud(self) -> int:
        """The rate in use."""
        return self._baud

    @property
    def epoch(self) -> int:
        """Changes with each loss of step."""
        return self._link.epoch

    @property
    def in_step(self) -> bool:
        """Whether the next answer is known to belong to the next request."""
        return self._link.in_sync

    async def find(self, *, is_patient: bool) -> bool:
        """Bring the Bus Pirate into bit-bang mode from wherever it is, at whatever rate; False where nothing answers.

        ``is_patient`` also frees one that waits for half a page of data, which takes 16 s where nothing is there at all.
        """
        self._link.lose_sync()
        for rate in dict.fromkeys((self._baud, *self._rates)):
            if await self._set_rate(rate) and await self._attract():
                return True
        if not is_patient:
            return False
        await self._set_rate(self._rates[0])
        for bursts, pause_s in _PATIENT:
            if await self._zeros(bursts, pause_s=pause_s):
                return True
        return False

    async def from_terminal(self) -> bool:
        """Change from the terminal's prompt into bit-bang mode; False where it was not there."""
        return await self._zeros(_BURSTS)

    async def to_terminal(self) -> bytes:
        """Leave bit-bang mode for the text terminal at 115200 baud and return its banner."""
        self._link.lose_sync()
        await self._link.say(TO_TERMINAL)
        if self._baud != DEFAULT_BAUD:
            await self._link.listen(limit_s=_BURST_S)
            await self._set_rate(DEFAULT_BAUD)
        banner = await self._link.listen(limit_s=_RESET_S, until=PROMPT)
        if banner and not is_main_prompt(banner):
            await self._link.say(b"\n")
            await self._link.listen(limit_s=_TEXT_S, quiet_s=_QUIET_S)
        if b"irmware" not in banner:
            await self._link.say(b"i\n")
            banner = await self._link.listen(limit_s=_TEXT_S, quiet_s=_QUIET_S * 2)
        return banner

    async def change_rate(self, baud: int) -> bool:
        """Change both ends to another rate, from the terminal's prompt; False where one of them did not follow.

        The host is asked first: a device that waits at a rate the host cannot do is lost until it is unplugged.
        """
        if not (await self._set_rate(baud) and await self._set_rate(DEFAULT_BAUD)):
            return False
        for line in RATE_DIALOGUE:
            await self._link.say(line)
            if not (await self._link.listen(limit_s=_TEXT_S, until=PROMPT)).endswith(PROMPT):
                return False
        await self._link.say(b"%d\n" % divisor_of(baud))
        await self._link.listen(limit_s=_TEXT_S, quiet_s=_QUIET_S)
        await self._set_rate(baud)
        await anyio.sleep(_SWITCH_S)
        for _ in range(_CONFIRM_TRIES):
            await self._link.say(RATE_CONFIRM)
            if is_main_prompt(await self._link.listen(limit_s=_ANSWER_S, until=PROMPT)):
                return True
        return False

    async def command(
        self,
        requests: Iterable[Request[R]],
        *,
        deadline_s: float,
        window: Window = _NO_WINDOW,
        stop: Callable[[], bool] | None = None,
        on_reply: Callable[[R], None] | None = None,
    ) -> list[R]:
        """Send requests in step and return their replies; errors are those of :meth:`SerialLink.exchange`."""
        pump = WindowPump(requests, window, stop=stop)
        return await self._link.exchange(pump, deadline_s=deadline_s, on_reply=on_reply)

    async def command_ahead(self, request: Request[R], *, ahead_bytes: int, not_before: float, deadline_s: float) -> R:
        """Send the first ``ahead_bytes`` of a request now and the rest at loop time ``not_before``; return the reply.

        The firmware acts when it has the last byte. Cancelling completes the request.
        """
        with anyio.CancelScope(shield=True):
            if ahead_bytes:
                try:
                    await self._link.say(request.encode()[:ahead_bytes])
                except LinkTimeoutError:
                    self._link.lose_sync()
                    raise
            await anyio.sleep_until(not_before)
        replies = await self.command([Remainder(request, ahead_bytes)], deadline_s=deadline_s)
        return replies[0]

    async def restore(self) -> None:
        """Leave the Bus Pirate in its terminal at 115200 baud, as it was found; does what it can."""
        if self._link.in_sync or await self._attract():
            self._link.lose_sync()
            await self._link.say(b"\x00")
            await self._link.listen(limit_s=_ANSWER_S, until=BITBANG_REPLY)
            await self.to_terminal()

    async def aclose(self) -> None:
        """Close the port; never raises."""
        await self._link.aclose()

    # -- getting there -------------------------------------------------------------------------------------------------

    async def _attract(self) -> bool:
        """Bring the Bus Pirate into bit-bang mode at this rate."""
        if await self._zeros(_BURSTS, first_s=_FIRST_S):
            return True
        await self._leave_menus()
        return await self._zeros(_BURSTS)

    async def _zeros(self, bursts: int, *, first_s: float = _BURST_S, pause_s: float = _BURST_S) -> bool:
        """Send zeros, never more at once than the FIFO holds, until bit-bang mode names itself."""
        await self._hush()
        heard = b""
        for number in range(bursts):
            await self._link.say(_ZEROS)
            limit_s = pause_s if number else first_s
            heard = heard[-len(BITBANG_REPLY) :] + await self._link.listen(limit_s=limit_s, until=BITBANG_REPLY)
            if BITBANG_REPLY in heard:
                return await self._settle()
            if len(heard) > _TEXT_BURST:
                await self._hush()
        return False

    async def _hush(self) -> None:
        """Wait until the Bus Pirate is silent; while it sends it does not read."""
        end = anyio.current_time() + _STREAM_S
        while anyio.current_time() < end and await self._link.listen(limit_s=_STREAM_S, quiet_s=_QUIET_S):
            pass

    async def _leave_menus(self) -> None:
        """Answer each question with its default, up to the main prompt; also the one for a changed rate."""
        for _ in range(_MENUS):
            await self._link.say(RATE_CONFIRM + b"\n")
            heard = await self._link.listen(limit_s=_TEXT_S, quiet_s=_QUIET_S)
            if not heard or b"\x00" in heard or is_main_prompt(heard):
                return

    async def _settle(self) -> bool:
        """Make sure that one zero brings one answer and nothing else."""
        for _ in range(_SETTLE_TRIES):
            await self._hush()
            await self._link.say(b"\x00")
            heard = await self._link.listen(limit_s=_ANSWER_S, until=BITBANG_REPLY)
            if heard == BITBANG_REPLY and not await self._link.listen(limit_s=_BURST_S):
                self._link.confirm_sync()
                return True
        return False

    async def _set_rate(self, baud: int) -> bool:
        """Change the host's rate; False where it cannot do that one."""
        if baud == self._baud:
            return True
        try:
            await self._port.set_baud(baud)
        except LinkClosedError:
            raise
        except TransportError:
            return False
        self._baud = baud
        return True
