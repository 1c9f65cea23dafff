"""Where a bootloader lies in an image, and what of an image is bootloader: told by the bootloader's own section.

On an AVR that is the end of flash, with the firmware below it; on an STM32F1 its begin, with the firmware above.
"""

from ispd.catalog.cortex_image import check_vectors, vector_table
from ispd.catalog.usb_descriptor import usb_device_in
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.span import Span

__all__ = ["check_application", "clip", "holds", "is_below_firmware", "is_combined", "sides", "starts_in_section"]


def is_below_firmware(bootloader: Bootloader) -> bool:
    """Tell whether a bootloader lies at the begin of flash and the firmware above it."""
    return bootloader.section is not None and bootloader.application_start >= bootloader.section.stop


def holds(image: Image, bootloader: Bootloader, *, with_release: bool = False) -> bool:
    """Tell whether an image has a known bootloader's USB id in that one's section, and its release too if wanted."""
    section = bootloader.section
    if section is None or not bootloader.parts:
        return False
    if is_below_firmware(bootloader) and image.span.stop <= section.start:
        section = Span(0, len(section))  # linked for 0, or a plain .bin: the same flash
    found = usb_device_in(image, section)
    return found is not None and found[0] in bootloader.usb and (not with_release or found[1] == bootloader.usb_release)


def starts_in_section(image: Image, loader: Bootloader) -> bool:
    """Tell whether an image lies and starts in the section at the begin of flash, or would, for one without an address: another build
    of the bootloader."""
    section = loader.section
    table = vector_table(image, image.span.start)
    if section is None or table is None or not table.is_plausible or table.entry not in section:
        return False
    return image.span.stop <= section.stop if image.span.start >= section.start else len(image) <= len(section)


def sides(image: Image, bootloader: Bootloader) -> tuple[Image, Image]:
    """Return what of an image is bootloader and what firmware; both empty where the bootloader is bound to no place.

    Bytes outside of flash stay with the one that they are next to.
    """
    section = bootloader.section
    if section is None:
        return Image(()), Image(())
    if is_below_firmware(bootloader):
        return clip(image, 0, section.stop), clip(image, section.stop, max(section.stop, image.span.stop))
    return clip(image, section.start, max(section.start, image.span.stop)), clip(image, 0, section.start)


def is_combined(image: Image, bootloader: Bootloader) -> bool:
    """Tell whether an image holds a known bootloader and something beside it."""
    return holds(image, bootloader) and all(len(side) for side in sides(image, bootloader))


def clip(image: Image, start: int, stop: int) -> Image:
    """Return what an image defines from ``start`` up to, not including, ``stop``."""
    keep = Span(min(start, stop), stop)
    inside = (segment.span.overlap(keep) for segment in image.segments)
    return Image(tuple(Segment(span.start, image.bytes_in(span)) for span in inside if len(span)))


def check_application(firmware: Image, bootloader: Bootloader, *, force: bool = False) -> tuple[str, ...]:
    """Check that a bootloader would start a firmware for a Cortex-M; return what deserves a word.

    What was linked for another address is the commonest mistake with a .bin, and is seen by its reset vector.

    :param force: tell what would be refused.
    Raises ``RefusedError`` (image-does-not-fit).
    """
    start = bootloader.application_start
    if firmware.span.start != start:
        raise RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"the firmware begins at 0x{firmware.span.start:08X}; with {bootloader.id} it begins at 0x{start:08X}",
            hint="build the firmware for this bootloader, and leave the bootloader out",
            facts=Facts(memory="flash", address=firmware.span.start, field="images"),
        )
    return check_vectors(firmware, firmware.span, start, force=force)
