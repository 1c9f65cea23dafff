"""DfuSe: commands that start at the first GETSTATUS, the address pointer, what is refused, and the way to the application."""

import pytest
from tests.unit.vbench.loader_rig import ClassHost

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.transport.contract import ControlTransfer
from vbench.board_shown import ShownUsb
from vbench.board_table import BoardState, BoardTable
from vbench.dfu import Request, State, Status
from vbench.emulated import EmulatedFace
from vbench.stm32 import stm32_application
from vbench.stm32_board import DfuSeBoard

DNLOAD, UPLOAD, GETSTATUS, CLRSTATUS, ABORT = (
    Request.DNLOAD,
    Request.UPLOAD,
    Request.GETSTATUS,
    Request.CLRSTATUS,
    Request.ABORT,
)
BASE = 0x0800_0000
FIRMWARE = stm32_application(5000, start=0, usb="FEED:0303")
ROM = "0483:DF11"


class Host(ClassHost):
    """A host at a board's port."""

    def __init__(self, board: DfuSeBoard) -> None:
        board.attach(0.0)
        face = board.face(0.3)
        assert isinstance(face, ShownUsb)
        super().__init__(face, now=0.3)
        self.board = board

    def finish(self) -> tuple[int, int]:
        """Have the device work, and return its status and state afterwards; asks at once though it is told to wait."""
        assert self.ask(GETSTATUS, length=6)[4] == State.DNBUSY
        reply = self.ask(GETSTATUS, length=6)
        return reply[0], reply[4]

    def command(self, code: int, address: int | None = None) -> tuple[int, int]:
        """Carry out a command."""
        argument = b"" if address is None else address.to_bytes(4, "little")
        assert self.give(DNLOAD, 0, bytes((code,)) + argument)
        return self.finish()


def _text(index: int) -> ControlTransfer:
    return ControlTransfer(request_type=0x80, request=6, value=0x0300 | index, length=255)


def _setting(number: int) -> ControlTransfer:
    return ControlTransfer(request_type=0x01, request=0x0B, value=number)


OK = (Status.OK, State.DNLOAD_IDLE)


def shown(face: EmulatedFace | None) -> str | None:
    return None if face is None else str(face.usb)


def test_erases_programs_and_reads_by_the_pointer() -> None:
    board = DfuSeBoard(application=bytes(8192))
    host = Host(board)
    assert host.command(0x41, BASE + 0x0800) == OK
    assert host.command(0x21, BASE + 0x0800) == OK
    assert host.give(DNLOAD, 2, b"\x11" * 1000)
    assert host.finish() == OK
    assert board.chip.flash[0x800:0x1000] == b"\x11" * 1000 + b"\xff" * 1048
    assert board.chip.flash[:0x800] == bytes(0x800)
    assert host.give(ABORT)
    assert host.ask(UPLOAD, 0, length=64) == bytes.fromhex("00 21 41 92")
    assert host.give(ABORT)
    assert host.ask(UPLOAD, 3, length=2048) == bytes(2048)
    assert host.ask(UPLOAD, 2, length=4) == b"\x11" * 4


def test_works_between_the_first_and_the_second_answer() -> None:
    board = DfuSeBoard(application=bytes(4096))
    host = Host(board)
    host.give(DNLOAD, 0, b"\x41" + BASE.to_bytes(4, "little"))
    assert board.chip.flash[:2048] == bytes(2048)
    reply = host.ask(GETSTATUS, length=6)
    assert reply == bytes((0, 40, 0, 0, State.DNBUSY, 0))
    assert board.chip.flash[:2048].count(0xFF) == 2048
    begun = host.now
    host.ask(GETSTATUS, length=6)
    assert host.now - begun == pytest.approx(40e-3, abs=2e-3)


@pytest.mark.parametrize(
    ("code", "address"), [(0x21, 0x2000_0000), (0x41, BASE + 0x4_0000), (0x41, BASE - 1), (0x77, BASE), (0x21, None)]
)
def test_addresses_and_commands_that_are_not_there_are_errors(code: int, address: int | None) -> None:
    host = Host(DfuSeBoard())
    assert host.command(code, address) == (Status.TARGET, State.ERROR)
    assert not host.give(DNLOAD, 2, b"data")
    assert host.give(CLRSTATUS)
    assert host.command(0x21, BASE) == OK


def test_option_bytes_are_shown_and_not_imitated() -> None:
    host = Host(DfuSeBoard())
    assert b"O\0p\0t\0i\0o\0n\0" in host.control(_text(5)).data
    assert "/0x08000000/128*0002Kg".encode("utf-16-le") in host.control(_text(4)).data
    assert not host.control(_setting(1)).stalled
    assert host.command(0x21, BASE) == (Status.TARGET, State.ERROR)
    assert host.control(_setting(2)).stalled


def test_mass_erase_and_unprotect() -> None:
    board = DfuSeBoard(application=FIRMWARE)
    host = Host(board)
    assert host.command(0x41) == OK
    assert board.chip.flash.count(0xFF) == len(board.chip.flash)
    host.give(DNLOAD, 0, b"\x92")
    host.ask(GETSTATUS, length=6)
    assert board.face(host.now + 0.1) is None
    assert shown(board.face(host.now + 1)) == ROM


def test_leaves_for_the_application_once_the_host_saw_it() -> None:
    board = DfuSeBoard(application=FIRMWARE)
    host = Host(board)
    assert host.command(0x21, BASE) == OK
    assert host.give(DNLOAD, 2)
    assert shown(board.face(host.now + 60)) == ROM
    host.now += 60
    assert host.ask(GETSTATUS, length=6)[4] == State.MANIFEST
    assert board.face(host.now + 0.01) is None
    assert shown(board.face(host.now + 0.5)) == "FEED:0303"


def test_the_pin_decides_what_a_reset_starts(parts: Parts) -> None:
    board = DfuSeBoard(application=FIRMWARE)
    board.attach(0.0)
    assert shown(board.face(100.0)) == ROM
    board.boot0_high = False
    board.reset(100.0)
    assert shown(board.face(100.5)) == "FEED:0303"
    table = BoardTable(part="stm32f303", state=BoardState.FLASHED)
    flashed = table.build_board(parts, load_bootloaders(parts))
    flashed.attach(0.0)
    assert shown(flashed.face(1.0)) == ROM
