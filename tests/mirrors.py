"""Pushes to mirrors, as a run makes them, and one phase of rsync at a time."""

import os
import subprocess
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from tasks.fleet import Fleet
from tasks.layout import SITE_ID, Layout
from tasks.mirror import carried, named
from tasks.mirrored import Terms
from tasks.rsync import command
from tasks.settings import Mirror, Span

HOUR = Span(3600)
MARK = [f"--include=/{SITE_ID}", "--exclude=*"]


def terms(layout: Layout, now: datetime, gone: Collection[str] = (), grace: Span = HOUR) -> Terms:
    return Terms(layout, grace, frozenset(gone), (), lambda: now)


def push(mirror: Mirror, of: Terms, *others: Mirror) -> str:
    """Push to one mirror, and to those of its group that are due; its line."""
    fleet = Fleet([mirror, *others])
    return fleet.push(mirror, of, {mirror.name}, "")


def phases() -> list[list[str]]:
    """The options of each phase that adds something, in order."""
    return [MARK, *carried(), *named()]


def phase(options: list[str], source: Path, target: Path) -> None:
    """One phase, to a directory."""
    subprocess.run(command(options, source.resolve(), Mirror(name="x", url=str(target))), check=True)


def shown(tree: Path) -> dict[str, bytes]:
    """What a web server gives out of a directory: nothing that hides."""
    found = {}
    for top, _, names in os.walk(tree, followlinks=True):
        where = Path(top).relative_to(tree)
        if not any(part.startswith(".") for part in where.parts):
            found |= {str(where / name): Path(top, name).read_bytes() for name in names}
    return found


def behind(tree: Path, latest: Path, *, lapsed: bool = False) -> list[str]:
    """What a mirror shows otherwise than the newest snapshot; beside images that may not have lapsed yet."""
    newest, there = shown(latest.resolve()), shown(tree)
    more = {path for path in there.keys() - newest.keys() if lapsed or not path.startswith("images/")}
    return sorted(more | {path for path, text in newest.items() if there.get(path) != text})
