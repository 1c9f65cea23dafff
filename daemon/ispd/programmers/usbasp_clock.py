"""Which SPI clock a USBasp really runs at, by the time things take: firmware does not tell, and jumper J3 overrules it."""

import math
from typing import Final

import anyio

from ispd.programmers.control import ControlChannel
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.usbasp import BLOCK_BYTES, SCK_OPTIONS, GetCapabilities, ReadFlash, Transmit

__all__ = ["HARDWARE_SPI_S", "SOFTWARE_HZ", "block_s", "nearest_hz", "spi_s"]

_REQUEST_S: Final = 1.0

_BATCH: Final = 3
"""Requests measured together, so that the hand-over between them counts less."""

_SURE_ROUNDS: Final = 12
"""A busy machine adds milliseconds to any round trip: nothing is called slow that was not slow this often."""

SOFTWARE_HZ: Final = 32_000
"""Fastest clock that the firmware makes by moving the pins itself."""

HARDWARE_SPI_S: Final = 0.0007
"""An instruction at 93.75 kHz takes 0.34 ms, at 32 kHz 1 ms."""


async def spi_s(channel: ControlChannel, sck_hz: int, *, has_capabilities: bool) -> float:
    """Return how long an instruction is on SPI: what TRANSMIT takes longer than a request of the same size without SPI.

    Without an answer to GETCAPABILITIES that request is two USB transactions, not three. What looks
    slower than ``sck_hz`` may only be a busy machine, and is looked at again.
    """
    plain_s = with_spi_s = math.inf
    for _ in range(_SURE_ROUNDS):
        begun = anyio.current_time()
        await channel.submit([GetCapabilities()] * _BATCH, timeout_s=_REQUEST_S)
        between = anyio.current_time()
        await channel.submit([Transmit(avr_isp.read_signature(0))] * _BATCH, timeout_s=_REQUEST_S)
        plain_s = min(plain_s, between - begun)
        with_spi_s = min(with_spi_s, anyio.current_time() - between)
        found_s = (with_spi_s - plain_s * (1 if has_capabilities else 1.5)) / _BATCH
        if found_s < HARDWARE_SPI_S or nearest_hz(found_s) == sck_hz:
            break
    return found_s


async def block_s(channel: ControlChannel) -> float:
    """Return how long the largest block of flash takes to be read."""
    begun = anyio.current_time()
    await channel.submit([ReadFlash(ByteAddress(0), BLOCK_BYTES)], timeout_s=_REQUEST_S)
    return anyio.current_time() - begun


def nearest_hz(spi_s: float) -> int:
    """Return the clock of the firmware's own making at which an instruction takes that long."""
    slow = [hz for hz in SCK_OPTIONS if hz <= SOFTWARE_HZ]
    return min(slow, key=lambda hz: abs(math.log(spi_s * hz / 32)))
