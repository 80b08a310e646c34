"""Everything that can go wrong at Jenkins or on the way, under the whole program.

One publication meets all that can befall a build at once, each of its own product: every fault is
named by a line of its own or made good, the last good image stays, and no product suffers for another.
What befalls the poll itself comes one at a time.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sites import Key, Result, Site, build, configuration, files, matrix, passes

from jenkins import standin
from jenkins.artifacts import Away, Elsewhere
from jenkins.controller import Controller
from jenkins.faults import (
    BOM,
    FLIPPED,
    HALF,
    LOGIN_PAGE,
    Cut,
    Drip,
    Edit,
    Fault,
    Hang,
    Reset,
    Status,
    Understate,
)
from jenkins.jobs import Build, Job
from jenkins.standin import Auth

JSON = {"Content-Type": "application/json;charset=utf-8"}
ROOT, SERIAL, DETAIL = "artifact/rootfs.squashfs", "artifact/serial", r"2/api/json"
LATE = 1_900_000_000_000  # ms since 1970: the clock of an agent that is years ahead
EARLY = 1_000_000_000_000
Plan = Callable[["Storm", Build], object]
STAYS = object()  # what a plan returns whose build shall not end


@dataclass
class Storm:
    """A site, the Jenkins it polls, and what a publication under faults, and two later ones, said."""

    site: Site
    elsewhere: dict[str, Elsewhere]
    first: dict[str, Any] = field(default_factory=dict)
    said: list[Result] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)

    def publish(self) -> None:
        self.said.append(self.site.doit("publish"))
        self.listed.append(self.site.products())


def once(where: str, *faults: Fault) -> Plan:
    """These faults, one request after the other; then all is well."""

    def plan(storm: Storm, run: Build) -> None:
        for at, fault in enumerate(faults, start=1):
            storm.site.server.faults.add(f"{run.job.name}/.*{where}", fault, first=at)

    return plan


def always(where: str, fault: Fault) -> Plan:
    return lambda storm, run: storm.site.server.faults.add(f"{run.job.name}/.*{where}", fault, times=None)


def then(where: str, act: Callable[[Build], object]) -> Plan:
    """Something that happens when a file is asked for, just before the answer is made."""
    return lambda storm, run: storm.site.server.faults.add(f"{run.job.name}/.*{where}", call=lambda: act(run))


def away(kind: str, *expired: bool, times: int | None = None) -> Plan:
    """Artifacts that lie on another host, behind links some of which have expired."""

    def plan(storm: Storm, run: Build) -> None:
        for at, old in enumerate(expired, start=1):
            last = at == len(expired)
            storm.site.server.faults.add(
                f"{run.job.name}/.*artifact/",
                Away(storm.elsewhere[kind], expired=old),
                first=at,
                times=times if last else 1,
            )

    return plan


def replaced(run: Build) -> None:
    path = run.directory / "rootfs.squashfs"
    path.unlink()
    path.write_bytes(b"hsqs of another build")


def one_more(run: Build) -> None:
    """Another build of this configuration ends while the poll goes on."""
    parent = run.job.parent
    assert parent is not None
    parent.build({run.job.name: files(product_of(run))})


def deleted(run: Build) -> None:
    run.job.delete_build(run.number)


def same_again(_storm: Storm, run: Build) -> None:
    run.archive({name: run.job.builds[1].directory / name for name in run.job.builds[1].artifacts})


def older_serial(_storm: Storm, run: Build) -> None:
    run.archive(files(product_of(run), serial="20200101_00:00"))


def began(when: int) -> Plan:
    return lambda _storm, run: setattr(run, "timestamp", when)


def ended(result: str) -> Plan:
    return lambda _storm, run: run.complete(result)


def unfinished(_storm: Storm, run: Build) -> object:
    run.set_result("SUCCESS")
    return STAYS


def edited(before: bytes, after: bytes) -> Plan:
    return always(DETAIL, Edit(lambda body: body.replace(before, after)))


def product(job: Job, name: str) -> str:
    """The product of a job's configuration."""
    return f"{job.name.removeprefix('image-')}/{name.split('release=')[1].split(',', maxsplit=1)[0]}/amd64/default"


def product_of(run: Build) -> str:
    assert run.job.parent is not None
    return product(run.job.parent, run.job.name)


def run_of(storm: Storm, name: str) -> Build:
    return storm.site.ci.job("image-storm").configuration(configuration(PRODUCTS[name])).builds[2]


