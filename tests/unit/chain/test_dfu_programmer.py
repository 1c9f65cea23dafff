"""dfu-programmer told by a script: what it claims, and what is made of it. Outputs are the real program's."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.chain.scripted_desk import BOARD, Reply, ScriptedDesk, image, work_for

from ispd.chain.contract import ChainTool
from ispd.chain.dfu_programmer import TOOL, DfuProgrammer, EraseClaim, read_erase, target_name
from ispd.errors import ErrorCode, LocalProtocolError, TargetError, TransportError
from ispd.model.span import Span
from ispd.transport.contract import UsbDeviceAt, UsbTransfer

pytestmark = pytest.mark.anyio

FIRMWARE = image((0, bytes(range(256)) * 4), (0x1015, b"tail"))
WORK = work_for("atmel-dfu-32u4", FIRMWARE)
APPLICATION_BYTES = 28672
CELLS = FIRMWARE.bytes_in(Span(0, APPLICATION_BYTES))
OLD = Reply(words=("dfu-programmer", "--version"), code=1, errors="dfu-programmer 0.6.1\n")
NEW = Reply(words=("dfu-programmer", "--version"), output=b"dfu-programmer 0.7.2\n")
NEWEST = Reply(words=("dfu-programmer", "--version"), errors="dfu-programmer 1.1.0\n")
BAR = "0%                            100%  Programming 0x1080 bytes...\n[" + ">" * 32 + "]  Success\n"
NO_DEVICE = "dfu-programmer: no device present.\n"

tool: ChainTool = DfuProgrammer()


def test_it_is_found_by_its_family() -> None:
    """The module offers it, and says what it is."""
    assert isinstance(TOOL, DfuProgrammer)
    assert (tool.program, tool.is_exclusive, tool.needs_tty, tool.erase_is_separate) == (
        "dfu-programmer",
        False,
        False,
        True,
    )


# -- erase ----------------------------------------------------------------------------------------------------------

ERASING = "Erasing flash...  Success\n"
CHECKING = "Checking memory from 0x0 to 0x6FFF...  "


@pytest.mark.parametrize(
    ("code", "errors", "claim"),
    [
        (0, f"{ERASING}{CHECKING}Empty.\n", EraseClaim(was_done=True)),
        (1, f"{ERASING}{CHECKING}Empty.\ndfu-programmer: failed to release interface 0.\n", EraseClaim(was_done=True)),
        (1, f"{ERASING}{CHECKING}Not blank at 0x1.\n", EraseClaim(was_done=False, not_blank_at=0)),
        (0, f"{ERASING}{CHECKING}Not blank at 0x100.\n", EraseClaim(was_done=False, not_blank_at=0xFF)),
        (255, f"{ERASING}{CHECKING}Not blank at 0xFF.\n", EraseClaim(was_done=False, not_blank_at=0xFE)),
        (0, f"{CHECKING}Not blank at 0x1.\n{ERASING}{CHECKING}Empty.\n", EraseClaim(was_done=True)),
        (
            1,
            f"{CHECKING}Not blank at 0x1.\n{ERASING}{CHECKING}Not blank at 0x21.\n",
            EraseClaim(was_done=False, not_blank_at=0x20),
        ),
        (0, f"{CHECKING}Empty.\nChip already blank, to force erase use --force.\n", EraseClaim(was_done=False)),
        (0, f"{CHECKING}Empty.\n{ERASING}", EraseClaim(was_done=False)),
        (3, ERASING, EraseClaim(was_done=False)),
        (0, ERASING, EraseClaim(was_done=False)),
        (253, "Erasing flash...  ERROR\n" * 2, EraseClaim(was_done=False)),
        (0, f"Erasing flash...  ERROR\nERROR\nSuccess\n{CHECKING}Empty.\n", EraseClaim(was_done=True)),
        (255, f"{ERASING}{CHECKING}ERROR.\n", EraseClaim(was_done=False)),
        (3, NO_DEVICE, EraseClaim(was_done=False)),
    ],
)
async def test_erase_is_judged_by_what_comes_after_it(code: int, errors: str, claim: EraseClaim) -> None:
    """0.7 and later: exit codes lie both ways, and "Not blank" means nothing before the erase and the disease after it."""
    assert read_erase(errors) == claim
    for version in (NEW, NEWEST):
        erase = Reply(words=("atmega32u4:1,17", "erase", "--force"), code=code, errors=errors)
        desk = ScriptedDesk(version, erase, link=ClosableLink())
        if claim.was_done:
            await tool.erase(WORK, desk)
        else:
            with pytest.raises(TargetError) as failure:
                await tool.erase(WORK, desk)
            expected = ErrorCode.ERASE_FAILED if claim.not_blank_at is None else ErrorCode.NOT_BLANK
            assert (failure.value.code, failure.value.facts.address) == (expected, claim.not_blank_at)
        assert desk.is_through


@given(before=st.text(max_size=60), address=st.integers(0, 0x1DFFF))
def test_position_decides(before: str, address: int) -> None:
    """Whatever was said before the erase, only what follows it counts."""
    disease = f"Not blank at 0x{address + 1:X}.\n"
    assert read_erase(before + disease + ERASING + CHECKING + "Empty.\n") == EraseClaim(was_done=True)
    assert read_erase(before + ERASING + CHECKING + disease + ERASING + CHECKING + "Empty.\n").was_done
    assert read_erase(before + ERASING + CHECKING + disease) == EraseClaim(was_done=False, not_blank_at=address)


@pytest.mark.parametrize(
    ("bootloader", "printed", "address"),
    [("atmel-dfu-32u4", 0x1F1, 0x1F0), ("lufa-dfu-32u4", 0xF002, 0x1F0), ("qmk-dfu-usb128", 0x1F002, 0x101F0)],
)
async def test_address_from_a_rebuild(bootloader: str, printed: int, address: int) -> None:
    """LUFA's answers low byte first, which the program does not know: what it prints is turned round."""
    said = f"{ERASING}{CHECKING}Not blank at 0x{printed:X}.\n"
    with pytest.raises(TargetError) as failure:
        await tool.erase(
            work_for(bootloader, FIRMWARE), ScriptedDesk(NEW, Reply(words=("erase",), code=1, errors=said))
        )
    assert failure.value.facts.address == address


