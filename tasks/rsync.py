"""The door to mirrors: rsync to a path, to a daemon, or over ssh (acts).

What may pass is tried again: rsync says so by its code (errcode.h of its source). Nobody is there to be
asked for a password at night, so ssh never asks.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.errors import MadeWay, ProgramFailed, ProgramStalled
from tasks.programs import bytes_read, run
from tasks.settings import Mirror, is_remote

TIMEOUT = 24 * 3600.0  # seconds for one call; a first push moves a terabyte
CONNECT = 30  # seconds at most until the other side answers
MISSING = "code 23"  # rsync's «partial transfer»: here, that what was asked for is not there
# A daemon that has enough of us or could not begin, a socket, a stream that ended, a time-out, none at the
# start, and ssh's own end: all of these may be the network's, or a machine's that is just starting.
PASSING = {f"code {code}" for code in (5, 10, 12, 30, 35, 255)}
LASTING = ("auth failed", "Unknown module", "rrsync error")  # what no waiting mends, of the same codes
SMALL, LARGEST = 64 << 10, 256 << 20  # bytes of what is read there; larger is not of our making
Way = Callable[[], bool]
ALIVE = 3  # times that ssh asks whether the other side is there, before it ends


class Rsync:
    """One mirror's destination; ``keep`` are descriptors that rsync inherits: the run's lock."""

    def __init__(self, mirror: Mirror, keep: Sequence[int] = (), retries: int | None = None) -> None:
        self._mirror, self._keep = mirror, keep
        self._retries = mirror.retries if retries is None else retries
        self.wait: Callable[[float], None] = time.sleep

    def push(self, options: Sequence[str], source: Path, below: str = "", way: Way | None = None) -> None:
        """Bring what the options choose below a directory to the mirror; raises ProgramFailed.

        With ``way``, which says when to make way for another run, MadeWay: what came of a file is kept there.
        """
        self._run(command(options, source, self._mirror, below), way)

    def compare(self, options: Sequence[str], source: Path, below: str = "") -> list[str]:
        """What there is not as it is here, a line each, every byte read on both sides; raises ProgramFailed.

        The first column is in rsync(1) under --itemize-changes.
        """
        dry = ["--checksum", "--delete", "--dry-run", "--itemize-changes"]
        out = self._run(command([*dry, *options], source, self._mirror, below)).decode(errors="replace")
        found = list[str]()
        for what, path in re.findall(r"^([<>c][fLDS]\S{9}|\*deleting  ) (.+)$", out, re.MULTILINE):
            if what[0] == "*" and path.endswith("/"):
                continue  # what is in it has a line of its own, or stays
            why = "is missing" if what[2] == "+" else "differs"
            found.append(f"{below}/{path}: {'does not belong there' if what[0] == '*' else why}".lstrip("/"))
        return found

    def fetch(self, options: Sequence[str], target: Path, below: str = "") -> None:
        """Bring what the options choose from the mirror, without links; what is not there does not come."""
        self._bring(["--recursive", f"--max-size={LARGEST}", *options], below, f"{target}/")

    def _bring(self, options: Sequence[str], name: str, target: str) -> None:
        try:
            self._run([*_start(self._mirror), *options, "--", _place(self._mirror, name), target])
        except ProgramFailed as error:
            if not _is_missing(error):
                raise

    def read(self, name: str) -> str | None:
        """A small text there, None where there is none; raises ProgramFailed."""
        if not is_remote(self._mirror.url):
            return _small_text(Path(self._mirror.url, name))
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory, "read")
            self._bring([f"--max-size={SMALL}"], name, str(target))
            return _small_text(target)

    def is_empty(self) -> bool:
        """Whether nothing lies there; raises ProgramFailed."""
        try:
            listed = self._run([*_start(self._mirror), "--list-only", "--", _place(self._mirror)])
        except ProgramFailed as error:
            if not _is_missing(error):
                raise
            return True
        return all(line.endswith((b" .", b" lost+found")) for line in listed.splitlines())

    def _run(self, argv: Sequence[str], way: Way | None = None) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                watch = Watch(argv, self._mirror.timeout.seconds, way)
                return run(argv, timeout=TIMEOUT, keep=self._keep, watch=watch)
            except ProgramFailed as error:
                passing = error.code in PASSING or isinstance(error, ProgramStalled)
                passing = passing and not any(one in error.stderr for one in LASTING)
                if not passing or attempt == self._retries:
                    raise
            if way and way():
                raise MadeWay("makes way for another run")
            self.wait(self._mirror.pause.seconds * 2**attempt)
        raise AssertionError


class Watch:
    """Ends an rsync that hears nothing: its own --timeout counts what it sends as a sign of life.

    Also what it sends into a line that was cut (check_timeout in its io.c).
    """

    def __init__(self, argv: Sequence[str], timeout: float, way: Way | None) -> None:
        self._argv, self._timeout, self._way = argv, timeout, way
        self._read, self._since = 0, time.monotonic()

    def __call__(self, pid: int) -> None:
        """Look at it; raises ProgramStalled or MadeWay."""
        if self._way and self._way():
            raise MadeWay("makes way for another run")
        read, now = bytes_read(pid), time.monotonic()
        if read != self._read:
            self._read, self._since = read, now
        elif self._timeout and now - self._since >= self._timeout:
            raise ProgramStalled(self._argv, f"was ended: nothing came for {self._timeout:.0f} s", "")


def command(options: Sequence[str], source: Path, mirror: Mirror, below: str = "") -> list[str]:
    """One push; modes are ours, whatever the mirror's umask. The source is absolute: serials have colons."""
    # fmt: off
    return [
        *_start(mirror), "--recursive", "--links", "--times", "--perms", "--chmod=D0755,F0644",
        *([f"--bwlimit={mirror.bandwidth}"] if mirror.bandwidth else []),
        *options,
        "--", f"{source}/", _place(mirror, below),
    ]
    # fmt: on


