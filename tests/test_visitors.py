"""The visitors of the other tests see what they are there to see: seeded defects, one each."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import Host, Network, network
from readers import named
from sites import Key, Site, build, matrix
from test_troubles import web
from visitors import AwayError, Visitor

from jenkins import standin
from jenkins.controller import Controller

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
LOOKS = 60  # rounds in which every file is fetched at least once, as good as certainly
SMALL = 3  # rounds


class Street:
    """Two servers of the older tree, who may come to have the newer one, and a client."""

    def __init__(self, net: Network, old: Path, new: Path, key: Key) -> None:
        self.net, self.old, self.new, self.key = net, old, new, key
        self.client, self.one, self.two = net.host("client"), net.host("one"), net.host("two")

    def visitor(self, *hosts: Host, hold: float = 60, **more: object) -> Visitor:
        return Visitor("them", hosts, self.client, self.net.ca, self.key.public, hold, **more)

    def look(self, visitor: Visitor, rounds: int = LOOKS) -> list[str]:
        def all_of_them() -> None:
            for _ in range(rounds):
                visitor.look()
                if visitor.faults:
                    return

        self.client.call(all_of_them)
        return visitor.faults


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Street]:
    base = tmp_path_factory.mktemp("street")
    with ExitStack() as open_:
        server = open_.enter_context(standin.serve(Controller(base / "jenkins")))
        site = Site(base, server, key, lines='keep = 1\ngrace = "0s"\n')
        matrix(server.ci, A, B)
        build(server.ci, A, B)
        site.publish()
        old = site.latest.resolve()
        build(server.ci, A, B)
        for _ in range(3):
            site.publish()
        net = open_.enter_context(network(base / "network"))
        street = Street(net, old, site.latest.resolve(), key)
        for host in (street.one, street.two):
            host.nginx(web(site, net, host.disk / "tree"))
        yield street


@pytest.fixture
def street(built: Street) -> Street:
    for host in (built.one, built.two):
        host.mend()
        host.start()
        for path in host.tree.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(built.old, host.tree, dirs_exist_ok=True)
    return built


def give(street: Street, host: Host, *tops: str) -> None:
    for top in tops:
        shutil.copytree(street.new / top, host.tree / top, dirs_exist_ok=True)


def test_all_is_well_when_all_is_well(street: Street) -> None:
    visitor = street.visitor(street.one, strict=True)
    assert street.look(visitor, SMALL) == []
    give(street, street.one, "images", "meta", "streams")
    assert street.look(visitor) == []
    assert min(visitor.counts.indexes, visitor.counts.files, visitor.counts.held) > SMALL
    assert (visitor.counts.windows, visitor.counts.window) == (0, 0)


def test_an_index_before_its_files(street: Street) -> None:
    give(street, street.one, "meta", "streams")
    assert "404 from one" in street.look(street.visitor(street.one))[0]


def test_an_index_of_one_that_names_what_the_other_lacks(street: Street) -> None:
    give(street, street.one, "images", "meta", "streams")
    assert "404 from two" in street.look(street.visitor(street.one, street.two))[0]


def test_no_grace(street: Street) -> None:
    visitor = street.visitor(street.one)
    assert street.look(visitor, SMALL) == []
    give(street, street.one, "images", "meta", "streams")
    for path in named(street.old).keys() - named(street.new).keys():
        (street.one.tree / path).unlink()
    assert "404 from one" in street.look(visitor)[0]
    short, spared = street.visitor(street.one, hold=0.5), street.visitor(street.one, spare=["images/"])
    for one in (short, spared):
        one._promises = dict(visitor._promises)
    for promise in short._promises.values():
        promise.until = time.monotonic()
    assert street.look(short) == [], "it was promised for half a second"
    assert street.look(spared) == [], "it was withdrawn"


@pytest.mark.parametrize("lagging", ["meta/1.0/index-system.asc", "streams/v1/images.json.gpg"])
def test_a_signature_that_lags(street: Street, lagging: str) -> None:
    give(street, street.one, "images", "meta", "streams")
    shutil.copy(street.old / lagging, street.one.tree / lagging)
    assert "out of step" in street.look(street.visitor(street.one, strict=True))[0]
    patient = street.visitor(street.one)
    assert street.look(patient, SMALL) == []
    assert patient.open == [lagging.rpartition(".")[0]]
    seen = patient.counts.window
    give(street, street.one, "meta", "streams")
    assert street.look(patient, SMALL) == []
    assert (patient.open, patient.counts.windows) == ([], 1)
    assert patient.counts.window > seen > 0


@pytest.mark.parametrize("cut", [0, 1])
def test_a_file_that_is_wrong(street: Street, cut: int) -> None:
    for path in street.one.tree.rglob("incus.tar.xz"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1 - cut
        path.write_bytes(data[: len(data) - cut])
    assert "bytes are not the" in street.look(street.visitor(street.one))[0]


def test_a_clear_signed_text_that_was_touched(street: Street) -> None:
    path = street.one.tree / "streams/v1/images.sjson"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tony"))
    assert "is not well signed" in street.look(street.visitor(street.one))[0]


@pytest.mark.parametrize("trouble", [Host.cut, Host.kill])
def test_a_server_that_is_away_is_no_fault_and_the_other_is_asked(street: Street, trouble: object) -> None:
    trouble(street.one)
    alone, both = street.visitor(street.one), street.visitor(street.one, street.two)
    with pytest.raises(AwayError):
        street.look(alone)
    assert alone.faults == []
    for _ in range(3):  # by the dice, it is not always the other that is asked first
        assert street.client.call(lambda: both._get("site-id"))
    assert both.faults == []
