"""What an emulated program runs on: its command line, its streams, its folder, and the bench as its machine.

The folder exists only as a dictionary, the streams only as bytes; time is the bench's. Nothing here knows a program.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from ispd.transport.contract import BytePort, SerialSettings, ToolRun, UsbDeviceAt, UsbLink

__all__ = ["Process", "ToolBench", "UnemulatedError", "lines_of"]

_PIPE_BUFFER_BYTES = 4096
"""How much of its standard output a program keeps back while that is a pipe (glibc: st_blksize)."""


class UnemulatedError(NotImplementedError):
    """A program was asked for something that its emulation does not have. Always the caller's bug, never a board's."""


class ToolBench(Protocol):
    """What programs need of a bench."""

    tools: Mapping[str, str]
    """Version of each program that is not Debian's, by name; empty for a program that is not installed."""

    def now(self) -> float:
        """Return bench seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait that many bench seconds."""

    def devices(self) -> Sequence[UsbDeviceAt]:
        """Return all USB devices that are there now, in the order in which the kernel lists them."""

    async def open_usb(self, port: str) -> UsbLink:
        """Open a USB device by its place; see ``Opener``."""

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a tty; see ``Opener``."""


class Process:
    """One run of a program.

    :param on_output: gets each piece of either stream when the program lets go of it; not of an output that is data.
    """

    def __init__(self, run: ToolRun, on_output: Callable[[bytes], object], bench: ToolBench) -> None:
        self.words = list(run.words)
        self.bench = bench
        self.files = dict(run.inputs)
        """Its folder."""
        self.is_buffered = True
        """Whether standard output is kept back as to a pipe; programs that turn that off say so."""
        self._on_output = on_output
        self._output_is_data = run.output_is_data
        self._pending = bytearray()
        self._output = bytearray()
        self._errors = bytearray()

    @property
    def output(self) -> bytes:
        """What has got out on standard output."""
        return bytes(self._output)

    @property
    def errors(self) -> bytes:
        """What has got out on standard error."""
        return bytes(self._errors)

    def out(self, text: str | bytes) -> None:
        """Print on standard output."""
        self._pending += text.encode() if isinstance(text, str) else text
        if not self.is_buffered or len(self._pending) >= _PIPE_BUFFER_BYTES:
            self.flush()

    def err(self, text: str) -> None:
        """Print on standard error, which is never kept back."""
        piece = text.encode()
        self._errors += piece
        self._on_output(piece)

    def flush(self) -> None:
        """Let go of what standard output keeps back."""
        if self._pending:
            piece = bytes(self._pending)
            self._pending.clear()
            self._output += piece
            if not self._output_is_data:
                self._on_output(piece)

    def file(self, name: str) -> bytes | None:
        """Return a file of the folder, None where there is none."""
        return self.files.get(name.removeprefix("./"))

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the folder."""
        self.files[name.removeprefix("./")] = content


def lines_of(content: bytes, most: int) -> Iterator[str]:
    """Yield a file's lines as ``fgets`` gives them to a buffer of ``most`` bytes: with their ends, long ones in pieces."""
    at = 0
    while at < len(content):
        end = content.find(b"\n", at, at + most - 1) + 1 or min(at + most - 1, len(content))
        yield content[at:end].decode("latin-1")
        at = end