FOREIGN = "its md5 [0-9a-f]{32} is none that Jenkins recorded for this build"
# name -> what happens; the words of its failure, "" where it is made good or rightly left; and where a
# failure outlasts the fault, until there is another build: True.
ROWS: dict[str, tuple[Plan, str, bool]] = {
    "cut": (once(ROOT, Cut(1000)), "", False),
    "cut-chunked": (once(ROOT, Cut(1000, "chunked")), "", False),
    "cut-unannounced": (once(ROOT, Cut(1000, "close")), "", False),
    "cut-serial": (once(SERIAL, Cut(3)), "", False),
    "cut-detail": (once(DETAIL, Cut(30)), "", False),
    "always-cut": (always(ROOT, Cut(0)), "0 of [0-9]+ bytes came|IncompleteRead", False),
    "always-cut-unannounced": (always(ROOT, Cut(1000, "close")), FOREIGN, False),
    "length-too-small": (once(ROOT, Understate(100)), "", False),
    "always-too-small": (always(ROOT, Understate(100)), FOREIGN, False),
    "flipped": (once(ROOT, FLIPPED), "", False),
    "always-flipped": (always(SERIAL, FLIPPED), f"serial: {FOREIGN}", False),
    "busy": (once(ROOT, Status(503), Status(503)), "", False),
    "busy-until": (once(ROOT, Status(503, {"Retry-After": "1"})), "", False),
    "too-many": (once(ROOT, Status(429, {"Retry-After": "1"})), "", False),
    "errors": (once(DETAIL, Status(500), Status(502), Status(504)), "", False),
    "always-busy": (always(ROOT, Status(503)), "HTTP status 503", False),
    "always-broken": (always(DETAIL, Status(500)), "HTTP status 500", False),
    "reset": (once(ROOT, Reset()), "", False),
    "always-reset": (always(ROOT, Reset()), "Connection (reset|aborted)|reset by peer", False),
    "hangs-up": (once(ROOT, Hang(0.2)), "", False),
    "slow": (always(ROOT, Drip(1000, 0.05)), "", False),
    "forbidden": (always("artifact/", Status(403)), "HTTP status 403: this user may not read it", False),
    "login": (always("artifact/", LOGIN_PAGE), "a page instead of the file; is a login in front", False),
    "redirected": (always(DETAIL, Status(302, {"Location": "https://sso.example/"})), "is a login in", False),
    "bucket": (away("s3", False), "", False),
    "resource-root": (away("resource", False), "", False),
    "expired-link": (away("s3", True, False), "", False),
    "expired-root": (away("resource", True, False), "", False),
    "always-expired": (away("s3", True), "HTTP status 403", False),
    "deleted": (then(DETAIL, deleted), "not found", False),
    "deleted-between": (then(ROOT, deleted), "lost a file while it was fetched: .*not found", False),
    "purged": (then(DETAIL, lambda run: run.purge_artifacts()), r"has no artifacts \(any more\)", True),
    "replaced": (then(ROOT, replaced), FOREIGN, True),
    "overtaken": (then(DETAIL, one_more), "", False),
    "older-serial": (older_serial, "its serial 20200101_00:00 is older than the published", True),
    "bom": (always(DETAIL, BOM), "", False),
    "half": (always(DETAIL, HALF), "not what Jenkins says", False),
    "page": (always(DETAIL, LOGIN_PAGE), "not JSON but a page", False),
    "runs-again": (edited(b'"building":false', b'"building":true'), "is running again", False),
    "null-artifacts": (
        always(DETAIL, Edit(lambda body: re.sub(rb'"artifacts":\[.*?\]', b'"artifacts":null', body))),
        r"has no artifacts \(any more\)",
        False,
    ),
    "unknown": (edited(b'{"_class":"hudson.matrix.MatrixRun"', b'{"_class":"x.Y","new":{"a":[1]}'), "", False),
    "null-prints": (
        always(DETAIL, Edit(lambda body: re.sub(rb'"fingerprint":\[.*?\]', b'"fingerprint":null', body))),
        "",
        False,
    ),
    "clock-ahead": (began(LATE), "", False),
    "clock-back": (began(EARLY), "", False),
    "same-again": (same_again, "", False),
    "unstable": (ended("UNSTABLE"), "", False),
    "failed": (ended("FAILURE"), "", False),
    "unfinished": (unfinished, "", False),
}  # fmt: skip
LEFT = {"same-again", "unstable", "failed", "unfinished"}  # no fault, and no new image either
PRODUCTS = {name: f"storm/{name}/amd64/default" for name in ROWS}
CALM, ANEW, MOVED = "calm/1/amd64/default", "anew/1/amd64/default", "moved/1/amd64/default"


