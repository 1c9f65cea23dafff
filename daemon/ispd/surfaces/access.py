"""Who may use the station: root, the daemon's own user, and the members of the socket's group. Nobody else may even look.

The socket's mode says the same once more (0660). This is what still holds where somebody made it 0666, and what surfaces
without a socket file of their own ask.
"""

import os
import pwd
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ispd.api.call import Peer
from ispd.api.declare import Privilege

__all__ = ["Operators", "groups_of_user", "socket_group"]

_KEPT_S = 5.0
"""How long a user's groups are believed: asking may mean asking a server, and a watching client asks often."""

_KEPT_USERS = 256

_FOR_MEMBERS = frozenset({Privilege.VIEW, Privilege.OPERATE})


class Operators:
    """Answers as an :data:`~ispd.api.call.Allows`. A caller without a user id, from a transport that can not tell, is nobody.

    :param group: the group whose members operate the station, None where there is none; or what returns it, asked each
        time, since whoever gives the socket to another group means it.
    :param owner: user id of the daemon.
    :param groups_of: returns all groups of a user id.
    :param now: seconds on a clock that only goes forward.
    """

    def __init__(
        self,
        group: int | Callable[[], int | None] | None,
        *,
        owner: int | None = None,
        groups_of: Callable[[int], frozenset[int]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group if callable(group) else lambda: group
        self._masters = frozenset({0, os.geteuid() if owner is None else owner})
        self._groups_of = groups_of or groups_of_user
        self._now = now
        self._known: dict[int, tuple[float, frozenset[int]]] = {}

    def __call__(self, peer: Peer, privilege: Privilege) -> bool:
        """Tell whether the caller has the privilege."""
        if peer.uid is None:
            return False
        if peer.uid in self._masters:
            return True
        return privilege in _FOR_MEMBERS and self._is_member(peer.uid, peer.gid)

    def _is_member(self, uid: int, gid: int | None) -> bool:
        """Tell whether the user is in the group by the group database, or the process by the kernel (newgrp, sg)."""
        group = self._group()
        return group is not None and (gid == group or group in self._groups(uid))

    def _groups(self, uid: int) -> frozenset[int]:
        now = self._now()
        known = self._known.get(uid)
        if known is not None and now - known[0] < _KEPT_S:
            return known[1]
        if len(self._known) >= _KEPT_USERS:
            self._known.clear()
        groups = self._groups_of(uid)
        self._known[uid] = (now, groups)
        return groups


def groups_of_user(uid: int) -> frozenset[int]:
    """Return the groups of a user by the system's databases, its own included; none where the user is unknown there."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def socket_group(at: Path | socket.socket) -> int | None:
    """Return the group of a socket's file, None where there is no such file.

    :param at: its path, or a listening socket that was handed over by the service manager, which gave it its group.
    """
    place = at if isinstance(at, Path) else at.getsockname()
    if not place or str(place).startswith("\0") or isinstance(place, bytes):
        return None  # without a name, or with one outside the file system
    try:
        return os.lstat(place).st_gid
    except OSError:
        return None