ERASE_OLD = ("atmega32u4:1,17", "erase")
DUMP = ("atmega32u4:1,17", "dump")
BLANK_CELLS = b"\xff" * APPLICATION_BYTES


@pytest.mark.parametrize(
    ("erase", "dump", "expected"),
    [
        (Reply(words=ERASE_OLD), None, None),
        (Reply(words=ERASE_OLD, code=1), Reply(words=DUMP, output=BLANK_CELLS), None),
        (
            Reply(words=ERASE_OLD, code=1),
            Reply(words=DUMP, output=b"\xff" * 0x123 + b"\x00" + b"\xff" * (APPLICATION_BYTES - 0x124)),
            (ErrorCode.NOT_BLANK, 0x123, 0x00),
        ),
        (Reply(words=ERASE_OLD, code=1), Reply(words=DUMP, output=CELLS), (ErrorCode.NOT_BLANK, 0, 0x00)),
        (
            Reply(words=ERASE_OLD, code=1),
            Reply(words=DUMP, code=1, errors="The device is read protected.\n"),
            (ErrorCode.ERASE_FAILED, None, None),
        ),
        (Reply(words=ERASE_OLD, code=1), Reply(words=DUMP, output=b"\xff"), (ErrorCode.ERASE_FAILED, None, None)),
        (Reply(words=ERASE_OLD, code=-11), Reply(words=DUMP, code=1), (ErrorCode.ERASE_FAILED, None, None)),
    ],
)
async def test_a_silent_failure_is_looked_into(
    erase: Reply, dump: Reply | None, expected: tuple[ErrorCode, int | None, int | None] | None
) -> None:
    """0.6.1 ends with 1 and no word whether nothing, something or everything was erased: the cells tell."""
    desk = ScriptedDesk(OLD, erase, *([] if dump is None else [dump]))
    if expected is None:
        await tool.erase(WORK, desk)
    else:
        with pytest.raises(TargetError) as failure:
            await tool.erase(WORK, desk)
        facts = failure.value.facts
        assert (failure.value.code, facts.address, facts.actual) == expected
    assert desk.is_through
    assert desk.clock.now == pytest.approx(0.0 if dump is None else 256 * 0.0045), (
        "a board that was only busy has had its time"
    )
    assert "--force" not in desk.runs[1].words


# -- write ----------------------------------------------------------------------------------------------------------

FLASH_OLD = ("atmega32u4:1,17", "flash", "--suppress-validation", "firmware.hex")
FLASH_NEW = ("atmega32u4:1,17", "flash", "--suppress-validation", "--force", "firmware.hex")
READ = ("atmega32u4:1,17", "read", "--force", "--bin")