@pytest.fixture(scope="module", autouse=True)
def dripping(
    tmp_path_factory: pytest.TempPathFactory, key: Key
) -> Iterator[tuple[Site, subprocess.Popen[str]]]:
    """A publication that meets a file which comes byte by byte: it goes on beside the other tests."""
    base = tmp_path_factory.mktemp("dripping")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base, server, key)
        matrix(server.ci, CALM, ANEW)
        for one in (CALM, ANEW):
            build(server.ci, one)
        site.publish()
        for one in (CALM, ANEW):
            build(server.ci, one)
        server.faults.add(f"image-calm.*/{ROOT}", Drip(), times=None)
        process = site.start("publish")
        yield site, process
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Storm]:
    base = tmp_path_factory.mktemp("storm")
    with (
        standin.serve(Controller(base / "jenkins")) as server,
        Elsewhere("s3") as bucket,
        Elsewhere("resource") as other,
    ):
        site = Site(base, server, key, jenkins="downloads = 16\n")
        storm = Storm(site, {"s3": bucket, "resource": other})
        products = [*PRODUCTS.values(), CALM, ANEW, MOVED]
        with server.ci.bulk():
            matrix(server.ci, *products)
            build(server.ci, *PRODUCTS.values())
            for one in (CALM, MOVED):
                build(server.ci, one)
            build(server.ci, ANEW, number=50)
        site.publish()
        storm.first = site.products()
        rage(storm)
        storm.publish()
        server.faults.clear()
        run_of(storm, "unfinished").complete()
        storm.publish()
        with server.ci.bulk():
            for job in (
                server.ci.job(one) for one in ("image-storm", "image-calm", "image-anew", "new/image-moved")
            ):
                job.build({name: files(product(job, name)) for name in job.active})
        storm.publish()
        yield storm


def rage(storm: Storm) -> None:
    """A second build of everything, and all that befalls it."""
    ci = storm.site.ci
    parent = ci.job("image-storm").start()
    for name, (plan, _, _) in ROWS.items():
        run = parent.run(configuration(PRODUCTS[name]), files(PRODUCTS[name]))
        if plan(storm, run) is not STAYS:
            run.complete()
    parent.complete("SUCCESS")
    build(ci, CALM)
    ci.job("image-anew").remove()
    ci.job("image-moved").remove()
    ci.folder("new")
    matrix(ci, ANEW)
    matrix(ci, MOVED, folder="new")
    build(ci, ANEW)
    ci.job("new/image-moved").build({configuration(MOVED): files(MOVED)})


def serials(listed: dict[str, Any], name: str) -> list[str]:
    return sorted(listed[name.replace("/", ":")]["versions"])


class TestABuild:
    @pytest.mark.parametrize("name", ROWS)
    def test_what_befalls_it_is_made_good_or_named_and_the_last_good_image_stays(self, storm, name):
        _, words, _ = ROWS[name]
        (good,) = serials(storm.first, PRODUCTS[name])
        listed = serials(storm.listed[0], PRODUCTS[name])
        assert good in listed
        assert (len(listed) == 2) is (not words and name not in LEFT)
        lines = failures(storm.said[0], PRODUCTS[name])
        assert len(lines) == bool(words)
        assert not words or re.search(words, lines[0]), lines

    @pytest.mark.parametrize("name", ROWS)
    def test_when_the_fault_is_gone_it_comes_right(self, storm, name):
        _, _, lasting = ROWS[name]
        assert len(failures(storm.said[1], PRODUCTS[name])) == lasting
        taken = not lasting and name not in {"same-again", "unstable", "failed", "deleted", "deleted-between"}
        listed = serials(storm.listed[1], PRODUCTS[name])
        assert len(listed) == 1 + taken + (name == "overtaken")
        assert serials(storm.listed[2], PRODUCTS[name])[-1] > listed[-1], "the next build mends it all"

    @pytest.mark.parametrize("name", [CALM, ANEW, MOVED])
    def test_no_other_product_suffers(self, storm, name):
        """Also where the job was deleted and made anew, or made anew in another folder."""
        for at, listed in enumerate(storm.listed):
            assert len(serials(listed, name)) == (2, 2, 3)[at]

    def test_the_program_says_so_in_lines_and_exit_codes(self, storm):
        assert [result.code for result in storm.said] == [1, 1, 0]
        for result in storm.said:
            assert "Traceback" not in result.out + result.err
            assert result.err == ""
        failing = sum(bool(words) for _, words, _ in ROWS.values())
        assert failing <= 20, "more are only counted in the summary: make two storms of them"
        assert f"done, but for {failing} faults, named below" in storm.said[0].out
        assert "made anew, from #50 back to #1" in storm.said[0].out

    def test_whoever_keeps_the_files_sees_no_credentials(self, storm):
        for other in storm.elsewhere.values():
            assert other.requests
            assert all("authorization" not in record.headers for record in other.requests)


