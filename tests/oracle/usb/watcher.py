"""A process that watches ports as the daemon does, and tells each change: one JSON document per line, until it is ended."""

import json
import sys

import anyio

from ispd.transport import udev
from ispd.transport.machine import Machine

__all__: list[str] = []


async def main() -> None:
    """Watch, comparing with the full listing as often as the first argument says (seconds)."""
    udev.RECONCILE_S = float(sys.argv[1])
    async with Machine().hotplug() as events:
        print("{}", flush=True)
        async for event in events:
            line = [event.change, event.kind, event.port, str(event.usb), event.usb.manufacturer, event.usb.product]
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    anyio.run(main)
