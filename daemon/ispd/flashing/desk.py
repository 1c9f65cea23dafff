"""The desk of a follow-up tool: one board's USB port, what is done there, and the record of what was printed meanwhile."""

import codecs
from collections.abc import Callable
from typing import Protocol

import anyio

from ispd.errors import ErrorCode, IspdError, RemoteProtocolError, TargetError
from ispd.model.bootloader import Bootloader
from ispd.model.job import MAX_OUTPUT
from ispd.transport.clock import Clock
from ispd.transport.contract import (
    GET_STATUS,
    USB_PORT_PREFIX,
    Hardware,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbLink,
)

__all__ = [
    "LISTED_FOR_S",
    "BoardDesk",
    "BoardPort",
    "Transcript",
    "answers",
    "has_left",
    "is_same",
    "shows",
    "wait_for_board",
]

LISTED_FOR_S = 12.0
"""The kernel lists a device that left until its hub is free to look: 5 s for each request that another one does not answer
(``USB_CTRL_GET_TIMEOUT``)."""
_EXCHANGED_HINT = "was the board exchanged? keep it in place until the verdict"
_CUT = "\n[..]\n"
_NO_CHARACTER = "\ufffd"
_TEXT_CONTROLS = "\t\n\r\b\x1b"


class BoardPort(Protocol):
    """The USB port where a slot's board appears.

    To wait for somebody there without missing him: read :attr:`changes`, look, and only then wait.
    """

    @property
    def path(self) -> str:
        """Its topology path."""

    @property
    def changes(self) -> int:
        """How many changes were told of this port until now."""

    async def wait_for_change(self, since: int) -> None:
        """Return once more than ``since`` changes were told; at once where they were already."""

    async def look(self) -> UsbDeviceAt | None:
        """Return who is there now and may be used: the system has told of it, so that its node has its owner and mode."""


def shows(bootloader: Bootloader, device: UsbDeviceAt) -> bool:
    """Tell whether a device presents itself as this bootloader, by id and, where others share that, by its texts."""
    texts = (device.usb.manufacturer, device.usb.product)
    return str(device.usb) in bootloader.usb and all(text in texts for text in bootloader.usb_texts)


async def wait_for_board(
    port: BoardPort, accept: Callable[[UsbDeviceAt], bool], deadline_s: float
) -> UsbDeviceAt | None:
    """Return who is accepted at the port, None where nobody came until the deadline."""
    with anyio.move_on_after(deadline_s):
        while True:
            seen = port.changes
            device = await port.look()
            if device is not None and accept(device):
                return device
            await port.wait_for_change(seen)
    return None


async def has_left(port: BoardPort, device: UsbDeviceAt, within_s: float) -> bool:
    """Tell whether a device leaves the port in time, though it may be there again: with another address."""
    with anyio.move_on_after(within_s):
        while True:
            seen = port.changes
            there = await port.look()
            if there is None or not is_same(there, device):
                return True
            await port.wait_for_change(seen)
    return False


def is_same(one: UsbDeviceAt, other: UsbDeviceAt) -> bool:
    """Tell whether two looks saw one device that did not leave in between; it may have got its tty."""
    return (one.bus, one.address) == (other.bus, other.address)


async def answers(hardware: Hardware, path: str) -> bool:
    """Tell whether the device on a USB port can be talked to. A refusal is an answer, too."""
    try:
        link = await hardware.open_usb(USB_PORT_PREFIX + path)
    except IspdError:
        return False
    try:
        await link.submit([GET_STATUS])
    except RemoteProtocolError:
        return True
    except IspdError:
        return False
    finally:
        await link.aclose()
    return True


