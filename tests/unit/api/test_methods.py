"""The API's declaration: complete, described, and changed only in the open."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ispd.api.declare import Method, Params, Privilege
from ispd.api.failures import FAILURES, Exit, exit_for, is_refusal
from ispd.api.handlers import load_handlers
from ispd.api.methods import METHODS
from ispd.api.spec import openrpc
from ispd.errors import ErrorCode

GOLDEN = Path(__file__).parents[2] / "golden" / "openrpc.json"

INTERFACE = [
    "job.enqueue",
    "job.list",
    "job.get",
    "job.cancel",
    "job.pause",
    "job.resume",
    "unit.list",
    "unit.get",
    "slot.list",
    "slot.get",
    "slot.set",
    "slot.probe",
    "slot.read",
    "slot.learn",
    "slot.rescue",
    "programmer.list",
    "part.list",
    "part.get",
    "bootloader.list",
    "image.inspect",
    "image.merge",
    "station.get",
    "events.subscribe",
    "events.unsubscribe",
    "rpc.discover",
]


def test_the_public_interface_is_exactly_this():
    assert list(METHODS) == INTERFACE


def test_each_method_has_one_handler():
    handlers = load_handlers()
    assert handlers.keys() == METHODS.keys()
    assert all(handler.method is METHODS[name] for name, handler in handlers.items())


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_method_without_handler_or_a_handler_without_method_stops_the_start(change: str):
    methods: dict[str, Method[Any, Any]] = dict(METHODS)
    if change == "missing":
        methods["job.burn"] = METHODS["job.list"]
    else:
        del methods["job.list"]
    with pytest.raises(LookupError, match=r"job\.(burn|list)"):
        load_handlers(methods)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_every_method_and_field_is_described(method: Method[Any, Any]):
    assert method.summary.endswith(".")
    assert method.result_text
    assert all(method.field_descriptions().values()), method.field_descriptions()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_unknown_parameters_are_refused_everywhere(method: Method[Any, Any]):
    with pytest.raises(msgspec.ValidationError, match=r"unknown field `surprise`|missing required field"):
        msgspec.convert({"surprise": 1}, method.params)
    assert issubclass(method.params, Params)


def test_only_looking_needs_no_more_than_view():
    changing = {name for name, method in METHODS.items() if method.privilege is not Privilege.VIEW}
    steering = {"job.enqueue", "job.cancel", "job.pause", "job.resume"}
    assert changing == steering | {"slot.set", "slot.probe", "slot.read", "slot.learn", "slot.rescue"}


def test_every_error_code_has_one_number_of_its_own():
    assert FAILURES.keys() == set(ErrorCode)
    numbers = [failure.rpc for failure in FAILURES.values()]
    assert len(set(numbers)) == len(numbers)
    reserved = {failure.rpc for failure in FAILURES.values() if -32768 <= failure.rpc <= -32000}
    assert reserved == {-32700, -32600, -32601, -32602, -32603}


@pytest.mark.parametrize(
    "code", [code for code in ErrorCode if code.startswith(("image-", "fuse-r", "fuse-c", "recipe-"))]
)
def test_refused_input_is_exit_code_2(code: ErrorCode):
    assert exit_for(code) is Exit.REFUSED
    assert is_refusal(code)


def test_a_code_this_client_does_not_know_counts_as_failure():
    assert exit_for("from-a-later-version") is Exit.FAILED
    assert not is_refusal("verify-mismatch")


def test_the_description_is_what_it_was():
    """An API change shows as a diff of the golden file, made anew by scripts or by hand on purpose."""
    assert json.loads(json.dumps(openrpc())) == json.loads(GOLDEN.read_text())


def test_all_references_of_the_description_resolve():
    document = openrpc()

    def references(value: object) -> list[str]:
        match value:
            case Mapping():
                own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
                return own + [found for child in value.values() for found in references(child)]
            case list() | tuple():
                return [found for child in value for found in references(child)]
            case _:
                return []

    found = set(references(document))
    assert found
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
