"""What Jenkins is asked, and how its answers are read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jenkins import api, treequery
from jenkins.api import Action, Artifact, Build, BuildDetail, Fingerprint, Job, Parameter, TestRun
from jenkins.errors import Malformed

BUILD = {"number": 7, "url": "u", "timestamp": 1, "result": "SUCCESS", "building": False}
SEGMENTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=12)


def children(tree: treequery.Tree) -> dict:
    return {name: (children(child), child.start, child.stop) for name, child in tree.children.items()}


# What is asked


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("unstable", [False, True])
def test_the_tree_of_all_jobs(older: bool, unstable: bool) -> None:
    """It is one that Jenkins takes, four folders deep, and asks for no more than is read.

    Of folders that are deeper it asks whether anything is in them.
    """
    build = dict.fromkeys(("number", "url", "timestamp", "result", "building"), ({}, 0, None))
    last = "lastSuccessfulBuild" if unstable else "lastStableBuild"
    builds = {last: (build, 0, None)} | ({"builds": (build, 0, 10)} if older else {})
    names = {"name": ({}, 0, None), "url": ({}, 0, None)}
    job = {**names, **builds, "activeConfigurations": ({**names, **builds}, 0, None)}
    assert children(treequery.parse(api.job_tree(older=older, unstable=unstable))) == job
    jobs = {**job, "jobs": ({"name": ({}, 0, None)}, 0, 1)}
    for _ in range(4):
        jobs = {**job, "jobs": (jobs, 0, None)}
    tree = children(treequery.parse(api.jobs_tree(older=older, unstable=unstable)))
    assert tree == {"jobs": (jobs, 0, None)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            api.BUILD_TREE,
            {
                **dict.fromkeys(("number", "result", "building", "timestamp"), ({}, 0, None)),
                "artifacts": ({"relativePath": ({}, 0, None)}, 0, None),
                "fingerprint": ({"hash": ({}, 0, None)}, 0, None),
            },
        ),
        (
            api.STATE_TREE,
            dict.fromkeys(("number", "result", "building", "inProgress", "timestamp"), ({}, 0, None)),
        ),
    ],
    ids=["build", "state"],
)
def test_the_tree_of_a_build(spec: str, expected: dict) -> None:
    assert children(treequery.parse(spec)) == expected


def test_the_tree_of_the_tests() -> None:
    parameters = {"parameters": (dict.fromkeys(("name", "value"), ({}, 0, None)), 0, None)}
    run = dict.fromkeys(("result", "building", "timestamp"), ({}, 0, None)) | {
        "actions": (parameters, 0, None)
    }
    assert children(treequery.parse(api.TESTS_TREE)) == {"allBuilds": (run, 0, 1000)}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("unstable", [False, True])
def test_what_is_asked_for_is_what_is_read(older: bool, unstable: bool) -> None:
    """Everything that Jenkins has, cut by our own tree and read again, in folders as deep as we go."""
    builds = [BUILD | {"number": number, "duration": 5} for number in range(20, 0, -1)]
    run = {"name": "a=b", "url": "v", "color": "blue", "builds": builds}
    run |= {"lastStableBuild": BUILD, "lastSuccessfulBuild": BUILD | {"number": 8, "result": "UNSTABLE"}}
    job = run | {"name": "image", "activeConfigurations": [run], "_class": "hudson.matrix.MatrixProject"}
    for name in ("d", "c", "b", "a"):
        job = {"name": name, "jobs": [job, {"name": f"empty-{name}", "jobs": []}]}
    inner = job["jobs"][0]["jobs"][0]["jobs"][0]["jobs"]
    inner.append({"name": "deep", "jobs": [run, run]})
    tree = treequery.parse(api.jobs_tree(older=older, unstable=unstable))
    answer = json.dumps(treequery.prune({"jobs": [job]}, tree)).encode()
    found = dict(api.parse_jobs(answer))
    assert list(found) == [
        *("a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/image"),
        *("a/b/c/d/empty-d", "a/b/c/d/deep", "a/b/c/empty-c", "a/b/empty-b", "a/empty-a"),
    ]
    image = found["a/b/c/d/image"]
    assert image.active_configurations is not None
    (configuration,) = image.active_configurations
    for one, name, url in ((image, "image", "v"), (configuration, "a=b", "v")):
        assert (one.name, one.url) == (name, url)
        assert one.last_stable_build == (None if unstable else Build(7, "u", 1, "SUCCESS"))
        assert one.last_successful_build == (Build(8, "u", 1, "UNSTABLE") if unstable else None)
        assert [build.number for build in one.builds or ()] == (list(range(20, 10, -1)) if older else [])
    assert found["a"].active_configurations is None
    assert found["a/empty-a"].jobs == ()
    assert {path for path, one in found.items() if one.jobs} == {"a/b/c/d/deep"}, "it is to be opened"


# What is answered


def test_jobs_in_their_folders() -> None:
    answer = {
        "_class": "hudson.model.Hudson",
        "jobs": [
            {"name": "one", "_class": "x"},
            {"name": "f", "jobs": [{"name": "g", "jobs": [{"name": "two"}]}, {"name": "three"}]},
            {"name": "feature%2Fx", "jobs": None, "activeConfigurations": None, "builds": None},
        ],
    }
    found = list(api.parse_jobs(json.dumps(answer).encode()))
    assert [path for path, _ in found] == ["one", "f", "f/g", "f/g/two", "f/three", "feature%2Fx"]
    assert [job.name for _, job in found] == ["one", "f", "g", "two", "three", "feature%2Fx"]
    assert dict(found)["one"] == Job(name="one")


@pytest.mark.parametrize("answer", [b"{}", b'{"jobs": []}', b'{"jobs": null}', b'{"views": [1]}'])
def test_no_jobs(answer: bytes) -> None:
    assert list(api.parse_jobs(answer)) == []


def test_a_build() -> None:
    answer = {
        **BUILD,
        "artifacts": [{"relativePath": "a/b.xz", "fileName": "b.xz"}],
        "fingerprint": [{"hash": "0f", "fileName": "other"}],
    }
    assert api.parse_build(json.dumps(answer).encode()) == BuildDetail(
        number=7,
        result="SUCCESS",
        building=False,
        timestamp=1,
        artifacts=(Artifact("a/b.xz"),),
        fingerprint=(Fingerprint("0f"),),
    )


@pytest.mark.parametrize("lists", [{}, {"artifacts": None, "fingerprint": None}])
def test_a_build_that_has_nothing_yet(lists: dict) -> None:
    answer = {"number": 7, "result": None, "building": True} | lists
    found = api.parse_build(json.dumps(answer).encode())
    assert found == BuildDetail(number=7, building=True)
    assert (found.timestamp, found.in_progress) == (0, False)
    assert api.parse_build(b'{"number": 7, "inProgress": true}').in_progress is True
    assert api.parse_build(b'{"number": 7}').building is False
    assert api.parse_tests(b'{"allBuilds": [{}]}')[0].building is False
    assert api.parse_job(b'{"name": "a", "builds": [{"number": 7}]}').builds == (
        Build(7, None, 0, None, False),
    )


def test_runs_of_the_test_job() -> None:
    answer = {
        "allBuilds": [
            {
                "result": "SUCCESS",
                "building": False,
                "timestamp": 5,
                "actions": [
                    None,
                    {},
                    {"_class": "x"},
                    {"parameters": [{"name": "image", "value": "i"}, {"name": "fast", "value": True}]},
                    {"parameters": [{"name": "image", "value": "j"}, {"name": "n"}, {}]},
                    {"parameters": [{"name": "a", "value": ["b", {"c": 1}]}, {"name": "d", "value": {}}]},
                ],
            },
            {"result": None, "building": True, "actions": []},
        ]
    }
    first, second = api.parse_tests(json.dumps(answer).encode())
    assert (first.result, first.building, first.parameter("image")) == ("SUCCESS", False, "i")
    assert (second.result, second.building, second.parameter("image")) == (None, True, None)
    assert (first.timestamp, second.timestamp) == (5, None)


@pytest.mark.parametrize("answer", [b"{}", b'{"allBuilds": null}', b'{"allBuilds": []}'])
def test_no_runs(answer: bytes) -> None:
    assert api.parse_tests(answer) == ()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (((Parameter("build", "x"),),), "x"),
        (((Parameter("build", ""),),), ""),
        (((Parameter("build", 7),),), None),
        (((Parameter("build", True),),), None),
        (((Parameter("build", None),),), None),
        (((Parameter("build", ["x"]),),), None),
        (((Parameter("build", {"x": "y"}),),), None),
        (((Parameter("Build", "x"), Parameter("build2", "y"), Parameter(None, "z")),), None),
        (((Parameter("a", "b"),), (Parameter("build", "x"),)), "x"),
        (((Parameter("build", 7),), (Parameter("build", "x"),)), "x"),
        ((None,), None),
        ((), None),
    ],
)
def test_the_value_of_a_parameter(parameters: tuple, expected: str | None) -> None:
    assert TestRun(actions=(None, *map(Action, parameters))).parameter("build") == expected


READERS = pytest.mark.parametrize(
    "read",
    [api.parse_jobs, api.parse_job, api.parse_build, api.parse_tests],
    ids=["jobs", "job", "build", "tests"],
)


@READERS
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(b"", "Input data was truncated", id="nothing"),
        pytest.param(b'{"jobs": [', "Input data was truncated", id="cut off"),
        pytest.param(b"<html>", "JSON is malformed: invalid character (byte 0)", id="a page"),
        pytest.param(b"\xff", "JSON is malformed: invalid character (byte 0)", id="no text"),
        pytest.param(b"null", "Expected `object`, got `null`", id="null"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="list"),
    ],
)
def test_what_is_no_answer(read, answer: bytes, why: str) -> None:
    """Also where the answer is read piece by piece: it must not fail later, half-way."""
    with pytest.raises(Malformed) as caught:
        read(answer)
    assert str(caught.value).startswith(f"not what Jenkins says: {why}")


@pytest.mark.parametrize(
    ("read", "answer", "why"),
    [
        (api.parse_jobs, {"jobs": [{"url": "x"}]}, "missing required field `name` - at `$.jobs[0]`"),
        (api.parse_jobs, {"jobs": {}}, "Expected `array | null`, got `object` - at `$.jobs`"),
        (
            api.parse_job,
            {"name": "a", "lastStableBuild": {"number": "1"}},
            "Expected `int`, got `str` - at `$.lastStableBuild.number`",
        ),
        (api.parse_build, {"artifacts": []}, "Object missing required field `number`"),
        (
            api.parse_build,
            {"number": 1, "artifacts": [{"fileName": "a"}]},
            "missing required field `relativePath` - at `$.artifacts[0]`",
        ),
        (
            api.parse_build,
            {"number": 1, "fingerprint": [{}]},
            "missing required field `hash` - at `$.fingerprint[0]`",
        ),
        (
            api.parse_tests,
            {"allBuilds": [{"result": 1}]},
            "Expected `str | null`, got `int` - at `$.allBuilds[0].result`",
        ),
    ],
)
def test_an_answer_of_another_shape(read, answer: object, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(json.dumps(answer).encode())
    assert str(caught.value).endswith(why)


def test_a_name_that_is_no_text() -> None:
    with pytest.raises(Malformed, match=r"^not what Jenkins says: 'utf-8' codec can't decode byte 0xff"):
        api.parse_jobs(b'{"jobs": [{"name": "\xff"}]}')


# Builds that ended well


def ended(number: int, result: str | None = "SUCCESS", *, building: bool | None = False) -> Build:
    return Build(number, timestamp=number, result=result, building=building)


@pytest.mark.parametrize(
    ("job", "stable", "with_unstable"),
    [
        pytest.param(Job(name="a"), [], [], id="never built"),
        pytest.param(Job(name="a", last_stable_build=ended(5)), [5], [], id="only the last stable one asked for"),
        pytest.param(Job(name="a", last_successful_build=ended(6, "UNSTABLE")), [], [6], id="only the last successful one"),
        pytest.param(Job(name="a", builds=()), [], [], id="all rotated away"),
        pytest.param(Job(name="a", builds=(ended(1), ended(3), ended(2))), [3, 2, 1], [3, 2, 1], id="newest first"),
        pytest.param(
            Job(name="a", builds=(ended(5, "FAILURE"), ended(4, "ABORTED"), ended(3, "NOT_BUILT"), ended(2, "UNSTABLE"), ended(1))),
            [1], [2, 1], id="by result",
        ),
        pytest.param(Job(name="a", builds=(ended(3, building=True), ended(2, None, building=True), ended(1))), [1], [1], id="still running"),
        pytest.param(Job(name="a", builds=(ended(2, None), ended(1, building=None))), [1], [1], id="null is not running, and no result"),
        pytest.param(
            Job(name="a", builds=(ended(9, "FAILURE"), ended(8)), last_stable_build=ended(4), last_successful_build=ended(5, "UNSTABLE")),
            [8, 4], [8, 5], id="the last good one may be further back than the list",
        ),
        pytest.param(Job(name="a", builds=(ended(8),), last_stable_build=ended(8), last_successful_build=ended(8)), [8], [8], id="named twice"),
        pytest.param(Job(name="a", last_stable_build=ended(7, building=True), last_successful_build=ended(7, None)), [], [], id="a stale permalink"),
    ],
)  # fmt: skip
def test_finished(job: Job, stable: list[int], with_unstable: list[int]) -> None:
    assert [build.number for build in job.finished(unstable=False)] == stable
    assert [build.number for build in job.finished(unstable=True)] == with_unstable


# Names and URLs


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("architecture=amd64,release=noble", {"architecture": "amd64", "release": "noble"}),
        ("a=b=c,d=", {"a": "b=c", "d": ""}),
        ("default", {}),
        ("", {}),
        ("default,a=b", {"a": "b"}),
    ],
)
def test_axes(configuration: str, expected: dict[str, str]) -> None:
    assert api.axes(configuration) == expected


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("b=2,a=1", "a=1,b=2"),
        ("a=1,b=2", "a=1,b=2"),
        ("a-b=1,a=2", "a=2,a-b=1"),
        ("b=x=y,a=", "a=,b=x=y"),
        ("default", ""),
    ],
)
def test_the_name_of_a_configuration_has_an_order(configuration: str, expected: str) -> None:
    assert api.configuration_name(configuration) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image-ubuntu", "job/image-ubuntu"),
        ("a/b/c", "job/a/job/b/job/c"),
        ("/a//b/", "job/a/job/b"),
        ("", ""),
        ("a b/é", "job/a%20b/job/%C3%A9"),
        ("feature%2Fx", "job/feature%252Fx"),
        ("a?b#c;d:e", "job/a%3Fb%23c%3Bd%3Ae"),
        ("architecture=amd64,release=7.0_x", "job/architecture=amd64,release=7.0_x"),
        ("!$&'()*+,-.=@_", "job/!$&'()*+,-.=@_"),
        ('[a]{b}|\\^`"<>', "job/%5Ba%5D%7Bb%7D%7C%5C%5E%60%22%3C%3E"),
    ],
)
def test_the_path_of_a_job(name: str, expected: str) -> None:
    assert api.job_path(name) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ci/job/a/", ("a",)),
        ("https://ci/job/a", ("a",)),
        ("https://ci/job/a/job/b/7/", ("a", "b", "7")),
        ("https://ci/job/a/job/b/x=y,z=1/7/", ("a", "b", "x=y,z=1", "7")),
        ("https://ci:8443/jenkins/view/All/job/a/7/?x=/job/y#/job/z", ("a", "7")),
        ("https://ci/job/job/7/", ("job", "7")),
        ("https://ci/job/job/job/job/7/", ("job", "job", "7")),
        ("https://ci/job/feature%252Fx/", ("feature%2Fx",)),
        ("https://ci/job/a%20b/c%3Dd/", ("a b", "c=d")),
        ("/job/a", ("a",)),
        ("/job/Z/", ("Z",)),
        ("https://ci/job/a/job/", ("a", "job")),
        ("https://ci/job/", ("job",)),
        ("https://ci/", None),
        ("https://job/a", None),
        ("https://ci/jobs/a", None),
        ("http://[", None),
        ("http://[::1/job/a/", None),
        ("a", None),
        ("", None),
    ],
)
def test_the_names_in_a_url(url: str, expected: tuple[str, ...] | None) -> None:
    assert api.job_name(url) == expected


@settings(max_examples=50)
@given(
    st.lists(SEGMENTS, min_size=1, max_size=3), st.sampled_from(["https://ci", "https://ci:8/x/view/V", ""])
)
def test_a_job_is_found_again_by_its_url(names: list[str], server: str) -> None:
    url = f"{server}/{api.job_path('/'.join(names))}/"
    assert api.job_name(url) == tuple(names)
    assert api.job_name(f"{url}a=b/12/") == (*names, "a=b", "12")
    assert url.isascii()
