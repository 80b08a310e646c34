"""The script that installs the clients, and the one that CI starts, as far as they touch no system."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests/install-clients"
BOOKWORM = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"

DEB822 = f"""\
Types: deb deb-src
# http://archive.example.org/debian/20250520T000000Z
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates
Components: main contrib
Check-Valid-Until: no
Signed-By: {KEY}

Types: deb
URIs: http://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: {KEY}
"""
DEB822_BACKPORTS = f"""\
Types: deb
URIs: http://mirror.example.org/debian
Suites: bookworm-backports
Components: main contrib
Check-Valid-Until: no
Signed-By: {KEY}
"""
FOLDED = """\
Enabled: no
Types: deb
URIs: http://disabled.example.org/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://third.example.org/debian
Suites: bookworm
Components: stable

types: deb
uris: http://mirror.example.org/debian
suites:
 bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEXample
 -----END PGP PUBLIC KEY BLOCK-----
"""
FOLDED_BACKPORTS = """\
Types: deb
uris: http://mirror.example.org/debian
Suites: bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEXample
 -----END PGP PUBLIC KEY BLOCK-----
"""
CLASSIC = f"""\
# deb http://commented.example.org/debian bookworm main
deb-src http://mirror.example.org/debian bookworm main
deb [arch=amd64] https://third.example.org/linux/debian bookworm stable
deb http://mirror.example.org/debian-security bookworm-security main
deb [ arch=amd64 signed-by={KEY} ] http://mirror.example.org/debian/ bookworm main contrib # main
deb http://mirror.example.org/debian/ bookworm-updates main contrib
"""
CLASSIC_BACKPORTS = (
    f"deb [ arch=amd64 signed-by={KEY} ] http://mirror.example.org/debian/ bookworm-backports main contrib\n"
)
THIRD = "deb https://third.example.org/debian bookworm main\n"  # looks like Debian's, sorts first


def run_script(
    apt: Path, *words: str, os_release: str = BOOKWORM, **more: str
) -> subprocess.CompletedProcess[str]:
    (apt / "os-release").write_text(os_release)
    env = {**os.environ, "APT_DIR": str(apt), "OS_RELEASE": str(apt / "os-release"), **more}
    argv = ["sh", str(SCRIPT), *words]
    return subprocess.run(argv, env=env, check=False, timeout=60, capture_output=True, text=True)


def write(apt: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (apt / name).parent.mkdir(exist_ok=True)
        (apt / name).write_text(text)


def added(apt: Path) -> dict[str, str]:
    """What the script has written: its file's suffix, and the text."""
    found = apt.glob("sources.list.d/imagepress-backports.*")
    return {file.suffix: file.read_text() for file in found}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sources.list.d/debian.sources": DEB822}, {".sources": DEB822_BACKPORTS}),
        ({"sources.list.d/debian.sources": FOLDED}, {".sources": FOLDED_BACKPORTS}),
        ({"sources.list": CLASSIC}, {".list": CLASSIC_BACKPORTS}),
        ({"sources.list.d/main.list": CLASSIC}, {".list": CLASSIC_BACKPORTS}),
        (
            {
                "sources.list": "",
                "sources.list.d/a.list": THIRD,
                "sources.list.d/debian.sources": DEB822,
            },
            {".sources": DEB822_BACKPORTS},
        ),
    ],
    ids=["deb822", "folded deb822", "classic", "classic folder", "beside a third party"],
)
def test_backports_are_the_main_archive_of_this_machine(
    files: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    write(tmp_path, files)
    for _ in range(2):  # the second time there is nothing to do
        done = run_script(tmp_path, "add-backports")
        assert done.returncode == 0, done.stderr
        assert added(tmp_path) == expected
    assert done.stderr == ""


@pytest.mark.parametrize(
    "files",
    [
        {"sources.list.d/debian.sources": DEB822.replace("-updates", "-updates bookworm-backports")},
        {"sources.list.d/debian.sources": DEB822, "sources.list.d/b.sources": DEB822_BACKPORTS},
        {"sources.list.d/debian.sources": DEB822, "sources.list": CLASSIC_BACKPORTS},
    ],
    ids=["same stanza", "own file", "classic"],
)
def test_backports_that_are_there_are_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, files)
    done = run_script(tmp_path, "add-backports")
    assert (done.returncode, done.stderr, added(tmp_path)) == (0, "", {})


def test_backports_that_are_switched_off_do_not_count(tmp_path: Path) -> None:
    off = f"Enabled: no\n{DEB822_BACKPORTS}"
    write(tmp_path, {"sources.list.d/debian.sources": DEB822, "sources.list.d/b.sources": off})
    assert run_script(tmp_path, "add-backports").returncode == 0
    assert added(tmp_path) == {".sources": DEB822_BACKPORTS}


def test_without_an_entry_of_the_archive_the_operator_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"sources.list": "deb https://third.example.org/apt bookworm main\n"})
    done = run_script(tmp_path, "add-backports")
    assert (done.returncode, added(tmp_path)) == (1, {})
    assert done.stderr == (
        f"install-clients: no entry for bookworm of Debian's archive in {tmp_path};"
        " add bookworm-backports by hand\n"
    )


@pytest.mark.parametrize(
    ("os_release", "own"),
    [(BOOKWORM, {"lxd", "chromium"}), ('ID=ubuntu\nVERSION_ID="24.04"\n', {"incus", "incus-tools"})],
    ids=["debian", "ubuntu"],
)
def test_whoever_is_not_root_is_told_what_is_missing(os_release: str, own: set[str], tmp_path: Path) -> None:
    for name, answer in (("dpkg-query", ""), ("id", "echo 1000")):  # a machine that has nothing
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    done = run_script(tmp_path, os_release=os_release, PATH=f"{tmp_path}:{os.environ['PATH']}")
    told, _, packages = done.stderr.splitlines()[-1].partition(", to install ")
    assert (done.returncode, told) == (1, "install-clients: has to be run as root")
    assert {"nginx", "apache2", "rsync", "lxc", "incus-client", "iproute2"} | own <= {*packages.split()}


def test_another_system_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run_script(tmp_path, os_release='ID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora 43"\n')
    assert done.returncode == 1
    assert done.stderr == ("install-clients: fedora 43: knows only Debian 12 and Ubuntu 24.04\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    return tmp_path


def run_ci(clone: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(clone / ".ci/run")]
    return subprocess.run(argv, check=False, timeout=60, cwd="/", capture_output=True, text=True)


def test_ci_runs_the_second_command_of_the_readme_in_the_clone(clone: Path) -> None:
    (clone / "README.md").write_text(
        "# x\n```sh\necho start\n```\n```toml\nx = 1\n```\ntests:\n"
        "```sh\n$(command -v no-such-program) pwd && false || exit 7\n```\n```sh\necho more\n```\n"
    )
    done = run_ci(clone)
    assert done.returncode == 7
    assert done.stdout.splitlines()[1:] == [str(clone)]


@pytest.mark.parametrize("block", ["", "```sh\n```\n", "```sh\necho a\necho b\n```\n"])
def test_ci_wants_exactly_one_line(block: str, clone: Path) -> None:
    (clone / "README.md").write_text(f"```sh\necho start\n```\n{block}")
    done = run_ci(clone)
    assert (done.returncode, done.stdout) == (1, "")
    assert "second ```sh block of README.md has to be exactly one line" in done.stderr
