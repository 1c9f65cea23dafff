"""A process that uses the daemon's own USB transport on the bed, and tells what it got: one JSON document per line.

Opens two devices, submits to both, is refused and kept waiting once, waits for a line on standard input, submits again,
opens again.
"""

import json
import sys
from collections.abc import Awaitable

import anyio
import anyio.to_thread

from ispd.errors import IspdError
from ispd.transport.contract import ControlTransfer
from ispd.transport.usb import UsbBus

__all__: list[str] = []

ECHO, POWERUP, SPI = 0, 5, 7
CONNECT, READFLASH, CAPABILITIES = 1, 4, 127
REFUSED = ControlTransfer(request_type=0x80, request=0x0C, length=2, timeout_s=1)
"""A standard request that no low-speed device has (SYNCH_FRAME)."""
NEVER_ANSWERED = ControlTransfer(request_type=0xC0, request=READFLASH, length=255, timeout_s=0.2)


def ask(request: int, value: int = 0, index: int = 0, length: int = 8) -> ControlTransfer:
    """An IN request of the device's own."""
    return ControlTransfer(request_type=0xC0, request=request, value=value, index=index, length=length, timeout_s=1)


def tell(**what: object) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


async def main() -> None:
    """Go through everything once."""
    bus = UsbBus()
    first, second = await bus.open(sys.argv[1]), await bus.open(sys.argv[2])
    tell(identities=[[str(device.identity), device.identity.product] for device in (first, second)])
    replies = await first.submit([ask(ECHO, 0x1234, 0x5678), ask(POWERUP, 10, length=0)])
    await anyio.sleep(0.05)  # the target's own wait after its reset
    replies += await first.submit([ask(SPI, 0x53AC, length=4), ask(SPI, 0x0030, length=4)])
    tell(result=[reply.hex() for reply in replies])
    await attempt(second.submit([ask(CONNECT, length=4), REFUSED]))
    await attempt(second.submit([NEVER_ANSWERED]))
    await attempt(second.submit([ask(CAPABILITIES, length=4)]))
    await anyio.to_thread.run_sync(sys.stdin.readline)
    await attempt(first.submit([ask(ECHO)]))
    await attempt(second.submit([ask(CAPABILITIES, length=4)]))
    await attempt(bus.open(sys.argv[1]))
    await first.aclose()
    await second.aclose()


async def attempt(action: Awaitable[object]) -> None:
    """Tell what became of something that may fail."""
    try:
        result = await action
    except IspdError as error:
        tell(error=error.code)
    else:
        tell(result=[reply.hex() for reply in result] if isinstance(result, list) else "open")


if __name__ == "__main__":
    anyio.run(main)
