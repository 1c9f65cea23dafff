"""The daemon as it is, but killed (SIGKILL) by itself at a chosen commit: ``crash_daemon.py POINT COUNTER ispd-options``.

POINT is ``before:K`` or ``after:K``: just before or just after the K-th commit of the process, migrations included, K from 1.
``never`` lives on. After every commit the file COUNTER holds how many there were.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ispd.__main__ import main as run_ispd
from ispd.station.journal_file import JournalFile


class Commits:
    """Counts commits, and ends the process at the chosen one."""

    def __init__(self, point: str, counter: Path) -> None:
        moment, _, number = point.partition(":")
        self._point = (moment, int(number or 0))
        self._counter = counter
        self._count = 0

    def watching(self, commit: Callable[..., None]) -> Callable[..., None]:
        """Return ``commit`` with the count around it."""

        def counted(*arguments: Any) -> None:
            self._count += 1
            self._at("before")
            commit(*arguments)
            self._at("after")
            self._counter.write_text(str(self._count))

        return counted

    def _at(self, moment: str) -> None:
        if self._point == (moment, self._count):
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    point, counter, *options = sys.argv[1:]
    commits = Commits(point, Path(counter))
    JournalFile._commit = commits.watching(JournalFile._commit)  # type: ignore[method-assign]  # the one hook there is
    JournalFile._migrate = commits.watching(JournalFile._migrate)  # type: ignore[method-assign]  # as above
    run_ispd(options)


if __name__ == "__main__":
    main()
