"""One product that the proof finds fault with stays as it was; the others are published."""

from pathlib import Path

import pytest
from sites import Site, build, matrix

PRODUCTS = [f"os{n:02}/1/amd64/default" for n in range(40)]
RULE = '[[rules]]\nmatch = "{}"\naliases = ["shared/1"]\n'


@pytest.fixture
def forty(site: Site) -> Site:
    with site.ci.bulk():
        matrix(site.ci, *PRODUCTS)
        for product in PRODUCTS:
            build(site.ci, product)
    site.jenkins = "downloads = 8\n"
    return site


def versions(site: Site) -> dict[str, int]:
    return {key: len(product["versions"]) for key, product in site.products().items()}


def aliases(site: Site, os_: str) -> list[str]:
    return site.products()[f"{os_}:1:amd64:default"]["aliases"].split(",")


def test_a_clash_among_forty_holds_the_newcomer_alone(forty: Site) -> None:
    forty.more = RULE.format("os30")
    forty.publish()
    with forty.ci.bulk():
        for product in PRODUCTS:
            build(forty.ci, product)
    # os05 comes first in every order, and yet os30 had the name before.
    forty.more += RULE.format("os05")
    forty.configure()
    result = forty.publish(code=1)
    assert "failed: os05/1/amd64/default: in quarantine: the alias 'shared/1" in result.out
    assert "belongs to os30:1:amd64:default already" in result.out
    (line,) = forty.doit("status", "os05/*").out.splitlines()[1:]
    assert line.startswith("    failed: in quarantine: the alias 'shared/1")
    assert line.endswith("belongs to os30:1:amd64:default already")
    assert len(forty.doit("status", "os30/*").out.splitlines()) == 1
    counts = versions(forty)
    assert counts.pop("os05:1:amd64:default") == 1
    assert set(counts.values()) == {2}
    assert len(counts) == 39
    assert "shared/1" not in aliases(forty, "os05")
    assert "shared/1" in aliases(forty, "os30")
    lines = (forty.latest / "meta/1.0/index-system").read_text().splitlines()
    assert len(lines) == 40
    assert lines == sorted(lines)
    assert "failed: os05" in forty.publish(code=1).out, "it is said until it is mended"
    forty.more = RULE.format("os30")
    forty.configure()
    forty.publish()
    assert versions(forty)["os05:1:amd64:default"] == 2


def test_a_newcomer_without_a_good_state_is_not_listed(forty: Site) -> None:
    forty.more = RULE.format("os01") + RULE.format("os02")
    result = forty.publish(code=1)
    assert "failed: os02/1/amd64/default: in quarantine" in result.out
    assert len(forty.products()) == 39


def damaged(site: Site, product: str, name: str) -> Path:
    return next(site.root.glob(f"site/public/images/{product}/*/{name}"))


def test_an_image_that_lost_a_signature_is_left_out(site: Site) -> None:
    product, other = PRODUCTS[0], PRODUCTS[1]
    matrix(site.ci, product, other)
    build(site.ci, product)
    site.publish()
    lost = damaged(site, product, "incus.tar.xz.asc")
    serial = lost.parent.name
    lost.unlink()
    build(site.ci, product)
    build(site.ci, other)
    result = site.publish(code=1)
    assert f"failed: {product}/{serial}: in quarantine: {serial} incus.tar.xz has no signature" in result.out
    said = site.doit("status", product).out
    assert f"failed: in quarantine: {serial} incus.tar.xz has no signature" in said
    assert versions(site) == {"os00:1:amd64:default": 1, "os01:1:amd64:default": 1}
    assert serial not in (site.latest / "meta/1.0/index-system").read_text()


def test_a_quarantine_of_nearly_all_stops_the_exposure(site: Site) -> None:
    matrix(site.ci, *PRODUCTS[:3])
    for product in PRODUCTS[:3]:
        build(site.ci, product)
    site.publish()
    before = site.products()
    for product in PRODUCTS[:2]:
        damaged(site, product, "rootfs.squashfs").unlink()
    build(site.ci, PRODUCTS[2])
    result = site.publish(code=2)
    assert "2 of 3 products would vanish (os00/1/amd64/default, os01/1/amd64/default)" in result.out
    assert site.products() == before


def test_an_image_that_lost_its_files_is_fetched_again(site: Site) -> None:
    product = PRODUCTS[0]
    matrix(site.ci, product)
    build(site.ci, product)
    site.publish()
    lost = damaged(site, product, "SHA256SUMS")
    lost.unlink()
    result = site.publish()
    assert f"image:{product}" in result.executed
    assert lost.exists()


def test_what_nobody_is_to_blame_for_stops_the_exposure(site: Site) -> None:
    matrix(site.ci, PRODUCTS[0])
    build(site.ci, PRODUCTS[0])
    site.publish()
    shown = site.latest.resolve()
    (site.root / "site/public/meta/1.0/extra").write_text("{}")
    build(site.ci, PRODUCTS[0])
    result = site.publish(code=2)
    assert "nothing is exposed" in result.out
    assert "meta/1.0/extra has no signature" in result.out
    assert site.latest.resolve() == shown


def test_a_product_in_quarantine_keeps_its_files_whatever_is_built(site: Site) -> None:
    """What is exposed of it stays fetchable for as long as it is exposed."""
    first, other = PRODUCTS[5], PRODUCTS[30]
    matrix(site.ci, first, other)
    site.lines = 'keep = 1\ngrace = "0s"\n'
    site.more = RULE.format("os30")
    build(site.ci, first)
    build(site.ci, other)
    site.publish()
    site.more += RULE.format("os05")
    site.configure()
    for _ in range(3):
        build(site.ci, first)
        build(site.ci, other)
        assert "in quarantine: the alias" in site.publish(code=1).out
    (version,) = site.products()["os05:1:amd64:default"]["versions"].values()
    assert all((site.latest / item["path"]).is_file() for item in version["items"].values())


def test_a_quarantine_is_not_forgotten_by_a_run_that_makes_one_index_alone(site: Site) -> None:
    first, other = PRODUCTS[5], PRODUCTS[30]
    matrix(site.ci, first, other)
    site.more = RULE.format("os30")
    build(site.ci, first)
    build(site.ci, other)
    site.publish()
    site.more += RULE.format("os05")
    site.configure()
    site.publish(code=1)
    site.more += "[lxc]\nlevels = [1, 2]\n"
    site.configure()
    assert "in quarantine: the alias" in site.publish(code=1).out
