"""Bringing builds into staging: what makes an image, every hash in one pass, and what goes wrong on the way."""

import re
import subprocess
import sys
import threading
from hashlib import md5, sha256
from pathlib import Path

import pytest
from sites import CHECKOUT, files

from jenkins.client import Client
from jenkins.controller import Controller
from jenkins.faults import FLIPPED, HALF, LOGIN_PAGE, Cut, Edit, Status
from jenkins.jobs import Build, Files
from jenkins.standin import Standin
from tasks.errors import ImageRejected, TreeError, UpstreamError
from tasks.fetch import Fetcher, fetch, sort_artifacts
from tasks.hashed import Hashed, Staged
from tasks.image import File, Product
from tasks.plan import Wish
from tasks.settings import Artifacts, Jenkins

TINY = Product("tiny", "1", "amd64", "default")
PAIR = ("incus.tar.xz", "rootfs.squashfs")
CONTAINER = (*PAIR, "serial")
PATTERNS = Artifacts(unified="tiny-*.tar.xz", unified_lxd="lxd-*", unified_vm="vm-*.tar.xz")


def built(ci: Controller, content: Files, *, job: str = "image-tiny", **options) -> Build:
    return ci.freestyle(job).build(files=content, **options)


def wish_of(build: Build, product: Product = TINY) -> Wish:
    return Wish(
        product=product,
        job=build.job.path,
        configuration="",
        number=build.number,
        timestamp=build.timestamp,
        artifacts=tuple(build.artifacts),
        md5=tuple(sorted(set(build.prints.values()))),
    )


@pytest.fixture
def load(server: Standin, tmp_path: Path):
    """Fetch a build into staging."""

    def fetched(build: Build, *, log: bool = False, unified: Artifacts = PATTERNS) -> Staged:
        directory = tmp_path / "staging/tiny"
        return fetch(Client(server.url), wish_of(build), directory, log=log, unified=unified)

    return fetched


def copied(build: Build, content: Files) -> Build:
    """What a step does that fingerprints the files it copied into the workspace and archives none."""
    inputs = {f"input/{name}": data for name, data in content.items()}
    build.archive(inputs, fingerprint=True)
    for name in inputs:
        (build.directory / name).unlink()
    return build


def asked(server: Standin) -> list[str]:
    return [record.path.rpartition("/")[2] for record in server.requests]


