"""The driver and the daemon's own serial stack in front of an emulated Bus Pirate on a pseudo-terminal, rates and all."""

import anyio
import pytest

from ispd.catalog.parts import load_parts
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.buspirate import DRIVER
from ispd.transport.machine import Machine
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.pty_board import PtyBoard
from vbench.target import AvrTarget

TIME_SCALE = 4.0
ERASE = bytes.fromhex("AC800000")
POLL = bytes.fromhex("F0000000")


class Patient:
    """Lets every transfer go on to its end."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        assert done_bytes > 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("hardware", "firmware"),
    [(BusPirateHardware.V3, "6.1"), (BusPirateHardware.V3, "8.0"), (BusPirateHardware.V4, "7.1")],
)
async def test_a_board_is_written_and_read_and_the_next_opening_finds_it_again(
    hardware: BusPirateHardware, firmware: str
) -> None:
    part = load_parts().avr("atmega32u4")
    target = AvrTarget(part)
    emulated = BusPirate(hardware, firmware, target=target)
    pages = [Segment(0x80 * page, bytes((page * 31 + index) & 0xFF for index in range(0x80))) for page in range(4)]
    data = b"".join(page.data for page in pages)
    with PtyBoard(emulated, time_scale=TIME_SCALE) as board:
        for _ in range(2):
            programmer = await DRIVER.open(Machine(), board.path)
            await programmer.enter(part, 400_000)
            await programmer.transfer([ERASE])
            with anyio.fail_after(10):
                while (await programmer.transfer([POLL]))[0] & 1:
                    pass
            assert await programmer.write(part, MemoryKind.FLASH, pages, Patient()) == len(pages)
            assert await programmer.read(MemoryKind.FLASH, Span(0, len(data)), Patient()) == data
            await programmer.leave()
            await programmer.aclose()
            assert board.target is target
            assert not target.in_reset
    assert target.flash[: len(data)] == data
    assert target.erase_count == 2
    assert target.violations == []
    assert emulated.lost == 0