def literal(path: str, below: str = "") -> str:
    """A path as a filter's pattern that fits itself alone, or with ``/***`` all that is below it too.

    A backslash counts only where there is a wildcard.
    """
    wild = re.search(r"[*?\[]", path + below)
    return (re.sub(r"([\\*?\[])", r"\\\1", path) if wild else path) + below


def _start(mirror: Mirror) -> list[str]:
    """The program, and how the mirror is reached."""
    connect = min(CONNECT, mirror.timeout.seconds or CONNECT)
    words = ["rsync", f"--timeout={mirror.timeout.seconds}"]
    if is_daemon(mirror.url):
        words += [f"--contimeout={connect}"]
        words += [f"--password-file={mirror.password_file}"] if mirror.password_file else []
    elif is_remote(mirror.url):  # ssh takes the first of what it is told twice: the operator's goes first
        shell = os.environ.get("RSYNC_RSH", "ssh")
        asking = ""
        if mirror.timeout.seconds:
            every = max(1, mirror.timeout.seconds // ALIVE)
            asking = f" -o ServerAliveInterval={every} -o ServerAliveCountMax={ALIVE}"
        words += [f"--rsh={shell} {mirror.ssh} -o BatchMode=yes -o ConnectTimeout={connect}{asking}"]
    return words


def _small_text(path: Path) -> str | None:
    is_one = path.is_file() and path.stat().st_size <= SMALL
    return path.read_text(errors="replace") if is_one else None


def _is_missing(error: ProgramFailed) -> bool:
    """Whether what was asked for is not there; rrsync looks itself, and ends."""
    return error.code == MISSING or ("rrsync error" in error.stderr and "No such file" in error.stderr)


def is_daemon(url: str) -> bool:
    """Whether rsync would ask a daemon: ``rsync://host/module`` or ``host::module``."""
    host = re.sub(r"\[[^]]*\]", "", url.split("/", 1)[0])  # an address of IPv6 has them too
    return url.startswith("rsync://") or "::" in host


def _place(mirror: Mirror, below: str = "") -> str:
    return (mirror.url if mirror.url.endswith("/") else f"{mirror.url}/") + below
