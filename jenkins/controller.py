"""A stand-in for what a Jenkins controller knows: folders, jobs, builds and their artifacts.

    ci = Controller(home)                          # loads what is there, or starts empty
    ci.folder("images/nightly")
    job = ci.matrix("image-ubuntu", axes={"release": ["noble"], "architecture": ["amd64"]})
    job.build({"release=noble,architecture=amd64": {"serial": b"20260101_0000"}})
    ci.freestyle("test-image").build(parameters={"image": "image-ubuntu", "build": "1"})

A configuration is given as "axis=value,..." in any order, a mapping, or a set of pairs. What
happens inside a build goes step by step; here a configuration is done while its parent runs:

    parent = job.start()                           # queue() leaves it NOT_STARTED
    run = parent.run("release=noble,architecture=amd64")
    run.archive({"disk.qcow2": Path("disk.qcow2")})        # a Path is linked, not copied
    run.set_result("SUCCESS")                      # known, and still building
    run.complete(post_build=hook)                  # hook(run) is called just before building ends
    parent.complete("SUCCESS")

All of it is in ``home``: controller.json, replaced at each change (``with ci.bulk():`` once for
many), and artifacts/<job>/<configuration>/<number>/. Other processes may change it in between.
"""

import fcntl
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import astuple
from operator import attrgetter
from pathlib import Path
from typing import Any

from jenkins.jobs import Build, Fingerprint, Folder, Job, State, View, configuration_name

__all__ = ["Controller"]

_BUILD = (
    "number", "queue", "timestamp", "state", "result", "duration",
    "fingerprint", "parameters", "description", "log", "prints",
)  # fmt: skip
_JOB = ("kind", "keep", "disabled", "next_number", "active")


class Controller:
    """All of it, in a directory that other processes may use as well."""

    def __init__(self, home: Path, clock: Callable[[], int] | None = None) -> None:
        self.home = home
        self.clock = clock or (lambda: time.time_ns() // 1_000_000)
        self.on_trigger: Callable[[Build], None] | None = None
        self.quieting_down = False
        self.lock = threading.RLock()
        self.folders = {"": Folder("")}
        self.jobs: dict[str, Job] = {}
        self.fingerprints: dict[str, Fingerprint] = {}
        self.next_queue = 0
        self._md5s: dict[tuple[int, ...], str] = {}
        self._nested = 0
        self._seen: tuple[int, int] | None = None
        home.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def folder(self, path: str, *, multibranch: bool = False) -> None:
        """Make a folder; those above it must exist."""
        with self.bulk():
            self._above(path)
            self.folders.setdefault(path, Folder(path, multibranch))

    def view(self, name: str, *, jobs: list[str], folder: str = "") -> None:
        """Make a view of the folder's jobs that match one of the patterns."""
        with self.bulk():
            self.folders[folder].views[name] = View(name, folder, tuple(jobs))

    def freestyle(self, name: str, *, folder: str = "", keep: int = 0) -> Job:
        """Make or change a freestyle job."""
        return self._job("freestyle", name, folder, keep)

    def pipeline(self, name: str, *, folder: str = "", keep: int = 0) -> Job:
        """Make or change a pipeline."""
        return self._job("pipeline", name, folder, keep)

    def matrix(
        self,
        name: str,
        axes: Mapping[str, list[str]],
        *,
        folder: str = "",
        keep: int = 0,
        only: list[Mapping[str, str]] | None = None,
    ) -> Job:
        """Make or change a matrix job; ``only`` is what its combination filter lets through."""
        product = [
            configuration_name(dict(zip(axes, values, strict=True)))
            for values in itertools.product(*axes.values())
        ]
        chosen = product if only is None else [configuration_name(one) for one in only]
        with self.bulk():
            job = self._job("matrix", name, folder, keep)
            job.active = [one for one in product if one in set(chosen)]
            job.configurations = {
                one: job.configurations.get(one) or self._configuration(job, one)
                for one in [*job.active, *job.configurations]
            }
        return job

    def job(self, path: str) -> Job:
        """Look up a job by its full name."""
        return self.jobs[path]

    def md5(self, path: Path) -> str:
        """Hash a file, once however often it is linked."""
        found = path.stat()
        key = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        if key not in self._md5s:
            with path.open("rb") as file:
                self._md5s[key] = hashlib.file_digest(file, "md5").hexdigest()
        return self._md5s[key]

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Save once at the end; nobody else changes anything meanwhile."""
        with self.lock, nullcontext() if self._nested else self._exclusive():
            self._nested += 1
            try:
                yield
            finally:
                self._nested -= 1
                if not self._nested:
                    self._save()

    def refresh(self) -> None:
        """Take over what another process changed."""
        with self.lock:
            seen = self._stat()
            if not self._nested and seen != self._seen:
                self._load()
                self._seen = seen

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield

    @property
    def _file(self) -> Path:
        return self.home / "controller.json"

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _above(self, path: str) -> Folder:
        return self.folders[path.rpartition("/")[0]]

    def _job(self, kind: str, name: str, folder: str, keep: int) -> Job:
        path = f"{folder}/{name}".lstrip("/")
        self._above(path)
        with self.bulk():
            job = self.jobs.setdefault(path, Job(ci=self, path=path, kind=kind))
            job.keep = keep
        return job

    def _configuration(self, parent: Job, name: str) -> Job:
        return Job(ci=self, path=f"{parent.path}/{name}", kind="configuration", parent=parent)

    def _save(self) -> None:
        document = {
            "next_queue": self.next_queue,
            "folders": [
                [f.path, f.multibranch, [[v.name, v.patterns] for v in f.views.values()]]
                for f in self.folders.values()
            ],
            "jobs": {path: _dumped(job) for path, job in self.jobs.items()},
            "fingerprints": [astuple(one) for one in self.fingerprints.values()],
        }
        temporary = self._file.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(document, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._file)
        self._seen = self._stat()

    def _load(self) -> None:
        document = json.loads(self._file.read_text())
        self.next_queue = document["next_queue"]
        self.folders = {
            path: Folder(path, multi, {n: View(n, path, tuple(globs)) for n, globs in views})
            for path, multi, views in document["folders"]
        }
        self.jobs = {
            path: self._filled(self.jobs.get(path) or Job(ci=self, path=path, kind=""), record)
            for path, record in document["jobs"].items()
        }
        self.fingerprints = {record[0]: Fingerprint(*record) for record in document["fingerprints"]}

    def _filled(self, job: Job, record: dict[str, Any]) -> Job:
        """Change the job that callers may hold, rather than give them a new one."""
        vars(job).update(zip(_JOB, record["job"], strict=True))
        job.configurations = {
            name: self._filled(job.configurations.get(name) or self._configuration(job, name), each)
            for name, each in record["configurations"].items()
        }
        before = job.builds
        job.builds = {}
        for row in record["builds"]:
            build = before.get(row[0]) or Build(job=job, number=row[0], queue=0, timestamp=0)
            vars(build).update(zip(_BUILD, row, strict=True))
            build.state = State(build.state)
            job.builds[build.number] = build
        return job


def _dumped(job: Job) -> dict[str, object]:
    return {
        "job": attrgetter(*_JOB)(job),
        "builds": [attrgetter(*_BUILD)(build) for build in job.builds.values()],
        "configurations": {name: _dumped(each) for name, each in job.configurations.items()},
    }
