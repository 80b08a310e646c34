"""What the command line of ``publish`` and ``mirror`` may say (glue: doit's parameters, and their record)."""

from collections.abc import Mapping

import msgspec

from tasks.errors import SettingsError

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
    {"name": "adopt", "long": "adopt", "default": "", "help": "take over this mirror, whatever lies there"}
]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line of ``publish`` may say."""

    job: str = ""
    build: int = 0
    wait: int = 0
    allow_shrink: bool = False


def inside_own_build(job: str, build: int, environment: Mapping[str, str]) -> None:
    """A step of a build that waits for that build waits for ever; raises SettingsError at once."""
    if environment.get("JOB_NAME") == job and environment.get("BUILD_NUMBER") == str(build):
        fault = (
            f"{job} #{build} is the build that runs this command, and cannot end before it: start the hook in"
            " the background as jenkins/post-step.sh does, or from a job of its own (jenkins/Jenkinsfile)"
        )
        raise SettingsError([fault])
