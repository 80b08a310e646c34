"""The door to the site's lock, which is the kernel's (flock): it goes with the process.

Children that write inherit it, so that an orphan keeps the next run waiting. Whoever waits knocks, by another
lock that all share who wait; what can go on later makes way for them.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks import files
from tasks.layout import Layout

TURN = 60.0  # seconds of work that can go on later, before it makes way


class Turns:
    """The lock of one site, for one process."""

    def __init__(self, layout: Layout, say: Callable[[str, str], object]) -> None:
        self._layout, self._say = layout, say
        self._lock: int | None = None
        self._since = 0.0
        self._asking = threading.Lock()

    def take(self) -> int:
        """Take the lock, waiting for another run to end; the descriptor to hand to children."""
        if self._lock is None:
            with files.disk("open the lock"):
                handle = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("lock", f"waiting for another run at {self._layout.root} to end")
                with self._knocking() as knock:
                    fcntl.flock(knock, fcntl.LOCK_SH)
                    fcntl.flock(handle, fcntl.LOCK_EX)
            self._lock, self._since = handle, time.monotonic()
        return self._lock

    def is_over(self, turn: float) -> bool:
        """Whether another run waits, and this one has had its turn, of so many seconds at most."""
        if time.monotonic() < self._since + min(TURN, turn):
            return False
        with self._asking, self._knocking() as knock:  # two threads that ask at once would find each other
            try:
                fcntl.flock(knock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def give(self) -> None:
        """Let everybody who waits have the lock first, and take it again."""
        lock = self.take()
        self._say("lock", "makes way for another run, and goes on after it")
        fcntl.flock(lock, fcntl.LOCK_UN)
        with self._knocking() as knock:  # nobody shares it any more when all of them have had the lock
            fcntl.flock(knock, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._since = time.monotonic()

    @contextmanager
    def _knocking(self) -> Iterator[int]:
        with files.disk("open the lock"):
            handle = os.open(self._layout.knock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield handle
        finally:
            os.close(handle)