def failures(result: Result, name: str) -> list[str]:
    return [line for line in result.out.splitlines() if line.startswith(f"failed: {name}: ")]


ME = Auth(user="me", token="11aa")
TOP, FILE = "^/api/json", "image-tiny.*/artifact/"
TINY, OTHER = "tiny/1/amd64/default", "other/1/amd64/default"
Weather = Callable[[Site], object]


def at(pattern: str, *faults: Fault, ever: bool = False) -> Weather:
    def plan(site: Site) -> None:
        for first, fault in enumerate(faults, start=1):
            site.server.faults.add(pattern, fault, first=first, times=None if ever else 1)

    return plan


def guarded(**options: Any) -> Weather:
    return lambda site: setattr(site.server, "auth", replace(ME, **options))


def empty(name: bytes) -> Edit:
    """A list that is null, as Jenkins has it where something is not there."""
    return Edit(lambda body: b'{"_class":"hudson.model.Hudson","%b":null}' % name)


# name -> what befalls the poll, or every build at once; the exit code; the words of its failure
POLLS: dict[str, tuple[Weather, int, str]] = {
    "calm": (lambda _: None, 0, ""),
    "token": (guarded(), 0, ""),
    "wrong-token": (guarded(token="other"), 1, "HTTP status 401: the user or its token is wrong"),
    "hidden": (guarded(hidden="image-tiny"), 0, ""),
    "denied": (guarded(denied="image-tiny"), 0, ""),
    "all-hidden": (guarded(hidden="image-"), 1, r"jenkins.jobs: no job here is called image-\*"),
    "no-artifacts": (guarded(artifacts=False), 1, "HTTP status 403: this user may not read it"),
    "forbidden": (at(TOP, Status(403), ever=True), 1, "HTTP status 403"),
    "missing": (at(TOP, Status(404), ever=True), 1, "not found"),
    "teapot": (at(TOP, Status(418), ever=True), 1, "HTTP status 418"),
    "login": (at(TOP, LOGIN_PAGE, ever=True), 1, "not JSON but a page; is a login or a proxy in front"),
    "sso": (at(TOP, Status(302, {"Location": "https://sso.example/"}), ever=True), 1, "is a login in front"),
    "bom": (at(TOP, BOM), 0, ""),
    "half": (at(TOP, HALF), 1, "not what Jenkins says"),
    "cut": (at(TOP, Cut(40)), 0, ""),
    "cut-length": (at(TOP, Cut(40, "length")), 0, ""),
    "always-cut": (at(TOP, Cut(40), ever=True), 1, "IncompleteRead"),
    "list": (at(TOP, Edit(lambda _: b"[]")), 1, "not what Jenkins says"),
    "types": (at(TOP, Edit(lambda body: body.replace(b'"number":', b'"number":-0.5,"x":'))), 1, "not what Jenkins"),
    "null": (at(TOP, empty(b"jobs")), 1, r"jenkins.jobs: no job here is called image-\*"),
    "unknown": (at(TOP, Edit(lambda body: body.replace(b'{"_class":"', b'{"new":[{}],"_class":"x.'))), 0, ""),
    "large": (at(TOP, Edit(lambda body: body[:-1] + b',"x":"%b"}' % (b"x" * 5_000_000))), 0, ""),
    "huge": (at(TOP, Edit(lambda body: body + b" " * (65 << 20))), 1, "the answer is larger than 64 MiB"),
    "slow": (at(TOP, Drip(200, 0.01)), 0, ""),
    "busy": (at(TOP, Status(503), Status(502)), 0, ""),
    "busy-until": (at(TOP, Status(503, {"Retry-After": "1"})), 0, ""),
    "too-many": (at(TOP, Status(429, {"Retry-After": "1"})), 0, ""),
    "always-busy": (at(TOP, Status(503), ever=True), 1, "HTTP status 503"),
    "reset": (at(TOP, Reset()), 0, ""),
    "hangs-up": (at(TOP, Hang(0.2)), 0, ""),
    "restart": (lambda site: site.server.restart(busy=2), 0, ""),
    "restart-later": (lambda site: site.server.faults.add(FILE, call=lambda: site.server.restart(busy=2)), 0, ""),
    "quiet": (lambda site: setattr(site.ci, "quieting_down", True), 0, ""),
}  # fmt: skip
UNSEEN = {"hidden", "denied"}  # nobody can tell that there is anything new


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("polled")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base, server, key, jenkins='user = "me"\n')
        matrix(server.ci, TINY, OTHER)
        for one in (TINY, OTHER):
            build(server.ci, one)
        site.publish(env=TOKEN)
        yield site


