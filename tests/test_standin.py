"""The stand-in behaves like a Jenkins, on the wire."""

import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from hashlib import md5
from pathlib import Path

import pytest
import requests

from jenkins import faults, standin, treequery
from jenkins.artifacts import Away, Elsewhere
from jenkins.controller import Controller
from jenkins.jobs import configuration_name
from jenkins.standin import Auth

AMD = "architecture=amd64,release=noble,variant=default"
ARM = "architecture=arm64,release=noble,variant=default"
AXES = {"release": ["noble"], "architecture": ["amd64", "arm64"], "variant": ["default"]}
BODY = bytes(range(256)) * 400


@pytest.fixture
def ci(tmp_path):
    clock = itertools.count(1_700_000_000_000, 60_000)
    return Controller(tmp_path / "jenkins", clock=lambda: next(clock))


@pytest.fixture
def server(ci):
    with standin.serve(ci) as running:
        yield running


@pytest.fixture
def job(ci):
    return ci.matrix("image-ubuntu", axes=AXES)


@pytest.fixture
def build(ci):
    """A freestyle build with one larger file."""
    return ci.freestyle("image").build(files={"disk.qcow2": BODY})


def get(server, path, session=requests, **options):
    return session.get(f"{server.url}{path}", timeout=5, allow_redirects=False, **options)


def tree(server, path, spec):
    answer = get(server, f"{path}api/json", params={"tree": spec})
    assert answer.status_code == 200, answer.text
    return answer.json()


def raw(server, request, patience=5):
    """Send bytes as they are; all that comes back until the end or until nothing more comes."""
    host = ("127.0.0.1", server.server_address[1])
    with socket.create_connection(host, timeout=patience) as connection:
        connection.sendall(request)
        got = b""
        try:
            while block := connection.recv(65536):
                got += block
        except TimeoutError:
            assert patience < 1
        return got


def path_status(server, path):
    """The answer to a path that no client library has tidied."""
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return int(answer.split()[1]), dict(re.findall(r"(?m)^([\w-]+): (.*)\r$", answer.decode("latin1")))


class TestTree:
    N = ("_class", "hudson.model.FreeStyleBuild")

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            pytest.param("name", {"name": "j"}, id="one name"),
            pytest.param("name,nextBuildNumber", {"name": "j", "nextBuildNumber": 5}, id="two"),
            pytest.param("name,nonsense", {"name": "j"}, id="unknown is ignored"),
            pytest.param("nonsense[a[b]{1,2}]", {}, id="unknown, nested"),
            pytest.param("lastBuild", {"lastBuild": {}}, id="an object without brackets"),
            pytest.param("builds", {"builds": [{}, {}, {}, {}]}, id="a list without brackets"),
            pytest.param("builds[number]{0,2}", {"builds": [{"number": 4}, {"number": 3}]}, id="N,M"),
            pytest.param("builds[number]{1}", {"builds": [{"number": 3}]}, id="N"),
            pytest.param("builds[number]{3,}", {"builds": [{"number": 1}]}, id="N,"),
            pytest.param("builds[number]{,1}", {"builds": [{"number": 4}]}, id=",M"),
            pytest.param("builds[number]{9,10}", {"builds": []}, id="past the end"),
            pytest.param("builds{2}", {"builds": [{}]}, id="range without brackets"),
            pytest.param(
                "lastBuild[number],lastBuild[result]", {"lastBuild": {"result": "SUCCESS"}}, id="last wins"
            ),
            pytest.param("lastBuild[number],lastBuild", {"lastBuild": {}}, id="last wins, bare"),
            pytest.param("scm[*]", {"scm": {}}, id="star of nothing"),
            pytest.param("firstBuild[*,number]{3}", None, id="star and a name"),
        ],
    )
    def test_prunes(self, ci, server, spec, expected):
        job = ci.freestyle("j")
        for _ in range(4):
            job.build(files={"a": b"1"})
        got = tree(server, "/job/j/", spec)
        assert got.pop("_class") == "hudson.model.FreeStyleProject"
        if expected is None:
            names = got["firstBuild"]
            assert names["number"] == 1
            assert names["fingerprint"] == [{}]
            assert {"artifacts", "timestamp", "url"} <= names.keys()
        else:
            assert without_class(got) == expected

    def test_keeps_the_class_everywhere(self, ci, server):
        ci.freestyle("j").build(parameters={"image": "i"})
        got = tree(server, "/", "jobs[lastBuild[actions[parameters[name,value]]]]")
        assert got == {
            "_class": "hudson.model.Hudson",
            "jobs": [
                {
                    "_class": "hudson.model.FreeStyleProject",
                    "lastBuild": {
                        "_class": "hudson.model.FreeStyleBuild",
                        "actions": [
                            {"_class": "hudson.model.CauseAction"},
                            {},
                            {
                                "_class": "hudson.model.ParametersAction",
                                "parameters": [
                                    {
                                        "_class": "hudson.model.StringParameterValue",
                                        "name": "image",
                                        "value": "i",
                                    }
                                ],
                            },
                        ],
                    },
                }
            ],
        }

    @pytest.mark.parametrize(
        "spec",
        ["", ",", "a,", ",a", "a,,b", "a[", "a[]", "a]", "[a]", "a[b", "a[b]]", "a[b]c", "a{", "a{}",
         "a{x}", "a{1", "a{1,2", "a{1,2,3}", "a{,}", "a{-1}", "a{1 }", "a{1}[b]", "a{1}{2}", "{1}"],
    )  # fmt: skip
    def test_refuses(self, server, spec):
        answer = get(server, "/api/json", params={"tree": spec})
        assert (answer.status_code, answer.headers["Content-Type"]) == (500, "text/html;charset=utf-8")
        assert "Malformed tree expression" in answer.text

    @pytest.mark.parametrize("spec", ["a b", "a\nb", "ä", "jobs [name]"])
    def test_takes_anything_as_a_name(self, spec):
        assert treequery.parse(spec).children


def without_class(value):
    if isinstance(value, dict):
        return {name: without_class(each) for name, each in value.items() if name != "_class"}
    return [without_class(each) for each in value] if isinstance(value, list) else value


