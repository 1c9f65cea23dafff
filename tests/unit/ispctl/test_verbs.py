"""The verbs as a whole: all there, all described, and together covering the API."""

import click
import pytest
from click.testing import CliRunner

from ispctl.__main__ import cli
from ispctl.verb import ApiOption, Verb
from ispd.api.methods import METHODS

VERBS = [
    "enqueue",
    "rescue",
    "jobs",
    "job",
    "cancel",
    "pause",
    "resume",
    "wait",
    "units",
    "unit",
    "slots",
    "slot",
    "programmers",
    "watch",
    "probe",
    "read",
    "parts",
    "bootloaders",
    "fuses",
    "inspect",
    "merge",
    "doctor",
]
NOT_FOR_PEOPLE = {"rpc.discover", "events.unsubscribe"}
ASKED_BY_DOCTOR = {"station.get"}
ENQUEUE_OPTIONS = [
    "--part",
    "--slots",
    "--count",
    "--recipe",
    "--bootloader",
    "--keyboard",
    "--plan",
    "--chain",
    "--chain-only",
    "--lfuse",
    "--hfuse",
    "--efuse",
    "--lock",
    "--option-byte",
    "--eeprom",
    "--sck",
    "--verify",
    "--strip-sketch",
    "--no-erase",
    "--keep-rest",
    "--unlock",
    "--clones",
    "--force-fuses",
    "--yes",
    "--wait",
]


def verb(name: str) -> Verb:
    found = cli.commands[name]
    assert isinstance(found, Verb)
    return found


def test_the_verbs_are_exactly_these():
    assert sorted(cli.commands) == sorted(VERBS)


def test_the_options_of_enqueue_are_exactly_these():
    options = [option for parameter in verb("enqueue").params for option in parameter.opts if option.startswith("-")]
    assert options == ENQUEUE_OPTIONS


def test_every_method_can_be_reached_from_the_command_line():
    used = {method for name in VERBS for method in verb(name).methods}
    assert used | NOT_FOR_PEOPLE | ASKED_BY_DOCTOR == METHODS.keys()


@pytest.mark.parametrize("name", VERBS)
def test_help_comes_from_the_declaration(name: str):
    shown = CliRunner().invoke(cli, [name, "--help"]).output
    flat = " ".join(shown.split())
    command = verb(name)
    if command.methods and name not in ("wait", "watch", "slot"):  # these do more than their method
        assert METHODS[command.methods[0]].summary in flat
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help
        if isinstance(option, ApiOption):
            assert option.field in METHODS[command.methods[0]].params.__struct_fields__
    assert "Call ``" not in shown
