"""One thread for one blocking resource, so that the event loop never waits for a disk."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

__all__ = ["ThreadWorker", "Worker"]

T = TypeVar("T")


class Worker(Protocol):
    """Runs blocking functions one after the other, in the order they were handed over."""

    async def run(self, fn: Callable[[], T]) -> T:
        """Run ``fn`` and return its result; what it raises is raised here.

        A cancelled caller either cancels before ``fn`` began, or waits until ``fn`` has ended: never is a function left
        behind that nobody waits for.
        """


class ThreadWorker:
    """At most one function at a time, outside the event loop.

    The limiter is private: other users of threads can neither delay this worker nor be delayed by it, and it hands the
    thread out in the order of asking.
    """

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)

    async def run(self, fn: Callable[[], T]) -> T:
        """Run ``fn`` in a thread; see :meth:`Worker.run`."""
        return await anyio.to_thread.run_sync(fn, limiter=self._limiter, abandon_on_cancel=False)
