"""A build calls the publisher: it is published by the time the hook ends, or the hook says why not."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sites import CHECKOUT, Site, build, configuration, files, matrix, passes, wait_for

from jenkins.jobs import Build

A, B = "tiny/1/amd64/default", "other/1/amd64/default"
JOB = f"image-tiny/{configuration(A)}"


@pytest.fixture
def two(site: Site) -> Site:
    matrix(site.ci, A, B)
    build(site.ci, B)
    site.configure()
    return site


def running(site: Site) -> tuple[Build, Build]:
    """A build of A that has archived its files and is not over."""
    parent = site.ci.job("image-tiny").start()
    run = parent.run(configuration(A), files(A))
    run.set_result("SUCCESS")
    return parent, run


def test_it_waits_for_the_end_of_the_build_and_publishes_that_job_alone(two: Site) -> None:
    parent, run = running(two)
    hook = two.start("publish", f"--job={JOB}", "--build=1", "--wait=60")
    wait_for(lambda: two.server.count(r"/1/api/json"))
    run.complete("SUCCESS")
    parent.complete("SUCCESS")
    out, err = hook.communicate(timeout=60)
    assert hook.returncode == 0, out + err
    assert f"image-tiny #1: published as {A}" in out
    assert list(two.products()) == ["tiny:1:amd64:default"]
    assert not two.server.count("image-other")


def test_a_build_that_never_ends_is_named(two: Site) -> None:
    running(two)
    result = two.publish(f"--job={JOB}", "--build=1", "--wait=1", code=1)
    assert f"failed: {JOB} #1 still runs after 1 s; the next publish takes it" in result.out


def test_inside_its_own_build_it_says_so_at_once(two: Site) -> None:
    running(two)
    env = {"JOB_NAME": JOB, "BUILD_NUMBER": "1"}
    result = two.doit("publish", f"--job={JOB}", "--build=1", env=env, timeout=20)
    assert result.code == 3
    assert "cannot end before it" in result.err


@pytest.mark.parametrize(
    ("result", "said"),
    [("FAILURE", "not published, for it ended FAILURE"), ("SUCCESS", "not published; see what is held")],
)
def test_what_is_not_published_is_said(two: Site, result: str, said: str) -> None:
    two.more = '[jenkins.gate]\njob = "test-image"\n'
    two.configure()
    passes(two.ci, build(two.ci, B), two.server.url)
    build(two.ci, A, result=result)
    out = two.publish(f"--job={JOB}", "--build=1").out
    assert f"image-tiny #1: {said}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--job=image-nothing", "--build=1"], 1, "not found"),
        (["--job=housekeeping", "--build=1"], 3, "this site publishes the jobs image-*"),
        (["--build=1"], 3, "--build=N needs --job=NAME"),
        (["--job=image-tiny", "--build=x"], 3, "build"),
    ],
)
def test_nonsense_is_refused_in_a_line(two: Site, arguments: list[str], code: int, said: str) -> None:
    two.ci.freestyle("housekeeping").build()
    result = two.doit("publish", *arguments, "--wait=1")
    assert result.code == code, result.out + result.err
    assert said in result.out + result.err
    assert "Traceback" not in result.out + result.err


def test_the_last_step_of_a_build_calls_the_hook(two: Site, tmp_path: Path) -> None:
    """jenkins/post-step.sh as Jenkins runs it: inside the build, which ends after it."""
    log = tmp_path / "hook.log"
    doit = Path(sys.executable).with_name("doit")
    said = []

    def last_step(run: Build) -> None:
        assert run.building
        env = {
            **two.environment(),
            **run.environment(two.server.url),
            "PUBLISH_LOG": str(log),
            "DOIT": str(doit),
        }
        step = subprocess.run(
            ["sh", str(CHECKOUT / "jenkins/post-step.sh")],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        said.append(step.stdout)

    thread = threading.Thread(target=lambda: build(two.ci, A, post_build=last_step))
    thread.start()
    thread.join(timeout=30)
    assert said[0].startswith(f"imagepress: the publication of {JOB} #1 waits")
    wait_for(lambda: "exposed:" in log.read_text(), 60)
    assert f"image-tiny #1: published as {A}" in log.read_text()
    assert list(two.products()) == ["tiny:1:amd64:default"]
