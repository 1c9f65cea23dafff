"""A signal many tasks can wait for: each pulse wakes everybody who waits at that moment."""

import anyio

__all__ = ["Pulse"]


class Pulse:
    """Level-free wake-up. Waiters must check their condition before and after waiting."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def fire(self) -> None:
        """Wake all current waiters."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next :meth:`fire`."""
        await self._event.wait()