class TestSortArtifacts:
    @pytest.mark.parametrize(
        ("paths", "found"),
        [
            (CONTAINER, {"incus.tar.xz", "rootfs.squashfs", "serial"}),
            (("incus.tar.xz", "disk.qcow2", "serial"), {"incus.tar.xz", "disk.qcow2", "serial"}),
            (("meta.tar.xz", "rootfs.tar.xz", "serial"), {"meta.tar.xz", "rootfs.tar.xz", "serial"}),
            ((*CONTAINER, "image.yaml", "lxd.tar.xz"), {*CONTAINER, "image.yaml", "lxd.tar.xz"}),
            ((*CONTAINER, "rootfs.tar.xz"), {*CONTAINER, "rootfs.tar.xz"}),
            ((*CONTAINER, "notes.txt", "incus.tar.xz.asc", "SERIAL", "serial.old", "build.log", "SHA256SUMS", "source.json"), set(CONTAINER)),
            ((*CONTAINER, "../../etc/passwd", "/etc/shadow", ""), set(CONTAINER)),
        ],
    )  # fmt: skip
    def test_what_matters_is_found_by_file_name(self, paths, found):
        assert sort_artifacts(paths) == {name: name for name in found}
        deep = [f"a/b c/{path}" for path in paths]
        assert sort_artifacts(deep) == {name: f"a/b c/{name}" for name in found}

    def test_lxd_stands_in_for_incus(self):
        assert sort_artifacts(["x/lxd.tar.xz", "rootfs.squashfs", "serial"]) == {
            "incus.tar.xz": "x/lxd.tar.xz", "rootfs.squashfs": "rootfs.squashfs", "serial": "serial"}  # fmt: skip

    @pytest.mark.parametrize(
        ("paths", "reason"),
        [
            ((), "there is no artifact called serial"),
            (CONTAINER[:2], "there is no artifact called serial"),
            (("serial",), "there are none of them"),
            (("serial", "rootfs.squashfs"), "there are rootfs.squashfs"),
            (("serial", "incus.tar.xz"), "there are incus.tar.xz"),
            (("serial", "rootfs.tar.xz", "incus.tar.xz"), "there are incus.tar.xz, rootfs.tar.xz"),
            (("serial", "meta.tar.xz", "rootfs.squashfs"), "there are meta.tar.xz, rootfs.squashfs"),
            ((*CONTAINER, "old/incus.tar.xz"), "two artifacts are called incus.tar.xz: "),
            ((*CONTAINER, "a/serial"), "two artifacts are called serial: "),
            ((*CONTAINER[:2], "../../etc/serial"), "'../../etc/serial' is not a plain relative one"),
            ((*CONTAINER[1:], "a/../../incus.tar.xz"), "'a/../../incus.tar.xz' is not a plain relative one"),
            ((*CONTAINER[1:], "/etc/incus.tar.xz"), "'/etc/incus.tar.xz' is not a plain relative one"),
            ((*CONTAINER, "/image.yaml"), "'/image.yaml' is not a plain relative one"),
        ],
    )  # fmt: skip
    def test_what_makes_no_image_is_rejected(self, paths, reason):
        with pytest.raises(ImageRejected, match=re.escape(reason)):
            sort_artifacts(paths)

    @pytest.mark.parametrize(
        ("patterns", "paths", "found"),
        [
            (PATTERNS, ("tiny-1.tar.xz",), {"incus_combined.tar.gz": "tiny-1.tar.xz"}),
            (PATTERNS, ("a b/tiny-1.tar.xz",), {"incus_combined.tar.gz": "a b/tiny-1.tar.xz"}),
            (PATTERNS, ("lxd-1",), {"lxd_combined.tar.gz": "lxd-1"}),
            (PATTERNS, ("vm-.tar.xz", "x/tiny-.tar.xz"), {"incus_combined.vm.tar.gz": "vm-.tar.xz", "incus_combined.tar.gz": "x/tiny-.tar.xz"}),
            (PATTERNS, ("TINY-1.tar.xz", "tiny-1.tar.xz.asc", "atiny-1.tar.xz", "tiny-1.tar.xz/log", "lxd-1"), {"lxd_combined.tar.gz": "lxd-1"}),
            (Artifacts(unified="*.tar.xz"), ("x.tar.xz", "image.yaml"), {"incus_combined.tar.gz": "x.tar.xz", "image.yaml": "image.yaml"}),
            (Artifacts(unified="*"), ("x", *PAIR, "meta.tar.xz"), {"incus_combined.tar.gz": "x", "meta.tar.xz": "meta.tar.xz", **dict(zip(PAIR, PAIR, strict=True))}),
            (Artifacts(unified="*.*"), PAIR, dict(zip(PAIR, PAIR, strict=True))),
            (Artifacts(unified_vm="a.b"), ("a.b",), {"incus_combined.vm.tar.gz": "a.b"}),
            (Artifacts(), ("incus_combined.tar.gz", "x.tar.xz"), {"incus_combined.tar.gz": "incus_combined.tar.gz"}),
            (Artifacts(unified="*"), ("lxd_combined.tar.gz",), {"lxd_combined.tar.gz": "lxd_combined.tar.gz"}),
        ],
    )  # fmt: skip
    def test_unified_images_are_found_by_their_patterns(self, patterns, paths, found):
        assert sort_artifacts([*paths, "serial"], patterns) == {"serial": "serial", **found}

    @pytest.mark.parametrize(
        ("patterns", "paths", "reason"),
        [
            (PATTERNS, ("tiny-1.tar.xz", "x/tiny-2.tar.xz"), "two artifacts would be incus_combined.tar.gz: 'tiny-1.tar.xz' and 'x/tiny-2.tar.xz'"),
            (PATTERNS, ("incus_combined.tar.gz", "tiny-1.tar.xz"), "two artifacts would be incus_combined.tar.gz: 'incus_combined.tar.gz' and 'tiny-1.tar.xz'"),
            (PATTERNS, ("tiny-1.tar.xz", "old/tiny-1.tar.xz"), "two artifacts would be incus_combined.tar.gz: "),
            (Artifacts(unified="*.xz", unified_vm="a*"), ("a.xz",), "the artifact 'a.xz' fits two patterns of jenkins.artifacts: incus_combined.tar.gz and incus_combined.vm.tar.gz"),
            (Artifacts(), ("tiny-1.tar.xz",), "or a unified image that jenkins.artifacts names; there are none of them"),
            (PATTERNS, ("a/../tiny-1.tar.xz",), "'a/../tiny-1.tar.xz' is not a plain relative one"),
        ],
    )  # fmt: skip
    def test_unified_images_that_are_not_clear_are_rejected(self, patterns, paths, reason):
        with pytest.raises(ImageRejected, match=re.escape(reason)):
            sort_artifacts([*paths, "serial"], patterns)

    def test_a_reason_is_one_line_however_the_artifact_is_called(self):
        with pytest.raises(ImageRejected) as caught:
            sort_artifacts([*CONTAINER, "a\nfailed: b/serial"])
        assert "\n" not in str(caught.value)
        for patterns in (Artifacts(unified="*"), Artifacts(unified="*", unified_vm="*")):
            with pytest.raises(ImageRejected) as caught:
                sort_artifacts([*CONTAINER, "a\nfailed: b/x", "y\n"], patterns)
            assert "\n" not in str(caught.value)


