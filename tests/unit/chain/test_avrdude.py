"""avrdude told by a script, and the touch that wakes a sketch's bootloader."""

from dataclasses import replace

import pytest
from tests.unit.chain.scripted_desk import BOARD, Reply, ScriptedDesk, image, work_for

from ispd.chain.avrdude import TOOL, Avrdude, touch
from ispd.chain.contract import ChainTool
from ispd.errors import ErrorCode, TargetError
from ispd.model.span import Span
from ispd.transport.contract import BytePort, SerialSettings, UsbLink

pytestmark = pytest.mark.anyio

FIRMWARE = image((0, bytes(range(256)) * 4), (0x1015, b"tail\xff\xff"))
WORK = work_for("caterina-promicro16", FIRMWARE)
CELLS = FIRMWARE.bytes_in(Span(0, 0x8000))
TALK = (
    "\nReading | " + "#" * 50 + " | 100% 0.00s\n\nWriting | " + "#" * 50 + " | 100% 0.86s\n\n"
    "Reading | " + "#" * 50 + " | 100% 0.20s\n\navrdude done.  Thank you.\n"
)
RUN = (
    *("avrdude", "-p", "m32u4", "-c", "avr109", "-P", "/dev/ttyACM3", "-V"),
    *("-U", "flash:w:firmware.hex:i", "-U", "flash:r:flash.bin:r"),
)

tool: ChainTool = Avrdude()


def test_it_is_found_by_its_family() -> None:
    """The module offers it, and says what it is."""
    assert isinstance(TOOL, Avrdude)
    assert (tool.program, tool.is_exclusive, tool.needs_tty, tool.erase_is_separate) == ("avrdude", False, True, False)


@pytest.mark.parametrize(
    ("code", "errors"),
    [(0, TALK), (1, TALK + "avrdude: error: programmer did not respond to command: leave prog mode\n"), (0, "")],
)
async def test_the_file_it_read_decides(code: int, errors: str) -> None:
    """One run writes and reads; whatever the code, a file that was read is handed up, and erase and start do nothing."""
    desk = ScriptedDesk(Reply(words=RUN, code=code, errors=errors, files={"flash.bin": CELLS}))
    await tool.erase(WORK, desk)
    found = await tool.write(WORK, desk)
    await tool.start(WORK, desk)
    assert found is not None
    assert [(segment.start, segment.data) for segment in found] == [(0, CELLS)]
    assert desk.is_through
    assert desk.done_bytes == len(FIRMWARE)


async def test_blank_cells_at_the_end_are_not_in_the_file() -> None:
    """avrdude leaves out what is 0xFF at the end of what it reads; the last bytes of this firmware are."""
    desk = ScriptedDesk(Reply(words=RUN, files={"flash.bin": CELLS.rstrip(b"\xff")}))
    found = await tool.write(WORK, desk)
    assert found is not None
    assert found[0].data == CELLS[: FIRMWARE.span.stop]
    empty = await tool.write(WORK, ScriptedDesk(Reply(words=RUN, files={"flash.bin": b""})))
    assert empty is not None
    assert set(empty[0].data) == {0xFF}


@pytest.mark.parametrize("code", [0, 1, -15])
async def test_nothing_read_is_a_failure(code: int) -> None:
    """Also with exit code 0: what was written is unknown then."""
    said = "avrdude: error: butterfly programmer uses avr_write_page() but does not provide a cache\n"
    desk = ScriptedDesk(Reply(words=RUN, code=code, errors=said))
    with pytest.raises(TargetError, match="butterfly programmer") as failure:
        await tool.write(WORK, desk)
    assert failure.value.code is ErrorCode.TOOL_FAILED


async def test_a_bootloader_without_its_tty() -> None:
    """Nothing is run where the port is not there (yet)."""
    desk = ScriptedDesk(board=replace(BOARD, tty=None))
    with pytest.raises(TargetError, match="shows no serial port") as failure:
        await tool.write(WORK, desk)
    assert failure.value.code is ErrorCode.BOOTLOADER_NOT_SEEN


class _Port:
    name = "/dev/ttyACM3"

    def __init__(self, log: list[object]) -> None:
        self._log = log

    async def send(self, data: bytes) -> None:
        self._log.append(data)

    async def receive(self) -> bytes:
        raise AssertionError("a touch listens to nothing")

    def take(self) -> bytes:
        return b""

    async def set_baud(self, baud: int) -> None:
        self._log.append(baud)

    async def aclose(self) -> None:
        self._log.append("closed")


class _Opener:
    def __init__(self) -> None:
        self.log: list[object] = []

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        self.log.append(settings)
        return _Port(self.log)

    async def open_usb(self, port: str) -> UsbLink:
        raise AssertionError(f"{port} is no tty")


async def test_touch() -> None:
    """The port is opened at 1200 baud, at its place, to hang up when it is closed; nothing is sent."""
    opener = _Opener()
    await touch(opener, "/dev/ttyACM3", "1-1.4")
    assert opener.log == [SerialSettings(port="/dev/ttyACM3", baud=1200, path="1-1.4", hangs_up=True), "closed"]