class TestDepth:
    def test_zero_shows_references(self, ci, server):
        ci.freestyle("j").build(files={"a": b"1"})
        top = get(server, "/api/json").json()
        url = f"{server.url}/job/j/"
        kind = "hudson.model.FreeStyleProject"
        assert top["jobs"] == [{"_class": kind, "name": "j", "url": url, "color": "blue"}]
        job = get(server, "/job/j/api/json").json()
        kind = "hudson.model.FreeStyleBuild"
        assert job["builds"] == [{"_class": kind, "number": 1, "url": f"{url}1/"}]
        build = get(server, "/job/j/1/api/json?depth=0").json()
        assert build["artifacts"] == [{"displayPath": "a", "fileName": "a", "relativePath": "a"}]

    @pytest.mark.parametrize(("depth", "hidden"), [(0, True), (1, True), (2, False)])
    def test_hides_fingerprints(self, build, server, depth, hidden):
        got = get(server, f"/job/image/1/api/json?depth={depth}").json()
        assert ("fingerprint" not in got) is hidden

    def test_hides_all_builds(self, build, server):
        assert "allBuilds" not in get(server, "/job/image/api/json?depth=1").json()
        assert tree(server, "/job/image/", "allBuilds[number]")["allBuilds"][0]["number"] == 1

    def test_one_goes_one_step_further(self, build, server):
        got = get(server, "/api/json?depth=1").json()["jobs"][0]
        assert got["nextBuildNumber"] == 2
        assert "number" in got["lastBuild"]
        assert "result" not in got["lastBuild"]

    def test_forms(self, build, server):
        plain = get(server, "/job/image/api/json")
        pretty = get(server, "/job/image/api/json?pretty=true")
        python = get(server, "/job/image/api/python")
        assert "\n" in pretty.text
        assert "\n" not in plain.text
        assert pretty.json() == plain.json()
        assert "'queueItem': None" in python.text
        assert get(server, "/job/image/api/json?jsonp=f").status_code == 403
        assert get(server, "/job/image/api/xml").status_code == 404


class TestObjects:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/", "hudson.model.Hudson"),
            ("/view/all/", "hudson.model.AllView"),
            ("/view/Images/", "hudson.model.ListView"),
            ("/view/Images/job/image-ubuntu/", "hudson.matrix.MatrixProject"),
            ("/job/image-ubuntu/", "hudson.matrix.MatrixProject"),
            ("/job/image-ubuntu/1/", "hudson.matrix.MatrixBuild"),
            (f"/job/image-ubuntu/{AMD}/", "hudson.matrix.MatrixConfiguration"),
            (f"/job/image-ubuntu/{AMD}/1/", "hudson.matrix.MatrixRun"),
            (f"/job/image-ubuntu/1/{AMD}/", "hudson.matrix.MatrixRun"),
            ("/job/images/", "com.cloudbees.hudson.plugins.folder.Folder"),
            ("/job/images/job/nightly/job/pipe/", "org.jenkinsci.plugins.workflow.job.WorkflowJob"),
            ("/job/images/job/nightly/job/pipe/1/", "org.jenkinsci.plugins.workflow.job.WorkflowRun"),
            ("/job/images/view/P/", "hudson.model.ListView"),
            ("/job/images/view/P/job/nightly/", "com.cloudbees.hudson.plugins.folder.Folder"),
            ("/job/many/", "org.jenkinsci.plugins.workflow.multibranch.WorkflowMultiBranchProject"),
            ("/job/many/job/feature%252Fx/", "org.jenkinsci.plugins.workflow.job.WorkflowJob"),
            ("/job/none/", None),
            ("/job/images/job/none/", None),
            ("/job/image-ubuntu/2/", None),
            ("/job/image-ubuntu/release=jammy/", None),
            ("/view/None/", None),
            ("/nothing/", None),
            ("/job/", None),
        ],
    )
    def test_have_urls_and_classes(self, ci, job, server, path, kind):
        ci.view("Images", jobs=["image-*"])
        ci.folder("images")
        ci.folder("images/nightly")
        ci.view("P", jobs=["n*"], folder="images")
        ci.folder("many", multibranch=True)
        ci.pipeline("pipe", folder="images/nightly").build()
        ci.pipeline("feature%2Fx", folder="many")
        job.build({AMD: {}, ARM: {}})
        answer = get(server, f"{path}api/json?tree=url")
        if kind is None:
            assert answer.status_code == 404
            assert answer.headers["Content-Type"].startswith("text/html")
            return
        assert answer.json()["_class"] == kind
        url = answer.json()["url"]
        again = requests.get(f"{url}api/json?tree=url", timeout=5).json()
        assert again["url"] == url

    def test_lists(self, ci, job, server):
        ci.folder("images")
        ci.freestyle("inner", folder="images")
        ci.freestyle("test-image")
        ci.view("Images", jobs=["image*"])
        got = without_class(
            tree(server, "/", "jobs[name,jobs[name]],views[name,jobs[name]],primaryView[name]")
        )
        names = [{"name": "image-ubuntu"}, {"name": "images"}, {"name": "test-image"}]
        assert got == {
            "jobs": [names[0], {**names[1], "jobs": [{"name": "inner"}]}, names[2]],
            "views": [{"name": "all", "jobs": names}, {"name": "Images", "jobs": names[:2]}],
            "primaryView": {"name": "all"},
        }

    def test_configurations_follow_the_axes_and_the_filter(self, ci, job, server):
        job.build({AMD: {}})
        spec = "activeConfigurations[name,displayName,lastBuild[number]]"
        everything = [
            {"name": AMD, "displayName": "amd64,noble,default", "lastBuild": {"number": 1}},
            {"name": ARM, "displayName": "arm64,noble,default", "lastBuild": None},
        ]
        assert without_class(tree(server, "/job/image-ubuntu/", spec))["activeConfigurations"] == everything
        arm = {"variant": "default", "release": "noble", "architecture": "arm64"}
        ci.matrix("image-ubuntu", axes=AXES, only=[arm])
        assert (
            without_class(tree(server, "/job/image-ubuntu/", spec))["activeConfigurations"] == everything[1:]
        )
        assert tree(server, f"/job/image-ubuntu/{AMD}/1/", "number")["number"] == 1

    @pytest.mark.parametrize(
        "name",
        [AMD, dict(pair.split("=") for pair in AMD.split(",")),
         frozenset({("variant", "default"), ("release", "noble"), ("architecture", "amd64")}),
         "variant=default,architecture=amd64,release=noble"],
    )  # fmt: skip
    def test_configurations_are_named_in_any_form(self, name):
        assert configuration_name(name) == AMD

    def test_a_value_may_hold_an_equals_sign(self):
        assert configuration_name("b=x=y,a=") == "a=,b=x=y"
        assert configuration_name({}) == "default"

    @pytest.mark.parametrize(
        "path",
        [
            AMD,
            "variant=default,release=noble,architecture=amd64",
            "release%3Dnoble%2Carchitecture%3Damd64%2Cvariant%3Ddefault",
            "release=noble%2cvariant=default%2Carchitecture=%61md64",
        ],
    )
    def test_configurations_are_found_in_any_order(self, job, server, path):
        job.build({AMD: {"serial": b"1"}})
        assert path_status(server, f"/job/image-ubuntu/{path}/1/artifact/serial")[0] == 200
        assert path_status(server, f"/job/image-ubuntu/lastBuild/{path}/artifact/serial")[0] == 200

    @pytest.mark.parametrize("name", ["a b", "ä", "a~b", "50%", "a;b", "a'b(c)!$&*+,-.=@_", "a#b?c"])
    def test_names_are_quoted(self, ci, server, name):
        ci.freestyle(name).build(files={f"{name}/{name}": b"1"})
        url = tree(server, "/", "jobs[lastBuild[url]]")["jobs"][0]["lastBuild"]["url"]
        path = requests.get(f"{url}api/json", timeout=5).json()["artifacts"][0]["relativePath"]
        assert path == f"{name}/{name}"
        quoted = url.removeprefix(f"{server.url}/job/").removesuffix("/1/")
        assert re.fullmatch(r"[A-Za-z0-9!$&'()*+,\-.=@_%]+", quoted)
        assert requests.get(f"{url}artifact/{quoted}/{quoted}", timeout=5).content == b"1"

    @pytest.mark.parametrize(
        ("option", "expected"),
        [(None, None), ("https://wrong.example/ci", "https://wrong.example/ci/job/image/1/")],
    )
    def test_urls_follow_the_jenkins_url(self, ci, build, option, expected):
        with standin.serve(ci, public_url=option) as server:
            assert tree(server, "/job/image/1/", "url")["url"] == expected

    @pytest.mark.parametrize(
        ("paths", "shown"),
        [
            (["a/x", "b/x", "y"], ["a/x", "b/x", "y"]),
            (["a/b/x", "a/c/y"], ["x", "y"]),
            (["x", "a/x", "ax"], ["a/x", "ax", "x"]),
            ([f"f{n:02}" for n in range(20)], [f"f{n:02}" for n in range(20)]),
            ([f"f{n:02}" for n in range(21)], [None] * 21),
        ],
    )
    def test_display_paths(self, ci, server, paths, shown):
        ci.freestyle("j").build(files=dict.fromkeys(paths, b""))
        got = tree(server, "/job/j/1/", "artifacts[displayPath]")["artifacts"]
        assert [each["displayPath"] for each in got] == shown


