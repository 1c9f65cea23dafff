"""Requests of the wire over an open USB device."""

from collections.abc import Sequence
from typing import TypeVar

from ispd.transport.contract import ControlTransfer, UsbIdentity, UsbLink
from ispd.wire.control import ControlRequest

__all__ = ["ControlChannel"]

R = TypeVar("R")


class ControlChannel:
    """An open device that understands :class:`~ispd.wire.control.ControlRequest` values."""

    def __init__(self, link: UsbLink) -> None:
        self._link = link

    @property
    def name(self) -> str:
        """Port of the device."""
        return self._link.name

    @property
    def identity(self) -> UsbIdentity:
        """What the device says it is."""
        return self._link.identity

    async def submit(self, requests: Sequence[ControlRequest[R]], *, timeout_s: float) -> list[R]:
        """Carry out requests back to back, each within ``timeout_s``, and return what their answers mean.

        Raises what ``UsbLink.submit`` raises, and ``RemoteProtocolError`` for an answer that has no meaning; in the
        latter case all requests were carried out.
        """
        fields = [request.encode() for request in requests]
        replies = await self._link.submit(
            [
                ControlTransfer(
                    request_type=one.request_type,
                    request=one.request,
                    value=one.value,
                    index=one.index,
                    data=one.data,
                    length=one.length,
                    timeout_s=timeout_s,
                )
                for one in fields
            ]
        )
        return [request.decode(reply) for request, reply in zip(requests, replies, strict=True)]

    async def aclose(self) -> None:
        """Close the device; never raises."""
        await self._link.aclose()
