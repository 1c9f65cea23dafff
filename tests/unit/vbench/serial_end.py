"""The far end of an emulated serial programmer's line, on a clock that jumps."""

from typing import Generic, TypeVar

from vbench.serial_board import SerialBoard

__all__ = ["SerialEnd"]

P = TypeVar("P", bound=SerialBoard)


class SerialEnd(Generic[P]):
    """A host that writes, waits and reads."""

    def __init__(self, programmer: P, *, baud: int | None = None, now: float = 0.0) -> None:
        self.programmer = programmer
        self.now = now
        programmer.opened(now, baud=programmer.baud if baud is None else baud)

    def send(self, data: bytes) -> None:
        """Write bytes now."""
        self.programmer.feed(data, self.now)

    def until(self, when: float) -> bytes:
        """Let time pass and return what came."""
        got = b""
        while (due := max(self.programmer.next_time(), self.now)) <= when:
            self.now = due
            got += self.programmer.take(self.now)
        self.now = when
        return got + self.programmer.take(when)

    def wait(self, seconds: float) -> bytes:
        """Let time pass and return what came."""
        return self.until(self.now + seconds)

    def ask(self, data: bytes, count: int, *, within_s: float = 5.0) -> bytes:
        """Write bytes, and return as soon as ``count`` came back."""
        self.send(data)
        got, limit = b"", self.now + within_s
        while len(got) < count:
            self.now = max(self.programmer.next_time(), self.now)
            assert self.now <= limit, f"{data[:32].hex(' ')} brought only {len(got)}: {got[:32].hex(' ')}"
            got += self.programmer.take(self.now)
        return got
