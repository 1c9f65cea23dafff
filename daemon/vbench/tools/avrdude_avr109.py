"""AVR109 as avrdude 7.1 speaks it over a tty. A peer that is silent costs 5 s each time; one that is gone costs for ever."""

from collections.abc import Callable

import anyio

from ispd.errors import LinkClosedError
from ispd.transport.contract import BytePort
from vbench.tools.machine import Process

__all__ = ["Avr109"]

_ANSWER_S = 5.0
_QUIET_S = 0.25
_CR = b"\r"


class Avr109:
    """The programmer's end of the line.

    :param complain: prints an error.
    """

    def __init__(self, process: Process, port: BytePort, complain: Callable[[str], object]) -> None:
        self._process = process
        self._complain = complain
        self._port = port
        self._kept = b""
        self._partial = b""
        """What came of the last answer that did not come whole."""
        self._is_gone = False
        self.buffer_bytes = 0

    # -- the tty ---------------------------------------------------------------------------------------------------

    async def _send(self, data: bytes) -> None:
        try:
            await self._port.send(data)
        except LinkClosedError:
            self._complain("avrdude OS error: unable to write: Input/output error\n")

    async def _receive(self, count: int) -> bytes | None:
        """Return that many bytes; None where one of them took too long, which was told.

        What a tty that is gone reads is nothing, again and again: the program never comes back from that.
        """
        now = self._process.bench.now
        until = now() + _ANSWER_S
        while len(self._kept) < count:
            if await self._wait(until - now()):
                continue
            self._complain("avrdude error: programmer is not responding\n")
            self._partial, self._kept = self._kept, b""
            return None
        data, self._kept = self._kept[:count], self._kept[count:]
        return data

    async def drain(self) -> None:
        """Throw away what comes until nothing has come for a while."""
        self._kept = b""
        while await self._wait(_QUIET_S):
            self._kept = b""

    async def _wait(self, seconds: float) -> bool:
        """Wait for bytes; False where none came."""
        before = len(self._kept)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, tasks.cancel_scope)
            await self._process.bench.sleep(max(seconds, 0.0))
            tasks.cancel_scope.cancel()
        if self._is_gone:
            await anyio.sleep_forever()
        return len(self._kept) > before

    async def _read(self, scope: anyio.CancelScope) -> None:
        try:
            self._kept += await self._port.receive()
        except LinkClosedError:
            self._is_gone = True
        scope.cancel()

    async def _confirmed(self, command: bytes, what: str) -> bool:
        """Send a command that is answered by CR; False where it was not, which was told."""
        await self._send(command)
        if await self._receive(1) == _CR:
            return True
        self._complain(f"avrdude error: programmer did not respond to command: {what}\n")
        return False

    async def _asked(self, command: bytes, count: int = 1) -> bytes | None:
        await self._send(command)
        return await self._receive(count)

    # -- dialogue --------------------------------------------------------------------------------------------------

    async def initialize(self) -> bool:
        """Find out who is there and enter programming mode; False where it is nobody of the kind."""
        first: bytes | None = b"?"
        while first == b"?":
            await self._send(b"\x1b")
            await self.drain()
            first = await self._asked(b"S")
            if first != b"?":
                await self._receive(6)
        await self.drain()
        await self._asked(b"V", 2)
        if await self._asked(b"v") != b"?":
            await self._receive(1)
        await self._asked(b"p")
        await self._asked(b"a")
        if await self._asked(b"b") != b"Y":
            return False
        size = await self._receive(1), await self._receive(1)
        self.buffer_bytes = int.from_bytes((size[0] or b"\x00") + (size[1] or b"\x00"))
        kinds = await self._kinds()
        if not await self._confirmed(b"T" + kinds[:1], "select device"):
            return False
        await self._confirmed(b"P", "enter prog mode")
        await self.drain()
        return True

    async def _kinds(self) -> bytes:
        """Return the codes of chips the programmer knows; their list ends with 0."""
        kinds = await self._asked(b"t") or b""
        while kinds and kinds[-1]:
            kinds += await self._receive(1) or b""
        return kinds or b"\x00"

    async def signature(self) -> bytes:
        """Return the signature, address 0 first."""
        found = await self._asked(b"s", 3)
        return bytes(3) if found is None else found[::-1]

    async def erase(self) -> bool:
        """Erase the application section."""
        return await self._confirmed(b"e", "chip erase")

    async def read_page(self, start: int, size: int) -> bytes:
        """Read a page of the flash."""
        await self._set_address(start)
        content = b""
        while len(content) < size:
            count = min(self.buffer_bytes, size - len(content))
            answer = await self._asked(b"g" + count.to_bytes(2) + b"F", count)
            content += self._partial.ljust(count, b"\xff") if answer is None else answer
        return content

    async def write_page(self, start: int, data: bytes) -> bool:
        """Write a page of the flash; False where a block of it was not taken, which was told."""
        await self._set_address(start)
        for at in range(0, len(data), self.buffer_bytes):
            piece = data[at : at + self.buffer_bytes]
            if not await self._confirmed(b"B" + len(piece).to_bytes(2) + b"F" + piece, "write block"):
                return False
        return True

    async def _set_address(self, address: int) -> None:
        await self._confirmed(b"A" + (address // 2).to_bytes(2), "set addr")

    async def leave(self) -> None:
        """Leave programming mode and the loader."""
        await self._confirmed(b"L", "leave prog mode")
        await self._confirmed(b"E", "exit bootloader")
