"""``doit plan``: what publish would do and why; it asks Jenkins and changes nothing."""

import json
import re

import pytest
from sites import Site, build, files, matrix

from jenkins.faults import Status

A, B, C, D = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default", "tiny/2/arm64/default"


@pytest.fixture
def four(site: Site) -> Site:
    """A has a new build, B is up to date, C was never built, D's build is bad."""
    site.lines = 'grace = "1h"\nkeep = 1\n'
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, A, B, C, D)
    build(site.ci, A, B, D)
    site.publish()
    bad = files(D)
    bad["meta.tar.xz"] = b"not a tarball"
    build(site.ci, D, content={D: bad})
    site.publish(code=1)
    build(site.ci, A)
    return site


def everything(site: Site) -> dict[str, tuple[int, int]]:
    return site.tree("state", "site", "snapshots", "latest") | {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in site.mirror.rglob("*")
    }


def planned(site: Site, *globs: str, code: int = 0) -> dict[str, str]:
    result = site.doit("plan", *globs)
    assert result.code == code, result.out + result.err
    return {line.split()[-2 if line.startswith("x") else 0]: line for line in result.out.splitlines()}


def test_it_says_what_would_be_done_and_changes_nothing(four: Site) -> None:
    before = everything(four)
    four.server.requests.clear()
    lines = four.doit("plan").out.splitlines()
    assert everything(four) == before
    assert not [one for one in four.server.requests if "/artifact/" in str(one)], "no image byte is fetched"
    assert lines == [
        f"new         {A}  image-tiny/architecture=amd64,release=1,variant=default #3",
        f"never built {C}",
        lines[2],
        "4 products: 1 failed, 1 never built, 1 new, 1 up to date",
    ]
    assert re.match(rf"failed      {D} +image-tiny/\S+ #2 was rejected: meta.tar.xz", lines[2])
    result = four.publish(code=1)
    assert result.executed[:2] == ["poll", f"image:{A}"], "and that is what publish does"
    assert "1 new" not in four.doit("plan").out


def test_globs_and_json(four: Site) -> None:
    out = four.doit("plan", "tiny/1/arm64/*").out.splitlines()
    assert re.match(rf"up to date  {B}  2026", out[0])
    assert len(out) == 2
    (new,) = [one for one in json.loads(four.doit("plan", "--json").out)["products"] if one["state"] == "new"]
    assert (new["product"], new["build"].split()[-1]) == (A, "#3")


def test_it_knows_the_gate_and_the_decisions(four: Site) -> None:
    four.jenkins = '[jenkins.gate]\njob = "test-image"\n'
    four.ci.freestyle("test-image")
    four.configure()
    assert f"untested    {A}  build #3 has not passed the test job" in four.doit("plan").out
    four.jenkins = ""
    four.configure()
    four.doit("hold", "--why=a reason", A)
    four.doit("retire", B)
    out = four.doit("plan").out
    assert re.search(rf"^held        {A}  kept at 2026.* by .*: a reason$", out, re.MULTILINE)
    assert re.search(rf"^retired     {B}  retired by .*: no reason given$", out, re.MULTILINE)
    assert re.search(rf"^delisted: images/{B}/2026", out, re.MULTILINE)


def test_it_knows_what_time_alone_brings(four: Site) -> None:
    four.publish(code=1)
    (lapsing,) = json.loads((four.root / "state/lapsing.json").read_text())
    assert "expired" not in four.doit("plan").out
    (four.root / "state/lapsing.json").write_text(json.dumps({lapsing: 1}))
    four.lines = four.lines.replace('grace = "1h"', 'grace = "0s"')  # none goes before
    four.more += '[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "far"\nurl = "far"\n'
    four.configure()
    out = four.doit("plan").out
    assert f"expired: {lapsing}, which no index has named for site.grace" in out
    assert len(re.findall(r"^expired: snapshot 20", out, re.MULTILINE)) == 1
    assert "behind: mirror far has nothing yet\n" in out
    assert "behind: mirror near still has 1 lapsed image\n" in out


def test_it_says_what_a_mirror_has_that_is_behind(four: Site) -> None:
    four.publish(code=1)
    path = four.root / "state/mirrors/near.json"
    there = json.loads(path.read_text())
    (lapsing,) = there["lapsing"]
    path.write_text(json.dumps({**there, "lapsing": {lapsing: 1}}))
    assert "behind: mirror near still has 1 lapsed image\n" in four.doit("plan").out
    path.write_text(json.dumps({**there, "failed": "no route"}))
    out = four.doit("plan").out
    assert f"behind: mirror near has {there['snapshot']}; it failed: no route\n" in out
    path.write_text(json.dumps({**there, "snapshot": "20200101-0000.0"}))
    assert "behind: mirror near has 20200101-0000.0\n" in four.doit("plan").out


def test_while_a_snapshot_is_pinned_only_what_is_refused_is_delisted(four: Site) -> None:
    four.publish(code=1)
    first = four.doit("snapshots").out.splitlines()[-1].split()[0]
    assert four.doit("hold", f"--serial={serial(four, A)}", A).code == 0
    assert four.doit("rollback", first).code == 0
    old = serial(four, A)
    path = four.root / "decisions.toml"
    before = path.read_text()
    held = re.sub(r"(?m)^serial = .*$", 'serial = "20200101_00:00"', before)
    assert held != before
    path.write_text(held)
    assert "delisted" not in four.doit("plan").out, "and publish does not delist it:"
    four.publish(code=1)
    assert serial(four, A) == old
    assert four.doit("retire", B).code == 0
    delisted = re.findall(r"^delisted: .*", four.doit("plan").out, re.MULTILINE)
    assert delisted == [f"delisted: images/{B}/{serial(four, B)}"]


def serial(site: Site, product: str) -> str:
    """Of the newest image that is exposed."""
    return max(site.products()[product.replace("/", ":")]["versions"])


def test_without_jenkins_it_says_what_is_known(four: Site) -> None:
    four.server.faults.add("^/api/json", Status(403), times=None)
    result = four.doit("plan")
    assert result.code == 1
    assert "4 products" in result.out
    assert re.search(r"^plan +Jenkins: .*; this is what the last poll knew$", result.out, re.MULTILINE)


def test_of_a_fresh_site(site: Site) -> None:
    matrix(site.ci, A)
    build(site.ci, A)
    result = site.doit("plan")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "1 product: 1 new"
    assert not site.root.exists()


def test_what_the_configuration_changes_is_said_until_it_is_done(site: Site) -> None:
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    before = site.doit("plan").out
    assert "again" not in before
    for line, said in (
        (
            '[[rules]]\nmatch = "tiny/1"\naliases = ["one"]\n',
            "again: the indexes, for the rules or lists changed\n",
        ),
        ('[[list]]\nname = "few"\nclient = "lxd"\n', "again: the indexes, for the rules or lists changed\n"),
        ('[page]\ntitle = "New"\n', "again: the page, for [page] or its template changed\n"),
        ("[protocols]\nrest = true\n", "again: the files of older protocols, for [protocols] changed\n"),
        ('[[rules]]\nmatch = "tiny/2"\n', "again: the indexes, for the rules or lists changed\n"),  # no byte
    ):
        site.more += line
        site.configure()
        assert site.doit("plan").out == before + said
        site.publish()
        assert site.doit("plan").out == before
    site.lines = "keep = 9\n"
    site.configure()
    assert site.doit("plan").out == f"{before}again: what is listed, for site.keep changed\n"
    site.publish()
    assert site.doit("plan").out == before
