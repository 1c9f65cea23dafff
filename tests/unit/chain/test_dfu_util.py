"""dfu-util told by a script. Its outputs are those of 0.11, observed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.chain.scripted_desk import BOARD, Reply, ScriptedDesk, image, work_for

from ispd.chain.contract import ChainTool
from ispd.chain.dfu_util import TOOL, DfuUtil, claims_download, raw_binary
from ispd.errors import ErrorCode, RefusedError, TargetError
from ispd.model.image import Image
from ispd.transport.contract import ToolOutcome, UsbIdentity

pytestmark = pytest.mark.anyio

START = 0x08002000
BODY = (0x20005000).to_bytes(4, "little") + (START + 0x101).to_bytes(4, "little") + bytes(range(1, 247)) * 12
FIRMWARE = image((START, BODY), (START + 0x1000, b"tail!"))
SIZE = 0x1008
"""In whole words."""
WORK = work_for("stm32duino-pc13", FIRMWARE)
MAPLE = replace(BOARD, usb=UsbIdentity(vendor_id=0x1EAF, product_id=0x0003, serial="LLM 003"), version=0x0201, tty=None)
RUN = ("dfu-util", "-p", "1-1.4", "-d", "1eaf:0003", "-a", "2", "-R", "-D", "firmware.bin")
READ = ("dfu-util", "-p", "1-1.4", "-d", "0483:df11", "-a", "0")

HELLO = (
    "dfu-util 0.11\n\nOpening DFU capable USB device...\nDevice ID 1eaf:0003\nDevice DFU version 0110\n"
    "Claiming USB DFU Interface...\nSetting Alternate Interface #2 ...\nDetermining device status...\n"
)
READY = "DFU mode device DFU version 0110\nDevice returned transfer size 1024\nCopying data from PC to DFU device\n"
IDLE = "DFU state(2) = dfuIDLE, status(0) = No error condition is present\n"
CLEARED = "DFU state(10) = dfuERROR, status(10) = Device's firmware is corrupt\ndfuERROR, clearing status\n" + IDLE
BAR = f"\rDownload\t[=========================] 100%         {SIZE} bytes"
DONE = f"{BAR}\nDownload done.\n"
WAIT = "DFU state(8) = dfuMANIFEST-WAIT-RESET, status(0) = No error condition is present\n"
MANIFEST = "DFU state(7) = dfuMANIFEST, status(0) = No error condition is present\n"
SUFFIX = "dfu-util: Warning: Invalid DFU suffix signature\ndfu-util: A valid DFU suffix will be required in a future dfu-util release\n"
AFTER = "dfu-util: unable to read DFU status after completion (LIBUSB_ERROR_NO_DEVICE)\n"

tool: ChainTool = DfuUtil()


def test_it_is_found_by_its_families() -> None:
    """The module offers it, and says what it is."""
    assert isinstance(TOOL, DfuUtil)
    assert tool.families == {"dfu", "dfuse"}
    assert (tool.is_exclusive, tool.needs_tty, tool.erase_is_separate) == (False, False, False)


GOOD = HELLO + IDLE + READY + DONE + WAIT + "Resetting USB to switch back to Run-Time mode\nDone!\n"


@pytest.mark.parametrize(
    ("code", "output", "errors", "is_good"),
    [
        (0, GOOD, SUFFIX + "can't detach\n", True),
        (74, GOOD, SUFFIX, True),
        (251, GOOD, SUFFIX, True),
        (74, HELLO + IDLE + READY + DONE + WAIT, SUFFIX + "dfu-util: error resetting after download\n", True),
        (74, HELLO + CLEARED + READY + DONE + WAIT, SUFFIX, True),
        (74, HELLO + IDLE + READY + DONE + MANIFEST, SUFFIX + AFTER, True),
        (0, "", "", False),
        (0, HELLO + IDLE + READY + BAR, SUFFIX, False),
        (0, HELLO + IDLE + READY + DONE, SUFFIX, False),
        (74, HELLO + IDLE + READY + DONE, SUFFIX + AFTER, False),
        (
            74,
            HELLO + IDLE + READY + BAR + " failed!\nDFU state(10) = dfuERROR, status(3) = Device program write error\n",
            SUFFIX,
            False,
        ),
        (0, HELLO + IDLE + READY + DONE + "DFU state(10) = dfuERROR, status(7) = Verify\nDone!\n", SUFFIX, False),
        (0, GOOD, SUFFIX + "dfu-util: Error during download (LIBUSB_ERROR_PIPE)\n", False),
        (74, HELLO, "dfu-util: No DFU capable USB device available\n", False),
        (64, "", "dfu-util: unrecognized option\n", False),
    ],
)
async def test_stm32duino_is_believed_by_its_words(code: int, output: str, errors: str, is_good: bool) -> None:
    """Codes mean nothing; every block taken, an accepted end and no error before it do. Nothing is read back."""
    outcome = ToolOutcome(exit_code=code, output=output.encode(), errors=errors.encode(), files={})
    assert claims_download(outcome, is_dfuse=False) is is_good
    desk = ScriptedDesk(Reply(words=RUN, code=code, output=output.encode(), errors=errors), board=MAPLE)
    await tool.erase(WORK, desk)
    if is_good:
        assert await tool.write(WORK, desk) is None
        await tool.start(WORK, desk)
        assert desk.done_bytes == len(FIRMWARE)
    else:
        with pytest.raises(TargetError) as failure:
            await tool.write(WORK, desk)
        assert failure.value.code is ErrorCode.TOOL_FAILED
    assert desk.is_through
    assert "-w" not in desk.runs[0].words
    assert desk.runs[0].inputs["firmware.bin"] == FIRMWARE.bytes_in(FIRMWARE.span).ljust(SIZE, b"\xff")


STM32 = replace(BOARD, usb=UsbIdentity(vendor_id=0x0483, product_id=0xDF11), version=0x2200, tty=None)
ROM = 0x08000000
ROM_BODY = (0x20020000).to_bytes(4, "little") + (ROM + 0x101).to_bytes(4, "little") + bytes(range(1, 247)) * 2
ROM_WORK = work_for("stm32-dfu", image((ROM, ROM_BODY)))
TAKEN = (HELLO + IDLE + READY + DONE + "File downloaded successfully\n").encode()


async def test_dfuse_is_read_back() -> None:
    """The ROM loader stays, is read, and leaves when it is told."""
    write, read, leave = (
        Reply(words=(*READ, "-s", "0x08000000", "-D", "firmware.bin"), output=TAKEN, code=74),
        Reply(words=(*READ, "-s", f"0x08000000:{len(ROM_BODY)}", "-U", "flash.bin"), files={"flash.bin": ROM_BODY}),
        Reply(words=(*READ, "-s", "0x08000000:leave:4", "-U", "flash.bin"), code=74),
    )
    desk = ScriptedDesk(write, read, leave, board=STM32)
    found = await tool.write(ROM_WORK, desk)
    assert found is not None
    assert [(segment.start, segment.data) for segment in found] == [(ROM, ROM_BODY)]
    await tool.start(ROM_WORK, desk)
    assert desk.is_through
    for cells in ({}, {"flash.bin": ROM_BODY[:-1]}):
        with pytest.raises(TargetError, match="could not read back"):
            await tool.write(ROM_WORK, ScriptedDesk(write, replace(read, files=cells, code=0), board=STM32))
    untaken = replace(write, output=TAKEN.replace(b"File downloaded", b""))
    with pytest.raises(TargetError, match="could not write"):
        await tool.write(ROM_WORK, ScriptedDesk(untaken, board=STM32))


def vector(stack: int, reset: int) -> bytes:
    """Return the first words of a firmware, and a body."""
    return stack.to_bytes(4, "little") + reset.to_bytes(4, "little") + bytes(100)


@pytest.mark.parametrize(
    ("bootloader", "firmware", "problem"),
    [
        ("stm32duino-pc13", image((0x08000000, vector(0x20005000, 0x08000101))), "begins at 0x08000000"),
        ("stm32duino-pc13", image((0, vector(0x20005000, 0x08000101))), "reset vector 0x08000101"),
        ("stm32duino-pc13", image((0, vector(0x20005000, START + 108))), "reset vector 0x0800206C"),
        ("stm32duino-pc13", image((0, vector(0x20020000, START + 9))), "stack pointer"),
        ("stm32duino-pc13", image((0, b"\xff" * 3)), "stack pointer"),
        ("stm32-dfu", image((0, vector(0x20020000, START + 0x2001))), "reset vector"),
        ("stm32duino-pc13", image((0, vector(0x20005000, START + 107))), None),
        ("stm32-dfu", image((0, vector(0x20020000, ROM + 9))), None),
        ("gd32v-dfu", image((0, vector(0x0000A001, 0xFFFFFFFF))), None),
        ("kiibohd-mk20dx256", image((0, vector(0x20008000, 0x000001BD))), None),
    ],
)
def test_firmware_for_another_address(bootloader: str, firmware: Image, problem: str | None) -> None:
    """A .bin linked for the wrong place would be written well and never start: it is refused by its vectors."""
    work = work_for(bootloader, firmware)
    if problem is None:
        assert raw_binary(work).address == work.bootloader.application_start
        return
    with pytest.raises(RefusedError, match=problem) as failure:
        raw_binary(work)
    assert failure.value.code is ErrorCode.IMAGE_DOES_NOT_FIT


@given(tail=st.binary(max_size=40), gap=st.integers(0, 40))
def test_the_file_is_whole_words(tail: bytes, gap: int) -> None:
    """Gaps and the end are filled with 0xFF, and nothing of the firmware is lost."""
    firmware = image((START, BODY), (START + len(BODY) + gap, tail))
    raw = raw_binary(replace(WORK, firmware=firmware))
    assert raw.address == START
    assert len(raw.data) % 4 == 0
    assert raw.data.startswith(BODY)
    if tail:
        assert raw.data == (BODY + b"\xff" * gap + tail).ljust(len(raw.data), b"\xff")
