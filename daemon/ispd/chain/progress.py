"""Progress that outside programs draw, read from their output in whatever pieces it comes."""

import re

__all__ = ["ByteBar", "MarkBar"]

_LONGEST_BAR = 200
"""Characters kept of what is not understood yet; the longest line of a bar has about 70."""


class MarkBar:
    """A bar that grows by one mark at a time behind an opening, as avrdude, dfu-programmer and teensy_loader_cli draw it.

    Only the first such bar of the output counts.

    :param opening: text right before the first mark.
    :param marks: how many make a whole bar.
    :param total_bytes: what a whole bar stands for.
    """

    def __init__(self, opening: str, mark: str, *, marks: int, total_bytes: int) -> None:
        self._opening = opening
        self._mark = mark
        self._marks = marks
        self._total_bytes = total_bytes
        self._recent = ""
        self._is_open = False
        self._is_over = False
        self.seen_marks = 0
        self._done_bytes = 0

    def feed(self, text: str) -> int:
        """Return how many more bytes are finished after this piece of the output."""
        for character in text:
            if self._is_over:
                break
            if not self._is_open:
                self._recent = (self._recent + character)[-len(self._opening) :]
                self._is_open = self._recent == self._opening
            elif character == self._mark:
                self.seen_marks += 1
            else:
                self._is_over = True
        return self._advance(self._total_bytes * min(self.seen_marks, self._marks) // self._marks)

    def rest(self) -> int:
        """Return what the bar has not shown as finished, and take it as finished."""
        return self._advance(self._total_bytes)

    def _advance(self, done_bytes: int) -> int:
        more, self._done_bytes = done_bytes - self._done_bytes, done_bytes
        return more


class ByteBar:
    r"""A bar that is drawn anew with its count of bytes, as dfu-util does: ``\rDownload\t[===  ]  16%  1024 bytes``.

    :param title: word before the bar; bars of another title do not count.
    :param total_bytes: what the work has; counts above it are cut to it.
    """

    def __init__(self, title: str, *, total_bytes: int) -> None:
        self._pattern = re.compile(rf"{title}\s*\[[= ]*\]\s+\d+%\s+(\d+) bytes")
        self._total_bytes = total_bytes
        self._pending = ""
        self._done_bytes = 0

    def feed(self, text: str) -> int:
        """Return how many more bytes are finished after this piece of the output."""
        self._pending += text
        done, end = self._done_bytes, 0
        for match in self._pattern.finditer(self._pending):
            done, end = max(done, min(int(match[1]), self._total_bytes)), match.end()
        self._pending = self._pending[end:][-_LONGEST_BAR:]
        more, self._done_bytes = done - self._done_bytes, done
        return more

    def rest(self) -> int:
        """Return what the bar has not shown as finished, and take it as finished."""
        more, self._done_bytes = self._total_bytes - self._done_bytes, self._total_bytes
        return more
