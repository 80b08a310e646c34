"""Fixtures that everything uses: a key, a Jenkins stand-in, a site, and one published tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sites import Key, Site, build, files, matrix

from jenkins import standin
from jenkins.controller import Controller
from jenkins.standin import Standin
from tasks import demo


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    directory = tmp_path_factory.mktemp("key")
    demo.make_key(directory)
    return Key(directory / "publisher.asc", directory / "publisher.pub.asc")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Standin]:
    with standin.serve(Controller(tmp_path / "jenkins")) as running:
        yield running


@pytest.fixture
def ci(server: Standin) -> Controller:
    return server.ci


@pytest.fixture
def site(tmp_path: Path, server: Standin, key: Key) -> Site:
    return Site(tmp_path, server, key)


@dataclass(frozen=True)
class Published:
    """A published tree, for the real clients."""

    latest: Path
    public_key: Path


# Old compat levels, and the unprivileged of them, are shown less.
LEVELS = """
[[rules]]
match = "tiny/2"
lxc_min_level = 3
[[rules]]
match = "tiny/1/arm64"
lxc_user_min_level = 4
"""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Published]:
    base = tmp_path_factory.mktemp("published")
    with standin.serve(Controller(base / "jenkins")) as running:
        vm, box, old = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/cloud"
        matrix(running.ci, vm, box, old)
        for _ in range(2):
            content = {vm: files(vm, kinds=("container", "vm", "lxc")), old: files(old, lxd="differs")}
            build(running.ci, vm, box, old, content=content)
        site = Site(base, running, key, more=LEVELS)
        site.publish()
        build(running.ci, box)
        site.publish()
        yield Published(site.latest, key.public)
