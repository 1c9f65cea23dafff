"""The machine's own hardware."""

import threading

import anyio
import pytest

from ispd.transport import machine
from ispd.transport.contract import UsbDeviceAt, UsbIdentity

pytestmark = pytest.mark.anyio

DEVICE = UsbDeviceAt(path="1-2.1", bus=1, address=7, usb=UsbIdentity(vendor_id=0x03EB, product_id=0x2FF4), version=0)


async def test_a_place_that_the_kernel_keeps_locked_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    is_let_go = threading.Event()

    def look(_path: str) -> UsbDeviceAt | None:
        return DEVICE if is_let_go.wait(timeout=5.0) else None

    monkeypatch.setattr(machine, "device_at", look)
    found: list[UsbDeviceAt | None] = []

    async def ask() -> None:
        found.append(await machine.Machine().device_at("1-2.1"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        is_let_go.set()
    assert found == [DEVICE], "the event loop went on meanwhile"