class TestPermalinks:
    LINKS = ("lastBuild", "lastCompletedBuild", "lastStableBuild", "lastSuccessfulBuild",
             "lastUnstableBuild", "lastFailedBuild", "lastUnsuccessfulBuild")  # fmt: skip

    @pytest.mark.parametrize(
        ("results", "numbers", "color"),
        [
            ([], [None] * 7, "notbuilt"),
            (["SUCCESS"], [1, 1, 1, 1, None, None, None], "blue"),
            (["SUCCESS", "UNSTABLE"], [2, 2, 1, 2, 2, None, 2], "yellow"),
            (["UNSTABLE", "FAILURE"], [2, 2, None, 1, 1, 2, 2], "red"),
            (["SUCCESS", "ABORTED"], [2, 2, 1, 1, None, None, 2], "aborted"),
            (["FAILURE", "NOT_BUILT"], [2, 2, None, None, None, 1, 2], "notbuilt"),
            (["SUCCESS", "FAILURE", "SUCCESS"], [3, 3, 3, 3, None, 2, 2], "blue"),
            (["SUCCESS", "building"], [2, 1, 1, 1, None, None, None], "blue_anime"),
            (["FAILURE", "building SUCCESS"], [2, 1, None, None, None, 1, 1], "red_anime"),
            (["FAILURE", "post SUCCESS"], [2, 2, 2, 2, None, 1, 1], "blue"),
            (["queued"], [1, None, None, None, None, None, None], "notbuilt_anime"),
        ],
    )
    def test_follow_results_and_states(self, ci, server, results, numbers, color):
        job = ci.freestyle("j")
        for step in results:
            state, _, result = step.rpartition(" ")
            if step == "queued":
                job.queue()
            elif step == "building":
                job.start()
            elif state == "building":
                job.start(result=result)
            elif state == "post":
                running = job.start()
                running.set_result(result)
                running.post_production()
            else:
                job.build(result=step)
        got = tree(server, "/job/j/", "color," + ",".join(f"{link}[number]" for link in self.LINKS))
        assert [got[link] and got[link]["number"] for link in self.LINKS] == numbers
        assert got["color"] == color
        for link, number in zip(self.LINKS, numbers, strict=True):
            answer = get(server, f"/job/j/{link}/api/json?tree=number")
            assert (answer.json()["number"] if number else answer.status_code) == (number or 404)

    def test_disabled(self, ci, server):
        job = ci.freestyle("j")
        job.build()
        job.disable()
        got = tree(server, "/job/j/", "color,disabled,buildable")
        assert (got["color"], got["disabled"], got["buildable"]) == ("disabled", True, False)


