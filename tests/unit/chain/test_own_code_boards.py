"""Own code against the bench's emulated boards: from an empty application section to a firmware that runs, on virtual time."""

from collections.abc import Callable

import anyio
import pytest
from tests.unit.chain.scripted_desk import PARTS, work_for

from ispd.chain.contract import ChainTool, ChainWork
from ispd.chain.registry import load_tools, tool_for
from ispd.errors import ErrorCode, IspdError, LinkClosedError, TargetError
from ispd.model.image import Image
from ispd.model.part import AvrPart, MemoryKind
from ispd.transport.contract import ToolOutcome, ToolRun, UsbDeviceAt, UsbLink
from vbench.board import Board
from vbench.board_faults import BoardFault, Vanishes
from vbench.firmware_image import application_image, bootloader_image
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.virtual_time import VirtualClock, virtual

PORT = "1-2.1"
APP = "FEED:1234"
LOADERS = [
    "bootloadhid-m32a",
    "usbasploader-m32a",
    "usbasploader-m328p",
    "qmk-hid-32u4",
    "lufa-hid-32u4",
    "qmk-hid-32u2",
    "qmk-hid-usb128",
]


class Desk:
    """The board's port on a bench."""

    def __init__(self, bench: BenchHardware, port: str) -> None:
        self.clock = VirtualClock()
        self.done_bytes = 0
        self._bench = bench
        self._port = port

    async def here(self) -> UsbDeviceAt:
        device = await self._bench.device_at(self._port)
        if device is None:
            raise TargetError(ErrorCode.BOOTLOADER_NOT_SEEN, "nobody is there")
        return device

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        raise NotImplementedError

    async def open_usb(self) -> UsbLink:
        return await self._bench.open_usb(f"usb:{self._port}")

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes


class Rig:
    """A board in its bootloader, with cells above address 2 that hold an earlier firmware."""

    def __init__(self, name: str, *faults: BoardFault, size_bytes: int = 5000, seed: int = 7, port: str = PORT) -> None:
        plan = work_for(name, Image(()))
        assert isinstance(plan.part, AvrPart)
        self.part, self.bootloader = plan.part, plan.bootloader
        self.firmware = application_image(self.part, size_bytes, seed=seed, usb=APP)
        loader = bootloader_image(self.bootloader, self.part)
        self.target = AvrTarget(self.part, fuses=self.bootloader.fuses or fuses_into(loader, self.part))
        self.target.flash[2 : loader.span.start] = b"\x55" * (loader.span.start - 2)
        for segment in loader.segments:
            self.target.flash[segment.start : segment.span.stop] = segment.data
        self.section = bytes(self.target.flash[loader.span.start :])
        self.port = port
        self.board = Board(self.target, faults=faults)
        self.join(BenchHardware())

    def join(self, bench: BenchHardware) -> None:
        """Put the board's cable into a bench."""
        self.bench = bench
        self.bench.add_port(self.port, self.port, self.board)
        self.desk = Desk(self.bench, self.port)

    @property
    def work(self) -> ChainWork:
        return ChainWork(part=self.part, bootloader=self.bootloader, firmware=self.firmware)

    @property
    def tool(self) -> ChainTool:
        tool = tool_for(self.bootloader.family, load_tools())
        assert tool is not None
        return tool

    async def shown(self, after_s: float = 0.3) -> str | None:
        await self.bench.sleep(after_s)
        device = await self.bench.device_at(self.port)
        return None if device is None else str(device.usb)

    def holds_firmware(self) -> bool:
        return all(self.target.flash[s.start : s.span.stop] == s.data for s in self.firmware.segments)

    def check_untouched_elsewhere(self) -> None:
        assert bytes(self.target.flash[-len(self.section) :]) == self.section
        assert not self.target.violations, [str(violation) for violation in self.target.violations]


def fuses_into(loader: Image, part: AvrPart) -> dict[MemoryKind, int]:
    """Return fuse bytes that start a part in its boot section; no vendor states any for the HID loaders."""
    assert part.boot is not None
    sections = (part.boot.min_bytes << 3, part.boot.min_bytes << 2, part.boot.min_bytes << 1, part.boot.min_bytes)
    choice = sections.index(part.flash.size_bytes - loader.span.start)
    bits, start = part.boot.bits, part.bits["bootrst"]
    fuses = {fuse.memory: fuse.default for fuse in part.fuses}
    fuses[bits.memory] = fuses[bits.memory] & ~bits.mask | choice * (bits.mask & -bits.mask)
    fuses[start.memory] &= ~start.mask
    return fuses


@pytest.mark.parametrize("name", LOADERS)
@virtual
async def test_a_firmware_is_written_and_runs(name: str) -> None:
    rig = Rig(name)
    async with rig.bench:
        assert await rig.shown() == rig.bootloader.usb[0]
        begun = rig.bench.now()
        found = await rig.tool.write(rig.work, rig.desk)
        assert rig.holds_firmware()
        assert rig.desk.done_bytes == len(rig.firmware)
        assert 0 < rig.bench.now() - begun < 20
        if rig.bootloader.family == "usbasploader":
            assert found is not None
            assert Image.of(found) == rig.firmware
        else:
            assert found is None
        rig.check_untouched_elsewhere()
        await rig.tool.start(rig.work, rig.desk)
        assert await rig.shown(3) == APP
        rig.check_untouched_elsewhere()


@pytest.mark.parametrize("transfer", [0, 1, 9, 30])
@pytest.mark.parametrize("name", ["bootloadhid-m32a", "usbasploader-m32a", "qmk-hid-32u4"])
@virtual
async def test_a_board_that_vanishes_in_the_midst_ends_it(name: str, transfer: int) -> None:
    rig = Rig(name, Vanishes(transfer=transfer))
    async with rig.bench:
        assert await rig.shown() == rig.bootloader.usb[0]
        with pytest.raises(LinkClosedError):
            await rig.tool.write(rig.work, rig.desk)
        rig.check_untouched_elsewhere()


@virtual
async def test_eight_boards_at_once_each_get_their_own() -> None:
    """Identical ids, no serial numbers: only the port tells them apart."""
    rigs = [
        Rig("bootloadhid-m32a", size_bytes=2000 + 128 * seed, seed=seed, port=f"1-2.{seed}") for seed in range(1, 9)
    ]
    bench = rigs[0].bench
    for rig in rigs[1:]:
        rig.join(bench)
    async with bench, anyio.create_task_group() as tasks:
        await bench.sleep(1)
        for rig in rigs:
            tasks.start_soon(rig.tool.write, rig.work, rig.desk)
    assert all(rig.holds_firmware() for rig in rigs)
    assert len({bytes(rig.target.flash) for rig in rigs}) == 8


@virtual
async def test_another_chip_under_the_same_id_is_not_written() -> None:
    for name, code in (
        ("usbasploader-m32a", ErrorCode.SIGNATURE_MISMATCH),
        ("bootloadhid-m32a", ErrorCode.BOARD_UNEXPECTED),
    ):
        rig = Rig(name)
        before = bytes(rig.target.flash)
        wrong = ChainWork(part=PARTS.avr("atmega644p"), bootloader=rig.bootloader, firmware=rig.firmware)
        async with rig.bench:
            await rig.shown()
            with pytest.raises(IspdError) as caught:
                await rig.tool.write(wrong, rig.desk)
        assert caught.value.code is code
        assert bytes(rig.target.flash) == before
