"""The journal's file: one SQLite connection, held by one process, durable at every commit.

This is the only module that knows ``sqlite3``. Nothing here is asynchronous; :mod:`ispd.station.journal` calls it in its
worker.

* WAL with ``synchronous=FULL``: a commit that returned is on the disk.
* ``locking_mode=EXCLUSIVE`` and a lock file: no second connection exists, in this process or in another. SQLite before
  3.51.3 can corrupt a WAL database when two connections write or checkpoint at once; with one connection it cannot.
* No memory mapping: an I/O error comes back as an error, not as SIGBUS.
"""

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from ispd.errors import ConfigError, ErrorCode, IspdError

__all__ = ["JournalFile", "Parameters"]

Parameters = dict[str, Any]
"""Named parameters of a statement: None, int, float, str or bytes."""

_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite may put beside a database (sqlite.org/tempfiles.html)."""

_APPLICATION_ID = 0x69737064
_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA mmap_size = 0",
)


class JournalFile:
    """The open file. Build with :meth:`open`; every method may raise ``IspdError`` with ``journal-failed``."""

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection) -> None:
        self._path = path
        self._lock = lock
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> "JournalFile":
        """Open or create the journal at ``path`` and bring its schema up to date.

        A missing directory is created with mode 0700, the file always has mode 0600. Raises ``ConfigError`` where
        another process holds the journal, where a newer version wrote it, where the file is something else, and where
        others may write into the directory.
        """
        lock = _take_lock(path)
        try:
            _create_private(path)
            with _explained(path):
                connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            journal = cls(path, lock, connection)
            try:
                with _explained(path):
                    journal._prepare()
            except IspdError:
                connection.close()
                raise
        except IspdError:
            os.close(lock)
            raise
        return journal

    def close(self) -> None:
        """Close the file and let go of it; a second call does nothing."""
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body executed, durably, or nothing of it."""
        with _explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._commit()
            except BaseException:
                # SQLite may have rolled back by itself, after a full disk for one
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, parameters: Parameters | None = None) -> list[sqlite3.Row]:
        """Return all rows of a SELECT; columns by name."""
        with _explained(self._path):
            return self._connection.execute(sql, parameters or {}).fetchall()

    def insert(self, table: str, row: Parameters, *, if_absent: bool = False) -> int:
        """Insert ``row`` and return its rowid; with ``if_absent`` an existing primary key is left as it is."""
        return self._put(f"INTO {table}", row, "ON CONFLICT DO NOTHING" if if_absent else "")

    def replace(self, table: str, row: Parameters) -> None:
        """Insert ``row``, in the place of one with the same primary key."""
        self._put(f"OR REPLACE INTO {table}", row, "")

    def delete(self, table: str, **keys: Any) -> None:
        """Delete the rows that have all of these values."""
        where = " AND ".join(f"{name} = :{name}" for name in keys)
        self._connection.execute(f"DELETE FROM {table} WHERE {where}", keys)  # noqa: S608  # names as below

    def _put(self, into: str, row: Parameters, otherwise: str) -> int:
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        # table and column names are this package's own, values are bound
        cursor = self._connection.execute(f"INSERT {into} ({names}) VALUES ({values}) {otherwise}", row)  # noqa: S608  # names as below
        return cursor.lastrowid or 0

    def update(self, table: str, row: Parameters, *, where: str, **keys: Any) -> int:
        """Set the columns of ``row`` where the condition holds (it names ``keys``) and return how many rows it met."""
        changes = ", ".join(f"{name} = :{name}" for name in row)
        # names as above; a key and a column of one name would hide each other
        bound = row | {f"key_{name}": value for name, value in keys.items()}
        return self._connection.execute(f"UPDATE {table} SET {changes} WHERE {where}", bound).rowcount  # noqa: S608  # names as below

    def _commit(self) -> None:
        self._connection.execute("COMMIT")

    def _prepare(self) -> None:
        """Look before anything is written: a file that is not ours stays as it is."""
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application_id = self._number("application_id")
        version = self._number("user_version")
        migrations = _migrations()
        if application_id != _APPLICATION_ID and (application_id or version or self._number("schema_version")):
            raise ConfigError(f"{self._path} is not a journal of ispd", hint="name another state_dir, or move the file")
        if version > len(migrations):
            raise ConfigError(
                f"{self._path} was written by a newer ispd (schema {version}, this one knows {len(migrations)})",
                hint="install that version again; a journal is never taken back to an older schema",
            )
        for setting in _SETTINGS:
            self._connection.execute(setting)
        for number, script in enumerate(migrations[version:], start=version + 1):
            self._migrate(number, script)

    def _migrate(self, number: int, script: str) -> None:
        try:
            self._connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _number(self, pragma: str) -> int:
        return int(self._connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _migrations() -> list[str]:
    """Return the numbered scripts of ``schema/``, number 1 first; a hole in the numbering is a bug."""
    files = [entry for entry in resources.files("ispd.station").joinpath("schema").iterdir() if ".sql" in entry.name]
    by_number = {int(entry.name.split("_")[0]): entry for entry in files}
    return [by_number[number].read_text("utf-8") for number in range(1, len(files) + 1)]


def _take_lock(path: Path) -> int:
    """Return a descriptor holding the lock beside ``path``; the kernel frees it with the process, however that ends."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        _make_folder(path.parent)
        lock = _open_private(lock_path)
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise ConfigError(
            f"another ispd (process {holder or 'unknown'}) already uses {path.parent}",
            hint="stop the other daemon, or give this one a state_dir of its own",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing, for us alone; refuse one that everybody may write into."""
    for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"everybody may write into {folder}, where the records are kept",
            hint=f"`chmod o-w {folder}`, or give the daemon a state_dir of its own",
        )


def _create_private(path: Path) -> None:
    """Make sure the file exists and is for us alone. SQLite gives its write-ahead log the same mode."""
    try:
        os.close(_open_private(path))
        for beside in _BESIDE:
            # SQLite opens these by itself, and follows a link
            place = path.with_name(path.name + beside)
            with suppress(FileNotFoundError):
                _refuse_special(place, place.lstat().st_mode)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _open_private(path: Path) -> int:
    """Open or make a regular file of ours with mode 0600. A link is not followed, a pipe not waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_special(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{path.name} is not a file")


def _cannot_open(path: Path, error: OSError) -> IspdError:
    return IspdError(
        ErrorCode.JOURNAL_FAILED,
        f"the journal {path} cannot be opened: {error.strerror}",
        hint="check that state_dir exists, is writable for the daemon's user, and has space left",
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        raise _explanation(path, name, str(error)) from error


def _explanation(path: Path, name: str, text: str) -> IspdError:
    match name.split("_")[1:2]:
        case ["FULL"]:
            message, hint = "the disk is full", "make room, then start the job again"
        case ["IOERR"]:
            message, hint = f"reading or writing failed ({name})", "check the disk and its free space"
        case ["READONLY" | "CANTOPEN" | "PERM"]:
            message, hint = f"{text} ({name})", "check that state_dir is writable for the daemon's user"
        case ["CORRUPT" | "NOTADB"]:
            message, hint = f"the file is damaged ({name})", "restore it from a backup, or move it away"
        case ["BUSY" | "LOCKED"]:
            message, hint = "another program has opened it", "close that program; only the daemon may open the journal"
        case _:
            message, hint = text, "report this as a bug, with the log"
    return IspdError(ErrorCode.JOURNAL_FAILED, f"the journal {path} failed: {message}", hint=hint)