class TestStates:
    SPEC = "result,building,inProgress,duration"

    def test_a_build_step_by_step(self, ci, server):
        job = ci.freestyle("j")

        def shown():
            return tuple(
                without_class(tree(server, "/job/j/1/", self.SPEC)[name]) for name in self.SPEC.split(",")
            )

        build = job.queue(duration=5000)
        assert shown() == (None, True, False, 0)
        build.begin()
        assert shown() == (None, True, True, 0)
        build.set_result("UNSTABLE")
        assert shown() == ("UNSTABLE", True, True, 0)
        build.post_production()
        assert shown() == ("UNSTABLE", False, True, 5000)
        build.complete()
        assert shown() == ("UNSTABLE", False, False, 5000)

    def test_a_configuration_is_done_before_its_parent(self, job, server):
        parent = job.start()
        run = parent.run(AMD, {"serial": b"1"})
        run.complete("SUCCESS")
        spec = "lastSuccessfulBuild[number],activeConfigurations[lastSuccessfulBuild[number]]"
        got = without_class(tree(server, "/job/image-ubuntu/", spec))
        assert got["lastSuccessfulBuild"] is None
        assert got["activeConfigurations"][0]["lastSuccessfulBuild"] == {"number": 1}
        parent.complete("SUCCESS")
        assert tree(server, "/job/image-ubuntu/lastSuccessfulBuild/", "number")["number"] == 1

    def test_the_last_step_of_a_build_does_not_see_it_as_done(self, job, server):
        job.build({AMD: {"serial": b"1"}})
        seen = []

        def hook(run):
            config = f"/job/image-ubuntu/{run.environment(server.url)['JOB_BASE_NAME']}/"
            own = tree(server, f"{config}{run.number}/", "building,result")
            last = tree(server, f"{config}lastSuccessfulBuild/", "number")
            seen.append((own["building"], own["result"], last["number"]))
            assert get(server, f"{config}{run.number}/artifact/serial").content == b"2"

        job.build({AMD: {"serial": b"2"}}, post_build=hook)
        assert seen == [(True, "SUCCESS", 1)]
        assert tree(server, f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/", "number")["number"] == 2

    def test_environment(self, ci):
        ci.folder("images")
        run = ci.matrix("u", axes=AXES, folder="images").start().run(ARM)
        job = f"images/u/{ARM}"
        assert run.environment(None) == {
            "CI": "true", "JOB_NAME": job, "JOB_BASE_NAME": ARM, "BUILD_NUMBER": "1", "BUILD_ID": "1",
            "BUILD_TAG": f"jenkins-images-u-{ARM}-1",
            "architecture": "arm64", "release": "noble", "variant": "default",
        }  # fmt: skip
        assert run.environment("http://ci")["BUILD_URL"] == f"http://ci/job/images/job/u/{ARM}/1/"

    def test_older_runs_stand_in_for_missing_ones(self, job, server):
        job.build({AMD: {"serial": b"1"}, ARM: {}})
        job.build({ARM: {}})
        got = tree(server, "/job/image-ubuntu/2/", "runs[number,url]")["runs"]
        assert [run["number"] for run in got] == [1, 2]
        answer = get(server, f"/job/image-ubuntu/2/{AMD}/api/json?tree=number")
        assert answer.status_code == 302
        assert answer.headers["Location"] == f"/job/image-ubuntu/{AMD}/1/api/json?tree=number"
        followed = requests.get(f"{server.url}/job/image-ubuntu/2/{AMD}/artifact/serial", timeout=5)
        assert followed.content == b"1"

    def test_console(self, ci, server):
        build = ci.freestyle("j").start(log="hello\n")
        assert get(server, "/job/j/1/consoleText").text == "Started by user admin\nhello\n"
        build.complete("FAILURE")
        assert get(server, "/job/j/1/consoleText").text.endswith("hello\nFinished: FAILURE\n")


class TestRotation:
    def test_keeps_the_last_good_ones(self, ci):
        job = ci.freestyle("j", keep=2)
        for result in ("SUCCESS", "UNSTABLE", "FAILURE", "FAILURE", "FAILURE"):
            job.build(result=result, files={"a": b"1"})
        assert list(job.builds) == [1, 2, 4, 5]
        assert sorted(path.name for path in (ci.home / "artifacts/j").iterdir()) == ["1", "2", "4", "5"]

    def test_keeps_what_runs(self, ci):
        job = ci.freestyle("j", keep=1)
        running = job.start()
        job.build()
        job.build()
        assert list(job.builds) == [1, 3]
        running.complete("FAILURE")
        assert list(job.builds) == [3]

    def test_a_configuration_loses_even_its_last_good_run(self, ci, server):
        job = ci.matrix("image-ubuntu", axes=AXES, keep=2)
        job.build({AMD: {"serial": b"1"}})
        job.build({ARM: {}})
        assert tree(server, f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/", "number")["number"] == 1
        for _ in range(2):
            failed = job.start()
            failed.run(AMD).complete("FAILURE")
            failed.complete("SUCCESS")
        got = tree(server, f"/job/image-ubuntu/{AMD}/", "lastSuccessfulBuild[number],builds[number]")
        assert got["lastSuccessfulBuild"] is None
        assert [each["number"] for each in got["builds"]] == [4, 3]
        assert get(server, f"/job/image-ubuntu/{AMD}/1/artifact/serial").status_code == 404

    def test_purged_artifacts_leave_the_build(self, build, server):
        build.purge_artifacts()
        got = tree(server, "/job/image/1/", "result,artifacts[relativePath],fingerprint[hash]")
        assert (got["result"], got["artifacts"], len(got["fingerprint"])) == ("SUCCESS", [], 1)
        assert get(server, "/job/image/1/artifact/disk.qcow2").status_code == 404

    def test_a_download_outlives_its_build(self, ci, server):
        build = ci.freestyle("big").build(files={"disk": b"x" * (8 << 20)})
        with get(server, "/job/big/1/artifact/disk", stream=True) as answer:
            build.job.delete_build(1)
            assert len(answer.content) == 8 << 20
        assert get(server, "/job/big/1/api/json").status_code == 404

    def test_a_given_number_makes_the_job_anew(self, ci, job, server):
        for _ in range(3):
            job.build({AMD: {}, ARM: {}})
        job.build({AMD: {}}, number=2)
        got = tree(server, "/job/image-ubuntu/", "nextBuildNumber,builds[number]")
        assert (got["nextBuildNumber"], [each["number"] for each in got["builds"]]) == (3, [2])
        assert tree(server, f"/job/image-ubuntu/{ARM}/", "builds[number]")["builds"] == []
        job.build({AMD: {}}, number=9)
        assert list(job.builds) == [2, 9]

    def test_a_removed_job_is_gone(self, ci, build, server):
        build.job.remove()
        assert get(server, "/job/image/api/json").status_code == 404
        assert not any((ci.home / "artifacts").iterdir())


class TestFingerprints:
    def test_the_first_name_wins_everywhere(self, ci, server):
        ci.freestyle("old").build(files={"x/first": b"same"}, timestamp=7)
        ci.freestyle("new").build(files={"b": b"same", "a": b"same", "c": b"other"})
        got = tree(server, "/job/new/1/", "fingerprint[fileName,hash,timestamp,original[name,number]]")
        same = {
            "fileName": "first",
            "hash": md5(b"same").hexdigest(),
            "timestamp": 7,
            "original": {"name": "old", "number": 1},
        }
        assert got["fingerprint"][:2] == [same, same]
        assert got["fingerprint"][2]["fileName"] == "c"
        record = get(server, f"/fingerprint/{same['hash']}/api/json?tree=fileName,usage[name]").json()
        assert record == {"fileName": "first", "usage": [{"name": "old"}, {"name": "new"}]}

    def test_are_optional(self, ci, server):
        ci.freestyle("j").build(files={"a": b"1"}, fingerprint=False)
        assert tree(server, "/job/j/1/", "fingerprint[hash]")["fingerprint"] == []

    def test_do_not_follow_a_replaced_file(self, build, server):
        build.archive({"disk.qcow2": b"replaced"}, fingerprint=False)
        known = tree(server, "/job/image/1/", "fingerprint[hash]")["fingerprint"][0]["hash"]
        assert known == md5(BODY).hexdigest()
        assert get(server, "/job/image/1/artifact/disk.qcow2").content == b"replaced"

    def test_a_path_is_linked(self, ci, tmp_path, server):
        (tmp_path / "big").write_bytes(BODY)
        build = ci.freestyle("j").build(files={"deep/big": tmp_path / "big"})
        assert os.path.samefile(build.directory / "deep/big", tmp_path / "big")
        assert build.prints == {"deep/big": md5(BODY).hexdigest()}


class TestFiles:
    MTIME = 1_700_000_000
    DATE = "Tue, 14 Nov 2023 22:13:20 GMT"

    @pytest.mark.parametrize(
        ("asked", "status", "content", "span"),
        [
            ({}, 200, BODY, None),
            ({"Range": "bytes=0-9"}, 206, BODY[:10], "bytes 0-9/102400"),
            ({"Range": "bytes=100000-"}, 206, BODY[100000:], "bytes 100000-102399/102400"),
            ({"Range": "bytes=102399-999999"}, 206, BODY[-1:], "bytes 102399-102399/102400"),
            ({"Range": "bytes=102400-"}, 206, b"", "bytes 102400-102399/102400"),
            ({"Range": "bytes=-500"}, 200, BODY, None),
            ({"Range": "bytes=0-1,4-5"}, 200, BODY, None),
            ({"Range": "chunks=0-1"}, 200, BODY, None),
            ({"Range": "bytes=0-9", "If-Range": '"other"'}, 206, BODY[:10], "bytes 0-9/102400"),
            ({"If-Modified-Since": DATE}, 304, b"", None),
            ({"If-Modified-Since": "Tue, 14 Nov 2023 22:13:19 GMT"}, 200, BODY, None),
            ({"If-Modified-Since": "yesterday"}, 200, BODY, None),
            ({"If-Modified-Since": DATE, "Range": "bytes=0-9"}, 304, b"", None),
            ({"If-None-Match": "*"}, 200, BODY, None),
        ],
    )
    def test_requests(self, build, server, asked, status, content, span):
        os.utime(build.directory / "disk.qcow2", (self.MTIME, self.MTIME))
        answer = get(server, "/job/image/1/artifact/disk.qcow2", headers=asked)
        assert (answer.status_code, answer.headers.get("Content-Range")) == (status, span)
        assert answer.content == content
        if status != 304:
            assert answer.headers["Content-Length"] == str(len(content))

    def test_headers(self, build, server):
        os.utime(build.directory / "disk.qcow2", (self.MTIME, self.MTIME))
        headers = get(server, "/job/image/1/artifact/disk.qcow2").headers
        assert headers["Last-Modified"] == headers["Expires"] == self.DATE
        assert headers["Accept-Ranges"] == "bytes"
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("sandbox;")
        assert not headers.keys() & {"ETag", "Content-MD5", "Transfer-Encoding", "Content-Encoding"}

    def test_past_the_end_the_length_is_negative(self, build, server):
        status, headers = path_status(
            server, "/job/image/1/artifact/disk.qcow2 HTTP/1.1\r\nRange: bytes=200000-\r\nX:"
        )
        assert (status, headers["Content-Range"]) == (206, "bytes 200000-102399/102400")
        assert headers["Content-Length"] == str(102400 - 200000)

    def test_head_has_no_body(self, build, server):
        session = requests.Session()
        for _ in range(2):
            answer = session.head(f"{server.url}/job/image/1/artifact/disk.qcow2", timeout=5)
            assert (answer.status_code, answer.headers["Content-Length"]) == (200, "102400")

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("lxc/rootfs.tar.xz", 200),
            ("lxc%2Frootfs.tar.xz", 400),
            ("lxc/", 200),
            ("lxc", 302),
            ("", 200),
            ("lxc/../serial", 400),
            ("../1/artifact/serial", 400),
            ("%2e%2e/serial", 400),
            ("..%2fserial", 400),
            ("..%5cserial", 400),
            ("a..b", 200),
            ("link", 404),
            ("linked/rootfs.tar.xz", 404),
            ("lxc@tmp/secret", 404),
            ("nothing", 404),
            ("serial/more", 404),
            ("serial/*view*/", 200),
            ("*zip*/all.zip", 200),
            ("nothing/*zip*/all.zip", 404),
        ],
    )
    def test_paths(self, ci, server, path, status):
        files = ("serial", "lxc/rootfs.tar.xz", "lxc@tmp/secret", "a..b")
        build = ci.freestyle("j").build(files=dict.fromkeys(files, b"1"))
        (build.directory / "link").symlink_to("serial")
        (build.directory / "linked").symlink_to("lxc")
        got, headers = path_status(server, f"/job/j/1/artifact/{path}")
        assert got == status
        if status == 302:
            assert headers["Location"] == "/job/j/1/artifact/lxc/"

    def test_directories(self, ci, server):
        ci.freestyle("j").build(files={"lxc/rootfs": b"r", "lxc/deep/x": b"x", "s.json": b"{}"})
        assert get(server, "/job/j/1/artifact/lxc/*plain*").text == "deep/\nrootfs\n"
        answer = get(server, "/job/j/1/artifact/lxc/*zip*/lxc.zip")
        assert "Content-Length" not in answer.headers
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.namelist() == ["lxc/deep/x", "lxc/rootfs"]
        assert get(server, "/job/j/1/artifact/s.json").headers["Content-Type"] == "application/json"


