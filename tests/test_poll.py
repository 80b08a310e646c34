"""Asking Jenkins what is new: which products it makes, which build each should be at, at what price."""

import threading
from pathlib import Path

import msgspec
import pytest
from sites import configuration, files, matrix, passes, serial, wait_for

from jenkins import standin
from jenkins.api import jobs_tree, split_job
from jenkins.client import Client
from jenkins.controller import Controller
from jenkins.faults import HALF, LOGIN_PAGE, Cut, Edit, Status
from jenkins.jobs import Build
from jenkins.standin import Auth, Standin
from tasks.errors import SettingsError, UpstreamError
from tasks.hook import await_build
from tasks.image import Image, Product, Source
from tasks.layout import Layout
from tasks.plan import Wish
from tasks.poll import look, poll
from tasks.settings import Axes, Gate, Jenkins
from tasks.state import Ledger, Offers, load, load_all, save

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"
TEMPLATE = "{arch}/{release}/{variant}/{file}"
MINUTE = 60_000
AXES = {"architecture": ["amd64"], "release": ["1"], "variant": ["default"]}


def build(ci: Controller, *products: str, **options) -> Build:
    """Finish a build of these products of one os, with next to nothing in it."""
    job = ci.job(f"image-{products[0].split('/')[0]}")
    return job.build({configuration(one): {"serial": serial().encode()} for one in products}, **options)


