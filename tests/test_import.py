"""doit import: what it takes, from whose trees, what it refuses, and what is left when it is killed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import daemons
import pytest
from clients import incus_simplestreams, run
from sites import CHECKOUT, Key, Site, build, files, matrix
from tools import need_root, program

from jenkins.samples import unified_tarball
from jenkins.standin import Standin
from tasks.errors import UpstreamError
from tasks.foreign import Foreign

# root without its privileges: what others may not read, it may not either
PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
WHEN = "20250102_03:04"


@pytest.fixture
def site(site: Site) -> Site:
    """A site without any Jenkins."""
    site.config.write_text(f'[site]\nroot = "root"\n[signing]\nkey = "{site.key.secret}"\n')
    return site


def put(directory: Path, content: Mapping[str, bytes], **names: str) -> Path:
    """Write the artifacts of a build, some under other names; without its serial."""
    directory.mkdir(parents=True)
    for name, data in content.items():
        if name != "serial":
            (directory / names.get(name.replace(".", "_"), name)).write_bytes(data)
    return directory


def tree(base: Path, product: str, when: str, **options: Any) -> Path:
    """One image of a tree, under the names that lxd-simplestreams has for roots."""
    content = files(product, serial=options.pop("serial", WHEN), **options)
    names = {"rootfs_squashfs": "root.squashfs", "rootfs_tar_xz": "root.tar.xz"}
    return put(base / "images" / product / when, content, **names)


def unified(product: str, *, vm: bool = False) -> bytes:
    """A unified image of a container or VM."""
    names = dict(zip(("os", "release", "arch", "variant"), product.split("/"), strict=True))
    return unified_tarball(**names, serial=WHEN, vm=vm)


def took(site: Site, source: Path | str, *options: str, code: int = 0) -> str:
    result = site.doit("import", f"--from={source}", *options)
    assert result.code == code, f"exit {result.code}\n{result.out}\n{result.err}"
    assert "Traceback" not in result.out + result.err
    return result.out + result.err


def listed(site: Site) -> dict[str, set[str]]:
    return {key: set(one["versions"]) for key, one in site.products().items()}


def lxc(site: Site) -> list[str]:
    return (site.latest / "meta/1.0/index-system").read_text().splitlines()


def refuses(site: Site, source: Path | str, *options: str, code: int = 1) -> str:
    """Import what is refused whole; nothing is left of it."""
    said = took(site, source, *options, code=code)
    assert not list((site.root / "site/public").glob("images/*"))
    assert not list((site.root / "site/staging").glob("*"))
    assert not list((site.root / "state/ledger").glob("*")), "it is no product of the site"
    return said


def test_the_output_of_distrobuilder_is_published_as_its_metadata_says(site: Site) -> None:
    source = put(site.base / "build", files(A, serial=WHEN, kinds=("container", "vm", "lxc")))
    said = took(site, source)
    assert f"{A}/{WHEN}: {WHEN} (LXC, VM, container; 6 files" in said
    assert listed(site) == {A.replace("/", ":"): {WHEN}}
    assert [line.split(";")[4] for line in lxc(site)] == [WHEN]
    assert "import:directory\n" in site.doit("status").out
    assert site.doit("verify").code == 0
    assert site.publish().code == 0
    told = (site.latest / f"images/{A}/{WHEN}/source.json").read_text()
    assert json.loads(told)["source"]["md5"] == {}
    assert str(source.parent) not in told


def test_what_an_image_is_may_be_said(site: Site) -> None:
    source = put(site.base / "build", files(A, serial=WHEN, kinds=("lxc",)))
    assert "--as=os/release/arch/variant and --serial=" in refuses(site, source)
    took(site, source, "--as=other/2/amd64/cloud", "--serial=202501020506")
    assert [";".join(line.split(";")[:5]) for line in lxc(site)] == ["other;2;amd64;cloud;20250102_05:06"]


def test_what_was_refused_is_no_product(site: Site) -> None:
    source = put(site.base / "build", files(A, serial=WHEN, kinds=("container",)))
    refuses(site, source, "--as=tiny/1/arm64/default")
    assert "tiny" not in site.doit("status").out


def test_an_architecture_has_one_name_wherever_it_stands(site: Site) -> None:
    base = site.base / "old"
    content = files(A, serial=WHEN, kinds=("container",))
    put(base / "images/tiny/1/x86_64/default" / WHEN, content)
    said = took(site, base)
    assert f"{A}/{WHEN}: {WHEN} (container; " in said
    assert "its architecture was x86_64" in said
    one = put(site.base / "one", content)
    assert "there already" in took(site, one, "--as=tiny/1/x86_64/default")
    assert listed(site).keys() == {A.replace("/", ":")}


def test_a_tree_of_lxd_simplestreams_keeps_its_requirements(site: Site) -> None:
    base = site.base / "old"
    tree(base, A, "20250102_03:04")
    tree(base, B, "202501020405", kinds=("container",), lxd="only")
    (base / "images/tiny/.requirements").write_text('{"secureboot": "false", "cgroup": "v1"}')
    (base / "images/tiny/1/amd64/.requirements").write_text('{"cgroup": "v2"}')
    (base / "images/tiny/1/amd64/default/.lxd_requirements").write_text('{"nesting": "true"}')
    (base / "images/tiny/1/.items.json").write_text("{not read here}")
    more = site.config.read_text() + '[[rules]]\nmatch = "tiny"\nrequirements = { privileged = "false" }\n'
    site.config.write_text(more)
    said = took(site, base)
    assert f"{B}/20250102_04:05: 20250102_04:05" in said
    assert "its serial was 202501020405" in said
    products = site.products()
    a, b = products[A.replace("/", ":")], products[B.replace("/", ":")]
    assert a["requirements"] == {"secureboot": "false", "cgroup": "v2", "privileged": "false"}
    assert a["lxd_requirements"] == {**a["requirements"], "nesting": "true"}
    assert b["requirements"] == {"secureboot": "false", "cgroup": "v1", "privileged": "false"}
    assert [line.split(";")[2] for line in lxc(site)] == ["amd64"]
    for product in (a, b):
        (version,) = product["versions"].values()
        assert {"incus.tar.xz", "lxd.tar.xz", "squashfs"} <= {
            one["ftype"] for one in version["items"].values()
        }
    assert site.doit("rebuild").code == 0
    assert site.publish().code == 0
    assert site.products() == products


def test_a_tree_of_incus_simplestreams_comes_out_whole(site: Site) -> None:
    add = program("incus-simplestreams")
    source = site.base / "streams"
    source.mkdir()
    for name, kinds in (("one", ("container", "vm")), ("two", ("container",))):
        product = A if name == "one" else B
        made = put(site.base / name, files(product, serial=WHEN, kinds=kinds))
        for root in sorted({"rootfs.squashfs", "disk.qcow2"} & {path.name for path in made.iterdir()}):
            run([add, "add", str(made / "incus.tar.xz"), str(made / root)], dict(os.environ), cwd=source)
    took(site, source)
    assert {key: len(serials) for key, serials in listed(site).items()} == dict.fromkeys(
        (A.replace("/", ":"), B.replace("/", ":")), 1
    )
    (version,) = site.products()[A.replace("/", ":")]["versions"].values()
    ftypes = {item["ftype"] for item in version["items"].values()}
    assert ftypes == {"incus.tar.xz", "lxd.tar.xz", "squashfs", "disk-kvm.img"}
    both = [json.loads(incus_simplestreams(where, "list")) for where in (source, site.latest)]
    assert {one["fingerprint"] for one in both[0]} == {one["fingerprint"] for one in both[1]}
    assert len(both[1]) == 3


def test_an_index_that_leads_out_of_its_tree_is_refused(site: Site) -> None:
    for name in ("inner", "outer"):
        (site.base / name / "streams/v1").mkdir(parents=True)
    entry = {"datatype": "image-downloads", "path": "../outer/streams/v1/images.json"}
    (site.base / "inner/streams/v1/index.json").write_text(json.dumps({"index": {"images": entry}}))
    (site.base / "outer/streams/v1/images.json").write_text('{"products": {}}')
    said = refuses(site, site.base / "inner")
    assert (
        "index.json: rejected: the path '../outer/streams/v1/images.json' is not a plain relative one" in said
    )
    with pytest.raises(UpstreamError, match="no path below"):
        Foreign(site.base / "inner").read("../outer/streams/v1/images.json", 99)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ([f"image:{A}"], f"image:{A}: there is no [jenkins] in the configuration to bring it from"),
        (["publish", "--job=x", "--build=1"], "--job=x: there is no [jenkins] in the configuration to ask"),
    ],
)
def test_what_takes_a_jenkins_says_that_there_is_none(site: Site, command: list[str], why: str) -> None:
    result = site.doit(*command)
    assert result.code == 3, result.out + result.err
    assert why in result.err
    assert "Traceback" not in result.err


def test_a_root_tarball_alone_is_a_container_of_the_daemons(site: Site) -> None:
    content = files(A, serial=WHEN, kinds=(), tar_root=True)
    took(site, put(site.base / "build", content, rootfs_tar_xz="root.tar.xz"))
    (version,) = site.products()[A.replace("/", ":")]["versions"].values()
    assert {item["ftype"] for item in version["items"].values()} == {
        "incus.tar.xz",
        "lxd.tar.xz",
        "root.tar.xz",
    }
    assert lxc(site) == []


@pytest.mark.parametrize("name", ["image.tar.gz", "incus_combined.tar.gz"])
def test_a_unified_image_is_what_its_metadata_says(site: Site, name: str) -> None:
    content = unified(A)
    (site.base / "made").mkdir()
    (site.base / "made" / name).write_bytes(content)
    took(site, site.base / "made")
    (version,) = site.products()[A.replace("/", ":")]["versions"].values()
    assert version["items"]["incus_combined.tar.gz"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert "there already" in took(site, site.base / "made" / name)


def test_a_unified_vm_is_seen_by_what_it_holds(site: Site) -> None:
    (site.base / "vm.tar.gz").write_bytes(unified(A, vm=True))
    took(site, site.base / "vm.tar.gz")
    (version,) = site.products()[A.replace("/", ":")]["versions"].values()
    (item,) = version["items"].values()
    assert item["combined_type"] == "virtual-machine"


def test_the_same_import_again_changes_nothing(site: Site) -> None:
    base = site.base / "old"
    tree(base, A, WHEN)
    took(site, base)
    before = site.tree("site", "latest")
    said = took(site, base)
    assert "is there already, with the same bytes, from import:" in said
    assert "1 image found, 1 left" in said
    assert site.tree("site", "latest") == before


def test_other_bytes_under_a_published_serial_are_refused(site: Site) -> None:
    took(site, tree(site.base / "old", A, WHEN), f"--as={A}")
    other = tree(site.base / "new", A, WHEN, payload=b"other")
    before = site.tree("site", "latest")
    assert "is published with other bytes, from import:" in took(site, other.parents[5], code=1)
    assert site.tree("site", "latest") == before


def test_history_is_taken_as_far_as_it_would_be_listed(site: Site) -> None:
    base = site.base / "old"
    days = [f"2025010{day}_03:04" for day in range(1, 7)]
    for number, day in enumerate(days):
        tree(base, A, day, payload=bytes([number]) * 9000)
    (base / f"images/{A}/{days[-2]}/root.squashfs").write_bytes(b"not one")
    said = took(site, base, code=1)
    assert f"{days[-2]}: rejected: rootfs.squashfs is not what its name says" in said
    assert f"{days[1]}: left: 3 newer images are listed (site.keep)" in said
    assert listed(site)[A.replace("/", ":")] == {days[2], days[3], days[5]}
    assert not (site.root / f"site/public/images/{A}/{days[1]}").exists()


def test_an_older_serial_than_the_newest_is_taken(site: Site) -> None:
    tree(site.base / "new", A, "20250302_03:04", payload=b"a" * 99)
    tree(site.base / "old", A, WHEN, payload=b"b" * 99)
    took(site, site.base / "new")
    took(site, site.base / "old")
    assert listed(site)[A.replace("/", ":")] == {WHEN, "20250302_03:04"}


def test_deltas_begin_from_the_image_before(site: Site) -> None:
    program("xdelta3")
    base, random = site.base / "old", os.urandom(300_000)
    tree(base, A, "20250101_03:04", payload=random)
    tree(base, A, "20250102_03:04", payload=random + b"more")
    took(site, base)
    assert (site.latest / f"images/{A}/20250102_03:04/delta-20250101_03:04.vcdiff").exists()


def test_a_dry_run_says_all_of_it_and_changes_nothing(site: Site) -> None:
    base = site.base / "old"
    tree(base, A, WHEN)
    tree(base, B, WHEN, kinds=("container",))
    (base / f"images/{B}/{WHEN}/root.squashfs").write_bytes(b"not one")
    said = took(site, base, "--dry-run", code=1)
    assert f"{A}/{WHEN}: would be taken: LXC, container; 5 files" in said
    assert f"{B}/{WHEN}: rejected: rootfs.squashfs is not what its name says" in said
    assert "2 images found, 1 taken, 1 refused; nothing was changed" in said
    assert not list((site.root / "site").rglob("*")) + list(site.root.glob("latest"))
    (base / f"images/{B}/{WHEN}/root.squashfs").unlink()
    (base / f"images/{B}/{WHEN}/incus.tar.xz").unlink()
    (base / f"images/{B}/{WHEN}/image.yaml").unlink()
    assert "it is no image: needed are" in took(site, base, "--dry-run", code=1)
    assert "would be taken" in took(site, base / f"images/{A}/{WHEN}", "--dry-run")


def test_what_the_records_beside_it_say_is_checked(site: Site) -> None:
    base = site.base / "old"
    one, two = tree(base, A, WHEN), tree(base, B, WHEN)
    for directory in (one, two):
        sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}
        sums["lxd.tar.xz"] = sums.pop("incus.tar.xz")  # as images.linuxcontainers.org has them
        (directory / "SHA256SUMS").write_text("".join(f"{mark}  {name}\n" for name, mark in sums.items()))
    items = {"root.squashfs": {"sha256": "0" * 64}}
    third = tree(base, "tiny/2/amd64/default", WHEN)
    tree(base, B, "20250103_03:04")
    (two / "incus.tar.xz").write_bytes(files(B, serial="20250101_00:00")["incus.tar.xz"])
    (third / ".items.json").write_text(json.dumps(items))
    said = took(site, base, code=1)
    assert f"{B}/{WHEN}: rejected: images/{B}/{WHEN}/incus.tar.xz has another sha256" in said
    unfinished = "rejected: it has no SHA256SUMS, as the others have: it was not finished"
    assert f"{B}/20250103_03:04: {unfinished}" in said
    assert f"tiny/2/amd64/default/{WHEN}/root.squashfs has another sha256" in said
    assert listed(site).keys() == {A.replace("/", ":")}
    assert f"tiny/2/amd64/default/{WHEN}: {unfinished}" in adopted(site, base, "--dry-run", code=1)


def test_an_image_that_was_half_copied_is_named(site: Site) -> None:
    base = site.base / "old"
    for product in (A, B):
        directory = tree(base, product, WHEN, kinds=("container", "vm"))
        sums = "".join(
            f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in directory.iterdir()
        )
        (directory / "SHA256SUMS").write_text(f"{sums}{'0' * 64}  build.log\n")
    (base / "images" / A / WHEN / "disk.qcow2").unlink()
    said = took(site, base, code=1)
    assert f"{A}/{WHEN}: rejected: it was not finished: SHA256SUMS names disk.qcow2" in said
    assert listed(site).keys() == {B.replace("/", ":")}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"secureboot": false}', "'secureboot' is not a string"),
        ('["secureboot"]', "Expected `object`, got `array`"),
        ("{", "Input data was truncated"),
        ('{"a\\u001b[2J": "x"}', "is not a string"),
    ],
)
def test_requirements_that_would_break_the_list_are_named(site: Site, text: str, why: str) -> None:
    base = site.base / "old"
    tree(base, A, WHEN)
    (base / "images/tiny/.requirements").write_text(text)
    said = refuses(site, base)
    assert "images/tiny/.requirements: " in said
    assert why in said
    assert "\x1b" not in said


def test_metadata_for_lxd_is_of_the_same_image(site: Site) -> None:
    base = site.base / "old"
    for product, lxd in ((A, "tiny/2/amd64/default"), (B, B)):
        directory = tree(base, product, WHEN, kinds=("container",))
        other = files(lxd, serial="20250101_00:00", kinds=("container",))
        (directory / "lxd.tar.xz").write_bytes(other["incus.tar.xz"])
    said = took(site, base, code=1)
    assert f"{A}/{WHEN}: rejected: lxd.tar.xz: its release '2' is not that of incus.tar.xz, '1'" in said
    assert listed(site).keys() == {B.replace("/", ":")}


def test_requirements_of_the_whole_tree_count(site: Site) -> None:
    """And those of an image that is there already stay what they are."""
    base = site.base / "old"
    tree(base, A, WHEN)
    (base / ".requirements").write_text('{"secureboot": "false", "cgroup": "v1"}')
    (base / "images/.requirements").write_text('{"cgroup": "v2"}')
    took(site, base)
    before = site.products()
    assert before[A.replace("/", ":")]["requirements"] == {"secureboot": "false", "cgroup": "v2"}
    assert "its requirements" not in took(site, base)
    (base / "images/.requirements").write_text('{"cgroup": "v1"}')
    said = took(site, base)
    assert "its requirements are others than those it is published with, which stay" in said
    assert site.products() == before
    (base / ".requirements").write_text("{")
    assert f"{base}/.requirements: Input data was truncated" in took(site, base, code=1)
    (base / ".requirements").unlink()
    (base / ".requirements").symlink_to("/etc/passwd")
    assert f"{base}/.requirements is a symbolic link, which is not followed" in took(site, base, code=1)


def test_a_directory_that_cannot_be_read_is_named(site: Site) -> None:
    base = site.base / "old"
    tree(base, A, WHEN)
    closed = [base / "images/other", tree(base, B, WHEN), base / f"images/{A}/private", base / "lost+found"]
    for path in closed:
        path.mkdir(exist_ok=True)
        path.chmod(0)
    site.config.chmod(0o644)
    words = [*PLAIN, sys.executable, "-m", "doit", "import", f"--from={base}"]
    env = {**site.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    for path in closed:
        path.chmod(0o755)
    assert done.returncode == 1, done.stdout + done.stderr
    for path in closed[:-1]:
        assert f"rejected: cannot read {path}: Permission denied" in done.stdout
    assert "lost+found" not in done.stdout
    assert listed(site).keys() == {A.replace("/", ":")}


def test_the_faults_of_a_tree_are_said_from_wherever_it_is_looked_at(site: Site) -> None:
    base = site.base / "old"
    directory = tree(base, A, WHEN)
    (directory / "root.squashfs").unlink()
    (directory / "root.squashfs").symlink_to("/etc/passwd")
    for source in (base, base / "images"):
        assert f"{A}/{WHEN}: rejected: root.squashfs is a symbolic link" in took(site, source, code=1)


def test_links_devices_and_strangers_are_not_followed(site: Site) -> None:
    secret = site.base / "secret"
    secret.write_text("SECRET")
    base = site.base / "old"
    for product, name in ((A, "root.squashfs"), (B, "SHA256SUMS")):
        path = tree(base, product, WHEN) / name
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    fifo = tree(base, "tiny/2/amd64/default", WHEN) / "root.tar.xz"
    fifo.unlink()
    os.mkfifo(fifo)
    good = tree(base, "tiny/3/amd64/default", WHEN)
    (good / "notes\x1b[2J.txt").write_text("x")
    tree(site.base / "elsewhere", A, WHEN)
    (base / "images/tiny/4").symlink_to(site.base / "elsewhere/images/tiny/1")
    (base / "images/tiny/-rf/amd64/default" / WHEN).mkdir(parents=True)
    (base / "images/tiny/3/amd64/default/20259999").mkdir()
    tree(base, "tiny/3/amd64/default", ".20250103_0304")  # an upload in progress
    tree(base, "tiny/3/amd64/default", "newest")
    said = took(site, base, code=1)
    assert "root.squashfs is a symbolic link, which is not followed" in said
    assert "SHA256SUMS is a symbolic link, which is not followed" in said
    assert "root.tar.xz is a special file, which is not followed" in said
    assert "images/tiny/4: rejected: it is a symbolic link, which is not followed" in said
    assert "'-rf' cannot be part of a product's name" in said
    assert "serial '20259999_00:00' is no date and time" in said
    assert "left out: 'notes\\x1b[2J.txt'" in said
    assert "/.20250103" not in said
    assert "images/tiny/3/amd64/default/newest: rejected: 'newest' is no serial" in said
    assert "SECRET" not in said
    assert "\x1b" not in said
    assert listed(site).keys() == {"tiny:3:amd64:default"}


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        ((), 3, "doit import: say from where, --from=SRC"),
        (("--from=missing",), 3, "--from=missing: there is no such file or directory"),
        (("--from=BASE/empty",), 3, "there is no image; looked for were incus.tar.xz and the like in it, ["),
        (("--from=BASE/two/images/tiny",), 3, f"{WHEN}: it holds incus.tar.xz, and images lie in os/release"),
        (("--from=BASE/a#b",), 3, "there is no image"),
        (("--from=BASE/two", "BASE/one"), 3, "BASE/one: what is this?"),
        (("--from=BASE/two", "--from=BASE/one"), 3, "--from=BASE/two and --from=BASE/one: one at a time"),
        (("--from=BASE/two", "--adopt=BASE/two"), 3, "--from=BASE/two and --adopt=BASE/two: one at a time"),
        (("--from=BASE/one/lxd.tar.xz",), 3, "there are incus.tar.xz; name the directory that has them all"),
        (("--from=BASE/README.md", "--dry-run"), 1, "README.md is no tarball, or a damaged one: "),
        (("--from=BASE/two", f"--as={A}"), 3, "--as and --serial name one image, and "),
        (("--from=BASE/two", "--as=tiny"), 3, "'tiny' is not os/release/arch/variant"),
        (("--from=BASE/two", "--serial=today"), 3, "'today' is no serial"),
        (("BASE/two",), 3, "doit import: say from where, --from=SRC"),
        (("--adopt=BASE/one",), 3, "only a whole tree is taken over; for one image use --from"),
        (("--adopt=BASE/one/root.squashfs",), 3, "only a whole tree is taken over"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    site: Site, options: tuple[str, ...], code: int, why: str
) -> None:
    for name in ("empty", "a#b"):
        (site.base / name).mkdir()
    for product in (A, B):
        tree(site.base / "two", product, WHEN)
    put(site.base / "one", files(A, serial=WHEN, lxd="only"), rootfs_squashfs="root.squashfs")
    (site.base / "README.md").write_text("What lies here.\n" * 99)
    result = site.doit("import", *(one.replace("BASE", str(site.base)) for one in options))
    assert result.code == code, result.out + result.err
    assert why.replace("BASE", str(site.base)) in result.err + result.out
    assert "Traceback" not in result.err + result.out
    assert not (site.root / "site").exists()


def test_decisions_hold_for_imports_too(site: Site) -> None:
    base = site.base / "old"
    for day in ("20250101_03:04", "20250102_03:04"):
        tree(base, A, day, payload=day.encode())
    took(site, base)
    assert site.doit("withdraw", f"{A}/20250102_03:04").code == 0
    assert site.publish().code == 0
    assert listed(site)[A.replace("/", ":")] == {"20250101_03:04"}
    assert "20250102_03:04: held: withdrawn by" in took(site, base)
    other = (base / f"images/{A}/20250102_03:04", f"--as={A}", "--serial=20250102_03:04")
    assert f"held: withdrawn; doit unhold {A}/20250102_03:04 lets it" in took(site, *other)
    assert site.doit("retire", A).code == 0
    tree(base, A, "20250103_03:04")
    assert "20250103_03:04: held: retired by" in took(site, base)


def test_a_build_of_an_imported_serial_is_no_news(tmp_path: Path, server: Standin, key: Key) -> None:
    site = Site(tmp_path, server, key)
    matrix(site.ci, A)
    content = files(A, serial=WHEN)
    build(site.ci, A, content={A: content})
    took(site, put(tmp_path / "build", content))
    said = site.publish().out
    assert f"{WHEN} is there already, with the same bytes, from import:" in said
    took(site, tmp_path / "build")  # and does not make Jenkins' build forgotten
    server.requests.clear()
    site.publish()
    assert not [one for one in server.requests if "/artifact/" in str(one)]


@pytest.mark.parametrize("name", ["incus", "lxd"])
def test_an_image_of_a_local_daemon_is_published(site: Site, name: str) -> None:
    made = put(site.base / "build", files(A, serial=WHEN, kinds=("container", "vm")))
    (site.base / "one.tar.xz").write_bytes(unified(A))
    with daemons.running(name, site.base / "no-ca.crt") as daemon:
        for alias, root in (("box", "rootfs.squashfs"), ("vm", "disk.qcow2")):
            daemon("image", "import", str(made / "incus.tar.xz"), str(made / root), f"--alias={alias}")
        daemon("image", "import", str(site.base / "one.tar.xz"), "--alias=one")
        for alias in ("box", "vm", "one"):
            arguments = ("import", f"--from={name}:{alias}", f"--as=tiny/1/amd64/{alias}")
            dry = site.doit(*arguments, "--dry-run", env=daemon.env)
            assert dry.code == 0, dry.out + dry.err
            assert f"tiny/1/amd64/{alias}/{WHEN}: would be taken" in dry.out
            done = site.doit(*arguments, env=daemon.env)
            assert done.code == 0, done.out + done.err
        there = set(daemon.images())
        none = site.doit("import", f"--from={name}:none", env=daemon.env)
        assert none.code == 2
        assert (
            f"ERROR: {name}:none cannot be exported: {daemons.DAEMONS[name][0]} ended with code 1" in none.out
        )
        assert "Traceback" not in none.out + none.err
    assert {one["fingerprint"] for one in json.loads(incus_simplestreams(site.latest, "list"))} == there
    assert not list((site.root / "site/staging").iterdir())


def test_nothing_but_plain_files_is_opened(tmp_path: Path) -> None:
    """Whatever stood there when it was listed: its owner may put a link in its place."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("SECRET")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/alias").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    source = Foreign(tmp_path)
    assert source.read("real/file", 6) == b"SECRET"
    for path in ("real/alias", "link/file", "pipe", "real"):
        with pytest.raises(UpstreamError):
            source.read(path, 99)
    for path in ("link", "real/file"):
        with pytest.raises(UpstreamError):
            source.sorts(path)
    with pytest.raises(ValueError, match="longer than"):
        source.read("real/file", 5)


