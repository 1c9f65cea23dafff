"""The machine's USB as the system told of it: who is where, and waits that lose no event."""

from dataclasses import replace

import anyio
import pytest
from tests.bench.chain_station import BOOTLOADERS, LOADER, firmware, loaded_board

from ispd.chain.teensy import TOOL as TEENSY
from ispd.errors import ErrorCode, TargetError
from ispd.station.board_port import SlotPort, UsbTree
from ispd.station.tool_turns import StationTurns
from ispd.transport.contract import PortChange, PortEvent, PortKind, UsbDeviceAt, UsbIdentity
from vbench.hardware import BenchHardware
from vbench.virtual_time import virtual

PATH = "1-2.1"
DFU = UsbIdentity(vendor_id=0x03EB, product_id=0x2FF4)
KEYBOARD = UsbIdentity(vendor_id=0xFEED, product_id=0x6060)
HALFKAY = UsbIdentity(vendor_id=0x16C0, product_id=0x0478)


class Sysfs(BenchHardware):
    """Shows what a test puts there, told or not."""

    def __init__(self) -> None:
        super().__init__()
        self.there: UsbDeviceAt | None = None

    async def device_at(self, path: str) -> UsbDeviceAt | None:
        await anyio.lowlevel.checkpoint()
        return None if self.there is None or self.there.path != path else self.there


def event(change: PortChange, usb: UsbIdentity = DFU, kind: PortKind = PortKind.USB, path: str = PATH) -> PortEvent:
    port = f"usb:{path}" if kind is PortKind.USB else "/dev/ttyACM0"
    return PortEvent(change=change, kind=kind, path=path, port=port, usb=usb, properties={})


def device(usb: UsbIdentity = DFU, *, tty: str | None = None) -> UsbDeviceAt:
    return UsbDeviceAt(path=PATH, bus=1, address=4, usb=usb, version=0, tty=tty)


@virtual
async def test_a_device_counts_once_it_was_told_of_and_is_there() -> None:
    hardware = Sysfs()
    tree = UsbTree(hardware)
    port = SlotPort(tree, PATH)
    hardware.there = device()
    assert await port.look() is None, "its node may not have its owner yet"
    tree.note(event(PortChange.ADDED))
    assert await port.look() == device()
    hardware.there = device(KEYBOARD)
    assert await port.look() is None, "somebody else is there already, and was not told of"
    tree.note(event(PortChange.REMOVED))
    tree.note(event(PortChange.ADDED, KEYBOARD))
    assert await port.look() == device(KEYBOARD)
    hardware.there = None
    assert await port.look() is None, "its leaving was not told yet"


@virtual
async def test_a_device_with_two_ttys_is_one_device_and_each_tty_counts_by_itself() -> None:
    """A firmware with a console and a programming port of its own."""
    hardware = Sysfs()
    tree = UsbTree(hardware)
    hardware.there = device(KEYBOARD, tty="/dev/ttyACM0")
    second = replace(event(PortChange.ADDED, KEYBOARD, PortKind.SERIAL, path=f"{PATH}:2"), port="/dev/ttyACM1")
    tree.note(event(PortChange.ADDED, KEYBOARD))
    tree.note(second)
    assert await tree.look(PATH) == device(KEYBOARD), "it was the other one that was told of"
    tree.note(event(PortChange.ADDED, KEYBOARD, PortKind.SERIAL))
    assert await tree.look(PATH) == device(KEYBOARD, tty="/dev/ttyACM0")
    assert list(tree.present) == [PATH]
    tree.note(replace(second, change=PortChange.REMOVED))
    assert await tree.look(PATH) == device(KEYBOARD, tty="/dev/ttyACM0")
    tree.note(event(PortChange.REMOVED, KEYBOARD, PortKind.SERIAL))
    tree.note(event(PortChange.REMOVED, KEYBOARD))
    assert tree.at(PATH) is None


@virtual
async def test_a_tty_counts_once_it_was_told_of() -> None:
    hardware = Sysfs()
    tree = UsbTree(hardware)
    hardware.there = device(tty="/dev/ttyACM0")
    tree.note(event(PortChange.ADDED))
    assert await tree.look(PATH) == device()
    tree.note(event(PortChange.ADDED, kind=PortKind.SERIAL))
    assert await tree.look(PATH) == device(tty="/dev/ttyACM0")
    assert list(tree.paths_of("/dev/ttyACM0")) == [PATH]
    tree.note(event(PortChange.REMOVED, kind=PortKind.SERIAL))
    assert tree.at(PATH) == DFU, "the device itself is still there"
    tree.note(event(PortChange.REMOVED))
    assert tree.at(PATH) is None


