"""The samples are what they claim to be, by the tools that clients use to open them."""

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from tools import need, program

from jenkins.samples import (
    artifacts,
    meta_tarball,
    metadata_tarball,
    qcow2,
    squashfs,
    tar_xz,
    unified_tarball,
)
from jenkins.xz import xz

TINY = {"os": "tiny", "release": "1", "arch": "amd64", "variant": "default"}
BUILD = {**TINY, "serial": "20260101_07:42"}
CREATED = 1767253320
NAME = "tiny-1-amd64-default-20260101_07:42.tar.xz"  # of a unified image, as distrobuilder names it
EVERYTHING = {"kinds": ("container", "vm", "lxc", "unified", "unified-vm"), "lxd": "differs"}
NOISE = hashlib.shake_256(b"noise").digest(200_000)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def unpack(tarball):
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:xz") as tar:
        return {member.name: tar.extractfile(member).read() if member.isfile() else None for member in tar}


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def metadata(tarball):
    return yaml.safe_load(unpack(tarball)["metadata.yaml"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "incus.tar.xz rootfs.squashfs rootfs.tar.xz meta.tar.xz"),
        ({"kinds": ["container"]}, "incus.tar.xz rootfs.squashfs"),
        ({"kinds": ["container"], "tar_root": True}, "incus.tar.xz rootfs.squashfs rootfs.tar.xz"),
        ({"kinds": [], "tar_root": True}, "incus.tar.xz rootfs.tar.xz"),
        ({"kinds": ["lxc"]}, "rootfs.tar.xz meta.tar.xz"),
        ({"kinds": ["vm"]}, "incus.tar.xz disk.qcow2"),
        ({"kinds": ["vm"], "lxd": "only"}, "lxd.tar.xz disk.qcow2"),
        ({"kinds": ["vm"], "lxd": "same"}, "incus.tar.xz lxd.tar.xz disk.qcow2"),
        ({"kinds": ["lxc"], "lxd": "same"}, "rootfs.tar.xz meta.tar.xz"),
        ({"kinds": ["unified"]}, NAME),
        ({"kinds": ["unified"], "lxd": "only"}, f"lxd-{NAME}"),
        ({"kinds": ["unified"], "lxd": "differs"}, f"{NAME} lxd-{NAME}"),
        ({"kinds": ["unified-vm"], "lxd": "differs"}, f"vm-{NAME}"),
    ],
)
def test_a_build_has_the_files_of_its_kinds(options, names):
    assert set(artifacts(**BUILD, **options)) == {"serial", "image.yaml", *names.split()}
    assert "image.yaml" not in artifacts(**BUILD, **options, image_yaml=False)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no such kind of image: disk, iso"):
        artifacts(**BUILD, kinds=["vm", "iso", "disk"])


def test_the_same_arguments_give_the_same_bytes_anywhere(tmp_path):
    script = (
        "import hashlib, json; from jenkins.samples import artifacts; "
        f"files = artifacts(**{BUILD | EVERYTHING!r}, payload=b'x' * 999); "
        "print(json.dumps({n: hashlib.sha256(c).hexdigest() for n, c in files.items()}))"
    )
    top = str(Path(__file__).parent.parent)
    elsewhere = {"PYTHONPATH": top, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-c", script]
    there = subprocess.run(command, check=True, capture_output=True, env=os.environ | elsewhere, cwd=tmp_path)
    here = artifacts(**BUILD, **EVERYTHING, payload=b"x" * 999)
    assert json.loads(there.stdout) == {
        name: hashlib.sha256(content).hexdigest() for name, content in here.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        {"serial": "20260102_07:42"},
        {"os": "small"},
        {"release": "2"},
        {"arch": "arm64"},
        {"variant": "cloud"},
    ],
    ids=str,
)
def test_no_two_builds_share_what_a_fingerprint_is_made_of(change):
    one = artifacts(**BUILD, **EVERYTHING)
    other = artifacts(**BUILD | change, **EVERYTHING)
    names = {"incus.tar.xz", "lxd.tar.xz", "rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2"}
    assert not [name for name in names if one[name] == other[name]]
    assert not {one[name] for name in (NAME, f"lxd-{NAME}", f"vm-{NAME}")} & {*other.values()}


def test_the_payload_makes_every_root_larger():
    without = artifacts(**BUILD, **EVERYTHING)
    larger = artifacts(**BUILD, **EVERYTHING, payload=NOISE)
    grown = {name for name in larger if len(larger[name]) >= len(without[name]) + len(NOISE) - 8192}
    unified = {NAME, f"lxd-{NAME}", f"vm-{NAME}"}
    assert grown == {"rootfs.squashfs", "rootfs.tar.xz", "disk.qcow2", *unified}


