"""The whole pipeline as its users run it: doit in a process of its own, against a Jenkins."""

import re
import shutil
import signal

import pytest
from sites import Site, build, configuration, files, matrix, passes, serial, wait_for

from jenkins.faults import Hang, Status

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"
GATED = '[jenkins.gate]\njob = "test-image"\nscope = "{scope}"\n'


@pytest.fixture
def three(site: Site) -> Site:
    """Three products, each built once, not yet published."""
    matrix(site.ci, A, B, C)
    build(site.ci, A, B, C)
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    return site


def test_a_second_run_asks_once_and_touches_nothing(three: Site) -> None:
    three.publish()
    before, mirrored = three.tree(), three.mirror.stat().st_mtime_ns
    three.server.clear()
    second = three.publish()
    assert second.executed == ["poll"]
    assert "nothing changed" in second.out
    assert len(three.server.requests) == 1
    assert three.tree() == before
    assert three.mirror.stat().st_mtime_ns == mirrored


def test_with_a_gate_a_second_run_asks_twice(three: Site) -> None:
    three.jenkins = ""
    three.more += GATED.format(scope="os")
    passes(three.ci, build(three.ci, A, B, C), three.server.url)
    three.publish()
    three.server.clear()
    assert three.publish().executed == ["poll"]
    assert len(three.server.requests) == 2


def test_one_new_build_does_its_own_work_only(three: Site) -> None:
    three.publish()
    images = {
        path: seen for path, seen in three.tree("site").items() if B not in path and path.endswith(".xz")
    }
    build(three.ci, B)
    three.server.clear()
    result = three.publish()
    assert result.executed == [
        "poll",
        f"image:{B}",
        "collect",
        "streams",
        "lxc_index",
        "proof",
        "page",
        "snapshot",
        "mirror:near",
    ]
    after = three.tree("site")
    assert {path: after[path] for path in images} == images
    asked = [record.path for record in three.server.requests if "/artifact/" in record.path]
    assert asked
    assert all("architecture=arm64" in path for path in asked)
    assert len(three.products()["tiny:1:arm64:default"]["versions"]) == 2


def test_what_the_mirror_shows_is_what_latest_shows(three: Site) -> None:
    three.publish()
    for top in (three.latest, three.mirror):
        assert (top / "streams/v1/index.json").exists()
    here = {str(p.relative_to(three.latest)): p.read_bytes() for p in three.latest.rglob("*") if p.is_file()}
    there = {str(p.relative_to(three.mirror)): p.read_bytes() for p in three.mirror.rglob("*") if p.is_file()}
    assert here == there


@pytest.mark.parametrize("scope", ["os", "product"])
def test_a_gate_that_passes_later_publishes_without_a_new_build(three: Site, scope: str) -> None:
    three.more += GATED.format(scope=scope)
    first = three.ci.job("image-tiny").builds[1]
    passes(three.ci, first, three.server.url)
    second = build(three.ci, A, B, C)
    held = three.publish()
    assert f"held: {A}: build #2 has not passed the test job" in held.out
    assert [len(product["versions"]) for product in three.products().values()] == [1, 1, 1]
    passes(three.ci, second, three.server.url, result="FAILURE")
    assert three.publish().executed == ["poll"]
    passes(three.ci, second, three.server.url)
    assert "held" not in three.publish().out
    assert [len(product["versions"]) for product in three.products().values()] == [2, 2, 2]


def test_the_newest_tested_build_is_taken_when_the_last_is_untested(three: Site) -> None:
    three.more += GATED.format(scope="product")
    passes(three.ci, build(three.ci, A, B, C), three.server.url)
    build(three.ci, A, B, C)
    three.publish()
    source = next(three.latest.glob(f"images/{A}/*/source.json")).read_text()
    assert '"number": 2' in source


def test_a_configuration_tested_by_its_own_url_passes_alone(three: Site) -> None:
    three.more += GATED.format(scope="product")
    passes(three.ci, three.ci.job("image-tiny").builds[1].runs[0], three.server.url)
    three.publish()
    assert len(three.products()) == 1


