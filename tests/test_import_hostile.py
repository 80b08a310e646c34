"""doit import from somebody who means harm, or whose disk was damaged: one named fault each, and soon."""

import json
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import process_time

import pytest
from sites import Site, files
from tools import need

from tasks import hashed, take
from tasks.errors import ImageRejected
from tasks.foreign import Foreign, shown

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
WHEN = "20250102_03:04"
GOOD = f"{B}/{WHEN}: {WHEN} ("  # what is said of an image that was taken
KINDS = ("container",)


@pytest.fixture
def site(site: Site) -> Site:
    """A site without any Jenkins."""
    site.config.write_text(f'[site]\nroot = "root"\n[signing]\nkey = "{site.key.secret}"\n')
    return site


def put(directory: Path, content: Mapping[str, bytes]) -> Path:
    directory.mkdir(parents=True)
    for name, data in content.items():
        if name != "serial":
            (directory / name).write_bytes(data)
    return directory


def tree(base: Path, product: str, when: str = WHEN) -> Path:
    return put(base / "images" / product / when, files(product, serial=WHEN, kinds=KINDS))


def said(site: Site, *arguments: str, code: int = 1, env: Mapping[str, str] | None = None) -> str:
    result = site.doit("import", *arguments, env=env)
    text = result.out + result.err
    assert result.code == code, f"exit {result.code}\n{text}"
    assert "Traceback" not in text
    return text


def test_a_sparse_file_is_refused_by_its_length(site: Site) -> None:
    """A sparse one of 3 GiB took 48 s, and as much memory."""
    base = site.base / "old"
    path = tree(base, A) / "incus.tar.xz"
    os.truncate(path, hashed.METADATA_LIMIT + 1)
    text = said(site, f"--from={base}", "--dry-run")
    assert f"{A}/{WHEN}: rejected: incus.tar.xz is larger than 64 MiB" in text
    os.truncate(path, hashed.LIMIT + 1)
    begun = process_time()
    large = pytest.raises(ImageRejected, match="larger than 65536 MiB")
    with path.open("rb") as source, hashed.Hashed(site.base / "sink", {}) as sink, large:
        sink.hash_only(source)
    assert process_time() - begun < 1


def test_what_grows_while_it_is_hashed_ends_at_the_limit(tmp_path: Path) -> None:
    inner, outer = os.pipe()
    os.write(outer, b"123456")
    os.close(outer)
    large = pytest.raises(ImageRejected, match="sink is larger than")
    with open(inner, "rb") as source, hashed.Hashed(tmp_path / "sink", {}, 5) as sink, large:
        sink.hash_only(source)


def test_a_signature_that_none_is_by_its_length_is_not_taken_over(site: Site) -> None:
    base = site.base / "old"
    large = tree(base, A) / "rootfs.squashfs.asc"
    large.write_bytes(b"")
    os.truncate(large, 1 << 40)
    assert f"{A}/{WHEN}: {WHEN} (" in said(site, f"--adopt={base}", code=0)
    assert (site.latest / "images" / A / WHEN / large.name).stat().st_size < 2000


def test_of_the_names_in_a_tarball_none_is_kept(tmp_path: Path) -> None:
    """1500 of 1 MB each, packed to 326 kB, took 1.5 GB."""
    with tarfile.open(tmp_path / "u.tar.gz", "w:gz", compresslevel=1) as tar:
        for number in range(60):
            tar.addfile(tarfile.TarInfo(f"{number}{'x' * 1_000_000}"))
    tracemalloc.start()
    (found,) = take.alone(source := Foreign(tmp_path))
    fault = take.identify(source, found, None, "").fault
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "say what it is" in fault
    assert peak < 20_000_000


def streams(base: Path, *paths: str, image: str = "a") -> Path:
    """An index of these products files, and one of them of which one file lies at ``image``."""
    (base / "streams/v1").mkdir(parents=True)
    entries = {str(n): {"datatype": "image-downloads", "path": path} for n, path in enumerate(paths)}
    (base / "streams/v1/index.json").write_text(json.dumps({"index": entries}))
    items = {
        ftype: {"ftype": ftype, "path": path, "sha256": "0" * 64}
        for ftype, path in (("incus.tar.xz", image), ("squashfs", "b"))
    }
    product = {"os": "o", "release": "1", "arch": "amd64", "versions": {"202501010101": {"items": items}}}
    text = json.dumps({"products": {"secret": product}})
    (base / "streams/v1/images.json").write_text(text)
    (base.parent / "outside.json").write_text(text)
    return base


@pytest.mark.parametrize(
    "path", ["../outside.json", "./streams/v1/images.json", "streams//v1/images.json", "a\0b"]
)
def test_an_index_names_what_lies_below_it(tmp_path: Path, path: str) -> None:
    found = list(take.find(Foreign(streams(tmp_path / "old", path, "streams/v1/images.json")), whole=False))
    assert [one.product is not None for one in found] == [False, True]
    assert f"no path below {tmp_path}/old" in found[0].fault or "is not a plain relative" in found[0].fault


def test_a_path_that_is_none_is_one_images_fault(site: Site) -> None:
    base = streams(site.base / "old", "streams/v1/images.json", image="a\0b")
    text = said(site, f"--from={base}")
    assert f"failed: 'a\\x00b' is no path below {base}" in text


@pytest.mark.parametrize("record", [".requirements", f"1/amd64/default/{WHEN}/.items.json"])
@pytest.mark.parametrize("depth", [100_000, 900, 25])
def test_what_is_nested_deep_is_one_images_fault(tmp_path: Path, record: str, depth: int) -> None:
    tree(tmp_path, A)
    tree(tmp_path, "other/1/amd64/default")
    (tmp_path / "images/tiny" / record).write_text('{"a":{"sha256":' + "[" * depth + "]" * depth + "}}")
    faults = {one.name: one.fault for one in take.find(Foreign(tmp_path), whole=False)}
    assert faults.pop(f"other/1/amd64/default/{WHEN}") == ""
    (fault,) = faults.values()
    assert "nested too deep" in fault or "recursion" in fault


