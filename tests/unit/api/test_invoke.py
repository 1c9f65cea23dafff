"""What a client gets to see of a call that goes wrong, on whatever surface."""

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from anyio import CapacityLimiter
from structlog.testing import capture_logs
from tests.surfaces.fake_station import FakeStation, anybody

from ispd.api.call import Call, Peer
from ispd.api.declare import Privilege
from ispd.api.handlers import load_handlers
from ispd.api.invoke import invoke
from ispd.errors import ErrorCode, IspdError
from ispd.model.part import MemoryKind

pytestmark = pytest.mark.anyio

HANDLERS = load_handlers()
FILE = {"name": "board.bin", "content": "DJQBAAyUAQA="}


class NoSession:
    def subscribe(self) -> int:
        return 0

    def unsubscribe(self) -> None:
        pass


def call_to(station: FakeStation) -> Call:
    return Call(
        station=station,
        session=NoSession(),
        peer=Peer(uid=1000),
        allows=anybody,
        workers=CapacityLimiter(1),
    )


async def refused(name: str, params: dict[str, Any], call: Call | None = None) -> IspdError:
    with pytest.raises(IspdError) as caught:
        await invoke(HANDLERS[name], params, call or call_to(FakeStation()))
    return caught.value


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("job.get", {}, "id"),
        ("job.get", {"id": "1"}, "id"),
        ("job.get", {"id": True}, "id"),
        ("job.get", {"id": 0}, "id"),
        ("job.get", {"id": 1 << 64}, "id"),
        ("job.get", {"id": 1, "x": 2}, "x"),
        ("job.list", {"limit": 100000}, "limit"),
        ("slot.set", {"name": "A1", "action": "burn"}, "action"),
        ("slot.read", {"name": "A1", "memory": "fuses"}, "memory"),
        ("job.enqueue", {"images": [FILE], "lfuse": 256}, "lfuse"),
        ("job.enqueue", {"images": [FILE], "lfuse": -1}, "lfuse"),
        ("job.enqueue", {"images": [FILE], "count": 0}, "count"),
        ("job.enqueue", {"images": [FILE], "slots": []}, "slots"),
        ("job.enqueue", {"images": [FILE], "erase": "no"}, "erase"),
        ("job.enqueue", {"images": [FILE] * 17}, "images"),
        ("job.enqueue", {"images": [FILE, {"name": "b"}]}, "images[1].content"),
        ("job.enqueue", {"images": [{"name": "b", "content": "not base64"}]}, "images[0].content"),
        ("job.enqueue", {"images": [{"name": "../etc/passwd", "content": ""}]}, "images[0].name"),
        ("job.enqueue", {"images": [{"name": "a\nb", "content": ""}]}, "images[0].name"),
        ("job.enqueue", {"images": [{**FILE, "path": "/etc/passwd"}]}, "images[0].path"),
        ("image.merge", {"images": [FILE]}, "images"),
        ("job.enqueue", {"option_bytes": {"user": 256}}, "option_bytes.user"),
        ("job.enqueue", {"option_bytes": {"wrp3": -1}}, "option_bytes.wrp3"),
        ("job.enqueue", {"option_bytes": {"data0": "0xFF"}}, "option_bytes.data0"),
        ("job.enqueue", {"option_bytes": {"data1": True}}, "option_bytes.data1"),
        ("job.enqueue", {"option_bytes": {"rdp": 0xA5}}, "option_bytes.rdp"),
        ("job.enqueue", {"option_bytes": {"lfuse": 0xFF}}, "option_bytes.lfuse"),
        ("job.enqueue", {"option_bytes": [0xFF]}, "option_bytes"),
        ("job.enqueue", {"keep_rest": 1}, "keep_rest"),
        ("job.enqueue", {"unlock": "yes"}, "unlock"),
        ("job.enqueue", {"clones": "burn"}, "clones"),
        ("slot.rescue", {"name": "A1", "unlock": 1}, "unlock"),
        ("part.get", {"id": "stm32f103xb", "option_bytes": {"user": 0x100}}, "option_bytes.user"),
    ],
)
async def test_a_wrong_parameter_is_named(name: str, params: dict[str, Any], field: str):
    error = await refused(name, params)
    assert (error.code, error.facts.field) == (ErrorCode.INVALID_PARAMETER, field)


async def test_a_long_name_is_not_thrown_back_whole():
    error = await refused("job.list", {"x" * 100_000: 1})
    assert len(error.message) < 300
    assert len(error.facts.field or "") < 200


