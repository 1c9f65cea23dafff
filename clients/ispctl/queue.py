"""Verbs of the queue and the records: enqueue, rescue, jobs, job, cancel, pause, resume, wait, units, unit."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ispctl.client import Client
from ispctl.errors import RpcError
from ispctl.files import attach_image, attach_recipe
from ispctl.show import show_job, show_jobs, show_unit, show_units
from ispctl.text import failure_lines, printable, verdict_text
from ispctl.verb import (
    ApiOption,
    OneOf,
    Settings,
    Verb,
    api_verb,
    option_bytes,
    parse_byte,
    parse_frequency,
    parse_option_byte,
    print_json_line,
    put,
)

if TYPE_CHECKING:
    from ispctl.follow import Follower

__all__ = ["QUEUE_VERBS"]

_FILE = click.Path(path_type=Path)
_JOB = click.argument("job", type=click.IntRange(min=1))
_IMAGES = click.argument("images", nargs=-1, type=_FILE, metavar="[IMAGE[@ADDRESS]..]")
_WAIT = click.option("--wait", is_flag=True, help="follow the job to its end; the exit code tells how it went")
_UNLOCK = click.option("--unlock", cls=ApiOption, is_flag=True)


def _plans() -> Iterable[str]:
    from ispd.model.recipe import PlanKind  # only where one is named: keeps the quick verbs quick

    return PlanKind


def _scopes() -> Iterable[str]:
    from ispd.model.recipe import VerifyScope

    return VerifyScope


def _policies() -> Iterable[str]:
    from ispd.model.recipe import ClonePolicy

    return ClonePolicy


@api_verb("job.enqueue", "events.subscribe", "job.get", "unit.list")
@_IMAGES
@click.option("--part", cls=ApiOption, metavar="PART")
@click.option("--slots", cls=ApiOption, metavar="A1,A2")
@click.option("--count", cls=ApiOption, type=click.IntRange(min=1), metavar="N")
@click.option("--recipe", cls=ApiOption, type=_FILE, metavar="FILE")
@click.option("--bootloader", cls=ApiOption, metavar="ID")
@click.option("--keyboard", cls=ApiOption, type=_FILE, metavar="FILE")
@click.option("--plan", cls=ApiOption, type=OneOf(_plans))
@click.option("--chain", is_flag=True, help="bootloader by ISP or SWD, firmware over USB: --plan chained")
@click.option("--chain-only", is_flag=True, help="firmware over USB alone: --plan chain-only")
@click.option("--lfuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--hfuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--efuse", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option("--lock", cls=ApiOption, type=parse_byte, metavar="0xNN")
@click.option(
    "--option-byte", cls=ApiOption, field="option_bytes", type=parse_option_byte, multiple=True, metavar="NAME=0xNN"
)
@click.option("--eeprom", cls=ApiOption, type=_FILE, metavar="FILE")
@click.option("--sck", cls=ApiOption, field="sck_hz", type=parse_frequency, metavar="HZ")
@click.option("--verify", cls=ApiOption, type=OneOf(_scopes))
@click.option("--strip-sketch", cls=ApiOption, is_flag=True)
@click.option("--no-erase", is_flag=True, help="leave out the chip erase")
@click.option("--keep-rest", cls=ApiOption, is_flag=True)
@_UNLOCK
@click.option("--clones", cls=ApiOption, type=OneOf(_policies))
@click.option("--force-fuses", cls=ApiOption, is_flag=True)
@click.option("--yes", cls=ApiOption, field="accept_fuses", is_flag=True)
@_WAIT
@click.pass_obj
def enqueue(settings: Settings, /, images: tuple[Path, ...], wait: bool, **options: Any) -> int:
    """Call ``job.enqueue``."""
    params = _enqueue_params(images, options)
    return _create(settings, lambda client: _enqueue(client, params), wait=wait)


@api_verb("slot.rescue", "events.subscribe", "job.get", "unit.list")
@click.argument("slot")
@_IMAGES
@click.option("--unit", cls=ApiOption, type=click.IntRange(min=1), metavar="ID")
@_UNLOCK
@_WAIT
@click.pass_obj
def rescue(settings: Settings, /, slot: str, images: tuple[Path, ...], wait: bool, **options: Any) -> int:
    """Call ``slot.rescue``."""
    files = [attach_image(image) for image in images] or None
    options["unlock"] = options["unlock"] or None  # as below
    return _create(settings, lambda client: client.call("slot.rescue", name=slot, images=files, **options), wait=wait)


def _create(settings: Settings, ask: Callable[[Client], dict[str, Any]], *, wait: bool) -> int:
    """Create a job, show it and, where asked to, follow it to its end; return the exit code."""
    client = settings.connect()
    if wait:
        client.call("events.subscribe")
    job = ask(client)
    if settings.json:
        print_json_line(job)
    else:
        put(show_job(job))
    if not wait:
        client.close()
        return 0
    follower = _follower(settings, job["id"], print_json_line if settings.json else _tell, None)
    ended = follower.run(client, is_subscribed=True)
    exit_code = _conclude(settings, ended)
    if settings.json:
        print_json_line(ended)
    return exit_code


def _enqueue_params(images: tuple[Path, ...], options: dict[str, Any]) -> dict[str, Any]:
    slots = options["slots"]
    files = {name: options[name] for name in ("eeprom", "keyboard")}
    if slots is not None and not all(name.strip() for name in slots.split(",")):
        raise click.BadParameter("names separated by commas, for example A1,A2", param_hint="--slots")
    return {
        "images": [attach_image(image) for image in images],
        "recipe": None if options["recipe"] is None else attach_recipe(options["recipe"]),
        **{name: None if path is None else attach_image(path) for name, path in files.items()},
        **{name: options[name] for name in ("part", "count", "bootloader", "lfuse", "hfuse", "efuse", "lock")},
        "plan": _plan(options),
        "sck_hz": options["sck"],
        "option_bytes": option_bytes(options["option_byte"]),
        **{name: options[name] for name in ("verify", "strip_sketch", "clones")},
        # a daemon from before these does without them, as long as nobody asks for them
        **{name: options[name] or None for name in ("keep_rest", "unlock")},
        "slots": None if slots is None else [name.strip() for name in slots.split(",")],
        "erase": not options["no_erase"],
        "force_fuses": options["force_fuses"],
        "accept_fuses": options["yes"],
    }


def _plan(options: dict[str, Any]) -> str | None:
    """Return the plan, however it was named; naming two is a mistake that no order of the words may decide."""
    named = {options["plan"], "chained" if options["chain"] else None, "chain-only" if options["chain_only"] else None}
    plans = sorted(named - {None})
    if len(plans) > 1:
        raise click.UsageError(f"{' and '.join(plans)} are two plans: name one")
    return plans[0] if plans else None


def _enqueue(client: Client, params: dict[str, Any]) -> dict[str, Any]:
    """Create the job; what the fuse guard asks is put to the person at the terminal, if there is one."""
    try:
        job: dict[str, Any] = client.call("job.enqueue", **params)
    except RpcError as error:
        if error.code != "fuse-confirm" or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        for question in error.message.split("; "):
            click.echo(question, err=True)
        if not click.confirm("Write it all the same?", default=False, err=True):
            raise
        job = client.call("job.enqueue", **{**params, "accept_fuses": True})
    return job


def _follower(
    settings: Settings, job: int, tell: Callable[[dict[str, Any]], object], timeout_s: float | None
) -> "Follower":
    from ispctl.follow import Follower  # only for waiting: keeps the quick verbs quick

    return Follower(settings.socket, job, tell, timeout_s=timeout_s)


def _conclude(settings: Settings, job: dict[str, Any]) -> int:
    """Show how a job has ended, to people; return the exit code it deserves."""
    from ispctl.follow import exit_of, units_of

    with settings.connect() as client:
        units = units_of(client, job["id"])
    if not settings.json:
        put(show_job(job))
        if units:
            put(show_units(units))
        for unit in units:
            for line in failure_lines(unit["failure"]):
                put(f"{unit['slot']}: {line}")
            for warning in unit["warnings"]:
                if warning not in job["warnings"]:
                    put(f"{unit['slot']}: warning: {printable(warning)}")
    return int(exit_of(job, units))


def _tell(event: dict[str, Any]) -> None:
    unit = event["unit"]
    if unit is not None and unit["verdict"] is not None:
        put(f"{unit['slot']}: {verdict_text(unit)}")


def _quiet(_event: dict[str, Any]) -> None:
    """Tell nothing: with --json the result is one document."""


@click.command(cls=Verb, methods=("job.get", "events.subscribe", "unit.list"))
@_JOB
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="give up after so many seconds")
@click.pass_obj
def wait(settings: Settings, job: int, timeout: float | None) -> int:
    """Wait until a job has ended; the exit code tells how it went."""
    ended = _follower(settings, job, _quiet if settings.json else _tell, timeout).run(settings.connect())
    exit_code = _conclude(settings, ended)
    if settings.json:
        settings.show(ended, show_job)
    return exit_code


_LIMIT = click.option("--limit", cls=ApiOption, type=click.IntRange(1, 1000), metavar="N")


@api_verb("job.list")
@_LIMIT
@click.pass_obj
def jobs(settings: Settings, limit: int | None) -> None:
    """Call ``job.list``."""
    with settings.connect() as client:
        settings.show(client.call("job.list", limit=limit), show_jobs)


@api_verb("unit.list")
@click.option("--job", cls=ApiOption, type=click.IntRange(min=1), metavar="N")
@_LIMIT
@click.pass_obj
def units(settings: Settings, job: int | None, limit: int | None) -> None:
    """Call ``unit.list``."""
    with settings.connect() as client:
        settings.show(client.call("unit.list", job=job, limit=limit), show_units)


@api_verb("unit.get")
@click.argument("unit", type=click.IntRange(min=1), metavar="ID")
@click.pass_obj
def unit(settings: Settings, unit: int) -> None:
    """Call ``unit.get``."""
    with settings.connect() as client:
        settings.show(client.call("unit.get", id=unit), show_unit)


def _steering(name: str, method: str) -> click.Command:
    """Return a verb that takes a job's number and answers the job."""

    @click.pass_obj
    def run(settings: Settings, job: int) -> None:
        with settings.connect() as client:
            settings.show(client.call(method, id=job), show_job)

    return _JOB(api_verb(method, name=name)(run))


QUEUE_VERBS = (
    enqueue,
    rescue,
    jobs,
    _steering("job", "job.get"),
    _steering("cancel", "job.cancel"),
    _steering("pause", "job.pause"),
    _steering("resume", "job.resume"),
    wait,
    units,
    unit,
)
