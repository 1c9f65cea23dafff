"""Boards with an STM32 on debug probes of the bench: on and off, their USB side, the reset button, what does not fit."""

import pytest

from ispd.catalog.parts import Parts
from ispd.transport.contract import BulkTransfer
from vbench.hardware import BenchHardware
from vbench.stlink import StLink
from vbench.stm32 import stm32_application
from vbench.stm32_board import DfuSeBoard, Stm32Board
from vbench.swd import SwdSocket
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

LOADER, KEYBOARD = "1EAF:0003", "FEED:6061"
PROBE, PORT = "1-1.1", "1-2.1"
FIRMWARE = stm32_application(3000, usb=KEYBOARD)
ENTER = b"\xf2\x30\xa3"


async def ask(bench: BenchHardware, command: bytes, length: int) -> bytes:
    """Have one transaction with the probe."""
    link = await bench.open_usb(f"usb:{PROBE}")
    command = command.ljust(16, b"\0")
    found = await link.submit([BulkTransfer(endpoint=0x02, data=command), BulkTransfer(endpoint=0x81, length=length)])
    await link.aclose()
    return found[1]


def shown(bench: BenchHardware) -> str | None:
    return next((str(device.usb) for device in bench.devices() if device.path == PORT), None)


@virtual
async def test_a_board_on_a_probe_has_its_usb_side_on_its_own_port() -> None:
    bench = BenchHardware()
    bench.add("A", StLink(), path=PROBE, board_usb=PORT)
    board = Stm32Board()
    async with bench:
        assert not bench.holds_board("A")
        bench.insert("A", board)
        assert (bench.chip("A"), bench.board("A"), bench.holds_board("A")) == (board.swd, board, True)
        await bench.sleep(1)
        assert shown(bench) == LOADER
        assert (await ask(bench, ENTER, 2))[0] == 0x80
        bench.unplug("A")
        await bench.sleep(1)
        assert shown(bench) == LOADER, "its own cable supplies it"
        bench.plug("A")
        assert bench.remove("A") is board.swd
        assert not board.swd.is_powered
        assert (shown(bench), bench.board("A"), bench.holds_board("A")) == (None, None, False)
        assert (await ask(bench, ENTER, 2))[0] == 0x09
        with pytest.raises(ValueError, match="no board"):
            bench.remove("A")


@virtual
async def test_a_probe_comes_with_its_board() -> None:
    """Given by the header or by the bench: the same."""
    for is_on_header in (True, False):
        board = Stm32Board(application=FIRMWARE)
        bench = BenchHardware()
        probe = StLink(socket=SwdSocket(board.swd) if is_on_header else None)
        bench.add("A", probe, path=PROBE, board_usb=PORT, board=board)
        async with bench:
            await bench.sleep(3)
            assert shown(bench) == KEYBOARD
            bench.press("A")
            await bench.sleep(1)
            assert shown(bench) == LOADER, "its window is open"
            await bench.sleep(3)
            assert (shown(bench), board.swd.resets) == (KEYBOARD, 2)
            assert (await ask(bench, ENTER, 2))[0] == 0x80


@virtual
async def test_boards_and_programmers_of_different_kinds(parts: Parts) -> None:
    bench = BenchHardware()
    bench.add("A", StLink(), path=PROBE, board_usb=PORT)
    bench.add("B", UsbAsp(), path="1-1.2", board_usb="1-2.2")
    for board in (AvrTarget(parts.avr("atmega32u4")), DfuSeBoard()):
        with pytest.raises(ValueError, match="A is a debug probe"):
            bench.insert("A", board)
    with pytest.raises(ValueError, match="B is an ISP programmer"):
        bench.insert("B", Stm32Board())
    with pytest.raises(ValueError, match="C is an ISP programmer"):
        bench.add("C", UsbAsp(), board=Stm32Board())
    assert bench.names == ("A", "B")
    assert not bench.holds_board("A")
    assert not bench.holds_board("B")
    bench.insert("A", Stm32Board())
    with pytest.raises(ValueError, match="no AVR"):
        bench.target("A")


@virtual
async def test_boards_in_a_port_of_their_own() -> None:
    bench = BenchHardware()
    board = Stm32Board(application=FIRMWARE)
    bench.add_port("P", PORT, board)
    async with bench:
        await bench.sleep(3)
        assert (shown(bench), bench.chip("P")) == (KEYBOARD, board.swd)
        bench.press("P")
        await bench.sleep(1)
        assert shown(bench) == LOADER
        assert bench.remove("P") is board.swd
        bench.insert("P", DfuSeBoard())
        assert bench.chip("P") is None
        assert bench.remove("P") is None
        assert not bench.holds_board("P")
