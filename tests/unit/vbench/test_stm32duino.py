"""STM32duino: the DFU states with their oddities, what reaches the flash and when, and what a reset leads to."""

import math

import pytest
from tests.unit.vbench.loader_rig import ClassHost

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError
from ispd.transport.contract import ControlTransfer
from vbench.board_faults import BoardFault, NeverEnumerates, Stalls, Vanishes, WrongIdentity
from vbench.board_shown import ShownUsb
from vbench.board_table import BoardState, BoardTable
from vbench.dfu import Request, State
from vbench.emulated import EmulatedFace
from vbench.faults import LostPage
from vbench.stm32 import APPLICATION, LEGACY_APPLICATION, stm32_application
from vbench.stm32_board import Stm32Board
from vbench.stm32duino import STAY, WINDOW_S, Stm32duino

LOADER, KEYBOARD = "1EAF:0003", "FEED:6061"
DNLOAD, UPLOAD, GETSTATUS, CLRSTATUS, GETSTATE, ABORT = (
    Request.DNLOAD,
    Request.UPLOAD,
    Request.GETSTATUS,
    Request.CLRSTATUS,
    Request.GETSTATE,
    Request.ABORT,
)
FIRMWARE = stm32_application(2500)


class Host(ClassHost):
    """A host at a board's port."""

    def __init__(self, board: Stm32Board, *, alternate: int = 2) -> None:
        board.attach(0.0)
        face = board.face(0.3)
        assert isinstance(face, ShownUsb)
        super().__init__(face, now=0.3)
        self.board = board
        self.select(alternate)

    def select(self, alternate: int) -> None:
        """Choose an alternate setting."""
        reply = self.control(ControlTransfer(request_type=0x01, request=0x0B, value=alternate))
        assert not reply.stalled

    def status(self) -> tuple[int, int]:
        """Ask for status and state."""
        reply = self.ask(GETSTATUS, length=6)
        assert reply[1:4] == bytes(3), "it never asks the host to wait"
        return reply[0], reply[4]

    def block(self, number: int, data: bytes) -> tuple[int, int]:
        """Send a block and have it written."""
        assert self.give(DNLOAD, number, data)
        return self.status()

    def download(self, data: bytes) -> None:
        """Send a whole file."""
        for number, start in enumerate(range(0, len(data), 1024)):
            assert self.block(number, data[start : start + 1024]) == (0, State.DNLOAD_IDLE)
        assert self.give(DNLOAD, 0)
        assert self.status() == (0, State.MANIFEST_WAIT_RESET)

    @property
    def cells(self) -> bytes:
        """Flash from the usual place on."""
        return bytes(self.board.chip.flash[APPLICATION:])


def shown(face: EmulatedFace | None) -> str | None:
    return None if face is None else str(face.usb)


def test_erases_and_programs_inside_getstatus() -> None:
    host = Host(Stm32Board(application=bytes(4096)))
    assert host.give(DNLOAD, 0, FIRMWARE[:1024])
    assert host.took_s < 10e-3
    assert host.cells[:4096] == bytes(4096)
    assert host.status() == (0, State.DNLOAD_IDLE)
    assert host.took_s == pytest.approx(40e-3 + 512 * 52.5e-6, abs=2e-3)
    assert host.cells[:4096] == FIRMWARE[:1024] + bytes(3072)


def test_a_download_ends_with_a_bus_reset_that_starts_the_firmware_at_once() -> None:
    board = Stm32Board(application=stm32_application(5000, usb="FEED:0001"))
    host = Host(board)
    host.download(FIRMWARE)
    assert host.cells[: len(FIRMWARE)] == FIRMWARE
    host.now += 60
    assert shown(board.face(host.now)) == LOADER
    reply = host.control(ControlTransfer(request_type=0x80, request=6, value=0x0100, length=18))
    assert reply.data == b""
    assert board.face(host.now) is None
    assert shown(board.face(host.now + 0.4)) == KEYBOARD


def test_a_bus_reset_in_idle_means_nothing() -> None:
    board = Stm32Board()
    host = Host(board)
    assert len(host.descriptor(1)) == 18
    board.bus_reset(host.now)
    assert host.ask(GETSTATE, length=1) == bytes([State.IDLE])
    host.give(DNLOAD, 0, FIRMWARE[:1024])
    board.bus_reset(host.now)
    assert board.face(host.now) is None