def test_an_edited_alias_runs_no_image_task(three: Site) -> None:
    three.publish()
    three.more += '[[rules]]\nmatch = "tiny/1"\naliases = ["tiny/one"]\n'
    three.configure()
    three.server.clear()
    result = three.publish()
    assert result.executed == ["poll", "streams", "lxc_index", "proof", "page", "snapshot", "mirror:near"]
    assert len(three.server.requests) == 1
    assert "tiny/one" in three.products()["tiny:1:amd64:default"]["aliases"].split(",")


def test_one_bad_image_stops_nobody_and_is_named(three: Site) -> None:
    three.publish()
    bad = files(A)
    bad["meta.tar.xz"] = b"not a tarball"
    build(three.ci, A, B, C, content={A: bad})
    result = three.publish(code=1)
    assert f"failed: {A}: image-tiny/{configuration(A)} #2 rejected: meta.tar.xz" in result.out
    assert {key: len(product["versions"]) for key, product in three.products().items()} == {
        "tiny:1:amd64:default": 1,
        "tiny:1:arm64:default": 2,
        "tiny:2:amd64:default": 2,
    }
    three.server.clear()
    again = three.publish(code=1)
    assert f"failed: {A}" in again.out
    assert not [record for record in three.server.requests if "/artifact/" in record.path], (
        "rejected content is fetched again"
    )
    build(three.ci, A)
    assert "failed" not in three.publish().out


def test_what_jenkins_forgets_stays_published(three: Site) -> None:
    three.publish()
    before = three.products()
    job = three.ci.job("image-tiny")
    job.delete_build(1)
    assert three.publish().executed == ["poll"]
    build(three.ci, A, B, C, result="FAILURE")
    assert three.publish().executed == ["poll"]
    build(three.ci, A, B, C).runs[0].purge_artifacts()
    three.publish(code=1)
    three.ci.job("image-tiny").remove()
    assert "failed: jenkins.jobs: no job here is called image-*" in three.publish(code=1).out
    assert (
        before.items()
        <= {k: {**v, "versions": before[k]["versions"]} for k, v in three.products().items()}.items()
    )
    assert all(
        before[key]["versions"].items() <= product["versions"].items()
        for key, product in three.products().items()
    )


def test_jenkins_away_is_said_and_costs_nothing(three: Site) -> None:
    three.publish()
    before = three.tree()
    three.server.stop()
    result = three.publish(code=1)
    assert "failed: Jenkins: " in result.out
    assert "Traceback" not in result.out + result.err
    assert three.tree() == before


def test_an_unknown_image_is_refused_with_near_names(three: Site) -> None:
    three.publish()
    result = three.doit("image:tiny/1/amd64/defalt")
    assert result.code == 3
    assert f"image:{A}" in result.err
    assert "Traceback" not in result.err


def test_one_image_alone(three: Site) -> None:
    result = three.doit(f"image:{B}")
    assert result.code == 0
    assert result.executed == ["poll", f"image:{B}"]
    asked = {record.path for record in three.server.requests if "/artifact/" in record.path}
    assert asked
    assert all("arm64" in path for path in asked)


def test_a_fault_in_the_configuration_is_one_line_and_exit_3(site: Site) -> None:
    site.jenkins = "unstabel = true\n"
    result = site.publish(code=3)
    assert (
        result.err.strip() == "ERROR: publish.toml: jenkins.unstabel: unknown key; did you mean 'unstable'?"
    )
    assert not site.root.exists()


def test_a_configuration_that_is_named_and_missing_is_exit_3(site: Site) -> None:
    result = site.doit("publish", env={"PUBLISH_CONFIG": str(site.base / "nowhere.toml")})
    assert result.code == 3
    assert "nowhere.toml" in result.err
    assert "Traceback" not in result.err


def test_without_a_key_nothing_is_exposed(three: Site) -> None:
    three.configure()
    three.config.write_text(
        three.config.read_text().replace(str(three.key.secret), str(three.base / "no.asc"))
    )
    result = three.publish(code=3)
    assert "no.asc is neither a file nor a fingerprint" in result.err
    assert "Traceback" not in result.err
    assert not three.latest.exists()


def test_two_publications_at_once_share_the_work(three: Site) -> None:
    runs = [three.start("publish") for _ in range(4)]
    spoken = [run.communicate(timeout=120) for run in runs]
    results = [out for out, _ in spoken]
    assert [run.returncode for run in runs] == [0, 0, 0, 0], spoken
    made = [line.split()[0] for out in results for line in out.splitlines() if line.startswith("image:")]
    assert sorted(made) == sorted(f"image:{product}" for product in (A, B, C))
    assert len(three.products()) == 3