class TestHttp:
    def test_json_is_chunked_and_signed(self, ci, server):
        answer = get(server, "/api/json")
        headers = answer.headers
        assert headers["Transfer-Encoding"] == "chunked"
        assert "Content-Length" not in headers
        assert headers["Content-Type"] == "application/json;charset=utf-8"
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "deny")
        assert re.fullmatch(r"\d\.\d+", headers["X-Jenkins"])
        assert re.fullmatch("[0-9a-f]{8}", headers["X-Jenkins-Session"])
        assert not headers.keys() & {"ETag", "Last-Modified"}

    def test_a_restart_changes_the_session(self, server):
        before = get(server, "/api/json").headers["X-Jenkins-Session"]
        server.restart(busy=2)
        answers = [get(server, "/api/json") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert "Retry-After" not in answers[0].headers
        assert answers[2].headers["X-Jenkins-Session"] != before

    def test_connections_stay_open(self, build, server):
        session = requests.Session()
        for path in ("/api/json", "/job/image/1/artifact/disk.qcow2", "/none/", "/api/json?tree="):
            get(server, path, session)
        assert len(session.adapters["http://"].poolmanager.pools) == 1
        pool = session.adapters["http://"].poolmanager.connection_from_url(server.url)
        assert (pool.num_connections, pool.num_requests) == (1, 4)

    def test_requests_are_logged(self, build, server):
        get(server, "/api/json", params={"tree": "jobs[name]"}, auth=("me", "secret"))
        get(server, "/job/image/1/artifact/disk.qcow2", headers={"Range": "bytes=0-99"})
        first, second = server.requests
        assert (first.method, first.path, first.query) == ("GET", "/api/json", "tree=jobs[name]")
        assert first.headers["authorization"].startswith("Basic ")
        assert (second.status, second.sent, second.headers["range"]) == (206, 100, "bytes=0-99")
        assert server.count(r"/api/json\?tree=jobs\[name\]$") == 1
        assert server.count("/artifact/") == 1
        server.clear()
        assert server.count() == 0

    def test_latency(self, ci):
        with standin.serve(ci, latency=0.1) as server:
            began = time.monotonic()
            get(server, "/api/json")
            assert time.monotonic() - began > 0.1

    def test_slashes(self, build, server):
        assert get(server, "/job/image").headers["Location"] == "/job/image/"
        assert get(server, "/job/image/").status_code == 200
        assert get(server, "/job/image/1").status_code == 302

    def test_stopped_is_refused(self, ci):
        session = requests.Session()
        with standin.serve(ci) as server:
            get(server, "/api/json", session)
        with pytest.raises(requests.ConnectionError):
            get(server, "/api/json", session)
        with standin.serve(ci, port=server.server_address[1]) as again:
            assert again.url == server.url
            assert get(again, "/api/json", session).ok


class TestAuth:
    AUTH = Auth(user="me", token="11aa", password="pw", hidden="secret", denied="shown")

    @pytest.mark.parametrize(
        ("given", "path", "status", "header"),
        [
            (("me", "11aa"), "/api/json", 200, None),
            (("me", "pw"), "/api/json", 200, None),
            (("me", "wrong"), "/api/json", 401, ("WWW-Authenticate", 'Basic realm="Jenkins"')),
            (("you", "11aa"), "/api/json", 401, ("WWW-Authenticate", 'Basic realm="Jenkins"')),
            (("me", ""), "/api/json", 401, None),
            (None, "/api/json", 403, ("X-Required-Permission", "hudson.model.Hudson.Read")),
            (None, "/job/open/", 403, ("X-You-Are-Authenticated-As", "anonymous")),
            (("me", "11aa"), "/job/open/api/json", 200, None),
            (("me", "11aa"), "/job/secret/api/json", 404, None),
            (("me", "11aa"), "/job/secret/1/artifact/a", 404, None),
            (("me", "11aa"), "/job/shown/api/json", 403, ("X-You-Are-Authenticated-As", "me")),
            (
                ("me", "11aa"),
                "/job/shown/1/artifact/a",
                403,
                ("X-Required-Permission", "hudson.model.Item.Read"),
            ),
        ],
    )
    def test_answers(self, ci, given, path, status, header):
        for name in ("open", "secret", "shown"):
            ci.freestyle(name).build(files={"a": b"1"})
        with standin.serve(ci, auth=self.AUTH) as server:
            answer = get(server, path, auth=given or no_netrc)
        assert answer.status_code == status
        if status != 200:
            assert answer.headers["Content-Type"].startswith("text/html")
        if header:
            assert answer.headers[header[0]] == header[1]

    @pytest.mark.parametrize("value", ["Basic !!!", "Basic", "Bearer 11aa", "Basic bWU=", "x"])
    def test_malformed_is_refused(self, ci, value):
        with standin.serve(ci, auth=self.AUTH) as server:
            assert get(server, "/api/json", headers={"Authorization": value}).status_code == 401

    def test_the_login_page_comes_without_redirect(self, ci):
        with standin.serve(ci, auth=self.AUTH) as server:
            answer = get(server, "/api/json", auth=no_netrc)
        assert "/login?from=%2Fapi%2Fjson" in answer.text

    def test_unreadable_jobs_are_not_listed(self, ci):
        for name in ("open", "secret", "shown"):
            ci.freestyle(name)
        with standin.serve(ci, auth=self.AUTH) as server:
            got = get(server, "/api/json?tree=jobs[name]", auth=("me", "11aa")).json()["jobs"]
        assert [job["name"] for job in got] == ["open"]

    def test_artifacts_can_be_denied_alone(self, build, ci):
        auth = Auth(user="me", token="t", anonymous=True, artifacts=False)
        with standin.serve(ci, auth=auth) as server:
            assert get(server, "/job/image/1/api/json", auth=no_netrc).ok
            answer = get(server, "/job/image/1/artifact/disk.qcow2", auth=no_netrc)
        assert answer.status_code == 403
        assert answer.headers["X-Required-Permission"] == "hudson.model.Run.Artifacts"

    @pytest.mark.parametrize(
        ("given", "crumb", "status"),
        [
            ("11aa", "none", 201),
            ("pw", "none", 403),
            ("pw", "mine", 201),
            ("pw", "old", 403),
            ("pw", "foreign", 403),
        ],
    )
    def test_crumbs(self, ci, given, crumb, status):
        ci.freestyle("open")
        with standin.serve(ci, auth=self.AUTH) as server:
            session = requests.Session()
            session.auth = ("me", given)
            headers = {}
            if crumb != "none":
                issued = get(server, "/crumbIssuer/api/json", session).json()
                assert issued["_class"] == "hudson.security.csrf.DefaultCrumbIssuer"
                headers = {issued["crumbRequestField"]: issued["crumb"]}
            if crumb == "old":
                server.restart()
            if crumb == "foreign":
                session.cookies.clear()
            answer = session.post(f"{server.url}/job/open/build", headers=headers, timeout=5)
        assert answer.status_code == status
        if status == 403:
            assert "No valid crumb was included in the request" in answer.text


def no_netrc(request):
    """An auth object that does nothing: with None, requests would look into ~/.netrc."""
    return request


class TestTrigger:
    @pytest.fixture
    def auth(self):
        return Auth(user="me", token="t", anonymous=True)

    def test_queues_a_build_with_parameters(self, ci, auth):
        job = ci.freestyle("test-image")
        triggered = []
        ci.on_trigger = triggered.append
        with standin.serve(ci, auth=auth) as server:
            url = f"{server.url}/job/test-image/buildWithParameters"
            answer = requests.post(
                url, params={"image": "u"}, data={"build": "7"}, auth=("me", "t"), timeout=5
            )
            got = tree(
                server, "/job/test-image/1/", "building,inProgress,queueId,actions[parameters[name,value]]"
            )
            assert answer.status_code == 201
            assert answer.headers["Location"] == f"{server.url}/queue/item/{got['queueId']}/"
        assert triggered == [job.builds[1]]
        assert job.builds[1].parameters == {"image": "u", "build": "7"}
        assert (got["building"], got["inProgress"]) == (True, False)
        values = [each["value"] for each in got["actions"][2]["parameters"]]
        assert values == ["u", "7"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "test/build", 405), ("POST", "off/build", 409), ("POST", "none/build", 404)],
    )
    def test_refuses(self, ci, auth, method, path, status):
        ci.freestyle("test")
        ci.freestyle("off").disable()
        with standin.serve(ci, auth=auth) as server:
            answer = requests.request(method, f"{server.url}/job/{path}", auth=("me", "t"), timeout=5)
        assert answer.status_code == status

    def test_an_open_server_wants_a_crumb(self, ci, server):
        ci.freestyle("test")
        assert requests.post(f"{server.url}/job/test/build", timeout=5).status_code == 403


