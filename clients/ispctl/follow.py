"""Following a job to its end: by events, through gaps and through restarts of the daemon."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ispctl.client import Client
from ispctl.errors import NoDaemonError, WaitTimeoutError
from ispd.api.failures import Exit, is_refusal
from ispd.model.job import JobState, Verdict

__all__ = ["Follower", "exit_of", "units_of"]

_RETRY_S = 0.25  # between attempts to reach a daemon that is restarting
_GRACE_S = 60.0  # how long a daemon may be away: systemd starts it again within seconds
_LOOK_S = 10.0  # state is fetched at least so often, whatever the events say
_REST_S = 1.0  # events follow the state within milliseconds
_PAGE = 500


class Follower:
    """Waits for one job.

    :param tell: gets every event about the job and its units, in order.
    """

    def __init__(
        self, path: Path, job: int, tell: Callable[[dict[str, Any]], object], *, timeout_s: float | None
    ) -> None:
        self._path = path
        self._job = job
        self._tell = tell
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._has_seen_end = False

    def run(self, client: Client, *, is_subscribed: bool = False) -> dict[str, Any]:
        """Return the job once it has ended; ``client`` is closed.

        :param is_subscribed: events were asked for before the job was created, so none about it is missing.

        Raises ``WaitTimeoutError``, ``NoDaemonError`` when the daemon stays away, ``RpcError`` for an unknown job.
        """
        while True:
            try:
                with client:
                    client.deadline = self._deadline
                    if not is_subscribed:
                        client.call("events.subscribe")
                    return self._until_end(client, has_all=is_subscribed)
            except NoDaemonError:
                client = self._reconnect()
                is_subscribed = False

    def _until_end(self, client: Client, *, has_all: bool) -> dict[str, Any]:
        while True:
            # Events only say that it is worth looking; what counts is the state, so a gap or a restart costs nothing.
            job: dict[str, Any] = client.call("job.get", id=self._job)
            if JobState(job["state"]).is_final:
                if has_all:
                    self._tell_rest(client)
                return job
            has_all = True
            self._until_change(client)

    def _tell_rest(self, client: Client) -> None:
        """Tell the events that were on their way when the state already said that the job has ended."""
        while not self._has_seen_end:
            event = client.next_event(_REST_S)
            if event is None or event["kind"] == "resync":
                return
            self._tell_ours(event)

    def _until_change(self, client: Client) -> None:
        look_at = time.monotonic() + _LOOK_S
        while True:
            left = min(look_at, self._deadline or look_at) - time.monotonic()
            event = client.next_event(max(0.0, left))
            if event is None:
                self._check_deadline()
                return
            if event["kind"] == "resync":
                return
            if self._tell_ours(event) and event["kind"] == "job":
                return
            self._check_deadline()

    def _tell_ours(self, event: dict[str, Any]) -> bool:
        """Pass on an event about our job; return whether it was one."""
        if not self._concerns_us(event):
            return False
        self._tell(event)
        if event["kind"] == "job":
            self._has_seen_end = JobState(event["job"]["state"]).is_final
        return True

    def _concerns_us(self, event: dict[str, Any]) -> bool:
        match event["kind"]:
            case "job":
                return bool(event["job"]["id"] == self._job)
            case "unit":
                return bool(event["unit"]["job"] == self._job)
            case "slot":
                return bool(event["slot"]["job"] == self._job)
            case _:
                return False

    def _reconnect(self) -> Client:
        give_up = time.monotonic() + _GRACE_S
        while True:
            self._check_deadline()
            try:
                return Client(self._path)
            except NoDaemonError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(_RETRY_S)

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise WaitTimeoutError(
                f"job {self._job} has not ended in time", hint=f"it goes on: `ispctl wait {self._job}`"
            )


def units_of(client: Client, job: int) -> list[dict[str, Any]]:
    """Return all units of a job, oldest first."""
    found: list[dict[str, Any]] = []
    while True:
        page = client.call("unit.list", job=job, limit=_PAGE, before=found[-1]["id"] if found else None)
        found += page
        if len(page) < _PAGE:
            return found[::-1]


def exit_of(job: dict[str, Any], units: list[dict[str, Any]]) -> Exit:
    """Return the exit code of a job that has ended: all passed; or refused input only; or a failure.

    An interrupted unit was flashed again from the start; it counts only where no later unit of its slot passed.
    """
    passed = {unit["slot"]: unit["id"] for unit in units if unit["verdict"] == Verdict.PASSED}
    bad = [
        unit
        for unit in units
        if unit["verdict"] != Verdict.PASSED
        and not (unit["verdict"] == Verdict.INTERRUPTED and passed.get(unit["slot"], 0) > unit["id"])
    ]
    if bad and all(unit["failure"] is not None and is_refusal(unit["failure"]["code"]) for unit in bad):
        return Exit.REFUSED
    return Exit.FAILED if bad or not passed or job["state"] != JobState.DONE else Exit.DONE