def renamed(artifact: str) -> str:
    """The name under which an artifact of the samples is stored."""
    names = {
        "tiny-": "incus_combined.tar.gz",
        "lxd-": "lxd_combined.tar.gz",
        "vm-": "incus_combined.vm.tar.gz",
    }
    return next((name for prefix, name in names.items() if artifact.startswith(prefix)), artifact)


class TestOnePass:
    @pytest.mark.parametrize("lxd", ["none", "only", "same", "differs"])
    @pytest.mark.parametrize(
        "kinds",
        [
            ("container",),
            ("vm",),
            ("lxc",),
            ("unified",),
            ("unified", "unified-vm"),
            ("container", "vm", "lxc", "unified"),
        ],
        ids="+".join,
    )
    def test_every_hash_is_that_of_the_file_on_disk(self, ci, load, server, lxd, kinds):
        content = files("tiny/1/amd64/default", kinds=kinds, lxd=lxd, tar_root="container" in kinds)
        staged = load(built(ci, content))
        here = {path.name: path.read_bytes() for path in staged.directory.iterdir()}
        wanted = {
            "incus.tar.xz" if lxd == "only" and name == "lxd.tar.xz" else renamed(name): data
            for name, data in content.items()
        }
        if lxd == "same":
            wanted.pop("lxd.tar.xz", None)
            wanted.pop("lxd_combined.tar.gz", None)
        assert staged.serial == wanted.pop("serial").decode().strip()
        assert here == wanted
        assert {name: (file.size, file.sha256) for name, file in staged.files.items()} == {
            name: (len(data), sha256(data).hexdigest()) for name, data in here.items()
        }
        assert staged.md5 == {name: md5(data).hexdigest() for name, data in here.items()}
        combined = {
            meta: {
                root: sha256(here[meta] + here[root]).hexdigest()
                for root in ("rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2")
                if root in here
            }
            for meta in ("incus.tar.xz", "lxd.tar.xz")
            if meta in here
        }
        assert staged.fingerprints == combined
        assert sorted(asked(server)) == sorted(content), "a file was fetched twice, or needlessly"

    def test_modes_do_not_depend_on_the_umask(self, ci, load):
        import os

        before = os.umask(0o077)
        try:
            staged = load(built(ci, files("tiny/1/amd64/default")))
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in staged.directory.iterdir()} == {0o644}

    def test_what_was_staged_before_is_gone(self, ci, load, tmp_path):
        stale = tmp_path / "staging/tiny/old/file"
        stale.parent.mkdir(parents=True)
        stale.touch()
        assert not load(built(ci, files("tiny/1/amd64/default"))).directory.joinpath("old").exists()

    def test_a_resumed_file_has_the_hashes_of_the_whole(self, ci, load, server):
        content = files("tiny/1/amd64/default", payload=bytes(range(256)) * 200)
        build = built(ci, content, fingerprint=False)
        server.faults.add("rootfs.squashfs", Cut(1000))
        server.faults.add("incus.tar.xz", Cut(10, "chunked"))
        staged = load(build)
        assert staged.files["rootfs.squashfs"].sha256 == sha256(content["rootfs.squashfs"]).hexdigest()
        assert (
            staged.fingerprints["incus.tar.xz"]["rootfs.squashfs"]
            == sha256(content["incus.tar.xz"] + content["rootfs.squashfs"]).hexdigest()
        )
        assert (staged.directory / "rootfs.squashfs").read_bytes() == content["rootfs.squashfs"]
        assert asked(server).count("rootfs.squashfs") == 2

    @pytest.mark.parametrize("size", [500, 5000, 50_000])
    def test_a_file_begun_again_is_the_second_one_alone(self, ci, load, server, size):
        content = files("tiny/1/amd64/default", payload=bytes(range(256)) * 200)
        build, other = built(ci, content, fingerprint=False), bytes(range(255, -1, -1)) * 200
        server.faults.add("rootfs.squashfs", Cut(1000))
        server.faults.add("rootfs.squashfs", Status(200, {}, other[:size]), first=2)
        staged = load(build)
        assert staged.files["rootfs.squashfs"] == File(size, sha256(other[:size]).hexdigest())
        assert (
            staged.fingerprints["incus.tar.xz"]["rootfs.squashfs"]
            == sha256(content["incus.tar.xz"] + other[:size]).hexdigest()
        )
        assert (staged.directory / "rootfs.squashfs").read_bytes() == other[:size]

    def test_the_console_log_is_fetched_when_asked_for(self, ci, load):
        staged = load(built(ci, files("tiny/1/amd64/default"), log="cc -o x\n"), log=True)
        log = b"Started by user admin\ncc -o x\nFinished: SUCCESS\n"
        assert (staged.directory / "build.log").read_bytes() == log
        assert staged.files["build.log"].sha256 == sha256(log).hexdigest()

    def test_memory_does_not_depend_on_the_size_of_a_file(self, ci, server, tmp_path):
        content = dict(files("tiny/1/amd64/default", kinds=("vm",)))
        del content["disk.qcow2"]
        build = built(ci, content, fingerprint=False)
        program = (
            "import sys, resource\n"
            "from pathlib import Path\n"
            "import msgspec\n"
            "from jenkins.client import Client\n"
            "from tasks.fetch import fetch\n"
            "from tasks.plan import Wish\n"
            "wish = msgspec.json.decode(sys.argv[2], type=Wish)\n"
            "staged = fetch(Client(sys.argv[1]), wish, Path(sys.argv[3]), log=False)\n"
            "print(staged.files['disk.qcow2'].size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        import msgspec

        used = {}
        for size in (1 << 20, 100 << 20):
            disk = build.directory / "disk.qcow2"
            with disk.open("wb") as file:
                file.truncate(size)  # sparse: only the wire is loaded
            argv = [
                sys.executable,
                "-c",
                program,
                server.url,
                msgspec.json.encode(wish_of(build)).decode(),
                tmp_path / "into",
            ]
            done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True)
            fetched, used[size] = map(int, done.stdout.split())
            assert fetched == size
        assert used[100 << 20] - used[1 << 20] < 20_000, "KiB more for 99 MiB more"


