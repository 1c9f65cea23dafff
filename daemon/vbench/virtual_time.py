"""Virtual time: an asyncio event loop whose clock jumps to the next timer when nothing else can happen.

Everything that counts on the loop's clock is virtual then: ``anyio.sleep``, ``fail_after``, ``current_time``. An hour of
waiting costs nothing, and two runs of the same program see the same times. Worker threads do not belong here: while one
works, time would run away from it. Give the code under test an :class:`InlineWorker` instead.
"""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike  # exists for type checkers only

__all__ = ["InlineWorker", "VirtualClock", "VirtualDeadlockError", "VirtualEventLoop", "run_virtual", "virtual"]

T = TypeVar("T")
P = ParamSpec("P")

_GRACE_S = 0.5
"""Real seconds a program without timers may wait for a file descriptor before it counts as stuck."""
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualDeadlockError(RuntimeError):
    """The program waits for ever: no timer is set, nothing is ready, nothing can arrive."""


class _JumpingSelector(selectors.BaseSelector):
    """Looks at real descriptors, and lets virtual time pass instead of waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: "FileDescriptorLike", events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: "FileDescriptorLike", events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping["FileDescriptorLike", selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = self._real.select(_GRACE_S)
            if not ready:
                raise VirtualDeadlockError("every task waits, and no timer is set that could wake one")
            return ready
        self.now += timeout
        return []


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, beginning at 0 seconds.

    Good for some three months of it: beyond 8e6 s the steps of a float are coarser than asyncio's clock resolution.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._jumping.now


class VirtualClock:
    """The daemon's clock on virtual time: wall time is a fixed date plus the loop's seconds."""

    def __init__(self, epoch: datetime = _EPOCH) -> None:
        self._epoch = epoch

    def monotonic(self) -> float:
        """Return the loop's virtual seconds."""
        return anyio.current_time()

    def wall(self) -> datetime:
        """Return the virtual time of day, UTC."""
        return self._epoch + timedelta(seconds=anyio.current_time())

    async def sleep(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        await anyio.sleep(seconds)


class InlineWorker:
    """Runs blocking calls where they stand, in place of a worker thread."""

    async def run(self, fn: Callable[[], T]) -> T:
        """Call ``fn`` now and return its result; other tasks get a turn first, as with a thread."""
        await anyio.lowlevel.checkpoint()
        return fn()


def run_virtual(fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run an async function to its end on virtual time.

    Raises ``VirtualDeadlockError`` where it would wait for ever, and whatever ``fn`` raises.
    """
    return anyio.run(fn, *args, backend="asyncio", backend_options={"loop_factory": VirtualEventLoop})


def virtual(fn: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Turn an async test into one that pytest runs on virtual time; fixtures are passed as usual."""

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(functools.partial(fn, *args, **kwargs))

    return run
