"""``doit verify``: one wrong byte anywhere in what is served is named, and nothing is touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
from sites import CHECKOUT, Key, Site, build, files, matrix, wait_for
from test_sign import Ring, closed, make_ring

from jenkins import standin
from jenkins.controller import Controller
from tasks import demo, streams
from tasks.audit import CHUNK, audit
from tasks.errors import SettingsError
from tasks.image import File, sums
from tasks.layout import STREAMS, STREAMS_TWIN
from tasks.settings import Signing
from tasks.sign import Gpg, Sequoia, Verifier, publish_signed, verifier
from tasks.threads import apart
from tasks.tree import _put_stream

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
AT = f"images/{A}/20260401_00:00"
OLD = f"images/{A}/20260301_00:00"
KEY = A.replace("/", ":")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Site]:
    """A published tree with every sort of file, one of them too large to be kept in memory."""
    base = tmp_path_factory.mktemp("model")
    with standin.serve(Controller(base / "jenkins")) as server:
        matrix(server.ci, A, B)
        full = {"kinds": ("container", "vm", "lxc"), "lxd": "differs"}
        build(server.ci, A, content={A: files(A, serial="20260301_00:00")})
        site = Site(base, server, key, jenkins="log = true\n")
        site.publish()
        content = files(A, serial="20260401_00:00", payload=os.urandom(CHUNK + 99), **full)
        build(server.ci, A, B, content={A: content})
        site.publish()
        yield site


@pytest.fixture
def served(model: Site, tmp_path: Path) -> Site:
    """A copy of it that is nothing but served: no state directory that could be read, no working tree."""
    shutil.copytree(model.root / "snapshots", tmp_path / "root/snapshots", symlinks=True)
    (tmp_path / "root/latest").symlink_to((model.root / "latest").readlink())
    (tmp_path / "root/state").write_text("nobody may look here")
    return Site(tmp_path, model.server, model.key, jenkins=model.jenkins)


def flip(path: Path) -> None:
    """Change one byte in the middle, keeping size and time."""
    seen, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def lines(site: Site, code: int, *arguments: str) -> list[str]:
    """What verify says before its last line; nothing may be touched."""
    before = site.tree(".")
    result = site.doit("verify", *arguments)
    assert result.code == code, result.out + result.err
    assert site.tree(".") == before
    *found, last = result.out.splitlines()
    count = len(found)
    verdict = "all good" if not count else f"{count} fault{'s' * (count > 1)}, named above"
    assert last.endswith(f": {verdict}")
    return found


def test_a_published_tree_is_good(served: Site) -> None:
    result = served.doit("verify")
    assert result.code == 0, result.out + result.err
    assert not result.err
    people = ("site-id", "trace", "index.html", "key.asc")
    names = [
        path for path in served.latest.resolve().rglob("*") if path.is_file() and path.name not in people
    ]
    signatures = [path for path in names if path.suffix in (".asc", ".gpg")]
    plain = [path for path in names if path not in signatures]
    size = sum(path.stat().st_size for path in plain)
    clear = sum(path.suffix == ".sjson" for path in names)
    assert result.out == (
        f"verify      3 images, {len(plain)} files, {size:,} bytes,"
        f" {len(signatures) + clear} signatures: all good\n"
    )


def test_it_leaves_no_trace_where_there_is_a_state(model: Site) -> None:
    before = model.tree(".")
    assert model.doit("verify").code == 0
    assert model.tree(".") == before


FLIPPED = {
    # what one byte is changed of: the file that is named, and how what is said of it begins
    f"{AT}/rootfs.squashfs": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/disk.qcow2": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/incus.tar.xz": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/lxd.tar.xz": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/meta.tar.xz": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/build.log": "has another sha256 than SHA256SUMS and source.json say",
    f"{OLD}/rootfs.tar.xz": "has another sha256 than SHA256SUMS and source.json say",
    f"{AT}/rootfs.squashfs.asc": "is no ",
    f"{AT}/incus.tar.xz.asc": "is no ",
    f"{AT}/source.json.asc": "is no ",
    f"{AT}/SHA256SUMS.asc": "is no ",
    "streams/v1/images.json.gpg": "is no ",
    "streams/v1/index.json.gpg": "is no ",
    "streams/v1/images.sjson": "is no ",
    "streams/v1/index.sjson": "is no ",
    "streams/v1/images.json.gz": "",
    "meta/simplestreams/v1/images.json.gpg": "is no ",
    "meta/simplestreams/v1/index.sjson": "is no ",
    "meta/1.0/index-system.asc": "is no ",
    "meta/1.0/index-user.2.asc": "is no ",
}


@pytest.mark.parametrize("name", FLIPPED)
def test_a_flipped_byte_is_named(served: Site, name: str) -> None:
    flip(served.latest / name)
    (line,) = lines(served, 1)
    assert line.startswith(f"{name}: {FLIPPED[name]}")


# Where a file that says something of others is changed, more than one thing disagrees.
MANY = {
    f"{AT}/SHA256SUMS": f"{AT}/SHA256SUMS.asc: is no ",
    f"{AT}/source.json": f"{AT}/source.json: has another sha256 than SHA256SUMS says",
    "streams/v1/images.json": "streams/v1/images.json.gpg: is no ",
    "streams/v1/index.json": "streams/v1/index.json.gpg: is no ",
    "meta/simplestreams/v1/images.json": "meta/simplestreams/v1/images.json: is not the same as streams/v1",
    "meta/1.0/index-system": "meta/1.0/index-system.asc: is no ",
    "meta/1.0/index-user.4": "meta/1.0/index-user.4.asc: is no ",
}


@pytest.mark.parametrize("name", MANY)
def test_a_flipped_byte_in_what_speaks_of_others_is_named(served: Site, name: str) -> None:
    flip(served.latest / name)
    assert any(line.startswith(MANY[name]) for line in lines(served, 1))


@pytest.mark.parametrize(
    "name",
    [
        *(f"{AT}/{name}" for name in ("rootfs.squashfs", "incus.tar.xz", "disk.qcow2", "image.yaml")),
        *(f"{AT}/{name}" for name in ("SHA256SUMS", "source.json", "build.log", "meta.tar.xz")),
        "streams/v1/images.json.gz",
        "streams/v1/index.sjson",
        "streams/v1/images.json",
        "meta/simplestreams/v1/index.json",
        "meta/1.0/index-user",
        "meta/1.0/index-system.3",
    ],
)
def test_a_missing_file_is_named(served: Site, name: str) -> None:
    (served.latest / name).unlink()
    found = lines(served, 1)
    assert sum(line.startswith(f"{name}: is missing") for line in found) == 1, found


@pytest.mark.parametrize(
    "name",
    [f"{AT}/rootfs.squashfs.asc", f"{AT}/SHA256SUMS.asc", "streams/v1/images.json.gpg", "meta/1.0/index-user.asc"],
)  # fmt: skip
def test_a_missing_signature_is_named(served: Site, name: str) -> None:
    (served.latest / name).unlink()
    (line,) = lines(served, 1)
    assert line.startswith(f"{name.rpartition('.')[0]}: has no ")


def test_an_image_that_is_gone_is_named(served: Site) -> None:
    shutil.rmtree(served.latest / AT)
    found = lines(served, 1)
    assert any(f"{AT}/rootfs.squashfs does not exist" in line for line in found)
    assert any("index-system names" in line for line in found)


STRAYS: dict[str, Callable[[Path], object]] = {
    f"{AT}/rootfs.img": lambda path: path.write_text("from elsewhere"),
    f"{AT}/rootfs.img.asc": lambda path: path.write_text("of what is not there"),
    f"{AT}/link": lambda path: path.symlink_to("rootfs.squashfs"),
    f"{AT}/directory": lambda path: path.mkdir(),
    f"images/{A}/notes": lambda path: path.write_text("not in an image"),
    "images/readme": lambda path: path.write_text("not in an image"),
    f"{AT}/deeper/file": lambda path: (path.parent.mkdir(), path.write_text("not in an image")),
}


@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_file_is_named(served: Site, name: str) -> None:
    STRAYS[name](served.latest / name)
    found = lines(served, 1)
    assert any(line.startswith(f"{name}: ") for line in found), found


@pytest.mark.parametrize("change", [("site: ", "site: x"), ("snapshot: ", "snapshot: 1"), ("published", "")])
def test_a_trace_of_another_tree_is_named(served: Site, change: tuple[str, str]) -> None:
    path, here = served.latest / "trace", served.latest.resolve().parent.name
    path.write_text(path.read_text().replace(*change))
    assert lines(served, 1) == [f"trace: does not say that this is {here}"]
    path.unlink()
    assert lines(served, 0) == [], "a tree of before there were any"


def test_other_sizes_are_named(served: Site) -> None:
    with (served.latest / AT / "rootfs.squashfs").open("ab") as file:
        file.write(b"more")
    size = (served.latest / AT / "rootfs.squashfs").stat().st_size
    assert f"{AT}/rootfs.squashfs: has {size} bytes, not {size - 4}" in lines(served, 1)


class TestResigned:
    """What is well signed and yet wrong: a fault of the publisher, or somebody who has its key."""

    @pytest.fixture
    def by(self, key: Key) -> Sequoia:
        return Sequoia(key.secret, "")

    def images(self, site: Site, by: Sequoia, change: Callable[[dict], object]) -> None:
        """Change what images.json says of the newest image, in all of its forms and places."""
        for top in (STREAMS, STREAMS_TWIN):
            path = site.latest / top / streams.IMAGES
            document = json.loads(path.read_bytes())
            change(document["products"][KEY]["versions"])
            _put_stream(path, streams.text(document), None, by)

    def source(self, site: Site, by: Sequoia, change: Callable[[dict], object]) -> None:
        """Change what source.json says of the newest image, and SHA256SUMS with it."""
        path = site.latest / AT / "source.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))
        named = {name: File(1, file["sha256"]) for name, file in document["files"].items()}
        named["source.json"] = File(1, sha256(path))
        (path.parent / "SHA256SUMS").write_text(sums(named))
        for name in ("source.json", "SHA256SUMS"):
            (path.parent / f"{name}.asc").write_bytes(by.detached(path.parent / name))

    @pytest.mark.parametrize("key_", ["combined_squashfs_sha256", "combined_disk-kvm-img_sha256"])
    def test_another_combined_hash_in_images_json(self, served: Site, by: Sequoia, key_: str) -> None:
        item = "incus.tar.xz"
        self.images(served, by, lambda v: v["20260401_00:00"]["items"][item].update({key_: "0" * 64}))
        (line,) = lines(served, 1)
        assert line == f"streams/v1/images.json: {KEY} 20260401_00:00 {item}: {key_} is not that of {AT}"

    def test_a_combined_hash_that_is_not_listed(self, served: Site, by: Sequoia) -> None:
        self.images(
            served, by, lambda v: v["20260401_00:00"]["items"]["lxd.tar.xz"].pop("combined_rootxz_sha256")
        )
        (line,) = lines(served, 1)
        assert line.endswith(f"lxd.tar.xz: combined_rootxz_sha256 is not that of {AT}")

    def test_another_sha256_in_images_json(self, served: Site, by: Sequoia) -> None:
        self.images(served, by, lambda v: v["20260401_00:00"]["items"]["disk.qcow2"].update(sha256="0" * 64))
        (line,) = lines(served, 1)
        assert line.endswith(f"20260401_00:00 disk.qcow2: names another sha256 than {AT}/SHA256SUMS")

    def test_another_size_in_images_json(self, served: Site, by: Sequoia) -> None:
        self.images(served, by, lambda v: v["20260401_00:00"]["items"]["disk.qcow2"].update(size=5))
        (line,) = lines(served, 1)
        assert line.endswith("bytes, not 5")

    def test_what_no_client_would_read(self, served: Site, by: Sequoia) -> None:
        self.images(served, by, lambda v: v.update(yesterday=v.pop("20260401_00:00")))
        (line,) = lines(served, 1)
        assert "the version 'yesterday' does not begin with a date" in line

    def test_what_lxc_would_not_find(self, served: Site, by: Sequoia) -> None:
        path = served.latest / "meta/1.0/index-user"
        publish_signed(path, path.read_bytes().replace(b"20260401", b"20260402"), by, ".asc")
        found = lines(served, 1)
        assert len(found) == 2
        assert all("index-user names" in line for line in found)

    @pytest.mark.parametrize("verb", ["another", "no"])
    def test_another_combined_hash_in_source_json(self, served: Site, by: Sequoia, verb: str) -> None:
        def change(document: dict) -> None:
            marks = document["fingerprints"]["incus.tar.xz"]
            if verb == "another":
                marks["rootfs.squashfs"] = "0" * 64
            else:
                del marks["rootfs.squashfs"]

        self.source(served, by, change)
        found = lines(served, 1)
        said = f"{AT}/source.json: names {verb} combined sha256 of incus.tar.xz and rootfs.squashfs"
        assert said in found
        assert all("combined_squashfs_sha256" in line for line in found if line != said)

    def test_another_sha256_in_source_json_and_sums(self, served: Site, by: Sequoia) -> None:
        self.source(served, by, lambda d: d["files"]["rootfs.squashfs"].update(sha256="0" * 64))
        assert f"{AT}/rootfs.squashfs: has another sha256 than SHA256SUMS and source.json say" in lines(
            served, 1
        )

    def test_another_sha256_in_source_json_alone(self, served: Site, by: Sequoia) -> None:
        path = served.latest / AT / "SHA256SUMS"
        before = path.read_text().splitlines()[:-1]
        self.source(served, by, lambda d: d["files"]["rootfs.squashfs"].update(sha256="0" * 64))
        last = path.read_text().splitlines()[-1:]
        path.write_text("\n".join(before + last) + "\n")
        named = {line[66:]: File(1, line[:64]) for line in before}
        named["source.json"] = File(1, sha256(path.with_name("source.json")))
        path.write_text(sums(named))
        path.with_name("SHA256SUMS.asc").write_bytes(by.detached(path))
        said = f"{AT}/source.json: names another sha256 for rootfs.squashfs than the file has"
        assert said in lines(served, 1)

    def test_another_size_in_source_json(self, served: Site, by: Sequoia) -> None:
        self.source(served, by, lambda d: d["files"]["image.yaml"].update(size=1))
        (line,) = lines(served, 1)
        assert line.startswith(f"{AT}/image.yaml: has ")
        assert line.endswith(" bytes, not 1")

    def test_the_source_of_another_image(self, served: Site, by: Sequoia) -> None:
        self.source(served, by, lambda d: d.update(serial="20260402_00:00"))
        assert f"{AT}/source.json: speaks of images/{A}/20260402_00:00" in lines(served, 1)

    def test_a_file_that_only_sums_name(self, served: Site, by: Sequoia) -> None:
        self.source(served, by, lambda d: d["files"].pop("image.yaml"))
        path = served.latest / AT / "SHA256SUMS"
        digest = sha256(path.with_name("image.yaml"))
        path.write_text(f"{digest}  image.yaml\n{path.read_text()}")
        path.with_name("SHA256SUMS.asc").write_bytes(by.detached(path))
        assert lines(served, 1) == [f"{AT}/source.json: does not name image.yaml, which SHA256SUMS does"]

    @pytest.mark.parametrize("name", ["image.yaml", "source.json"])
    def test_a_file_that_sums_do_not_name(self, served: Site, by: Sequoia, name: str) -> None:
        path = served.latest / AT / "SHA256SUMS"
        kept = [line for line in path.read_text().splitlines(keepends=True) if f"  {name}\n" not in line]
        path.write_text("".join(kept))
        path.with_name("SHA256SUMS.asc").write_bytes(by.detached(path))
        assert lines(served, 1) == [f"{AT}/SHA256SUMS: does not name {name}"]

    def test_sums_that_are_none(self, served: Site, by: Sequoia) -> None:
        path = served.latest / AT / "SHA256SUMS"
        path.write_text(f"{'0' * 64} *rootfs.squashfs\n")
        path.with_name("SHA256SUMS.asc").write_bytes(by.detached(path))
        assert any(line.startswith(f"{AT}/SHA256SUMS: the line '0000") for line in lines(served, 1))

    def test_a_clear_signed_text_of_other_content(self, served: Site, by: Sequoia) -> None:
        for top in (STREAMS, STREAMS_TWIN):
            (served.latest / top / "images.sjson").write_bytes(by.clear(b"{}\n"))
        assert lines(served, 1) == [
            f"{top}/images.sjson: has other content than {top}/images.json" for top in (STREAMS, STREAMS_TWIN)
        ]

    def test_a_signed_index_that_names_the_unsigned_list(self, served: Site, by: Sequoia) -> None:
        path = served.latest / "streams/v1/index.json"
        path.with_suffix(".sjson").write_bytes(by.clear(path.read_bytes()))
        assert lines(served, 1) == ["streams/v1/index.sjson: has other content than streams/v1/index.json"]

    @pytest.mark.parametrize("where", ["before", "after", "inline", "header"])
    def test_something_around_a_clear_signed_text(self, served: Site, by: Sequoia, where: str) -> None:
        path = served.latest / "streams/v1/images.sjson"
        good, plain = path.read_bytes(), path.with_suffix(".json").read_bytes()
        made = {
            "before": b"{}\n" + good,
            "after": good + b"{}\n",
            "inline": by._sign(plain, by._ps.SignatureMode.INLINE, "test"),
            "header": good.replace(b"Hash: SHA512", b"Hash: SHA513", 1),
        }
        path.write_bytes(made[where])
        said = "is no clear-signed text, or has something around it"
        assert lines(served, 1) == [f"streams/v1/images.sjson: {said}"]

    @pytest.mark.parametrize("how", ["other", "longer", "cut", "trailing"])
    def test_a_packed_list_of_other_content(self, served: Site, how: str) -> None:
        path = served.latest / "streams/v1/images.json"
        data, packed = path.read_bytes(), path.with_name("images.json.gz").read_bytes()
        made = {
            "other": streams.gzipped(data.replace(b"20260401", b"20260402")),
            "longer": streams.gzipped(data + bytes(1 << 20)),
            "cut": packed[:-4],
            "trailing": packed + b"x",
        }
        path.with_name("images.json.gz").write_bytes(made[how])
        (line,) = lines(served, 1)
        assert line.startswith("streams/v1/images.json.gz: ")


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout[:64]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """Somebody else's key."""
    directory = tmp_path_factory.mktemp("other")
    demo.make_key(directory)
    return Key(directory / "publisher.asc", directory / "publisher.pub.asc")


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    made = make_ring("")
    yield made
    closed(made)


