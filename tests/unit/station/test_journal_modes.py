"""The records belong to the daemon: tight modes whatever the umask, and nothing that was planted in their place is used."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ispd.errors import ConfigError, ErrorCode, IspdError
from ispd.station.journal_file import JournalFile


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}


@pytest.mark.usefixtures("umask")
def test_modes_are_tight_whatever_the_umask(tmp_path: Path):
    folder = tmp_path / "new" / "state"
    file = JournalFile.open(folder / "journal.db")
    found = modes(folder)
    file.close()
    assert {"journal.db", "journal.db-wal", "journal.db.lock"} <= found.keys()
    assert set(found.values()) == {0o600}
    assert [stat.S_IMODE(place.stat().st_mode) for place in (folder, folder.parent)] == [0o700, 0o700]


def test_modes_that_were_loosened_are_mended(tmp_path: Path):
    path = tmp_path / "journal.db"
    JournalFile.open(path).close()
    for place in tmp_path.iterdir():
        place.chmod(0o666)
    JournalFile.open(path).close()
    assert set(modes(tmp_path).values()) == {0o600}


def test_a_folder_that_everybody_writes_into_is_refused(tmp_path: Path):
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="everybody may write") as refused:
        JournalFile.open(tmp_path / "journal.db")
    assert "chmod o-w" in refused.value.hint
    assert not list(tmp_path.iterdir())
    JournalFile.open(tmp_path / "own" / "journal.db").close()


@pytest.mark.parametrize(
    "name", ["journal.db", "journal.db.lock", "journal.db-wal", "journal.db-shm", "journal.db-journal"]
)
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_what_was_planted_is_neither_followed_nor_changed(tmp_path: Path, name: str, kind: str):
    victim, folder = tmp_path / "victim", tmp_path / "state"
    folder.mkdir(mode=0o700)
    victim.write_text("precious")
    victim.chmod(0o644)
    match kind:
        case "link":
            (folder / name).symlink_to(victim)
        case "dangling link":
            (folder / name).symlink_to(tmp_path / "new")
        case "pipe":
            os.mkfifo(folder / name)
        case "directory":
            (folder / name).mkdir()
    with pytest.raises(IspdError) as refused:
        JournalFile.open(folder / "journal.db")
    assert refused.value.code is ErrorCode.JOURNAL_FAILED
    assert "cannot be opened" in refused.value.message
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("precious", 0o644)
    assert not (tmp_path / "new").exists()
    # and the lock was let go of
    if (folder / name).is_dir() and not (folder / name).is_symlink():
        (folder / name).rmdir()
    else:
        (folder / name).unlink()
    JournalFile.open(folder / "journal.db").close()