@pytest.mark.parametrize("name", ["aaa/1/amd64/default", A])
def test_a_twin_of_a_published_image_is_not_placed(site: Site, name: str) -> None:
    """Incus copies no image whose fingerprint is listed twice; a dry run says it too."""
    content = files(A, serial=WHEN, kinds=("container",))
    took(site, put(site.base / "one", content), "--serial=20250302_03:04")
    arguments = (site.base / "one", f"--as={name}", "--serial=20250401_00:00")
    owner = "20250302_03:04" if name == A else f"{A}/20250302_03:04"
    for option in ("--dry-run", "--serial=20250401_00:00"):
        said = took(site, *arguments, option)
        assert f"{name}/20250401_00:00: 20250401_00:00 has the content of {owner}: nothing new" in said
        assert "1 image found, 1 left" in said
    assert not (site.root / f"site/public/images/{name}/20250401_00:00").exists()
    assert listed(site) == {A.replace("/", ":"): {"20250302_03:04"}}
    assert site.doit("retire", A).code == 0
    assert "would be taken" in took(site, *arguments, "--dry-run") or name == A


def test_two_images_of_one_content_in_one_tree_are_one(site: Site) -> None:
    base = site.base / "old"
    content = files(A, serial=WHEN, kinds=("container",))
    for product in (A, "tiny/2/amd64/default"):
        put(base / "images" / product / WHEN, content)
    for option in ("--dry-run", "--serial="):
        assert f"has the content of {A}/{WHEN}: nothing new" in took(site, base, option)


