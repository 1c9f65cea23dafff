"""A chip in the hands of its bootloader, and the host's end of a HID or DFU device."""

from ispd.catalog.parts import Parts
from ispd.model.span import Span
from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import LoaderStart, ResetFlag
from vbench.emulated import ControlReply, UsbEnd
from vbench.target import AvrTarget

__all__ = ["ClassHost", "identity", "make_chip", "started"]

LOADER_BYTE = 0xB0
"""What the cells of the boot section hold."""


def make_chip(
    parts: Parts, part: str = "atmega32u4", *, section_bytes: int = 4096, lock: int = 0x2F, application: bytes = b""
) -> Chip:
    """Make a chip whose boot section is full and locked, as vendors do it."""
    target = AvrTarget(parts.avr(part), lock=lock)
    size = len(target.flash)
    section = Span(size - section_bytes, size)
    target.flash[section.start :] = bytes([LOADER_BYTE]) * section_bytes
    target.flash[: len(application)] = application
    target.power_on(0.0, reset_active=False)
    return Chip(target, section=section, start=section.start, ram={})


def identity(usb: str) -> UsbIdentity:
    """Return an id as the start of a loader is told it."""
    vendor, product = (int(half, 16) for half in usb.split(":"))
    return UsbIdentity(vendor_id=vendor, product_id=product)


def started(usb: str, *, at: float = 1.0, flags: ResetFlag = ResetFlag.EXTERNAL, variant: str = "") -> LoaderStart:
    """Describe the start of a loader."""
    return LoaderStart(at=at, flags=flags, usb=identity(usb), name="any", family="any", variant=variant)


class ClassHost:
    """Sends class requests to interface 0, on a clock that jumps."""

    def __init__(self, end: UsbEnd, *, now: float = 1.0) -> None:
        self.end = end
        self.now = now
        self.took_s = 0.0
        """Seconds of the last transfer."""

    def control(self, transfer: ControlTransfer) -> ControlReply:
        """Carry out a transfer; time moves to its end."""
        reply = self.end.control(transfer, self.now)
        self.took_s = reply.ends_at - self.now
        if not reply.stalled and self.took_s < float("inf"):
            self.now = reply.ends_at
        return reply

    def ask(self, request: int, value: int = 0, *, length: int = 64) -> bytes:
        """Ask for data; a refusal fails the test."""
        reply = self.control(ControlTransfer(request_type=0xA1, request=request, value=value, length=length))
        assert not reply.stalled
        return reply.data

    def give(self, request: int, value: int = 0, data: bytes = b"") -> bool:
        """Send data; tell whether it was taken and answered."""
        reply = self.control(ControlTransfer(request_type=0x21, request=request, value=value, data=data))
        return not reply.stalled and self.took_s < float("inf")

    def descriptor(self, kind: int, *, recipient: int = 0) -> bytes:
        """Read a descriptor of the device (0) or of the interface (1)."""
        return self.control(
            ControlTransfer(request_type=0x80 | recipient, request=6, value=kind << 8, length=1024)
        ).data
