"""One image from its wish into the tree: placed once, adopted after a kill, never changed, refused by name."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from clients import sha256sum
from sites import Key, build, configuration, files, matrix

from jenkins.client import Client
from jenkins.faults import Cut, Status
from jenkins.samples import artifacts
from jenkins.standin import Standin
from tasks.check import check
from tasks.errors import PublishError
from tasks.fetch import Fetcher
from tasks.hashed import Staged
from tasks.image import Product, Source
from tasks.layout import Layout
from tasks.make import Made, adopt, make
from tasks.plan import Wish
from tasks.poll import poll
from tasks.settings import Jenkins
from tasks.sign import Sequoia
from tasks.state import Failure, Ledger, load

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
TINY = Product.parse(A)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SERIAL = "20260501_08:30"
DAMAGES = {
    "sums": lambda path: (path / "SHA256SUMS").unlink(),
    "signature": lambda path: (path / "SHA256SUMS.asc").unlink(),
    "source": lambda path: (path / "source.json").unlink(),
    "garbage": lambda path: (path / "source.json").write_text("{"),
    "root": lambda path: (path / "rootfs.squashfs").unlink(),
    "size": lambda path: (path / "rootfs.squashfs").write_bytes(b"short"),
    "serial": lambda path: path.rename(path.with_name("20260501_08:31")),
    "product": lambda path: (path / "source.json").write_text(
        (path / "source.json").read_text().replace("amd64", "arm64")
    ),
}


def sample(serial: str = SERIAL, **options) -> dict[str, bytes]:
    return artifacts(os="tiny", release="1", arch="amd64", variant="default", serial=serial, **options)


class Mill:
    """A site, its Jenkins, and everything between them."""

    def __init__(self, server: Standin, root: Path, key: Key) -> None:
        self.server, self.ci, self.key = server, server.ci, key
        self.layout = Layout(root)
        self.jenkins = Jenkins(url=server.url)
        matrix(self.ci, A, B)

    def wish(self, product: str = A) -> Wish:
        self.server.clear()
        client = Client(self.server.url)
        poll(client, self.jenkins, self.layout)
        found = load(self.layout.wish(Product.parse(product)), Wish)
        assert found
        return found

    def make(self, product: str = A, *, log: bool = False, signer=None, now: datetime = NOW) -> Made:
        """Poll, then bring one product to its wish."""
        wish = self.wish(product)

        def finish(wish: Wish, it: Staged) -> Staged:
            check(it.directory, it.files, wish.product, it.serial, now)
            return it

        settings = msgspec.structs.replace(self.jenkins, downloads=1, log=log)
        fetcher = Fetcher(Client(self.server.url), self.layout.staging, finish, settings)
        return make(wish, self.layout, fetcher.take, signer or (lambda: Sequoia(self.key.secret, "")))

    def finish(self, content: dict[str, bytes] | None = None, **options):
        return build(self.ci, A, content={A: content} if content else None, **options)

    @property
    def ledger(self) -> Ledger:
        return load(self.layout.ledger(TINY), Ledger) or Ledger(TINY)

    @property
    def failure(self) -> Failure | None:
        return load(self.layout.failure(TINY), Failure)

    @property
    def fetched(self) -> int:
        return self.server.count("/artifact/")

    def directory(self, serial: str = SERIAL) -> Path:
        return Path(self.layout.public, "images", A, serial)

    def tree(self) -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in Path(self.layout.public).rglob("*")
        }


@pytest.fixture
def mill(server: Standin, tmp_path: Path, key: Key) -> Mill:
    return Mill(server, tmp_path / "root", key)


@pytest.fixture
def published(mill: Mill) -> Mill:
    """One image, made from build #1."""
    mill.finish(sample())
    assert mill.make().image
    return mill


