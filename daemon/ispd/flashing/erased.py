"""Making sure that an AVR's chip erase happened."""

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.flashing.session import TargetSession
from ispd.flashing.steps import EraseChip
from ispd.flashing.verify import Mismatch
from ispd.model.image import BLANK
from ispd.model.part import AvrPart, MemoryKind

__all__ = ["check_erased"]


async def check_erased(session: TargetSession, part: AvrPart, step: EraseChip) -> None:
    """Make sure an erase happened: lock bits open, sampled cells blank. Raises ``TargetError`` (erase-failed)."""
    wrong = await _unerased(session, part, step) and await _unerased(session, part, step)
    if wrong:
        first = wrong[0]
        raise TargetError(
            ErrorCode.ERASE_FAILED,
            f"flash at 0x{first.address:04X} reads 0x{first.actual:02X} after the erase",
            hint="check the supply voltage, then flash again; replace the chip if the same address fails again",
            facts=Facts(
                part=part.id,
                memory=MemoryKind.FLASH.value,
                address=first.address,
                expected=first.expected,
                actual=first.actual,
            ),
        )
    mask = part.lock_mask
    lock = await session.read_lock()
    if lock & mask != mask and (lock := await session.read_lock()) & mask != mask:
        raise TargetError(
            ErrorCode.ERASE_FAILED,
            f"the lock bits read 0x{lock:02X} after the erase",
            hint="check the supply voltage, then flash again",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK.value, expected=mask, actual=lock & mask),
        )


async def _unerased(session: TargetSession, part: AvrPart, step: EraseChip) -> list[Mismatch]:
    addresses = [address for span in step.samples for address in range(span.start, span.stop)]
    found = await session.read_words(part, step.samples)
    return [Mismatch(at, BLANK, value) for at, value in zip(addresses, found, strict=True) if value != BLANK]