@virtual
async def test_a_change_between_looking_and_waiting_is_not_lost() -> None:
    tree = UsbTree(Sysfs())
    port = SlotPort(tree, PATH)
    seen = port.changes
    await port.look()
    tree.note(event(PortChange.ADDED))
    tree.note(event(PortChange.REMOVED))
    with anyio.fail_after(1.0):
        await port.wait_for_change(seen)
    with anyio.move_on_after(5.0) as patience:
        await port.wait_for_change(port.changes)
    assert patience.cancelled_caught, "nothing else came"


@virtual
async def test_who_waits_is_not_woken_by_other_ports() -> None:
    tree = UsbTree(Sysfs())
    port = SlotPort(tree, PATH)
    async with anyio.create_task_group() as tasks:
        woken = anyio.Event()

        async def wait() -> None:
            await port.wait_for_change(0)
            woken.set()

        tasks.start_soon(wait)
        await anyio.sleep(1.0)
        tree.note(event(PortChange.ADDED, path="1-2.2"))
        await anyio.sleep(1.0)
        assert not woken.is_set()
        tree.note(event(PortChange.ADDED))


@virtual
async def test_a_tool_that_cannot_choose_waits_until_its_board_is_the_only_one() -> None:
    tree = UsbTree(Sysfs())
    turns = StationTurns(tree)
    loader = BOOTLOADERS.get("halfkay-32u4")
    tree.note(event(PortChange.ADDED, HALFKAY))
    tree.note(event(PortChange.ADDED, DFU, path="1-2.3"))
    with anyio.fail_after(0.1):
        await turns.wait_until_alone(loader, PATH)
    tree.note(event(PortChange.ADDED, HALFKAY, path="1-2.9"))
    begun = anyio.current_time()
    with pytest.raises(TargetError) as caught:
        await turns.wait_until_alone(loader, PATH)
    assert (caught.value.code, "1-2.9" in caught.value.message) == (ErrorCode.TOOL_FAILED, True)
    assert anyio.current_time() - begun == pytest.approx(60.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turns.wait_until_alone, loader, PATH)
        await anyio.sleep(30.0)
        tree.note(event(PortChange.REMOVED, HALFKAY, path="1-2.9"))
    assert anyio.current_time() - begun == pytest.approx(90.0)


@virtual
async def test_turns_of_one_tool_do_not_overlap() -> None:
    turns = StationTurns(UsbTree(Sysfs()))
    working = most = 0

    async def work() -> None:
        nonlocal working, most
        await turns.take(TEENSY)
        working += 1
        most = max(most, working)
        await anyio.sleep(1.0)
        working -= 1
        turns.give(TEENSY)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(work)
    assert most == 1
    assert anyio.current_time() == pytest.approx(5.0)


@virtual
async def test_the_bench_tells_of_a_board_as_the_tree_expects_it() -> None:
    hardware = BenchHardware(hotplug_lag_s=0.05)
    hardware.add_port("P", PATH)
    tree = UsbTree(hardware)
    async with hardware, hardware.hotplug() as changes, anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for change in changes:
                tree.note(change)

        tasks.start_soon(follow)
        hardware.insert("P", loaded_board(app=firmware(1)))
        with anyio.fail_after(5.0):
            await tree.wait_for_change(PATH, 0)
        seen = await tree.look(PATH)
        assert seen is not None
        assert str(seen.usb) in (*LOADER.usb, "FEED:6060")
        count = tree.changes(PATH)
        hardware.remove("P")
        with anyio.fail_after(5.0):
            await tree.wait_for_change(PATH, count)
        assert tree.present == {}
        tasks.cancel_scope.cancel()


def test_an_identity_is_what_it_shows_not_its_texts() -> None:
    """Texts come late or not at all on a busy bus; ids do not change within one enumeration."""
    tree = UsbTree(Sysfs())
    tree.note(event(PortChange.ADDED, replace(DFU, serial="1.0.0")))
    tree.note(event(PortChange.ADDED, DFU, kind=PortKind.SERIAL))
    assert tree.at(PATH) is not None
    tree.note(event(PortChange.REMOVED, kind=PortKind.SERIAL))
    assert tree.at(PATH) is not None
