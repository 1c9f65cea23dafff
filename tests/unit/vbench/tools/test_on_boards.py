"""Programs of the bench on boards of the bench: found by place, firmware in the right cells, firmware started, illnesses told."""

from collections.abc import Mapping

import anyio
import pytest

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import Parts
from ispd.model.image import Image
from ispd.transport.contract import ToolOutcome, ToolRun, UsbDeviceAt
from vbench.board import Board
from vbench.board_faults import BoardFault, EraseLeaves, Vanishes
from vbench.firmware_image import application_image, bootloader_image
from vbench.hardware import BenchHardware
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import Stm32Board
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

APP_USB = "FEED:1234"


class Shop:
    """A bench with boards in their bootloaders."""

    def __init__(self, parts: Parts, bootloaders: Bootloaders, tools: Mapping[str, str] | None = None) -> None:
        self.part = parts.avr("atmega32u4")
        self._bootloaders = bootloaders
        self.bench = BenchHardware()
        self.bench.tools = tools or {}
        self.targets: dict[str, AvrTarget] = {}

    def add(self, path: str, loader: str, *faults: BoardFault) -> AvrTarget:
        bootloader = self._bootloaders.get(loader)
        target = self.targets[path] = AvrTarget(self.part, fuses=bootloader.fuses)
        for segment in bootloader_image(bootloader, self.part, size_bytes=512).segments:
            target.flash[segment.start : segment.span.stop] = segment.data
        self.bench.add_port(path, path, Board(target, loader=bootloader, faults=faults))
        return target

    def application(self, seed: int) -> Image:
        return application_image(self.part, 3000, seed=seed, usb=APP_USB)

    async def at(self, path: str) -> UsbDeviceAt:
        found = await self.bench.device_at(path)
        assert found is not None
        return found

    async def run(self, *words: str, inputs: Mapping[str, bytes], deadline_s: float = 60) -> ToolOutcome:
        return await self.bench.run_tool(ToolRun(words=words, deadline_s=deadline_s, inputs=inputs))


@pytest.fixture(scope="module")
def bootloaders(parts: Parts) -> Bootloaders:
    return load_bootloaders(parts)


@pytest.fixture
def shop(parts: Parts, bootloaders: Bootloaders) -> Shop:
    return Shop(parts, bootloaders)


@virtual
async def test_identical_boards_at_once_by_dfu_programmer(shop: Shop) -> None:
    paths = [f"1-2.{port}" for port in range(1, 9)]
    for path in paths:
        shop.add(path, "atmel-dfu-32u4")

    async def flash(seed: int, path: str) -> None:
        here = await shop.at(path)
        target = f"atmega32u4:{here.bus},{here.address}"
        files = {"app.hex": write_hex(shop.application(seed))}
        outcomes = [
            await shop.run("dfu-programmer", target, *words, inputs=files)
            for words in (("erase",), ("flash", "app.hex"), ("reset",))
        ]
        assert [outcome.exit_code for outcome in outcomes[:2]] == [0, 0]
        assert outcomes[1].errors == b"Validating...\n3000 bytes used (10.46%)\n"

    async with shop.bench:
        await shop.bench.sleep(1)
        begun = shop.bench.now()
        async with anyio.create_task_group() as tasks:
            for seed, path in enumerate(paths):
                tasks.start_soon(flash, seed, path)
        assert shop.bench.now() - begun < 5, "all at once"
        await shop.bench.sleep(1)
        for seed, path in enumerate(paths):
            content = shop.application(seed).segments[0].data
            assert shop.targets[path].flash[: len(content)] == content
            assert str((await shop.at(path)).usb) == APP_USB


@virtual
async def test_not_blank_at_0x1(parts: Parts, bootloaders: Bootloaders) -> None:
    shop = Shop(parts, bootloaders, {"dfu-programmer": "0.7.2"})
    target = shop.add("1-2.1", "atmel-dfu-32u4", EraseLeaves(residue=b"\x00old"))
    async with shop.bench:
        await shop.bench.sleep(1)
        outcome = await shop.run("dfu-programmer", "atmega32u4", "erase", "--force", inputs={})
        assert outcome.errors.decode() == (
            "Erasing flash...  Success\nChecking memory from 0x0 to 0x6FFF...  Not blank at 0x1.\n"
        )
        assert outcome.exit_code == 1
        assert target.flash[:4] == b"\x00old"


