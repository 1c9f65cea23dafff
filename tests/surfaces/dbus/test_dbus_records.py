"""Records within a request: option bytes over D-Bus are what they are over the socket."""

from typing import Any

import pytest
from dbus_fast import Variant
from tests.surfaces.dbus.bed import connected, fails_with, needs_bus, served

from ispd.api.handlers import job as job_handlers
from ispd.catalog.options import RecipeOptions
from ispd.errors import ErrorCode
from ispd.model.image import Image
from ispd.model.part import MemoryKind
from ispd.model.recipe import ClonePolicy, Recipe

pytestmark = [needs_bus, pytest.mark.anyio]


async def test_option_bytes_arrive_whatever_whole_numbers_they_are(bus, monkeypatch: pytest.MonkeyPatch):
    asked: list[RecipeOptions] = []

    def note(options: RecipeOptions, *_: object) -> Recipe:
        asked.append(options)
        return Recipe(flash=Image.of([]))

    monkeypatch.setattr(job_handlers, "build_recipe", note)
    named = {"user": Variant("y", 0xFB), "wrp0": Variant("x", 0), "data1": Variant("u", 7)}
    options = {
        "option_bytes": Variant("a{sv}", named),
        "keep_rest": Variant("b", True),
        "unlock": Variant("b", True),
        "clones": Variant("s", "reject"),
    }
    async with served(), connected() as client:
        await client.call("JobEnqueue", "a{sv}", options)
        await client.call("JobEnqueue", "a{sv}", {"option_bytes": Variant("a{sy}", {"data0": 1})})
    first, second = asked
    assert first.option_bytes == {MemoryKind.USER: 0xFB, MemoryKind.WRP0: 0, MemoryKind.DATA1: 7}
    assert (first.keeps_rest, first.unlock, first.clones) == (True, True, ClonePolicy.REJECT)
    assert second.option_bytes == {MemoryKind.DATA0: 1}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Variant("a{sv}", {"user": Variant("x", 256)}), "option_bytes.user"),
        (Variant("a{sv}", {"user": Variant("s", "0xFB")}), "option_bytes.user"),
        (Variant("a{sv}", {"user": Variant("a{sv}", {})}), "option_bytes.user"),
        (Variant("a{sv}", {"rdp": Variant("y", 0xA5)}), "option_bytes.rdp"),
        (Variant("ay", b"\xa5\xff"), "option_bytes"),
        (Variant("av", []), "option_bytes"),
    ],
)
async def test_option_bytes_that_are_none_are_refused_by_name(bus, value: Any, named: str):
    async with served() as station, connected() as client:
        call = client.call("JobEnqueue", "a{sv}", {"option_bytes": value})
        assert (await fails_with(ErrorCode.INVALID_PARAMETER, call)).startswith(f"{named}: ")
        assert not station.jobs_by_id
