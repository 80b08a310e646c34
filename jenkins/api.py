"""Jenkins' JSON, typed (pure): what to ask for, and records of what comes back.

Fields and their traps: hudson.model.Run, hudson.matrix.MatrixProject and the tree grammar of
org.kohsuke.stapler.export.NamedPathPruner. Unknown fields are ignored, absent ones are None.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec

from jenkins.errors import Malformed

Record = TypeVar("Record", bound=msgspec.Struct)
_BUILD = "[number,url,timestamp,result,building]"
_DEPTH = 4  # folders in folders in one answer: the tree grammar has no recursion
_OLDER = 10  # how far back the newest tested build is looked for
_TESTS = 1000  # how many runs of the test job are looked at


class Build(msgspec.Struct, frozen=True):
    """One build as lists of builds show it."""

    number: int
    url: str | None = None
    timestamp: int = 0
    result: str | None = None
    building: bool | None = False


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """One archived file. Jenkins exports neither size nor checksum."""

    relative_path: str


class Fingerprint(msgspec.Struct, frozen=True):
    """The md5 of some archived file of a build.

    Not of a named one: the record is global per content and shows the name under which that content
    was first seen anywhere, so only «is it one of these» can be asked.
    """

    hash: str


class BuildDetail(msgspec.Struct, frozen=True, rename="camel"):
    """One build with its artifacts; either list may be null or absent."""

    number: int
    result: str | None = None
    building: bool | None = False
    in_progress: bool | None = False
    timestamp: int = 0
    artifacts: tuple[Artifact, ...] | None = None
    fingerprint: tuple[Fingerprint, ...] | None = None


class Job(msgspec.Struct, frozen=True, rename="camel"):
    """A job, a matrix configuration, or a folder of jobs."""

    name: str
    url: str | None = None
    last_successful_build: Build | None = None
    last_stable_build: Build | None = None
    builds: tuple[Build, ...] | None = None
    active_configurations: tuple["Job", ...] | None = None
    jobs: tuple["Job", ...] | None = None

    def finished(self, *, unstable: bool) -> tuple[Build, ...]:
        """The builds that ended well, newest first; UNSTABLE ones only when asked for."""
        good = ("SUCCESS", "UNSTABLE") if unstable else ("SUCCESS",)
        last = self.last_successful_build if unstable else self.last_stable_build
        seen = {build.number: build for build in (*(self.builds or ()), *([last] if last else []))}
        ended = (b for b in seen.values() if not b.building and b.result in good)
        return tuple(sorted(ended, key=lambda build: build.number, reverse=True))


class Parameter(msgspec.Struct, frozen=True):
    """A build parameter; values of other types than text do not matter to us."""

    name: str | None = None
    value: object = None


class Action(msgspec.Struct, frozen=True):
    """One action of a build; most are empty objects."""

    parameters: tuple[Parameter, ...] | None = None


class TestRun(msgspec.Struct, frozen=True):
    """One run of the test job."""

    result: str | None = None
    building: bool | None = False
    timestamp: int | None = None
    actions: tuple[Action | None, ...] | None = None

    def parameter(self, name: str) -> str | None:
        """The value of a parameter, where it is text."""
        for action in self.actions or ():
            for parameter in (action and action.parameters) or ():
                if parameter.name == name and isinstance(parameter.value, str):
                    return parameter.value
        return None


class _Top(msgspec.Struct, frozen=True):
    jobs: tuple[Job, ...] | None = None


class _Tests(msgspec.Struct, frozen=True, rename="camel"):
    all_builds: tuple[TestRun, ...] | None = None


def jobs_tree(*, older: bool, unstable: bool) -> str:
    """The tree for every job, configuration and folder; with ``older`` builds also the last few.

    lastStableBuild is SUCCESS only, lastSuccessfulBuild is UNSTABLE too (PermalinkProjectAction).
    """
    return _nested(job_tree(older=older, unstable=unstable))


def job_tree(*, older: bool, unstable: bool) -> str:
    """The tree for one job with its configurations."""
    last = "lastSuccessfulBuild" if unstable else "lastStableBuild"
    builds = f"{last}{_BUILD}" + (f",builds{_BUILD}{{0,{_OLDER}}}" if older else "")
    return f"name,url,{builds},activeConfigurations[name,url,{builds}]"


def _nested(fields: str) -> str:
    """The tree for these fields of every job; of the deepest folders only whether they hold anything."""
    tree = f"{fields},jobs[name]{{0,1}}"
    for _ in range(_DEPTH):
        tree = f"{fields},jobs[{tree}]"
    return f"jobs[{tree}]"


NAMES_TREE = _nested("name,url")
BUILD_TREE = "number,result,building,timestamp,artifacts[relativePath],fingerprint[hash]"
STATE_TREE = "number,result,building,inProgress,timestamp"
TESTS_TREE = f"allBuilds[result,building,timestamp,actions[parameters[name,value]]]{{0,{_TESTS}}}"


def parse_jobs(answer: bytes) -> Iterator[tuple[str, Job]]:
    """Every job with its path below the asked object (``a/b/name``); raises Malformed.

    What a folder holds follows it, and its own ``jobs`` is empty; a folder that still has some was too
    deep for one answer and is to be asked itself.
    """
    return _walk(_decode(answer, _Top).jobs or (), "", _DEPTH)


def parse_job(answer: bytes) -> Job:
    """One job; raises Malformed."""
    return _decode(answer, Job)


def parse_build(answer: bytes) -> BuildDetail:
    """One build; raises Malformed."""
    return _decode(answer, BuildDetail)


def parse_tests(answer: bytes) -> tuple[TestRun, ...]:
    """The runs of the test job, newest first; raises Malformed."""
    return _decode(answer, _Tests).all_builds or ()


def axes(configuration: str) -> dict[str, str]:
    """``architecture=amd64,release=noble`` as a dict; what has no ``=`` is left out."""
    pairs = (pair.partition("=") for pair in configuration.split(","))
    return {name: value for name, equals, value in pairs if equals}


def configuration_name(configuration: str) -> str:
    """A configuration with its axes in the order of Jenkins' own names; URLs may have any."""
    return ",".join(f"{name}={value}" for name, value in sorted(axes(configuration).items()))