@virtual
async def test_a_board_that_vanishes(shop: Shop) -> None:
    shop.add("1-2.1", "atmel-dfu-32u4", Vanishes(transfer=12))
    files = {"app.hex": write_hex(shop.application(1))}
    async with shop.bench:
        await shop.bench.sleep(1)
        erased = await shop.run("dfu-programmer", "atmega32u4", "erase", inputs={})
        outcome = await shop.run("dfu-programmer", "atmega32u4", "flash", "app.hex", inputs=files)
    assert erased.exit_code == 0
    assert outcome.exit_code == 1
    assert outcome.errors == b"Error while flashing.\ndfu-programmer: failed to release interface 0.\n"


@virtual
async def test_caterina_by_avrdude(shop: Shop) -> None:
    target = shop.add("1-2.1", "caterina-promicro16")
    files = {"app.hex": write_hex(shop.application(2))}
    async with shop.bench:
        await shop.bench.sleep(1)
        tty = (await shop.at("1-2.1")).tty
        assert tty is not None
        outcome = await shop.run(
            *("avrdude", "-p", "m32u4", "-c", "avr109", "-P", tty, "-U", "flash:w:app.hex:i"), inputs=files
        )
        assert outcome.exit_code == 0
        assert b"avrdude: 3000 bytes of flash verified\n" in outcome.errors
        await shop.bench.sleep(2)
        assert str((await shop.at("1-2.1")).usb) == APP_USB
    content = shop.application(2).segments[0].data
    assert target.flash[: len(content)] == content


@virtual
async def test_avrdude_hangs_on_a_tty_that_is_gone(shop: Shop) -> None:
    shop.add("1-2.1", "caterina-promicro16", Vanishes(transfer=900))
    files = {"app.hex": write_hex(shop.application(2))}
    async with shop.bench:
        await shop.bench.sleep(1)
        tty = (await shop.at("1-2.1")).tty
        assert tty is not None
        words = ("avrdude", "-p", "m32u4", "-c", "avr109", "-P", tty, "-U", "flash:w:app.hex:i")
        outcome = await shop.run(*words, inputs=files, deadline_s=20)
    assert outcome.exit_code is None
    assert b"done" not in outcome.errors


@virtual
async def test_halfkay_by_teensy_loader(shop: Shop) -> None:
    target = shop.add("1-2.1", "halfkay-32u4")
    files = {"app.hex": write_hex(shop.application(3))}
    async with shop.bench:
        await shop.bench.sleep(1)
        outcome = await shop.run("teensy_loader_cli", "-mmcu=atmega32u4", "-v", "app.hex", inputs=files)
        assert outcome.exit_code == 0
        assert outcome.output.decode().endswith(
            "Found HalfKay Bootloader\nProgramming........................\nBooting\n"
        )
        await shop.bench.sleep(1)
        assert str((await shop.at("1-2.1")).usb) == APP_USB
    content = shop.application(3).segments[0].data
    assert target.flash[: len(content)] == content


@virtual
async def test_stm32duino_by_dfu_util(shop: Shop) -> None:
    boards = {f"1-2.{port}": Stm32Board() for port in (1, 2)}
    for path, board in boards.items():
        shop.bench.add_port(path, path, board)
    async with shop.bench:
        await shop.bench.sleep(1)
        for number, path in enumerate(boards):
            content = stm32_application(2500 + number)
            words = ("dfu-util", "-a", "2", "-d", "1EAF:0003", "-p", path, "-R", "-D", "app.bin")
            outcome = await shop.run(*words, inputs={"app.bin": content})
            assert outcome.exit_code == 74, "the board leaves at the reset, which is how it ends well"
            assert outcome.output.endswith(b"Resetting USB to switch back to runtime mode\nDone!\n")
            assert boards[path].chip.flash[APPLICATION : APPLICATION + len(content)] == content
        await shop.bench.sleep(2)
        shown = {device.usb.vendor_id for device in shop.bench.devices()}
    assert shown == {0xFEED}
