"""Gives one host byte stream to the real sketch and to our emulation of it, and records what each of them did."""

from dataclasses import dataclass

from tests.oracle.sketch.board import Board

from ispd.model.part import AvrPart
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

__all__ = ["Dialogue", "Trace", "run_emulation", "run_sketch"]

_BOOTED_S = 1.0
"""Long enough for setup() to have blinked its LEDs."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a programmer did: reply bytes and four-byte SPI instructions, each with its time, and the end state."""

    replies: tuple[tuple[float, int], ...]
    instructions: tuple[tuple[float, bytes], ...]
    target: AvrTarget

    @property
    def reply_bytes(self) -> bytes:
        """Only the bytes of the replies."""
        return bytes(byte for _, byte in self.replies)

    @property
    def instruction_bytes(self) -> tuple[bytes, ...]:
        """Only the bytes of the instructions."""
        return tuple(frame for _, frame in self.instructions)


class Dialogue:
    """A host byte stream: what is written to the port, and when, in seconds after the start."""

    def __init__(self) -> None:
        self.writes: list[tuple[float, bytes]] = []
        self.end = 0.0

    def say(self, data: bytes, *, then_wait: float) -> "Dialogue":
        """Write ``data`` when everything before has had its time, and give this piece ``then_wait`` seconds."""
        self.writes.append((self.end, data))
        self.end += then_wait
        return self


def run_sketch(flash: bytes, part: AvrPart, dialogue: Dialogue, *, baud: int = 19200) -> Trace:
    """Let the real sketch answer, in simavr."""
    target = AvrTarget(part)
    with Board(flash, target, baud=baud) as board:
        for at, data in dialogue.writes:
            board.run(_BOOTED_S + at)
            board.feed(data, _BOOTED_S + at)
        board.run(_BOOTED_S + dialogue.end)
        replies = board.take()
        assert board.overruns == 0
        assert not any(reply.is_bad for reply in replies)
        return Trace(
            tuple((reply.at - _BOOTED_S, reply.byte) for reply in replies),
            tuple((at - _BOOTED_S, frame) for at, frame in board.instructions),
            target,
        )


class _RecordingTarget(AvrTarget):
    """Notes each instruction that the emulated sketch clocks into it while reset is active."""

    def __init__(self, part: AvrPart) -> None:
        super().__init__(part)
        self.seen: list[tuple[float, bytes]] = []

    def instruction(self, b1: int, b2: int, b3: int, b4: int, at: float, sck_hz: float) -> int:
        if self.in_reset:
            self.seen.append((at - _BOOTED_S, bytes((b1, b2, b3, b4))))
        return super().instruction(b1, b2, b3, b4, at, sck_hz)


def run_emulation(part: AvrPart, dialogue: Dialogue, *, baud: int = 19200) -> Trace:
    """Let our emulation answer, on a plain serial line."""
    target = _RecordingTarget(part)
    programmer = SerialProgrammer(Flavour.UART, baud=baud, target=target, booted=False)
    programmer.opened(0.0, baud=baud)
    replies: list[tuple[float, int]] = []

    def run(until: float) -> None:
        while (now := programmer.next_time()) <= until:
            replies.extend((now - _BOOTED_S, byte) for byte in programmer.take(now))
        replies.extend((until - _BOOTED_S, byte) for byte in programmer.take(until))

    for at, data in dialogue.writes:
        run(_BOOTED_S + at)
        programmer.feed(data, _BOOTED_S + at)
    run(_BOOTED_S + dialogue.end)
    return Trace(tuple(replies), tuple(target.seen), target)