class Transcript:
    """Text as it came, of which only the first and the last half of ``limit`` characters are kept.

    What is no text (a memory dump on standard output) is only counted.
    """

    def __init__(self, limit: int = MAX_OUTPUT) -> None:
        self._half = (limit - len(_CUT)) // 2
        self._head = ""
        self._tail = ""
        self._is_cut = False
        self._data_bytes = 0

    def add_output(self, text: str, size_bytes: int) -> None:
        """Append what a program printed; ``size_bytes`` is how long that was before it was decoded."""
        if all(char in _TEXT_CONTROLS or (char.isprintable() and char != _NO_CHARACTER) for char in text):
            self.add(text)
        else:
            self._data_bytes += size_bytes

    def add(self, text: str) -> None:
        """Append."""
        if self._data_bytes:
            text, self._data_bytes = f"[{self._data_bytes} bytes of data]\n{text}", 0
        room = self._half - len(self._head)
        self._head += text[:room]
        self._tail += text[room:]
        if len(self._tail) > self._half:
            self._tail, self._is_cut = self._tail[-self._half :], True

    @property
    def text(self) -> str:
        """What was kept, with a mark where something is missing."""
        return self._head + (_CUT if self._is_cut else "") + self._tail


class BoardDesk:
    """A :class:`~ispd.chain.contract.Desk` at one board's port.

    :param met: the board in its bootloader. Its address is its own until it leaves: with another one it was unplugged
        meanwhile, or is another board, and nothing that was done before counts for it.
    :param on_advance: told how many more bytes of the work are finished.
    """

    def __init__(
        self,
        port: BoardPort,
        hardware: Hardware,
        clock: Clock,
        *,
        bootloader: Bootloader,
        met: UsbDeviceAt,
        on_advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.clock: Clock = clock
        self._port = port
        self._hardware = hardware
        self._bootloader = bootloader
        self._on_advance = on_advance
        self._transcript = Transcript()
        self._met = met

    def take_output(self) -> str:
        """Return what was printed since the last call."""
        text, self._transcript = self._transcript.text, Transcript()
        return text

    async def here(self) -> UsbDeviceAt:
        """Look at the board's port again; see :meth:`ispd.chain.contract.Desk.here`."""
        device = await self._port.look()
        if device is None:
            raise TargetError(
                ErrorCode.BOOTLOADER_NOT_SEEN,
                f"nothing is on USB port {self._port.path} where the board's bootloader was",
                hint="keep the board and its USB cable in place until the verdict, then flash it again",
            )
        if not shows(self._bootloader, device):
            raise TargetError(
                ErrorCode.BOARD_UNEXPECTED,
                f"{device.usb} is on USB port {self._port.path}, which is not {self._bootloader.title}",
                hint=_EXCHANGED_HINT,
            )
        if not is_same(device, self._met):
            raise TargetError(
                ErrorCode.BOARD_UNEXPECTED,
                f"the bootloader on USB port {self._port.path} was plugged in anew in the midst of the work",
                hint=_EXCHANGED_HINT,
            )
        return device

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Run an outside program, with its command line, output and exit code in the record."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def take(piece: bytes, *, final: bool = False) -> None:
            text = decoder.decode(piece, final)
            if text:
                self._transcript.add_output(text, len(piece))
                on_text(text)

        self._transcript.add(f"$ {' '.join(run.words)}\n")
        outcome = await self._hardware.run_tool(run, take)
        take(b"", final=True)
        if outcome.exit_code is None:
            self._transcript.add(f"\n[killed after {run.deadline_s:.0f} s]\n")
            raise TargetError(
                ErrorCode.TOOL_FAILED,
                f"{run.words[0]} was not through after {run.deadline_s:.0f} s and was stopped",
                hint="flash the board again; if it happens again try another USB port or cable",
            )
        self._transcript.add(f"\n[exit code {outcome.exit_code}]\n")
        return outcome

    async def open_usb(self) -> UsbLink:
        """Open the board's USB device, after another look who it is."""
        await self.here()
        return await self._hardware.open_usb(USB_PORT_PREFIX + self._port.path)

    def advance(self, done_bytes: int) -> None:
        """Take note of progress."""
        self._on_advance(done_bytes)