@pytest.mark.parametrize("away", [Hang(), Status(503, {"Retry-After": "60"})], ids=["hangs", "is busy"])
def test_sigterm_ends_with_143_and_keeps_finished_images(three: Site, away: Hang | Status) -> None:
    fault = three.server.faults
    fault.add(r"arm64.*rootfs\.squashfs", away, times=None)
    three.jenkins = "downloads = 1\n"
    run = three.start("publish")
    wait_for(lambda: list(three.root.glob(f"site/public/images/{A}/*/SHA256SUMS")))
    wait_for(lambda: three.server.count("arm64.*rootfs"))
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 143
    assert "Traceback" not in out + err
    assert not three.latest.exists()
    fault.clear()
    three.server.clear()
    finished = {path: seen for path, seen in three.tree("site").items() if f"{A}/2026" in path}
    three.publish()
    assert finished.items() <= three.tree("site").items()
    assert not three.server.count(r"architecture=amd64,release=1.*/artifact/")
    assert len(three.products()) == 3


def test_sigterm_ends_a_poll_that_waits_for_a_busy_jenkins(three: Site) -> None:
    three.server.faults.add("^/api/json", Status(503, {"Retry-After": "60"}), times=None)
    run = three.start("publish")
    wait_for(lambda: three.server.count("^/api/json"))
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 143
    assert "stopped by SIGTERM; what was finished is kept" in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("loss", ["forget", "clean", "database", "state", "ledger", "garbage"])
def test_what_the_publisher_forgets_costs_no_download(three: Site, loss: str) -> None:
    three.publish()
    before = three.tree()
    state = three.root / "state"
    if loss == "forget":
        assert three.doit("forget", "--all").code == 0
    elif loss == "clean":
        assert three.doit("clean", "-a").code == 0
    elif loss == "database":
        (state / "doit.db").unlink()
    elif loss == "garbage":
        (state / "doit.db").write_bytes(b"no database" * 1000)
    else:
        shutil.rmtree(state / "ledger" if loss == "ledger" else state)
    three.server.clear()
    result = three.publish()
    assert not three.server.count("/artifact/")
    assert three.tree() == before
    assert "Traceback" not in result.out + result.err
    assert three.publish().executed == ["poll"]


def test_a_damaged_record_is_named_in_one_line(three: Site) -> None:
    three.publish()
    damaged = three.root / "state/ledger/tiny:1:amd64:default.json"
    damaged.write_text('{"product"')
    result = three.publish(code=2)
    assert f"ERROR: {damaged} is damaged" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert "nothing changed" not in result.out
    damaged.unlink()
    assert "published" not in three.publish().out


def test_a_site_that_cannot_be_made_is_named_in_one_line(site: Site) -> None:
    (site.base / "root").write_text("a file")
    matrix(site.ci, A)
    result = site.publish(code=2)
    assert "ERROR: cannot make" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_nobody_reading_the_output_stops_nothing(three: Site) -> None:
    run = three.start("publish")
    assert run.stdout is not None
    run.stdout.close()
    assert run.wait(timeout=60) == 0
    assert run.stderr is not None
    assert "Traceback" not in run.stderr.read()
    run.stderr.close()
    assert len(three.products()) == 3


def test_a_rejected_build_is_not_fetched_again_beside_others(three: Site) -> None:
    bad = files(A)
    bad["meta.tar.xz"] = b"not a tarball"
    build(three.ci, A, B, C, content={A: bad})
    three.publish(code=1)
    (three.root / "state/doit.db").unlink()
    build(three.ci, B)
    three.server.clear()
    three.publish(code=1)
    assert three.server.count(r"arm64.*/artifact/")
    assert not three.server.count(r"architecture=amd64,release=1.*/artifact/")
    assert three.doit(f"image:{A}").code == 1, "asked for by name it is tried again, and fails by name"
    assert three.server.count(r"architecture=amd64,release=1.*/artifact/")


