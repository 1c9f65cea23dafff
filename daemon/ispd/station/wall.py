"""The wall between slots: what nobody foresaw becomes one slot's trouble, and is logged in full."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ispd.errors import ErrorCode, IspdError

__all__ = ["wall"]

log = structlog.get_logger()


@contextmanager
def wall(slot: str) -> Iterator[None]:
    """Turn an undeclared exception into ``IspdError`` with ``internal``; declared ones and cancellation pass."""
    try:
        yield
    except IspdError:
        raise
    except Exception as error:
        log.exception("internal error on a slot", slot=slot)
        raise IspdError(
            ErrorCode.INTERNAL,
            f"internal error on slot {slot} ({type(error).__name__})",
            hint="see the daemon's log, and report this",
        ) from error
