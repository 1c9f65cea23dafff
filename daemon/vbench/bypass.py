"""A bootloader that does not stay: it goes to the application without having been on the bus."""

from dataclasses import dataclass

from vbench.board_face import Departure, Exit
from vbench.emulated import EmulatedFace

__all__ = ["Bypass", "to_application"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """A program that shows nothing and leaves; on a blank chip the jump to address 0 leads back into the loader."""

    departure: Departure
    face: EmulatedFace | None = None


def to_application(at: float) -> Bypass:
    """Return the loader that jumps to the application at ``at``, in bench seconds."""
    return Bypass(departure=Departure(at=at, exit=Exit.APPLICATION))
