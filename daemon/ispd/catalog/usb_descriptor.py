"""The USB device descriptor that a firmware or a bootloader carries: who the board will be on the bus."""

from ispd.model.image import Image
from ispd.model.span import Span

__all__ = ["usb_device_in", "usb_id_in"]

_DEVICE_DESCRIPTOR = b"\x12\x01"  # bLength 18, bDescriptorType 1 (USB 2.0 specification, table 9-8)
_DEVICE_DESCRIPTOR_BYTES = 18
_PACKET_BYTES = (8, 16, 32, 64)  # legal bMaxPacketSize0


def usb_id_in(image: Image, span: Span) -> str | None:
    """Return the id in the first USB device descriptor that lies in ``span``, as 03EB:2FF4."""
    found = usb_device_in(image, span)
    return None if found is None else found[0]


def usb_device_in(image: Image, span: Span) -> tuple[str, int] | None:
    """Return id and release (bcdDevice) in the first USB device descriptor that lies in ``span``."""
    for segment in image.segments:
        common = segment.span.overlap(span)
        data = segment.data[common.start - segment.start : common.stop - segment.start] if len(common) else b""
        at = data.find(_DEVICE_DESCRIPTOR)
        while at >= 0:
            found = data[at : at + _DEVICE_DESCRIPTOR_BYTES]
            # bcdUSB of 1.x to 3.x, and a packet size that exists
            if len(found) == _DEVICE_DESCRIPTOR_BYTES and 1 <= found[3] <= 3 and found[7] in _PACKET_BYTES:
                vendor, product, release = (int.from_bytes(found[i : i + 2], "little") for i in (8, 10, 12))
                return f"{vendor:04X}:{product:04X}", release
            at = data.find(_DEVICE_DESCRIPTOR, at + 1)
    return None
