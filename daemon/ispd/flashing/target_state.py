"""The bytes that say how a target is set up, as they were read."""

from collections.abc import Mapping
from dataclasses import dataclass

from ispd.model.part import MemoryKind

__all__ = ["TargetState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """Fuse bytes and lock byte, or option bytes and read protection, as read, unimplemented bits included."""

    fuses: Mapping[MemoryKind, int]
    lock: int

    @property
    def bits(self) -> dict[MemoryKind, int]:
        """All of them by memory."""
        return {**self.fuses, MemoryKind.LOCK: self.lock}
