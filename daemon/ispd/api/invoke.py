"""Carrying out a call: parameters checked, privilege checked, errors made fit for clients. Every surface comes through here."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from ispd.api.call import Call
from ispd.api.handlers import Handler
from ispd.errors import ErrorCode, Facts, IspdError, RefusedError

__all__ = ["invoke"]

_LOG = structlog.get_logger("ispd.api")

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"(?:unknown|required) field `(?P<name>.*)`", re.DOTALL)
_SHOWN_CHARS = 120


async def invoke(handler: Handler, raw: Mapping[str, Any], call: Call) -> object:
    """Run ``handler`` on undecoded parameters and return its result.

    Raises nothing but ``IspdError``: ``invalid-parameter`` naming the field, ``not-allowed``, the method's own codes,
    or ``internal`` with an id under which the log holds the exception.
    """
    method = handler.method
    if not await call.allows(call.peer, method.privilege):
        raise RefusedError(
            ErrorCode.NOT_ALLOWED,
            f"{method.name} needs the privilege to {method.privilege.value}",
            hint="`ispctl doctor` names the group to join; or ask whoever runs this station",
        )
    try:
        return await handler.run(call, _decode(raw, method.params))
    except IspdError:
        raise
    except Exception as error:
        # The one place where an unforeseen exception meets a client: its text stays here, under an id.
        incident = secrets.token_hex(4)
        _LOG.exception("call failed", method=method.name, incident=incident, exc_info=error)
        raise IspdError(
            ErrorCode.INTERNAL,
            f"the daemon failed on this request (incident {incident})",
            hint=f"its log says why: journalctl -u ispd --grep {incident}",
        ) from error


def _decode(raw: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        what, field = _locate(str(error))
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER, f"{field}: {what}" if field else what, facts=Facts(field=field or None)
        ) from None


def _locate(text: str) -> tuple[str, str]:
    """Split msgspec's message into what is wrong and the field; both cut to a length fit for a person."""
    match = _PATH.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    named = _NAMED.search(what)
    if named:
        name = named["name"]
        path = f"{path}.{name}" if path else name
        what = "this parameter does not exist" if "unknown" in what else "this parameter is required"
    return _short(what), _short(path)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + ".."