class TestKeys:
    """Whose signatures they have to be."""

    def test_a_public_key_is_enough(self, served: Site, key: Key, tmp_path: Path) -> None:
        served.key = Key(tmp_path / "not/here", key.public)
        result = served.doit("verify")
        assert result.code == 3
        (line,) = result.err.splitlines()
        assert line.startswith("ERROR: signing.key: cannot read ")
        assert line.endswith("to verify with the public key alone: doit verify --key=FILE")
        assert lines(served, 0, f"--key={key.public}") == []

    def test_the_signatures_of_another_key_are_not_good(self, served: Site, other: Key) -> None:
        found = lines(served, 1, f"--key={other.public}")
        assert all(": is no good signature by " in line for line in found)
        tree = served.latest.resolve()
        signatures = (".asc", ".gpg", ".sjson")
        wanted = [path for path in tree.rglob("*") if path.suffix in signatures and path.name != "key.asc"]
        assert len(found) == len(wanted)

    def test_after_a_change_of_keys_both_are_given(self, served: Site, key: Key, other: Key) -> None:
        path = served.latest / AT / "rootfs.squashfs"
        path.with_name(f"{path.name}.asc").write_bytes(Sequoia(other.secret, "").detached(path))
        (line,) = lines(served, 1)
        assert line.startswith(f"{AT}/rootfs.squashfs.asc: is no good signature by ")
        assert lines(served, 0, "--key", str(key.public), f"--key={other.public}") == []

    def test_keys_that_are_none(self, served: Site, tmp_path: Path) -> None:
        (tmp_path / "garbage").write_text("not a key")
        (tmp_path / "empty").write_text("")
        for name in ("garbage", "empty", "missing"):
            result = served.doit("verify", f"--key={tmp_path}/{name}")
            assert result.code == 3, result.err
            assert name in result.err
            assert len(result.err.splitlines()) == 1

    def test_with_gpg_the_keyring_has_the_public_key(self, ring, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("GNUPGHOME", str(ring.home))
        (tmp_path / "file").write_bytes(b"content")
        by = verifier(Signing(key=ring.subkeys[0] + "!", backend="gpg"), [])
        gpg = Gpg(ring.subkeys[0] + "!", "")
        signature, text = gpg.detached(tmp_path / "file"), gpg.clear(b"{\n}\n")
        assert by.detached(b"content", signature) == ""
        assert by.detached(tmp_path / "file", signature) == ""
        assert by.detached(b"consent", signature).startswith("is no good signature by ")
        assert by.clear(text) == ("", b"{\n}")
        with pytest.raises(SettingsError, match="holds no key; to verify with a public key"):
            verifier(Signing(key="0" * 40, backend="gpg"), [])

    def test_what_is_no_signature(self, key: Key) -> None:
        by = verifier(Signing(key=str(key.secret)), [])
        assert by.detached(b"content", b"garbage").startswith("is no signature: ")
        assert by.detached(b"content", b"") != ""


class TestNothingToVerify:
    def test_before_the_first_publication(self, site: Site) -> None:
        result = site.doit("verify")
        assert result.code == 2
        assert "ERROR: there is nothing to verify: " in result.out
        assert not site.root.exists()

    def test_where_latest_leads_nowhere(self, served: Site) -> None:
        shutil.rmtree(served.root / "snapshots")
        assert served.doit("verify").code == 2

    def test_of_a_tree_without_indexes_all_are_missing(self, served: Site) -> None:
        shutil.rmtree(served.latest / "streams")
        shutil.rmtree(served.latest / "meta")
        found = lines(served, 1)
        for name in ("streams/v1/images.json", "streams/v1/index.sjson", "meta/1.0/index-system"):
            assert f"{name}: is missing, or cannot be read" in found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the test's own threads
class TestReading:
    def test_what_may_not_be_read_is_named_and_is_no_damage(self, served: Site, key: Key) -> None:
        path = served.latest / AT / "rootfs.squashfs"
        path.chmod(0)

        def as_nobody(where: str):
            if os.geteuid() == 0:
                os.chdir(served.latest)  # the way there is closed for others
                os.setuid(65534)
            return audit(Path(), where)

        ((_, found),) = apart(as_nobody, [AT], 1)
        assert found.damage == (f"{AT}/rootfs.squashfs: cannot be read: Permission denied",)
        assert found.refused == found.damage[0]

    def test_memory_does_not_depend_on_the_size_of_a_file(self, served: Site, key: Key) -> None:
        path = served.latest / AT / "disk.qcow2"
        os.truncate(path, 400 << 20)
        script = (
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from tasks.audit import audit\n"
            "from tasks.settings import Signing\n"
            "from tasks.sign import verifier\n"
            "by = verifier(Signing(key=sys.argv[3]), [])\n"
            f"resource.setrlimit(resource.RLIMIT_DATA, ({150 << 20}, {150 << 20}))\n"
            "signature = Path(sys.argv[4]).read_bytes()\n"
            "print(by.detached(Path(sys.argv[1], sys.argv[2], 'disk.qcow2'), signature))\n"
            "print(*audit(Path(sys.argv[1]), sys.argv[2], by).damage)\n"
        )
        signature = served.base / "signature"
        Sequoia(key.secret, "")._ps.sign_file(
            Sequoia(key.secret, "")._signer, str(path), str(signature),
            mode=Sequoia(key.secret, "")._ps.SignatureMode.DETACHED,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script, str(served.latest), AT, str(key.secret), str(signature)],
            cwd=CHECKOUT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(f"\n{AT}/disk.qcow2: has {400 << 20} bytes, not ")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the test's own threads
class TestApart:
    def test_every_item_is_made_once(self) -> None:
        assert sorted(apart(lambda n: n * n, range(50), 3)) == [(n, n * n) for n in range(50)]
        assert list(apart(lambda n: n, [], 3)) == []

    def test_a_process_that_dies_costs_its_item_alone(self) -> None:
        def make(number: int) -> int:
            if number % 4 == 0:
                os.kill(os.getpid(), signal.SIGKILL)  # as a page that the disk cannot give may do
            return number

        found = dict(apart(make, range(9), 2))
        assert found == {n: None if n % 4 == 0 else n for n in range(9)}

    def test_the_processes_end_after_their_parent(self) -> None:
        script = (
            "import os, time\n"
            "from tasks.threads import apart\n"
            "def make(number):\n"
            "    os.write(1, b'%d\\n' % os.getpid())\n"
            "    time.sleep(0.2)\n"
            "list(apart(make, range(1000), 3))\n"
        )
        words = [sys.executable, "-c", script]
        with subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE) as parent:
            assert parent.stdout
            children = {int(parent.stdout.readline()) for _ in range(3)}
            assert len(children) == 3
            parent.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))

    def test_the_processes_end_with_it(self) -> None:
        made = apart(lambda seconds: time.sleep(seconds), [0, 60, 60], 2)
        assert next(made) == (0, None)
        made.close()
        assert not active_children()


def test_it_can_be_stopped(served: Site) -> None:
    os.truncate(served.latest / AT / "disk.qcow2", 8 << 30)  # sparse; some seconds to hash
    process = served.start("verify")
    try:
        time.sleep(1.5)
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 143
    finally:
        process.kill()
        process.communicate()


def test_a_verifier_needs_no_secret(key: Key) -> None:
    by = verifier(Signing(key=str(key.secret)), [])
    assert isinstance(by, Verifier)
    assert not any(b"PRIVATE" in str(one).encode() for one in by._certificates)
