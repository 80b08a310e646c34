"""The door to other programs: argument lists, no shell, always a limit in time.

A program that writes inherits the run's lock (``keep``), so that an orphan of a killed run keeps
the next run waiting instead of writing beside it.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import ProgramFailed


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    timeout: float,
    keep: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program to its end and return its standard output; raises ProgramFailed."""
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=timeout,
            pass_fds=keep,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        )
    except FileNotFoundError as error:
        raise ProgramFailed(words, "is not installed on this machine", "") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(words, f"did not end within {timeout:.0f} s", "") from error
    if done.returncode:
        raise ProgramFailed(words, f"code {done.returncode}", done.stderr.decode(errors="replace"))
    return done.stdout
