"""ST-Links and Bluepills for the guest: what they hold, and ST-Links of every kind."""

import base64
import subprocess
import sys
from collections.abc import Sequence

from tests.vm.inside.board_station import FIRMWARE_USB, BoardStation

from vbench.isp_socket import PowerCutError
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware, odd_serial
from vbench.stm32 import APPLICATION, stm32_application, stm32_loader
from vbench.stm32_board import Stm32Board
from vbench.swd import Ack, SwdReply, SwdSocket
from vbench.usb_descriptors import Descriptors
from vbench.vhci import VhciBus

__all__ = [
    "ODD_SERIAL",
    "BluepillStation",
    "FrailSocket",
    "bluepill",
    "chained_cells",
    "firmware_above",
    "holds",
    "probe_of",
    "program",
    "with_serial_port",
]

ODD_SERIAL = "52FF6C064980545247140267"
"""Of a clone; its old firmware has these bytes in place of the characters."""
_CONTROL, _DATA = 1, 2
"""Numbers of the interfaces of a serial port behind the debug interface."""


def bluepill(number: int, *, has_loader: bool = False, is_protected: bool = False) -> Stm32Board:
    """Return a Bluepill with a unique id of its own, blank where it has no bootloader."""
    uid = bytes.fromhex("52FF6C0649805452471400") + bytes((number,))
    return Stm32Board(has_loader=has_loader, is_protected=is_protected, uid=uid)


def program(seed: int, size_bytes: int = 600) -> bytes:
    """Return a program like no other that begins where flash begins."""
    return stm32_application(size_bytes, seed=seed, usb=FIRMWARE_USB, start=0)


def firmware_above(seed: int, size_bytes: int) -> bytes:
    """Return a firmware like no other for above the STM32duino bootloader."""
    return stm32_application(size_bytes, seed=seed, usb=FIRMWARE_USB)


def chained_cells(app: bytes) -> bytes:
    """Return what the bootloader and a firmware make of flash, up to the firmware's end."""
    return stm32_loader().ljust(APPLICATION, b"\xff") + app


def holds(board: Stm32Board, content: bytes) -> bool:
    """Tell whether flash holds this from its start and is blank behind it, and nobody broke the flash's rules."""
    flash = bytes(board.chip.flash)
    return flash == content.ljust(len(flash), b"\xff") and board.swd.violations == []


def with_serial_port(probe: StLink) -> StLink:
    """Give an ST-Link V2-1 or V3 the serial port that the real ones have; nothing is ever said on it. Their disk is left out."""
    port = b"".join(
        (
            bytes((8, 11, _CONTROL, 2, 2, 2, 1, 0)),  # both interfaces are one function
            bytes((9, 4, _CONTROL, 0, 1, 2, 2, 1, 0)),
            bytes((5, 0x24, 0x00, 0x10, 0x01)),  # CDC 1.1
            bytes((4, 0x24, 0x02, 0x06)),
            bytes((5, 0x24, 0x06, _CONTROL, _DATA)),
            bytes((5, 0x24, 0x01, 0, _DATA)),
            bytes((7, 5, 0x85, 3, 8, 0, 16)),
            bytes((9, 4, _DATA, 0, 2, 10, 0, 0, 0)),
            bytes((7, 5, 0x04, 2, 64, 0, 0)),
            bytes((7, 5, 0x84, 2, 64, 0, 0)),
        )
    )
    alone = probe.descriptors.configuration[9:]
    probe.descriptors = Descriptors(
        probe.usb,
        version=0x0100,
        release=0x0200,
        usb_class=(0xEF, 2, 1),
        packet_bytes=64,
        interfaces=alone + port,
        count=3,
    )
    return probe


def probe_of(number: int, board: Stm32Board) -> StLink:
    """Return one of four kinds: a dongle whose serial number all have, a clone with an odd one, a Nucleo's V2-1, a V3."""
    socket = SwdSocket(board.swd)
    match number % 4:
        case 0:
            return StLink(socket=socket)
        case 1:
            odd = odd_serial(bytes.fromhex(ODD_SERIAL))
            return StLink(StLinkFirmware.named("V2J17S4"), socket=socket, serial=odd)
        case 2:
            return with_serial_port(StLink(StLinkFirmware.named("V2J40M27"), socket=socket))
        case _:
            return with_serial_port(StLink(StLinkFirmware.named("V3J10M3"), socket=socket))


class FrailSocket(SwdSocket):
    """A header whose probe loses its cable at the first look after a piece of a program is in the board's flash.

    :param upto: how much of the program's beginning is in flash then; it differs from what was there before.
    """

    def __init__(self, board: Stm32Board, content: bytes, upto: int) -> None:
        super().__init__(board.swd)
        self._flash = board.chip.flash
        self._piece = content[:upto]

    def read(self, address: int, length: int, width: int, at: float, clock_hz: float) -> SwdReply:
        """Read memory; see the base class."""
        self._check()
        return super().read(address, length, width, at, clock_hz)

    def write(self, address: int, data: bytes, width: int, at: float, clock_hz: float) -> Ack:
        """Write memory; see the base class."""
        self._check()
        return super().write(address, data, width, at, clock_hz)

    def _check(self) -> None:
        if self._flash.startswith(self._piece):
            raise PowerCutError


class BluepillStation(BoardStation):
    """A :class:`BoardStation` with jobs for Bluepills, whose emulation takes all there is of the processor."""

    look_s = 0.15

    @property
    def bus(self) -> VhciBus:
        """The USB that all hang on."""
        return self._bus

    def lend(self, slot: str) -> None:
        """Disable a slot, and wait until other programs may use its programmer."""
        self.call("slot.set", name=slot, action="disable")
        self.wait_for(lambda: not any(one["is_open"] for one in self.call("programmer.list") if one["slot"] == slot))

    def take_back(self, slot: str) -> None:
        """Enable a slot again, and wait for its programmer."""
        self.call("slot.set", name=slot, action="enable")
        self.wait_for(lambda: self.slot(slot)["state"] == "idle")

    def say(self, *arguments: str) -> str:
        """Return what ``ispctl`` prints for people."""
        command = [sys.executable, "-m", "ispctl", "--socket", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout

    def flash_bin(self, contents: Sequence[bytes], slot: str, **params: object) -> int:
        """Enqueue plain binaries for a slot, over the API, and return the job's number."""
        images = [
            {"name": f"{number}.bin", "content": base64.b64encode(content).decode("ascii")}
            for number, content in enumerate(contents)
        ]
        return int(self.call("job.enqueue", images=images, slots=[slot], **params)["id"])
