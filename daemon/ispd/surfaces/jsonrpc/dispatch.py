"""Messages to calls and back: jsonrpcserver with its openings closed.

As shipped it shows exception texts to clients and runs a whole batch at once without a bound; here every item of a
batch is dispatched by itself, takes its turn, and is judged by itself (JSON-RPC 2.0, section 6).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

import anyio
import msgspec
from anyio import Semaphore
from jsonrpcserver import Error, Result, Success, async_dispatch_to_serializable

from ispd.api.call import Call
from ispd.api.failures import FAILURES
from ispd.api.handlers import Handler
from ispd.api.invoke import invoke
from ispd.errors import ErrorCode, IspdError, RefusedError
from ispd.surfaces.jsonrpc.codec import decode, encode

__all__ = ["MAX_BATCH", "Dispatcher", "error_response"]

MAX_BATCH = 32
"""Most requests in one batch."""

_MAX_ID_CHARS = 256


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A request object as JSON-RPC 2.0 section 4 has it."""

    jsonrpc: Literal["2.0"]
    method: str
    params: dict[str, Any] | list[Any] | msgspec.UnsetType = msgspec.UNSET
    id: int | float | str | msgspec.UnsetType | None = msgspec.UNSET


class Dispatcher:
    """Answers messages with the handlers it was given. Holds nothing of any connection."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._methods = {name: _bound(handler) for name, handler in handlers.items()}

    async def answer(self, message: bytes, call: Call, turn: Semaphore) -> bytes | None:
        """Return the encoded response to one message, None where none is due (notifications).

        :param turn: entered around each call, so that the caller bounds how many run at once.
        """
        try:
            request = decode(message)
            if isinstance(request, list):
                responses = await self._batch(request, call, turn)
                return encode(responses) if responses else None
        except RefusedError as error:
            return error_response(error)
        response = await self._one(request, call, turn)
        return None if response is None else encode(response)

    async def _batch(self, requests: list[Any], call: Call, turn: Semaphore) -> list[dict[str, Any]]:
        if not 1 <= len(requests) <= MAX_BATCH:
            raise RefusedError(ErrorCode.INVALID_REQUEST, f"a batch holds 1 to {MAX_BATCH} requests")
        responses: list[dict[str, Any] | None] = [None] * len(requests)

        async def answer(index: int) -> None:
            responses[index] = await self._one(requests[index], call, turn)

        async with anyio.create_task_group() as tasks:
            for index in range(len(requests)):
                tasks.start_soon(answer, index)
        return [response for response in responses if response is not None]

    async def _one(self, request: object, call: Call, turn: Semaphore) -> dict[str, Any] | None:
        async with turn:
            response = await async_dispatch_to_serializable(
                request, self._methods, context=call, deserializer=_as_is, validator=_validate
            )
        if not isinstance(response, dict):
            return None
        if "error" in response:
            response["error"] = _complete(response["error"])
        return response


def error_response(error: IspdError) -> bytes:
    """Return the encoded response to a message whose id can not be known."""
    return encode({"jsonrpc": "2.0", "error": _error(error), "id": None})


def _bound(handler: Handler) -> Callable[..., Awaitable[Result]]:
    """Return what jsonrpcserver calls: it gets positional or named parameters, and returns a result or an error."""

    async def run(call: Call, /, *positional: object, **named: object) -> Result:
        try:
            if positional:
                raise RefusedError(
                    ErrorCode.INVALID_PARAMETER, "parameters go by name", hint="send params as an object"
                )
            return Success(await invoke(handler, named, call))
        except IspdError as error:
            return Error(**_error(error))

    return run


def _error(error: IspdError) -> dict[str, Any]:
    """Return the error object: number, sentence, and in ``data`` code, hint and the facts that are known."""
    facts = {name: value for name, value in asdict(error.facts).items() if value is not None}
    return {
        "code": FAILURES[error.code].rpc,
        "message": error.message,
        "data": {"code": error.code.value, "hint": error.hint, **facts},
    }


_BY_NUMBER = {
    FAILURES[code].rpc: RefusedError(code, message, hint=hint)
    for code, message, hint in (
        (ErrorCode.INVALID_REQUEST, "this is no JSON-RPC 2.0 request", "see rpc.discover"),
        (ErrorCode.UNKNOWN_METHOD, "there is no such method", "rpc.discover lists them"),
    )
}


def _complete(error: dict[str, Any]) -> dict[str, Any]:
    """Give the library's own errors the shape of ours; what it says besides its number is dropped."""
    if isinstance(error.get("data"), dict):
        return error
    ours = _BY_NUMBER.get(error["code"]) or IspdError(ErrorCode.INTERNAL, "the daemon failed on this request")
    return _error(ours)


def _as_is(request: object) -> object:
    return request


def _validate(request: object) -> object:
    """Refuse, by raising, what is no request object; the library turns that into an answer."""
    envelope = msgspec.convert(request, _Envelope)
    if isinstance(envelope.id, str) and len(envelope.id) > _MAX_ID_CHARS:
        raise ValueError("the id is too long")
    return request
