"""Pages of flash as serial programming sees them, for drivers that send its instructions."""

from collections.abc import Sequence

from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress, WordAddress

__all__ = ["bank_change", "load_page", "read_byte", "require_whole_pages"]


def require_whole_pages(part: AvrPart, pages: Sequence[Segment]) -> None:
    """Raise ``LocalProtocolError`` unless each segment is a page of the part's flash."""
    page_bytes = part.flash.page_bytes
    for page in pages:
        if page.start % page_bytes or len(page.data) != page_bytes:
            raise LocalProtocolError(f"flash is written in whole pages of {page_bytes} bytes, not {page.span}")


def bank_change(part: AvrPart | None, word: WordAddress, known: int | None) -> list[bytes]:
    """Return the instruction that sets the upper address bits, where the part has them and they are not ``known`` already."""
    extended = avr_isp.extended_address(word)
    if part is None or not part.needs_extended_address or extended == known:
        return []
    return [avr_isp.load_extended_address(extended)]


def load_page(page: Segment) -> list[bytes]:
    """Return the instructions that bring a page into the target's buffer."""
    word = avr_isp.word_address(ByteAddress(page.start))
    return [
        avr_isp.load_flash_page(WordAddress(word + offset // 2), value, high=offset % 2 == 1)
        for offset, value in enumerate(page.data)
    ]


def read_byte(address: int) -> bytes:
    """Return the instruction that reads the flash byte at a byte address, in the 128 KiB that are selected."""
    word = avr_isp.word_address(ByteAddress(address - address % 2))
    return avr_isp.read_flash(word, high=address % 2 == 1)