TOKEN = {"PUBLISH_JENKINS_TOKEN": "11aa"}


class TestThePoll:
    @pytest.mark.parametrize("name", POLLS)
    def test_what_befalls_it_is_one_line_and_takes_nothing_back(self, polled, name):
        plan, code, words = POLLS[name]
        before, here = polled.products(), polled.tree("site")
        build(polled.ci, TINY)
        plan(polled)
        try:
            result = polled.publish(code=code, env=TOKEN)
        finally:
            polled.server.faults.clear()
            polled.server.auth, polled.ci.quieting_down = None, False
        assert "Traceback" not in result.out + result.err
        lines = [line for line in result.out.splitlines() if line.startswith("failed: ")]
        assert len(lines) == code
        assert not words or re.search(words, lines[0]), lines
        if code or name in UNSEEN:
            assert polled.products() == before
            assert polled.tree("site").keys() >= here.keys()
            polled.publish(env=TOKEN)
        newest = {one: max(serials(polled.products(), one)) for one in (TINY, OTHER)}
        assert newest[TINY] > max(serials(before, TINY))
        assert newest[OTHER] == max(serials(before, OTHER))

    def test_without_a_token_jenkins_wants_a_login(self, site: Site) -> None:
        matrix(site.ci, TINY)
        build(site.ci, TINY)
        site.publish()
        site.server.auth = ME
        result = site.publish(code=1)
        assert "failed: Jenkins: " in result.out
        assert "HTTP status 403: this user may not read it" in result.out
        assert list(site.products()) == ["tiny:1:amd64:default"]

    @pytest.mark.parametrize(
        ("fault", "words"), [(Status(404), "not found"), (LOGIN_PAGE, "not JSON"), (HALF, "not what")]
    )
    def test_without_an_answer_of_the_test_job_nothing_moves(
        self, site: Site, fault: Fault, words: str
    ) -> None:
        site.more = '[jenkins.gate]\njob = "test-image"\n'
        matrix(site.ci, TINY)
        passes(site.ci, build(site.ci, TINY), site.server.url)
        site.publish()
        passes(site.ci, build(site.ci, TINY), site.server.url)
        site.server.faults.add("/job/test-image/", fault)
        assert words in site.publish(code=1).out
        assert len(serials(site.products(), TINY)) == 1
        site.publish()
        assert len(serials(site.products(), TINY)) == 2


def test_what_time_drives_is_done_while_jenkins_is_away(site: Site) -> None:
    site.lines = 'keep = 1\ngrace = "0s"\n'
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, TINY)
    build(site.ci, TINY)
    site.publish()
    (old,) = serials(site.products(), TINY)
    site.mirror.rename(site.base / "unmounted")
    site.mirror.write_text("in the way")
    build(site.ci, TINY)
    assert "failed: mirror near: " in site.publish(code=1).out
    assert (site.root / f"site/public/images/{TINY}/{old}").is_dir()
    site.mirror.unlink()
    (site.base / "unmounted").rename(site.mirror)
    site.server.stop()
    result = site.publish(code=1)
    (line,) = [line for line in result.out.splitlines() if line.startswith("failed: ")]
    assert "Connection refused" in line
    assert "1 image and 0 snapshots removed" in result.out
    assert not (site.root / f"site/public/images/{TINY}/{old}").exists()
    (new,) = serials(site.products(), TINY)
    assert new > old
    shown = {str(path.relative_to(site.latest)) for path in site.latest.rglob("*")}
    assert {str(path.relative_to(site.mirror)) for path in site.mirror.rglob("*")} == shown
    assert not any(old in path for path in shown)


def test_a_file_that_comes_byte_by_byte_is_given_up(dripping: tuple[Site, subprocess.Popen[str]]) -> None:
    site, process = dripping
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert line.startswith(f"failed: {CALM}: ")
    assert line.endswith("slower than 1024 bytes a second, given up")
    assert len(serials(site.products(), CALM)) == 1
    assert len(serials(site.products(), ANEW)) == 2
    site.server.faults.clear()
    site.publish()
    assert len(serials(site.products(), CALM)) == 2
