"""The door to other programs: argument lists, no shell, always a limit in time.

A program that writes inherits the run's lock (``keep``), so that an orphan of a killed run keeps
the next run waiting instead of writing beside it.
"""

import atexit
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tasks.errors import ProgramFailed, ProgramMissing

_PIECE = 1 << 18  # bytes
_ENDING = threading.Event()
_RUNNING: "set[subprocess.Popen[bytes]]" = set()


def run(  # noqa: PLR0913 - as subprocess has them
    argv: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    timeout: float,
    keep: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    watch: Callable[[int], object] | None = None,
) -> bytes:
    """Run a program to its end and return its standard output; raises ProgramFailed.

    ``watch`` is called every second with the program's id; what it raises ends the program.
    """
    words = [os.fspath(word) for word in argv]
    try:
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=keep,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            start_new_session=True,  # so that nothing is asked of whoever sits at the terminal
        ) as child:
            _RUNNING.add(child)
            try:
                out, complaints = _communicate(child, stdin, timeout, watch)
            except BaseException:
                _kill(child)
                raise
            finally:
                _RUNNING.discard(child)
    except FileNotFoundError as error:
        raise ProgramMissing(words, "is not installed on this machine", "") from error
    except OSError as error:
        raise ProgramFailed(words, f"cannot be started: {error.strerror}", "") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(words, f"did not end within {timeout:.0f} s", "") from error
    if _ENDING.is_set():
        raise SystemExit  # of this thread, which has nothing to tell
    if child.returncode:
        raise ProgramFailed(words, f"code {child.returncode}", complaints.decode(errors="replace"))
    return out


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End a program, and those that it started."""
    with suppress(ProcessLookupError):  # it may have ended by itself this very moment
        os.killpg(child.pid, signal.SIGKILL)


@atexit.register
def _end() -> None:
    """End what threads have started, with us: they end without a word, and nobody would wait for it."""
    _ENDING.set()
    for child in [*_RUNNING]:
        _kill(child)


def _communicate(
    child: "subprocess.Popen[bytes]",
    stdin: bytes | None,
    timeout: float,
    watch: Callable[[int], object] | None,
) -> tuple[bytes, bytes]:
    """What a child says until its end; raises TimeoutExpired, and what ``watch`` raises."""
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        try:
            return child.communicate(stdin, min(left, 1) if watch else left)
        except subprocess.TimeoutExpired:
            if watch is None or time.monotonic() >= until:
                raise
            watch(child.pid)
            stdin = None  # it goes on where it was


def bytes_read(pid: int) -> int:
    """How many bytes a process has read so far, from wherever (proc_pid_io(5))."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return time.monotonic_ns()  # it is ending, or the kernel does not tell: no reason to end it


def pour(argv: Sequence[str | Path], sink: Callable[[bytes], object], *, timeout: float) -> None:
    """Run a program and give its standard output to ``sink``, piece by piece; raises ProgramFailed.

    What ``sink`` raises ends the program. It writes to us alone, so it needs no lock: an orphan dies
    with the next thing it has to say.
    """
    words = [os.fspath(word) for word in argv]
    late = threading.Event()

    def too_late() -> None:
        late.set()
        _kill(child)

    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,  # it may be a script, and its children hold the pipe
            )
        except FileNotFoundError as error:
            raise ProgramMissing(words, "is not installed on this machine", "") from error
        except OSError as error:
            raise ProgramFailed(words, f"cannot be started: {error.strerror}", "") from error
        with child:
            timer = threading.Timer(timeout, too_late)
            timer.daemon = True
            timer.start()
            try:
                assert child.stdout is not None  # noqa: S101 - a pipe
                while piece := child.stdout.read(_PIECE):
                    sink(piece)
                child.wait()
            finally:
                timer.cancel()
                _kill(child)
        if late.is_set():
            raise ProgramFailed(words, f"did not end within {timeout:.0f} s", "")
        if child.returncode:
            complaints.seek(0)
            said = complaints.read(4096).decode(errors="replace")
            raise ProgramFailed(words, f"code {child.returncode}", said)
