"""doit's database, one that a kill cannot take back: every finished task is committed at once.

doit's own back ends write everything at the very end of a run (doit/dependency.py), so SIGTERM or a
power cut would lose a night's work. Loaded by name: see ``tool.doit.plugins.backend``.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from doit.exceptions import InvalidTask

UNUSABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
Row: TypeAlias = dict[str, object]


class Codec(Protocol):
    """How doit wants rows as text."""

    def encode(self, data: Row) -> str:
        """To text."""

    def decode(self, data: str) -> Row:
        """From text."""


class Journal:
    """The back-end interface of doit.dependency.DbmDB over SQLite in WAL mode."""

    read_only = False  # set for commands that must leave no trace

    def __init__(self, name: str, codec: Codec, *, module_name: str | None = None) -> None:
        del module_name  # of doit's dbm back end
        self.name, self._codec = name, codec
        self._rows: dict[str, str | Row] = {}
        self._new: dict[str, Row] = {}
        self._seen: int | None = None
        self._db: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        """Connect at the first use; a command that only reads must not need the right to write."""
        if self._db is None:
            if self.read_only:
                self.name = ":memory:"
            else:
                Path(self.name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._db = self._connect()
            except sqlite3.DatabaseError as error:
                self._db = self._give_up(error)
        return self._db

    def _give_up(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        """Go on without what was saved: every step looks again, and finds its work done.

        A file that is damaged is begun again. On a disk that is full, or fails, it would keep what it should
        forget: it goes, and this run remembers by itself. Raises InvalidTask for whatever else there is.
        """
        unusable = (error.sqlite_errorcode & 0xFF) in UNUSABLE
        if isinstance(error, sqlite3.OperationalError) and not unusable:
            raise InvalidTask(f"ERROR: cannot open {self.name}: {error}") from None
        if self._db is not None:
            self._db.close()
        for part in ("", "-wal", "-shm"):  # in this order: SQLite drops the journal of an empty database
            with suppress(OSError):
                Path(f"{self.name}{part}").unlink(missing_ok=True)
        if unusable:
            self.name = ":memory:"
        self._seen, self._db = None, self._connect()
        return self._db

    def _write(self, sql: str, *values: str) -> None:
        """One statement, committed at once."""
        try:
            self._open().execute(sql, values)
        except sqlite3.DatabaseError as error:
            self._give_up(error).execute(sql, values)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.name, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            with self._alone():
                db.executescript(
                    "pragma journal_mode=wal; pragma synchronous=normal;"
                    "create table if not exists doit (task text primary key, data text) without rowid"
                )
        except sqlite3.Error:
            db.close()
            raise
        return db

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes a new database: SQLite waits for no other that turns it to WAL."""
        if self.name == ":memory:":
            yield
            return
        handle = os.open(Path(self.name).parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _row(self, task: str, *, fresh: bool) -> Row | None:
        """A saved row; with ``fresh``, one that another process may have saved meanwhile."""
        db = self._open()
        try:
            if (fresh or self._seen is None) and (
                now := db.execute("pragma data_version").fetchone()[0]
            ) != self._seen:
                self._rows, self._seen = dict(db.execute("select task, data from doit")), now
        except sqlite3.DatabaseError as error:
            self._rows = {}
            self._give_up(error)
        row = self._rows.get(task)
        if isinstance(row, str):
            row = self._rows[task] = self._codec.decode(row)
        return row

    def get(self, task_id: str, dependency: str) -> object:
        """One value of a task. ``ignore:`` is the first that doit asks of every task."""
        row = self._new.get(task_id) or self._row(task_id, fresh=dependency == "ignore:")
        return row.get(dependency) if row else None

    def set(self, task_id: str, dependency: str, value: object) -> None:
        """Set one value; ``deps:`` is the last that doit sets of a finished task: commit."""
        self._new.setdefault(task_id, dict(self._row(task_id, fresh=False) or {}))[dependency] = value
        if dependency == "deps:":
            self._flush(task_id)

    def _flush(self, task: str) -> None:
        row = self._new.pop(task)
        self._rows[task] = row
        self._write("insert or replace into doit values (?, ?)", task, self._codec.encode(row))

    def in_(self, task_id: str) -> bool:
        """Whether a task has a row."""
        return task_id in self._new or self._row(task_id, fresh=False) is not None

    def remove(self, task_id: str) -> None:
        """Forget a task."""
        self._new.pop(task_id, None)
        self._rows.pop(task_id, None)
        self._write("delete from doit where task = ?", task_id)

    def remove_all(self) -> None:
        """Forget everything."""
        self._new, self._rows = {}, {}
        self._write("delete from doit")

    def dump(self) -> None:
        """Save what is left, and close."""
        for task in list(self._new):
            self._flush(task)
        if self._db is not None:
            self._db.close()
            self._db = None
