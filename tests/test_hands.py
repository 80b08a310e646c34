"""The operator's hands: hold, block, retire, withdraw, rollback; what each does, says and leaves behind."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sites import Key, Site, build, files, matrix, passes, serial

from jenkins import standin
from jenkins.controller import Controller

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"


def filled(site: Site) -> Site:
    site.lines = 'grace = "0s"\nkeep = 3\n'
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, A, B, C)
    for _ in range(2):
        build(site.ci, A, B, C)
        site.publish()
    return site


@pytest.fixture
def three(site: Site) -> Site:
    """Three products, two images each, and a mirror."""
    return filled(site)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Site]:
    """The same for all who only try."""
    base = tmp_path_factory.mktemp("untouched")
    with standin.serve(Controller(base / "jenkins")) as server:
        yield filled(Site(base, server, key))


def serials(site: Site, product: str, tree: Path | None = None) -> list[str]:
    import json

    document = json.loads(((tree or site.latest) / "streams/v1/images.json").read_bytes())
    found = document["products"].get(product.replace("/", ":"))
    return sorted(found["versions"]) if found else []


def lxc(site: Site, product: str) -> list[str]:
    lines = (site.latest / "meta/1.0/index-system").read_text().splitlines()
    return [line.split(";")[4] for line in lines if line.startswith(product.replace("/", ";"))]


def said(site: Site, *command: str, code: int = 0) -> str:
    result = site.doit(*command)
    assert result.code == code, f"exit {result.code}\n{result.out}\n{result.err}"
    return result.out + result.err


def decided(site: Site) -> dict[str, list[dict[str, object]]]:
    return tomllib.loads((site.root / "decisions.toml").read_text())


def snapshot_names(site: Site) -> list[str]:
    return [line.split()[0] for line in said(site, "snapshots").splitlines()]


def test_a_held_product_stays_and_the_others_go_on(three: Site) -> None:
    before = serials(three, A)
    assert f"{A} is kept at {before[-1]}" in said(three, "hold", "--why=its boot loader", A)
    build(three.ci, A, B, C)
    three.server.requests.clear()
    result = three.publish()
    assert serials(three, A) == before
    assert len(serials(three, B)) == 3
    assert not [
        one for one in three.server.requests if "amd64,release=1" in str(one) and "/artifact/" in str(one)
    ]
    (word,) = decided(three)["hold"]
    assert (word["product"], word["serial"], word["why"]) == (A, before[-1], "its boot loader")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(word["when"]))
    assert "@" in str(word["who"])
    line = next(line for line in result.out.splitlines() if line.startswith("held: "))
    assert f"{A}: kept at {before[-1]} by {word['who']}" in line
    assert line.endswith(": its boot loader")
    assert three.publish().executed == ["poll"]
    said(three, "unhold", "--why=mended", A)
    three.publish()
    assert len(serials(three, A)) == 3
    assert "mended" in str(decided(three)["hold"][0]["released"])


def test_a_product_can_be_held_at_an_earlier_image(three: Site) -> None:
    old, new = serials(three, A)
    said(three, "hold", f"--serial={old}", A)
    three.publish()
    assert serials(three, A) == [old]
    assert lxc(three, A) == [old]
    said(three, "unhold", A)
    three.publish()
    assert serials(three, A) == [old, new]


def test_a_blocked_build_is_never_published(three: Site) -> None:
    old, new = serials(three, A)
    name = "image-tiny/architecture=amd64,release=1,variant=default #2"
    assert f"{A}/{new}" in said(three, "block", f"--build={name}", "--why=a bad kernel")
    three.publish()
    assert serials(three, A) == [old]
    assert len(serials(three, B)) == 2, "another configuration of the same number"
    for _ in range(2):
        three.publish()
    assert serials(three, A) == [old]
    build(three.ci, A, B, C)
    three.publish()
    assert len(serials(three, A)) == 2


def test_a_build_blocked_before_it_was_published_is_not_fetched(three: Site) -> None:
    build(three.ci, A, B, C)
    said(three, "block", "--build=image-tiny #3")
    result = three.publish()
    assert len(serials(three, A)) == 2
    assert "image" not in [one.split(":")[0] for one in result.executed]
    assert re.search(rf"held: {A}: build #3 is blocked by .*: no reason given", result.out), result.out
    said(three, "unhold", "--build=image-tiny #3")
    three.publish()
    assert len(serials(three, A)) == 3


def test_a_retired_product_ends(three: Site) -> None:
    said(three, "retire", "--why=end of life", A)
    build(three.ci, A, B, C)
    result = three.publish()
    assert serials(three, A) == []
    assert lxc(three, A) == []
    assert len(serials(three, B)) == 3
    assert "would vanish" not in result.out
    three.publish()
    assert not (three.root / f"site/public/images/{A}").exists(), "its files lapse as those of any image"
    assert three.publish().code == 0


def test_a_withdrawn_image_lapses_and_its_build_does_not_come_back(three: Site) -> None:
    old, new = serials(three, A)
    said(three, "withdraw", "--why=a secret inside", f"{A}/{new}")
    three.publish()
    assert serials(three, A) == [old]
    assert lxc(three, A) == [old]
    for _ in range(3):
        three.publish()
    assert not (three.root / f"site/public/images/{A}/{new}").exists()
    assert serials(three, A) == [old]


def places(site: Site, product: str, serial_: str) -> list[Path]:
    return [
        path for path in site.base.rglob(serial_) if path.parent.name == product.rsplit("/", maxsplit=1)[-1]
    ]


def mentions(site: Site, product: str, serial_: str) -> list[Path]:
    """Every index of any tree that names an image."""
    sought = f"images/{product}/{serial_}".encode()
    trees = [*site.root.glob("snapshots/*/public"), site.mirror, site.root / "site/public"]
    found = [path for tree in trees for top in ("streams", "meta") for path in (tree / top).rglob("*")]
    return [path for path in found if path.is_file() and path.suffix != ".gz" and sought in path.read_bytes()]


def test_withdrawn_at_once_it_is_nowhere(three: Site) -> None:
    three.lines = 'grace = "48h"\n'
    three.configure()
    old, new = serials(three, A)
    assert len(places(three, A, new)) > 2
    before = three.latest.resolve()
    out = said(three, "withdraw", "--now", "--why=a secret inside", f"{A}/{new}")
    assert out.splitlines()[-1].startswith("withdraw    nothing is left of it; latest shows 20")
    assert places(three, A, new) == []
    assert mentions(three, A, new) == []
    assert serials(three, A) == [old] == serials(three, A, three.mirror)
    assert three.latest.resolve() != before
    assert len(serials(three, B, before)) == 2, "the other products of an old snapshot stay"
    assert (decided(three)["withdraw"][0]["at_once"]) is True
    shown = three.latest.resolve()
    three.publish()
    assert three.latest.resolve() == shown, "nothing is left to do, and nothing comes back"
    assert places(three, A, new) == []


def test_withdrawn_at_once_says_where_it_failed_and_goes_on_later(three: Site) -> None:
    new = serials(three, A)[-1]
    three.more += '[[mirror]]\nname = "gone"\nurl = "rsync://127.0.0.1:1/images/"\nretries = 0\n'
    three.configure()
    out = said(three, "withdraw", "--now", f"{A}/{new}", code=1)
    assert re.search(r"mirror:gone +failed: rsync ended with code \d+", out)
    assert re.search(
        r"not everywhere \(latest shows 20.*\), see mirror:gone; the next publish tries again", out
    )
    assert places(three, A, new) == []
    three.publish(code=1)


def test_an_image_that_is_delisted_already_is_withdrawn_from_where_it_lies(three: Site) -> None:
    three.lines = 'keep = 1\ngrace = "48h"\n'
    three.configure()
    old, new = serials(three, A)
    three.publish()
    assert serials(three, A) == [new]
    assert places(three, A, old)
    said(three, "withdraw", "--now", f"{A}/{old}")
    assert places(three, A, old) == []
    assert mentions(three, A, old) == []
    assert serials(three, A) == [new]


def test_rollback_lists_again_what_was_listed(three: Site) -> None:
    first, second = snapshot_names(three)[1], snapshot_names(three)[0]
    then = (three.root / f"snapshots/{first}/public/streams/v1/images.json").read_bytes()
    old, new = serials(three, A)
    out = said(three, "rollback", "--why=it does not boot", first)
    assert f"pinned at {first}; it takes back image-tiny/architecture=amd64,release=1" in out
    assert (three.latest / "streams/v1/images.json").read_bytes() == then
    assert (three.mirror / "streams/v1/images.json").read_bytes() == then
    assert serials(three, A) == [old] == lxc(three, A)
    assert (three.latest / f"images/{A}/{new}/rootfs.squashfs").exists(), (
        "a client may hold the index of a moment ago"
    )
    shown = three.latest.resolve().parent.name
    assert shown not in (first, second)
    build(three.ci, A, B, C)
    result = three.publish()
    assert re.search(rf"pinned: at {first} by .*: it does not boot; doit rollback --release", result.out)
    assert serials(three, A) == [old]
    assert "pinned: at" in three.publish().out
    for command in ("status", "plan"):
        assert said(three, command).splitlines()[0].startswith(f"pinned: at {first} by")
    assert said(three, "status").count("pinned") == 1
    listed = said(three, "snapshots").splitlines()
    assert listed[0] == f"{shown}  3 products, 3 images, latest, at/{shown[:8]}/"
    assert listed[-1] == f"{first}  3 products, 3 images, pinned"
    said(three, "rollback", "--release")
    result = three.publish()
    assert "pinned" not in result.out
    assert len(serials(three, A)) == 3


def test_a_pin_ends_when_all_that_it_undid_is_blocked(three: Site) -> None:
    first = snapshot_names(three)[1]
    old, _ = serials(three, A)
    said(three, "rollback", first)
    build(three.ci, A, B, C)
    assert "pinned: at" in three.publish().out
    said(three, "block", "--build=image-tiny #2")
    result = three.publish()
    assert "pinned: at" not in result.out
    assert len(serials(three, A)) == 2
    assert serials(three, A)[0] == old
    assert "pinned" not in three.publish().out


def test_rollback_brings_back_files_that_were_pruned(three: Site) -> None:
    three.lines = 'keep = 1\ngrace = "0s"\n'
    three.more = '[snapshot]\nkeep = 9\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
    three.configure()
    first, (old, _) = snapshot_names(three)[-1], serials(three, A)
    three.publish()
    three.publish()
    assert not (three.latest / f"images/{A}/{old}").exists()
    three.server.requests.clear()
    said(three, "rollback", first)
    assert serials(three, A) == [old]
    for tree in (three.latest, three.mirror):
        assert (tree / f"images/{A}/{old}/rootfs.squashfs").exists()
        assert (tree / f"images/{A}/{old}/SHA256SUMS.asc").exists()
    assert not three.server.requests
    for _ in range(2):
        three.publish()
    assert serials(three, A) == [old]


def test_what_is_withdrawn_leaves_a_pinned_list_too(three: Site) -> None:
    first = snapshot_names(three)[1]
    said(three, "rollback", first)
    (old,) = serials(three, A)
    said(three, "withdraw", "--now", f"{A}/{old}")
    assert serials(three, A) == [] == lxc(three, A)
    assert places(three, A, old) == []
    assert len(serials(three, B)) == 1


@pytest.mark.parametrize("how", ["block", "withdraw"])
def test_what_was_refused_does_not_come_back_with_an_earlier_snapshot(three: Site, how: str) -> None:
    """Also when the tree has forgotten it."""
    three.lines = 'keep = 1\ngrace = "0s"\n'
    three.more = "[snapshot]\nkeep = 9\n"
    three.configure()
    first, (old, _) = snapshot_names(three)[-1], serials(three, A)
    for _ in range(2):
        three.publish()
    assert not (three.root / f"site/public/images/{A}/{old}").exists()
    blocked = "--build=image-tiny/architecture=amd64,release=1,variant=default #1"
    said(three, how, blocked if how == "block" else f"{A}/{old}")
    said(three, "rollback", first)
    assert serials(three, A) == [] == lxc(three, A)
    assert len(serials(three, B)) == 1
    assert not (three.latest / f"images/{A}/{old}").exists()


def test_a_pinned_snapshot_is_not_pruned_and_its_levels_stay(three: Site) -> None:
    pruning = '[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
    three.more = f"[lxc]\nlevels = [1, 4]\n{three.more}"
    three.configure()
    three.publish()
    first = snapshot_names(three)[0]
    said(three, "rollback", first)
    three.more = f"[lxc]\nlevels = [1, 2, 3]\n{pruning}"
    three.configure()
    three.publish()
    assert "ERROR" not in three.publish().out
    assert first in snapshot_names(three)
    assert (three.latest / "meta/1.0/index-system.4").exists()
    assert not (three.latest / "meta/1.0/index-system.2").exists()
    said(three, "rollback", "--release")
    three.publish()
    assert not (three.latest / "meta/1.0/index-system.4").exists()
    assert (three.latest / "meta/1.0/index-system.2").exists()
    three.publish()
    assert first not in snapshot_names(three)


def test_decisions_outlive_the_state_and_keep_the_comments_of_people(three: Site) -> None:
    import shutil

    before = serials(three, A)
    said(three, "hold", A)
    path = three.root / "decisions.toml"
    path.write_text("# ask Stéphane before letting go\n" + path.read_text())
    said(three, "hold", B)
    assert path.read_text().startswith("# ask Stéphane before letting go\n")
    shutil.rmtree(three.root / "state")
    build(three.ci, A, B, C)
    three.server.requests.clear()
    three.publish()
    assert serials(three, A) == before
    assert len(serials(three, C)) == 3
    fetched = [str(one) for one in three.server.requests if "/artifact/" in str(one)]
    assert not [one for one in fetched if "release=1" in one], "nothing is fetched for what is held"
    assert fetched


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["hold"], "doit hold: name the product, os/release/arch/variant"),
        (["hold", "tiny/1"], "'tiny/1' is not os/release/arch/variant"),
        (["hold", A, "--why=x"], "doit hold: --why=x: options come before names"),
        (["hold", "tiny/9/amd64/default"], "tiny/9/amd64/default is not published; near are tiny/"),
        (["hold", "--serial=20200101_00:00", A], f"{A} has no image 20200101_00:00; there are 2026"),
        (["unhold", A], f"{A}: nothing was decided of it; decided is on nothing"),
        (["hold", "--why=a\nb", A], "--why='a\\nb': one line of plain text"),
        (["unhold"], "doit unhold: name a product, an image or --build="),
        (["block"], "--build: '' is no build; write it as reports do, JOB/CONFIGURATION #N or JOB #N"),
        (["block", "--build=image-tiny"], "--build: 'image-tiny' is no build"),
        (["retire", "../../../etc"], "'..' cannot be part of a product's name"),
        (["retire", "tiny/1/amd64/other"], "tiny/1/amd64/other is not known; near are tiny/1/amd64/default"),
        (["withdraw", A], f"'{A}' is not os/release/arch/variant/serial"),
        (["withdraw", "--now", "x"], "'x' is not os/release/arch/variant/serial"),
        (["withdraw", f"{A}/20200101_00:00"], f"there is no image {A}/20200101_00:00; there are 2026"),
        (["withdraw", "--now", f"{A}/../../.."], "is not os/release/arch/variant"),
        (["rollback"], "doit rollback: name one snapshot (doit snapshots lists them), or --release"),
        (["rollback", "20200101-0000.0"], "there is no snapshot 20200101-0000.0; there are 20"),
        (["rollback", "../../etc"], "there is no snapshot ../../etc"),
        (["rollback", "--release"], "nothing is pinned"),
        (["rollback", "20200101-0000.0", "20200101-0000.1"], "doit rollback: name one snapshot"),
        (["rollback", "--release", "20200101-0000.0"], "doit rollback: name one snapshot"),
        (["hold", A, "tiny/9/amd64/default"], "tiny/9/amd64/default is not published"),
        (["retire", A, "tiny/9/amd64/default"], "tiny/9/amd64/default is not known"),
    ],
)
def test_bad_input_changes_nothing(untouched: Site, command: list[str], line: str) -> None:
    before = untouched.tree()
    out = said(untouched, *command, code=3)
    assert line in out
    assert "Traceback" not in out
    assert len(out.splitlines()) == 1
    assert untouched.tree() == before
    assert not (untouched.root / "decisions.toml").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[hold]]\n", "decisions.toml: hold[1].product: is missing"),
        ("[[hould]]\n", "decisions.toml: hould: unknown key; did you mean 'hold'?"),
        ("[", "decisions.toml: "),
        (
            '[[withdraw]]\nwho="a"\nwhen="b"\nproduct="a/b/c/d"\nbuild="x #1"\nserial="../.."\n',
            "serial '../..' is not YYYYMMDD_HH:MM",
        ),
        (
            '[[pin]]\nwho="a"\nwhen="b"\nsnapshot="../site"\n',
            "decisions.toml: pin[1]: '../site' is no snapshot",
        ),
        ('[[block]]\nwho="a"\nwhen="b"\nbuild="x"\n', "decisions.toml: block[1].build: 'x' is no build"),
    ],
)
def test_a_damaged_file_stops_every_command(untouched: Site, text: str, line: str) -> None:
    (untouched.root / "decisions.toml").write_text(text)
    for command in ("publish", "status"):
        out = said(untouched, command, code=3)
        assert line in out
        assert "Traceback" not in out
    (untouched.root / "decisions.toml").unlink()


@pytest.mark.parametrize("gated", [True, False])
def test_the_newest_build_that_is_not_blocked_is_taken(site: Site, gated: bool) -> None:
    """Also one that is older than the wish, and its serial older than a blocked image's."""
    if gated:
        site.jenkins = '[jenkins.gate]\njob = "test-image"\n'
    matrix(site.ci, A)
    first, second = files(A, serial=serial()), files(A, serial=serial())
    for content in (first, second):
        tested = build(site.ci, A, content={A: content})
        if gated:
            passes(site.ci, tested, site.server.url)
    site.publish()
    assert len(serials(site, A)) == 1
    said(site, "block", "--build=image-tiny #2")
    assert re.search(rf"held +{A} +build #2 is blocked by", said(site, "plan"))
    assert "made anew" not in site.publish().out
    assert serials(site, A)[0] == first["serial"].decode().strip()