def job_path(name: str) -> str:
    """``a/b/c`` as Jenkins' URL path ``job/a/job/b/job/c``."""
    return "/".join(f"job/{quoted(part)}" for part in name.split("/") if part)


def split_job(job: str) -> tuple[str, str]:
    """Jenkins' JOB_NAME as (job, configuration or "")."""
    name, _, last = job.rpartition("/")
    return (name, last) if "=" in last else (job, "")


def run_path(job: str) -> str:
    """The URL path of a job, or of a job and its configuration."""
    name, configuration = split_job(job)
    return job_path(name) + (f"/{quoted(configuration)}" if configuration else "")


def quoted(segment: str) -> str:
    """One path segment, encoded as Jenkins itself does it (hudson.Util.rawEncode)."""
    return quote(segment, safe="!$&'()*+,-.=@_")


def job_name(url: str) -> tuple[str, ...] | None:
    """The names along a job's or build's URL: (folder, ..., job[, configuration][, number]).

    Only the part from the first ``/job/`` on counts: the host that Jenkins writes is whatever its
    administrator once typed. None where the URL is no job's.
    """
    try:
        path = urlsplit(url).path.strip("/").split("/")
    except ValueError:
        return None
    if "job" not in path:
        return None
    names, rest = [], path[path.index("job") :]
    while len(rest) > 1 and rest[0] == "job":
        names.append(unquote(rest[1]))
        rest = rest[2:]
    return (*names, *map(unquote, rest))


def _walk(jobs: Iterable[Job], above: str, levels: int) -> Iterator[tuple[str, Job]]:
    for job in jobs:
        path = f"{above}{job.name}"
        if not levels or not job.jobs:
            yield path, job
            continue
        yield path, msgspec.structs.replace(job, jobs=())
        yield from _walk(job.jobs, f"{path}/", levels - 1)


def _decode(answer: bytes, kind: type[Record]) -> Record:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"not what Jenkins says: {error}") from error
