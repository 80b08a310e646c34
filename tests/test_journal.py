"""doit's database under doit's own Dependency class: finished work survives a kill, and two runs each other."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doit.dependency import Dependency, JSONCodec, TimestampChecker
from doit.task import Task
from sites import CHECKOUT, wait_for

from tasks.journal import Journal


def opened(path: Path) -> Dependency:
    return Dependency(Journal, str(path), checker_cls=TimestampChecker)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "state/doit.db"


@pytest.fixture
def manager(db: Path) -> Iterator[Dependency]:
    made = opened(db)
    yield made
    made.close()


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "dep").write_text("dep")
    (tmp_path / "target").write_text("target")
    return named("image:tiny/1/amd64/default", tmp_path)


def named(name: str, base: Path) -> Task:
    return Task(name, None, file_dep=[str(base / "dep")], targets=[str(base / "target")])


def finished(manager: Dependency, task: Task, **values: object) -> None:
    task.values = values
    task.result = f"result of {task.name}"
    manager.save_success(task)


def status(manager: Dependency, task: Task) -> str:
    """As doit's runner asks it: first whether the task is ignored."""
    manager.status_is_ignore(task)
    return manager.get_status(task, {}).status


def rows(db: Path) -> set[str]:
    with sqlite3.connect(db) as connection:
        found = {name for (name,) in connection.execute("select task from doit")}
    connection.close()
    return found