def test_the_serial_of_a_withdrawn_image_does_not_come_again(three: Site) -> None:
    old, new = serials(three, A)
    said(three, "withdraw", "--now", f"{A}/{new}")
    build(three.ci, A, B, C, content={A: files(A, serial=new)})
    result = three.publish(code=1)
    assert f"serial {new} was withdrawn; to let it come again: doit unhold " in result.out
    assert serials(three, A) == [old]
    assert places(three, A, new) == []
    said(three, "unhold", f"{A}/{new}")
    three.doit(f"image:{A}")
    three.publish()
    assert serials(three, A) == [old, new]


def test_of_a_pipelines_build_only_the_withdrawn_image_goes(site: Site) -> None:
    """One build holds the images of several products."""
    site.jenkins = 'path = "{arch}/{release}/{variant}/{file}"\n'
    job = site.ci.pipeline("image-tiny")
    for _ in range(2):
        content = {
            f"{p.split('/')[2]}/{p.split('/')[1]}/default/{n}": d for p in (A, B) for n, d in files(p).items()
        }
        job.build(files=content)
        site.publish()
    old, new = serials(site, A)
    said(site, "withdraw", f"{A}/{new}")
    site.publish()
    assert serials(site, A) == [old]
    assert len(serials(site, B)) == 2
    said(site, "block", "--build=image-tiny #2")
    site.publish()
    assert len(serials(site, B)) == 1