class TestFaults:
    URL = "/job/image/1/artifact/disk.qcow2"

    @pytest.mark.parametrize(
        ("path", "fault", "expected"),
        [
            pytest.param(URL, faults.Status(503, {"Retry-After": "1"}), (503, "1"), id="status"),
            pytest.param(URL, faults.Status(429, {}, b"slow down"), (429, b"slow down"), id="body"),
            pytest.param("/api/json", faults.LOGIN_PAGE, (200, "text/html;charset=utf-8"), id="login"),
            pytest.param(URL, faults.Cut(1000), requests.exceptions.ChunkedEncodingError, id="cut"),
            pytest.param(URL, faults.Cut(1000, "chunked"), requests.exceptions.ChunkedEncodingError, id="cut chunked"),
            pytest.param("/api/json", faults.Cut(20), requests.exceptions.ChunkedEncodingError, id="cut json"),
            pytest.param(URL, faults.Cut(1000, "close"), (200, BODY[:1000]), id="cut, no length"),
            pytest.param(URL, faults.Understate(400), (200, BODY[:-400]), id="length too small"),
            pytest.param(URL, faults.Reset(), requests.ConnectionError, id="reset"),
            pytest.param(URL, faults.Hang(), requests.Timeout, id="hang"),
            pytest.param("/api/json", faults.BOM, (200, ValueError), id="BOM"),
            pytest.param("/api/json", faults.HALF, (200, ValueError), id="half a JSON"),
            pytest.param(URL, faults.FLIPPED, (200, b"\x01" + BODY[1:]), id="flipped bit"),
            pytest.param(URL, faults.Status(302, {"Location": "http://sso.example/"}), (302, ""), id="302"),
        ],
    )  # fmt: skip
    def test_strike_once(self, build, server, path, fault, expected):
        server.faults.add(path, fault)
        session = requests.Session()
        if isinstance(expected, tuple):
            answer = get(server, path, session)
            assert answer.status_code == expected[0]
            if isinstance(expected[1], bytes):
                assert answer.content == expected[1]
            elif isinstance(expected[1], str):
                assert expected[1] in {*answer.headers.values(), ""}
            else:
                with pytest.raises(expected[1]):
                    json.loads(answer.text.encode(answer.encoding) if answer.encoding else answer.content)
        else:
            with pytest.raises(expected):
                session.get(f"{server.url}{path}", timeout=0.3)
        assert get(server, path).status_code == 200

    def test_extra_bytes_poison_the_connection(self, build, server):
        server.faults.add(self.URL, faults.Understate(400))
        request = f"GET {self.URL} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        got = raw(server, request, patience=0.05)
        assert b"Content-Length: 102000\r\n" in got
        assert got.endswith(BODY)

    def test_a_drip_defeats_read_timeouts(self, ci, server):
        ci.freestyle("j").build(files={"a": b"123456"})
        server.faults.add("/artifact/a", faults.Drip(2, 0.1))
        began = time.monotonic()
        assert get(server, "/job/j/1/artifact/a").content == b"123456"
        assert time.monotonic() - began > 0.2

    def test_a_drip_of_json_is_well_framed(self, server):
        server.faults.add("/api/json", faults.Drip(10, 0.001))
        assert get(server, "/api/json").json()["_class"] == "hudson.model.Hudson"

    @pytest.mark.parametrize(
        ("first", "times", "statuses"),
        [(1, 1, [500, 200, 200, 200]), (2, 2, [200, 500, 500, 200]), (3, None, [200, 200, 500, 500])],
    )
    def test_are_planned(self, server, first, times, statuses):
        rule = server.faults.add(r"^/api/json\?tree=jobs$", faults.Status(500), first=first, times=times)
        assert get(server, "/api/json").ok
        assert [get(server, "/api/json?tree=jobs").status_code for _ in range(4)] == statuses
        assert rule.hits == 4
        server.faults.clear()
        assert get(server, "/api/json?tree=jobs").ok

    def test_a_call_changes_things_between_two_files(self, ci, server):
        job = ci.freestyle("j")
        job.build(files={"a": b"1", "b": b"2"})
        server.faults.add("/artifact/b", call=lambda: job.delete_build(1))
        assert get(server, "/job/j/1/artifact/a").ok
        assert get(server, "/job/j/1/artifact/b").status_code == 404

    def test_a_refused_trigger_does_nothing(self, ci):
        job = ci.freestyle("j")
        with standin.serve(ci, auth=Auth(user="me", token="t")) as server:
            server.faults.add("/build", faults.Status(503))
            requests.post(f"{server.url}/job/j/build", auth=("me", "t"), timeout=5)
        assert not job.builds

    def test_a_stop_ends_what_hangs(self, ci):
        server = standin.serve(ci)
        server.faults.add("/api/json", faults.Hang())
        ended = []

        def wait():
            with pytest.raises(requests.ConnectionError):
                get(server, "/api/json")
            ended.append(True)

        client = threading.Thread(target=wait)
        client.start()
        while not server.requests:
            time.sleep(0.001)
        server.stop()
        client.join(2)
        assert ended


