"""The stand-in behaves like a Jenkins, on the wire."""

import http.client
import io
import itertools
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
DISK = "/job/image/1/artifact/disk"
MTIME, DATE = 1_700_000_000, "Tue, 14 Nov 2023 22:13:20 GMT"
AUTH = Auth(user="me", token="11aa", password="pw", hidden="secret", denied="shown")
ME = ("me", "11aa")
JSON_ERROR = requests.JSONDecodeError
CUT_ERROR = requests.exceptions.ChunkedEncodingError


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
    return ci.freestyle("image").build(files={"disk": BODY})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A server that tests only look at."""
    ci = Controller(tmp_path_factory.mktemp("world"))
    with ci.bulk():
        ci.folder("images")
        ci.folder("images/nightly")
        ci.folder("many", multibranch=True)
        ci.view("Images", jobs=["image-*"])
        ci.view("P", jobs=["n*"], folder="images")
        ci.pipeline("pipe", folder="images/nightly").build()
        ci.pipeline("feature%2Fx", folder="many")
        ci.matrix("image-ubuntu", axes=AXES).build({AMD: {"serial": b"1"}, ARM: {}})
        image = ci.freestyle("image")
        for _ in range(4):
            build = image.build(files={"disk": BODY, "s.json": b"{}", "lxc/rootfs": b"r", "lxc/deep/x": b"x",
                                       "lxc@tmp/secret": b"", "a..b": b""})  # fmt: skip
            os.utime(build.directory / "disk", (MTIME, MTIME))
        (build.directory / "link").symlink_to("disk")
        (build.directory / "linked").symlink_to("lxc")
    with standin.serve(ci) as running:
        yield running


def get(server, path, session=requests, **options):
    return session.get(f"{server.url}{path}", timeout=5, allow_redirects=False, **options)


def tree(server, path, spec):
    answer = get(server, f"{path}api/json", params={"tree": spec})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bare(value):
    """The same without any _class."""
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if name != "_class"}
    return [bare(each) for each in value] if isinstance(value, list) else value


def raw(server, path, header="Connection: close", patience=5):
    """The bytes that answer a path which no client library has tidied, to the end or to a pause."""
    with socket.create_connection(server.server_address, timeout=patience) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n{header}\r\n\r\n".encode())
        got = b""
        try:
            while block := connection.recv(65536):
                got += block
        except TimeoutError:
            assert patience < 1
        return got


def status(server, path):
    return int(raw(server, path).split()[1])


def no_netrc(request):
    """An auth object that does nothing; without one, requests looks into ~/.netrc."""
    return request


@pytest.mark.parametrize(
    ("spec", "expected"),
    {
        "name": {"name": "image"},
        "name,nextBuildNumber": {"name": "image", "nextBuildNumber": 5},
        "name,nonsense": {"name": "image"},
        "nonsense[a[b]{1,2}]": {},
        "lastBuild": {"lastBuild": {}},
        "builds": {"builds": [{}, {}, {}, {}]},
        "builds[number]{0,2}": {"builds": [{"number": 4}, {"number": 3}]},
        "builds[number]{1}": {"builds": [{"number": 3}]},
        "builds[number]{3,}": {"builds": [{"number": 1}]},
        "builds[number]{,1}": {"builds": [{"number": 4}]},
        "builds[number]{9,10}": {"builds": []},
        "builds{2}": {"builds": [{}]},
        "lastBuild[number],lastBuild[result]": {"lastBuild": {"result": "SUCCESS"}},
        "lastBuild[number],lastBuild": {"lastBuild": {}},
        "scm[*]": {"scm": {}},
        "lastBuild[actions[*]{1}]": {"lastBuild": {"actions": [{}]}},
    }.items(),
)
def test_tree_prunes(world, spec, expected):
    got = tree(world, "/job/image/", spec)
    assert got["_class"] == "hudson.model.FreeStyleProject"
    assert bare(got) == expected


def test_tree_star_reaches_hidden_properties(world):
    got = tree(world, "/job/image/", "firstBuild[*,artifacts[fileName]{0}]")["firstBuild"]
    assert (got["number"], got["fingerprint"][0], got["artifacts"]) == (1, {}, [{"fileName": "a..b"}])
    assert {"timestamp", "url"} <= got.keys()


def test_tree_keeps_the_class_everywhere(ci, server):
    ci.freestyle("j").build(parameters={"image": "i"})
    got = tree(server, "/", "jobs[lastBuild[actions[parameters[name,value]]]]")
    build = got["jobs"][0]["lastBuild"]
    value = {"_class": "hudson.model.StringParameterValue", "name": "image", "value": "i"}
    assert (got["_class"], build["_class"]) == ("hudson.model.Hudson", "hudson.model.FreeStyleBuild")
    assert build["actions"] == [
        {"_class": "hudson.model.CauseAction"},
        {},
        {"_class": "hudson.model.ParametersAction", "parameters": [value]},
    ]


@pytest.mark.parametrize(
    "spec",
    ["", ",", "a,", ",a", "a,,b", "a[", "a[]", "a]", "[a]", "a[b", "a[b]]", "a[b]c", "a{", "a{}", "a{x}", "a{1",
     "a{1,2", "a{1,2,3}", "a{,}", "a{-1}", "a{1 }", "a{1}[b]", "a{1}{2}", "{1}"],
)  # fmt: skip
def test_tree_refuses(world, spec):
    answer = get(world, "/api/json", params={"tree": spec})
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "text/html;charset=utf-8")
    assert "Malformed tree expression" in answer.text


@pytest.mark.parametrize("spec", ["a b", "a\nb", "ä", "jobs [name]"])
def test_tree_takes_anything_as_a_name(spec):
    assert treequery.parse(spec).children


def test_depth_zero_shows_references(world):
    jobs = get(world, "/api/json").json()["jobs"]
    url = f"{world.url}/job/image/"
    kind = "hudson.model.FreeStyleProject"
    assert {"_class": kind, "name": "image", "url": url, "color": "blue"} in jobs
    job = get(world, "/job/image/api/json").json()
    kind = "hudson.model.FreeStyleBuild"
    assert job["builds"][3] == {"_class": kind, "number": 1, "url": f"{url}1/"}
    build = get(world, "/job/image/1/api/json?depth=0").json()
    assert build["artifacts"][0] == {"displayPath": "a..b", "fileName": "a..b", "relativePath": "a..b"}


def test_depth_one_goes_one_step_further(world):
    job = next(job for job in get(world, "/api/json?depth=1").json()["jobs"] if job["name"] == "image")
    assert job["nextBuildNumber"] == 5
    assert "number" in job["lastBuild"]
    assert "result" not in job["lastBuild"]


@pytest.mark.parametrize(
    ("path", "name", "depth"), [("/job/image/1/", "fingerprint", 2), ("/job/image/", "allBuilds", 3)]
)
def test_depth_hides_what_must_be_asked_for(world, path, name, depth):
    shown = [name in get(world, f"{path}api/json?depth={tried}").json() for tried in range(depth + 1)]
    assert shown == [False] * depth + [True]
    assert tree(world, path, name)[name]


def test_forms_of_the_api(world):
    plain, pretty, python = (
        get(world, f"/job/image/api/{form}") for form in ("json", "json?pretty=true", "python")
    )
    assert ("\n" in plain.text, "\n" in pretty.text) == (False, True)
    assert pretty.json() == plain.json()
    assert "'queueItem': None" in python.text
    assert get(world, "/job/image/api/json?jsonp=f").status_code == 403
    assert get(world, "/job/image/api/xml").status_code == 404


@pytest.mark.parametrize(
    ("path", "kind"),
    {
        "/": "hudson.model.Hudson",
        "/view/all/": "hudson.model.AllView",
        "/view/Images/": "hudson.model.ListView",
        "/view/Images/job/image-ubuntu/": "hudson.matrix.MatrixProject",
        "/job/image-ubuntu/": "hudson.matrix.MatrixProject",
        "/job/image-ubuntu/1/": "hudson.matrix.MatrixBuild",
        f"/job/image-ubuntu/{AMD}/": "hudson.matrix.MatrixConfiguration",
        f"/job/image-ubuntu/{AMD}/1/": "hudson.matrix.MatrixRun",
        f"/job/image-ubuntu/1/{AMD}/": "hudson.matrix.MatrixRun",
        "/job/images/": "com.cloudbees.hudson.plugins.folder.Folder",
        "/job/images/job/nightly/job/pipe/": "org.jenkinsci.plugins.workflow.job.WorkflowJob",
        "/job/images/job/nightly/job/pipe/1/": "org.jenkinsci.plugins.workflow.job.WorkflowRun",
        "/job/images/view/P/": "hudson.model.ListView",
        "/job/images/view/P/job/nightly/": "com.cloudbees.hudson.plugins.folder.Folder",
        "/job/many/": "org.jenkinsci.plugins.workflow.multibranch.WorkflowMultiBranchProject",
        "/job/many/job/feature%252Fx/": "org.jenkinsci.plugins.workflow.job.WorkflowJob",
    }.items(),
)
def test_objects_have_urls_and_classes(world, path, kind):
    got = tree(world, path, "url")
    assert got["_class"] == kind
    assert requests.get(f"{got['url']}api/json?tree=url", timeout=5).json()["url"] == got["url"]


@pytest.mark.parametrize(
    "path",
    ["job/none/", "job/images/job/none/", "job/image-ubuntu/2/", "job/image-ubuntu/release=x/", "view/None/",
     "nothing/", "job/", "job/many/job/feature%2Fx/../", f"job/image/{AMD}/", "job/image-ubuntu/default/"],
)  # fmt: skip
def test_missing_objects_have_an_html_page(world, path):
    answer = get(world, f"/{path}api/json")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")


def test_lists_of_folders_and_views(ci, job, server):
    ci.folder("images")
    ci.freestyle("inner", folder="images")
    ci.freestyle("test-image")
    ci.view("Images", jobs=["image*"])
    spec = "jobs[name,jobs[name]],views[name,jobs[name]],primaryView[name]"
    names = [{"name": "image-ubuntu"}, {"name": "images"}, {"name": "test-image"}]
    assert bare(tree(server, "/", spec)) == {
        "jobs": [names[0], {**names[1], "jobs": [{"name": "inner"}]}, names[2]],
        "views": [{"name": "all", "jobs": names}, {"name": "Images", "jobs": names[:2]}],
        "primaryView": {"name": "all"},
    }


def test_configurations_follow_the_axes_and_the_filter(ci, job, server):
    def active():
        spec = "activeConfigurations[name,displayName,lastBuild[number]]"
        return bare(tree(server, "/job/image-ubuntu/", spec))["activeConfigurations"]

    job.build({AMD: {}})
    amd = {"name": AMD, "displayName": "amd64,noble,default", "lastBuild": {"number": 1}}
    arm = {"name": ARM, "displayName": "arm64,noble,default", "lastBuild": None}
    assert active() == [amd, arm]
    only = [{"variant": "default", "release": "noble", "architecture": "arm64"}]
    ci.matrix("image-ubuntu", axes=AXES, only=only)
    assert active() == [arm]
    assert tree(server, f"/job/image-ubuntu/{AMD}/1/", "number")["number"] == 1


@pytest.mark.parametrize(
    ("combination", "name"),
    [
        ("variant=default,architecture=amd64,release=noble", AMD),
        ({"variant": "default", "architecture": "amd64", "release": "noble"}, AMD),
        (frozenset({("variant", "default"), ("release", "noble"), ("architecture", "amd64")}), AMD),
        ("b=x=y,a=", "a=,b=x=y"),
        ({}, "default"),
    ],
)
def test_configurations_are_named_in_any_form(combination, name):
    assert configuration_name(combination) == name


@pytest.mark.parametrize(
    "path",
    [
        AMD,
        "variant=default,release=noble,architecture=amd64",
        "release%3Dnoble%2Carchitecture%3Damd64%2Cvariant%3Ddefault",
        "release=noble%2cvariant=default%2Carchitecture=%61md64",
    ],
)
def test_configurations_are_found_in_any_order(world, path):
    assert status(world, f"/job/image-ubuntu/{path}/1/artifact/serial") == 200
    assert status(world, f"/job/image-ubuntu/lastBuild/{path}/artifact/serial") == 200


@pytest.mark.parametrize("name", ["a b", "ä", "a~b", "50%", "a;b", "a'b(c)!$&*+,-.=@_", "a#b?c"])
def test_names_are_quoted(ci, server, name):
    ci.freestyle(name).build(files={f"{name}/{name}": b"1"})
    url = tree(server, "/", "jobs[lastBuild[url]]")["jobs"][0]["lastBuild"]["url"]
    path = requests.get(f"{url}api/json", timeout=5).json()["artifacts"][0]["relativePath"]
    quoted = url.removeprefix(f"{server.url}/job/").removesuffix("/1/")
    assert path == f"{name}/{name}"
    assert re.fullmatch(r"[A-Za-z0-9!$&'()*+,\-.=@_%]+", quoted)
    assert requests.get(f"{url}artifact/{quoted}/{quoted}", timeout=5).content == b"1"


@pytest.mark.parametrize(
    ("setting", "url"), [(None, None), ("https://wrong.example/ci", "https://wrong.example/ci/job/image/1/")]
)
def test_urls_follow_the_jenkins_url(ci, build, setting, url):
    with standin.serve(ci, public_url=setting) as server:
        assert tree(server, "/job/image/1/", "url")["url"] == url


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["a/x", "b/x", "y"], ["a/x", "b/x", "y"]),
        (["a/b/x", "a/c/y"], ["x", "y"]),
        (["a/x", "ax", "x"], ["a/x", "ax", "x"]),
        ([f"f{n:02}" for n in range(20)], [f"f{n:02}" for n in range(20)]),
        ([f"f{n:02}" for n in range(21)], [None] * 21),
    ],
)
def test_display_paths(ci, server, paths, shown):
    ci.freestyle("j").build(files=dict.fromkeys(paths, b""))
    got = tree(server, "/job/j/1/", "artifacts[displayPath]")["artifacts"]
    assert [each["displayPath"] for each in got] == shown


LINKS = ("lastBuild", "lastCompletedBuild", "lastStableBuild", "lastSuccessfulBuild", "lastUnstableBuild",
         "lastFailedBuild", "lastUnsuccessfulBuild")  # fmt: skip


@pytest.mark.parametrize(
    ("builds", "numbers", "color"),
    [
        ("", [None] * 7, "notbuilt"),
        ("SUCCESS", [1, 1, 1, 1, None, None, None], "blue"),
        ("SUCCESS UNSTABLE", [2, 2, 1, 2, 2, None, 2], "yellow"),
        ("UNSTABLE FAILURE", [2, 2, None, 1, 1, 2, 2], "red"),
        ("SUCCESS ABORTED", [2, 2, 1, 1, None, None, 2], "aborted"),
        ("FAILURE NOT_BUILT", [2, 2, None, None, None, 1, 2], "notbuilt"),
        ("SUCCESS FAILURE SUCCESS", [3, 3, 3, 3, None, 2, 2], "blue"),
        ("SUCCESS building", [2, 1, 1, 1, None, None, None], "blue_anime"),
        ("FAILURE building:SUCCESS", [2, 1, None, None, None, 1, 1], "red_anime"),
        ("FAILURE post:SUCCESS", [2, 2, 2, 2, None, 1, 1], "blue"),
        ("queued", [1, None, None, None, None, None, None], "notbuilt_anime"),
    ],
)
def test_permalinks_follow_results_and_states(ci, server, builds, numbers, color):
    job = ci.freestyle("j")
    for state, _, result in (step.partition(":") for step in builds.split()):
        match state:
            case "queued":
                job.queue()
            case "building":
                job.start(result=result or None)
            case "post":
                job.start(result=result).post_production()
            case _:
                job.build(result=state)
    got = tree(server, "/job/j/", "color," + ",".join(f"{link}[number]" for link in LINKS))
    assert [got[link] and got[link]["number"] for link in LINKS] == numbers
    assert got["color"] == color
    for link, number in zip(LINKS, numbers, strict=True):
        answer = get(server, f"/job/j/{link}/api/json?tree=number")
        assert (answer.json()["number"] if number else answer.status_code) == (number or 404)


def test_a_disabled_job(ci, server):
    job = ci.freestyle("j")
    job.build()
    job.disable()
    got = bare(tree(server, "/job/j/", "color,disabled,buildable"))
    assert got == {"color": "disabled", "disabled": True, "buildable": False}


def test_a_build_step_by_step(ci, server):
    build = ci.freestyle("j").queue(duration=5000)
    names = ("result", "building", "inProgress", "duration")

    def shown():
        got = tree(server, "/job/j/1/", ",".join(names))
        return tuple(got[name] for name in names)

    assert shown() == (None, True, False, 0)
    build.begin()
    assert shown() == (None, True, True, 0)
    build.set_result("UNSTABLE")
    assert shown() == ("UNSTABLE", True, True, 0)
    build.post_production()
    assert shown() == ("UNSTABLE", False, True, 5000)
    build.complete()
    assert shown() == ("UNSTABLE", False, False, 5000)


def test_a_configuration_is_done_before_its_parent(job, server):
    parent = job.start()
    parent.run(AMD, {"serial": b"1"}).complete("SUCCESS")
    spec = "lastSuccessfulBuild[number],activeConfigurations[lastSuccessfulBuild[number]]"
    got = bare(tree(server, "/job/image-ubuntu/", spec))
    assert got["lastSuccessfulBuild"] is None
    assert got["activeConfigurations"][0]["lastSuccessfulBuild"] == {"number": 1}
    parent.complete("SUCCESS")
    assert tree(server, "/job/image-ubuntu/lastSuccessfulBuild/", "number")["number"] == 1


def test_the_last_step_of_a_build_does_not_see_it_as_done(job, server):
    job.build({AMD: {"serial": b"1"}})
    seen = []

    def hook(run):
        config = f"/job/image-ubuntu/{run.environment(server.url)['JOB_BASE_NAME']}/"
        own = tree(server, f"{config}{run.number}/", "building,result")
        last = tree(server, f"{config}lastSuccessfulBuild/", "number")
        serial = get(server, f"{config}{run.number}/artifact/serial").content
        seen.append((own["building"], own["result"], last["number"], serial))

    job.build({AMD: {"serial": b"2"}}, post_build=hook)
    assert seen == [(True, "SUCCESS", 1, b"2")]
    assert tree(server, f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/", "number")["number"] == 2


def test_the_environment_of_a_build(ci):
    ci.folder("images")
    run = ci.matrix("u", axes=AXES, folder="images").start().run(ARM)
    assert run.environment(None) == {
        "CI": "true", "JOB_NAME": f"images/u/{ARM}", "JOB_BASE_NAME": ARM, "BUILD_NUMBER": "1", "BUILD_ID": "1",
        "BUILD_TAG": f"jenkins-images-u-{ARM}-1",
        "architecture": "arm64", "release": "noble", "variant": "default",
    }  # fmt: skip
    assert run.environment("http://ci")["BUILD_URL"] == f"http://ci/job/images/job/u/{ARM}/1/"


def test_older_runs_stand_in_for_missing_ones(job, server):
    job.build({AMD: {"serial": b"1"}, ARM: {}})
    job.build({ARM: {}})
    got = tree(server, "/job/image-ubuntu/2/", "runs[number,url]")["runs"]
    assert [run["number"] for run in got] == [1, 2]
    answer = get(server, f"/job/image-ubuntu/2/{AMD}/api/json?tree=number")
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/job/image-ubuntu/{AMD}/1/api/json?tree=number"
    followed = requests.get(f"{server.url}/job/image-ubuntu/2/{AMD}/artifact/serial", timeout=5)
    assert followed.content == b"1"


def test_the_console(ci, server):
    build = ci.freestyle("j").start(log="hello\n")
    assert get(server, "/job/j/1/consoleText").text == "Started by user admin\nhello\n"
    build.complete("FAILURE")
    assert get(server, "/job/j/1/consoleText").text.endswith("hello\nFinished: FAILURE\n")


def test_rotation_keeps_the_last_good_builds(ci):
    job = ci.freestyle("j", keep=2)
    for result in ("SUCCESS", "UNSTABLE", "FAILURE", "FAILURE", "FAILURE"):
        job.build(result=result, files={"a": b"1"})
    assert list(job.builds) == [1, 2, 4, 5]
    assert sorted(path.name for path in (ci.home / "artifacts/j").iterdir()) == ["1", "2", "4", "5"]


def test_rotation_keeps_what_runs(ci):
    job = ci.freestyle("j", keep=1)
    running = job.start()
    job.build()
    job.build()
    assert list(job.builds) == [1, 3]
    running.complete("FAILURE")
    assert list(job.builds) == [3]


def test_rotation_takes_even_the_last_good_run_of_a_configuration(ci, server):
    job = ci.matrix("image-ubuntu", axes=AXES, keep=2)
    job.build({AMD: {"serial": b"1"}})
    job.build({ARM: {}})
    assert tree(server, f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/", "number")["number"] == 1
    parent = job.start()
    parent.run(AMD).complete("FAILURE")
    parent.complete("SUCCESS")
    got = bare(tree(server, f"/job/image-ubuntu/{AMD}/", "lastSuccessfulBuild[number],builds[number]"))
    assert got == {"lastSuccessfulBuild": None, "builds": [{"number": 3}]}
    assert get(server, f"/job/image-ubuntu/{AMD}/1/artifact/serial").status_code == 404


def test_purged_artifacts_leave_the_build(build, server):
    build.purge_artifacts()
    got = tree(server, "/job/image/1/", "result,artifacts[relativePath],fingerprint[hash]")
    assert (got["result"], got["artifacts"], len(got["fingerprint"])) == ("SUCCESS", [], 1)
    assert get(server, DISK).status_code == 404


def test_a_download_outlives_its_build(ci, server):
    build = ci.freestyle("big").build(files={"disk": b"x" * (8 << 20)})
    with get(server, "/job/big/1/artifact/disk", stream=True) as answer:
        build.job.delete_build(1)
        assert len(answer.content) == 8 << 20
    assert get(server, "/job/big/1/api/json").status_code == 404


def test_a_number_that_was_reached_makes_the_job_anew(job, server):
    for _ in range(3):
        job.build({AMD: {}, ARM: {}})
    job.build({AMD: {}}, number=2)
    got = bare(tree(server, "/job/image-ubuntu/", "nextBuildNumber,builds[number]"))
    assert got == {"nextBuildNumber": 3, "builds": [{"number": 2}]}
    assert tree(server, f"/job/image-ubuntu/{ARM}/", "builds[number]")["builds"] == []
    job.build({AMD: {}}, number=9)
    assert list(job.builds) == [2, 9]


def test_a_removed_job_is_gone(ci, build, server):
    build.job.remove()
    assert get(server, "/job/image/api/json").status_code == 404
    assert not any((ci.home / "artifacts").iterdir())


def test_fingerprints_keep_the_first_name_everywhere(ci, server):
    ci.freestyle("old").build(files={"x/first": b"same"}, timestamp=7)
    ci.freestyle("new").build(files={"c": b"other", "b": b"same", "a": b"same"})
    got = tree(server, "/job/new/1/", "fingerprint[fileName,hash,timestamp,original[name,number]]")
    md5sum = md5(b"same").hexdigest()
    first = {"fileName": "first", "hash": md5sum, "timestamp": 7, "original": {"name": "old", "number": 1}}
    assert got["fingerprint"][:2] == [first, first]
    assert got["fingerprint"][2]["fileName"] == "c"
    record = tree(server, f"/fingerprint/{md5sum}/", "fileName,usage[name]")
    assert record == {"fileName": "first", "usage": [{"name": "old"}, {"name": "new"}]}


def test_fingerprints_are_optional(ci, server):
    ci.freestyle("j").build(files={"a": b"1"}, fingerprint=False)
    assert tree(server, "/job/j/1/", "fingerprint[hash]")["fingerprint"] == []


def test_fingerprints_do_not_follow_a_replaced_file(build, server):
    build.archive({"disk": b"replaced"}, fingerprint=False)
    known = tree(server, "/job/image/1/", "fingerprint[hash]")["fingerprint"]
    assert known == [{"hash": md5(BODY).hexdigest()}]
    assert get(server, DISK).content == b"replaced"


def test_a_path_is_linked(ci, tmp_path):
    (tmp_path / "big").write_bytes(BODY)
    build = ci.freestyle("j").build(files={"deep/big": tmp_path / "big"})
    assert os.path.samefile(build.directory / "deep/big", tmp_path / "big")
    assert build.prints == {"deep/big": md5(BODY).hexdigest()}
    build.archive({"deep/big": b"other"})
    assert (tmp_path / "big").read_bytes() == BODY


@pytest.mark.parametrize(
    ("asked", "code", "content", "span"),
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
def test_files_by_request(world, asked, code, content, span):
    answer = get(world, DISK, headers=asked)
    assert (answer.status_code, answer.headers.get("Content-Range")) == (code, span)
    assert answer.content == content
    assert answer.headers.get("Content-Length") == (None if code == 304 else str(len(content)))


def test_file_headers(world):
    headers = get(world, DISK).headers
    assert headers["Last-Modified"] == headers["Expires"] == DATE
    assert (headers["Accept-Ranges"], headers["X-Content-Type-Options"]) == ("bytes", "nosniff")
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Security-Policy"].startswith("sandbox;")
    assert not headers.keys() & {"ETag", "Content-MD5", "Transfer-Encoding", "Content-Encoding"}


def test_a_range_past_the_end_has_a_negative_length(world):
    got = raw(world, DISK, "Range: bytes=200000-")
    assert got.startswith(b"HTTP/1.1 206 ")
    assert b"\r\nContent-Range: bytes 200000-102399/102400\r\n" in got
    assert b"\r\nContent-Length: -97600\r\n" in got


@pytest.mark.parametrize(
    ("path", "code"),
    {
        "lxc/rootfs": 200, "lxc/": 200, "lxc": 302, "": 200, "a..b": 200, "disk/*view*/": 200, "*zip*/a.zip": 200,
        "lxc%2Frootfs": 400, "lxc/../disk": 400, "../4/artifact/disk": 400, "%2e%2e/disk": 400,
        "..%2fdisk": 400, "..%5cdisk": 400,
        "link": 404, "linked/rootfs": 404, "lxc@tmp/secret": 404, "nothing": 404, "disk/more": 404,
        "nothing/*zip*/a.zip": 404, "*.json": 404,
    }.items(),
)  # fmt: skip
def test_files_by_path(world, path, code):
    got = raw(world, f"/job/image/4/artifact/{path}")
    assert int(got.split()[1]) == code
    assert (b"\r\nLocation: /job/image/4/artifact/lxc/\r\n" in got) is (code == 302)


def test_directories(world):
    assert get(world, "/job/image/4/artifact/lxc/*plain*").text == "deep/\nrootfs\n"
    answer = get(world, "/job/image/4/artifact/lxc/*zip*/lxc.zip")
    assert "Content-Length" not in answer.headers
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["lxc/deep/x", "lxc/rootfs"]
    assert get(world, "/job/image/4/artifact/s.json").headers["Content-Type"] == "application/json"


def test_json_is_chunked_and_signed(world):
    headers = get(world, "/api/json").headers
    assert headers["Transfer-Encoding"] == "chunked"
    assert headers["Content-Type"] == "application/json;charset=utf-8"
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "deny")
    assert re.fullmatch(r"\d\.\d+", headers["X-Jenkins"])
    assert re.fullmatch("[0-9a-f]{8}", headers["X-Jenkins-Session"])
    assert not headers.keys() & {"ETag", "Last-Modified", "Content-Length"}


def test_a_restart_changes_the_session(server):
    before = get(server, "/api/json").headers["X-Jenkins-Session"]
    server.restart(busy=2)
    answers = [get(server, "/api/json") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert "Retry-After" not in answers[0].headers
    assert answers[2].headers["X-Jenkins-Session"] != before


def test_connections_stay_open(world):
    client = http.client.HTTPConnection(*world.server_address)
    client.connect()
    used = client.sock
    for path in ("/api/json", DISK, "/none/", "/api/json?tree=", "/job/image", f"{DISK}/*zip*"):
        for method in ("HEAD", "GET"):
            client.request(method, path)
            assert bool(client.getresponse().read()) is (method == "GET")
            assert client.sock is used
    client.close()


def test_requests_are_logged(build, server):
    get(server, "/api/json", params={"tree": "jobs[name]"}, auth=ME)
    get(server, DISK, headers={"Range": "bytes=0-99"})
    first, second = server.requests
    assert (first.method, first.path, first.query) == ("GET", "/api/json", "tree=jobs[name]")
    assert first.headers["authorization"].startswith("Basic ")
    assert (second.status, second.sent, second.headers["range"]) == (206, 100, "bytes=0-99")
    assert (server.count(r"/api/json\?tree=jobs\[name\]$"), server.count("/artifact/")) == (1, 1)
    server.clear()
    assert server.count() == 0


def test_latency(ci):
    with standin.serve(ci, latency=0.1) as server:
        began = time.monotonic()
        get(server, "/api/json")
        assert time.monotonic() - began > 0.1


def test_pages_end_with_a_slash(world):
    assert get(world, "/job/image?x").headers["Location"] == "/job/image/"
    assert [get(world, path).status_code for path in ("/job/image/", "/job/image/1")] == [200, 302]


def test_a_stopped_server_refuses(ci):
    session = requests.Session()
    with standin.serve(ci) as server:
        get(server, "/api/json", session)
    with pytest.raises(requests.ConnectionError):
        get(server, "/api/json", session)
    with standin.serve(ci, port=server.server_address[1]) as again:
        assert again.url == server.url
        assert get(again, "/api/json", session).ok


@pytest.mark.parametrize(
    ("given", "path", "code", "header"),
    [
        (ME, "/api/json", 200, {}),
        (("me", "pw"), "/api/json", 200, {}),
        (("me", "wrong"), "/api/json", 401, {"WWW-Authenticate": 'Basic realm="Jenkins"'}),
        (("you", "11aa"), "/api/json", 401, {"WWW-Authenticate": 'Basic realm="Jenkins"'}),
        (("me", ""), "/api/json", 401, {}),
        (None, "/api/json", 403, {"X-Required-Permission": "hudson.model.Hudson.Read"}),
        (None, "/job/open/", 403, {"X-You-Are-Authenticated-As": "anonymous"}),
        (ME, "/job/open/api/json", 200, {}),
        (ME, "/job/secret/api/json", 404, {}),
        (ME, "/job/secret/1/artifact/a", 404, {}),
        (ME, "/job/shown/api/json", 403, {"X-You-Are-Authenticated-As": "me"}),
        (ME, "/job/shown/1/artifact/a", 403, {"X-Required-Permission": "hudson.model.Item.Read"}),
    ],
)
def test_auth(ci, given, path, code, header):
    for name in ("open", "secret", "shown"):
        ci.freestyle(name).build(files={"a": b"1"})
    with standin.serve(ci, auth=AUTH) as server:
        answer = get(server, path, auth=given or no_netrc)
    assert answer.status_code == code
    assert answer.headers["Content-Type"].startswith("application/json" if code == 200 else "text/html")
    assert header.items() <= answer.headers.items()


@pytest.mark.parametrize(
    "value", ["Basic !!!", "Basic", "Bearer bWU6MTFhYQ==", "Basic bWU=", "Basic bWU6", "x"]
)
def test_auth_that_is_malformed(ci, value):
    with standin.serve(ci, auth=Auth(user="me", token="11aa")) as server:
        assert get(server, "/api/json", headers={"Authorization": value}).status_code == 401


def test_auth_is_asked_for_on_a_page_without_redirect(ci):
    with standin.serve(ci, auth=AUTH) as server:
        assert "/login?from=%2Fapi%2Fjson" in get(server, "/api/json", auth=no_netrc).text


def test_unreadable_jobs_are_not_listed(ci):
    for name in ("open", "secret", "shown"):
        ci.freestyle(name)
    with standin.serve(ci, auth=AUTH) as server:
        got = get(server, "/api/json?tree=jobs[name]", auth=ME).json()["jobs"]
    assert [job["name"] for job in got] == ["open"]


def test_artifacts_can_be_denied_alone(ci, build):
    with standin.serve(ci, auth=Auth(user="me", token="t", anonymous=True, artifacts=False)) as server:
        assert get(server, "/job/image/1/api/json", auth=no_netrc).ok
        answer = get(server, DISK, auth=no_netrc)
    assert answer.status_code == 403
    assert answer.headers["X-Required-Permission"] == "hudson.model.Run.Artifacts"


@pytest.mark.parametrize(
    ("given", "crumb", "code"),
    [("11aa", None, 201), ("pw", None, 403), ("pw", "mine", 201), ("pw", "old", 403), ("pw", "foreign", 403)],
)
def test_crumbs(ci, given, crumb, code):
    ci.freestyle("open")
    session = requests.Session()
    session.auth = ("me", given)
    headers = {}
    with standin.serve(ci, auth=AUTH) as server:
        if crumb:
            issued = get(server, "/crumbIssuer/api/json", session).json()
            assert issued["_class"] == "hudson.security.csrf.DefaultCrumbIssuer"
            headers = {issued["crumbRequestField"]: issued["crumb"]}
        if crumb == "old":
            server.restart()
        if crumb == "foreign":
            session.cookies.set("JSESSIONID", "0" * 32, domain="127.0.0.1")
        answer = session.post(f"{server.url}/job/open/build", headers=headers, timeout=5)
    assert answer.status_code == code
    assert ("No valid crumb was included in the request" in answer.text) is (code == 403)


def test_an_open_server_wants_a_crumb_too(ci, server):
    ci.freestyle("test")
    assert requests.post(f"{server.url}/job/test/build", timeout=5).status_code == 403


def test_a_trigger_queues_a_build_with_parameters(ci):
    job = ci.freestyle("test-image")
    triggered = []
    ci.on_trigger = triggered.append
    with standin.serve(ci, auth=Auth(user="me", token="11aa", anonymous=True)) as server:
        url = f"{server.url}/job/test-image/buildWithParameters"
        answer = requests.post(url, params={"image": "u"}, data={"build": "7"}, auth=ME, timeout=5)
        spec = "building,inProgress,queueId,actions[parameters[name,value]]"
        got = bare(tree(server, "/job/test-image/1/", spec))
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"{server.url}/queue/item/{got['queueId']}/"
    assert triggered == [job.builds[1]]
    assert (got["building"], got["inProgress"]) == (True, False)
    parameters = [{"name": "image", "value": "u"}, {"name": "build", "value": "7"}]
    assert got["actions"][2] == {"parameters": parameters}


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "test/build", 405), ("POST", "off/build", 409), ("POST", "none/build", 404)],
)
def test_a_trigger_is_refused(ci, method, path, code):
    ci.freestyle("test")
    ci.freestyle("off").disable()
    with standin.serve(ci, auth=AUTH) as server:
        answer = requests.request(method, f"{server.url}/job/{path}", auth=ME, timeout=5)
    assert answer.status_code == code


@pytest.mark.parametrize(
    ("path", "fault", "expected"),
    [
        pytest.param(DISK, faults.Status(429, {"Retry-After": "1"}, b"slow"), (429, b"slow"), id="status"),
        pytest.param(DISK, faults.Status(302, {"Location": "http://sso"}, b""), (302, b""), id="redirect"),
        pytest.param("/api/json", faults.Status(503), (503, JSON_ERROR), id="error page"),
        pytest.param("/api/json", faults.LOGIN_PAGE, (200, JSON_ERROR), id="login page"),
        pytest.param("/api/json", faults.BOM, (200, JSON_ERROR), id="BOM"),
        pytest.param("/api/json", faults.HALF, (200, JSON_ERROR), id="half a JSON"),
        pytest.param("/api/json", faults.Cut(20), CUT_ERROR, id="cut JSON"),
        pytest.param(DISK, faults.Cut(1000), CUT_ERROR, id="cut"),
        pytest.param(DISK, faults.Cut(1000, "chunked"), CUT_ERROR, id="cut, chunked"),
        pytest.param(DISK, faults.Cut(1000, "close"), (200, BODY[:1000]), id="cut, no length"),
        pytest.param(DISK, faults.Understate(400), (200, BODY[:-400]), id="length too small"),
        pytest.param(DISK, faults.FLIPPED, (200, b"\x01" + BODY[1:]), id="flipped bit"),
        pytest.param(DISK, faults.Reset(), requests.ConnectionError, id="reset"),
        pytest.param(DISK, faults.Hang(), requests.Timeout, id="hang"),
    ],
)
def test_faults_strike_once(build, server, path, fault, expected):
    server.faults.add(path, fault)
    session = requests.Session()
    url = server.url + path
    if not isinstance(expected, tuple):
        with pytest.raises(expected):
            session.get(url, timeout=0.2 if expected is requests.Timeout else 5)
    else:
        answer = session.get(url, timeout=5, allow_redirects=False)
        assert answer.status_code == expected[0]
        if isinstance(expected[1], bytes):
            assert answer.content == expected[1]
            assert answer.headers.get("Retry-After", "1") == "1"
        else:
            with pytest.raises(expected[1]):
                answer.json()
    assert get(server, path).status_code == 200


def test_extra_bytes_poison_the_connection(build, server):
    server.faults.add(DISK, faults.Understate(400))
    got = raw(server, DISK, "Host: x", patience=0.3)
    assert b"\r\nContent-Length: 102000\r\n" in got
    assert got.endswith(BODY)


def test_a_drip_defeats_read_timeouts(build, server):
    server.faults.add(DISK, faults.Drip(20_000, 0.07))
    began = time.monotonic()
    assert requests.get(server.url + DISK, timeout=0.3).content == BODY
    assert time.monotonic() - began > 0.3


def test_a_drip_of_json_is_well_framed(server):
    server.faults.add("/api/json", faults.Drip(10, 0.001))
    assert get(server, "/api/json").json()["_class"] == "hudson.model.Hudson"


@pytest.mark.parametrize(
    ("first", "times", "codes"),
    [(1, 1, [500, 200, 200, 200]), (2, 2, [200, 500, 500, 200]), (3, None, [200, 200, 500, 500])],
)
def test_faults_are_planned(server, first, times, codes):
    rule = server.faults.add(r"^/api/json\?tree=jobs$", faults.Status(500), first=first, times=times)
    assert get(server, "/api/json").ok
    assert [get(server, "/api/json?tree=jobs").status_code for _ in range(4)] == codes
    assert rule.hits == 4
    server.faults.clear()
    assert get(server, "/api/json?tree=jobs").ok


def test_a_call_changes_things_between_two_files(ci, server):
    job = ci.freestyle("j")
    job.build(files={"a": b"1", "b": b"2"})
    server.faults.add("/artifact/b", call=lambda: job.delete_build(1))
    codes = [get(server, f"/job/j/1/artifact/{name}").status_code for name in "ab"]
    assert codes == [200, 404]


def test_a_trigger_that_fails_does_nothing(ci):
    job = ci.freestyle("j")
    with standin.serve(ci, auth=AUTH) as server:
        server.faults.add("/build", faults.Status(503))
        requests.post(f"{server.url}/job/j/build", auth=ME, timeout=5)
    assert not job.builds


def test_a_stop_ends_what_hangs(ci):
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


def follow(server, host, *, expired=False, method="GET", **options):
    """Ask for an artifact that is kept elsewhere."""
    server.faults.clear()
    server.faults.add("/artifact/", Away(host, expired=expired), times=None)
    answer = requests.request(method, server.url + DISK, timeout=5, allow_redirects=True, **options)
    assert answer.history[0].status_code == 302
    return answer


def test_a_bucket(build, server):
    with Elsewhere("s3") as bucket:
        answer = follow(server, bucket, auth=ME)
        assert answer.content == BODY
        assert answer.headers["ETag"]
        assert "X-Amz-Signature=" in answer.url
        assert "authorization" in server.requests[0].headers
        assert "authorization" not in bucket.requests[0].headers
        part = follow(server, bucket, headers={"Range": "bytes=102390-"})
        assert (part.status_code, part.content) == (206, BODY[-10:])
        assert part.headers["Content-Range"] == "bytes 102390-102399/102400"
        assert follow(server, bucket, method="HEAD").status_code == 403
        assert len({record.target for record in bucket.requests}) == 3


@pytest.mark.parametrize(
    ("options", "code", "name"),
    [
        ({"expired": True}, 403, "AccessDenied"),
        ({"headers": {"Range": "bytes=102400-"}}, 416, "InvalidRange"),
    ],
)
def test_a_bucket_refuses(build, server, options, code, name):
    with Elsewhere("s3") as bucket:
        answer = follow(server, bucket, **options)
        assert (answer.status_code, answer.headers["Content-Type"]) == (code, "application/xml")
        assert f"<Code>{name}</Code>" in answer.text
        assert "<Code>InvalidArgument</Code>" in requests.get(answer.url, auth=ME, timeout=5).text


def test_a_key_may_be_gone(build, server):
    with Elsewhere("s3") as bucket:
        url = follow(server, bucket).url
        build.job.delete_build(1)
        assert "<Code>NoSuchKey</Code>" in requests.get(url, timeout=5).text
        assert get(server, DISK).status_code == 404


def test_the_resource_root(build, server):
    with Elsewhere("resource") as host:
        answer = follow(server, host, auth=ME)
        assert (answer.content, "Last-Modified" in answer.headers) == (BODY, True)
        assert answer.url.startswith(f"{host.url}/static-files/")
        assert requests.get(answer.url, auth=ME, timeout=5).status_code == 400
        server.faults.clear()
        server.faults.add("/artifact/", Away(host, expired=True))
        back = requests.get(server.url + DISK, timeout=5)
        assert [each.status_code for each in back.history] == [302, 302]
        assert (back.url, back.content) == (server.url + DISK, BODY)


def test_a_home_holds_everything(ci, job):
    ci.folder("images")
    ci.view("V", jobs=["image-*"], folder="images")
    ci.pipeline("p", folder="images", keep=3).disable()
    job.build({AMD: {"serial": b"1"}}, parameters={"a": "b"}, description="d", log="l", duration=3)
    job.start()
    again = Controller(ci.home)
    with standin.serve(ci, public_url="x") as old, standin.serve(again, public_url="x") as new:
        for path in ("/", "/job/images/", "/job/image-ubuntu/", f"/job/image-ubuntu/{AMD}/1/"):
            for question in (f"{path}api/json?depth=3", f"{path}consoleText"):
                assert get(old, question).text == get(new, question).text
    assert again.job("images/p").keep == 3
    assert again.job("image-ubuntu").start().number == 3


def test_another_process_adds_a_build(ci, job, server):
    first = job.build({AMD: {"serial": b"1"}})
    program = (
        "import sys, pathlib; from jenkins.controller import Controller\n"
        "ci = Controller(pathlib.Path(sys.argv[1]))\n"
        "ci.job('image-ubuntu').build({sys.argv[2]: {'serial': b'2'}})\n"
    )
    here = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, ci.home, AMD], check=True, cwd=here)
    assert get(server, f"/job/image-ubuntu/{AMD}/lastSuccessfulBuild/artifact/serial").content == b"2"
    first.set_result("UNSTABLE")
    assert tree(server, "/job/image-ubuntu/1/", "result")["result"] == "UNSTABLE"
    assert job.start().number == 3


def test_two_writers_lose_nothing(ci):
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


def test_bulk_saves_once(ci):
    with ci.bulk():
        for number in range(5):
            ci.freestyle(f"j{number}").build()
        assert not (ci.home / "controller.json").exists()
    assert len(Controller(ci.home).jobs) == 5


def test_a_failed_save_leaves_the_old_state(ci):
    job = ci.freestyle("j")
    with pytest.raises(TypeError):
        job.build(description=object())
    assert not Controller(ci.home).job("j").builds