async def test_an_unforeseen_exception_stays_in_the_log():
    station = FakeStation(explode=RuntimeError("password is hunter2"))
    with capture_logs() as logs:
        error = await refused("slot.list", {}, call_to(station))
    assert error.code is ErrorCode.INTERNAL
    assert "hunter2" not in error.message + error.hint
    [entry] = [entry for entry in logs if entry["event"] == "call failed"]
    assert entry["incident"] in error.message
    assert entry["method"] == "slot.list"
    assert entry["exc_info"] is station.explode


async def test_the_privilege_is_asked_before_anything_else():
    asked = []

    async def only_looking(peer: Peer, privilege: Privilege) -> bool:
        asked.append((peer.uid, privilege))
        return privilege is Privilege.VIEW

    station = FakeStation()
    call = replace(call_to(station), allows=only_looking)
    error = await refused("job.enqueue", {"nonsense": 1}, call)
    assert error.code is ErrorCode.NOT_ALLOWED
    assert asked == [(1000, Privilege.OPERATE)]
    assert not station.jobs_by_id
    assert await invoke(HANDLERS["job.list"], {}, call) == []


async def test_enqueue_hands_every_option_to_the_recipe():
    station = FakeStation()
    params = {
        "images": [FILE],
        "eeprom": {"name": "data.bin", "content": "AAEC"},
        "part": "ATmega32U4",
        "slots": ["A2"],
        "count": 7,
        "bootloader": "atmel-dfu-32u4",
        "lfuse": 0x5E,
        "lock": 0x3F,
        "accept_fuses": True,
        "erase": False,
    }
    await invoke(HANDLERS["job.enqueue"], params, call_to(station))
    recipe, job = station.recipes[1], station.jobs_by_id[1]
    assert (job.slots, job.count, recipe.part, recipe.bootloader) == (("A2",), 7, "atmega32u4", "atmel-dfu-32u4")
    assert (recipe.fuses[MemoryKind.LFUSE], recipe.lock, recipe.erase, recipe.accept_fuses) == (0x5E, 0x3F, False, True)
    assert recipe.eeprom is not None
    assert (len(recipe.flash), len(recipe.eeprom)) == (8, 3)
    assert [source.name for source in recipe.sources] == ["board.bin", "data.bin"]


def base64(content: bytes) -> str:
    return b64encode(content).decode()


RECIPE = b"""
part = "atmega32u4"
erase = false
lock = 0x2F
[fuses]
lfuse = 0x5E
[[image]]
file = "../fw/board.bin"
"""


def recipe(*files: tuple[str, bytes]) -> dict[str, Any]:
    attached = [{"name": name, "content": base64(content)} for name, content in files]
    return {"name": "board.toml", "content": base64(RECIPE), "files": attached}


async def test_a_recipe_brings_its_files_and_parameters_win_over_it():
    station = FakeStation()
    params = {"recipe": recipe(("../fw/board.bin", b"\x0c\x94\x01\x00")), "lfuse": 0xFF, "accept_fuses": True}
    await invoke(HANDLERS["job.enqueue"], params, call_to(station))
    made = station.recipes[1]
    assert (made.part, made.fuses[MemoryKind.LFUSE], made.lock, made.erase, len(made.flash)) == (
        "atmega32u4", 0xFF, 0x2F, False, 4,
    )  # fmt: skip
    assert [source.name for source in made.sources] == ["../fw/board.bin"]


async def test_a_recipe_without_its_files_is_refused():
    error = await refused("job.enqueue", {"recipe": recipe()})
    assert error.code is ErrorCode.RECIPE_INVALID
    assert "../fw/board.bin" in error.message


async def test_a_keyboard_names_part_and_bootloader_where_nothing_else_does():
    station = FakeStation()
    keyboard = {"name": "keyboard.json", "content": base64(b'{"processor": "atmega32u4", "bootloader": "atmel-dfu"}')}
    await invoke(HANDLERS["job.enqueue"], {"images": [FILE], "keyboard": keyboard}, call_to(station))
    params = {"images": [FILE], "keyboard": keyboard, "bootloader": "caterina-micro"}
    await invoke(HANDLERS["job.enqueue"], params, call_to(station))
    assert [(r.part, r.bootloader) for r in station.recipes.values()] == [
        ("atmega32u4", "atmel-dfu-32u4"),
        ("atmega32u4", "caterina-micro"),
    ]