def test_a_rejected_build_is_fetched_again_under_other_rules(three: Site) -> None:
    bad = files(A)
    bad["meta.tar.xz"] = b"not a tarball"
    build(three.ci, A, B, C, content={A: bad})
    three.publish(code=1)
    rules = '[[rules]]\nmatch = "tiny/1/{}"\naliases = ["{}"]\n'.format
    for more, again in [
        (rules("arm64", "tiny/one"), False),
        (rules("amd64", "tiny/one"), True),
        (rules("amd64", "tiny/one"), False),
        (rules("amd64", "tiny/uno") + rules("arm64", "tiny/one"), True),
        (rules("arm64", "tiny/one") + rules("amd64", "tiny/uno"), False),
        ("", True),
    ]:
        three.more = more
        three.configure()
        three.server.clear()
        result = three.publish(code=1)
        assert bool(three.server.count(r"architecture=amd64,release=1.*/artifact/")) is again, more
        assert f"failed: {A}" in result.out


def test_a_mirror_alone_that_fails_is_exit_1(three: Site) -> None:
    three.publish()
    three.more = '[[mirror]]\nname = "gone"\nurl = "rsync://127.0.0.1:1/images/"\nretries = 0\n'
    three.configure()
    assert three.doit("mirror:gone").code == 1


def test_what_was_not_exposed_is_not_called_published(three: Site) -> None:
    three.publish()
    (three.root / "site/public/meta/1.0/extra").write_text("{}")
    build(three.ci, A)
    result = three.publish("--job=image-tiny", "--build=2", code=2)
    assert "published" not in result.out.replace("not published", "")


def test_one_of_a_kind_is_told_in_the_singular(site: Site) -> None:
    site.lines = 'keep = 1\ngrace = "0s"\n'
    site.more = '[[rules]]\nmatch = "none"\n[snapshot]\nkeep = 1\nkeep_for = "0s"\n'
    matrix(site.ci, A, B)
    build(site.ci, A)
    told = [site.publish().out]
    assert "1 product, 1 image\n" in told[0]
    assert "exposed: 1 product, 1 image, in " in told[0]
    assert "; no product for 1 of 1 rule: 'none'" in told[0]
    build(site.ci, A)
    told += [site.publish().out, site.publish().out]
    assert "1 image and 1 snapshot removed" in "".join(told)
    bad = {**files(A), "meta.tar.xz": b"not a tarball"}
    build(site.ci, A, content={A: bad})
    told.append(site.publish(code=1).out)
    assert "done, but for 1 fault, named below" in told[-1]
    build(site.ci, B)
    told.append(site.publish(code=1).out)
    assert "exposed: 2 products, 2 images" in told[-1]
    assert not re.findall(r"(?<![\w.:/#-])1 (?:products|images|snapshots|files|rules|faults)", "".join(told))


def test_a_build_that_was_deleted_before_it_was_fetched_gives_way_to_the_one_before(site: Site) -> None:
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    before = site.products()
    second = build(site.ci, A)
    site.server.faults.add("2/.*/rootfs.squashfs", call=lambda: second.job.delete_build(2))
    assert "lost a file while it was fetched" in site.publish(code=1).out
    site.server.requests.clear()
    result = site.publish()
    assert "made anew" not in result.out
    assert not [one for one in site.server.requests if "/artifact/" in str(one)]
    assert site.products() == before
    assert site.publish().executed == ["poll"]
    build(site.ci, A)
    site.publish()
    assert site.products() != before


def test_content_that_is_published_already_is_not_published_under_another_serial(site: Site) -> None:
    """Incus and LXD cannot copy what two versions list under one fingerprint."""
    matrix(site.ci, A)
    first = files(A)
    build(site.ci, A, content={A: first})
    site.publish()
    before = site.products()
    build(site.ci, A, content={A: {**first, "serial": f"{serial()}\n".encode()}})
    result = site.publish()
    old = next(iter(before["tiny:1:amd64:default"]["versions"]))
    assert re.search(rf"image:{A} 2026\d+_\d\d:\d\d has the content of {old}: nothing new", result.out)
    assert site.products() == before
    site.server.requests.clear()
    assert site.publish().executed == ["poll"]
    assert not [one for one in site.server.requests if "/artifact/" in str(one)]
    assert site.doit("block", "--build=image-tiny #2").code == 0
    build(site.ci, A, content={A: {**first, "serial": f"{serial()}\n".encode()}})
    assert f"has the content of {old}, which was taken back" in site.publish(code=1).out
