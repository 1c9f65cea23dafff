"""Entry point of ``ispctl``: runs a verb and turns what happens into an exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ispctl.catalog import CATALOG_VERBS
from ispctl.client import default_socket
from ispctl.errors import ClientError
from ispctl.queue import QUEUE_VERBS
from ispctl.station import STATION_VERBS
from ispctl.text import printable
from ispctl.verb import Settings

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", type=click.Path(path_type=Path, readable=False), metavar="PATH", help="the daemon's socket")
@click.option("--json", "as_json", is_flag=True, help="print the API's result as JSON")
@click.pass_context
def cli(context: click.Context, socket: Path | None, as_json: bool) -> None:
    """Flash every board on every programmer of this station.

    Exit codes: 0 done and every unit passed, 1 a unit failed, 2 wrong usage or refused input, 3 no daemon, 4 not
    allowed, 5 timed out.
    """
    context.obj = Settings(socket=socket or default_socket(), json=as_json)


for _verb in (*QUEUE_VERBS, *STATION_VERBS, *CATALOG_VERBS):
    cli.add_command(_verb)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``ispctl`` and end the process."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = cli.main(args=arguments, prog_name="ispctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ClientError as error:
        _complain(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as shells have it
    return result if isinstance(result, int) else 0


def _complain(error: ClientError) -> None:
    print(f"ispctl: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint)}", file=sys.stderr)


if __name__ == "__main__":
    main()