def test_only_whole_pages_survive_blocks_of_half_a_page() -> None:
    host = Host(Stm32Board())
    for number in range(2):
        host.block(number, bytes([number]) * 512)
    assert host.cells[:1024] == b"\xff" * 512 + b"\x01" * 512


def test_odd_lengths_take_the_rest_of_a_word_from_the_block_before() -> None:
    host = Host(Stm32Board())
    host.block(0, b"\xaa" * 1024)
    host.block(1, b"\x55" * 5)
    assert host.cells[1024:1036] == b"\x55" * 5 + b"\xaa" * 3 + b"\xff" * 4


@pytest.mark.parametrize("alternate", [0, 1, 2])
def test_alternates(alternate: int) -> None:
    board = Stm32Board(application=stm32_application(3000))
    host = Host(board, alternate=alternate)
    if alternate == 0:
        assert not host.give(DNLOAD, 0, FIRMWARE[:1024])
        assert host.status() == (0, State.ERROR), "it has forgotten errWRITE by then"
        assert host.give(CLRSTATUS)
        assert host.status() == (0, State.IDLE)
        assert board.chip.flash[APPLICATION : APPLICATION + 3000] == stm32_application(3000)
    else:
        host.block(0, FIRMWARE[:1024])
        place = {1: LEGACY_APPLICATION, 2: APPLICATION}[alternate]
        assert board.chip.flash[place : place + 1024] == FIRMWARE[:1024]
        blank = board.chip.flash[APPLICATION : APPLICATION + 1024].count(0xFF) == 1024
        assert blank is (alternate == 1), "the older place wipes the first page of the newer one"


@pytest.mark.parametrize(
    ("before", "request_", "data"),
    [
        ("idle", DNLOAD, b""),
        ("idle", CLRSTATUS, b""),
        ("idle", Request.DETACH, b""),
        ("sync", DNLOAD, b"more"),
        ("sync", ABORT, b""),
        ("error", ABORT, b""),
        ("error", DNLOAD, b"data"),
    ],
)
def test_what_is_out_of_place_stalls_and_is_an_error_until_it_is_cleared(
    before: str, request_: Request, data: bytes
) -> None:
    host = Host(Stm32Board())
    if before == "sync":
        host.give(DNLOAD, 0, FIRMWARE[:1024])
    if before == "error":
        host.give(DNLOAD, 0, b"")
    assert not host.give(request_, 0, data)
    assert host.status()[1] == State.ERROR
    assert host.give(CLRSTATUS)
    assert host.ask(GETSTATE, length=1) == bytes([State.IDLE])


def test_upload_reads_to_the_end_of_flash() -> None:
    host = Host(Stm32Board(application=FIRMWARE))
    back = b"".join(host.ask(UPLOAD, number, length=1024) for number in range(57))
    assert back == host.cells
    assert len(back) == 56 * 1024, "the 57th brings nothing"
    assert host.ask(GETSTATE, length=1) == bytes([State.IDLE])


def test_a_firmware_that_is_too_long_hangs_the_chip() -> None:
    board = Stm32Board()
    host = Host(board)
    for number in range(56):
        host.block(number, bytes(1024))
    host.give(DNLOAD, 56, bytes(1024))
    host.give(GETSTATUS)
    assert board.face(host.now + 10) is None


def test_waits_for_a_host_and_then_goes_to_the_application() -> None:
    board = Stm32Board(application=FIRMWARE)
    board.attach(0.0)
    assert shown(board.face(WINDOW_S - 0.01)) == LOADER
    assert board.face(WINDOW_S + 0.01) is None
    assert shown(board.face(WINDOW_S + 0.3)) == KEYBOARD
    board.reset(10.0)
    host_face = board.face(10.3)
    assert isinstance(host_face, ShownUsb)
    ClassHost(host_face, now=10.5).ask(GETSTATE, length=1)
    assert shown(board.face(100.0)) == LOADER, "any request of the class keeps it"
    board.detach(101.0)
    assert board.face(101.0) is None