class TestPlaced:
    def test_a_new_image_lies_whole_under_its_serial(self, mill):
        content = sample(kinds=("container", "vm", "lxc"), lxd="differs")
        run = mill.finish(content).runs[0]
        made = mill.make()
        assert made.line.startswith(f"{SERIAL} (LXC, VM, container; 7 files, ")
        assert made.line.endswith(f") from image-tiny/{configuration(A)} #1")
        here = {path.name: path for path in mill.directory().iterdir()}
        stored = content.keys() - {"serial"}
        plain = {*stored, "source.json", "SHA256SUMS"}
        assert here.keys() == plain | {f"{name}.asc" for name in plain}
        assert {name: here[name].read_bytes() for name in stored} == {name: content[name] for name in stored}
        sha256sum(here["SHA256SUMS"])
        listed = [line.split("  ")[1] for line in here["SHA256SUMS"].read_text().splitlines()]
        assert listed == sorted({*stored, "source.json"})
        assert {path.stat().st_mode & 0o777 for path in here.values()} == {0o644}
        assert mill.directory().stat().st_mode & 0o777 == 0o755
        assert mill.ledger.images == (made.image,)
        assert made.image.source == Source(
            job="image-tiny", configuration=configuration(A), number=1, timestamp=run.timestamp, md5={name: run.prints[name] for name in sorted(stored)}
        )  # fmt: skip
        assert not list(Path(mill.layout.staging).iterdir())
        assert mill.failure is None

    def test_source_json_is_the_image_as_the_ledger_has_it(self, published):
        source = published.directory() / "source.json"
        assert load(source, type(published.ledger.images[0])) == published.ledger.images[0]
        assert json.loads(source.read_text())["source"]["number"] == 1

    def test_images_gather_in_order_of_their_serials(self, published):
        published.finish(sample("20260501_08:31"))
        published.make()
        published.finish(sample("20260502_00:00"))
        published.make()
        assert [image.serial for image in published.ledger.images] == [
            SERIAL,
            "20260501_08:31",
            "20260502_00:00",
        ]

    def test_the_serial_of_another_product_may_be_older(self, published):
        build(published.ci, B, content={B: files(B, serial="20260101_00:00")})
        assert published.make(B).image

    def test_without_a_signature_there_is_no_image(self, mill, tmp_path):
        mill.finish(sample())
        with pytest.raises(PublishError, match=r"no\.asc"):
            mill.make(signer=lambda: Sequoia(tmp_path / "no.asc", ""))
        assert not mill.directory().exists()
        assert mill.ledger.images == ()
        assert mill.failure is None, "the build is not at fault"
        assert mill.make().image


