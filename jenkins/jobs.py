"""Jobs and builds as the stand-in knows them; controller.py holds them all and shows their use."""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack
from urllib.parse import quote

if TYPE_CHECKING:
    from jenkins.controller import Controller

Files = Mapping[str, bytes | Path]
Combination = str | Mapping[str, str] | frozenset[tuple[str, str]]
Runs = Mapping[str, Files] | Mapping[frozenset[tuple[str, str]], Files]

_COLORS = {
    "SUCCESS": "blue", "UNSTABLE": "yellow", "FAILURE": "red",
    "ABORTED": "aborted", "NOT_BUILT": "notbuilt", None: "notbuilt",
}  # fmt: skip
# Which builds a permalink may name: the newest that ended with one of these results.
PERMALINKS = {
    "lastCompletedBuild": {"SUCCESS", "UNSTABLE", "FAILURE", "ABORTED", "NOT_BUILT"},
    "lastStableBuild": {"SUCCESS"},
    "lastSuccessfulBuild": {"SUCCESS", "UNSTABLE"},
    "lastUnstableBuild": {"UNSTABLE"},
    "lastFailedBuild": {"FAILURE"},
    "lastUnsuccessfulBuild": {"UNSTABLE", "FAILURE", "ABORTED", "NOT_BUILT"},
}


class State(StrEnum):
    """How far a build is."""

    NOT_STARTED = "NOT_STARTED"
    BUILDING = "BUILDING"
    POST_PRODUCTION = "POST_PRODUCTION"
    COMPLETED = "COMPLETED"


class Details(TypedDict, total=False):
    """What can be said of a build when it begins; the duration is in ms."""

    result: str
    duration: int
    fingerprint: bool
    parameters: Mapping[str, str]
    description: str
    log: str


class Options(Details, total=False):
    """The same with when (ms since 1970, by the clock if None) and which number (the next)."""

    timestamp: int | None
    number: int | None


def configuration_name(combination: Combination) -> str:
    """Name a combination like Jenkins: its axes in alphabetical order."""
    if isinstance(combination, str):
        pairs = [pair.partition("=")[::2] for pair in combination.split(",") if "=" in pair]
    elif isinstance(combination, Mapping):
        pairs = list(combination.items())
    else:
        pairs = list(combination)
    return ",".join(f"{axis}={value}" for axis, value in sorted(pairs)) or "default"


def quoted(name: str) -> str:
    """One segment of a URL, encoded like Jenkins does."""
    return quote(name, safe="!$&'()*+,-.=@_").replace("~", "%7E")


@dataclass(frozen=True, slots=True)
class View:
    """A filter over the jobs of one folder."""

    name: str
    folder: str
    patterns: tuple[str, ...]

    def shows(self, job: str) -> bool:
        """Tell whether a job of the folder is in the view."""
        return any(fnmatchcase(job, pattern) for pattern in self.patterns)


@dataclass(eq=False)
class Folder:
    """A folder; the one with the empty path is the controller itself."""

    path: str
    multibranch: bool = False
    views: dict[str, View] = field(default_factory=dict)


@dataclass
class Fingerprint:
    """What the controller remembers of some bytes: where it saw them first, and where since."""

    md5: str
    name: str
    timestamp: int
    job: str
    number: int
    usage: dict[str, list[int]]