def test_an_import_that_ends_in_quarantine_fails(site: Site) -> None:
    rule = '[[rules]]\nmatch = "{}"\naliases = ["shared/1"]\n'
    text = site.config.read_text()
    site.config.write_text(text + rule.format(A))
    took(site, tree(site.base / "one", A, WHEN), f"--as={A}")
    site.config.write_text(text + rule.format(A) + rule.format("tiny/2"))
    said = took(site, tree(site.base / "two", "tiny/2/amd64/default", WHEN), code=1)
    assert "import      tiny/2/amd64/default: in quarantine: the alias 'shared/1" in said
    assert "; 1 in quarantine, named above" in said
    assert listed(site).keys() == {A.replace("/", ":")}


def test_where_nothing_is_shown_nothing_is_called_exposed(site: Site) -> None:
    base = site.base / "old"
    (tree(base, A, WHEN) / "root.squashfs").write_bytes(b"not one")
    said = refuses(site, base)
    assert "nothing new; latest shows nothing; 1 image refused, named above" in said


def test_the_demo_takes_images_too(tmp_path: Path) -> None:
    """Also before its first publication, which makes its key."""
    clone = tmp_path / "clone"
    for name in ("tasks", "jenkins"):
        shutil.copytree(CHECKOUT / name, clone / name)
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, clone)
    put(tmp_path / "build", files(A, serial=WHEN))
    environment = {key: value for key, value in os.environ.items() if key != "PUBLISH_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-m", "doit", "import", f"--from={tmp_path / 'build'}"],
        cwd=clone, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / f".demo/mirror/images/{A}/{WHEN}/incus.tar.xz").exists()


