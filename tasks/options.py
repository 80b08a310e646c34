"""What the command line of ``publish`` and ``mirror`` may say (glue: doit's parameters, and their record)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
from doit.exceptions import InvalidCommand

from tasks.errors import SettingsError
from tasks.settings import Mirror

OPTIONS = [
    {"name": "job", "long": "job", "default": "", "help": "poll this Jenkins job alone (JOB_NAME)"},
    {
        "name": "build",
        "long": "build",
        "type": int,
        "default": 0,
        "help": "wait for this build of it to end",
    },
    {
        "name": "wait",
        "long": "wait",
        "type": int,
        "default": 600,
        "help": "seconds to wait for that build",
    },
    {
        "name": "allow_shrink",
        "long": "allow-shrink",
        "type": bool,
        "default": False,
        "help": "let products vanish",
    },
]
ADOPT = [
    {
        "name": "adopt",
        "long": "adopt",
        "type": list,
        "default": [],
        "help": "take over this mirror, whatever lies there",
    }
]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line of ``publish`` may say."""

    job: str = ""
    build: int = 0
    wait: int = 0
    allow_shrink: bool = False


def adopted(options: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """What was said after ``mirror:NAME``, which doit keeps for that task; raises InvalidCommand: exit 3."""
    found = list[str]()
    for task, told in options.items():
        names = told.get("adopt", []) if task.startswith("mirror:") else []
        if {*names} - {"", task.removeprefix("mirror:")}:
            raise InvalidCommand(f"{task} --adopt={' --adopt='.join(names)}: is another mirror")
        found += names
    return found


def pushed(selected: Collection[str], mirrors: Iterable[Mirror]) -> list[Mirror]:
    """The mirrors that these tasks push to."""
    every = not {"publish", "mirror"}.isdisjoint(selected)
    return [one for one in mirrors if every or f"mirror:{one.name}" in selected]


def vain(selected: Collection[str]) -> Iterator[str]:
    """What these tasks would not do together, though it looks so."""
    if "verify" in selected and (asked := [name for name in selected if name.split(":")[0] == "mirror"]):
        name = asked[0].partition(":")[2] or "NAME"
        yield f"verify {asked[0]} would verify what is here, and push: doit verify --mirror={name}"


def inside_own_build(job: str, build: int, environment: Mapping[str, str]) -> None:
    """A step of a build that waits for that build waits for ever; raises SettingsError at once."""
    if environment.get("JOB_NAME") == job and environment.get("BUILD_NUMBER") == str(build):
        fault = (
            f"{job} #{build} is the build that runs this command, and cannot end before it: start the hook in"
            " the background as jenkins/post-step.sh does, or from a job of its own (jenkins/Jenkinsfile)"
        )
        raise SettingsError([fault])
