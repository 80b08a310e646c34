"""Whose files they are: modes under any umask, readers without rights, and no second owner."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sites import CHECKOUT, Result, Site, build, matrix

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
# root without its privileges: what others may not read, it may not either
PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture
def foreign(site: Site) -> Site:
    """A published site that this user may read, and whose state he may not."""
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    site.publish()
    build(site.ci, A)
    (site.root / "state").chmod(0)
    for top in ("site", "snapshots", "."):
        (site.root / top).chmod(0o555)
    yield site
    for top in (".", "site", "snapshots", "state"):
        (site.root / top).chmod(0o755)


def plainly(site: Site, *command: str) -> Result:
    words = [*PLAIN, sys.executable, "-m", "doit", *command]
    env = {**site.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        words, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "command", [["list"], ["list", "--all"], ["list", "--status"], ["status"], ["plan"], ["snapshots"]]
)
def test_a_reader_may_ask(foreign: Site, command: list[str]) -> None:
    result = plainly(foreign, *command)
    assert result.code == 0, result.out + result.err
    assert result.out


def test_a_reader_is_told_what_is_exposed(foreign: Site) -> None:
    result = plainly(foreign, "status")
    assert [line.split()[0] for line in result.out.splitlines()] == [A, B]
    assert "state is its owner's alone" in result.err
    out = plainly(foreign, "plan").out
    assert out.startswith(f"new         {A}  image-tiny/")
    assert out.endswith("2 products: 1 new, 1 up to date\n")


@pytest.mark.parametrize("command", [["publish"], ["hold", A], ["poll"]])
def test_a_reader_may_not_write(foreign: Site, command: list[str]) -> None:
    result = plainly(foreign, *command)
    assert result.code in (2, 3)
    (line,) = [one for one in (result.out + result.err).splitlines() if "ERROR" in one]
    assert str(foreign.root) in line


def test_another_user_is_sent_away(site: Site) -> None:
    """What root writes, the publisher cannot replace; so nobody but the owner writes."""
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    state = site.root / "state"
    if os.geteuid() == 0:
        os.chown(state, 65534, 65534)
    else:  # only root can give files away; what is root's already does as well
        state.rename(site.root / "mine")
        state.symlink_to("/")
    owner = state.owner()
    for command in (("publish",), ("import", f"--from={site.base}")):
        result = site.doit(*command)
        assert result.code == 3
        assert result.out == ""
        assert (
            result.err
            == f"ERROR: {site.root} belongs to the user {owner}; run this as {owner}: sudo -u {owner} …\n"
        )


def modes(top: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in top.rglob("*")}


@pytest.mark.parametrize("mask", ["077", "000", "027"])
def test_modes_whatever_the_umask(site: Site, mask: str) -> None:
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    site.configure()
    for command in ("publish", "hold", "rollback"):
        names = {"publish": "", "hold": A, "rollback": "$(ls root/snapshots | tail -1)"}
        words = f"umask {mask}; cd {site.base}; name={names[command]}; cd {CHECKOUT}; {sys.executable} -m doit {command} $name"
        done = subprocess.run(
            ["sh", "-c", words], env=site.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for top in (site.root / "site/public", site.root / "snapshots", site.latest, site.mirror):
        assert modes(top) == {(True, 0o755), (False, 0o644)}, top
    assert stat.S_IMODE((site.root / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((site.root / "decisions.toml").stat().st_mode) == 0o644
    assert stat.S_IMODE(site.root.stat().st_mode) == 0o755
