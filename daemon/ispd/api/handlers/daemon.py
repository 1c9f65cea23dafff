"""The daemon itself: its facts, its events, its description."""

from typing import Any

from ispd.api.call import Call
from ispd.api.handlers import handles
from ispd.api.methods.daemon import (
    EVENTS_SUBSCRIBE,
    EVENTS_UNSUBSCRIBE,
    RPC_DISCOVER,
    STATION_GET,
    EventsSubscribe,
    EventsUnsubscribe,
    RpcDiscover,
    StationGet,
)
from ispd.api.spec import described_api
from ispd.api.values import Nothing, Subscribed
from ispd.model.station import Station

__all__ = ["describe", "discover", "subscribe", "unsubscribe"]


@handles(STATION_GET)
async def describe(call: Call, _params: StationGet) -> Station:
    """Answer ``station.get``."""
    return call.station.describe()


@handles(EVENTS_SUBSCRIBE)
async def subscribe(call: Call, _params: EventsSubscribe) -> Subscribed:
    """Answer ``events.subscribe``."""
    return Subscribed(seq=call.session.subscribe())


@handles(EVENTS_UNSUBSCRIBE)
async def unsubscribe(call: Call, _params: EventsUnsubscribe) -> Nothing:
    """Answer ``events.unsubscribe``."""
    call.session.unsubscribe()
    return Nothing()


@handles(RPC_DISCOVER)
async def discover(_call: Call, _params: RpcDiscover) -> dict[str, Any]:
    """Answer ``rpc.discover``."""
    return dict(described_api())
