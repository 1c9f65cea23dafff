"""Files that callers pass as descriptors over D-Bus, and what else they may pass instead."""

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from dbus_fast import Variant
from tests.surfaces.dbus import bed
from tests.surfaces.dbus.bed import connected, fails_with, file_argument, needs_bus, served

from ispd.catalog.imagefile import MAX_FILE_BYTES
from ispd.errors import ErrorCode, RefusedError
from ispd.surfaces.dbus.attachments import Reader

pytestmark = [needs_bus, pytest.mark.anyio]

HEX = b":0400000001020304F2\n:00000001FF\n"


async def test_an_image_comes_as_a_descriptor_and_none_is_left_open(bus, tmp_path: Path):
    (tmp_path / "board.hex").write_bytes(HEX)
    async with served() as station, connected() as client:
        before = bed.open_descriptors()
        for number in range(1, 4):
            with (tmp_path / "board.hex").open("rb") as image:
                image.read()  # where the caller stands in its file does not matter
                job = await client.call(
                    "JobEnqueue",
                    "a{sv}",
                    {
                        "images": Variant("aa{sv}", [file_argument("board.hex")]),
                        "part": Variant("s", "atmega32u4"),
                        "slots": Variant("as", ["A1"]),
                    },
                    fds=(image.fileno(),),
                )
            assert (job["id"], job["slots"], job["part"]) == (number, ["A1"], "atmega32u4")
        assert station.recipes[1].sources[0].name == "board.hex"
        assert bed.open_descriptors() == before


async def test_a_pipe_is_read_to_its_end(bus):
    async with served(), connected() as client:
        reader, writer = os.pipe()
        os.write(writer, HEX)
        os.close(writer)
        try:
            report = await client.call("ImageInspect", "a{sv}a{sv}", file_argument("a.hex"), {}, fds=(reader,))
        finally:
            os.close(reader)
        assert report["name"] == "a.hex"


def no_file(folder: Path) -> int:
    return os.open("/dev/zero", os.O_RDONLY)


def a_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY)


def a_path_only(folder: Path) -> int:
    (folder / "x").write_bytes(HEX)
    return os.open(folder / "x", os.O_PATH)


def for_writing(folder: Path) -> int:
    return os.open(folder / "w", os.O_WRONLY | os.O_CREAT)


def endless(folder: Path) -> int:
    fd = os.open(folder / "sparse", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 1 << 40)
    return fd


def one_byte_too_many(folder: Path) -> int:
    (folder / "big").write_bytes(bytes(MAX_FILE_BYTES + 1))
    return os.open(folder / "big", os.O_RDONLY)


@pytest.mark.parametrize(
    ("opened", "code"),
    [
        (no_file, ErrorCode.INVALID_PARAMETER),
        (a_folder, ErrorCode.INVALID_PARAMETER),
        (a_path_only, ErrorCode.INVALID_PARAMETER),
        (for_writing, ErrorCode.INVALID_PARAMETER),
        (endless, ErrorCode.IMAGE_TOO_LARGE),
        (one_byte_too_many, ErrorCode.IMAGE_TOO_LARGE),
    ],
)
async def test_descriptors_that_are_no_image_do_no_harm(
    bus, tmp_path: Path, opened: Callable[[Path], int], code: ErrorCode
):
    fd = opened(tmp_path)
    try:
        async with served(), connected() as client:
            before = bed.open_descriptors()
            for _ in range(2):
                await fails_with(code, client.call("ImageInspect", "a{sv}a{sv}", file_argument("a.hex"), {}, fds=(fd,)))
            assert bed.open_descriptors() == before
    finally:
        os.close(fd)


async def test_neither_a_path_nor_base64_is_taken_for_a_file(bus, tmp_path: Path):
    (tmp_path / "a.hex").write_bytes(HEX)
    async with served(), connected() as client:
        for text in (str(tmp_path / "a.hex"), "AAAA"):
            image = {"name": Variant("s", "a.hex"), "content": Variant("s", text)}
            assert "descriptor" in await fails_with(
                ErrorCode.INVALID_PARAMETER, client.call("ImageInspect", "a{sv}a{sv}", image, {})
            )


async def test_descriptors_where_none_belong_are_closed(bus, tmp_path: Path):
    with (tmp_path / "f").open("wb+") as file:
        fds = (file.fileno(), file.fileno(), file.fileno())
        async with served(), connected() as client:
            before = bed.open_descriptors()
            deep = Variant("a(sv)", [["x", Variant("ah", [0, 1])], ["y", Variant("a{hs}", {2: "z"})]])
            await fails_with(ErrorCode.INVALID_PARAMETER, client.call("JobList", "a{sv}", {"limit": deep}, fds=fds))
            await fails_with(
                ErrorCode.INVALID_PARAMETER,
                client.call("ImageInspect", "a{sv}a{sv}", {"content": deep}, {"image": Variant("h", 0)}, fds=fds),
            )
            assert bed.open_descriptors() == before


async def test_a_request_of_very_many_values_is_refused_while_others_are_served(bus, tmp_path: Path):
    with (tmp_path / "f").open("wb+") as file:
        async with served(), connected() as client, connected() as other:
            before = bed.open_descriptors()
            many = Variant("a(bv)", [[True, Variant("h", 0)], *([[True, Variant("y", 1)]] * 200_000)])
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    call = client.call("JobList", "a{sv}", {"limit": many}, fds=(file.fileno(),))
                    await fails_with(ErrorCode.INVALID_REQUEST, call)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(send)
                while True:
                    assert (await other.call("StationGet"))["slots"] == 2
                    await anyio.sleep(0.01)
            assert bed.open_descriptors() == before


async def test_a_pipe_that_does_not_end_costs_its_time_and_a_place_no_more():
    reader = Reader(patience_s=0.2)
    pipes = [os.pipe() for _ in range(10)]
    refused: list[str] = []

    async def read(fd: int) -> None:
        with pytest.raises(RefusedError) as caught:
            await reader.read(fd)
        refused.append(caught.value.message)

    before = bed.open_descriptors()
    async with anyio.create_task_group() as tasks:
        for end, _ in pipes:
            tasks.start_soon(read, os.dup(end))
    assert (
        sorted(refused)
        == ["the file did not end within 0.2 seconds"] * 8 + ["too many files are being read at once"] * 2
    )
    assert bed.open_descriptors() == before
    end, entrance = pipes[0]
    os.write(entrance, b"x")
    os.close(entrance)
    assert await reader.read(end) == b"x"
    for fd in (fd for pipe in pipes[1:] for fd in pipe):
        os.close(fd)