class TestThereAlready:
    def test_the_same_wish_costs_nothing(self, published):
        before = published.tree()
        made = published.make()
        assert made == Made(f"{SERIAL} is there already")
        assert published.fetched == 0
        assert published.tree() == before

    def test_an_image_that_was_placed_but_not_noted_is_adopted(self, published):
        """As a kill between the rename and the ledger leaves it."""
        Path(published.layout.ledger(TINY)).unlink()
        before = published.tree()
        assert published.make() == Made(f"{SERIAL} is there already")
        assert published.fetched == 0
        assert published.tree() == before
        assert [image.serial for image in published.ledger.images] == [SERIAL]

    def test_a_lost_state_directory_costs_no_download(self, published):
        published.finish(sample("20260502_00:00"))
        published.make()
        before, images = published.tree(), published.ledger.images
        shutil.rmtree(published.layout.state)
        assert published.make() == Made("20260502_00:00 is there already")
        assert published.fetched == 0
        assert published.tree() == before
        assert published.ledger.images == images

    def test_adopting_again_writes_nothing(self, published):
        path = Path(published.layout.ledger(TINY))
        before = path.stat().st_mtime_ns, path.stat().st_ino
        assert adopt(TINY, published.layout) == published.ledger
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before

    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_what_is_not_a_whole_image_is_not_adopted(self, published, damage):
        damage(published.directory())
        Path(published.layout.ledger(TINY)).unlink()
        assert adopt(TINY, published.layout).images == ()

    def test_the_image_of_another_product_is_not_adopted(self, published):
        build(published.ci, B, content={B: files(B, serial="20260502_00:00")})
        published.make(B)
        shutil.copytree(
            Path(published.layout.public, "images", B, "20260502_00:00"),
            published.directory("20260502_00:00"),
        )
        assert [image.serial for image in adopt(TINY, published.layout).images] == [SERIAL]

    @pytest.mark.parametrize(
        ("name", "noted"),
        [
            ("sums", True),
            ("signature", True),
            ("source", True),
            ("root", True),
            ("size", True),
            ("root", False),
            ("garbage", False),
        ],
    )
    def test_a_damaged_image_is_made_again(self, published, name, noted):
        before = {
            path.name: path.read_bytes() for path in published.directory().iterdir() if path.suffix != ".asc"
        }
        DAMAGES[name](published.directory())
        if not noted:
            Path(published.layout.ledger(TINY)).unlink()
        assert published.make().image
        assert {
            path.name: path.read_bytes() for path in published.directory().iterdir() if path.suffix != ".asc"
        } == before
        assert (published.directory() / "SHA256SUMS.asc").exists()
        assert [image.serial for image in published.ledger.images] == [SERIAL]
        assert list(Path(published.layout.staging).iterdir()) == []

    def test_a_damaged_image_comes_again_from_a_newer_build_with_another_log(self, mill):
        mill.finish(sample(), log="at one\n")
        mill.make(log=True)
        (mill.directory() / "rootfs.squashfs").unlink()
        mill.finish(sample(), log="at two\n")
        assert mill.make(log=True).image
        assert b"at two" in (mill.directory() / "build.log").read_bytes()

    def test_a_damaged_image_does_not_come_again_with_other_bytes(self, published):
        (published.directory() / "rootfs.squashfs").unlink()
        published.finish(sample(payload=b"other"))
        line = published.make().line
        assert line.startswith("rejected: ")
        assert f": serial {SERIAL} has another rootfs." in line
        assert not (published.directory() / "rootfs.squashfs").exists()

    def test_a_damaged_image_that_nobody_wishes_for_leaves_the_ledger(self, published):
        published.finish(sample("20260502_00:00"))
        published.make()
        (published.directory() / "rootfs.squashfs").unlink()
        assert published.make() == Made("20260502_00:00 is there already")
        assert [image.serial for image in published.ledger.images] == ["20260502_00:00"]
        assert published.fetched == 0

    def test_a_newer_build_of_the_same_bytes_is_noted_and_nothing_else(self, published):
        before = published.tree()
        published.finish(sample())
        assert published.make() == Made(f"{SERIAL} is there already, with the same bytes, from build #1")
        assert published.tree() == before
        assert published.failure is None
        assert [image.source.number for image in published.ledger.images] == [2]
        assert published.make() == Made(f"{SERIAL} is there already")
        assert published.fetched == 0

    def test_a_log_that_differs_makes_no_other_image(self, mill):
        mill.finish(sample(), log="at one\n")
        assert mill.make(log=True).image
        mill.finish(sample(), log="at two\n")
        assert mill.make(log=True) == Made(f"{SERIAL} is there already, with the same bytes, from build #1")
        assert mill.failure is None
        assert b"at one" in (mill.directory() / "build.log").read_bytes()

    def test_a_build_of_a_job_made_anew_is_not_the_old_one_of_its_number(self, published):
        published.ci.job("image-tiny").remove()
        matrix(published.ci, A, B)
        published.finish(sample("20260502_00:00"), timestamp=published.ci.clock() + 60_000)
        assert published.make().image
        assert [image.serial for image in published.ledger.images] == [SERIAL, "20260502_00:00"]
        assert [image.source.number for image in published.ledger.images] == [1, 1]