class TestMd5:
    def test_a_file_damaged_once_is_fetched_once_more(self, ci, load, server):
        content = files("tiny/1/amd64/default")
        server.faults.add("rootfs.squashfs", FLIPPED)
        staged = load(built(ci, content))
        assert staged.files["rootfs.squashfs"].sha256 == sha256(content["rootfs.squashfs"]).hexdigest()
        assert (staged.directory / "rootfs.squashfs").read_bytes() == content["rootfs.squashfs"]
        assert (
            staged.fingerprints["incus.tar.xz"]["rootfs.squashfs"]
            == sha256(content["incus.tar.xz"] + content["rootfs.squashfs"]).hexdigest()
        )
        assert asked(server).count("rootfs.squashfs") == 2

    @pytest.mark.parametrize("name", ["incus.tar.xz", "rootfs.squashfs", "image.yaml", "serial"])
    @pytest.mark.parametrize("damage", [FLIPPED, HALF], ids=["flipped", "half"])
    def test_a_file_damaged_each_time_is_a_fault_of_the_way(self, ci, load, server, name, damage):
        server.faults.add(f"/artifact/{name}", damage, times=None)
        with pytest.raises(
            UpstreamError, match=f"{name}: its md5 [0-9a-f]{{32}} is none that Jenkins recorded"
        ):
            load(built(ci, files("tiny/1/amd64/default")))
        assert asked(server).count(name) == 2

    def test_a_file_cut_short_without_an_announced_length_is_fetched_once_more(self, ci, load, server):
        content = files("tiny/1/amd64/default")
        server.faults.add("rootfs.squashfs", Cut(100, "close"))
        assert load(built(ci, content)).files["rootfs.squashfs"].size == len(content["rootfs.squashfs"])

    def test_the_name_beside_an_md5_does_not_matter(self, ci, load):
        content = files("tiny/1/amd64/default")
        built(ci, {"quite/another.name": content["rootfs.squashfs"]}, job="older")
        build = built(ci, content)
        assert ci.fingerprints[build.prints["rootfs.squashfs"]].name == "another.name"
        assert load(build).files["rootfs.squashfs"].size == len(content["rootfs.squashfs"])

    def test_without_fingerprints_nothing_is_known_and_nothing_wrong(self, ci, load, server):
        build = built(ci, files("tiny/1/amd64/default"), fingerprint=False)
        assert wish_of(build).md5 == ()
        server.faults.add("image.yaml", FLIPPED)
        load(build)
        assert asked(server).count("image.yaml") == 1

    @pytest.mark.parametrize("names", [("base.tar", "tool"), ("rootfs.squashfs", "serial", "incus.tar.xz")])
    def test_md5s_of_what_was_copied_alone_say_nothing_of_artifacts(self, ci, load, server, names):
        """Not even where a copied file was called like an artifact."""
        content = files("tiny/1/amd64/default")
        staged = load(copied(built(ci, content, fingerprint=False), dict.fromkeys(names, b"of old")))
        assert staged.serial == content["serial"].decode().strip()
        assert {name: file.size for name, file in staged.files.items()} == {
            name: len(data) for name, data in content.items() if name != "serial"
        }
        again = {name: asked(server).count(name) for name in content}
        assert again == dict.fromkeys(content, 1) | {"serial": 2}, "only the small one is fetched twice"

    def test_a_definition_that_is_archived_as_it_was_copied_proves_nothing(self, ci, load):
        content = files("tiny/1/amd64/default")
        build = copied(built(ci, content, fingerprint=False), {"old.yaml": content["image.yaml"]})
        assert load(build).serial == content["serial"].decode().strip()

    @pytest.mark.parametrize(
        "damage", [FLIPPED, HALF, Edit(lambda _: b"20200101_00:00\n")], ids=["flipped", "half", "other"]
    )
    def test_a_wrong_serial_is_not_taken_for_one_without_an_md5(self, ci, load, server, damage):
        build = copied(built(ci, files("tiny/1/amd64/default")), {"base.tar": b"x"})
        server.faults.add("/artifact/serial", damage, times=None)
        with pytest.raises(UpstreamError, match="serial: its md5 [0-9a-f]{32} is none that Jenkins recorded"):
            load(build)
        assert "rootfs.squashfs" not in asked(server)

    def test_a_serial_that_is_none_and_has_no_md5_is_rejected(self, ci, load):
        content = {**files("tiny/1/amd64/default"), "serial": b"yesterday"}
        with pytest.raises(ImageRejected, match="serial 'yesterday' is not"):
            load(copied(built(ci, content, fingerprint=False), {"base.tar": b"x"}))

    def test_copied_files_beside_the_artifacts_make_no_difference(self, ci, load, server):
        build = copied(built(ci, files("tiny/1/amd64/default")), {"base.tar": b"x"})
        server.faults.add("rootfs.squashfs", FLIPPED, times=None)
        with pytest.raises(UpstreamError, match=r"rootfs\.squashfs: its md5"):
            load(build)

    def test_the_log_has_no_md5_to_fit(self, ci, load):
        assert "build.log" in load(built(ci, files("tiny/1/amd64/default")), log=True).files


