"""The one place that decides what happens when a program or a right that the tests need is missing."""

import os
import shutil
from pathlib import Path

import pytest

INSTALL = "sh tests/install-clients"
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def need(*programs: str) -> None:
    """Skip the test, or fail it in CI, when one of these programs is missing."""
    missing = [name for name in programs if _find(name) is None]
    if not missing:
        return
    message = f"{', '.join(missing)}: not installed; as root, `{INSTALL}` installs it"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need_root(what: str = "containers take root; run pytest as root to see them started") -> None:
    """Skip the test, or fail it in CI, when it is not root that runs it."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def program(name: str) -> str:
    """Return the absolute path of a program that the test cannot do without."""
    need(name)
    return str(_find(name))


def _find(name: str) -> str | None:
    path = shutil.which(name, path=PATH)
    return None if path is None or _is_snap(path) else path


def _is_snap(path: str) -> bool:
    # A snap cannot read the test's files; Ubuntu's /usr/sbin/lxc is a stub that installs one.
    return path == "/usr/sbin/lxc" or Path(path).resolve().name == "snap"
