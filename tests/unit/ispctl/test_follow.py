"""What exit code a job that has ended deserves."""

from typing import Any

import pytest

from ispctl.follow import exit_of

Units = list[dict[str, Any]]


def units(*said: str) -> Units:
    """Return units from ``slot verdict [code]``, oldest first."""
    found = []
    for number, words in enumerate(said, 1):
        slot, verdict, *code = words.split()
        failure = {"code": code[0]} if code else None
        found.append({"id": number, "slot": slot, "verdict": None if verdict == "-" else verdict, "failure": failure})
    return found


@pytest.mark.parametrize(
    ("state", "met", "code"),
    [
        ("done", units("A1 passed", "A2 passed"), 0),
        ("done", units("A1 passed", "A2 failed verify-mismatch"), 1),
        ("done", units("A1 failed verify-mismatch", "A1 passed"), 1),
        ("done", units("A1 failed fuse-refused", "A2 failed image-does-not-fit"), 2),
        ("done", units("A1 failed fuse-refused", "A2 failed target-locked"), 1),
        ("done", units("A1 passed", "A2 failed fuse-confirm"), 2),
        ("done", units("A1 interrupted interrupted", "A1 passed"), 0),
        ("done", units("A1 interrupted interrupted", "A2 passed"), 1),
        ("done", units("A1 passed", "A1 interrupted interrupted"), 1),
        ("done", units("A1 needs-rescue"), 1),
        ("done", units("A1 passed", "A2 -"), 1),
        ("done", [], 1),
        ("empty", [], 1),
        ("cancelled", units("A1 passed"), 1),
        ("cancelled", units("A1 cancelled"), 1),
    ],
)
def test_exit_codes(state: str, met: Units, code: int):
    assert exit_of({"state": state}, met) == code