@dataclass(eq=False, kw_only=True)
class Build:
    """One build of a job, or one run of a configuration."""

    job: "Job" = field(repr=False)
    number: int
    queue: int
    timestamp: int
    state: State = State.NOT_STARTED
    result: str | None = None
    duration: int = 60_000
    fingerprint: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    log: str = ""
    prints: dict[str, str] = field(default_factory=dict)

    @property
    def building(self) -> bool:
        """As the API has it: false as soon as only bookkeeping is left."""
        return self.state in {State.NOT_STARTED, State.BUILDING}

    @property
    def directory(self) -> Path:
        """Where the artifacts are."""
        return self.job.ci.home / "artifacts" / self.job.path / str(self.number)

    @property
    def url_path(self) -> str:
        """The URL without its base."""
        return f"{self.job.url_path}{self.number}/"

    @property
    def artifacts(self) -> list[str]:
        """The relative paths of what is archived, as found on the disk now."""
        top = self.directory
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())

    @property
    def runs(self) -> list["Build"]:
        """Of each configuration the run of this build or, failing that, of the nearest older."""
        return [
            job.builds[max(numbers)]
            for job in self.job.configurations.values()
            if (numbers := [number for number in job.builds if number <= self.number])
        ]

    def environment(self, base: str | None) -> dict[str, str]:
        """List what a shell step of this build finds in its environment."""
        job = self.job
        found = {
            "CI": "true",
            "JOB_NAME": job.path,
            "JOB_BASE_NAME": job.name,
            "BUILD_NUMBER": str(self.number),
            "BUILD_ID": str(self.number),
            "BUILD_TAG": f"jenkins-{job.path.replace('/', '-')}-{self.number}",
            **self.parameters,
        }
        if job.parent:
            found.update(pair.partition("=")[::2] for pair in job.name.split(","))
        if base:
            paths = {"JENKINS_URL": "", "JOB_URL": job.url_path, "BUILD_URL": self.url_path}
            found.update((name, f"{base}/{path}") for name, path in paths.items())
        return found

    def begin(self) -> None:
        """Leave the queue."""
        self._move(State.BUILDING)

    def run(self, combination: Combination, files: Files | None = None) -> "Build":
        """Start this build's run of one configuration, or find it when it was started."""
        job = self.job.configuration(combination)
        with self.job.ci.bulk():
            if self.number not in job.builds:
                fresh = job.queue(
                    number=self.number,
                    timestamp=self.timestamp,
                    duration=self.duration,
                    fingerprint=self.fingerprint,
                    parameters=self.parameters,
                    log=self.log,
                )
                fresh.begin()
        run = job.builds[self.number]
        run.archive(files or {})
        return run

    def archive(self, files: Files, *, fingerprint: bool | None = None) -> None:
        """Store files by relative path; without fingerprints, what was known of them stays."""
        for path, content in files.items():
            _store(self.directory / path, content)
        if files and (self.fingerprint if fingerprint is None else fingerprint):
            with self.job.ci.bulk():
                for path in files:
                    self._remember(path)

    def set_result(self, result: str) -> None:
        """Say how it will end, while it is still building."""
        with self.job.ci.bulk():
            self.result = result

    def post_production(self) -> None:
        """Stop building; the build is not over yet."""
        self._move(State.POST_PRODUCTION)

    def complete(
        self, result: str | None = None, post_build: "Callable[[Build], None] | None" = None
    ) -> None:
        """End, running the last post-build step first; then old builds go."""
        self.set_result(result or self.result or "SUCCESS")
        if post_build:
            post_build(self)
        with self.job.ci.bulk():
            self._move(State.COMPLETED)
            self.job.rotate()

    def purge_artifacts(self) -> None:
        """Remove the artifacts and keep the build, as "max # of builds with artifacts" does."""
        _remove(self.directory)

    def _move(self, state: State) -> None:
        with self.job.ci.bulk():
            self.state = state

    def _remember(self, path: str) -> None:
        """Fingerprint a file: the first name that any build gave its bytes is theirs for ever."""
        md5 = self.job.ci.md5(self.directory / path)
        origin = self.job.path, self.number
        known = self.job.ci.fingerprints.setdefault(
            md5, Fingerprint(md5, Path(path).name, self.timestamp, *origin, {})
        )
        numbers = known.usage.setdefault(self.job.path, [])
        if self.number not in numbers:
            numbers.append(self.number)
        self.prints[path] = md5


