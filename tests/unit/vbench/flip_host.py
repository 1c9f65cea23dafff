"""The host's side of Atmel's USB bootloaders: FLIP commands by hand, on an open device of the bench."""

from typing import NamedTuple

from ispd.transport.contract import ControlTransfer, UsbLink

__all__ = ["FlipHost", "Told"]

_SUFFIX = bytes(4) + b"\x10DFU\x01\x10" + b"\xff" * 6


class Told(NamedTuple):
    """What GETSTATUS says."""

    status: int
    state: int


class FlipHost:
    """Sends commands and looks at nothing by itself."""

    def __init__(self, link: UsbLink) -> None:
        self.link = link

    async def download(self, data: bytes) -> None:
        """DNLOAD."""
        await self.link.submit([ControlTransfer(request_type=0x21, request=1, data=data, timeout_s=20)])

    async def upload(self, length: int) -> bytes:
        """UPLOAD."""
        return await self._ask(2, length)

    async def told(self) -> Told:
        """GETSTATUS."""
        answer = await self._ask(3, 6)
        assert answer[1:4] == bytes(3)
        return Told(answer[0], answer[4])

    async def clear(self) -> None:
        """CLRSTATUS and ABORT."""
        await self.link.submit([ControlTransfer(request_type=0x21, request=request) for request in (4, 6)])

    async def erase(self) -> Told:
        """Chip erase."""
        await self.download(b"\x04\x00\xff")
        return await self.told()

    async def is_blank(self, start: int, end: int) -> Told:
        """Blank check."""
        await self.download(b"\x03\x01" + _addresses(start, end))
        return await self.told()

    async def write(self, start: int, data: bytes, *, memory: int = 0, filler: int = 0) -> Told:
        """Write to flash (0) or EEPROM (1)."""
        head = bytes((1, memory)) + _addresses(start, start + len(data) - 1) + bytes(26 + filler)
        await self.download(head + data + _SUFFIX)
        return await self.told()

    async def write_all(self, data: bytes) -> None:
        """Write flash from 0 on, in blocks of 1 KiB; pages of 64 KiB are selected as they come."""
        for start in range(0, len(data), 1024):
            if start % 0x10000 == 0 and len(data) > 0x10000:
                await self.segment(start >> 16)
            assert await self.write(start & 0xFFFF, data[start : start + 1024]) == Told(0, 5)

    async def segment(self, number: int) -> None:
        """Select 64 KiB."""
        await self.download(b"\x06\x03\x00" + bytes((number,)))

    async def read(self, start: int, end: int, *, memory: int = 0) -> bytes:
        """Read flash (0) or EEPROM (2)."""
        await self.download(bytes((3, memory)) + _addresses(start, end))
        return await self.upload(end + 1 - start)

    async def info(self, kind: int, index: int) -> int:
        """Read a byte about the loader or the chip."""
        await self.download(bytes((5, kind, index)))
        return (await self.upload(1))[0]

    async def _ask(self, request: int, length: int) -> bytes:
        transfer = ControlTransfer(request_type=0xA1, request=request, length=length)
        return (await self.link.submit([transfer]))[0]


def _addresses(start: int, end: int) -> bytes:
    return start.to_bytes(2, "big") + end.to_bytes(2, "big")