def test_a_second_rollback_forgets_nothing_of_the_first(three: Site) -> None:
    build(three.ci, A, B, C)
    three.publish()
    third, second, first = snapshot_names(three)[:3]
    said(three, "rollback", second)
    said(three, "rollback", first)
    said(three, "block", "--build=image-tiny #2")
    assert "pinned: at" in three.publish().out, "of what it took back, #3 is not refused"
    assert len(serials(three, A)) == 1
    said(three, "block", "--build=image-tiny #3")
    assert "pinned: at" not in three.publish().out, "now all that both took back is refused"
    assert len(serials(three, A)) == 1
    said(three, "rollback", first)
    assert "pinned: at" in three.publish().out, (
        "nothing is left to be taken back, so it stays until it is released"
    )
    assert third != second


def test_a_list_of_a_hand_that_cannot_be_added_to_is_left_alone(untouched: Site) -> None:
    path = untouched.root / "decisions.toml"
    path.write_text("hold = []\n")
    out = said(untouched, "hold", A, code=3)
    assert "write its words as [[tables]]; nothing was changed" in out
    assert path.read_text() == "hold = []\n"
    path.unlink()


def test_a_link_to_the_decisions_stays_one(untouched: Site, tmp_path: Path) -> None:
    path, real = untouched.root / "decisions.toml", tmp_path / "real.toml"
    real.write_text("# kept elsewhere\n")
    path.symlink_to(real)
    said(untouched, "hold", A)
    assert path.is_symlink()
    assert "[[hold]]" in real.read_text()
    real.unlink()
    assert "cannot be read" in said(untouched, "status", code=3)
    path.unlink()
    (untouched.root / "state/decisions.toml").unlink()


