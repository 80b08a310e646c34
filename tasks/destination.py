"""Where a mirror lies: what rsync makes of its address, and what of its settings can never work (pure).

How an address is taken apart is in check_for_hostspec() of rsync's options.c, and that a module comes first
in start_inband_exchange() of its clientserver.c; what becomes of quotes is in do_cmd() of its main.c, and
the least bandwidth in parse_size_arg() of its options.c.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from posixpath import normpath

from tasks.settings import Mirror, is_remote

WRITE = "write rsync://host/module/, user@host:/path/, or a local path"
PORT, LAST_PORT = "873", 65535
LEAST = 512  # bytes a second
_HOST = r"(?P<user>[^\s:/@-][^\s:/]*@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|\w[\w.-]*)"
_DAEMON = (
    re.compile(rf"rsync://{_HOST}(?::(?P<port>[0-9]+))?(?:/(?P<path>.*))?"),
    re.compile(rf"{_HOST}::(?P<path>.*)"),
)
_SSH = re.compile(rf"{_HOST}:(?P<path>(?!:).*)")
_PASSWORD = re.compile(r"rsync://[^/@:[]*:[^/]*@|[^/@:[]*:[^/]*@[^/:]*:")


def faults(mirror: Mirror) -> Iterator[str]:
    """What can never work of what is said of a mirror, each line beginning with the key."""
    if why := _never(mirror.url):
        yield f"url: {why}"
        return
    if mirror.ssh and not _ssh(mirror.url):
        yield f"ssh: is for user@host:/path/ alone, and url is {mirror.url}"
    if re.search("['\"]", re.sub(r"'[^']*'|\"[^\"]*\"", "", mirror.ssh)):
        yield "ssh: has a quotation mark that is not closed"
    if mirror.password_file and not _daemon(mirror.url):
        yield f"password_file: is for rsync://user@host/module/ alone, and url is {mirror.url}"
    if mirror.ca and not mirror.probe:
        yield "ca: is for probe, which is not given"
    if 0 < _bytes(mirror.bandwidth) < LEAST:
        yield f"bandwidth: {mirror.bandwidth} is less than the {LEAST} bytes a second that rsync takes"


def place(mirror: Mirror) -> tuple[str, ...]:
    """Where a mirror with an address that works lies; what begins with that lies inside of it.

    By ssh, the user and the options are part of it: each key may lead to a directory of its own (rrsync).
    """
    if found := _daemon(mirror.url):
        host = found["host"].lower(), found.groupdict().get("port") or PORT
        return ("rsync", *host, *PurePosixPath(found["path"]).parts)
    if found := _ssh(mirror.url):
        host = found["user"] or "", found["host"].lower()
        path = re.sub("^/+", "/", normpath(found["path"]))  # which leaves two, as POSIX has it
        return ("ssh", *mirror.ssh.split(), *host, "", *PurePosixPath(path).parts)
    return ("", *PurePosixPath(mirror.url).parts)


def overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one place is in the other: what is unknown to whoever pushes to that one is deleted there."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _never(url: str) -> str:
    """Why an address can never work, and what to write instead, "" when it may; never with a password."""
    scheme, daemon, ssh = re.match(r"[A-Za-z0-9+.-]+://", url), _daemon(url), _ssh(url)
    port = daemon.groupdict().get("port") if daemon else None
    known = (daemon or ssh) and (port is None or 0 < int(port[:9]) <= LAST_PORT)
    said = {
        "holds a password, and urls are shown: write rsync://user@host/module/ and password_file": (
            _PASSWORD.match(url)
        ),
        "holds a control character": re.search(r"[\x00-\x1f\x7f]", url),
        f"rsync does not understand {scheme and scheme[0]}; {WRITE}": scheme and scheme[0] != "rsync://",
        f"{url} has no host or port that could be; {WRITE}": not known,
        f"{url} names no module: write rsync://host/module/": (
            daemon and not re.match("[^/]", daemon["path"] or "")
        ),
        f"{url} names no directory: write user@host:/path/": ssh and not ssh["path"],
    }
    return next((why for why, is_so in said.items() if is_so), "") if is_remote(url) else ""


def _daemon(url: str) -> re.Match[str] | None:
    """The address of an rsync daemon, taken apart."""
    return next((found for form in _DAEMON if (found := form.fullmatch(url))), None)


def _ssh(url: str) -> re.Match[str] | None:
    """An address for ssh, taken apart."""
    return _SSH.fullmatch(url) if is_remote(url) and not url.startswith("rsync://") else None


def _bytes(bandwidth: str) -> float:
    """What rsync understands: a number alone is KiB."""
    unit = {"M": 1 << 20, "G": 1 << 30}.get(bandwidth[-1:], 1 << 10)
    return float(bandwidth.rstrip("KMG") or 0) * unit