class Asked:
    """A site's state directory and the Jenkins that it is polled from."""

    def __init__(self, server: Standin, root: Path) -> None:
        self.server, self.layout = server, Layout(root)

    def poll(self, job: str = "", **options) -> str:
        self.server.clear()
        client = Client(self.server.url)
        return poll(client, Jenkins(url=self.server.url, **options), self.layout, job)

    def look(self, **options) -> tuple[Offers, dict[Product, Wish]]:
        self.server.clear()
        return look(Client(self.server.url), Jenkins(url=self.server.url, **options), self.layout)

    def everything(self) -> dict[str, tuple[int, int, bytes]]:
        """What lies below the root, each with its time, inode and content."""
        return {
            str(path): (
                path.stat().st_mtime_ns,
                path.stat().st_ino,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in [self.layout.root, *self.layout.root.rglob("*")]
            if path.exists()
        }

    @property
    def paths(self) -> list[str]:
        return [record.path for record in self.server.requests]

    @property
    def records(self) -> dict[str, Wish]:
        return {wish.product.name: wish for wish in load_all(self.layout.state / "wishes", Wish)}

    @property
    def wishes(self) -> dict[str, tuple[str, int]]:
        return {name: (wish.job, wish.number) for name, wish in self.records.items()}

    @property
    def numbers(self) -> dict[str, int]:
        return {name: wish.number for name, wish in self.records.items()}

    @property
    def offers(self) -> Offers:
        return load(self.layout.offers, Offers) or Offers()

    def written(self) -> dict[str, tuple[int, int]]:
        found = (self.layout.state / "wishes").glob("*")
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


@pytest.fixture
def site(server: Standin, tmp_path: Path) -> Asked:
    """A Jenkins polled for the first time; nothing in it yet."""
    return Asked(server, tmp_path / "root")


@pytest.fixture
def three(site: Asked) -> Asked:
    """Three products, each built once and polled."""
    matrix(site.server.ci, A, B, C)
    build(site.server.ci, A, B, C)
    assert site.poll() == "3 products, 3 with a new build"
    return site


class TestPrice:
    def test_one_request_for_everything_and_one_for_each_moved_build(self, three):
        assert len(three.paths) == 4
        assert three.paths[0] == "/api/json"
        assert three.server.requests[1].target.partition("?")[0] in {
            f"/job/image-tiny/{configuration(one)}/1/api/json" for one in (A, B, C)
        }
        assert sorted(three.paths[1:]) == [
            f"/job/image-tiny/{configuration(product)}/1/api/json"
            for product in sorted((A, B, C), key=configuration)
        ]

    def test_nothing_new_is_one_request_and_no_write(self, three):
        before = three.written()
        assert three.poll() == "3 products, 0 with a new build"
        assert three.paths == ["/api/json"]
        assert three.written() == before

    def test_nothing_new_with_a_gate_is_two(self, three):
        options = {"gate": Gate(job="test-image")}
        passes(three.server.ci, three.server.ci.job("image-tiny").builds[1], three.server.url)
        three.poll(**options)
        before = three.written()
        three.poll(**options)
        assert three.paths == ["/api/json", "/job/test-image/api/json"]
        assert three.written() == before

    def test_only_the_moved_one_is_asked_for_and_rewritten(self, three):
        before = three.written()
        build(three.server.ci, B)
        assert three.poll() == "3 products, 1 with a new build"
        assert three.paths == ["/api/json", f"/job/image-tiny/{configuration(B)}/2/api/json"]
        changed = {name for name, seen in three.written().items() if before[name] != seen}
        assert changed == {"tiny:1:arm64:default.json"}

    @pytest.mark.parametrize(("count", "gate"), [(20, None), (20, Gate(job="test-image"))])
    def test_the_price_of_nothing_new_does_not_grow(self, site, count, gate):
        ci = site.server.ci
        with ci.bulk():
            for os in range(count):
                ci.matrix(f"image-os{os}", {**AXES, "architecture": ["amd64", "arm64"]})
                tested = ci.job(f"image-os{os}").build(
                    {name: {"serial": b"x"} for name in ci.job(f"image-os{os}").active}
                )
                passes(ci, tested, site.server.url)
        site.poll(gate=gate)
        assert len(site.wishes) == 2 * count
        site.poll(gate=gate)
        assert len(site.paths) == 1 + (gate is not None)

    def test_what_cannot_be_a_product_costs_nothing_again(self, site):
        site.server.ci.matrix("image-tiny", {**AXES, "release": [".."]})
        build_all(site.server.ci, "image-tiny")
        site.poll()
        site.poll()
        assert site.paths == ["/api/json"]


def build_all(ci: Controller, job: str, **options):
    """Finish a build of every configuration, with something in it."""
    return ci.job(job).build({name: {"serial": b"x"} for name in ci.job(job).active}, **options)


class TestWish:
    def test_it_says_what_jenkins_says_of_the_build(self, site):
        matrix(site.server.ci, A)
        run = site.server.ci.job("image-tiny").build({configuration(A): files(A)}).runs[0]
        site.poll()
        assert site.records[A] == Wish(
            product=Product("tiny", "1", "amd64", "default"),
            job="image-tiny",
            configuration="architecture=amd64,release=1,variant=default",
            number=1,
            timestamp=run.timestamp,
            artifacts=(
                "image.yaml",
                "incus.tar.xz",
                "meta.tar.xz",
                "rootfs.squashfs",
                "rootfs.tar.xz",
                "serial",
            ),
            md5=tuple(sorted(run.prints.values())),
        )
        assert site.records[A].build == "image-tiny/architecture=amd64,release=1,variant=default #1"

    def test_equal_files_have_one_md5_and_no_fingerprints_none(self, site):
        matrix(site.server.ci, A)
        site.server.ci.job("image-tiny").build({configuration(A): {"serial": b"x", "deep/image.yaml": b"x"}})
        site.poll()
        assert site.records[A].artifacts == ("deep/image.yaml", "serial")
        assert site.records[A].md5 == ("9dd4e461268c8034f5c8564e155c67a6",)
        site.server.ci.job("image-tiny").build({configuration(A): {"serial": b"y"}}, fingerprint=False)
        site.poll()
        assert site.records[A].md5 == ()

    def test_md5s_of_some_files_only_say_nothing_of_the_others(self, site):
        matrix(site.server.ci, A)
        parent = site.server.ci.job("image-tiny").start()
        run = parent.run(configuration(A), {"serial": b"x"})
        run.archive({"incus.tar.xz": b"y"}, fingerprint=False)
        run.complete("SUCCESS")
        site.poll()
        assert site.records[A].artifacts == ("incus.tar.xz", "serial")
        assert site.records[A].md5 == ()

    def test_it_is_private(self, three):
        path = three.layout.wish(three.records[A].product)
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_build_that_ends_meanwhile_waits_for_the_next_poll(self, three):
        ci = three.server.ci
        build(ci, A)
        three.server.faults.add("amd64,release=1.*/2/api/json", call=lambda: build(ci, A))
        three.poll()
        assert three.numbers[A] == 2
        three.poll()
        assert three.numbers[A] == 3

    def test_a_build_that_was_run_again_with_the_same_files_moves_on(self, three):
        job = three.server.ci.job("image-tiny")
        same = job.configuration(configuration(A)).builds[1].directory / "serial"
        job.build({configuration(A): {"serial": same}})
        three.poll()
        assert three.numbers[A] == 2


class TestJobs:
    def test_only_jobs_that_the_pattern_fits(self, site):
        ci = site.server.ci
        for name in ("image-tiny", "IMAGE-big", "image-", "images-x", "my-image-x", "tiny-img", "test-image"):
            ci.matrix(name, AXES)
            build_all(ci, name)
        site.poll(jobs=("image-*", "*-img", "t*"))
        assert set(site.wishes) == {A, "est-image/1/amd64/default"}
        assert site.wishes["est-image/1/amd64/default"] == ("test-image", 1)

    @pytest.mark.parametrize(
        ("job", "pattern", "os"),
        [
            ("image-tiny", "image-*", "tiny"),
            ("image-a-b", "image-*", "a-b"),
            ("tiny", "*", "tiny"),
            ("tiny-image", "*-image", "tiny"),
            ("x-tiny-y", "x-*-y", "tiny"),
            ("image-opensuse+leap", "image-*", "opensuse+leap"),
        ],
    )
    def test_what_the_star_matches_is_the_os(self, site, job, pattern, os):
        site.server.ci.matrix(job, AXES)
        build_all(site.server.ci, job)
        site.poll(jobs=(pattern,))
        assert site.wishes == {f"{os}/1/amd64/default": (job, 1)}

    def test_jobs_in_folders_in_folders(self, site):
        ci = site.server.ci
        for folder in ("one", "one/two", "one/two/three", "one/two/three/four", "one/empty"):
            ci.folder(folder)
        for folder, product in zip(
            ("", "one", "one/two", "one/two/three", "one/two/three/four"), "abcde", strict=True
        ):
            matrix(ci, f"{product}/1/amd64/default", folder=folder)
            build_all(ci, f"{folder}/image-{product}".lstrip("/"))
        site.poll()
        assert {name[0]: job for name, (job, _) in site.wishes.items()} == {
            "a": "image-a",
            "b": "one/image-b",
            "c": "one/two/image-c",
            "d": "one/two/three/image-d",
            "e": "one/two/three/four/image-e",
        }
        assert all(
            "/job/one/job/two/job/three/job/four/job/image-e/" in path
            for path in site.paths
            if "image-e" in path
        )

    @pytest.mark.parametrize("public", ["own", None])
    def test_folders_of_any_depth_and_no_request_for_empty_ones(self, tmp_path, public):
        ci, names = Controller(tmp_path / "jenkins"), [f"f{at}" for at in range(12)]
        for at in range(12):
            ci.folder("/".join(names[: at + 1]))
            ci.folder("/".join([*names[:at], "empty"]))
            matrix(ci, f"os{at}/1/amd64/default", folder="/".join(names[: at + 1]))
            build_all(ci, "/".join([*names[: at + 1], f"image-os{at}"]))
        with standin.serve(ci, public_url=public) as server:
            site = Asked(server, tmp_path / "root")
            site.poll()
            assert {name.split("/")[0]: job for name, (job, _) in site.wishes.items()} == {
                f"os{at}": "/".join([*names[: at + 1], f"image-os{at}"]) for at in range(12)
            }
            assert site.offers == Offers()
            site.poll()
            five, ten = ("/job/" + "/job/".join(names[:deep]) for deep in (5, 10))
            assert site.paths == ["/api/json", f"{five}/api/json", f"{ten}/api/json"]

    def test_a_deep_folder_that_cannot_be_looked_into_is_named_and_stops_no_other(self, three):
        ci, deep = three.server.ci, "a/b/c/d/e"
        for at in range(1, 6):
            ci.folder("/".join(deep.split("/")[:at]))
        matrix(ci, "deep/1/amd64/default", folder=deep)
        build(ci, A)
        three.server.faults.add("/job/e/api/json", Status(403))
        three.poll()
        assert three.numbers[A] == 2
        assert set(three.offers.troubled) == {deep}
        assert "cannot look into this folder: " in three.offers.troubled[deep]
        three.poll()
        assert three.offers.troubled == {}
        assert three.offers.waiting == ("deep/1/amd64/default",)

    def test_a_jenkins_that_always_has_a_deeper_folder_comes_to_an_end(self, three):
        ci = three.server.ci
        for at in range(1, 6):
            ci.folder("/".join("abcde"[:at]))
        ci.folder("a/b/c/d/e/f")
        again = Client(three.server.url).json("", jobs_tree(older=False, unstable=False))
        three.server.faults.add("/job/e/api/json", Edit(lambda _: again), times=None)
        three.poll()
        assert three.server.count("/job/e/api/json") == 1

    def test_from_one_folder_on(self, site):
        ci = site.server.ci
        ci.folder("images")
        ci.folder("images/nightly")
        for folder, product in (("", "a"), ("images", "b"), ("images/nightly", "c")):
            matrix(ci, f"{product}/1/amd64/default", folder=folder)
            build_all(ci, f"{folder}/image-{product}".lstrip("/"))
        site.poll(folder="images/nightly")
        assert site.paths[0] == "/job/images/job/nightly/api/json"
        assert site.wishes == {"c/1/amd64/default": ("images/nightly/image-c", 1)}
        site.poll(folder="/images/")
        assert set(site.wishes) == {"b/1/amd64/default", "c/1/amd64/default"}

    def test_only_what_a_view_shows(self, site):
        ci = site.server.ci
        ci.folder("images")
        ci.view("Good ones", jobs=["image-a"], folder="images")
        for product in "ab":
            matrix(ci, f"{product}/1/amd64/default", folder="images")
            build_all(ci, f"images/image-{product}")
        site.poll(folder="images", view="Good ones")
        assert site.paths[0] == "/job/images/view/Good ones/api/json"
        assert set(site.wishes) == {"a/1/amd64/default"}

    def test_a_job_of_another_folder_in_a_view_is_asked_for_where_it_is(self, site):
        """Jenkins shows it by its last name, as it does every job; only its URL tells."""
        ci = site.server.ci
        ci.folder("deep")
        ci.view("Good ones", jobs=["nothing"])
        matrix(ci, A, folder="deep")
        build_all(ci, "deep/image-tiny")
        elsewhere = Client(site.server.url).json("job/deep", jobs_tree(older=False, unstable=False))
        site.server.faults.add("/view/", Edit(lambda _: elsewhere), times=None)
        site.poll(view="Good ones")
        assert site.wishes == {A: ("deep/image-tiny", 1)}

    @pytest.mark.parametrize("public", [None, "https://wrong.example.org", "http://10.0.0.1:8080/jenkins"])
    def test_what_jenkins_believes_its_own_url_to_be_does_not_matter(self, tmp_path, public):
        ci = Controller(tmp_path / "jenkins")
        ci.folder("deep")
        matrix(ci, A, folder="deep")
        with standin.serve(ci, public_url=public) as server:
            site = Asked(server, tmp_path / "root")
            tested = ci.job("deep/image-tiny").build({configuration(A): files(A)})
            base = public or "http://nowhere.invalid"
            passes(ci, tested, base)
            site.poll(gate=Gate(job="test-image"))
            assert site.wishes == {A: ("deep/image-tiny", 1)}
            assert site.paths[-1] == f"/job/deep/job/image-tiny/{configuration(A)}/1/api/json"

    def test_names_that_urls_must_quote(self, site):
        ci = site.server.ci
        ci.folder("a b")
        ci.matrix(
            "image-tiny",
            {"architecture": ["amd64"], "release": ["14.4"], "variant": ["default+zfs"]},
            folder="a b",
        )
        build_all(ci, "a b/image-tiny")
        site.poll()
        assert site.wishes == {"tiny/14.4/amd64/default+zfs": ("a b/image-tiny", 1)}
        assert (
            site.paths[-1]
            == "/job/a b/job/image-tiny/architecture=amd64,release=14.4,variant=default+zfs/1/api/json"
        )

    def test_axes_of_other_names_are_ignored(self, site):
        ci = site.server.ci
        ci.matrix(
            "image-bsd",
            {
                "build_architecture": ["x"],
                "architecture": ["amd64"],
                "release": ["14.4"],
                "variant": ["default+zfs"],
            },
        )
        build_all(ci, "image-bsd")
        site.poll()
        assert set(site.wishes) == {"bsd/14.4/amd64/default+zfs"}
        assert (
            site.records["bsd/14.4/amd64/default+zfs"].configuration
            == "architecture=amd64,build_architecture=x,release=14.4,variant=default+zfs"
        )

    @pytest.mark.parametrize("missing", AXES)
    def test_an_axis_that_is_missing_makes_no_product(self, site, missing):
        site.server.ci.matrix(
            "image-tiny", {name: values for name, values in AXES.items() if name != missing}
        )
        build_all(site.server.ci, "image-tiny")
        site.poll()
        assert site.wishes == {}
        (note,) = site.offers.notes
        assert note.startswith("image-tiny: ")
        assert f"has no axis {missing!r}" in note

    def test_a_job_without_axes_makes_no_product(self, site):
        site.server.ci.matrix("image-tiny", {})
        site.poll()
        assert site.wishes == {}
        assert "'default' has no axis" in site.offers.notes[0]

    def test_the_axes_may_be_called_otherwise(self, site):
        site.server.ci.matrix(
            "image-tiny", {"ARCH": ["s390x"], "suite": ["noble"], "flavour": ["cloud"], "release": ["x"]}
        )
        build_all(site.server.ci, "image-tiny")
        site.poll(axes=Axes(release="suite", arch="ARCH", variant="flavour"))
        assert set(site.wishes) == {"tiny/noble/s390x/cloud"}

    def test_two_configurations_of_one_product_are_said_and_do_not_take_turns(self, site):
        ci = site.server.ci
        ci.matrix("image-tiny", {**AXES, "compiler": ["gcc", "clang"]})
        build_all(ci, "image-tiny")
        site.poll()
        (first,) = site.records.values()
        assert site.offers.notes == (
            f"{A}: made by more than one configuration; taken from image-tiny/{first.configuration}",
        )
        site.poll()
        assert site.paths == ["/api/json"]
        build_all(ci, "image-tiny")
        site.poll()
        assert site.numbers == {A: 2}

    @pytest.mark.parametrize("axis", AXES)
    def test_axis_values_that_could_break_out_are_left_out(self, site, axis):
        ci, good = site.server.ci, {name: values[0] for name, values in AXES.items()}
        evil = [
            "..",
            ".",
            "-x",
            "a/b",
            "a;b",
            "a\nb",
            "a b",
            "",
            "ü",
            "$(id)",
            "`id`",
            "a:b",
            "x" * 101,
            "*",
            "a\x00b",
            ".hidden",
            "a\\b",
        ]
        with ci.bulk():
            ci.matrix("image-tiny", {**AXES, axis: [good[axis], *evil]})
            for name in ci.job("image-tiny").active:
                ci.job("image-tiny").configuration(name).build()
        some = Edit(
            lambda answer: answer.replace(b'"artifacts":[]', b'"artifacts":[{"relativePath":"serial"}]')
        )
        site.server.faults.add("/1/api/json", some, times=None)
        site.poll()
        assert set(site.wishes) == {A}
        assert {path.name for path in (site.layout.state / "wishes").iterdir()} == {
            "tiny:1:amd64:default.json"
        }
        assert len(site.offers.notes) == len(evil)
        for note in site.offers.notes:
            assert note.startswith("image-tiny: ")
            assert note.endswith("; left out")
            assert note.isprintable()

    def test_job_names_that_could_break_out_are_left_out(self, site):
        names = [
            "image-..",
            "image--x",
            "image-a;b",
            "image-a\nb",
            "image-a b",
            "image-.x",
            "image-ü",
            "image-a\x1b[31m",
        ]
        for name in names:
            site.server.ci.matrix(name, AXES)
            site.server.ci.job(name).configuration(configuration(A)).build()
        site.poll()
        assert site.wishes == {}
        assert len(site.offers.notes) == len(names)
        assert all(note.isprintable() for note in site.offers.notes)

    def test_a_folder_that_is_called_like_an_image_job_is_none(self, site):
        site.server.ci.folder("image-folder")
        matrix(site.server.ci, A, folder="image-folder")
        build_all(site.server.ci, "image-folder/image-tiny")
        site.poll()
        assert site.wishes == {A: ("image-folder/image-tiny", 1)}
        assert site.offers.notes == ()

    def test_a_configuration_that_is_no_longer_active_keeps_its_wish(self, three):
        matrix(three.server.ci, A)
        assert three.server.ci.job("image-tiny").active == [configuration(A)]
        three.poll()
        assert set(three.wishes) == {A, B, C}


class TestBuilds:
    def test_what_was_never_built_waits(self, site):
        matrix(site.server.ci, A)
        assert site.poll() == "1 product, 0 with a new build, 1 never built"
        assert site.offers.waiting == (A,)
        assert site.wishes == {}
        build(site.server.ci, A)
        site.poll()
        assert site.offers.waiting == ()

    @pytest.mark.parametrize("result", ["FAILURE", "ABORTED", "NOT_BUILT", "UNSTABLE"])
    def test_a_build_that_ended_badly_is_not_taken(self, three, result):
        build(three.server.ci, A, result=result)
        three.poll()
        assert three.numbers[A] == 1

    def test_an_unstable_build_is_taken_when_it_may(self, three):
        build(three.server.ci, A, result="UNSTABLE")
        three.poll(unstable=True)
        assert three.numbers[A] == 2

    def test_a_failure_after_a_good_build_hides_nothing(self, three):
        build(three.server.ci, A)
        build(three.server.ci, A, result="FAILURE")
        three.poll()
        assert three.numbers[A] == 2

    @pytest.mark.parametrize("gate", [None, Gate(job="test-image")])
    def test_a_build_that_still_runs_is_not_taken(self, three, gate):
        ci = three.server.ci
        parent = ci.job("image-tiny").start()
        run = parent.run(configuration(A), files(A))
        run.set_result("SUCCESS")
        passes(ci, parent, three.server.url)
        three.poll(gate=gate)
        assert three.numbers[A] == 1
        assert three.offers == Offers()
        run.complete()
        three.poll(gate=gate)
        assert three.numbers[A] == 2, "the parent still runs, but this image is ready"

    def test_a_build_that_runs_again_when_it_is_asked_for_is_left(self, three):
        build(three.server.ci, A)
        three.server.faults.add(
            "/2/api/json", Edit(lambda body: body.replace(b'"building":false', b'"building":true'))
        )
        three.poll()
        assert three.numbers[A] == 1
        assert three.offers.troubled == {A: f"image-tiny/{configuration(A)} #2: is running again"}

    def test_no_artifacts_means_purged_and_takes_nothing_back(self, three):
        build(three.server.ci, A).runs[0].purge_artifacts()
        three.poll()
        assert three.numbers == {A: 1, B: 1, C: 1}
        assert three.offers.troubled == {A: f"image-tiny/{configuration(A)} #2: has no artifacts (any more)"}

    def test_a_build_deleted_before_it_is_asked_for(self, three):
        job = three.server.ci.job("image-tiny")
        build(three.server.ci, A, B)
        three.server.faults.add(
            "amd64.*/2/api/json", call=lambda: job.configuration(configuration(A)).delete_build(2)
        )
        three.poll()
        assert three.numbers == {A: 1, B: 2, C: 1}
        assert "not found" in three.offers.troubled.pop(A)
        three.poll()
        assert three.offers.troubled == {}

    def test_rotation_takes_nothing_back(self, site):
        ci = site.server.ci
        matrix(ci, A, B)
        ci.job("image-tiny").keep = 2
        build(ci, A, B)
        site.poll()
        before = site.written()
        for _ in range(4):
            build(ci, B)
        assert not ci.job("image-tiny").configuration(configuration(A)).builds
        site.poll()
        assert site.numbers == {A: 1, B: 5}
        assert site.offers.waiting == ()
        assert site.written()["tiny:1:amd64:default.json"] == before["tiny:1:amd64:default.json"]

    def test_a_lower_number_alone_means_rotation_of_what_is_published(self, three):
        build(three.server.ci, A)
        three.poll()
        wish = three.records[A]
        source = Source(
            job=wish.job, configuration=wish.configuration, number=2, timestamp=wish.timestamp, md5={}
        )
        image = Image(product=wish.product, serial="20260101_00:00", files={}, fingerprints={}, source=source)
        save(three.layout.ledger(wish.product), Ledger(wish.product, (image,)))
        three.server.ci.job("image-tiny").delete_build(2)
        three.poll()
        assert three.numbers[A] == 2
        assert three.paths == ["/api/json"]

    def test_a_job_that_vanishes_takes_nothing_back(self, three):
        three.server.ci.job("image-tiny").remove()
        three.poll()
        assert three.numbers == {A: 1, B: 1, C: 1}

    @pytest.mark.parametrize("before", [1, 2, 7])
    def test_a_job_made_anew_begins_at_one_with_newer_builds(self, site, before):
        ci = site.server.ci
        matrix(ci, A)
        build(ci, A, number=before, timestamp=1_700_000_000_000)
        site.poll()
        ci.job("image-tiny").remove()
        matrix(ci, A)
        build(ci, A, timestamp=1_700_000_000_000 + MINUTE)
        site.poll()
        assert site.records[A].number == 1
        assert site.records[A].timestamp == 1_700_000_000_000 + MINUTE
        assert ("#7 back to #1" in str(site.offers.notes)) is (before == 7)
        site.poll()
        assert site.paths == ["/api/json"]
        assert site.offers.notes == ()

    def test_a_job_that_moved_is_followed(self, site):
        ci = site.server.ci
        matrix(ci, A)
        build(ci, A, timestamp=1_700_000_000_000)
        site.poll()
        ci.job("image-tiny").remove()
        ci.folder("new")
        matrix(ci, A, folder="new")
        ci.job("new/image-tiny").build({configuration(A): files(A)}, timestamp=1_700_000_000_000 + MINUTE)
        site.poll()
        assert site.wishes == {A: ("new/image-tiny", 1)}

    def test_when_the_newer_of_two_jobs_vanishes_the_older_builds_of_the_other_are_no_news(self, site):
        ci = site.server.ci
        for folder in ("old", "new"):
            ci.folder(folder)
            matrix(ci, A, folder=folder)
        build_all(ci, "new/image-tiny", timestamp=1_700_000_000_000 + MINUTE)
        build_all(ci, "old/image-tiny", number=9, timestamp=1_700_000_000_000)
        site.poll()
        ci.job("new/image-tiny").remove()
        site.poll()
        assert site.wishes == {A: ("new/image-tiny", 1)}
        assert site.paths == ["/api/json"]

    def test_a_sibling_of_the_same_build_is_no_news(self, site):
        ci = site.server.ci
        ci.matrix("image-tiny", {**AXES, "compiler": ["gcc", "clang"]})
        gcc, clang = sorted(ci.job("image-tiny").active, key=lambda name: "clang" in name)
        parent = ci.job("image-tiny").start()
        parent.run(gcc, {"serial": b"x"}).complete("SUCCESS")
        site.poll()
        late = parent.run(clang, {"serial": b"y"})
        late.timestamp += MINUTE
        late.complete("SUCCESS")
        site.poll()
        assert site.records[A].configuration == gcc
        assert site.paths == ["/api/json"]

    def test_of_two_jobs_for_one_product_the_newest_build_wins_and_stays(self, site):
        ci = site.server.ci
        for folder in ("old", "new"):
            ci.folder(folder)
            matrix(ci, A, folder=folder)
        ci.job("new/image-tiny").build({configuration(A): files(A)}, timestamp=1_700_000_000_000 + MINUTE)
        ci.job("old/image-tiny").build({configuration(A): files(A)}, number=9, timestamp=1_700_000_000_000)
        site.poll()
        assert site.wishes == {A: ("new/image-tiny", 1)}
        assert site.offers.notes == (
            f"{A}: made by more than one configuration; taken from new/image-tiny/{configuration(A)}",
        )
        site.poll()
        assert site.paths == ["/api/json"]

    def test_a_clock_that_goes_back_does_not_hold_up_a_higher_number(self, three):
        build(three.server.ci, A, timestamp=1)
        three.poll()
        assert three.numbers[A] == 2


class TestPipelines:
    @pytest.fixture(params=["pipeline", "freestyle"])
    def job(self, site, request):
        return getattr(site.server.ci, request.param)("image-tiny")

    def test_one_build_holds_several_products(self, site, job):
        content = {
            f"{arch}/{release}/default/{name}": b"x"
            for arch in ("amd64", "arm64")
            for release in "12"
            for name in ("serial", "incus.tar.xz")
        }
        job.build(
            files={
                **content,
                "notes.txt": b"",
                "amd64/1/default/deep/serial": b"",
                "x/amd64/1/default/serial": b"",
            }
        )
        assert site.poll(path=TEMPLATE) == "4 products, 4 with a new build"
        assert site.paths == ["/api/json", "/job/image-tiny/1/api/json"]
        assert set(site.wishes) == {
            f"tiny/{release}/{arch}/default" for arch in ("amd64", "arm64") for release in "12"
        }
        assert site.records[B].artifacts == ("arm64/1/default/incus.tar.xz", "arm64/1/default/serial")
        assert site.records[B].configuration == ""
        assert site.records[B].build == "image-tiny #1"
        assert site.poll(path=TEMPLATE) == "4 products, 0 with a new build"
        assert site.paths == ["/api/json"]

    def test_a_higher_number_counts_though_the_clock_went_back(self, site, job):
        for at in (2, 1):
            job.build(
                files={"amd64/1/default/serial": bytes([at])}, timestamp=1_700_000_000_000 + at * MINUTE
            )
            site.poll(path=TEMPLATE)
        assert site.numbers == {A: 2}

    def test_one_that_comes_later_with_older_builds_is_seen(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x"}, timestamp=1_700_000_000_000 + MINUTE)
        site.poll(path=TEMPLATE)
        site.server.ci.pipeline("image-late").build(
            files={"amd64/1/default/serial": b"y"}, timestamp=1_700_000_000_000
        )
        site.poll(path=TEMPLATE)
        assert site.wishes == {A: ("image-tiny", 1), "late/1/amd64/default": ("image-late", 1)}

    def test_a_product_that_a_later_build_lacks_keeps_its_wish(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x", "arm64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        job.build(files={"arm64/1/default/serial": b"y"})
        site.poll(path=TEMPLATE)
        assert site.numbers == {A: 1, B: 2}
        site.poll(path=TEMPLATE)
        assert site.paths == ["/api/json"]

    @pytest.fixture
    def halved(self, site, job):
        """A poll of a second build that was killed when it had written one of its two wishes."""
        both = {"amd64/1/default/serial": b"x", "arm64/1/default/serial": b"x"}
        job.build(files=both)
        site.poll(path=TEMPLATE)
        unwritten = (site.layout.offers, site.layout.wish(site.records[B].product))
        before = {path: path.read_bytes() for path in unwritten}
        job.build(files=dict.fromkeys(both, b"y"))
        site.poll(path=TEMPLATE)
        for path, content in before.items():
            path.write_bytes(content)
        assert site.numbers == {A: 2, B: 1}
        return site

    @pytest.mark.parametrize("one", ["", "image-tiny"])
    def test_a_kill_between_two_wishes_of_a_build_is_made_good(self, halved, one):
        halved.poll(one, path=TEMPLATE)
        assert halved.numbers == {A: 2, B: 2}
        halved.poll(path=TEMPLATE)
        assert halved.paths == ["/api/json"]

    def test_what_was_asked_is_written_last(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x", "arm64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        wishes = [path.stat().st_mtime_ns for path in (site.layout.state / "wishes").iterdir()]
        assert len(wishes) == 2
        assert site.layout.offers.stat().st_mtime_ns >= max(wishes)

    @pytest.mark.parametrize("lost", ["offers", "wish", "both"])
    def test_a_record_that_is_lost_costs_one_request(self, site, job, lost):
        job.build(files={"amd64/1/default/serial": b"x", "arm64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        before, offers = site.records, site.offers
        if lost != "wish":
            site.layout.offers.unlink()
        if lost != "offers":
            site.layout.wish(before[B].product).unlink()
        site.poll(path=TEMPLATE)
        assert site.paths == ["/api/json", "/job/image-tiny/1/api/json"]
        assert (site.records, site.offers) == (before, offers)
        site.poll(path=TEMPLATE)
        assert site.paths == ["/api/json"]

    def test_without_the_record_an_older_build_takes_nothing_back(self, site, job):
        for content in (b"x", b"y"):
            job.build(files={"amd64/1/default/serial": content})
        site.poll(path=TEMPLATE)
        job.delete_build(2)
        site.layout.offers.unlink()
        site.poll(path=TEMPLATE)
        assert site.numbers == {A: 2}

    def test_a_poll_of_one_job_keeps_what_was_asked_of_the_others(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x"})
        other = site.server.ci.pipeline("image-other")
        other.build(files={"amd64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        other.build(files={"amd64/1/default/serial": b"y"})
        site.poll("image-other", path=TEMPLATE)
        assert {name: asked.number for name, asked in site.offers.asked.items()} == {
            "image-tiny": 1,
            "image-other": 2,
        }
        site.poll(path=TEMPLATE)
        assert site.paths == ["/api/json"]

    def test_trouble_with_a_newer_build_forgets_nothing(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        before = site.offers.asked
        job.build(files={"serial": b"x"})
        for _ in range(2):
            site.poll(path=TEMPLATE)
            assert site.offers.troubled
            assert site.offers.asked == before
        site.server.faults.add("^/api/json", Status(403))
        site.poll(path=TEMPLATE)
        assert site.offers.asked == before

    def test_a_job_that_is_gone_is_forgotten(self, site, job):
        job.build(files={"amd64/1/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        job.remove()
        site.poll(path=TEMPLATE)
        assert site.offers.asked == {}
        assert site.numbers == {A: 1}

    def test_a_pipeline_made_anew_is_followed_once(self, site, job):
        job.build(
            files={"amd64/1/default/serial": b"x", "arm64/1/default/serial": b"x"},
            number=50,
            timestamp=1_700_000_000_000,
        )
        site.poll(path=TEMPLATE)
        job.remove()
        fresh = getattr(site.server.ci, job.kind)("image-tiny")
        fresh.build(files={"arm64/1/default/serial": b"y"}, timestamp=1_700_000_000_000 + MINUTE)
        site.poll(path=TEMPLATE)
        assert site.numbers == {A: 50, B: 1}
        site.poll(path=TEMPLATE)
        assert site.paths == ["/api/json"], "the same build is asked for in every run"

    @pytest.mark.parametrize(
        ("template", "path", "product"),
        [
            ("{file}", "serial", "tiny/current/amd64/default"),
            ("out/{file}", "out/serial", "tiny/current/amd64/default"),
            ("{release}/{file}", "9/serial", "tiny/9/amd64/default"),
            ("{os}/{release}/{arch}/{variant}/{file}", "big/9/arm64/cloud/serial", "big/9/arm64/cloud"),
            ("{os}-{release}.{arch}/{file}", "big-9.arm64/serial", "big/9/arm64/default"),
            ("(x)[y]+{arch}/{file}", "(x)[y]+arm64/serial", "tiny/current/arm64/default"),
        ],
    )
    def test_the_template_says_what_is_what(self, site, job, template, path, product):
        job.build(files={path: b"x"})
        site.poll(path=template)
        assert site.wishes == {product: ("image-tiny", 1)}

    def test_without_a_template_it_is_only_noted(self, site, job):
        job.build(files={"serial": b"x"})
        site.poll()
        assert site.wishes == {}
        assert site.offers.notes == (
            "image-tiny: no matrix job; jenkins.path would say how its artifacts lie",
        )

    def test_artifacts_that_lie_otherwise_are_named(self, site, job):
        job.build(files={"serial": b"x"})
        site.poll(path=TEMPLATE)
        assert site.offers.troubled == {"image-tiny": "image-tiny #1: no artifact lies as jenkins.path says"}

    @pytest.mark.parametrize("name", ["-x", "a b", ".x", "ü"])
    def test_a_name_that_cannot_be_a_products_is_named(self, site, job, name):
        job.build(files={f"amd64/{name}/default/serial": b"x"})
        site.poll(path=TEMPLATE)
        assert site.offers.troubled == {
            "image-tiny": f"image-tiny #1: {name!r} cannot be part of a product's name"
        }
        assert site.wishes == {}

    def test_two_pipelines_of_one_product_do_not_take_turns(self, site):
        ci = site.server.ci
        for at, folder in enumerate(("a", "b")):
            ci.folder(folder)
            ci.pipeline("image-tiny", folder=folder).build(
                files={"amd64/1/default/serial": b"x"}, timestamp=1_700_000_000_000 + at * MINUTE
            )
        site.poll(path=TEMPLATE)
        assert site.wishes == {A: ("b/image-tiny", 1)}
        before = site.written()
        site.poll(path=TEMPLATE)
        assert site.written() == before
        assert site.wishes == {A: ("b/image-tiny", 1)}

    def test_a_gated_pipeline(self, site, job):
        gate = Gate(job="test-image")
        tested = job.build(files={"amd64/1/default/serial": b"x"})
        job.build(files={"amd64/1/default/serial": b"y"})
        passes(site.server.ci, tested, site.server.url)
        site.poll(path=TEMPLATE, gate=gate)
        assert site.numbers == {A: 1}
        assert site.offers.held == {"image-tiny": "build #2 has not passed the test job"}

    def test_trouble_that_one_jobs_poll_ends_is_over(self, site, job):
        job.build(files={"serial": b"x"})
        site.poll(path=TEMPLATE)
        assert site.offers.troubled
        job.build(files={"amd64/1/default/serial": b"x"})
        site.poll("image-tiny", path=TEMPLATE)
        assert site.numbers == {A: 2}
        assert site.offers.troubled == {}


class TestGate:
    @pytest.fixture
    def gated(self, three):
        """Three products at build 1, which passed; build 2 has not."""
        ci = three.server.ci
        passes(ci, ci.job("image-tiny").builds[1], three.server.url)
        build(ci, A, B, C)
        return three

    @pytest.mark.parametrize("scope", ["product", "os"])
    def test_an_untested_build_is_held_until_it_passes(self, gated, scope):
        gate = Gate(job="test-image", scope=scope)
        assert gated.poll(gate=gate) == "3 products, 0 with a new build, 3 held"
        assert gated.offers.held == dict.fromkeys((A, B, C), "build #2 has not passed the test job")
        passes(
            gated.server.ci, gated.server.ci.job("image-tiny").builds[2], gated.server.url, result="UNSTABLE"
        )
        gated.poll(gate=gate)
        assert gated.numbers == {A: 1, B: 1, C: 1}
        passes(gated.server.ci, gated.server.ci.job("image-tiny").builds[2], gated.server.url)
        assert gated.poll(gate=gate) == "3 products, 3 with a new build"
        assert gated.numbers == {A: 2, B: 2, C: 2}

    def test_a_pass_of_one_configuration_is_its_own_in_the_scope_of_products(self, gated):
        passes(
            gated.server.ci,
            gated.server.ci.job("image-tiny").configuration(configuration(A)).builds[2],
            gated.server.url,
        )
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers == {A: 2, B: 1, C: 1}
        assert set(gated.offers.held) == {B, C}

    def test_a_pass_of_one_configuration_is_everybodys_in_the_scope_of_the_os(self, gated):
        passes(
            gated.server.ci,
            gated.server.ci.job("image-tiny").configuration(configuration(A)).builds[2],
            gated.server.url,
        )
        gated.poll(gate=Gate(job="test-image", scope="os"))
        assert gated.numbers == {A: 2, B: 2, C: 2}

    def test_a_later_pass_covers_what_came_before_in_the_scope_of_the_os_alone(self, gated):
        tested = build(gated.server.ci, A)
        passes(gated.server.ci, tested, gated.server.url)
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers == {A: 3, B: 1, C: 1}
        gated.poll(gate=Gate(job="test-image", scope="os"))
        assert gated.numbers == {A: 3, B: 2, C: 2}

    @pytest.mark.parametrize("scope", ["product", "os"])
    def test_another_os_is_not_covered(self, gated, scope):
        other = "other/1/amd64/default"
        matrix(gated.server.ci, other)
        build(gated.server.ci, other, timestamp=1)
        gated.poll(gate=Gate(job="test-image", scope=scope))
        assert other not in gated.wishes

    @pytest.mark.parametrize("scope", ["product", "os"])
    def test_a_run_cannot_have_tested_what_was_built_after_it(self, site, scope):
        ci = site.server.ci
        matrix(ci, A)
        tested = build(ci, A, number=7, timestamp=1_700_000_000_000)
        passes(ci, tested, site.server.url)
        ci.job("image-tiny").remove()
        matrix(ci, A)
        fresh = build(ci, A, number=7, timestamp=ci.clock() + MINUTE)
        site.poll(gate=Gate(job="test-image", scope=scope))
        assert site.wishes == {}
        ci.job("test-image").build(
            parameters={"build": f"{site.server.url}/{fresh.url_path}"}, timestamp=ci.clock() + 2 * MINUTE
        )
        site.poll(gate=Gate(job="test-image", scope=scope))
        assert site.numbers == {A: 7}

    def test_the_url_of_a_tested_build_in_any_form(self, gated):
        forms = [
            "https://ci.example.org/job/image-tiny/{}/",
            "https://ci.example.org/job/image-tiny/{}",
            "https://ci.example.org/jenkins/job/image-tiny/{}/",
            "https://ci.example.org/view/All/job/image-tiny/{}/",
            "/job/image-tiny/{}/",
            "https://ci.example.org/job/image-tiny/architecture=amd64,release=1,variant=default/{}/",
            "https://ci.example.org/job/image-tiny/variant=default,release=1,architecture=amd64/{}/",
            "https://ci.example.org/job/image-tiny/architecture%3Damd64%2Crelease%3D1%2Cvariant%3Ddefault/{}/",
            "https://ci.example.org/job/image%2Dtiny/{}/?x=1#top",
        ]
        for number, form in enumerate(forms, start=3):
            build(gated.server.ci, A)
            gated.server.ci.job("test-image").build(parameters={"build": form.format(number)})
            gated.poll(gate=Gate(job="test-image"))
            assert gated.numbers[A] == number, form

    def test_parameters_that_name_no_build_pass_nothing(self, gated):
        base = "https://ci.example.org/job/image-tiny"
        useless = [
            "",
            "2",
            "x",
            "image-tiny",
            f"{base}/",
            f"{base}/lastSuccessfulBuild/",
            f"{base}/x/",
            "https://ci.example.org/2/",
        ]
        useless += [
            "https://ci.example.org/job/2/",
            "job/",
            "/job//2/",
            "https://ci.example.org/job/other/job/image-tiny/2/",
        ]
        useless += [
            f"{base}/-2/",
            f"{base}/+2/",
            f"{base}/2.0/",
            "https://[::1/job/image-tiny/2/",
            f"{base}/{'9' * 5000}/",
            f"{base}/%FF/2/",
        ]
        useless += ["\x00", f"{base}/architecture=arm64,release=9,variant=default/2/"]
        for url in useless:
            gated.server.ci.job("test-image").build(parameters={"build": url})
        gated.poll(gate=Gate(job="test-image"))
        assert gated.offers.failed == ""
        assert gated.numbers == {A: 1, B: 1, C: 1}

    def test_a_parameter_of_any_type_breaks_nothing(self, gated):
        values = [b"null", b"5", b"2.5", b"true", b"[1]", b'{"a":1}', b'["https://ci/job/image-tiny/2/"]']
        gated.server.ci.job("test-image").build(
            parameters={"build": "REPLACED", **{f"other{at}": "REPLACED" for at in range(len(values))}}
        )
        for value in values:
            gated.server.faults.clear()
            gated.server.faults.add(
                "/job/test-image/", Edit(lambda body, value=value: body.replace(b'"REPLACED"', value))
            )
            gated.poll(gate=Gate(job="test-image"))
            assert gated.offers.failed == "", value
            assert gated.numbers == {A: 1, B: 1, C: 1}

    def test_runs_without_actions_or_parameters_break_nothing(self, gated):
        body = b'{"_class":"x","allBuilds":[{},{"actions":null,"result":"SUCCESS"},{"actions":[null,{},{"parameters":null},{"parameters":[{}]}],"result":"SUCCESS"}]}'
        gated.server.faults.add("/job/test-image/", Edit(lambda _: body))
        gated.poll(gate=Gate(job="test-image"))
        assert gated.offers.failed == ""

    def test_the_parameters_may_be_called_otherwise(self, gated):
        url = f"{gated.server.url}/job/image-tiny/2/"
        gated.server.ci.job("test-image").build(parameters={"BUILD": url})
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers[A] == 1
        gated.poll(gate=Gate(job="test-image", build="BUILD"))
        assert gated.numbers[A] == 2

    def test_a_run_that_says_it_tested_another_image_has_tested_none(self, gated):
        url = f"{gated.server.url}/job/image-tiny/2/"
        for image in ("image-other", "image", "image-tiny2", f"image-other/{configuration(A)}"):
            gated.server.ci.job("test-image").build(parameters={"build": url, "image": image})
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers[A] == 1

    @pytest.mark.parametrize("image", ["image-tiny", f"image-tiny/{configuration(A)}", ""])
    def test_the_tested_image_as_jenkins_names_its_job(self, gated, image):
        url = f"{gated.server.url}/job/image-tiny/2/"
        gated.server.ci.job("test-image").build(parameters={"build": url, "image": image})
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers[A] == 2

    def test_a_test_that_still_runs_has_not_passed(self, gated):
        url = f"{gated.server.url}/job/image-tiny/2/"
        run = gated.server.ci.job("test-image").start(parameters={"build": url})
        run.set_result("SUCCESS")
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers[A] == 1
        run.complete()
        gated.poll(gate=Gate(job="test-image"))
        assert gated.numbers[A] == 2

    def test_the_newest_build_that_passed_is_taken_not_the_last(self, site):
        ci = site.server.ci
        matrix(ci, A)
        tested = [build(ci, A) for _ in range(5)]
        for index in (1, 3):
            passes(ci, tested[index], site.server.url)
        site.poll(gate=Gate(job="test-image"))
        assert site.numbers == {A: 4}
        assert site.offers.held == {A: "build #5 has not passed the test job"}

    def test_the_newest_that_passed_is_found_behind_nine_others(self, site):
        ci = site.server.ci
        matrix(ci, A)
        passes(ci, build(ci, A), site.server.url)
        for _ in range(9):
            build(ci, A)
        site.poll(gate=Gate(job="test-image"))
        assert site.numbers == {A: 1}
        assert site.offers.held == {A: "build #10 has not passed the test job"}

    def test_the_last_stable_build_is_found_behind_any_number_of_failures(self, site):
        ci = site.server.ci
        matrix(ci, A)
        passes(ci, build(ci, A), site.server.url)
        for _ in range(15):
            build(ci, A, result="FAILURE")
        site.poll(gate=Gate(job="test-image"))
        assert site.numbers == {A: 1}

    def test_an_unstable_build_does_not_pass_by_being_tested(self, three):
        ci = three.server.ci
        passes(ci, build(ci, A, result="UNSTABLE"), three.server.url)
        three.poll(gate=Gate(job="test-image"))
        assert three.numbers[A] == 1
        three.poll(gate=Gate(job="test-image"), unstable=True)
        assert three.numbers[A] == 2

    def test_what_is_published_is_not_held_when_its_test_is_forgotten(self, three):
        ci = three.server.ci
        passes(ci, ci.job("image-tiny").builds[1], three.server.url)
        three.poll(gate=Gate(job="test-image"))
        assert three.offers.held == {}
        ci.job("test-image").delete_build(1)
        three.poll(gate=Gate(job="test-image"))
        assert three.numbers == {A: 1, B: 1, C: 1}
        assert three.offers.held == {}

    def test_a_test_job_in_a_folder_that_looks_like_an_image_job(self, site):
        ci = site.server.ci
        ci.folder("ci")
        matrix(ci, A)
        tested = build(ci, A)
        ci.freestyle("image-test", folder="ci").build(
            parameters={"build": f"{site.server.url}/{tested.url_path}"}, files={"serial": b"x"}
        )
        site.poll(gate=Gate(job="ci/image-test"), path="{file}")
        assert site.wishes == {A: ("image-tiny", 1)}
        assert site.offers == Offers()

    def test_without_the_test_job_nothing_moves_and_that_is_said(self, gated):
        assert "not found" in gated.poll(gate=Gate(job="gone"))
        assert "/job/gone/api/json: not found" in gated.offers.failed
        assert gated.numbers == {A: 1, B: 1, C: 1}


class TestLook:
    def test_it_says_what_a_poll_would_leave_and_writes_nothing(self, three):
        build(three.server.ci, A)
        three.server.ci.pipeline("image-line").build(files={"amd64/1/default/serial": b"x"})
        before = three.everything()
        offers, wishes = three.look(path=TEMPLATE)
        assert three.everything() == before
        three.poll(path=TEMPLATE)
        assert offers == three.offers
        assert {product.name: wish for product, wish in wishes.items()} == three.records
        assert three.numbers == {A: 2, B: 1, C: 1, "line/1/amd64/default": 1}

    def test_it_makes_nothing_of_a_site_that_is_not_there(self, site):
        matrix(site.server.ci, A)
        build(site.server.ci, A)
        _, wishes = site.look()
        assert [product.name for product in wishes] == [A]
        assert not site.layout.root.exists()

    def test_when_jenkins_is_away_it_says_so_and_what_is_known(self, three):
        before, everything = three.records, three.everything()
        three.server.faults.add("^/api/json", Status(403))
        offers, wishes = three.look()
        assert "HTTP status 403" in offers.failed
        assert {product.name: wish for product, wish in wishes.items()} == before
        assert three.everything() == everything


class TestTrouble:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Status(403), "HTTP status 403: this user may not read it"),
            (Status(404), "not found"),
            (LOGIN_PAGE, "is a login or a proxy in front of it?"),
            (HALF, "not what Jenkins says"),
            (Edit(lambda _: b"[]"), "not what Jenkins says"),
            (Edit(lambda body: body.replace(b'"number":1', b'"number":"x"')), "not what Jenkins says"),
        ],
        ids=["403", "404", "login", "half", "list", "types"],
    )
    def test_a_failed_poll_is_recorded_and_changes_nothing(self, three, fault, words):
        before = three.written()
        three.server.faults.add("^/api/json", fault, times=None)
        assert three.poll().startswith("Jenkins could not be asked: ")
        assert words in three.offers.failed
        assert "\n" not in three.offers.failed
        assert three.written() == before
        three.server.faults.clear()
        three.poll()
        assert three.offers.failed == ""

    def test_no_image_job_at_all_is_a_fault_of_the_settings(self, site):
        site.server.ci.freestyle("housekeeping")
        site.poll()
        assert site.offers.troubled == {
            "jenkins.jobs": "no job here is called image-*; see jenkins.folder and .view"
        }

    @pytest.mark.parametrize("job", ["", "image-tiny"])
    def test_a_job_without_configurations_is_a_job(self, site, job):
        site.server.ci.matrix("image-tiny", AXES, only=[])
        site.poll(job)
        assert site.offers.troubled == {}

    def test_what_was_known_stays_known_when_jenkins_is_away(self, three):
        gate = Gate(job="test-image")
        passes(three.server.ci, three.server.ci.job("image-tiny").builds[1], three.server.url)
        build(three.server.ci, A)
        three.poll(gate=gate)
        three.server.faults.add("^/api/json", Status(403), times=None)
        three.poll(gate=gate)
        assert three.offers.held == {A: "build #2 has not passed the test job"}
        assert three.offers.failed

    @pytest.mark.parametrize(
        "fault",
        [Status(403), HALF, LOGIN_PAGE, Edit(lambda _: b'{"number":2,"artifacts":[{}]}')],
        ids=["403", "half", "login", "types"],
    )
    def test_a_build_that_cannot_be_asked_for_stops_no_other(self, three, fault):
        build(three.server.ci, A, B)
        three.server.faults.add("amd64.*/2/api/json", fault)
        assert three.poll() == "3 products, 1 with a new build"
        assert three.numbers == {A: 1, B: 2, C: 1}
        assert three.offers.troubled[A].startswith(f"image-tiny/{configuration(A)} #2: ")
        assert set(three.offers.troubled) == {A}
        three.poll()
        assert three.numbers == {A: 2, B: 2, C: 1}
        assert three.offers.troubled == {}

    def test_a_broken_answer_is_asked_for_again(self, three):
        build(three.server.ci, A)
        three.server.faults.add("^/api/json", Cut(30))
        three.server.faults.add("/2/api/json", Cut(30))
        three.poll()
        assert three.numbers[A] == 2

    def test_a_job_that_may_not_be_seen_takes_nothing_back(self, tmp_path):
        ci = Controller(tmp_path / "jenkins")
        matrix(ci, A, "other/1/amd64/default")
        build(ci, A)
        build(ci, "other/1/amd64/default")
        with standin.serve(ci, auth=Auth(user="me", token="t", anonymous=True)) as server:
            site = Asked(server, tmp_path / "root")
            site.poll()
            server.auth = Auth(user="me", token="t", anonymous=True, hidden="image-tiny")
            build(ci, A)
            site.poll()
            assert site.numbers == {A: 1, "other/1/amd64/default": 1}


class TestOneJob:
    def test_it_alone_is_asked_for(self, three):
        matrix(three.server.ci, "other/1/amd64/default")
        build(three.server.ci, "other/1/amd64/default")
        build(three.server.ci, A)
        assert three.poll("image-tiny") == "3 products, 1 with a new build"
        assert three.paths == ["/job/image-tiny/api/json", f"/job/image-tiny/{configuration(A)}/2/api/json"]
        assert "other/1/amd64/default" not in three.wishes

    def test_a_configuration_stands_for_its_job(self, three):
        build(three.server.ci, A, B)
        three.poll(f"image-tiny/{configuration(A)}")
        assert three.paths[0] == "/job/image-tiny/api/json"
        assert three.numbers == {A: 2, B: 2, C: 1}

    def test_in_a_folder(self, site):
        ci = site.server.ci
        ci.folder("deep")
        ci.folder("deep/er")
        matrix(ci, A, folder="deep/er")
        build_all(ci, "deep/er/image-tiny")
        site.poll("deep/er/image-tiny", folder="deep")
        assert site.paths[0] == "/job/deep/job/er/job/image-tiny/api/json"
        assert site.wishes == {A: ("deep/er/image-tiny", 1)}
        site.poll(f"deep/er/image-tiny/{configuration(A)}", folder="deep")
        assert site.paths == ["/job/deep/job/er/job/image-tiny/api/json"]

    def test_what_waited_and_was_built_waits_no_more(self, site):
        matrix(site.server.ci, A, B)
        site.poll()
        build(site.server.ci, A)
        site.poll("image-tiny")
        assert site.offers.waiting == (B,)

    def test_with_a_gate(self, three):
        passes(three.server.ci, build(three.server.ci, A), three.server.url)
        three.poll("image-tiny", gate=Gate(job="test-image"))
        assert three.paths[:2] == ["/job/image-tiny/api/json", "/job/test-image/api/json"]
        assert three.numbers[A] == 2

    def test_a_job_that_this_site_does_not_publish_is_refused(self, three):
        before = three.written(), three.offers
        odd = [
            "../image-tiny",
            "deep/../image-tiny",
            "image-tiny/",
            "/image-tiny",
            "image-tiny/2",
            "image-ti\nny",
            "-x",
            "*",
        ]
        for job in ("other", "deep", "deep/other", "image-", f"other/{configuration(A)}", *odd):
            with pytest.raises(
                SettingsError, match=r"--job=.*: this site publishes the jobs image-\*"
            ) as caught:
                three.poll(job)
            assert str(caught.value).isprintable()
            assert three.paths == []
        assert (three.written(), three.offers) == before

    def test_a_job_outside_the_folder_is_refused(self, site):
        for job in ("image-tiny", "deeper/image-tiny", f"image-tiny/{configuration(A)}"):
            with pytest.raises(SettingsError, match=r"this site publishes the jobs deep/image-\*"):
                site.poll(job, folder="deep")

    def test_a_job_that_the_view_does_not_show_is_refused(self, three):
        ci = three.server.ci
        ci.view("Good ones", jobs=["image-tiny"])
        matrix(ci, "other/1/amd64/default")
        before = three.written(), three.offers
        with pytest.raises(
            SettingsError, match="--job=image-other: the view 'Good ones' does not show it; see jenkins.view"
        ):
            three.poll("image-other", view="Good ones")
        assert three.paths == ["/view/Good ones/api/json"]
        assert (three.written(), three.offers) == before
        build(ci, A)
        three.poll("image-tiny", view="Good ones")
        assert three.paths[:2] == ["/view/Good ones/api/json", "/job/image-tiny/api/json"]
        assert three.numbers[A] == 2

    def test_a_job_deep_in_a_folder_that_the_view_shows(self, site):
        ci, deep = site.server.ci, "a/b/c/d/e/f"
        for at in range(1, 7):
            ci.folder("/".join(deep.split("/")[:at]))
        ci.view("Good ones", jobs=["a"])
        matrix(ci, A, folder=deep)
        build_all(ci, f"{deep}/image-tiny")
        site.server.faults.add("/job/e/api/json", Status(403))
        assert "cannot look into this folder" in site.poll(f"{deep}/image-tiny", view="Good ones")
        assert site.wishes == {}
        site.poll(f"{deep}/image-tiny", view="Good ones")
        assert site.wishes == {A: (f"{deep}/image-tiny", 1)}

    def test_a_job_that_is_not_there_is_recorded(self, three):
        assert "not found" in three.poll("image-gone")
        assert three.numbers == {A: 1, B: 1, C: 1}

    def test_what_is_known_of_other_jobs_stays(self, three):
        gate = Gate(job="test-image")
        ci, other = three.server.ci, "other/1/amd64/default"
        passes(ci, ci.job("image-tiny").builds[1], three.server.url)
        matrix(ci, other, "empty/1/amd64/default")
        build(ci, other)
        ci.freestyle("image-odd")
        tested = build(ci, A)
        three.poll(gate=gate)
        before = three.offers
        assert before.held == {
            A: "build #2 has not passed the test job",
            other: "build #1 has not passed the test job",
        }
        passes(ci, tested, three.server.url)
        three.poll("image-tiny", gate=gate)
        assert three.offers == msgspec.structs.replace(before, held={other: before.held[other]})

    def test_what_a_poll_of_everything_failed_with_stays_said(self, three):
        three.server.faults.add("^/api/json", Status(403))
        three.poll()
        three.poll("image-tiny")
        assert "403" in three.offers.failed

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("image-tiny", ("image-tiny", "")),
            ("a/b/image-tiny", ("a/b/image-tiny", "")),
            ("image-tiny/architecture=amd64", ("image-tiny", "architecture=amd64")),
            ("a/image-tiny/architecture=amd64,release=1", ("a/image-tiny", "architecture=amd64,release=1")),
        ],
    )
    def test_a_job_name_as_jenkins_gives_it(self, name, parts):
        assert split_job(name) == parts


class TestAwait:
    @pytest.fixture
    def job(self, ci):
        matrix(ci, A)
        return ci.job("image-tiny")

    def waiter(self, server, number=1, job="image-tiny"):
        """Wait on a thread of its own; every pause is over as soon as it has begun."""
        found = []
        client = Client(server.url)

        def wait():
            try:
                found.append(
                    await_build(client, job, number, 30, sleep=lambda _: threading.Event().wait(0.01))
                )
            except UpstreamError as error:
                found.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return found, thread

    def test_until_it_is_completed_and_not_before(self, server, job):
        running = job.queue()
        found, thread = self.waiter(server)

        def still():
            seen = server.count("/1/api/json")
            wait_for(lambda: server.count("/1/api/json") > seen + 2)
            return not found

        assert still()
        running.begin()
        assert still()
        running.set_result("SUCCESS")
        assert still()
        running.post_production()
        assert still(), "permalinks move when a build is completed, not before"
        running.complete()
        thread.join(10)
        assert found == ["SUCCESS"]

    @pytest.mark.parametrize("result", ["SUCCESS", "UNSTABLE", "FAILURE", "ABORTED"])
    def test_the_result_of_a_build_that_is_over(self, server, job, result):
        job.build(result=result)
        assert await_build(Client(server.url), "image-tiny", 1, 0) == result
        assert [record.path for record in server.requests] == ["/job/image-tiny/1/api/json"]

    def test_a_configuration(self, server, job):
        job.start().run(configuration(A)).complete("SUCCESS")
        assert await_build(Client(server.url), f"image-tiny/{configuration(A)}", 1, 0) == "SUCCESS"
        assert await_build(Client(server.url), "image-tiny", 1, 0) == ""

    def test_in_the_end_it_gives_up(self, server, job):
        job.start()
        paused = []
        assert (
            await_build(
                Client(server.url),
                "image-tiny",
                1,
                0.05,
                sleep=lambda span: (paused.append(span), threading.Event().wait(span)),
            )
            == ""
        )
        assert 1 <= len(paused) <= 3
        assert max(paused) <= 0.05

    @pytest.mark.usefixtures("job")
    def test_what_is_not_there_is_said_at_once(self, server):
        with pytest.raises(UpstreamError, match=r"cannot look at image-tiny #7: .*not found"):
            await_build(Client(server.url), "image-tiny", 7, 30)

    def test_a_build_deleted_while_it_is_waited_for(self, server, job):
        job.start()
        found, thread = self.waiter(server)
        wait_for(lambda: server.count("/1/api/json"))
        job.delete_build(1)
        thread.join(10)
        assert "not found" in str(found[0])

    def test_a_restart_of_jenkins_is_no_end(self, server, job):
        running = job.start()
        server.restart(busy=1)
        found, thread = self.waiter(server)
        wait_for(lambda: server.count("/1/api/json") > 2)
        running.complete("SUCCESS")
        thread.join(10)
        assert found == ["SUCCESS"]