def test_the_serial_is_a_line_of_text():
    assert artifacts(**BUILD)["serial"] == b"20260101_07:42\n"


def test_metadata_says_what_the_image_is():
    tarball = artifacts(**BUILD)["incus.tar.xz"]
    assert list(unpack(tarball)) == ["metadata.yaml", "templates", "templates/hostname.tpl"]
    assert metadata(tarball) == {
        "architecture": "x86_64",
        "creation_date": CREATED,
        "properties": {
            "architecture": "amd64",
            "description": "Tiny 1 amd64 (20260101_07:42)",
            "name": "tiny-1-amd64-default-20260101_07:42",
            "os": "tiny",
            "release": "1",
            "serial": "20260101_07:42",
            "variant": "default",
        },
        "templates": {
            "/etc/hostname": {
                "when": ["create", "copy"],
                "create_only": False,
                "template": "hostname.tpl",
                "properties": {},
            }
        },
    }


def test_properties_are_strings_whatever_they_look_like():
    odd = {"os": "no", "release": "14.40", "arch": "riscv64", "variant": 'a"b: c', "serial": ""}
    properties = metadata(metadata_tarball(**odd | {"serial": "20260101_00:00"}))["properties"]
    assert {type(value) for value in properties.values()} == {str}
    assert (properties["release"], properties["variant"]) == ("14.40", 'a"b: c')


def test_metadata_can_be_spoilt():
    spoilt = metadata(metadata_tarball(**BUILD, architecture="vax", creation_date=None))
    assert spoilt["architecture"] == "vax"
    assert "creation_date" not in spoilt


def test_the_metadata_for_lxd_is_equal_or_not_as_asked():
    same = artifacts(**BUILD, lxd="same")
    assert same["lxd.tar.xz"] == same["incus.tar.xz"]
    differs = artifacts(**BUILD, lxd="differs")
    incus, lxd = metadata(differs["incus.tar.xz"]), metadata(differs["lxd.tar.xz"])
    assert lxd == incus | {"creation_date": CREATED + 60}


def test_a_unified_image_is_its_metadata_and_its_root_in_one():
    """The layout of doc/reference/image_format.md of lxc/incus; two daemons' files differ in a minute."""
    files = artifacts(**BUILD, **EVERYTHING, payload=b"more")
    box, other, vm = (unpack(files[name]) for name in (NAME, f"lxd-{NAME}", f"vm-{NAME}"))
    root = unpack(files["rootfs.tar.xz"])
    assert {name.removeprefix("rootfs/"): body for name, body in box.items() if "rootfs/" in name} == root
    assert [name for name in vm if "rootfs" in name] == ["rootfs.img"]
    assert vm["rootfs.img"] == files["disk.qcow2"]
    for unified in (box, vm):
        assert unpack(files["incus.tar.xz"]).items() <= unified.items()
    assert unpack(files["lxd.tar.xz"]).items() <= other.items()
    assert artifacts(**BUILD, kinds=["unified"])[NAME] == unified_tarball(**BUILD)
    assert artifacts(**BUILD, kinds=["unified"], lxd="same")[f"lxd-{NAME}"] == unified_tarball(**BUILD)


def test_image_yaml_is_a_definition_of_the_image():
    definition = yaml.safe_load(artifacts(**BUILD)["image.yaml"])
    assert definition["image"]["release"] == "1"
    assert definition["image"]["serial"] == "20260101_07:42"


def test_lxc_finds_what_it_configures_a_container_from():
    entries = unpack(artifacts(**BUILD)["meta.tar.xz"])
    names = ["config", "config-user", "create-message", "expiry", "excludes-user", "templates"]
    assert list(entries) == names
    assert b"\nlxc.arch = x86_64\n" in entries["config"]
    assert int(entries["expiry"]) == CREATED + 30 * 86400
    less = meta_tarball(arch="amd64", serial="20260101_07:42", omit=["config", "config-user"])
    assert list(unpack(less)) == names[2:]


def test_the_root_of_lxc_belongs_to_root_and_has_the_time_of_the_build():
    tarball = artifacts(**BUILD, payload=b"more")["rootfs.tar.xz"]
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:xz") as tar:
        members = {member.name: member for member in tar}
        assert tar.extractfile("etc/serial").read() == b"20260101_07:42\n"
        assert tar.extractfile("usr/share/payload").read() == b"more"
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members.values()} == {(0, 0, "root", CREATED)}
    modes = {name: oct(members[name].mode) for name in ("dev", "sbin/init", "etc/serial")}
    assert modes == {"dev": "0o755", "sbin/init": "0o755", "etc/serial": "0o644"}


