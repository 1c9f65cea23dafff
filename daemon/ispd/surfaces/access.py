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

from anyio import Semaphore, to_thread

from ispd.api.call import Peer
from ispd.api.declare import Privilege

__all__ = ["Operators", "groups_of_user", "is_operator", "socket_group"]

_KEPT_S = 5.0
"""How long a user's groups are believed: asking may mean asking a server, and a watching client asks often."""

_KEPT_USERS = 256

_ASKING = 4
"""Users whose groups are asked for at once: a server of accounts that hangs costs these threads and nothing else."""

_FOR_MEMBERS = frozenset({Privilege.VIEW, Privilege.OPERATE})


def is_operator(
    peer: Peer, privilege: Privilege, *, groups: frozenset[int | None], group: int | None, owner: int
) -> bool:
    """Tell whether a caller has a privilege: the rule itself.

    :param groups: groups of the caller.
    :param group: the group whose members operate the station, None where there is none.
    :param owner: user id of the daemon.
    """
    if peer.uid is None:
        return False
    return peer.uid in (0, owner) or (privilege in _FOR_MEMBERS and group is not None and group in groups)


class Operators:
    """Answers as an :data:`~ispd.api.call.Allows`. A caller without a user id, from a transport that can not tell, is nobody.

    :param group: the group whose members operate the station, None where there is none; or what returns it, asked each
        time, since whoever gives the socket to another group means it.
    :param owner: user id of the daemon.
    :param groups_of: returns all groups of a user id; it may block, and runs in a thread.
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
        self._owner = os.geteuid() if owner is None else owner
        self._groups_of = groups_of or groups_of_user
        self._now = now
        self._known: dict[int, tuple[float, frozenset[int]]] = {}
        self._asking = Semaphore(_ASKING)

    async def __call__(self, peer: Peer, privilege: Privilege) -> bool:
        """Tell whether the caller has the privilege."""
        if peer.uid is None or privilege not in _FOR_MEMBERS:
            return is_operator(peer, privilege, groups=frozenset(), group=None, owner=self._owner)
        # a process may have its group from the kernel alone (newgrp, sg); only others are worth a question
        group = self._group()
        if is_operator(peer, privilege, groups=frozenset({peer.gid}), group=group, owner=self._owner):
            return True
        if group is None:
            return False
        groups = await self._groups(peer.uid)
        return is_operator(peer, privilege, groups=groups, group=group, owner=self._owner)

    async def _groups(self, uid: int) -> frozenset[int]:
        known = self._fresh(uid)
        if known is not None:
            return known
        async with self._asking:
            known = self._fresh(uid)  # somebody else may have asked while this one waited for a thread
            if known is not None:
                return known
            asked = self._now()
            # a stop of the daemon does not wait for an answer that may never come
            groups = await to_thread.run_sync(self._groups_of, uid, abandon_on_cancel=True)
        if len(self._known) >= _KEPT_USERS:
            self._known.clear()
        self._known[uid] = (asked, groups)
        return groups

    def _fresh(self, uid: int) -> frozenset[int] | None:
        known = self._known.get(uid)
        return known[1] if known is not None and self._now() - known[0] < _KEPT_S else None


def groups_of_user(uid: int) -> frozenset[int]:
    """Return the groups of a user by the system's databases, its own included; none where the user is unknown there.

    The databases may be servers: this takes as long as they do.
    """
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
