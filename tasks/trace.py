"""Which snapshot a tree is, as mirrors and whoever watches them read it (pure: text in, text out).

Debian's mirrors have such files below project/trace/: the last thing that a mirror gets, so whoever reads
it there knows how far behind it is.
"""

import re
from datetime import datetime
from typing import NamedTuple

from tasks.layout import SNAPSHOT

_LINES = re.compile(r"site: (\S+)\nsnapshot: (\S+)\npublished: (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\n")


class Trace(NamedTuple):
    """Whose tree it is, the snapshot's name, and when that was published, like 2026-11-21T08:30:12Z."""

    site: str
    snapshot: str
    published: str

    def text(self) -> str:
        """The file."""
        return f"site: {self.site}\nsnapshot: {self.snapshot}\npublished: {self.published}\n"

    @property
    def seconds(self) -> int:
        """When it was published, in seconds since the epoch."""
        return int(datetime.fromisoformat(self.published).timestamp())


def read(text: str) -> Trace | None:
    """What such a file says; None for any other."""
    found = _LINES.match(text)
    return Trace(*found.groups()) if found and SNAPSHOT.fullmatch(found[2]) else None