def test_stays_without_an_application_and_when_the_backup_register_says_so() -> None:
    blank, told = Stm32Board(), Stm32Board(application=FIRMWARE)
    told.attach(0.0)
    told.chip.dr10 = STAY
    told.reset(5.0)
    blank.attach(0.0)
    assert [shown(board.face(60.0)) for board in (blank, told)] == [LOADER, LOADER]
    assert told.chip.dr10 == 0
    assert Stm32Board(has_loader=False).next_change() == math.inf


@pytest.mark.parametrize(
    "firmware",
    [
        stm32_application(2500, start=0),  # linked for the beginning of flash
        FIRMWARE[:-1] + bytes([FIRMWARE[-1] ^ 1]),
        b"\x00\x50\x00\x20" + b"\xff" * 100,
    ],
    ids=["wrong-place", "one-bit", "no-code"],
)
def test_a_firmware_that_does_not_run_shows_nothing(firmware: bytes) -> None:
    board = Stm32Board(application=firmware)
    board.attach(0.0)
    assert shown(board.face(1.0)) == LOADER
    assert board.face(WINDOW_S + 5) is None


@pytest.mark.parametrize(
    ("fault", "loader", "application"),
    [
        (WrongIdentity(usb="0483:DF11", enumeration=1), "0483:DF11", KEYBOARD),
        (WrongIdentity(usb="0483:5740", enumeration=2), LOADER, "0483:5740"),
        (NeverEnumerates(enumeration=1), None, None),
        (NeverEnumerates(), None, None),
    ],
)
def test_faults_of_enumeration(fault: BoardFault, loader: str | None, application: str | None) -> None:
    assert not isinstance(fault, Vanishes)
    board = Stm32Board(application=FIRMWARE, faults=[fault])  # type: ignore[list-item]  # no EraseLeaves among them
    board.attach(0.0)
    assert shown(board.face(0.5)) == loader
    if application is not None:
        assert shown(board.face(WINDOW_S + 1)) == application


def test_a_bench_file_has_bluepills(parts: Parts) -> None:
    bootloaders = load_bootloaders(parts)
    table = BoardTable(part="stm32f103", state=BoardState.FLASHED, firmware_usb="FEED:0007")
    board = table.build_board(parts, bootloaders)
    board.attach(0.0)
    assert [shown(board.face(at)) for at in (0.5, WINDOW_S + 0.5)] == [LOADER, "FEED:0007"]
    with pytest.raises(ConfigError):
        BoardTable(part="stm32f103", fault=[{"kind": "erase-leaves"}]).build_board(parts, bootloaders)


def test_faults_in_the_middle() -> None:
    board = Stm32Board(faults=[Vanishes(transfer=3)])
    host = Host(board)
    host.block(0, FIRMWARE[:1024])
    host.give(DNLOAD, 1, FIRMWARE[1024:2048])
    host.give(GETSTATUS)
    assert board.face(host.now) is None
    assert host.cells[:2048] == FIRMWARE[:1024] + b"\xff" * 1024
    refusing = Stm32Board(faults=[Stalls(transfer=1)])
    host = Host(refusing)
    assert host.give(DNLOAD, 0, FIRMWARE[:1024])
    assert not host.give(GETSTATUS)
    assert host.cells[:1024].count(0xFF) == 1024
    assert host.status() == (0, State.DNLOAD_IDLE)
    assert host.cells[:1024] == FIRMWARE[:1024]
    spoilt = Stm32Board(faults=[LostPage(APPLICATION)])
    host = Host(spoilt)
    host.download(FIRMWARE)
    assert host.cells[: len(FIRMWARE)] != FIRMWARE
    spoilt.bus_reset(host.now)
    assert shown(spoilt.face(host.now + 1.0)) == LOADER


def test_presents_itself_as_the_real_one() -> None:
    host = Host(Stm32Board(flash_bytes=0x4_0000))
    face = host.board.face(host.now)
    assert isinstance(face, ShownUsb)
    assert isinstance(face.inside, Stm32duino)
    assert (face.usb.serial, face.version) == ("LLM 003", 0x0201)
    configuration = host.descriptor(2)
    assert len(configuration) == 45
    assert configuration[-9:] == bytes.fromhex("09 21 03 FF 00 00 08 10 01"), "pages of 2048 bytes above 128 KiB"