class TestRefused:
    def test_a_serial_that_is_none(self, ci, load, server):
        none, no_date, long = "is not YYYYMMDD_HH:MM", "is no date and time", "longer than 64 bytes"
        serials = {
            b"": f"serial '' {none}",
            b"yesterday\n": f"serial 'yesterday' {none}",
            b"20260101_0000": none,
            b"20261301_00:00": f"serial '20261301_00:00' {no_date}",
            b"20260101_25:00": no_date,
            b"20260101_00:00\n20260101_00:01\n": none,
            b"../../20260101": none,
            b"\xef\xbb\xbf20260101_00:00": none,
            "２０２６０１０１_00:00".encode(): none,
            b" " * 51 + b"20260101_00:00": long,
            b"2" * 5_000_000: long,
        }
        content = files("tiny/1/amd64/default")
        for serial, reason in serials.items():
            server.clear()
            with pytest.raises(ImageRejected, match=re.escape(reason)):
                load(built(ci, {**content, "serial": serial}))
            assert asked(server) == ["serial"]

    def test_white_space_around_a_serial_is_none_of_it(self, ci, load):
        assert (
            load(built(ci, files("tiny/1/amd64/default") | {"serial": b"\r\n 20260101_00:01 \r\n"})).serial
            == "20260101_00:01"
        )

    def test_metadata_of_absurd_size_is_rejected(self, ci, load, server):
        build = built(ci, files("tiny/1/amd64/default"), fingerprint=False)
        with (build.directory / "incus.tar.xz").open("wb") as file:
            file.truncate((64 << 20) + 1)
        with pytest.raises(ImageRejected, match=r"incus\.tar\.xz is larger than 64 MiB"):
            load(build)
        assert "rootfs.squashfs" not in asked(server)

    @pytest.mark.parametrize("name", ["incus.tar.xz", "lxd.tar.xz", "meta.tar.xz"])
    def test_the_transfer_of_absurd_metadata_ends_at_its_limit(self, ci, load, tmp_path, name):
        content = files("tiny/1/amd64/default", lxd="differs", kinds=("container", "lxc"))
        build = built(ci, content, fingerprint=False)
        with (build.directory / name).open("wb") as file:
            file.truncate(300 << 20)
        with pytest.raises(ImageRejected, match=f"{name} is larger than 64 MiB"):
            load(build)
        assert (tmp_path / "staging/tiny" / name).stat().st_size <= 64 << 20

    def test_a_folder_of_any_name_is_asked_for_by_that_name(self, ci, load, tmp_path):
        content = files("tiny/1/amd64/default")
        folders = [
            "a b",
            "ü",
            "100%",
            "%2e%2e",
            "%41",
            "x?y=z",
            "x#y",
            "a;b",
            "a&b=c,d",
            "[x]",
            "~",
            "a+b",
            "-rf",
            "..x",
            "x..",
            "'\"`$(id)",
            "a\nb",
        ]
        for folder in folders:
            staged = load(built(ci, {f"{folder}/{name}": data for name, data in content.items()}))
            assert {path.name: path.read_bytes() for path in staged.directory.iterdir()} == {
                name: data for name, data in content.items() if name != "serial"
            }, folder
        assert {path.name for path in (tmp_path / "staging").iterdir()} == {"tiny"}

    @pytest.mark.parametrize("folder", ["*", "a\\b"])
    def test_a_folder_that_jenkins_itself_does_not_serve(self, ci, load, folder):
        with pytest.raises(UpstreamError):
            load(
                built(ci, {f"{folder}/{name}": data for name, data in files("tiny/1/amd64/default").items()})
            )

    def test_a_build_deleted_between_two_files(self, ci, load, server):
        job = ci.freestyle("image-tiny")
        build = built(ci, files("tiny/1/amd64/default"))
        server.faults.add("rootfs.squashfs", call=lambda: job.delete_build(1))
        with pytest.raises(
            UpstreamError,
            match=r"image-tiny #1 lost a file while it was fetched: .*rootfs\.squashfs: not found",
        ):
            load(build)

    @pytest.mark.parametrize(
        "fault",
        [Status(403), LOGIN_PAGE, Status(302, {"Location": "http://[::1"})],
        ids=["403", "login", "redirect"],
    )
    @pytest.mark.parametrize("name", ["serial", "incus.tar.xz", "image.yaml"])
    def test_what_keeps_us_out_is_a_fault_of_the_way_and_no_verdict_on_the_build(
        self, ci, load, server, name, fault
    ):
        server.faults.add(f"/artifact/{name}", fault, times=None)
        with pytest.raises(UpstreamError):
            load(built(ci, files("tiny/1/amd64/default"), fingerprint=False))

    def test_a_full_disk_is_one_sentence(self, tmp_path):
        program = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from tasks.errors import TreeError\n"
            "from tasks.hashed import Hashed\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))\n"
            "for size in (10, 100_000):\n"  # in the buffer until the end, and not
            "    try:\n"
            "        with Hashed(Path(sys.argv[1]), {}) as sink:\n"
            "            sink.write(bytes(size))\n"
            "    except TreeError as error:\n"
            "        print(error)\n"
            "try:\n"
            "    sink = Hashed(Path(sys.argv[1]), {})\n"
            "    sink.write(bytes(10))\n"
            "    sink.reset()\n"
            "except TreeError as error:\n"
            "    print(error, flush=True)\n"
            "    import os; os._exit(0)\n"  # not through the file's destructor, which would say it again
        )
        argv = [sys.executable, "-c", program, tmp_path / "file"]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("File too large") == 3

    def test_a_directory_that_cannot_be_written_is_one_sentence(self, tmp_path):
        with pytest.raises(TreeError, match="nowhere"):
            Hashed(tmp_path / "nowhere/file", {})


