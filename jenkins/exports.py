"""What each object of the stand-in shows in the API, and which object a URL path names.

The properties are those of jenkinsci/jenkins (hudson.model), matrix-project-plugin and
workflow-job; what Jenkins exports without a ``_class`` has none here either.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from jenkins.controller import Controller
from jenkins.jobs import (
    PERMALINKS,
    Build,
    Fingerprint,
    Folder,
    Job,
    State,
    View,
    configuration_name,
    quoted,
)
from jenkins.treequery import Value

Subject = Folder | View | Job | Build | Fingerprint
T = TypeVar("T")
Table = Mapping[str, Callable[[T, "Site"], Value]]

_PIPELINE = "org.jenkinsci.plugins.workflow"
_LIST_CUTOFF = 20  # hudson.model.Run: with more artifacts than that none has a displayPath
_NEWEST = 100  # hudson.model.Job: no more builds than that are in builds[]


@dataclass(frozen=True, slots=True)
class Site:
    """A controller as one visitor sees it: under some URL, without what is hidden from them."""

    ci: Controller
    url: str | None
    hidden: Callable[[str], bool]
    secured: bool

    def link(self, subject: Subject) -> str | None:
        """Make an absolute URL; there is none while the "Jenkins URL" is not set."""
        return None if self.url is None else f"{self.url}/{url_path(subject)}"

    def show(self, subject: Subject | None) -> Value:
        """Export an object."""
        match subject:
            case Folder():
                kind = "multibranch" if subject.multibranch else "folder"
                return _Exported(subject, self, _FOLDERS[kind if subject.path else "root"])
            case View():
                return _Exported(subject, self, _VIEW)
            case Job():
                return _Exported(subject, self, _JOBS[subject.kind])
            case Build():
                return _Exported(subject, self, _BUILDS[subject.job.kind])
            case Fingerprint():
                return _Exported(subject, self, _FINGERPRINT)
        return None

    def each(self, subjects: Iterable[Subject]) -> list[Value]:
        """Export some objects."""
        return [self.show(subject) for subject in subjects]

    def jobs(self, folder: str, view: View | None = None) -> list[Value]:
        """Export what a folder holds, or a view of it shows."""
        items: dict[str, Subject] = {**self.ci.folders, **self.ci.jobs}
        return self.each(
            items[path]
            for path in sorted(items)
            if path and path.rpartition("/")[0] == folder and not self.hidden(path)
            if view is None or view.shows(path.rpartition("/")[2])
        )


@dataclass(frozen=True, slots=True)
class _Exported(Mapping[str, Value], Generic[T]):
    """An object as a mapping that computes its properties when asked."""

    subject: T
    site: Site
    table: Table[T]

    def __getitem__(self, name: str) -> Value:
        return self.table[name](self.subject, self.site)

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


def _constant(value: Value) -> Callable[[object, Site], Value]:
    return lambda _subject, _site: value


def _permalink(name: str) -> Callable[[Job, Site], Value]:
    return lambda job, site: site.show(job.permalink(name))


def _actions(build: Build, _site: Site) -> Value:
    """List the cause, an action that exports nothing as most do, and the parameters."""
    cause = {"_class": "hudson.model.Cause$UserIdCause", "shortDescription": "Started by admin"}
    actions: list[Value] = [{"_class": "hudson.model.CauseAction", "causes": [cause]}, {}]
    if build.parameters:
        kind = "hudson.model.StringParameterValue"
        given = [{"_class": kind, "name": n, "value": v} for n, v in build.parameters.items()]
        actions.append({"_class": "hudson.model.ParametersAction", "parameters": given})
    return actions


def _artifacts(build: Build, _site: Site) -> Value:
    paths = build.artifacts
    return [
        {
            "displayPath": _display_path(path, paths) if len(paths) <= _LIST_CUTOFF else None,
            "fileName": PurePosixPath(path).name,
            "relativePath": path,
        }
        for path in paths
    ]


def _display_path(path: str, paths: Sequence[str]) -> str:
    """Shorten a path to the end that no other path has."""
    parts = path.split("/")
    ends = ("/".join(parts[-length:]) for length in range(1, len(parts)))
    return next((e for e in ends if sum(f"/{p}".endswith(f"/{e}") for p in paths) == 1), path)


def _usage(fingerprint: Fingerprint, _site: Site) -> Value:
    return [
        {"name": job, "ranges": {"ranges": [{"start": n, "end": n + 1} for n in numbers]}}
        for job, numbers in fingerprint.usage.items()
    ]


def _neighbour(build: Build, site: Site, step: int) -> Value:
    numbers = list(build.job.builds)
    at = numbers.index(build.number) + step
    return site.show(build.job.builds[numbers[at]]) if 0 <= at < len(numbers) else None


def _display_name(job: Job) -> str:
    """Show a configuration as its values alone."""
    pairs = job.name.split(",") if job.parent else [job.name]
    return ",".join(pair.rpartition("=")[2] for pair in pairs)


def _full_display_name(job: Job) -> str:
    return " » ".join([*job.path.split("/")[:-1], _display_name(job)])


_JOB: Table[Job] = {
    "actions": _constant([]),
    "allBuilds": lambda job, site: site.each(reversed(job.builds.values())),
    "buildable": lambda job, _: not job.disabled,
    "builds": lambda job, site: site.each([*reversed(job.builds.values())][:_NEWEST]),
    "color": lambda job, _: job.color,
    "concurrentBuild": _constant(value=False),
    "description": _constant(""),
    "displayName": lambda job, _: _display_name(job),
    "firstBuild": lambda job, site: site.show(next(iter(job.builds.values()), None)),
    "fullDisplayName": lambda job, _: _full_display_name(job),
    "fullName": lambda job, _: job.path,
    "inQueue": _constant(value=False),
    **{name: _permalink(name) for name in ("lastBuild", *PERMALINKS)},
    "name": lambda job, _: job.name,
    "nextBuildNumber": lambda job, _: job.next_number,
    "property": _constant([]),
    "queueItem": _constant(None),
    "url": lambda job, site: site.link(job),
}
_PROJECT: Table[Job] = {
    **_JOB,
    "disabled": lambda job, _: job.disabled,
    "downstreamProjects": _constant([]),
    "scm": _constant({"_class": "hudson.scm.NullSCM"}),
    "upstreamProjects": _constant([]),
}
_JOBS: Mapping[str, Table[Job]] = {
    "freestyle": {"_class": _constant("hudson.model.FreeStyleProject"), **_PROJECT},
    "configuration": {"_class": _constant("hudson.matrix.MatrixConfiguration"), **_PROJECT},
    "matrix": {
        "_class": _constant("hudson.matrix.MatrixProject"),
        **_PROJECT,
        "activeConfigurations": lambda job, site: site.each(job.configurations[name] for name in job.active),
    },
    "pipeline": {
        "_class": _constant(f"{_PIPELINE}.job.WorkflowJob"),
        **_JOB,
        "resumeBlocked": _constant(value=False),
    },
}
_RUN: Table[Build] = {
    "actions": _actions,
    "artifacts": _artifacts,
    "building": lambda build, _: build.building,
    "description": lambda build, _: build.description or None,
    "displayName": lambda build, _: f"#{build.number}",
    "duration": lambda build, _: 0 if build.building else build.duration,
    "estimatedDuration": lambda build, _: build.duration,
    "executor": _constant(None),
    "fingerprint": lambda build, site: site.each(
        site.ci.fingerprints[md5] for _, md5 in sorted(build.prints.items())
    ),
    "fullDisplayName": lambda build, _: f"{_full_display_name(build.job)} #{build.number}",
    "id": lambda build, _: str(build.number),
    "inProgress": lambda build, _: build.state in {State.BUILDING, State.POST_PRODUCTION},
    "keepLog": _constant(value=False),
    "number": lambda build, _: build.number,
    "queueId": lambda build, _: build.queue,
    "result": lambda build, _: build.result,
    "timestamp": lambda build, _: build.timestamp,
    "url": lambda build, site: site.link(build),
}
_ABSTRACT_BUILD: Table[Build] = {
    **_RUN,
    "builtOn": _constant(""),
    "changeSet": _constant({"_class": "hudson.scm.EmptyChangeLogSet", "items": [], "kind": None}),
    "culprits": _constant([]),
}
_BUILDS: Mapping[str, Table[Build]] = {
    "freestyle": {"_class": _constant("hudson.model.FreeStyleBuild"), **_ABSTRACT_BUILD},
    "configuration": {"_class": _constant("hudson.matrix.MatrixRun"), **_ABSTRACT_BUILD},
    "matrix": {
        "_class": _constant("hudson.matrix.MatrixBuild"),
        **_ABSTRACT_BUILD,
        "runs": lambda build, site: site.each(build.runs),
    },
    "pipeline": {
        "_class": _constant(f"{_PIPELINE}.job.WorkflowRun"),
        **_RUN,
        "changeSets": _constant([]),
        "nextBuild": partial(_neighbour, step=1),
        "previousBuild": partial(_neighbour, step=-1),
    },
}
_FINGERPRINT: Table[Fingerprint] = {
    "fileName": lambda known, _: known.name,
    "hash": lambda known, _: known.md5,
    "original": lambda known, _: {"name": known.job, "number": known.number},
    "timestamp": lambda known, _: known.timestamp,
    "usage": _usage,
}
_VIEW: Table[View] = {
    "_class": lambda view, _: f"hudson.model.{'AllView' if view.name == 'all' else 'ListView'}",
    "description": _constant(None),
    "jobs": lambda view, site: site.jobs(view.folder, view),
    "name": lambda view, _: view.name,
    "property": _constant([]),
    "url": lambda view, site: site.link(view),
}
_GROUP: Table[Folder] = {
    "actions": _constant([]),
    "description": _constant(None),
    "jobs": lambda folder, site: site.jobs(folder.path),
    "primaryView": lambda folder, site: site.show(_all(folder)),
    "url": lambda folder, site: site.link(folder),
    "views": lambda folder, site: site.each([_all(folder), *folder.views.values()]),
}
_FOLDER: Table[Folder] = {
    **_GROUP,
    "displayName": lambda folder, _: folder.path.rpartition("/")[2],
    "fullDisplayName": lambda folder, _: folder.path.replace("/", " » "),
    "fullName": lambda folder, _: folder.path,
    "healthReport": _constant([]),
    "name": lambda folder, _: folder.path.rpartition("/")[2],
}
_FOLDERS: Mapping[str, Table[Folder]] = {
    "folder": {"_class": _constant("com.cloudbees.hudson.plugins.folder.Folder"), **_FOLDER},
    "multibranch": {
        "_class": _constant(f"{_PIPELINE}.multibranch.WorkflowMultiBranchProject"),
        **_FOLDER,
    },
    "root": {
        "_class": _constant("hudson.model.Hudson"),
        **_GROUP,
        "mode": _constant("NORMAL"),
        "quietingDown": lambda _, site: site.ci.quieting_down,
        "useCrumbs": _constant(value=True),
        "useSecurity": lambda _, site: site.secured,
    },
}


def _all(folder: Folder) -> View:
    return View("all", folder.path, ("*",))


def url_path(subject: Subject) -> str:
    """Make the URL of an object, without its base."""
    match subject:
        case Job() | Build():
            return subject.url_path
        case Folder(path=path):
            return "".join(f"job/{quoted(name)}/" for name in path.split("/") if name)
        case View(name=name, folder=folder):
            return url_path(Folder(folder)) + ("" if name == "all" else f"view/{quoted(name)}/")
        case Fingerprint(md5=md5):
            return f"fingerprint/{md5}/"


class Moved(Exception):  # noqa: N818 - an answer, not an error
    """The path names a run that an older build made; ``args`` holds where that is."""


def find(ci: Controller, segments: list[str]) -> tuple[Subject, list[str]]:
    """Follow a path as far as it names objects; the rest is what is asked of the last one."""
    subject: Subject = ci.folders[""]
    while segments:
        found: Subject | None = None
        used = 1
        match subject:
            case Folder(path=path) | View(folder=path):
                found, used = _in_folder(ci, path, segments[:2]), 2
            case Job():
                found = _in_job(subject, segments[0])
            case Build():
                found = _in_build(subject, segments)
        if found is None:
            break
        subject, segments = found, segments[used:]
    return subject, segments


def _in_folder(ci: Controller, folder: str, words: Sequence[str]) -> Subject | None:
    match words:
        case ["job", name]:
            path = f"{folder}/{name}".lstrip("/")
            return ci.jobs.get(path) or ci.folders.get(path)
        case ["view", "all"]:
            return _all(ci.folders[folder])
        case ["view", name]:
            return ci.folders[folder].views.get(name)
        case ["fingerprint", md5] if not folder:
            return ci.fingerprints.get(md5)
    return None


def _in_job(job: Job, word: str) -> Subject | None:
    if word.isdecimal():
        return job.builds.get(int(word))
    if word == "lastBuild" or word in PERMALINKS:
        return job.permalink(word)
    return job.configurations.get(configuration_name(word)) if _combines(word) else None


def _in_build(build: Build, segments: Sequence[str]) -> Build | None:
    if not _combines(segments[0]):
        return None
    name = configuration_name(segments[0])
    run = next((run for run in build.runs if run.job.name == name), None)
    if run and run.number != build.number:
        raise Moved(url_path(run) + "/".join(quoted(word) for word in segments[1:]))
    return run


def _combines(word: str) -> bool:
    return "=" in word or word == "default"