async def test_the_file_suits_every_version() -> None:
    """Whole pages from multiples of 32 on, blank ones left out, no start records, one end, a newline after it."""
    work = replace(WORK, firmware=image((0x15, b"head"), (0x200, b"\xff" * 256), (0x1015, b"tail")))
    desk = ScriptedDesk(OLD, Reply(words=FLASH_OLD), Reply(words=DUMP, output=CELLS))
    await tool.write(work, desk)
    lines = desk.runs[1].inputs["firmware.hex"].decode("ascii").split("\n")
    records = [bytes.fromhex(line.removeprefix(":")) for line in lines[:-1]]
    assert lines[-1] == ""
    assert {record[3] for record in records} == {0, 1, 4}
    assert [number for number, record in enumerate(records) if record[3] == 1] == [len(records) - 1]
    cells = {
        int.from_bytes(record[1:3], "big") + offset: value
        for record in records
        if record[3] == 0
        for offset, value in enumerate(record[4:-1])
    }
    assert set(cells) == {*range(0x80), *range(0x1000, 0x1080)}
    assert bytes(cells[address] for address in range(0x80)) == b"\xff" * 0x15 + b"head" + b"\xff" * (0x80 - 0x19)
    assert desk.runs[2].output_is_data


@pytest.mark.parametrize(
    ("version", "flash", "words", "read"),
    [(OLD, FLASH_OLD, "Error while flashing.\n", DUMP), (NEW, FLASH_NEW, BAR, READ), (NEWEST, FLASH_NEW, "", READ)],
)
async def test_the_cells_decide(version: Reply, flash: tuple[str, ...], words: str, read: tuple[str, ...]) -> None:
    """What was read is handed up where the program claims success, or where it holds the firmware whatever was claimed."""
    wrong = b"\x12" + CELLS[1:]
    for code, cells in ((0, CELLS), (1, CELLS), (6, CELLS), (0, wrong)):
        desk = ScriptedDesk(
            version, Reply(words=flash, code=code, errors=words), Reply(words=read, output=cells, code=code)
        )
        found = await tool.write(WORK, desk)
        assert found is not None
        assert [(segment.start, segment.data) for segment in found] == [(0, cells)]
        assert desk.done_bytes == len(FIRMWARE) or code != 0
    for code in (1, 4, 6, 7, -9):
        desk = ScriptedDesk(version, Reply(words=flash, code=code, errors=words), Reply(words=read, output=wrong))
        with pytest.raises(TargetError) as failure:
            await tool.write(WORK, desk)
        assert failure.value.code is ErrorCode.TOOL_FAILED


@pytest.mark.parametrize(
    "read", [Reply(words=DUMP, code=1), Reply(words=DUMP, output=CELLS[:0x1018]), Reply(words=DUMP)]
)
async def test_what_cannot_be_read_is_no_pass(read: Reply) -> None:
    """A dump that fails, or ends with 0 and brings less than the firmware, is a failure, not "unreadable"."""
    with pytest.raises(TargetError, match="could not read back") as failure:
        await tool.write(WORK, ScriptedDesk(OLD, Reply(words=FLASH_OLD), read))
    assert failure.value.code is ErrorCode.TOOL_FAILED
    with pytest.raises(TargetError, match="could not write: Device is write protected"):
        await tool.write(
            WORK, ScriptedDesk(OLD, Reply(words=FLASH_OLD, code=1, errors="Device is write protected.\n"), read)
        )


async def test_each_run_finds_the_board_anew() -> None:
    """The address is that of the moment; a board that left ends the work before anything is run on another."""

    def replug(desk: ScriptedDesk) -> None:
        desk.board = replace(BOARD, address=18)

    def unplug(desk: ScriptedDesk) -> None:
        desk.board = None

    desk = ScriptedDesk(
        OLD, Reply(words=FLASH_OLD, then=replug), Reply(words=("atmega32u4:1,18", "dump"), output=CELLS)
    )
    await tool.write(WORK, desk)
    assert desk.is_through
    with pytest.raises(TargetError) as failure:
        await tool.write(WORK, ScriptedDesk(OLD, Reply(words=FLASH_OLD, code=1, errors=NO_DEVICE, then=unplug)))
    assert failure.value.code is ErrorCode.BOOTLOADER_NOT_SEEN


