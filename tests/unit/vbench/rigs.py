"""Rigs of the bench tests: pins driven by hand, and the host end of a serial line or of a USB cable."""

from tests.unit.vbench.serial_end import SerialEnd

from ispd.transport.contract import ControlTransfer
from vbench.emulated import ControlReply, EmulatedUsb
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

__all__ = ["FRAME_S", "SCK_HZ", "Bus", "Host", "UsbHost"]

SCK_HZ = 125e3
FRAME_S = 32 / SCK_HZ


class Bus:
    """Drives a target's pins the way a careful programmer does, and keeps the time."""

    def __init__(self, target: AvrTarget, *, sck_hz: float = SCK_HZ) -> None:
        self.target = target
        self.sck_hz = sck_hz
        self.now = 0.0
        target.power_on(self.now, reset_active=False)

    def pulse(self, wait_s: float = 20e-3) -> None:
        """Pulse reset and wait."""
        self.target.set_reset(False, self.now)
        self.now += 1e-3
        self.target.set_reset(True, self.now)
        self.now += wait_s

    def enter(self, wait_s: float = 20e-3) -> bool:
        """Enter programming mode; tell whether the echo came."""
        self.pulse(wait_s)
        return self.frame("AC 53 00 00")[2] == 0x53

    def frame(self, text: str) -> bytes:
        """Clock bytes and return the reply."""
        sent = bytes.fromhex(text)
        reply = self.target.exchange(sent, self.now, self.sck_hz)
        self.now += 8 * len(sent) / self.sck_hz
        return reply

    def ask(self, text: str) -> int:
        """Clock one instruction and return byte 4."""
        return self.frame(text)[3]

    def settle(self) -> None:
        """Wait longer than any write takes."""
        self.now += 0.06

    def put(self, text: str) -> None:
        """Clock a write instruction and wait for it."""
        self.ask(text)
        self.settle()

    def load_words(self, start: int, data: bytes) -> None:
        """Load words into the page buffer, from a byte address on."""
        for index in range(0, len(data), 2):
            self.ask(f"40 00 {(start + index) // 2 & 0xFF:02X} {data[index]:02X}")
            self.ask(f"48 00 {(start + index) // 2 & 0xFF:02X} {data[index + 1]:02X}")

    def busy_s(self, text: str) -> float:
        """Clock a write instruction and return how long it takes."""
        self.ask(text)
        return self.target.core.busy_until - self.now

    def kinds(self) -> list[str]:
        """Rules broken so far."""
        return [violation.kind.value for violation in self.target.violations]


class Host(SerialEnd[SerialProgrammer]):
    """The far end of an emulated ArduinoISP's line, and the commands it takes."""

    def set_device(self, page_bytes: int = 128, eeprom_bytes: int = 1024, code: int = 0) -> None:
        """Send the 'B' block."""
        block = bytes([code, 0, 0, 1, 1, 1, 1, 3, 0xFF, 0xFF, 0xFF, 0xFF])
        block += page_bytes.to_bytes(2, "big") + eeprom_bytes.to_bytes(2, "big") + (32768).to_bytes(4, "big")
        assert self.ask(b"B" + block + b" ", 2) == b"\x14\x10"

    def enter(self) -> None:
        """Set the device and enter programming mode."""
        self.set_device()
        assert self.ask(b"P ", 2) == b"\x14\x10"

    def load_address(self, words: int) -> None:
        """Send 'U'."""
        assert self.ask(b"U" + words.to_bytes(2, "little") + b" ", 2) == b"\x14\x10"

    def erase(self) -> None:
        """Chip erase through 'V', and the wait that is the host's business."""
        self.ask(b"V\xac\x80\x00\x00 ", 3)
        self.until(self.now + 0.06)


class UsbHost:
    """The far end of an emulated USB programmer's cable, on a clock that jumps.

    Words of a request are given as the bytes that end up on the wire: ``words("AC 53 00 00")``.
    """

    IN, OUT = 0xC0, 0x40

    def __init__(self, programmer: EmulatedUsb) -> None:
        self.programmer = programmer
        self.now = 1.0
        self.took = 0.0
        """Seconds of the last transfer."""
        self.stalled = False
        """Whether the last transfer was refused."""

    def control(self, transfer: ControlTransfer) -> ControlReply:
        """Carry out a transfer; time moves to its end."""
        reply = self.programmer.control(transfer, self.now)
        self.took = reply.ends_at - self.now
        self.now, self.stalled = reply.ends_at, reply.stalled
        return reply

    def ask(self, request: int, words: str = "", *, length: int = 4) -> bytes:
        """Ask for data."""
        value, index = self._words(words)
        transfer = ControlTransfer(request_type=self.IN, request=request, value=value, index=index, length=length)
        return self.control(transfer).data

    def give(self, request: int, words: str, data: bytes) -> None:
        """Send data."""
        value, index = self._words(words)
        transfer = ControlTransfer(request_type=self.OUT, request=request, value=value, index=index, data=data)
        assert self.control(transfer).data == b""

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @staticmethod
    def _words(text: str) -> tuple[int, int]:
        wire = bytes.fromhex(text).ljust(4, b"\0")
        assert len(wire) == 4
        return int.from_bytes(wire[:2], "little"), int.from_bytes(wire[2:], "little")