def child(db: Path, code: str) -> subprocess.Popen[str]:
    """Another process with the same database; it prints, and reads a line to go on."""
    program = f"""
import sys
from doit.dependency import Dependency, TimestampChecker
from doit.task import Task
from tasks.journal import Journal
manager = Dependency(Journal, {str(db)!r}, checker_cls=TimestampChecker)

def save(name):
    task = Task(name, None)
    task.values, task.result = {{"by": "child"}}, "done"
    manager.status_is_ignore(task)
    manager.save_success(task)

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

{textwrap.dedent(code)}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str], word: str = "\n") -> None:
    process.stdin.write(word)
    process.stdin.flush()


class TestMemory:
    def test_what_was_never_run_is_run(self, manager, task):
        assert status(manager, task) == "run"

    def test_what_has_run_is_up_to_date(self, manager, task):
        finished(manager, task)
        assert status(manager, task) == "up-to-date"

    def test_also_for_the_next_process(self, manager, task, db):
        finished(manager, task, mark="x", nested={"a": [1, None, "ü"]})
        manager.close()
        later = opened(db)
        assert status(later, task) == "up-to-date"
        assert later.get_values(task.name) == {"mark": "x", "nested": {"a": [1, None, "ü"]}}
        assert later.get_result(task.name) == manager.get_result(task.name)
        later.close()

    def test_a_changed_dependency_is_seen(self, manager, task, tmp_path):
        finished(manager, task)
        os.utime(tmp_path / "dep", (1, 1))
        assert status(manager, task) == "run"
        finished(manager, task)
        assert status(manager, task) == "up-to-date"

    def test_values_change_with_each_success(self, manager, task, db):
        finished(manager, task, mark="one")
        finished(manager, task, mark="two")
        assert manager.get_value(task.name, "mark") == "two"
        manager.close()
        later = opened(db)
        assert later.get_value(task.name, "mark") == "two"
        later.close()

    def test_of_an_unknown_task_there_is_nothing(self, manager):
        assert manager.get_values("nothing") == {}
        assert manager.get_result("nothing") is None
        with pytest.raises(Exception, match="taskid 'nothing' has no computed value!"):
            manager.get_value("nothing", "mark")

    def test_a_failure_forgets_the_task(self, manager, task, db):
        finished(manager, task)
        manager.remove_success(task)
        assert status(manager, task) == "run"
        assert rows(db) == set()

    def test_forget(self, manager, task, tmp_path, db):
        other = named("other", tmp_path)
        for one in (task, other):
            finished(manager, one)
        manager.close()
        later = opened(db)
        later.remove(task.name)
        later.close()
        assert rows(db) == {"other"}
        last = opened(db)
        assert status(last, other) == "up-to-date"
        last.remove_all()
        assert status(last, other) == "run"
        last.close()
        assert rows(db) == set()

    def test_a_value_is_found_before_anything_else_was_asked_for(self, manager, task, db):
        finished(manager, task, mark="x")
        manager.close()
        later = opened(db)
        assert later.get_value(task.name, "mark") == "x"
        later.close()

    def test_ignore_is_kept_and_forgets_nothing_else(self, manager, task, db):
        finished(manager, task, mark="x")
        manager.close()
        later = opened(db)
        later.ignore(task)
        later.close()
        last = opened(db)
        assert last.status_is_ignore(task)
        assert last.get_values(task.name) == {"mark": "x"}
        last.close()

    def test_another_checker_forgets_what_it_cannot_read(self, manager, task, db):
        finished(manager, task)
        manager.close()
        later = Dependency(Journal, str(db))
        assert status(later, task) == "run"
        later.close()

    def test_close_may_be_called_twice(self, manager, task, db):
        finished(manager, task)
        manager.close()
        manager.close()
        assert rows(db) == {task.name}


class TestDisk:
    def test_who_only_opens_it_makes_nothing(self, db):
        opened(db).close()
        assert not db.parent.exists()

    def test_a_command_that_must_leave_no_trace_leaves_none(self, manager, task, db):
        class Quiet(Journal):
            read_only = True

        quiet = Dependency(Quiet, str(db), checker_cls=TimestampChecker)
        finished(quiet, task)
        quiet.close()
        assert not db.parent.exists()
        finished(manager, task)
        manager.close()
        before = db.read_bytes()
        quiet = Dependency(Quiet, str(db), checker_cls=TimestampChecker)
        finished(quiet, task, mark="quiet")
        quiet.close()
        assert db.read_bytes() == before

    def test_its_directory_is_private(self, manager, task, db):
        finished(manager, task)
        assert db.parent.stat().st_mode & 0o777 == 0o700

    def test_the_rows_are_readable_json_with_one_for_each_task(self, manager, task, db):
        finished(manager, task, mark="x")
        with sqlite3.connect(db) as connection:
            ((name, data),) = connection.execute("select task, data from doit").fetchall()
        connection.close()
        assert name == task.name
        assert JSONCodec().decode(data)["_values_:"] == {"mark": "x"}

    @pytest.mark.parametrize("content", [b"", b"not a database at all" * 100], ids=len)
    def test_a_file_that_is_no_database_is_begun_again(self, db, task, content):
        """Nothing is lost with it: every step looks again, and finds its work done."""
        db.parent.mkdir()
        db.write_bytes(content)
        later = opened(db)
        assert status(later, task) == "run"
        finished(later, task)
        later.close()
        assert rows(db) == {task.name}


class TestKill:
    def test_what_was_finished_survives_kill_9(self, db, tmp_path):
        process = child(
            db,
            """
            save("one")
            save("two")
            manager._set("three", "_values_:", {})  # begun, not finished
            say("now")
        """,
        )
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        process.stdin.close()
        process.stdout.close()
        assert rows(db) == {"one", "two"}
        later = opened(db)
        assert later.get_values("one") == {"by": "child"}
        finished(later, named("three", _with_files(tmp_path)))
        later.close()
        assert rows(db) == {"one", "two", "three"}

    def test_whatever_the_moment(self, db):
        process = child(
            db,
            """
            for number in range(100_000):
                save(f"task {number}")
        """,
        )
        wait_for(lambda: db.exists() and Path(f"{db}-wal").exists())
        wait_for(lambda: _count(db) > 20)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
        found = sorted(int(name.split()[1]) for name in rows(db))
        assert found == list(range(len(found)))
        later = opened(db)
        assert all(later.get_values(f"task {number}") == {"by": "child"} for number in found)
        later.close()


class TestTwo:
    def test_two_processes_keep_each_others_work(self, db, task, manager):
        process = child(
            db,
            """
            say("ready")
            save("theirs")
            say("saved")
            manager.close()
        """,
        )
        assert process.stdout.readline() == "ready\n"
        assert status(manager, task) == "run"
        finished(manager, task)
        told(process)
        assert process.stdout.readline() == "saved\n"
        assert manager.get_values("theirs") == {} or manager.get_values("theirs") == {"by": "child"}
        told(process)
        assert process.wait(10) == 0
        process.stdin.close()
        process.stdout.close()
        manager.close()
        assert rows(db) == {task.name, "theirs"}

    def test_what_another_finished_meanwhile_is_seen_when_doit_asks(self, db, task, manager):
        """A run that has waited for the lock must not do the other one's work again."""
        assert status(manager, task) == "run"
        other = opened(db)
        finished(other, task, mark="theirs")
        other.close()
        assert status(manager, task) == "up-to-date"
        assert manager.get_values(task.name) == {"mark": "theirs"}

    def test_what_another_forgot_meanwhile_is_seen(self, db, task, manager):
        finished(manager, task)
        assert status(manager, task) == "up-to-date"
        other = opened(db)
        other.remove(task.name)
        other.close()
        assert status(manager, task) == "run"

    def test_a_failure_in_one_locks_out_no_other(self, db, task, manager):
        """doit's own sqlite3 back end holds the write lock from the first failure to the end."""
        finished(manager, task)
        manager.remove_success(task)
        process = child(db, 'save("theirs")\nmanager.close()\nsay("done")')
        assert process.stdout.readline() == "done\n"
        told(process)
        assert process.wait(10) == 0
        process.stdin.close()
        process.stdout.close()
        assert rows(db) == {"theirs"}


def _with_files(base: Path) -> Path:
    (base / "dep").write_text("dep")
    return base


def _count(db: Path) -> int:
    try:
        return len(rows(db))
    except sqlite3.OperationalError:
        return 0


def test_many_that_begin_at_once_on_a_new_site_all_open(tmp_path: Path) -> None:
    """SQLite tells all but one of them at once that a new database is locked, whatever the timeout."""
    for turn in range(60):
        began = time.time() + 0.03
        children = [os.fork() or _open_at(tmp_path / f"{turn}/doit.db", began) for _ in range(4)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4


def _open_at(path: Path, began: float) -> int:
    """In a child of the test: open the database at that time, and end."""
    try:
        manager = opened(path)
        while time.time() < began:
            pass
        manager.get_values("publish")
        os._exit(0)
    finally:
        os._exit(1)