def test_an_image_that_only_a_snapshot_has_cannot_be_held(three: Site) -> None:
    old, new = serials(three, A)
    three.lines = 'keep = 1\ngrace = "0s"\n'
    three.configure()
    for _ in range(2):
        three.publish()
    assert f"{A} has no image {old}; there are {new}" in said(three, "hold", f"--serial={old}", A, code=3)


def test_a_hold_at_an_image_that_is_gone_is_said_and_counts_as_a_loss(three: Site) -> None:
    old, _ = serials(three, A)
    said(three, "hold", f"--serial={old}", A)
    said(three, "withdraw", "--now", f"{A}/{old}", code=2)
    out = three.publish(code=2).out
    assert f"1 of 3 products would vanish ({A})" in out
    three.publish("--allow-shrink")
    assert serials(three, A) == []
    said(three, "unhold", A)
    assert f"nothing of {A} is listed" not in three.publish().out
    assert len(serials(three, A)) == 1


def test_one_foreign_mirror_keeps_no_other_from_losing_it(three: Site) -> None:
    three.more = '[[mirror]]\nname = "away"\nurl = "away"\n' + three.more
    three.configure()
    three.publish()
    (three.base / "away/site-id").write_text("another\n")
    new = serials(three, A)[-1]
    out = said(three, "withdraw", "--now", f"{A}/{new}", code=1)
    assert "is another site's" in out
    assert not [path for path in places(three, A, new) if "away" not in path.parts]
    assert new not in serials(three, A, three.mirror)


