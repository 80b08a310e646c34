"""Pushes to mirrors, as a run makes them, and one phase of rsync at a time."""

import subprocess
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from tasks.fleet import Fleet
from tasks.layout import SITE_ID, Layout
from tasks.mirror import carried, named, whole
from tasks.mirrored import Terms
from tasks.rsync import command
from tasks.settings import Mirror, Span

HOUR = Span(3600)
MARK = [f"--include=/{SITE_ID}", "--exclude=*"]


def terms(layout: Layout, now: datetime, gone: Collection[str] = (), grace: Span = HOUR) -> Terms:
    return Terms(layout, grace, frozenset(gone), (), lambda: now)


def push(mirror: Mirror, of: Terms, *others: Mirror) -> str:
    """Push to one mirror, and to those of its group that are due; its line."""
    fleet = Fleet([mirror, *others], lambda _: whole(of.layout))
    return fleet.push(mirror, of, {mirror.name}, "")


def phases() -> list[list[str]]:
    """The options of each phase that adds something, in order."""
    return [MARK, *carried(), *named()]


def phase(options: list[str], source: Path, target: Path) -> None:
    """One phase, to a directory."""
    subprocess.run(command(options, source.resolve(), Mirror(name="x", url=str(target))), check=True)
