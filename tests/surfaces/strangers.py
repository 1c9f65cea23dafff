"""Processes of users who have nothing to do with the station."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import pytest

__all__ = ["NOBODY", "command_as", "needs_root", "run_as"]

NOBODY = 65534
"""User and group id of ``nobody`` (Debian base-passwd)."""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can run a process as another user"
)


def command_as(uid: int, gid: int, command: Sequence[str], *, groups: Sequence[int] = ()) -> list[str]:
    """Return what runs ``command`` as another user.

    It may read and search everything, since the interpreter may stand in a folder of root's; connecting to a socket takes
    the right to write, which this does not give.
    """
    became = ["setpriv", f"--reuid={uid}", f"--regid={gid}"]
    became.append(f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups")
    return [*became, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--", *command]


def run_as(
    uid: int,
    gid: int,
    command: Sequence[str],
    *,
    groups: Sequence[int] = (),
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` as another user to its end; see :func:`command_as`."""
    return subprocess.run(
        command_as(uid, gid, command, groups=groups),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
