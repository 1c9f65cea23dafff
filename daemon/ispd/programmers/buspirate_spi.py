"""A Bus Pirate that was found, recognised and measured: which firmware, how fast a line, and its SPI mode.

The rate is raised where hardware v3 and firmware 5.5 or newer allow it (flashrom does the same): 2 Mbaud where ``05``
collects its bytes first and flash is read by a command; where bytes pass straight on to SPI, one that SPI keeps up with. A
rate that does not carry a probe is given up again.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, TypeVar

from ispd.errors import ErrorCode, LinkTimeoutError, ProgrammerError, ProtocolError, RemoteProtocolError
from ispd.programmers.buspirate_line import PirateLine
from ispd.programmers.buspirate_pace import FAST_BAUD, STREAM_BAUDS, Blocks, Pace
from ispd.transport.contract import BytePort
from ispd.wire.buspirate import AskExtended, Bitbang, Marked, Speed, SpiMode, WriteThenRead
from ispd.wire.buspirate_text import DEFAULT_BAUD, parse_banner
from ispd.wire.engine import Chain, Request
from ispd.wire.window import Window

__all__ = ["Mode", "Pirate"]

R = TypeVar("R")

_PROBE_S: Final = 0.2
_LINE_PROBE: Final = bytes(32)
"""As many bytes in one go as show that none is lost; sent while the outputs are open-drain, so that a target can take
no harm, and at a divisor of four bytes, so that a part that happens to listen stays in step."""

_PROBE_SPEED: Final = 3
"""1 MHz, which keeps up with any line but the fastest, where nothing passes straight on."""


class Mode(Enum):
    """Where the Bus Pirate is."""

    BITBANG = "bitbang"
    SPI = "spi"


class Pirate:
    """An open Bus Pirate; between boards it is in bit-bang mode, where all pins are inputs and the supplies off."""

    def __init__(self, port: BytePort, first_baud: int, *, is_v4: bool) -> None:
        self._line = PirateLine(port, (first_baud, DEFAULT_BAUD, FAST_BAUD, *STREAM_BAUDS))
        self._may_raise = True
        self.firmware = parse_banner(b"", is_v4=is_v4)
        self.pace = Pace(is_usb=is_v4, baud=DEFAULT_BAUD, blocks=Blocks.NONE)
        self.mode = Mode.BITBANG
        self.reads_flash = False

    @property
    def name(self) -> str:
        """Path of the port."""
        return self._line.name

    @property
    def epoch(self) -> int:
        """Changes with each loss of step: the target is out of programming mode since."""
        return self._line.epoch

    @property
    def in_step(self) -> bool:
        """Whether the next answer is known to belong to the next request."""
        return self._line.in_step

    async def open(self) -> None:
        """Find the Bus Pirate, ask who it is, raise the rate. Raises ``ProgrammerError`` (programmer-silent)."""
        if not await self._line.find(is_patient=True):
            raise self._silent()
        await self._bring_up()

    async def ensure(self) -> None:
        """Get in step again where that was lost; the target's reset is released then, and its supply off.

        Raises ``ProgrammerError`` (programmer-silent).
        """
        if self._line.in_step:
            return
        await self._find()
        if not self.pace.is_usb and self._line.baud != self.pace.baud:
            await self._bring_up()

    async def suit(self, sck_hz: int) -> None:
        """Change to the fastest rate that SPI at this clock keeps up with, where bytes pass straight on to it.

        Out of programming mode then; takes a quarter of a second where the rate changes.
        """
        can_change = self._may_raise and self.firmware.may_change_rate and self._line.baud != FAST_BAUD
        baud = self.pace.best_baud(sck_hz)
        if can_change and baud != self._line.baud:
            await self.to_bitbang()
            await self._change_rate(baud)

    async def command(
        self,
        requests: Iterable[Request[R]],
        *,
        deadline_s: float,
        window: Window | None = None,
        stop: Callable[[], bool] | None = None,
        on_reply: Callable[[R], None] | None = None,
    ) -> list[R]:
        """Send requests and return their replies; errors are those of :meth:`SerialLink.exchange`."""
        return await self._line.command(
            requests, deadline_s=deadline_s, window=window or self.pace.window, stop=stop, on_reply=on_reply
        )

    async def command_ahead(self, request: Request[R], *, ahead_bytes: int, not_before: float, deadline_s: float) -> R:
        """See :meth:`PirateLine.command_ahead`."""
        return await self._line.command_ahead(
            request, ahead_bytes=ahead_bytes, not_before=not_before, deadline_s=deadline_s
        )

    async def to_bitbang(self) -> None:
        """Leave SPI mode: all pins become inputs at once, the supplies go off. Finds its step again where it must."""
        if self._line.in_step and self.mode is Mode.SPI:
            try:
                await self._line.command([Bitbang()], deadline_s=_PROBE_S)
            except (LinkTimeoutError, ProtocolError):
                await self.ensure()
        else:
            await self.ensure()
        self.mode = Mode.BITBANG

    async def restore(self) -> None:
        """Put the line back to 115200 baud and the terminal; does what it can."""
        await self._line.restore()

    async def aclose(self) -> None:
        """Close the port; never raises."""
        await self._line.aclose()

    # -- bringing up ---------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Learn from the banner who it is, raise the rate, and find out which commands work; ends in bit-bang mode."""
        self.firmware = parse_banner(await self._line.to_terminal(), is_v4=self.firmware.is_usb)
        is_raised = await self._raise_rate(STREAM_BAUDS[-1] if self.firmware.is_streaming else FAST_BAUD)
        try:
            await self._probe()
        except (LinkTimeoutError, ProtocolError):
            if not is_raised:
                raise
            await self._give_up_rate()
            await self._probe()
        if self._line.baud == FAST_BAUD and not (self.reads_flash and self.pace.blocks is Blocks.BUFFERED):
            await self._change_rate(STREAM_BAUDS[-1])

    async def _change_rate(self, baud: int) -> None:
        """Go through the terminal to another rate."""
        await self._line.to_terminal()
        await self._raise_rate(baud)
        try:
            await self._line.command([Chain((SpiMode(),), Speed(_PROBE_SPEED))], deadline_s=_PROBE_S)
            await self._probe_line()
            await self._line.command([Bitbang()], deadline_s=_PROBE_S)
        except (LinkTimeoutError, ProtocolError):
            await self._give_up_rate()
        self._set_pace(self.pace.blocks)

    async def _give_up_rate(self) -> None:
        """Stay at 115200 baud from now on."""
        self._may_raise = False
        await self._find()
        await self._line.to_terminal()
        await self._find(is_in_terminal=True)

    async def _raise_rate(self, baud: int) -> bool:
        """Change from the terminal at 115200 baud into bit-bang mode, at ``baud`` where that is possible."""
        if self._may_raise and self.firmware.may_change_rate:
            self._may_raise = await self._line.change_rate(baud)
        await self._find(is_in_terminal=True)
        return self._line.baud != DEFAULT_BAUD

    async def _probe(self) -> None:
        """Find out which commands work; ends in bit-bang mode."""
        self._set_pace(Blocks.NONE)
        self.mode = Mode.SPI
        # a firmware that passes bytes straight on needs a clock that keeps up with the line
        await self._line.command([Chain((SpiMode(),), Speed(_PROBE_SPEED))], deadline_s=_PROBE_S)
        if self.firmware.may_read_flash:
            self.reads_flash = (await self._line.command([Marked(AskExtended())], deadline_s=_PROBE_S))[0]
        if self.firmware.may_write_then_read and await self._has_blocks():
            await self._probe_line()
            self._set_pace(Blocks.STREAMED if self.firmware.is_streaming else Blocks.BUFFERED)
        if self.mode is Mode.SPI:
            await self._line.command([Bitbang()], deadline_s=_PROBE_S)
            self.mode = Mode.BITBANG

    async def _has_blocks(self) -> bool:
        """Tell whether there is ``05``, with a byte each way: none at all is answered differently by each firmware."""
        try:
            await self._line.command([WriteThenRead(b"\x00")], deadline_s=_PROBE_S)
        except (LinkTimeoutError, RemoteProtocolError):
            # before 5.5 the bytes were single commands, the zeros among them leave SPI mode
            await self._find()
            return False
        return True

    async def _probe_line(self) -> None:
        """Make sure that no byte of many is lost at a raised rate."""
        if self._line.baud != DEFAULT_BAUD:
            await self._line.command([Marked(WriteThenRead(_LINE_PROBE))], deadline_s=_PROBE_S)

    def _set_pace(self, blocks: Blocks) -> None:
        """Take note of the rate, and of what follows from it and from the firmware."""
        self.pace = Pace(is_usb=self.firmware.is_usb, baud=self._line.baud, blocks=blocks)

    async def _find(self, *, is_in_terminal: bool = False) -> None:
        """Bring the Bus Pirate into bit-bang mode once more. Raises ``ProgrammerError`` (programmer-silent)."""
        if not (is_in_terminal and await self._line.from_terminal()) and not await self._line.find(is_patient=False):
            raise self._silent()
        self.mode = Mode.BITBANG

    def _silent(self) -> ProgrammerError:
        return ProgrammerError(
            ErrorCode.PROGRAMMER_SILENT,
            f"nothing on {self.name} answers as a Bus Pirate",
            hint="unplug the Bus Pirate and plug it in again; a v5 or v6 needs its legacy binary mode chosen first",
        )