def test_without_state_it_is_withdrawn_all_the_same(three: Site) -> None:
    import shutil

    new = serials(three, A)[-1]
    shutil.rmtree(three.root / "state")
    (three.root / "state").mkdir(mode=0o700)
    said(three, "withdraw", "--now", f"{A}/{new}")
    assert places(three, A, new) == []
    assert len(serials(three, A)) == 1
    assert len(serials(three, B)) == 2


def test_a_damaged_record_keeps_nothing_from_being_withdrawn(three: Site) -> None:
    old, new = serials(three, A)
    (source,) = three.root.glob(f"site/public/images/{A}/{new}/source.json")
    source.write_bytes(b"x" + source.read_bytes()[1:])  # in every snapshot too
    said(three, "withdraw", "--now", f"{A}/{new}")
    assert places(three, A, new) == []
    assert serials(three, A) == [old]
    said(three, "rollback", snapshot_names(three)[-1])
    assert serials(three, A) == [old]


def test_what_is_damaged_does_not_come_back_with_an_earlier_snapshot(three: Site) -> None:
    old, new = serials(three, A)
    first = snapshot_names(three)[-1]
    (root,) = three.root.glob(f"site/public/images/{A}/{old}/rootfs.squashfs")
    data = bytearray(root.read_bytes())
    data[-1] ^= 1
    root.write_bytes(data)
    assert old in said(three, "rebuild", code=1)
    three.publish()
    assert serials(three, A) == [new]
    assert f"images/{A}/{old} is damaged there and left out" in said(three, "rollback", first)
    assert serials(three, A) == []
    assert len(serials(three, B)) == 1
    assert "all is well" in (out := said(three, "verify")) or "fault" not in out


def test_decisions_that_are_gone_take_nothing_back(three: Site) -> None:
    said(three, "withdraw", f"{A}/{serials(three, A)[-1]}")
    path = three.root / "decisions.toml"
    text = path.read_text()
    three.publish()
    path.unlink()
    for command in ("publish", "status", "hold"):
        out = said(three, command, code=3)
        assert (
            f"{path} is gone, and with it what was decided: copy {three.root}/state/decisions.toml there"
            in out
        )
    path.write_text((three.root / "state/decisions.toml").read_text())
    assert path.read_text() == text
    three.publish()


def test_a_key_that_does_not_sign_is_said_before_anything_is_decided(three: Site) -> None:
    before = three.tree()
    three.config.write_text(three.config.read_text().replace("publisher.asc", "missing.asc"))
    for command in (
        ["withdraw", "--now", f"{A}/{serials(three, A)[-1]}"],
        ["rollback", snapshot_names(three)[-1]],
    ):
        assert "cannot sign" in said(three, *command, code=3)
    assert three.tree() == before
    assert not (three.root / "decisions.toml").exists()