class TestElsewhere:
    URL = "/job/image/1/artifact/disk.qcow2"

    def follow(self, server, host, *, expired=False, method="GET", **options):
        server.faults.add("/artifact/", Away(host, expired=expired), times=None)
        answer = requests.request(method, server.url + self.URL, timeout=5, **options)
        assert answer.history[0].status_code == 302
        return answer

    def test_a_bucket(self, build, server):
        with Elsewhere("s3") as bucket:
            answer = self.follow(server, bucket, auth=("me", "t"))
            assert answer.content == BODY
            assert answer.headers["ETag"]
            assert "authorization" in server.requests[0].headers
            assert "authorization" not in bucket.requests[0].headers
            assert bucket.requests[0].target != bucket.requests[0].path
            part = self.follow(server, bucket, headers={"Range": "bytes=102390-"})
            assert (part.status_code, part.content) == (206, BODY[-10:])
            assert part.headers["Content-Range"] == "bytes 102390-102399/102400"

    @pytest.mark.parametrize(
        ("options", "status", "code"),
        [
            ({"expired": True}, 403, "AccessDenied"),
            ({"method": "HEAD", "allow_redirects": True}, 403, ""),
            ({"headers": {"Range": "bytes=102400-"}}, 416, "InvalidRange"),
        ],
    )
    def test_a_bucket_refuses(self, build, server, options, status, code):
        with Elsewhere("s3") as bucket:
            answer = self.follow(server, bucket, **options)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/xml")
        assert f"<Code>{code}</Code>" in answer.text or not code

    def test_a_key_may_be_gone(self, build, server):
        with Elsewhere("s3") as bucket:
            server.faults.add("/artifact/", Away(bucket))
            url = get(server, self.URL).headers["Location"]
            build.job.delete_build(1)
            assert "<Code>NoSuchKey</Code>" in requests.get(url, timeout=5).text

    def test_the_resource_root(self, build, server):
        with Elsewhere("resource") as host:
            assert self.follow(server, host).headers["Last-Modified"]
            url = get(server, self.URL).headers["Location"]
            assert requests.get(url, auth=("me", "t"), timeout=5).status_code == 400

    def test_an_expired_token_leads_back(self, build, server):
        with Elsewhere("resource") as host:
            server.faults.add("/artifact/", Away(host, expired=True))
            answer = requests.get(server.url + self.URL, timeout=5)
            assert [each.status_code for each in answer.history] == [302, 302]
            assert answer.url == server.url + self.URL
            assert answer.content == BODY


