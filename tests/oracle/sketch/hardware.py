"""The simulated Uno as hardware for our driver, on the event loop's clock: virtual in tests.

The simulation lags behind the loop's clock until somebody looks; while somebody waits for bytes it runs ahead by at
most one slice. It is a bare UART: no USB bridge delays a byte.
"""

import anyio
from tests.oracle.sketch.board import Board

from ispd.errors import ErrorCode, LinkClosedError, TransportError
from ispd.transport.contract import SerialSettings, UsbLink

__all__ = ["SketchHardware", "SketchPort"]

_SLICE_S = 2e-3


class SketchHardware:
    """One port with one Uno behind it. ``opens_with_reset``: the first opening resets it, as DTR does."""

    port_name = "uno"

    def __init__(self, board: Board, *, opens_with_reset: bool) -> None:
        self.board = board
        self._resets = opens_with_reset
        self._origin: float | None = None

    def now(self) -> float:
        """Return simulated time as it should be: the loop's seconds since the first look."""
        if self._origin is None:
            self._origin = anyio.current_time() - self.board.now
        return anyio.current_time() - self._origin

    async def open_serial(self, settings: SerialSettings) -> "SketchPort":
        """Open the port; the edge on DTR resets the board unless DTR was left on."""
        await anyio.lowlevel.checkpoint()
        if settings.port != self.port_name:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {settings.port}")
        self.board.run(self.now())
        if self._resets:
            self._resets = False
            self.board.press_reset()
        return SketchPort(self, settings.port)

    async def open_usb(self, port: str) -> UsbLink:
        """Raise ``TransportError``: there is a serial port only."""
        raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no USB device {port}")


class SketchPort:
    """The open port; see ``BytePort``."""

    def __init__(self, hardware: SketchHardware, name: str) -> None:
        self._hardware = hardware
        self._board = hardware.board
        self._name = name
        self._is_open = True

    @property
    def name(self) -> str:
        """Name of the port."""
        return self._name

    async def send(self, data: bytes) -> None:
        """Put bytes on the line; they leave at the baud rate."""
        await anyio.lowlevel.checkpoint()
        self._check()
        self._board.run(self._hardware.now())
        self._board.feed(data, max(self._board.now, self._hardware.now()))

    async def receive(self) -> bytes:
        """Return the next bytes, at least one, when they are due."""
        await anyio.lowlevel.checkpoint()
        while True:
            self._check()
            if data := self.take():
                return data
            self._board.run(self._hardware.now() + _SLICE_S, stop_at_reply=True)
            await anyio.sleep(max(0.0, self._board.now - self._hardware.now()))

    def take(self) -> bytes:
        """Return what has arrived."""
        self._board.run(self._hardware.now())
        return bytes(reply.byte for reply in self._board.take())

    async def set_baud(self, baud: int) -> None:
        """Raise ``TransportError``: the sketch knows one rate."""
        raise TransportError(ErrorCode.INVALID_PARAMETER, f"the simulated Uno cannot follow to {baud} baud")

    async def aclose(self) -> None:
        """Close the port."""
        self._is_open = False

    def _check(self) -> None:
        if not self._is_open:
            raise LinkClosedError(self._name)
