"""An IspProgrammer without a line: it clocks instructions straight into an emulated target, on the event loop's time.

Faults are set by the number of the call, so that a test can try each of them.
"""

from collections.abc import Callable, Sequence

import anyio

from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Capabilities, Monitor, ProgrammerIdentity
from vbench.target import AvrTarget

_ENTRY_S = 0.021
_PULSE_S = 0.001
_BULK = frozenset({MemoryKind.FLASH, MemoryKind.EEPROM})


class DirectProgrammer:
    """Drives ``target``.

    :param sck_hz: clocks it can be set to.
    :param bulk: memories it reads and writes by itself; none makes the session send single instructions.
    :param faults: by number of the call (every method and, inside bulk transfers, every page is one), what to raise.
    """

    def __init__(
        self,
        target: AvrTarget,
        *,
        sck_hz: tuple[int, ...] = (125_000,),
        bulk: frozenset[MemoryKind] = _BULK,
        max_flash_bytes: int | None = None,
        faults: dict[int, Callable[[], Exception]] | None = None,
    ) -> None:
        self.target = target
        self.identity = ProgrammerIdentity(kind="direct", port="P1", firmware="")
        self.capabilities = Capabilities(max_flash_bytes=max_flash_bytes, sck_hz=sck_hz, bulk=bulk)
        self.calls = 0
        self.log: list[str] = []
        self._faults = faults or {}
        self._sck_hz = sck_hz[0]
        self._is_closed = False
        self._part: AvrPart | None = None
        self._clocked_until = 0.0
        target.power_on(0.0, reset_active=False)

    async def _call(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self._is_closed:
            raise LinkClosedError("P1")
        # what a cancelled call had sent is clocked to its end before anything else
        await anyio.sleep(max(0.0, self._clocked_until - anyio.current_time()))
        number, self.calls = self.calls, self.calls + 1
        self.log.append(name)
        if number in self._faults:
            error = self._faults[number]()
            if isinstance(error, LinkClosedError):
                self._is_closed = True
                self.target.power_off(anyio.current_time())
            raise error

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        await self._call("enter")
        clocks = self.capabilities.sck_hz
        limit_hz = clocks[0] if sck_hz is None else sck_hz
        self._sck_hz = max((hz for hz in clocks if hz <= limit_hz), default=clocks[0])
        self._part = part
        self.target.set_reset(False, anyio.current_time())
        await anyio.sleep(_PULSE_S)
        self.target.set_reset(True, anyio.current_time())
        await anyio.sleep(_ENTRY_S)
        await self._send([b"\xac\x53\x00\x00"])
        return self._sck_hz

    async def leave(self) -> None:
        await self._call("leave")
        self.target.set_reset(False, anyio.current_time())

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        await self._call("transfer")
        return await self._send(instructions)

    async def _send(self, instructions: Sequence[bytes]) -> bytes:
        replies = bytearray()
        one_s = 32 / self._sck_hz
        now = anyio.current_time()
        for number, (b1, b2, b3, b4) in enumerate(instructions):
            replies.append(self.target.instruction(b1, b2, b3, b4, now + number * one_s, self._sck_hz))
        self._clocked_until = now + len(instructions) * one_s
        await anyio.sleep(len(instructions) * one_s)
        return bytes(replies)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        found = bytearray()
        for block in span.blocks(32):
            if monitor.stop_requested:
                break
            await self._call(f"read {memory}")
            if memory is MemoryKind.FLASH:
                await self._extend(block.start)
            found += await self._send([self._read_one(memory, address) for address in range(block.start, block.stop)])
            monitor.advance(len(block))
        return bytes(found)

    def _read_one(self, memory: MemoryKind, address: int) -> bytes:
        if memory is MemoryKind.EEPROM:
            return bytes((0xA0, address >> 8, address & 0xFF, 0))
        return bytes((0x28 if address & 1 else 0x20, address >> 9 & 0xFF, address >> 1 & 0xFF, 0))

    async def _extend(self, address: int) -> None:
        if self._part is not None and self._part.needs_extended_address:
            await self._send([bytes((0x4D, 0, address >> 17, 0))])

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        assert part == self._part
        for done, page in enumerate(pages):
            if monitor.stop_requested:
                return done
            await self._call(f"write {memory}")
            if memory is MemoryKind.EEPROM:
                for address, value in enumerate(page.data, page.start):
                    await self._send([bytes((0xC0, address >> 8, address & 0xFF, value))])
                    await anyio.sleep(part.times.eeprom_s)
            else:
                assert len(page.data) == part.flash.page_bytes
                word = page.start >> 1
                await self._extend(page.start)
                loads = [
                    bytes((0x48 if i & 1 else 0x40, 0, (word + i // 2) & 0xFF, v)) for i, v in enumerate(page.data)
                ]
                await self._send([*loads, bytes((0x4C, word >> 8 & 0xFF, word & 0xFF, 0))])
                await anyio.sleep(part.times.flash_s)
            monitor.advance(len(page.data))
        return len(pages)

    async def aclose(self) -> None:
        self._is_closed = True


def unplugged() -> Exception:
    return LinkClosedError("P1")


def silent() -> Exception:
    return LinkTimeoutError("P1", 1.0)


def out_of_step() -> Exception:
    return RemoteProtocolError("the programmer answered 15")