def test_a_tarball_has_the_names_it_was_given_even_bad_ones():
    names = ["../evil", "/etc/passwd", "b", "a", "./metadata.yaml", "é", "n" * 200]
    assert list(unpack(tar_xz(dict.fromkeys(names, b"")))) == names


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 200, 65535, 65536, 65537, 200_000])
def test_liblzma_reads_what_xz_stores(size):
    assert lzma.decompress(xz(NOISE[:size])) == NOISE[:size]


def test_xz_and_tar_accept_the_tarballs(tmp_path):
    need("xz", "tar")
    for name, content in artifacts(**BUILD, **EVERYTHING, payload=NOISE).items():
        if name.endswith(".tar.xz"):
            (tmp_path / name).write_bytes(content)
            run("xz", "--test", tmp_path / name)
            assert run("tar", "-tJf", tmp_path / name)


TREES = {
    "nothing": {},
    "a file in folders not named": {"a/b/c/d": b"x"},
    "no bytes": {"empty": b""},
    "files around the block size": {f"{n}": NOISE[:n] for n in (131071, 131072, 131073)},
    "a folder of more than one header": {f"many/{n:03}": b"%d" % n for n in range(300)},
    "inodes in more than one block": {f"{n % 9}/{n}": NOISE[: n * 7] for n in range(500)},
    "names that sort around a slash": {"a/b": b"1", "a-b": b"2", "a b/c": b"3", "é": b"4"},
}


@pytest.mark.parametrize("entries", TREES.values(), ids=TREES)
def test_unsquashfs_unpacks_what_was_put_in(entries, tmp_path):
    image, folder = tmp_path / "image", tmp_path / "folder"
    image.write_bytes(squashfs(entries))
    run(program("unsquashfs"), "-quiet", "-no-progress", "-dest", folder, image)
    parents = {str(parent) for path in entries for parent in Path(path).parents} - {"."}
    assert tree(folder) == dict.fromkeys(parents) | entries


def test_both_roots_are_one_tree_of_root_and_of_the_builds_time(tmp_path):
    files = artifacts(**BUILD, payload=NOISE)
    tool, image, folder = program("unsquashfs"), tmp_path / "rootfs.squashfs", tmp_path / "folder"
    image.write_bytes(files["rootfs.squashfs"])
    run(tool, "-quiet", "-no-progress", "-dest", folder, image)
    assert tree(folder) == unpack(files["rootfs.tar.xz"])
    assert os.access(folder / "sbin/init", os.X_OK)
    assert {path.stat().st_mtime for path in folder.rglob("*")} == {CREATED}
    listing = run(tool, "-lln", image).splitlines()
    assert {line.split()[1] for line in listing if line.startswith(("d", "-"))} == {"0/0"}
    assert "SQUASHFS 4:0 superblock" in run(tool, "-stat", image)


@pytest.mark.parametrize(
    ("used", "size"),
    [(0, 1 << 20), (1, 512), (1 << 20, 1 << 20), (3 << 20, 5 << 20), (17 << 20, 18 << 20)],
)
def test_qemu_reads_back_what_was_put_in(used, size, tmp_path):
    tool, disk, raw = program("qemu-img"), tmp_path / "disk", tmp_path / "raw"
    content = (NOISE * 100)[:used]
    disk.write_bytes(qcow2(content, size))
    faults = json.loads(run(tool, "check", "--output=json", disk))
    assert not {"leaks", "corruptions"} & set(faults)
    run(tool, "convert", "-O", "raw", disk, raw)
    assert raw.read_bytes() == content + bytes(size - used)


def test_the_disk_of_a_build_is_clean_and_names_it(tmp_path):
    tool, disk = program("qemu-img"), tmp_path / "disk.qcow2"
    disk.write_bytes(artifacts(**BUILD, kinds=["vm"], payload=b"more")["disk.qcow2"])
    run(tool, "check", disk)
    described = json.loads(run(tool, "info", "--output=json", disk))
    assert (described["format"], described["virtual-size"]) == ("qcow2", 1 << 20)
    assert not described["format-specific"]["data"]["corrupt"]
    assert b"Tiny 1 amd64 (20260101_07:42) default\nmore" in disk.read_bytes()


@pytest.mark.parametrize(("used", "size"), [(513, 512), (0, 1000)])
def test_a_disk_that_cannot_be_is_refused(used, size):
    with pytest.raises(ValueError, match="no disk of"):
        qcow2(bytes(used), size)
