"""``ispd``: start the daemon."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import click
import structlog

from ispd.app import run_daemon
from ispd.config import load_config
from ispd.errors import IspdError

__all__ = ["main"]

_LEVELS = ("debug", "info", "warning", "error")
_SWITCH_S = 0.5e-3
"""Longest turn of one thread while others wait. Python's own 5 ms add up where many devices are opened by a thread each: the
event loop would need a tenth of a second for each plug that it hears of."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="Configuration file (default /etc/ispd/ispd.toml)."
)
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True, help="Least level logged.")
@click.version_option(package_name="ispd")
def main(config_path: Path | None, log_level: str) -> None:
    """Flash every board on every programmer of this workstation.

    Runs in the foreground until SIGTERM; jobs come in over the socket, from `ispctl`.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.setswitchinterval(_SWITCH_S)
    errors: list[IspdError] = []
    try:
        anyio.run(run_daemon, load_config(config_path))
    except* IspdError as group:
        errors = [error for error in _leaves(group) if isinstance(error, IspdError)]
    for message, hint in dict.fromkeys((error.message, error.hint) for error in errors):
        click.echo(f"ispd: {message}", err=True)
        if hint:
            click.echo(f"      {hint}", err=True)
    if errors:
        sys.exit(1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of a group of groups: slots that fail together fail in one."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


if __name__ == "__main__":
    main()