class TestRefused:
    def refused(self, mill: Mill, number: int) -> str:
        before, images = mill.tree(), mill.ledger.images
        made = mill.make()
        assert made.image is None
        assert mill.failure
        assert mill.failure.build == f"image-tiny/{configuration(A)} #{number}"
        verdict = "rejected" if mill.failure.rejected else "failed"
        assert made.line == f"{verdict}: {mill.failure.build}: {mill.failure.reason}"
        assert (mill.tree(), mill.ledger.images) == (before, images)
        return f"{verdict}: {mill.failure.reason}"

    @pytest.mark.parametrize(
        "other",
        [{"payload": b"x"}, {"kinds": ("container", "vm")}, {"kinds": ("lxc",)}, {"lxd": "differs"}],
        ids=str,
    )
    def test_other_bytes_under_the_same_serial(self, published, other):
        published.finish(sample(**other))
        assert self.refused(published, 2).startswith(
            f"rejected: serial {SERIAL} is published with other bytes, from build #1;"
        )

    def test_an_older_serial_of_a_higher_number(self, published):
        published.finish(sample("20260501_08:29"))
        said = self.refused(published, 2)
        assert said.startswith(
            f"rejected: its serial 20260501_08:29 is older than the published {SERIAL} of build #1;"
        )

    def test_an_older_serial_that_is_there_already_is_no_fault(self, published):
        published.finish(sample("20260502_00:00"))
        published.make()
        published.finish(sample())
        assert published.make().line.startswith(f"{SERIAL} is there already, with the same bytes")
        assert published.failure is None

    def test_a_lower_number_with_a_newer_serial_is_a_job_made_anew(self, mill):
        mill.finish(sample(), number=40)
        mill.make()
        mill.ci.job("image-tiny").remove()
        matrix(mill.ci, A, B)
        mill.finish(sample("20260502_00:00"), timestamp=mill.ci.clock() + 60_000)
        assert mill.make().image
        assert [(image.serial, image.source.number) for image in mill.ledger.images] == [
            (SERIAL, 40),
            ("20260502_00:00", 1),
        ]

    def test_a_serial_in_the_future(self, mill):
        mill.finish(sample("20260601_01:01"))
        assert "lies in the future" in self.refused(mill, 1)
        assert mill.make(now=NOW.replace(minute=1)).image
        assert mill.failure is None

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"serial": b"yesterday"}, "rejected: serial 'yesterday' is not YYYYMMDD_HH:MM"),
            ({"meta.tar.xz": b"no"}, "rejected: meta.tar.xz is not "),
            ({"incus.tar.xz": b"no"}, "rejected: incus.tar.xz cannot be read as a tarball: "),
            ({"rootfs.squashfs": b""}, "rejected: rootfs.squashfs is not "),
        ],
    )
    def test_content_is_rejected_and_a_good_build_ends_that(self, published, change, reason):
        published.finish({**sample("20260502_00:00"), **change})
        assert self.refused(published, 2).startswith(reason)
        published.finish(sample("20260503_00:00"))
        assert published.make().image
        assert published.failure is None

    @pytest.mark.parametrize("fault", [Status(403), Status(404), Cut(10, "close")], ids=["403", "404", "cut"])
    def test_a_fault_of_the_way_is_no_verdict(self, published, fault):
        published.finish(sample("20260502_00:00"))
        published.server.faults.add("/artifact/rootfs.squashfs", fault, times=None)
        assert self.refused(published, 2).startswith("failed: ")
        published.server.faults.clear()
        assert published.make().image
        assert published.failure is None

    def test_a_failure_ends_when_the_image_turns_out_to_be_there(self, published):
        published.finish({**sample("20260502_00:00"), "serial": b"no"})
        self.refused(published, 2)
        published.ci.job("image-tiny").delete_build(2)
        Path(published.layout.wish(TINY)).unlink()
        assert published.make() == Made(f"{SERIAL} is there already")
        assert published.failure is None

    def test_the_same_failure_is_not_written_twice(self, published):
        published.finish({**sample("20260502_00:00"), "serial": b"no"})
        self.refused(published, 2)
        path = Path(published.layout.failure(TINY))
        before = path.stat().st_mtime_ns, path.stat().st_ino
        self.refused(published, 2)
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