def test_an_index_is_read_as_far_as_real_ones_go(tmp_path: Path) -> None:
    base = streams(tmp_path / "old", "streams/v1/images.json")
    for text, why in (('{"products":' + "[" * 100_000, "recursion"), (" " * ((64 << 20) + 1), "longer than")):
        (base / "streams/v1/images.json").write_text(text)
        (found,) = take.find(Foreign(base), whole=False)
        assert why in found.fault


def test_a_file_that_was_looked_at_is_the_one_that_is_checked(tmp_path: Path) -> None:
    """Its owner may put a FIFO in its place, on which the check would wait for ever, or a link."""
    source = Foreign(put(tmp_path / "old", files(A, serial=WHEN, kinds=KINDS)))
    (found,) = take.alone(source)
    with ExitStack() as hold:
        staged = take.stage(source, found, tmp_path / "scratch", take.How.SEEN, hold)
        for name in staged.files:
            (source.top / name).unlink()
            os.mkfifo(source.top / name)
        assert [os.stat(staged.directory / name).st_size for name in staged.files] == [
            one.size for one in staged.files.values()
        ]


def test_what_is_no_root_is_not_copied(site: Site) -> None:
    """A sparse one of 64 GiB was, before its header was looked at: longer than the command may take."""
    root = tree(site.base / "old", A) / "rootfs.squashfs"
    os.truncate(root, 0)
    os.truncate(root, 60 << 30)
    text = said(site, f"--from={site.base}/old")
    assert f"{A}/{WHEN}: rejected: rootfs.squashfs is not what its name says" in text


def deep(top: Path, levels: int) -> None:
    """A file below so many directories, of a path longer than the kernel takes."""
    handle = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=handle, mode=0o644))
    os.close(handle)


def test_what_lies_beside_images_ends_no_import(site: Site) -> None:
    """Also in a terminal that takes UTF-8 alone; what takes no file over is said."""
    base = site.base / "old"
    tree(base, B)
    latin = os.fsdecode(b"caf\xe9")
    (base / f"{latin}.txt").write_text("x")
    (base / "robots.txt").write_text("x")
    (base / "index.html").write_text("mine")
    (base / ".well-known").mkdir()
    (base / ".well-known/security.txt").write_text("x")
    (site.root / "site/public").mkdir(parents=True)
    for name in ("other", latin):
        (site.root / "site/public" / name).write_text("in the way")
        (base / name).mkdir()
        (base / name / "mine").write_text("x")
    (base / "meta").mkdir()
    try:
        deep(base / "meta", 1200)
        text = said(site, f"--adopt={base}", code=0, env={"PYTHONIOENCODING": "utf-8:strict"})
        assert GOOD in text
        assert "exposed; latest shows" in text
        assert f"{base}/meta/{'d/' * 31}d: left: it lies deeper than 32 directories" in text
        for name, way in (("other", "cannot make /"), (latin, "cannot make '/")):
            assert f"{shown(f'{base}/{name}/mine')}: left: {way}" in text
        assert f"{base}/index.html: left: ours takes its place (page.template makes it yours)" in text
        assert f"{base}/.well-known: left: what begins with a dot is not served here" in text
        assert "robots.txt: kept" in text
        assert (site.latest / "robots.txt").is_file()
        assert (site.latest / f"{latin}.txt").is_file()
    finally:
        subprocess.run(["rm", "-rf", base / "meta"], check=True)  # pytest cannot


@pytest.mark.parametrize(("name", "client"), [("incus", "incus"), ("lxd", "lxc")])
def test_why_a_daemons_image_does_not_come_is_said_at_once(site: Site, name: str, client: str) -> None:
    """LXC's clients greet whoever runs them first, at greater length than is quoted of an error."""
    need(client)
    (home := site.base / "home" / name).mkdir(parents=True)
    env = {"HOME": str(home), "LXD_DIR": str(home), "INCUS_DIR": str(home)}
    text = said(site, f"--from={name}:none", code=2, env=env)
    assert f"{name}:none cannot be exported: {client} ended with code 1: Error: Get " in text
    assert "first time" not in text


def test_an_export_of_nothing_is_said(site: Site) -> None:
    (client := site.base / "bin/incus").parent.mkdir()
    client.write_text("#!/bin/sh\n")
    client.chmod(0o755)
    env = {"PATH": f"{client.parent}:{os.environ['PATH']}", "TMPDIR": str(site.base)}
    text = said(site, "--from=incus:a", "--dry-run", code=2, env=env)
    assert "incus:a cannot be exported: incus wrote nothing" in text
    assert f"exported to {site.base}/imagepress-" in text


def test_metadata_that_unpacks_without_end_is_left_soon(tmp_path: Path) -> None:
    """What is no unified image has kilobytes of it; a bomb of 64 GiB would take minutes."""
    put(tmp_path / "old", {"rootfs.squashfs": b"hsqs"})
    with tarfile.open(tmp_path / "old/incus.tar.xz", "w:gz", compresslevel=1) as tar:
        (info := tarfile.TarInfo("a")).size = 65 << 20
        with open("/dev/zero", "rb") as zeros:
            tar.addfile(info, zeros)
    (found,) = take.alone(source := Foreign(tmp_path / "old"))
    assert "unpacks to more than 64 MiB" in take.identify(source, found, None, "").fault