class TestHome:
    def test_everything_is_there_again(self, ci, job):
        ci.folder("images")
        ci.view("V", jobs=["image-*"], folder="images")
        ci.pipeline("p", folder="images", keep=3).disable()
        job.build({AMD: {"serial": b"1"}}, parameters={"a": "b"}, description="d", log="l", duration=3)
        job.start()
        again = Controller(ci.home)
        with standin.serve(ci, public_url="x") as old, standin.serve(again, public_url="x") as new:
            for path in ("/", "/job/images/", "/job/image-ubuntu/", f"/job/image-ubuntu/{AMD}/1/"):
                assert (
                    get(old, f"{path}api/json?depth=3").json() == get(new, f"{path}api/json?depth=3").json()
                )
        assert again.job("images/p").keep == 3
        assert again.job("image-ubuntu").start().number == 3

    def test_another_process_adds_a_build(self, ci, job, server):
        first = job.build({AMD: {"serial": b"1"}})
        program = (
            "import sys, pathlib; from jenkins.controller import Controller\n"
            "ci = Controller(pathlib.Path(sys.argv[1]))\n"
            "ci.job('image-ubuntu').build({sys.argv[2]: {'serial': b'2'}})\n"
        )
        subprocess.run(
            [sys.executable, "-c", program, ci.home, AMD], check=True, cwd=Path(__file__).parents[1]
        )
        path = f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/artifact/serial"
        assert get(server, path).content == b"2"
        first.set_result("UNSTABLE")
        assert tree(server, "/job/image-ubuntu/1/", "result")["result"] == "UNSTABLE"
        assert job.start().number == 3

    def test_two_writers_lose_nothing(self, ci):
        ci.freestyle("a")
        ci.freestyle("b")

        def work(name):
            own = Controller(ci.home)
            for _ in range(5):
                own.job(name).build()

        threads = [threading.Thread(target=work, args=(name,)) for name in "aabb"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ci.refresh()
        assert [list(ci.job(name).builds) for name in "ab"] == [list(range(1, 11))] * 2

    def test_bulk_saves_once(self, ci):
        before = (ci.home / "controller.json").exists()
        with ci.bulk():
            for number in range(5):
                ci.freestyle(f"j{number}").build()
            assert (ci.home / "controller.json").exists() is before
        assert len(Controller(ci.home).jobs) == 5

    def test_a_failed_save_leaves_the_old_state(self, ci):
        ci.freestyle("j")
        with pytest.raises(TypeError):
            ci.freestyle("j").build(description=object())
        assert not Controller(ci.home).job("j").builds
