"""Lists for some clients: what is in them, and that all that knows images.json knows them too."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sites import Site, build, files, matrix
from test_streams import CONTAINER, EVERYTHING, VM, image, images_of, serial
from test_streams import image as an_image
from tools import need

from tasks.image import DISK, INCUS, LXD, SQUASHFS, UNIFIED, UNIFIED_VM
from tasks.proof import prove_tree
from tasks.schema import Fault
from tasks.settings import Rule
from tasks.sign import Sequoia
from tasks.streams import for_clients, images_json, index_json, items, text
from tasks.tree import put_streams

A, B, C = "alpine/3/amd64/default", "debian/12/amd64/default", "nixos/25/amd64/default"
KEYS = [one.replace("/", ":") for one in (A, B, C)]
FORMS = [
    f"{name}.{form}" for name in ("images", "index") for form in ("json", "json.gpg", "json.gz", "sjson")
]
RULES = '[[rules]]\nmatch = "nixos"\nclients = ["incus"]\n'
LISTS = """
[[list]]
name   = "lxd"
client = "lxd"
agent  = "^LXD "
[[list]]
name   = "few"
client = "lxd"
match  = ["debian", "nixos"]
[[list]]
name   = "empty"
client = "lxd"
match  = []
"""
BOTH = ("streams/v1", "meta/simplestreams/v1")


# What is in a list


def products(*names: str, rules: tuple[Rule, ...] = (), **options: Any) -> dict[str, Any]:
    images = images_of(dict.fromkeys(names or (A, B, C), EVERYTHING))
    return images_json(images, rules, **options)["products"]


def test_a_list_has_the_metadata_of_its_client_alone() -> None:
    one = an_image(files=(INCUS, LXD, DISK))
    for client in ("incus", "lxd"):
        (product,) = images_json([one], (), readers=(client,), match=("*",))["products"].values()
        (version,) = product["versions"].values()
        assert version["items"] == items(one, (client,))
        assert version["items"].keys() == {f"{client}.tar.xz", "disk.qcow2"}


def test_a_list_has_what_its_client_may_see_of_what_it_matches() -> None:
    rules = (Rule(match="nixos", clients=("incus",)), Rule(match="alpine", clients=()))
    assert products(rules=rules, readers=("lxd",), match=("*",)).keys() == {KEYS[1]}
    assert products(rules=rules, readers=("incus",), match=("*",)).keys() == {KEYS[1], KEYS[2]}
    assert products(rules=rules, readers=("incus",), match=("*/25", "alpine")).keys() == {KEYS[2]}
    assert products(readers=("lxd",), match=("*/*/*/default",)).keys() == {*KEYS}
    assert products(readers=("lxd",), match=()) == {}
    assert products(rules=rules).keys() == {*KEYS}, "images.json is for whoever gets no other"


def test_a_list_without_products() -> None:
    assert images_json([], (), match=()) == images_json([image()], (), readers=("lxd",), match=())
    assert index_json([])["index"]["images"]["products"] == []


def test_what_images_json_leaves_out_no_list_has() -> None:
    """A product of another name repeats a fingerprint; that the first is not in the list changes nothing."""
    first, twin = image(A, serial(1)), image(A, serial(2), like=serial(1))
    assert not images_json([first, twin], ())["products"].keys() - {KEYS[0]}
    other = image(B, serial(3), files=VM)
    found = images_json([first, twin, other], (), readers=("lxd",), match=("*",))["products"]
    assert list(found[KEYS[0]]["versions"]) == [serial(1)]


@pytest.mark.parametrize("client", ["incus", "lxd"])
def test_a_list_is_what_images_json_has_for_its_clients(client: str) -> None:
    kinds = [EVERYTHING, (LXD, DISK), (UNIFIED,), (UNIFIED_VM,), (INCUS, LXD, SQUASHFS, UNIFIED)]
    images = [image(f"os{at}/1/amd64/x", serial(at + 1), files) for at, files in enumerate([*kinds, *kinds])]
    rules = (Rule(match="os[0-4]", clients=("lxd",)), Rule(match="os3", clients=("incus", "lxd")))
    everything = images_json(images, rules)["products"]
    listed = images_json(images, rules, readers=(client,), match=("*",))["products"]
    assert for_clients(everything, (client,)) == listed
    assert 0 < len(listed) < len(everything)


# What is proven of a list


def prove(
    everything: dict[str, Any], listed: dict[str, Any], clients: tuple[str, ...] = ("lxd",)
) -> list[Fault]:
    """The faults of a tree with one list."""
    documents = {}
    for of, document in (("", everything), ("few/", listed)):
        documents[f"streams/v1/{of}images.json"] = text(document)
        documents[f"streams/v1/{of}index.json"] = text(index_json(document["products"]))
    sizes = {
        item["path"]: item["size"]
        for document in (everything, listed)
        for product in document["products"].values()
        for version in product["versions"].values()
        for item in version["items"].values()
    }
    return list(prove_tree(documents.get, sizes.get, [], lists={"few": clients}))


def test_a_list_is_read_as_its_client_reads_it() -> None:
    images = images_of({A: CONTAINER, B: CONTAINER})
    everything = images_json(images, ())
    listed = images_json(images, (), readers=("lxd",), match=("*",))
    assert prove(everything, listed) == []
    assert prove(everything, listed, ("incus", "lxd")) == [], "there is nothing for the other in it"
    listed = json.loads(text(listed))
    (version,) = listed["products"][KEYS[0]]["versions"].values()
    mark = version["items"]["lxd.tar.xz"].pop("combined_squashfs_sha256")
    (fault,) = prove(everything, listed)
    assert str(fault).endswith("lxd does not list it (in the list few)")
    assert (fault.product, [fault.serial]) == (KEYS[0], [*listed["products"][KEYS[0]]["versions"]])
    (other,) = listed["products"][KEYS[1]]["versions"].values()
    version["items"]["lxd.tar.xz"]["combined_squashfs_sha256"] = mark
    other["items"]["lxd.tar.xz"]["combined_squashfs_sha256"] = mark
    assert [fault.product for fault in prove(everything, listed)] == [KEYS[1]]
    listed["products"][KEYS[1]]["aliases"] = listed["products"][KEYS[0]]["aliases"]
    assert "the alias 'alpine/3' belongs to" in str(prove(everything, listed)[-1])


def test_what_is_wrong_in_both_is_said_once() -> None:
    images = images_of({A: CONTAINER, B: CONTAINER})
    rules = (Rule(match="*", aliases=("x/1",)),)
    everything = images_json(images, rules)
    listed = images_json(images, rules, readers=("lxd",), match=("*",))
    faults = prove(everything, listed)
    assert {fault.product for fault in faults} == {KEYS[1]}
    assert not [fault for fault in faults if "few" in fault.what]


def test_no_list_names_what_images_json_does_not() -> None:
    everything = images_json(images_of({A: CONTAINER}), ())
    listed = images_json(images_of({A: CONTAINER, B: CONTAINER}), (), readers=("lxd",), match=("*",))
    (fault,) = prove(everything, listed)
    assert str(fault).startswith(f"the list few names {KEYS[1]} ")
    (fault,) = prove(images_json(images_of({A: CONTAINER}, (serial(1),)), ()), listed)[:1]
    assert fault.product == "", "nobody is to blame, so nothing is exposed"


# Through the whole program


@pytest.fixture
def listed(site: Site) -> Site:
    matrix(site.ci, A, B, C)
    for product in (A, B, C):
        build(site.ci, product, content={product: files(product, kinds=("container", "vm", "lxc"))})
    site.more = RULES + LISTS
    site.publish()
    return site


def keys(tree: Path, name: str = "") -> list[str]:
    return sorted(json.loads((tree / "streams/v1" / name / "images.json").read_bytes())["products"])


def names(tree: Path) -> set[str]:
    found = {top: {path.name for path in (tree / top).iterdir() if path.is_dir()} for top in BOTH}
    assert found[BOTH[0]] == found[BOTH[1]]
    return found[BOTH[0]]


def streams(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for top in BOTH
        for path in (tree / top).rglob("*")
        if path.is_file()
    }


def test_each_list_in_all_its_forms(listed: Site) -> None:
    latest = listed.latest
    assert names(latest) == {"lxd", "few", "empty"}
    assert keys(latest) == KEYS
    assert [keys(latest, name) for name in ("lxd", "few", "empty")] == [KEYS[:2], KEYS[1:2], []]
    for name in ("lxd", "few", "empty"):
        index = listed.json(f"streams/v1/{name}/index.json")["index"]["images"]
        assert index["path"] == "streams/v1/images.json", "the web server chooses by User-Agent"
        assert index["products"] == keys(latest, name)
        assert b'"streams/v1/images.sjson"' in (latest / "streams/v1" / name / "index.sjson").read_bytes()
        assert sorted(path.name for path in (latest / "streams/v1" / name).iterdir()) == sorted(FORMS)
        for plain in ("images.json", "index.json"):
            path, twin = (latest / top / name / plain for top in BOTH)
            assert path.read_bytes() == twin.read_bytes()
            assert gzip.decompress(path.with_name(f"{plain}.gz").read_bytes()) == path.read_bytes()
    ftypes = {
        item["ftype"]
        for product in listed.json("streams/v1/lxd/images.json")["products"].values()
        for version in product["versions"].values()
        for item in version["items"].values()
    }
    assert "lxd.tar.xz" in ftypes
    assert "incus.tar.xz" not in ftypes
    result = listed.publish()
    assert result.executed == ["poll"]
    assert listed.doit("verify").code == 0, listed.doit("verify").out


def test_a_list_that_is_not_wanted_any_more_goes(listed: Site) -> None:
    before = streams(listed.latest)
    listed.more = RULES + LISTS.replace('"few"', '"less"')
    listed.configure()
    shutil.rmtree(listed.root / "site/public/streams/v1/few")  # as a run leaves it that was killed here
    result = listed.publish()
    assert "3 products, 2 in lxd, 1 in less, 0 in empty" in result.out
    assert names(listed.latest) == {"lxd", "less", "empty"}
    listed.more = RULES
    listed.configure()
    result = listed.publish()
    assert {"streams", "snapshot"} <= set(result.executed)
    assert names(listed.latest) == set()
    assert listed.publish().executed == ["poll"]
    (oldest, *_) = sorted((listed.root / "snapshots").iterdir())
    assert listed.doit("rollback", oldest.name).code == 0
    assert streams(listed.latest) == before, "byte for byte, with the lists that it had"
    listed.publish()
    assert streams(listed.latest) == before
    assert listed.doit("verify").code == 0
    assert listed.doit("rollback", "--release").code == 0
    listed.publish()
    assert names(listed.latest) == set()


def test_a_snapshot_without_lists_comes_back_without(listed: Site) -> None:
    (first,) = (listed.root / "snapshots").iterdir()
    listed.more = RULES
    listed.configure()
    listed.publish()
    bare = streams(listed.latest)
    (second,) = {*(listed.root / "snapshots").iterdir()} - {first}
    listed.more = RULES + LISTS
    listed.configure()
    listed.publish()
    assert names(listed.latest) == {"lxd", "few", "empty"}
    assert listed.doit("rollback", second.name).code == 0
    assert streams(listed.latest) == bare
    assert names(listed.latest) == set(), "not even empty directories"
    listed.publish()
    assert streams(listed.latest) == bare


def test_an_edited_list_fetches_nothing_and_is_seen(listed: Site) -> None:
    listed.more = RULES + LISTS.replace('["debian", "nixos"]', '["alpine", "ubunto"]')
    listed.configure()
    result = listed.publish("--allow-shrink")
    assert keys(listed.latest, "few") == KEYS[:1]
    assert not [step for step in result.executed if step.startswith("image:")]
    assert "the list few: no product matches 'ubunto'" in result.out


@pytest.mark.parametrize(
    ("before", "after", "who"),
    [
        ('["debian", "nixos"]', '["ubunto"]', "the list few"),
        (RULES, RULES + '[[rules]]\nmatch = "debian"\nclients = ["incus"]\n', "LXD"),
        (RULES, RULES + '[[rules]]\nmatch = "debian"\nclients = ["lxd"]\n', "Incus"),
        (RULES, RULES + '[[rules]]\nmatch = "debian"\nlxc = false\n', "LXC"),
    ],
)
def test_a_rule_that_hides_much_stops_unless_it_is_meant(listed: Site, before, after, who) -> None:
    latest = listed.latest.resolve()
    listed.more = (RULES + LISTS).replace(before, after)
    listed.configure()
    result = listed.publish(code=2)
    assert f"would be hidden from {who} ({B}" in result.out + result.err
    assert "--allow-shrink" in result.out + result.err
    assert listed.latest.resolve() == latest
    listed.publish("--allow-shrink")
    assert listed.latest.resolve() != latest
    assert listed.doit("verify").code == 0


def test_what_is_withdrawn_at_once_is_in_no_list_of_any_snapshot(listed: Site) -> None:
    build(listed.ci, B, content={B: files(B, kinds=("container", "vm", "lxc"))})
    listed.publish()
    old, new = sorted(listed.products()[KEYS[1]]["versions"])
    result = listed.doit("withdraw", "--now", f"{B}/{new}")
    assert result.code == 0, result.out
    trees = [listed.latest, *(path / "public" for path in (listed.root / "snapshots").iterdir())]
    for tree in trees:
        assert not [
            path for path, data in streams(tree).items() if new.encode() in data and path.endswith("json")
        ]
    assert list(listed.json("streams/v1/few/images.json")["products"][KEYS[1]]["versions"]) == [old]
    assert listed.doit("verify").code == 0


def test_a_product_in_quarantine_stays_in_each_list_as_it_was(listed: Site) -> None:
    before = {name: listed.json(f"streams/v1/{name}/images.json") for name in ("", "lxd", "few")}
    for product in (A, B):
        build(listed.ci, product)
    # alpine had it first: debian's newcomer is held, and whatever the lists, its entries are as they were
    listed.more = '[[rules]]\nmatch = "debian"\naliases = ["alpine/3"]\n' + RULES + LISTS
    listed.configure()
    result = listed.publish(code=1)
    assert (
        f"failed: {B}: in quarantine: the alias 'alpine/3/default' belongs to {KEYS[0]} already" in result.out
    )
    assert "(in the list" not in result.out
    for name, document in before.items():
        now = listed.json(f"streams/v1/{name}/images.json")["products"]
        assert now[KEYS[1]] == document["products"][KEYS[1]]
        if name != "few":
            assert len(now[KEYS[0]]["versions"]) == 2
    assert listed.doit("verify").code == 0
    listed.more = listed.more.replace('["debian", "nixos"]', '["nixos"]')
    listed.configure()
    listed.publish("--allow-shrink", code=1)
    assert keys(listed.latest, "few") == [], "what the list does not want it does not keep"
    listed.more = RULES + LISTS
    listed.configure()
    listed.publish()
    assert len(listed.json("streams/v1/few/images.json")["products"][KEYS[1]]["versions"]) == 2


def test_a_new_list_has_a_product_in_quarantine_as_it_is_exposed(listed: Site) -> None:
    for product in (A, B, C):
        build(listed.ci, product)
    rules = "".join(f'[[rules]]\nmatch = "{os}"\naliases = ["alpine/3"]\n' for os in ("debian", "nixos"))
    listed.more = rules + RULES + LISTS.replace('"lxd"', '"all"', 1)
    listed.configure()
    listed.publish(code=1)
    everything, new = (listed.json(f"streams/v1/{of}images.json")["products"] for of in ("", "all/"))
    assert new.keys() == {*KEYS[:2]}, "what Incus alone may see is not in it"
    (version,) = everything[KEYS[1]]["versions"].values()
    del version["items"]["incus.tar.xz"]
    assert new[KEYS[1]] == everything[KEYS[1]]
    assert len(new[KEYS[0]]["versions"]) == 2
    assert listed.doit("verify").code == 0


@pytest.mark.parametrize("top", BOTH)
@pytest.mark.parametrize("form", FORMS)
def test_verify_names_what_is_wrong_with_a_list(listed: Site, top: str, form: str) -> None:
    path = listed.latest / top / "few" / form
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    result = listed.doit("verify")
    assert result.code == 1
    assert f"{top}/few/" in result.out
    path.unlink()
    result = listed.doit("verify")
    assert result.code == 1
    assert [line for line in result.out.splitlines() if line.startswith(f"{top}/few/")]


def test_a_list_that_lost_a_file_stops_the_exposure(listed: Site) -> None:
    lost = listed.root / "site/public/meta/simplestreams/v1/few/images.json.gpg"
    lost.unlink()
    assert "streams" in listed.publish().executed
    assert lost.is_file(), "it was made again"
    stray = listed.root / "site/public/streams/v1/lxd/more.json"
    stray.write_text("{}")
    shown = listed.latest.resolve()
    build(listed.ci, A)
    result = listed.publish(code=2)
    assert "streams/v1/lxd/more.json has no signature" in result.out
    assert listed.latest.resolve() == shown


def test_verify_reads_a_list_as_its_clients_do(listed: Site) -> None:
    """Also what is signed well."""
    signer = Sequoia(listed.key.secret, "")
    document = listed.json("streams/v1/few/images.json")
    (version,) = document["products"][KEYS[1]]["versions"].values()
    version["items"]["root.squashfs"]["sha256"] = "0" * 64
    document["products"][KEYS[1]]["aliases"] += ",debian "
    put_streams(listed.latest, document, signer, "few")
    result = listed.doit("verify")
    first, second, last = result.out.splitlines()
    assert first.startswith(f"streams/v1/few/images.json: {KEYS[1]} ")
    assert "root.squashfs: names another sha256 than images/" in first
    assert second.startswith(f"{KEYS[1]}: aliases ")
    assert second.endswith("(in the list few)")
    assert last.endswith("2 faults, named above")


def test_the_delta_of_a_disk_is_in_a_list_that_incus_does_not_read(listed: Site) -> None:
    need("xdelta3")
    listed.more += "[deltas]\nvm = true\n"
    listed.configure()
    build(listed.ci, B, content={B: files(B, kinds=("container", "vm", "lxc"))})
    result = listed.publish()
    assert "delta of the disk from" in result.out

    def deltas(name: str) -> set[str]:
        versions = listed.json(f"streams/v1{name}/images.json")["products"][KEYS[1]]["versions"]
        found = (item["ftype"] for one in versions.values() for item in one["items"].values())
        return {ftype for ftype in found if ftype.startswith("disk") and ftype.endswith("vcdiff")}

    assert deltas("") == set()
    assert deltas("/lxd") == deltas("/few") == {"disk-kvm.img.vcdiff"}
    assert listed.doit("verify").code == 0


def test_a_mirror_has_the_lists_and_loses_them(listed: Site) -> None:
    listed.more += '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    listed.configure()
    listed.publish()
    assert streams(listed.mirror) == streams(listed.latest)
    assert names(listed.mirror) == {"lxd", "few", "empty"}
    listed.more = listed.more.replace(LISTS, "")
    listed.configure()
    listed.publish()
    assert names(listed.mirror) == set()
    assert streams(listed.mirror) == streams(listed.latest)


def test_the_old_names_of_lists_go_on_where_a_web_server_was_configured_for_them(site: Site) -> None:
    """As images.linuxcontainers.org has them: lists in dot files, and when the tree was published."""
    site.more, site.lines = LISTS + RULES, "compat = true"
    matrix(site.ci, A, B, C)
    build(site.ci, A)
    build(site.ci, B)
    site.publish()
    old = {f".images.{form}.{name}": f"{name}/images.{form}"
           for name in ("lxd", "few", "empty") for form in ("json", "json.gpg", "sjson")}  # fmt: skip

    def check() -> None:
        for top in BOTH:
            there = site.latest / top
            assert {path.name for path in there.glob(".*")} == old.keys()
            for name, of in old.items():
                assert (there / name).read_bytes() == (there / of).read_bytes()
        name = site.latest.readlink().parts[1]
        assert (site.latest / ".serial").read_text() == name.partition(".")[0] + "\n"
        assert site.doit("verify").code == 0

    check()
    before = site.tree()
    site.publish()
    assert site.tree() == before
    build(site.ci, A)
    site.publish()
    check()
    serial = min(path.name for path in (site.latest / "images" / A).iterdir())
    assert site.doit("withdraw", "--now", f"{A}/{serial}").code == 0
    check()
    for tree in (site.root / "snapshots").glob("*/public"):
        assert serial not in (tree / "streams/v1/.images.json.lxd").read_text()
    site.publish()
    for lines, more in (
        ("", LISTS + RULES),
        ("", ""),
        ("compat = true", ""),
    ):  # also by itself, without lists
        site.lines, site.more = lines, more
        site.configure()
        site.publish()
        hidden = [path.name for path in site.latest.rglob(".*") if path.is_file()]
        assert hidden == ([".serial"] if lines else [])
