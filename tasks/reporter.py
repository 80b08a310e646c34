"""The glue to doit's runner: actions, up-to-date checks, signals, and what a run prints.

One line per task that did something, then a summary for whoever reads only the end. Exit codes are
doit's: 1 for TaskFailed, 2 for any other error, 3 for a refusal before or instead of the work.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import FrameType
from typing import Any, NoReturn, TextIO

from doit.exceptions import BaseFail, InvalidTask, TaskError, TaskFailed, UnmetDependency

from tasks import files
from tasks.errors import PublishError, SettingsError
from tasks.options import adopted
from tasks.runtime import Run, guarded
from tasks.state import encode

Step = Callable[..., "str | TaskFailed | None"]
FREE = ("poll", "publish")  # tasks that take the lock themselves, or need none


class Broken(SystemExit):
    """The end of the whole run, with its exit code and last line."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code)
        Reporter.broken = why


def step(verb: Step, *arguments: object, **options: object) -> list[object]:
    """A doit action of a verb whose expected errors become one line instead of a traceback."""
    return [(honest(lambda: verb(*arguments, **options)), [], {})]


def honest(verb: Step) -> Callable[..., "str | TaskError | None"]:
    """The same for a verb that doit hands what the command line says, by the names of its parameters."""

    @wraps(verb)
    def action(*arguments: object, **options: object) -> str | TaskError | None:
        try:
            return verb(*arguments, **options)
        except SettingsError as error:
            raise Broken(3, f"ERROR: {error}") from None
        except PublishError as error:
            return TaskError(str(error))

    return action


def same(value: Callable[[], object]) -> Callable[..., bool]:
    """A doit up-to-date check: the value is what it was when the task last ended well.

    Asked when the task's turn comes, not when the graph is made: earlier tasks change it.
    """

    def check(task: Any, values: Mapping[str, str]) -> bool:  # noqa: ANN401 - doit has no types
        mark = files.digest(encode(guarded(value)()))
        key = f"same {len(task.value_savers)}"
        task.value_savers.append(lambda: {key: mark})
        return values.get(key) == mark

    return check


def kept(value: Callable[[], object]) -> Callable[..., bool]:
    """A doit up-to-date check: the value is what it was after the task last ended well."""

    def mark() -> str:
        return files.digest(encode(guarded(value)()))

    def check(task: Any, values: Mapping[str, str]) -> bool:  # noqa: ANN401 - doit has no types
        key = f"kept {len(task.value_savers)}"
        task.value_savers.append(lambda: {key: mark()})
        return values.get(key) == mark()

    return check


def asked(question: Callable[..., bool], *arguments: object) -> Callable[[], bool]:
    """A doit up-to-date check: the answer is yes; asked when the task's turn comes."""
    return lambda: guarded(question)(*arguments)


def doit_config(run: Run) -> dict[str, object]:
    """Doit's configuration."""
    return {
        "default_tasks": ["publish"],
        "backend": "journal",
        "dep_file": str(run.layout.state / "doit.db"),
        "check_file_uptodate": "timestamp",
        "continue": True,
        "verbosity": 2,
        "action_string_formatting": "new",
        "reporter": type("Report", (Reporter,), {"run": run}),
    }


class Reporter:
    """One line per task that did something, and a summary; doit's interface (doit/reporter.py)."""

    desc = "one line per step"
    run: Run
    broken = ""  # why the run was broken off

    def __init__(self, outstream: TextIO, options: Mapping[str, Any]) -> None:
        del options
        self._out = outstream
        self._ready = False  # to begin; a refusal has the only word
        self._done = 0
        self._failed: list[str] = []

    def write(self, text: str) -> None:
        """Print; someone may be waiting for the line."""
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # nobody reads any more (``| head``), or a full disk: no reason to stop publishing
            self._out = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the rest of the process

    def initialize(self, tasks: Mapping[str, Any], selected_tasks: Iterable[str]) -> None:
        """Called by ``doit run`` alone, before anything else."""
        os.umask(0o022)
        self.run.selected = tuple(selected_tasks)
        self.run.adopting(adopted({name: tasks[name].options or {} for name in self.run.selected}))
        self.run.prepare()
        self._ready = True
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stop)

    def get_status(self, task: object) -> None:
        """Not shown."""

    def execute_task(self, task: Any) -> None:  # noqa: ANN401 - doit has no types
        """A step that writes must hold the lock."""
        if task.actions and task.name not in FREE and not (task.meta or {}).get("lockless"):
            try:
                self.run.lock()
            except PublishError as error:
                raise InvalidTask(f"ERROR: {error}") from None

    def add_success(self, task: Any) -> None:  # noqa: ANN401
        """Show what a step says it did."""
        self._done += bool(task.actions) and task.name != "poll"
        if isinstance(task.result, str) and task.result:
            self.write(f"{task.name:<11} {task.result}\n")

    def add_failure(self, task: Any, fail: BaseFail) -> None:  # noqa: ANN401
        """Show why a step failed; what was skipped because of it is only named."""
        self._done += 1
        if isinstance(fail, UnmetDependency):
            self.write(f"{task.name:<11} not done\n")
        elif isinstance(fail, TaskFailed):
            self.write(f"{task.name:<11} {fail.message}\n")
        elif isinstance(fail, TaskError) and not fail.traceback:
            self.write(f"{task.name:<11} ERROR: {fail.message}\n")
        else:
            self.write(f"{task.name:<11} ERROR: a bug, please report it\n{fail.get_msg()}\n")

    def complete_run(self) -> None:
        """The summary, for whoever reads only the end."""
        if self.broken:
            sys.stderr.write(f"{self.broken}\n")
        elif self._ready and "publish" in self.run.selected:
            try:
                lines = self.run.last_words(nothing_done=not self._done)
            except PublishError as error:
                lines = [f"ERROR: {error}"]
            self.write("".join(f"{line}\n" for line in lines))

    def skip_uptodate(self, task: object) -> None:
        """Not shown."""

    def skip_ignore(self, task: Any) -> None:  # noqa: ANN401
        """Ignored by the operator's own ``doit ignore``."""
        self.write(f"{task.name:<11} ignored\n")

    def cleanup_error(self, exception: BaseFail) -> None:
        """An error in a teardown."""
        sys.stderr.write(exception.get_msg())

    def runtime_error(self, msg: str) -> None:
        """An error outside of any step: it is the last word."""
        Reporter.broken = msg

    def teardown_task(self, task: object) -> None:
        """Not shown."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End now, keeping finished work: 130 or 143, without a traceback."""
    del frame
    raise Broken(128 + number, f"stopped by {signal.Signals(number).name}; what was finished is kept")
