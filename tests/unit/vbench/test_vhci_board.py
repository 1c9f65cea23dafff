"""A board's own cable on the kernel's virtual host controller, with the kernel's side of the sockets played here."""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from vbench.board import Board
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget
from vbench.vhci import VhciBus
from vbench.vhci_board import VhciBoard

_DEADLINE_S = 20.0
_FULL_SPEED = 2


class Kernel(VhciBus):
    """The bus with this process in the kernel's place: one port, and what is plugged in there."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = 0
        self.attached = 0
        self.plugged: socket.socket | None = None
        self.changed = threading.Condition()

    def _place(self, port: int) -> tuple[str, int]:
        return f"3-{port + 1}", port

    def _wait_until_free(self, *_port: object) -> None:
        assert self.plugged is None

    def _order(self, name: str, text: str) -> None:
        with self.changed:
            if name == "attach":
                _number, descriptor, _device, speed = map(int, text.split())
                self.plugged, self.speed = socket.socket(fileno=os.dup(descriptor)), speed
                self.attached += 1
            elif self.plugged is not None:
                self.plugged.shutdown(socket.SHUT_RDWR)
                self.plugged.close()
                self.plugged = None
            self.changed.notify_all()

    def wait(self, attached: int, *, plugged: bool = True) -> None:
        """Wait until devices were plugged in so many times, and one is, or none."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.attached == attached and (self.plugged is not None) is plugged, _DEADLINE_S
            )

    def submit(self, setup: bytes, data: bytes = b"") -> None:
        """Submit a transfer to endpoint 0 by USB/IP; return once the device has it, which it proves by refusing to take back another."""
        assert self.plugged is not None
        self.plugged.settimeout(_DEADLINE_S)
        self.plugged.sendall(struct.pack(">5I5i", 1, 7, 0, 0, 0, 0, len(data), 0, 0, 0) + setup + data)
        self.plugged.sendall(struct.pack(">5I28x", 2, 8, 0, 0, 0)[:20] + struct.pack(">I24x", 99))
        command, number = struct.unpack_from(">2I", self.plugged.recv(48, socket.MSG_WAITALL))
        assert (command, number) == (4, 8)

    def control(self, setup: bytes, data: bytes = b"") -> bytes:
        """Submit a transfer to endpoint 0 by USB/IP and return what it brought."""
        assert self.plugged is not None
        is_in = setup[0] >> 7
        length = struct.unpack_from("<H", setup, 6)[0]
        head = struct.pack(">5I5i", 1, 7, 0, is_in, 0, 0, length, 0, 0, 0) + setup
        self.plugged.settimeout(_DEADLINE_S)
        self.plugged.sendall(head + data)
        answer = self.plugged.recv(48, socket.MSG_WAITALL)
        command, _number, _, _, _, status, moved = struct.unpack_from(">5I2i", answer)
        assert (command, status) == (3, 0)
        return self.plugged.recv(moved, socket.MSG_WAITALL) if is_in and moved else b""

    def device(self) -> str:
        """Read vendor and product id."""
        vendor, product = struct.unpack_from("<HH", self.control(bytes.fromhex("8006000100001200")), 8)
        return f"{vendor:04X}:{product:04X}"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    assert kernel.plugged is None


def test_what_a_board_shows_is_plugged_in_and_out(parts: Parts, kernel: Kernel) -> None:
    loader = load_bootloaders(parts).get("qmk-dfu-32u4")
    part = parts.avr("atmega32u4")
    target = AvrTarget(part, fuses=loader.fuses)
    for segment in bootloader_image(loader, part).segments:
        target.flash[segment.start : segment.span.stop] = segment.data
    with VhciBoard(kernel, Board(target), 4) as board:
        assert board.path == "3-5"
        kernel.wait(1)
        assert (kernel.device(), kernel.speed) == ("03EB:2FF4", _FULL_SPEED)
        image = application_image(part, 1024, usb="FEED:0001").segments[0].data
        block = bytes.fromhex("0100000003FF") + bytes(26) + image + bytes(16)
        kernel.control(struct.pack("<BBHHH", 0x21, 1, 0, 0, len(block)), block)
        assert target.flash[:1024] == image
        kernel.control(struct.pack("<BBHHH", 0x21, 1, 0, 0, 3), b"\x04\x03\x00")
        kernel.control(struct.pack("<BBHHH", 0x21, 1, 0, 0, 0))
        kernel.wait(2)
        assert kernel.device() == "FEED:0001"
        with kernel.lock:
            target.set_reset(True, kernel.now())
        kernel.wait(2, plugged=False)
        with kernel.lock:
            target.set_reset(False, kernel.now())
        begun = time.monotonic()
        kernel.wait(3)
        assert time.monotonic() - begun > 0.2
        assert kernel.device() == "03EB:2FF4"
    assert not target.powered


def test_a_transfer_under_way_ends_at_once_when_the_board_leaves(parts: Parts, kernel: Kernel) -> None:
    """The driver would wait for its time-out, five seconds for a descriptor, and nothing on that hub goes on meanwhile."""
    loader = load_bootloaders(parts).get("qmk-hid-32u4")
    target = AvrTarget(parts.avr("atmega32u4"))
    image = bootloader_image(loader, target.part)
    target.flash[image.span.start : image.span.stop] = image.bytes_in(image.span)
    with VhciBoard(kernel, Board(target), 4):
        kernel.wait(1)
        assert kernel.plugged is not None
        with socket.socket(fileno=os.dup(kernel.plugged.fileno())) as host:
            half_a_page = bytes(64)
            kernel.submit(struct.pack("<BBHHH", 0x21, 9, 0x0200, 0, len(half_a_page)), half_a_page)
            with kernel.lock:
                target.set_reset(True, kernel.now())
            kernel.wait(1, plugged=False)
            answer = host.recv(48, socket.MSG_WAITALL)
    command, number, _, _, _, status = struct.unpack_from(">5Ii", answer)
    assert (command, number, status) == (3, 7, -errno.EPROTO)
