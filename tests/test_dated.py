"""Snapshots as remotes of their own: kept by ``doit pin``, served below ``at/`` by both web servers."""

from dataclasses import replace
from pathlib import Path

import clients
import msgspec
import pytest
from servers import Web
from sites import Site, build, matrix
from test_serverconfig import FOREVER, INCUS, LATER, LXD, SERVERS, generated, get

from tasks.decisions import Decisions
from tasks.layout import Layout
from tasks.state import snapshots

TINY = "tiny/1/amd64/default"
KEY = "tiny:1:amd64:default"
LIST = '[[rules]]\nmatch = "tiny"\n[[list]]\nname = "lxd"\nclient = "lxd"\nmatch = []\nagent = "^LXD "\n'


@pytest.fixture
def two(site: Site) -> Site:
    """A site with a snapshot of one image, and another of two."""
    site.more = LIST
    matrix(site.ci, TINY)
    for _ in range(2):
        build(site.ci, TINY)
        site.publish()
    return site


def names(site: Site) -> list[str]:
    return snapshots(Layout(site.root))


def versions(web: Web, at: str, agent: str = INCUS) -> list[str]:
    answer = get(web, f"{at}/streams/v1/images.json", agent)
    assert answer.status_code == 200, answer.text
    return sorted(answer.json()["products"].get(KEY, {"versions": {}})["versions"])


@pytest.mark.parametrize("program", SERVERS)
def test_each_snapshot_is_a_remote(program: str, two: Site, tmp_path: Path) -> None:
    first, last = names(two)
    said = two.doit("pin", "--as=before", "--why=the old kernel", first)
    assert f"{first} stays, as before, at at/before/; doit unpin before lets it go\n" in said.out
    with SERVERS[program](two.latest, tmp_path / "web", generated(two, program=program)) as web:
        old, new = versions(web, f"/at/{first}"), versions(web, f"/at/{last}")
        assert (len(old), len(new)) == (1, 2)
        assert versions(web, "/at/before") == old
        told = get(web, "/at/before/trace", INCUS)
        assert f"snapshot: {first}\n" in told.text
        assert told.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert versions(web, f"/at/{last[:8]}") == new == versions(web, "")
        assert versions(web, f"/at/{last}", LXD) == ([] if program == "nginx" else new)
        image = get(web, f"/at/before/images/{TINY}/{old[0]}/incus.tar.xz", INCUS)
        assert image.content == (two.latest / f"images/{TINY}/{old[0]}/incus.tar.xz").read_bytes()
        assert image.headers["Cache-Control"] == FOREVER
        index = get(web, "/at/before/streams/v1/index.json", INCUS)
        assert index.headers["Cache-Control"] == LATER
        assert index.headers["Content-Type"].startswith("application/json")
        assert get(web, "/at/before/index.html").headers["Content-Type"].startswith("text/html")
        for nothing in ("/at/after/index.html", "/at/../state/lock", "/at/%2e%2e/state/lock", "/at/.tmp-x/"):
            assert get(web, nothing).status_code in {400, 403, 404}
        remote = clients.incus(replace(web, url=f"{web.url}/at/before"), tmp_path / "home")
        listed = {one["fingerprint"] for one in remote.images()}
        assert remote.export("tiny/1", tmp_path / "export") in listed
        assert listed < {one["fingerprint"] for one in clients.incus(web, tmp_path / "home").images()}


def test_what_is_pinned_outlives_the_others(two: Site) -> None:
    first = names(two)[0]
    two.lines = 'grace = "0s"'
    two.more += '[snapshot]\nkeep = 1\nkeep_for = "0s"\n'
    two.configure()
    assert two.doit("pin", first).code == 0
    build(two.ci, TINY)
    two.publish()
    two.publish()
    assert names(two) == [first, names(two)[-1]]
    assert f"{first}  1 product, 1 image, kept by " in two.doit("snapshots").out
    assert two.doit("unpin", first).code == 0
    two.publish()
    assert first not in names(two)
    assert sorted(path.name for path in (two.root / "at").iterdir()) == [names(two)[-1][:8], names(two)[-1]]
    assert two.doit("verify").code == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["pin"], "doit pin: name one snapshot"),
        (["pin", "20260101-0000.0"], "there is no snapshot 20260101-0000.0; there are "),
        (["pin", "--as=2026", "LAST"], "'2026': a name begins with a-z"),
        (["pin", "--as=../x", "LAST"], "'../x': a name begins with a-z"),
        (["pin", "--as=old", "LAST"], "old is "),
        (["unpin", "nothing"], "nothing: is not pinned; pinned is old"),
        (["unpin"], "doit unpin: name the snapshot"),
    ],
)
def test_what_is_said_wrongly(two: Site, command: list[str], said: str) -> None:
    first, last = names(two)
    assert two.doit("pin", "--as=old", first).code == 0
    before = (two.root / "decisions.toml").read_bytes()
    result = two.doit(*(word.replace("LAST", last) for word in command))
    assert result.code == 3
    assert said in result.out + result.err
    assert (two.root / "decisions.toml").read_bytes() == before


def test_a_name_by_hand_leads_nowhere_else() -> None:
    word = {"who": "me", "when": "2026-11-21T00:00:00Z", "snapshot": "20261121-0000.0", "name": "../../etc"}
    with pytest.raises(msgspec.ValidationError, match="a name begins with a-z"):
        msgspec.convert({"keep": [word]}, Decisions)
    of_nothing = {**word, "snapshot": "20261120-0000.0", "name": "gone"}
    kept = msgspec.convert({"keep": [of_nothing]}, Decisions)
    assert kept.dated(["20261121-0000.0", "20261121-0000.1"]) == {
        "20261121-0000.0": "20261121-0000.0",
        "20261121-0000.1": "20261121-0000.1",
        "20261121": "20261121-0000.1",
    }
