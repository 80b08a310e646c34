"""The readers of the other tests see what they are there to see: seeded defects, one each."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from readers import Reader, named
from sites import Key, Site, build, matrix

from jenkins import standin
from jenkins.controller import Controller

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[tuple[Path, Path]]:
    """An older tree, and a newer one without what the older named."""
    base = tmp_path_factory.mktemp("history")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base, server, key)
        site.lines = 'keep = 1\ngrace = "0s"\n'
        matrix(server.ci, A, B)
        build(server.ci, A, B)
        site.publish()
        old = site.latest.resolve()
        build(server.ci, A, B)
        for _ in range(3):
            site.publish()
        yield old, site.latest.resolve()


@pytest.fixture
def states(history: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A place that shows the older tree, and both."""
    here = tmp_path / "here"
    shutil.copytree(history[0], here)
    return here, *history


def give(source: Path, target: Path, *tops: str) -> None:
    for top in tops:
        shutil.copytree(source / top, target / top, dirs_exist_ok=True)


def test_all_is_well_when_all_is_well(states: tuple[Path, Path, Path], key: Key) -> None:
    here, _, new = states
    reader = Reader(key.public, here, hold=True)
    reader.look(here)
    give(new, here, "images", "meta", "streams")
    reader.look(here)
    assert reader.faults == []


def test_an_index_before_its_files(states: tuple[Path, Path, Path], key: Key) -> None:
    here, _, new = states
    reader = Reader(key.public, here)
    give(new, here, "meta", "streams")
    reader.look(here)
    assert any(fault.endswith("is missing") for fault in reader.faults)


def test_a_page_before_its_files(states: tuple[Path, Path, Path], key: Key) -> None:
    here, _, new = states
    shutil.copy(new / "index.html", here)
    reader = Reader(key.public, here)
    reader.look(here)
    assert any(fault.endswith("image.yaml is missing") for fault in reader.faults)


def test_no_grace(states: tuple[Path, Path, Path], key: Key) -> None:
    here, old, new = states
    reader = Reader(key.public, here, hold=True)
    reader.look(here)
    give(new, here, "images", "meta", "streams")
    shutil.copy(new / "index.html", here)
    for path in named(old).keys() - named(new).keys():
        (here / path).unlink()
    reader.look(here)
    assert any(fault.endswith("is missing") for fault in reader.faults)
    careless = Reader(key.public, here)
    careless.look(here)
    assert careless.faults == []


@pytest.mark.parametrize("lagging", ["meta/1.0/index-system.asc", "streams/v1/images.json.gpg"])
def test_a_signature_that_lags(states: tuple[Path, Path, Path], key: Key, lagging: str) -> None:
    here, old, new = states
    give(new, here, "images", "meta", "streams")
    shutil.copy(old / lagging, here / lagging)
    reader = Reader(key.public, here)
    reader.look(here)
    assert [fault for fault in reader.faults if f"{Path(lagging).name} is not of" in fault]
    link = here.with_name("link")
    link.symlink_to(here)
    strict = Reader(key.public, link)
    strict.look(link)
    assert strict.faults, "of one snapshot at once"


@pytest.mark.parametrize("name", ["rootfs.tar.xz", "incus.tar.xz"])
def test_a_file_that_is_wrong(states: tuple[Path, Path, Path], key: Key, name: str) -> None:
    here, _, _ = states
    for path in here.rglob(name):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    reader = Reader(key.public, here)
    reader.look(here)
    assert any(fault.endswith(f"{name} is wrong") for fault in reader.faults)


def test_a_clear_signed_text_that_was_touched(states: tuple[Path, Path, Path], key: Key) -> None:
    here, _, _ = states
    path = here / "streams/v1/images.sjson"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tony"))
    reader = Reader(key.public, here)
    reader.look(here)
    assert [fault for fault in reader.faults if "images.sjson is not well signed" in fault]
