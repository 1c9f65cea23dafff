"""Content comes as bytes: no parameter of any method is a path, and no name that a client sends is opened."""

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import msgspec.inspect as types
import pytest
from tests.surfaces.fake_station import FakeStation, anybody
from tests.surfaces.test_access import REQUESTS, Session

from ispd.api.call import Call, Peer
from ispd.api.handlers import load_handlers
from ispd.api.methods import METHODS
from ispd.surfaces.jsonrpc.dispatch import Dispatcher

TEXTS = {
    "part": "a word of the catalog; the pattern has no slash",
    "id": "likewise",
    "slots[]": "compared with the names of slots",
    "name": "compared with the names of slots",
    "bootloader": "a word of the catalog",
    "images[].name": "shown, and its ending looked at; the pattern has no slash",
    "image.name": "likewise",
    "eeprom.name": "likewise",
    "keyboard.name": "likewise",
    "recipe.name": "likewise",
    "recipe.files[].name": "compared with what the recipe names",
}
"""Every parameter that is text, and what becomes of it. A new one is entered here when it is known not to be opened."""


def texts(kind: types.Type, path: str) -> Iterator[str]:
    """Yield the places of a type that hold text, and fail on whatever is neither text, number nor bytes."""
    match kind:
        case types.Metadata(type=inner):
            yield from texts(inner, path)
        case types.UnionType(types=kinds):
            for inner in kinds:
                yield from texts(inner, path)
        case types.ListType(item_type=inner):
            yield from texts(inner, f"{path}[]")
        case types.StructType(fields=fields):
            for field in fields:
                yield from texts(field.type, f"{path}.{field.name}".lstrip("."))
        case types.StrType():
            yield path
        case types.IntType() | types.BoolType() | types.BytesType() | types.NoneType():
            pass
        case types.EnumType() | types.LiteralType():
            pass
        case _:
            raise AssertionError(f"{path} is a {kind}: may it be a path?")


def test_no_parameter_is_a_path():
    found = {text for method in METHODS.values() for text in texts(types.type_info(method.params), "")}
    assert found == TEXTS.keys()


class Opened:
    """Notes whatever this process opens, lists, links or runs, while it is on."""

    names: list[str]

    def __init__(self) -> None:
        self.names = []
        self.is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and event.partition(".")[0] in ("open", "os", "subprocess", "shutil", "glob", "sqlite3"):
            self.names.append(repr(arguments))


_OPENED = Opened()
sys.addaudithook(_OPENED)


@contextmanager
def noticing() -> Iterator[Opened]:
    _OPENED.names.clear()
    _OPENED.is_on = True
    try:
        yield _OPENED
    finally:
        _OPENED.is_on = False


def test_opening_is_noticed(tmp_path: Path):
    (tmp_path / "canary.hex").touch()
    with noticing() as opened:
        (tmp_path / "canary.hex").read_bytes()
    assert any("canary" in name for name in opened.names)


def with_texts(value: object, text: str, keep: frozenset[str] = frozenset({"content", "action", "memory"})) -> object:
    """Return a request's parameters with every text replaced."""
    match value:
        case dict():
            return {name: one if name in keep else with_texts(one, text) for name, one in value.items()}
        case list():
            return [with_texts(one, text) for one in value]
        case str():
            return text
        case _:
            return value


RECIPE = b'part = "atmega32u4"\n[[image]]\nfile = "%b"\n'
FULL: dict[str, dict[str, Any]] = REQUESTS | {
    "job.enqueue": {
        "images": [{"name": "x", "content": "DJQBAA=="}],
        "keyboard": {"name": "x", "content": base64.b64encode(b'{"processor": "atmega32u4"}').decode()},
        "eeprom": {"name": "x", "content": "AAAA"},
        "slots": ["x"],
        "bootloader": "x",
    }
}


@pytest.mark.anyio
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["{}", "file://{}", "../../../../../..{}", "@{}", "|cat {}", "~{}", "{}\\u0000.hex"])
async def test_no_name_that_is_sent_is_opened(tmp_path: Path, method: str, form: str):
    canary = tmp_path / "canary.hex"
    canary.write_text(":00000001FF\n")
    text = form.format(canary)
    with noticing() as opened:
        await ask(method, with_texts(FULL[method], text))
        await ask(method, with_texts(FULL[method], Path(text).name))
    assert not [name for name in opened.names if "canary" in name]


@pytest.mark.anyio
async def test_a_file_that_only_the_recipe_names_is_not_looked_for(tmp_path: Path):
    canary = tmp_path / "canary.hex"
    canary.write_text(":00000001FF\n")
    content = base64.b64encode(RECIPE % str(canary).encode()).decode()
    with noticing() as opened:
        answer = await ask("job.enqueue", {"recipe": {"name": "r.toml", "content": content, "files": []}})
        assert answer["error"]["data"]["code"] == "recipe-invalid"
        named = {"name": str(canary), "content": "DJQBAA=="}
        answer = await ask("job.enqueue", {"recipe": {"name": "r.toml", "content": content, "files": [named]}})
    assert not [name for name in opened.names if "canary" in name]


async def ask(method: str, params: object) -> dict[str, Any]:
    call = Call(
        station=FakeStation(),
        session=Session(),
        peer=Peer(uid=0),
        allows=anybody,
        workers=anyio.CapacityLimiter(1),
    )
    message = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    answer = await Dispatcher(load_handlers()).answer(message, call, anyio.Semaphore(1))
    assert answer is not None
    decoded: dict[str, Any] = msgspec.json.decode(answer)
    return decoded
