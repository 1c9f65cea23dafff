"""``ispd``: start the daemon."""

import logging
import sys
from pathlib import Path

import anyio
import click
import structlog

from ispd.app import run_daemon
from ispd.config import load_config
from ispd.errors import IspdError

__all__ = ["main"]

_LEVELS = ("debug", "info", "warning", "error")


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
    try:
        anyio.run(run_daemon, load_config(config_path))
    except IspdError as error:
        click.echo(f"ispd: {error.message}", err=True)
        if error.hint:
            click.echo(f"      {error.hint}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
