"""Files given to the command: only bytes of regular files leave this machine, and nothing waits, fills up or is overwritten."""

import base64
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ispctl.errors import RefusedFileError
from ispctl.files import attach, attach_image, attach_recipe, write_output

READERS: list[Callable[[Path], object]] = [attach, attach_image, attach_recipe]
READER_NAMES = ["keyboard", "image", "recipe"]


def content(attached: dict[str, str]) -> bytes:
    return base64.b64decode(attached["content"])


@pytest.fixture(params=["directory", "pipe", "full pipe", "socket", "zero", "tty", "link to pipe", "loop", "dangling"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return the path of something that is no file."""
    path = tmp_path / "image.hex"
    with ExitStack() as held:
        make(request.param, path, held)
        yield path


def make(kind: str, path: Path, held: ExitStack) -> None:
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "full pipe":
            os.mkfifo(path)
            writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.write(writer, b":00000001FF\n")
            held.callback(os.close, writer)
        case "socket":
            held.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        case "zero":
            path.symlink_to("/dev/zero")
        case "tty":
            master, slave = os.openpty()
            path.symlink_to(os.ttyname(slave))
            held.callback(os.close, master)
            held.callback(os.close, slave)
        case "link to pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to("pipe")
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere")


@pytest.mark.parametrize("read", READERS, ids=READER_NAMES)
def test_what_is_no_file_is_not_even_opened(
    special: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
):
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    with pytest.raises(RefusedFileError) as refused:
        read(special)
    assert special.name in refused.value.message
    assert not opened


def test_what_takes_the_place_of_a_file_between_looking_and_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "image.hex"
    path.write_text(":00000001FF\n")
    really_open = os.open

    def exchange(name: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return really_open(name, flags)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(RefusedFileError, match="a pipe"):
        attach(path)


@pytest.mark.parametrize("read", READERS, ids=READER_NAMES)
def test_a_huge_file_costs_no_memory(tmp_path: Path, read: Callable[[Path], object]):
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole of a tebibyte
    with pytest.raises(RefusedFileError, match="1099511627776 bytes, more than"):
        read(path)


@pytest.mark.parametrize("name", ["bad\x00name.hex", "x" * 300, "\udcff.hex"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str):
    with pytest.raises(RefusedFileError):
        attach(tmp_path / name)


def test_a_link_to_a_file_is_that_file(tmp_path: Path):
    (tmp_path / "build.hex").write_bytes(b":00000001FF\n")
    (tmp_path / "latest.hex").symlink_to("build.hex")
    assert content(attach(tmp_path / "latest.hex")) == b":00000001FF\n"


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 60_000, "a." * 30_000 + "a = 1", "#" * 900_000, "\ufffe", "a = {b = " * 10_000],
    ids=["nested", "dotted", "long", "odd", "tables"],
)
def test_a_recipe_made_to_hurt_its_reader_is_left_to_the_daemon(tmp_path: Path, text: str):
    path = tmp_path / "r.toml"
    path.write_text(text)
    began = time.process_time()
    assert attach_recipe(path)["files"] == []
    assert time.process_time() - began < 1  # reading the dotted one would take 14 seconds


def test_a_recipe_may_not_name_files_without_end(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text("".join(f'[[image]]\nfile = "{number}.bin"\n' for number in range(17)))
    with pytest.raises(RefusedFileError, match="names 17 files"):
        attach_recipe(path)


def test_a_recipe_that_names_a_device_is_refused(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text('[[image]]\nfile = "/dev/zero"\n')
    with pytest.raises(RefusedFileError, match="a device"):
        attach_recipe(path)


def test_a_link_planted_where_the_draft_goes_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".dump.hex.{os.getpid()}").symlink_to(victim)
    write_output(tmp_path / "dump.hex", b"new")
    assert (tmp_path / "dump.hex").read_bytes() == b"new"
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump.hex", "victim"]


def test_a_result_never_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path):
    pipe, link = tmp_path / "pipe.hex", tmp_path / "null.hex"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path, kind in ((pipe, "a pipe"), (link, "a device"), (tmp_path, "a directory")):
        with pytest.raises(RefusedFileError, match=f"can not be written: it is {kind}"):
            write_output(path, b"new")
    assert pipe.is_fifo()
    assert link.is_symlink()
