"""teensy_loader_cli told by a script. Its outputs are those of its source, 2.2."""

from dataclasses import replace

import pytest
from tests.unit.chain.scripted_desk import Reply, ScriptedDesk, image, work_for

from ispd.chain.contract import ChainTool
from ispd.chain.teensy import TOOL, TeensyLoader
from ispd.errors import ErrorCode, LocalProtocolError, TargetError

pytestmark = pytest.mark.anyio

FIRMWARE = image((0x80, bytes(range(256)) * 2), (0x400, b"\xff" * 300), (0x1015, b"tail"))
"""In blocks of 128: the first, which is blank and sent all the same, four with data, blank ones, one at the end."""
BLOCKS = 6
WORK = work_for("halfkay-32u4", FIRMWARE)
RUN = ("teensy_loader_cli", "--mcu=atmega32u4", "-v", "firmware.hex")
HELLO = (
    b'Teensy Loader, Command Line, Version 2.2\nRead "firmware.hex": 816 bytes, 2.5% usage\nFound HalfKay Bootloader\n'
)

tool: ChainTool = TeensyLoader()


def said(blocks: int, end: bytes = b"\nBooting\n") -> bytes:
    """Return the output of a run that sent some blocks."""
    return HELLO + b"Programming" + b"." * blocks + end


def test_it_is_found_by_its_family() -> None:
    """The module offers it, and says what it is: it must never run while a second board waits."""
    assert isinstance(TOOL, TeensyLoader)
    assert (tool.is_exclusive, tool.needs_tty, tool.erase_is_separate) == (True, False, False)


async def test_nothing_is_read_back() -> None:
    """One run erases, writes and starts; its result is a claim only."""
    desk = ScriptedDesk(Reply(words=RUN, output=said(BLOCKS)))
    await tool.erase(WORK, desk)
    assert await tool.write(WORK, desk) is None
    await tool.start(WORK, desk)
    assert desk.is_through
    assert desk.done_bytes == len(FIRMWARE)
    assert desk.runs[0].inputs["firmware.hex"].endswith(b":00000001FF\n")


@pytest.mark.parametrize(
    ("code", "output", "errors"),
    [
        (1, HELLO[:40], "Unable to open device (hint: try -w option)\n"),
        (1, said(3, b""), "error writing to Teensy\n"),
        (0, said(BLOCKS - 1), ""),
        (0, said(BLOCKS + 1), ""),
        (0, said(BLOCKS, b"\n"), ""),
        (0, b"Warning, HEX parse error line 3\n" + said(BLOCKS), ""),
        (0, HELLO, ""),
        (0, b"", ""),
        (-11, said(BLOCKS), ""),
        (1, said(BLOCKS), ""),
    ],
)
async def test_claims_that_do_not_agree(code: int, output: bytes, errors: str) -> None:
    """Exit code, count of blocks and last line must say the same; else the work failed."""
    with pytest.raises(TargetError) as failure:
        await tool.write(WORK, ScriptedDesk(Reply(words=RUN, code=code, output=output, errors=errors)))
    assert failure.value.code is ErrorCode.TOOL_FAILED


async def test_a_board_that_left_is_not_looked_for() -> None:
    """The program would take any other board: it is not started."""
    with pytest.raises(TargetError) as failure:
        await tool.write(WORK, ScriptedDesk(board=None))
    assert failure.value.code is ErrorCode.BOOTLOADER_NOT_SEEN


@pytest.mark.parametrize(
    ("bootloader", "name", "blocks"),
    [("halfkay-usb1286", "at90usb1286", 4), ("halfkay-usb162", "at90usb162", 6), ("halfkay-mk20dx256", "mk20dx256", 2)],
)
async def test_names_and_blocks_of_chips(bootloader: str, name: str, blocks: int) -> None:
    """Parts by the catalog's id, chips that it does not know by the bootloader's; each with its size of blocks."""
    desk = ScriptedDesk(Reply(words=(f"--mcu={name}",), output=said(blocks)))
    assert await tool.write(work_for(bootloader, FIRMWARE), desk) is None


async def test_chips_it_cannot_know() -> None:
    """A chip that the program has no name for is a mistake of ours."""
    with pytest.raises(LocalProtocolError, match="halfkay-32u4"):
        await tool.write(replace(WORK, part=None), ScriptedDesk())
