"""A debug probe on the kernel's virtual host controller, with the kernel's side of the socket played here."""

import errno
import os
import socket
import struct

import pytest

from ispd.catalog.parts import Parts
from vbench.faults import StalledTransfer, UnpluggedAt
from vbench.stlink import StLink
from vbench.stm32_board import Stm32Board
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket
from vbench.target import AvrTarget
from vbench.vhci import VhciBus

_DEADLINE_S = 20.0
_FULL_SPEED = 2
VERSION = bytes.fromhex("F1").ljust(16, b"\0")
OUT, IN = (2, 0), (1, 1)
"""Number and direction of an endpoint."""


class Kernel(VhciBus):
    """The bus with this process in the kernel's place: one port, and what is plugged in there."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = 0
        self.plugged: socket.socket | None = None
        self._count = 0

    def _place(self, port: int) -> tuple[str, int]:
        return f"3-{port + 1}", port

    def _wait_until_free(self, *_port: object) -> None:
        assert self.plugged is None

    def _order(self, name: str, text: str) -> None:
        if name == "attach":
            _number, descriptor, _device, self.speed = map(int, text.split())
            self.plugged = socket.socket(fileno=os.dup(descriptor))
            self.plugged.settimeout(_DEADLINE_S)
        elif self.plugged is not None:
            self.plugged.shutdown(socket.SHUT_RDWR)
            self.plugged.close()
            self.plugged = None

    def submit(self, endpoint: tuple[int, int], data: bytes = b"", *, length: int = 0, setup: bytes = bytes(8)) -> int:
        """Submit a transfer by USB/IP and return its number."""
        assert self.plugged is not None
        self._count += 1
        number, is_in = endpoint
        size = length if is_in else len(data)
        head = struct.pack(">5I5i", 1, self._count, 0, is_in, number, 0, size, 0, 0, 0)
        self.plugged.sendall(head + setup + data)
        return self._count

    def answer(self, *, with_data: bool = False) -> tuple[int, int, bytes]:
        """Return number, status and data of the next answer."""
        assert self.plugged is not None
        head = self.plugged.recv(48, socket.MSG_WAITALL)
        command, number, _, _, _, status, moved = struct.unpack_from(">5I2i", head)
        assert command == 3
        return number, status, self.plugged.recv(moved, socket.MSG_WAITALL) if with_data and moved else b""


def test_command_and_answer_in_either_order() -> None:
    bus = Kernel()
    probe = StLink(socket=SwdSocket(Stm32F1()))
    assert bus.plug(probe, 0) == "3-1"
    assert bus.speed == _FULL_SPEED
    sent = bus.submit(OUT, VERSION)
    assert bus.answer() == (sent, 0, b"")
    asked = bus.submit(IN, length=6)
    assert bus.answer(with_data=True) == (asked, 0, probe.firmware.version)
    asked = bus.submit(IN, length=64)
    sent = bus.submit(OUT, VERSION)
    assert bus.answer() == (sent, 0, b"")
    assert bus.answer(with_data=True) == (asked, 0, probe.firmware.version), "it waited for the command"
    setup = struct.pack("<BBHHH", 0x80, 6, 0x0100, 0, 18)
    asked = bus.submit((0, 1), length=18, setup=setup)
    assert bus.answer(with_data=True) == (asked, 0, probe.descriptors.device)
    bus.unplug(0)
    assert probe.socket.target is not None
    assert probe.socket.supply_mv() == 0


def test_a_read_that_nobody_answers_can_be_taken_back() -> None:
    bus = Kernel()
    bus.plug(StLink(), 0)
    wanted = bus.submit(IN, length=6)
    assert bus.plugged is not None
    bus.plugged.sendall(struct.pack(">6I24x", 2, 99, 0, 0, 0, wanted))
    head = bus.plugged.recv(48, socket.MSG_WAITALL)
    assert struct.unpack_from(">2I", head) == (4, 99)
    assert struct.unpack_from(">i", head, 20)[0] == -errno.ECONNRESET
    bus.submit(OUT, VERSION)
    assert bus.answer()[1] == 0
    bus.unplug(0)


def test_a_stall_and_an_unplugging_are_seen() -> None:
    bus = Kernel()
    bus.plug(StLink(faults=[StalledTransfer(index=0)]), 0)
    bus.submit(OUT, VERSION)
    assert bus.answer()[1] == -errno.EPIPE
    bus.unplug(0)
    bus.plug(StLink(faults=[UnpluggedAt(transfer=0)]), 0)
    bus.submit(OUT, VERSION)
    assert bus.plugged is not None
    while bus.plugged.recv(48, socket.MSG_WAITALL):  # what is under way may be broken off; then its end is closed
        pass
    bus.unplug(0)


def test_boards_with_an_stm32_come_and_go_and_no_others(parts: Parts) -> None:
    bus, board = Kernel(), Stm32Board()
    probe = StLink()
    bus.plug(probe, 0)
    bus.insert(0, board)
    bus.submit(OUT, bytes.fromhex("F230A3").ljust(16, b"\0"))
    assert bus.answer()[1] == 0
    asked = bus.submit(IN, length=2)
    assert bus.answer(with_data=True) == (asked, 0, b"\x80\0")
    assert bus.remove(0) is board.swd
    with pytest.raises(ValueError, match="no board"):
        bus.remove(0)
    with pytest.raises(ValueError, match="port 0 is a debug probe"):
        bus.insert(0, AvrTarget(parts.avr("atmega32u4")))
    bus.unplug(0)
