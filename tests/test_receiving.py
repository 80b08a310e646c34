"""What README tells the receiving end of a push, as it stands there: real rsyncd, sshd and rrsync."""

import os
import re
from pathlib import Path

import pytest
import servers
from sites import Site, build
from test_fleet import A, read, two
from tools import need, need_root

__all__ = ["two"]  # a fixture
README = (Path(__file__).parents[1] / "README.md").read_text()
SECTION = README.partition("\n## Mirrors\n")[2].partition("\n## ")[0]
NOBODY = 65534
BOTH = pytest.mark.parametrize("flip", ["false", "true"], ids=["in place", "flipped"])


def pushed_to(site: Site, told: str) -> None:
    """A first push, and another that deletes."""
    for _ in range(2):
        build(site.ci, A)
        site.more = f'[[mirror]]\nname = "eu1"\nretries = 0\n{told}'
        site.configure()
        site.publish()
        assert read(site.mirror) == read(site.latest)
    result = site.doit("verify", "--mirror=eu1")
    assert result.code == 0, result.out


@BOTH
def test_the_module_is_one_to_push_to(two: Site, tmp_path: Path, flip: str) -> None:
    need_root("a daemon that changes its root directory takes root; run pytest as root")
    two.mirror.mkdir()
    os.chown(two.mirror, NOBODY, NOBODY)
    (module,) = re.findall(r"^```ini\n(\[images\]\n.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    secrets, password = tmp_path / "secrets", tmp_path / "password"
    for path, text in ((secrets, "publisher:open sesame\n"), (password, "open sesame\n")):
        path.write_text(text)
        path.chmod(0o600)
    module, count = re.subn(r"(?<=[ug]id = )mirror\b", str(NOBODY), module)
    for ours, theirs in {
        "/srv/mirror": str(two.mirror),
        "/etc/rsyncd.secrets": str(secrets),
        "192.0.2.10": "127.0.0.1",
    }.items():
        module, once = re.subn(re.escape(ours), theirs, module)
        count += once
    assert count == 5
    with servers.rsyncd_as(module, tmp_path) as url:
        place = url.replace("://", "://publisher@")
        assert 'url = "rsync://publisher@eu1.example.org/images/"' in SECTION
        pushed_to(two, f'url = "{place}/images/"\npassword_file = "{password}"\nflip = {flip}\n')
    assert {path.lstat().st_uid for path in two.mirror.rglob("*")} == {NOBODY}


@BOTH
def test_the_key_is_one_to_push_by(two: Site, tmp_path: Path, flip: str) -> None:
    need("rrsync")
    two.mirror.mkdir()
    (line,) = re.findall(r'^    (restrict,command=".*)', SECTION, re.MULTILINE)
    with servers.sshd(tmp_path) as ssh:
        public = ssh.identity.with_suffix(".pub")
        kind, key, _ = public.read_text().split()
        line = line.replace("ssh-ed25519 AAAA…", f"{kind} {key}").replace("/srv/mirror", str(two.mirror))
        public.write_text(f"{line}\n")
        assert (key in line, str(two.mirror) in line) == (True, True)
        assert 'url = "mirror@eu1.example.org:/"' in SECTION
        told = f'url = "{ssh.user}@eu1.example.org:/"\nssh = \'-F "{ssh.config}"\'\nflip = {flip}\n'
        pushed_to(two, told)
        ssh.known_hosts.write_text("")
        build(two.ci, A)
        assert "Host key verification failed" in two.publish(code=1).out


def test_an_address_that_is_left_keeps_what_it_has(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    before = read(two.mirror)
    for left in ('[[mirror]]\nname = "eu1"\nurl = "other"\n', ""):
        two.more = left
        two.configure()
        build(two.ci, A)
        two.publish()
        there = read(two.base / "other")
        assert (read(two.mirror), there == read(two.latest)) == (before, bool(left))


def test_lost_and_found_is_all_that_stays_beside(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    for name in ("lost+found", ".well-known", "www"):
        (two.mirror / name).mkdir()
        (two.mirror / name / "file").touch()
    build(two.ci, A)
    two.publish()
    assert {path.name for path in two.mirror.iterdir()} - {path.name for path in two.latest.iterdir()} == {
        "lost+found"
    }