@dataclass(eq=False, kw_only=True)
class Job:
    """A job, or one configuration of a matrix job; ``kind`` tells which."""

    ci: "Controller" = field(repr=False)
    path: str
    kind: str
    parent: "Job | None" = field(default=None, repr=False)
    keep: int = 0
    disabled: bool = False
    next_number: int = 1
    active: list[str] = field(default_factory=list)
    configurations: dict[str, "Job"] = field(default_factory=dict, repr=False)
    builds: dict[int, Build] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @cached_property
    def url_path(self) -> str:
        """The URL without its base."""
        if self.parent:
            return f"{self.parent.url_path}{quoted(self.name)}/"
        return "".join(f"job/{quoted(name)}/" for name in self.path.split("/"))

    @property
    def color(self) -> str:
        """What the ball beside the job's name looks like."""
        done = self.permalink("lastCompletedBuild")
        color = "disabled" if self.disabled else _COLORS[done.result if done else None]
        last = self.permalink("lastBuild")
        return f"{color}_anime" if last and last.building else color

    def permalink(self, name: str) -> Build | None:
        """Find the build that lastSuccessfulBuild or one of its kin stands for."""
        builds = reversed(self.builds.values())
        if name == "lastBuild":
            return next(builds, None)
        results = PERMALINKS[name]
        return next((b for b in builds if b.result in results and not b.building), None)

    def configuration(self, combination: Combination) -> "Job":
        """One configuration, active or not."""
        return self.configurations[configuration_name(combination)]

    def queue(
        self,
        *,
        number: int | None = None,
        timestamp: int | None = None,
        **details: Unpack[Details],
    ) -> Build:
        """Add a build that waits; a number that was reached before means a job made anew."""
        ci = self.ci
        with ci.bulk():
            number = number or self.next_number
            if self.builds and number <= next(reversed(self.builds)):
                for old in list(self.builds):
                    self.delete_build(old)
            ci.next_queue += 1
            when = ci.clock() if timestamp is None else timestamp
            build = Build(job=self, number=number, queue=ci.next_queue, timestamp=when, **details)
            self.builds[number] = build
            self.next_number = number + 1
        return build

    def start(self, **options: Unpack[Options]) -> Build:
        """Add a build that runs."""
        with self.ci.bulk():
            build = self.queue(**options)
            build.begin()
        return build

    def build(
        self,
        runs: Runs | None = None,
        *,
        files: Files | None = None,
        post_build: Callable[[Build], None] | None = None,
        **options: Unpack[Options],
    ) -> Build:
        """Add a completed build, with these runs if the job is a matrix."""
        result = options.pop("result", "SUCCESS")
        # A hook asks the server, which must not wait for this build to end.
        with nullcontext() if post_build else self.ci.bulk():
            build = self.start(**options)
            build.archive(files or {})
            for combination, content in (runs or {}).items():
                build.run(combination, content).complete(result, post_build)
            build.complete(result, None if self.kind == "matrix" else post_build)
        return build

    def rotate(self) -> None:
        """Drop all but the newest builds, the last good ones and what still runs.

        Runs go with their parent, even when they are the last good ones of a configuration.
        """
        if not self.keep:
            return
        good = (self.permalink("lastSuccessfulBuild"), self.permalink("lastStableBuild"))
        for number in list(self.builds)[: -self.keep]:
            build = self.builds[number]
            if build not in good and not build.building:
                self.delete_build(number)

    def delete_build(self, number: int) -> None:
        """Delete a build, and its runs if the job is a matrix."""
        with self.ci.bulk():
            for job in self.configurations.values():
                if number in job.builds:
                    job.delete_build(number)
            _remove(self.builds.pop(number).directory)

    def disable(self) -> None:
        """Let it build no more."""
        with self.ci.bulk():
            self.disabled = True

    def remove(self) -> None:
        """Delete the job and all it built."""
        with self.ci.bulk():
            del self.ci.jobs[self.path]
            _remove(self.ci.home / "artifacts" / self.path)


def _store(target: Path, content: bytes | Path) -> None:
    """Put a new file in place, so that who is reading the old one keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
        return
    try:
        os.link(content, target)
    except OSError:
        shutil.copyfile(content, target)


def _remove(directory: Path) -> None:
    """Gone at once by a rename, as Jenkins does it; the rest takes its time."""
    doomed = directory.with_name(f".{directory.name}")
    shutil.rmtree(doomed, ignore_errors=True)  # of a process that was killed here
    with suppress(FileNotFoundError):
        directory.rename(doomed)
        shutil.rmtree(doomed)
