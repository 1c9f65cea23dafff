"""Time for everything above: one seam, so that the same code runs on real and on virtual time."""

import time
from datetime import UTC, datetime
from typing import Protocol

import anyio

__all__ = ["Clock", "SystemClock", "timestamp"]


class Clock(Protocol):
    """Monotonic seconds for durations, wall time for records."""

    def monotonic(self) -> float:
        """Return seconds that never go back; the origin means nothing."""

    def wall(self) -> datetime:
        """Return the time of day, UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait that long on this clock."""


class SystemClock:
    """The event loop's clock. Deadlines set with ``anyio.fail_after`` count on the same clock."""

    def monotonic(self) -> float:
        """Return the event loop's time."""
        return anyio.current_time()

    def wall(self) -> datetime:
        """Return the system's time of day, UTC."""
        return datetime.fromtimestamp(time.time(), tz=UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await anyio.sleep(seconds)


def timestamp(clock: Clock) -> str:
    """Return the wall time as records and events hold it: ISO 8601 with milliseconds, UTC."""
    return clock.wall().isoformat(timespec="milliseconds")
