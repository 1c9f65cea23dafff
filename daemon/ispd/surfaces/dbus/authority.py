"""Who calls, and whether they may: asked of the bus and, where that does not suffice, of polkit.

The bus names the caller (``GetConnectionCredentials``, D-Bus specification): root, the daemon's own user, and members of its
group operate the station, as over its socket. Others do where polkit says so. Whatever goes wrong means no.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import structlog

from ispd.api.call import Peer
from ispd.api.declare import Privilege
from ispd.surfaces.access import is_operator

__all__ = ["ACTIONS", "Asking", "Authority", "Caller"]

_LOG = structlog.get_logger("ispd.dbus")

_POLKIT = "org.freedesktop.PolicyKit1"
ACTIONS: Mapping[Privilege, str] = MappingProxyType(
    {
        Privilege.VIEW: "org.ispd.station1.operate",
        Privilege.OPERATE: "org.ispd.station1.operate",
        Privilege.CONFIGURE: "org.ispd.station1.configure",
    }
)
"""What polkit is asked about, as in systemd/org.ispd.Station1.policy."""

_POLKIT_S = 20.0
"""The bus starts polkitd when it is first asked. Callers give up after 25 s (the default of D-Bus libraries)."""

_REMEMBERED = 512
"""Callers whose credentials are kept. A unique name is never given twice while a bus runs."""


class Asking(Protocol):
    """A bus that can be asked."""

    async def ask(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        *arguments: Any,
        within_s: float | None = None,
    ) -> tuple[Any, ...]:
        """Return the answer of another service. Raises ``OSError`` where there is none in time, or an error.

        :param within_s: how long it may take; what a running service needs where None.
        """


@dataclass(frozen=True, slots=True)
class Caller:
    """A process on the bus; the groups are all that it is in."""

    peer: Peer
    groups: frozenset[int] = frozenset()


class Authority:
    """Decides for the callers of one connection to the bus.

    :param group: the group whose members operate the station; by default the one the daemon runs with.
    :param owner: user id of the daemon, its own by default.
    """

    def __init__(self, bus: Asking, *, group: int | None = None, owner: int | None = None) -> None:
        self._bus = bus
        self._group = os.getegid() if group is None else group
        self._owner = os.geteuid() if owner is None else owner
        self._known: OrderedDict[str, Caller] = OrderedDict()

    async def caller(self, sender: str) -> Caller:
        """Return who ``sender`` is; a caller without any identity where the bus does not tell."""
        if sender in self._known:
            self._known.move_to_end(sender)
            return self._known[sender]
        bus = "org.freedesktop.DBus"
        try:
            (told,) = await self._bus.ask(bus, "/org/freedesktop/DBus", bus, "GetConnectionCredentials", "s", sender)
        except OSError as error:
            _LOG.warning("caller unknown", sender=sender, reason=str(error))
            return Caller(Peer())
        known = {name: value for name, (_, value) in told.items()}
        groups = known.get("UnixGroupIDs", [])
        peer = Peer(uid=known.get("UnixUserID"), gid=next(iter(groups), None), pid=known.get("ProcessID"))
        self._known[sender] = Caller(peer, frozenset(groups))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[sender]

    async def allows(self, sender: str, caller: Caller, privilege: Privilege) -> bool:
        """Tell whether a caller has a privilege."""
        if is_operator(caller.peer, privilege, groups=caller.groups, group=self._group, owner=self._owner):
            return True
        return caller.peer.uid is not None and await self._polkit_allows(sender, ACTIONS[privilege])

    async def _polkit_allows(self, sender: str, action: str) -> bool:
        subject = ("system-bus-name", {"name": ("s", sender)})
        try:
            ((is_authorized, _, _),) = await self._bus.ask(
                _POLKIT,
                "/org/freedesktop/PolicyKit1/Authority",
                f"{_POLKIT}.Authority",
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                subject,
                action,
                {},
                0,  # no dialogue: whoever stands at the bench has none
                "",
                within_s=_POLKIT_S,
            )
        except (OSError, ValueError, TypeError) as error:
            _LOG.info("polkit does not answer", action=action, reason=str(error))
            return False
        return is_authorized is True