@pytest.fixture
def reference(tmp_path: Path, server: Standin, key: Key) -> Path:
    """A tree as images.linuxcontainers.org keeps one, with its old habits and signatures of the same key."""
    before = Site(tmp_path / "before", server, key, jenkins="log = true")
    before.base.mkdir()
    matrix(server.ci, A, B)
    for number in range(2):
        payload = b"".join(hashlib.sha256(bytes([n % 250, n // 250])).digest() for n in range(9000))
        build(server.ci, A, B, content={A: files(A, payload=payload + bytes([number]) * 99)})
        before.publish()
    root = tmp_path / "reference"
    shutil.copytree(before.latest / "images", root / "images")
    for sums in root.rglob("SHA256SUMS"):
        lines = sums.read_text().replace("  incus.tar.xz", "  lxd.tar.xz").splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if "source.json" not in line))
        for name in ("source.json", "source.json.asc"):
            (sums.parent / name).unlink()
        pair = [(sums.parent / name).read_bytes() for name in ("incus.tar.xz", "rootfs.squashfs")]
        mark = hashlib.sha256(b"".join(pair)).hexdigest()
        (sums.parent / ".combined_fingerprint_squashfs").write_text(f"{mark}\n")
    half = root / "images" / A / "20260301_03:04"
    half.mkdir()
    for name in ("incus.tar.xz", "rootfs.squashfs"):
        shutil.copy(next((root / "images" / A).glob(f"*/{name}")), half)
    (root / ".serial").write_text("20260301-0304\n")
    (root / ".snap/20260301-0304").mkdir(parents=True)
    (root / "robots.txt").write_text("User-agent: *\n")
    (root / "meta/instance-types").mkdir(parents=True)
    (root / "meta/instance-types/all.yaml").write_text("{}\n")
    for path in root.rglob("*"):
        os.utime(path, (1735787040, 1735787040))
    return root


def marks(tree: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time."""
    found = {str(p.relative_to(tree)): p.stat() for p in tree.rglob("*") if p.is_file()}
    return {name: (seen.st_ino, seen.st_mtime_ns) for name, seen in found.items()}


def test_a_tree_of_the_reference_is_taken_over_without_a_copy(site: Site, reference: Path) -> None:
    program("xdelta3")
    serials = sorted(path.name for path in (reference / "images" / A).iterdir())[:2]
    bad = reference / f"images/{A}/{serials[1]}/meta.tar.xz.asc"
    bad.write_text("no signature")
    before = marks(reference)
    result = site.doit("import", f"--adopt={reference}")
    assert result.code == 1, result.out + result.err
    assert "20260301_03:04: rejected: it has no SHA256SUMS" in result.out
    assert "5 images found, 4 taken, 1 refused" in result.out
    assert marks(reference) == before
    after = marks(site.latest)
    image = f"images/{A}/{serials[1]}"
    names = {path.name for path in (site.latest / image).iterdir()}
    delta = f"delta-{serials[0]}.vcdiff"
    assert {
        delta,
        f"{delta}.asc",
        "build.log",
        "rootfs.squashfs.asc",
        "source.json.asc",
        "SHA256SUMS.asc",
    } <= names
    fresh = {"SHA256SUMS", "SHA256SUMS.asc", "source.json", "source.json.asc", "meta.tar.xz.asc"}
    for name in names - fresh:
        assert after[f"{image}/{name}"] == before[f"{image}/{name}"], name
    assert after[f"{image}/meta.tar.xz.asc"] != before[f"{image}/meta.tar.xz.asc"]
    assert not [name for name in after if "/.combined" in name or name.startswith(".")]
    for name in ("robots.txt", "meta/instance-types/all.yaml"):
        assert after[name] == before[name]
    assert site.doit("verify").code == 0
    assert site.publish().code == 0
    assert set(marks(site.latest)) >= set(after)
    assert listed(site)[A.replace("/", ":")] == set(serials)


def test_a_fingerprint_that_a_tree_remembers_is_checked(site: Site, reference: Path) -> None:
    serials = sorted(path.name for path in (reference / "images" / A).iterdir())
    (reference / f"images/{A}/{serials[0]}/.combined_fingerprint_squashfs").write_text("0" * 64)
    for option in ("from", "adopt"):
        result = site.doit("import", f"--{option}={reference}", "--dry-run")
        assert result.code == 1
        assert (
            f"{serials[0]}: rejected: rootfs.squashfs with incus.tar.xz has another fingerprint" in result.out
        )


def test_nothing_is_taken_over_that_another_user_may_change(site: Site) -> None:
    """Nor does it stop the others; a dry run says it too."""
    need_root()
    base = site.base / "old"
    for product in (A, B):
        tree(base, product, WHEN)
    (base / "robots.txt").write_text("x")
    for path in (base / "images" / A / WHEN / "root.squashfs", base / "robots.txt"):
        os.chown(path, 65534, 65534)
    for option in ("--dry-run", "--serial="):
        said = adopted(site, base, option, code=1)
        assert f"{A}/{WHEN}: rejected: images/{A}/{WHEN}/root.squashfs: it belongs to another user" in said
        assert "2 images found, 1 taken, 1 refused" in said
        assert f"{base}/robots.txt: left: it belongs to another user: chown it, or use --from" in said
    assert listed(site).keys() == {B.replace("/", ":")}


def adopted(site: Site, source: Path, *options: str, code: int = 0) -> str:
    result = site.doit("import", f"--adopt={source}", *options)
    assert result.code == code, f"exit {result.code}\n{result.out}\n{result.err}"
    assert "Traceback" not in result.out + result.err
    return result.out + result.err


def modes(top: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mode for path in top.rglob("*")}


def test_only_what_everybody_may_read_is_taken_over_beside_the_images(site: Site) -> None:
    """Nothing of the old tree is changed, and what no web server showed is not shown now."""
    base = site.base / "old"
    root = tree(base, A, WHEN) / "root.squashfs"
    root.chmod(0o600)
    texts = {
        "robots.txt": 0o644, "id_rsa": 0o600, "shared.html": 0o664, "private/note.txt": 0o644,
        ".well-known/x": 0o644, "sub/.htpasswd": 0o644, "sub/open.txt": 0o644, "new\nline": 0o644,
        "protocols/x": 0o644,
    }  # fmt: skip
    for name, mode in texts.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(name)
        (base / name).chmod(mode)
    (base / "private").chmod(0o750)
    os.mkfifo(base / "sub/pipe")
    (base / "sub/link").symlink_to("/etc/passwd")
    (base / "lost+found").mkdir(0o700)
    before = modes(base)
    dry = adopted(site, base, "--dry-run")
    for name in ("robots.txt", "shared.html", "sub/open.txt", "'new\\nline'"):
        assert f"import      {name}: would be kept\n" in dry
    assert not (site.root / "site").exists()
    said = adopted(site, base)
    for name in ("id_rsa", "private"):
        assert f"{base / name}: left: it is not for everybody\n" in said
    assert "sub/link: left: it is a symbolic link" in said
    assert "sub/pipe: left: it is a special file" in said
    assert "lost+found" not in said
    assert modes(base) == before
    shown = {str(path.relative_to(site.latest.resolve())) for path in site.latest.resolve().rglob("*")}
    beside = {"robots.txt", "shared.html", "sub", "sub/open.txt", "new\nline"}
    assert beside <= shown
    assert not [
        name for name in shown if "rsa" in name or "protocols" in name or "private" in name or "/." in name
    ]
    assert {one for one in shown if one.startswith("sub")} == {"sub", "sub/open.txt"}
    copied, linked = site.latest / "shared.html", site.latest / "robots.txt"
    assert (linked.stat().st_ino, linked.stat().st_mode) == ((base / "robots.txt").stat().st_ino, 0o100644)
    assert (copied.read_text(), copied.stat().st_mode) == ("shared.html", 0o100644)
    assert copied.stat().st_mtime_ns == (base / "shared.html").stat().st_mtime_ns
    image = site.latest / "images" / A / WHEN / "rootfs.squashfs"
    assert (image.stat().st_mode, image.stat().st_ino == root.stat().st_ino) == (0o100644, False)
    assert image.stat().st_mtime_ns == root.stat().st_mtime_ns
    assert site.doit("verify").code == 0


def test_many_files_beside_the_images_are_counted(site: Site) -> None:
    base = site.base / "old"
    tree(base, A, WHEN)
    for number in range(23):
        (base / f"{number:02d}.txt").write_text("x")
    said = adopted(site, base, "--dry-run")
    assert "19.txt: would be kept" in said
    assert "20.txt" not in said
    assert "and 3 files more beside the images\n" in said


@pytest.mark.parametrize("damage", ["image", "place"])
def test_without_an_image_nothing_beside_one_is_taken_over(site: Site, damage: str) -> None:
    """Nor where images lie in the top directory itself: there all of it is images."""
    base = site.base / "old"
    directory = tree(base, A, WHEN)
    (base / "robots.txt").write_text("x")
    if damage == "image":
        (directory / "root.squashfs").write_bytes(b"not one")
    else:
        (base / "images/tiny").rename(base / "tiny")
        (base / "images").rmdir()
    assert "robots.txt" not in adopted(site, base, code=1 if damage == "image" else 0)
    assert not (site.root / "site/public/robots.txt").exists()
    assert not (site.root / "site/public/tiny").exists()