class TestFetcher:
    @pytest.fixture
    def wishes(self, ci):
        products = [Product("tiny", str(number), "amd64", "default") for number in range(4)]
        return [wish_of(built(ci, files(p.name), job=f"image-{p.release}"), p) for p in products]

    @pytest.fixture
    def fetcher(self, server, tmp_path):
        def fetcher(threads=1, finish=lambda wish, staged: staged):
            settings = Jenkins(url=server.url, downloads=threads)
            return Fetcher(Client(server.url), tmp_path / "staging", finish, settings)

        return fetcher

    def test_builds_come_in_the_order_of_their_wishes(self, fetcher, server, wishes):
        one = fetcher()
        one.start(reversed(wishes))
        assert [one.take(wish).directory.name for wish in wishes] == [wish.product.key for wish in wishes]
        jobs = [record.path.split("/")[2] for record in server.requests]
        assert list(dict.fromkeys(jobs)) == ["image-3", "image-2", "image-1", "image-0"]

    def test_a_wish_that_was_not_started_is_fetched_when_it_is_taken(self, fetcher, server, wishes):
        one = fetcher()
        one.start(wishes[:1])
        assert one.take(wishes[3]).directory.name == wishes[3].product.key
        assert server.count("image-1/") == 0

    def test_a_failure_is_raised_where_it_is_taken_and_nowhere_else(self, fetcher, server, wishes):
        server.faults.add("image-1/.*/serial", Edit(lambda _: b"yesterday"), times=None)
        server.faults.add("image-2/.*/incus.tar.xz", Status(404), times=None)
        one = fetcher(2)
        one.start(wishes)
        assert one.take(wishes[3]).serial
        with pytest.raises(UpstreamError, match="image-2 #1 lost a file"):
            one.take(wishes[2])
        with pytest.raises(UpstreamError, match="serial: its md5"):
            one.take(wishes[1])
        assert one.take(wishes[0]).serial

    def test_so_many_builds_at_once_and_no_more(self, fetcher, server, wishes):
        meet, busy, most = threading.Barrier(2), [], []

        def enter():
            busy.append(1)
            most.append(len(busy))
            meet.wait(10)

        server.faults.add("/serial", call=enter, times=None)
        server.faults.add("/image.yaml", call=busy.pop, times=None)
        one = fetcher(2)
        one.start(wishes)
        assert [one.take(wish).serial for wish in wishes]
        assert max(most) == 2
        assert not meet.broken

    def test_builds_are_looked_into_beside_each_other_and_beside_the_main_thread(self, fetcher, wishes):
        meet, threads = threading.Barrier(2), []

        def inspect(wish, staged):
            assert sorted(staged.files) == sorted(path.name for path in staged.directory.iterdir())
            threads.append(threading.current_thread())
            meet.wait(10)
            return staged

        one = fetcher(2, inspect)
        one.start(wishes)
        assert [one.take(wish).serial for wish in wishes]
        assert len(threads) == 4
        assert threading.main_thread() not in threads

    def test_what_is_found_in_one_is_raised_where_it_is_taken(self, fetcher, wishes):
        def inspect(wish, staged):
            if wish == wishes[1]:
                raise ImageRejected("no")
            return staged

        one = fetcher(1, inspect)
        one.start(wishes)
        assert one.take(wishes[3]).serial
        with pytest.raises(ImageRejected, match="no"):
            one.take(wishes[1])
        assert one.take(wishes[2]).serial