class ClosableLink:
    """A board's USB device that nobody asks for anything."""

    name = "usb:1-1.4"
    identity = BOARD.usb

    def __init__(self) -> None:
        self.closed = 0

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        raise AssertionError(f"nothing is sent to the board: {transfers}")

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("code", [ErrorCode.PERMISSION_DENIED, ErrorCode.PORT_BUSY])
@pytest.mark.parametrize("version", [OLD, NEW])
async def test_a_board_that_this_machine_keeps_from_us_is_not_ill(version: Reply, code: ErrorCode) -> None:
    """The program says "no device present" for that, too."""
    denied = TransportError(code, "not for you")
    missing = Reply(words=("atmega32u4:1,17",), code=1, errors=NO_DEVICE)
    for work in (tool.erase, tool.write):
        desk = ScriptedDesk(version, missing, link=denied)
        with pytest.raises(TransportError) as failure:
            await work(WORK, desk)
        assert failure.value is denied
        assert desk.is_through


async def test_a_board_that_can_be_opened_and_does_not_answer_the_program_is_ill() -> None:
    link = ClosableLink()
    desk = ScriptedDesk(NEW, Reply(words=("erase",), code=3, errors=NO_DEVICE), link=link)
    with pytest.raises(TargetError) as failure:
        await tool.erase(WORK, desk)
    assert (failure.value.code, link.closed) == (ErrorCode.ERASE_FAILED, 1)


# -- start, names, versions -----------------------------------------------------------------------------------------

RESET = ("atmega32u4:1,17", "reset")
GONE: UsbDeviceAt | None = None
BACK = replace(BOARD, address=18)


@pytest.mark.parametrize(("code", "board"), [(0, BOARD), (0, GONE), (1, GONE), (254, GONE), (254, BACK), (3, GONE)])
async def test_leaving_is_starting(code: int, board: UsbDeviceAt | None) -> None:
    """Whatever the code, a bootloader that left did as it was told; a code of 0 leaves the judgement to the firmware."""

    def become(desk: ScriptedDesk) -> None:
        desk.board = board

    desk = ScriptedDesk(Reply(words=RESET, code=code, then=become))
    await tool.start(WORK, desk)
    assert desk.is_through
    assert desk.clock.now <= 2.0


async def test_a_bootloader_that_stays_is_told_twice() -> None:
    """Then it is an error. One that was gone before is none."""
    desk = ScriptedDesk(Reply(words=RESET, code=1), Reply(words=RESET, code=1))
    with pytest.raises(TargetError) as failure:
        await tool.start(WORK, desk)
    assert failure.value.code is ErrorCode.TOOL_FAILED
    assert desk.is_through
    await tool.start(WORK, ScriptedDesk(board=None))


@pytest.mark.parametrize(
    ("bootloader", "part", "name"),
    [
        ("atmel-dfu-usb128", "at90usb1286", "at90usb1286"),
        ("atmel-dfu-usb128", "at90usb1287", "at90usb1287"),
        ("atmel-dfu-usb64", "at90usb647", "at90usb647"),
        ("qmk-dfu-32u4", "atmega32u4", "atmega32u4"),
        ("atmel-dfu-usb162", "at90usb162", "at90usb162"),
    ],
)
def test_names_of_targets(bootloader: str, part: str, name: str) -> None:
    """The program's own names, never QMK's ``at90usb128``; the variant with a small section where the bootloader has one."""
    work = work_for(bootloader, FIRMWARE, part)
    assert target_name(work) == name
    small = replace(work, bootloader=replace(work.bootloader, section=Span(0x1F000, 0x20000)))
    assert target_name(small) == (f"{part}-4k" if "128" in part else part)


def test_parts_it_cannot_know() -> None:
    """A part without such a bootloader is a mistake of ours."""
    with pytest.raises(LocalProtocolError, match="atmega328p"):
        target_name(work_for("atmel-dfu-32u4", FIRMWARE, "atmega328p"))
    with pytest.raises(LocalProtocolError, match="without naming its part"):
        target_name(replace(WORK, part=None))


@pytest.mark.parametrize("says", ["segmentation fault\n", "", None], ids=["words", "silence", "for ever"])
async def test_a_program_without_version_is_none(says: str | None) -> None:
    """Whatever answers to the name must say what it is before it is let at a board, which is not to blame where it does not."""

    def never_ends(_: ScriptedDesk) -> None:
        raise TargetError(ErrorCode.TOOL_FAILED, "was not through and was stopped")

    killed = Reply(words=("--version",), then=never_ends)
    for work in (tool.erase, tool.write):
        desk = ScriptedDesk(killed if says is None else Reply(words=("--version",), errors=says))
        with pytest.raises(TransportError, match="does not tell its version: ") as failure:
            await work(WORK, desk)
        assert failure.value.code is ErrorCode.TOOL_MISSING
        assert desk.is_through
