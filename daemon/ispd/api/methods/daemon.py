"""The daemon itself: its facts, its events, its description."""

from typing import Any

from ispd.api.declare import Method, Params, Privilege
from ispd.api.values import Nothing, Subscribed
from ispd.model.station import Station

__all__ = [
    "EVENTS_SUBSCRIBE",
    "EVENTS_UNSUBSCRIBE",
    "RPC_DISCOVER",
    "STATION_GET",
    "EventsSubscribe",
    "EventsUnsubscribe",
    "RpcDiscover",
    "StationGet",
]


class StationGet(Params, frozen=True, kw_only=True):
    """Tell about the daemon itself."""


class EventsSubscribe(Params, frozen=True, kw_only=True):
    """Send every change of the station over this connection, as ``event`` notifications with a sequence number.

    A reader that is too slow gets one event of kind ``resync`` in place of those it missed.
    """


class EventsUnsubscribe(Params, frozen=True, kw_only=True):
    """Send no more events over this connection."""


class RpcDiscover(Params, frozen=True, kw_only=True):
    """Describe this API as an OpenRPC document."""


STATION_GET = Method(
    name="station.get", params=StationGet, result=Station, result_text="the station", privilege=Privilege.VIEW
)
EVENTS_SUBSCRIBE = Method(
    name="events.subscribe",
    params=EventsSubscribe,
    result=Subscribed,
    result_text="where the events begin",
    privilege=Privilege.VIEW,
)
EVENTS_UNSUBSCRIBE = Method(
    name="events.unsubscribe", params=EventsUnsubscribe, result=Nothing, result_text="nothing", privilege=Privilege.VIEW
)
RPC_DISCOVER = Method(
    name="rpc.discover",
    params=RpcDiscover,
    result=dict[str, Any],
    result_text="an OpenRPC document",
    privilege=Privilege.VIEW,
)
