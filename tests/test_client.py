"""The transport against a Jenkins that misbehaves on the wire: what is refused, retried, resumed."""

import http.client
import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path

import pytest

from jenkins import api, standin
from jenkins.artifacts import Away, Elsewhere
from jenkins.client import Client
from jenkins.controller import Controller
from jenkins.errors import JenkinsError, Malformed, NotFound
from jenkins.faults import BOM, HALF, LOGIN_PAGE, Cut, Drip, Hang, Reset, Status, Understate
from jenkins.standin import Auth, Standin

BODY = bytes(range(256)) * 2000
JOB, DISK = "job/image/1", "job/image/1/artifact/disk"
TREE = "jobs[name]"
JSON = {"Content-Type": "application/json;charset=utf-8"}
AUTH = Auth(user="me", token="11aa")
SLOW: dict[str, Future[str]] = {}


class Kept:
    """A sink that keeps everything, in the way that real ones do."""

    def __init__(self) -> None:
        self.size, self.data, self.digest, self.resets = 0, b"", sha256(), 0

    def write(self, chunk: bytes) -> None:
        self.data += chunk
        self.size += len(chunk)
        self.digest.update(chunk)

    def reset(self) -> None:
        self.size, self.data, self.digest, self.resets = 0, b"", sha256(), self.resets + 1


@pytest.fixture
def client(server: Standin) -> Client:
    server.ci.freestyle("image").build(files={"disk": BODY, "page.html": b"<html>"}, log="so it went\n")
    return Client(server.url)


def fetched(client: Client, path: str = DISK) -> Kept:
    sink = Kept()
    client.download(path, sink)
    assert sink.digest.digest() == sha256(sink.data).digest()
    return sink


def ranges(server: Standin) -> list[str | None]:
    return [record.headers.get("range") for record in server.requests if "/artifact/" in record.path]


def modified(server: Standin) -> str:
    connection = http.client.HTTPConnection(*server.server_address)
    connection.request("GET", f"/{DISK}")
    answer = connection.getresponse().headers["Last-Modified"]
    connection.close()
    server.clear()
    return answer


def failure(client: Client, path: str = DISK) -> str:
    """What a download that cannot succeed says, on one line and without a traceback."""
    with pytest.raises(JenkinsError) as caught:
        fetched(client, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.fixture(scope="module", autouse=True)
def slow(tmp_path_factory):
    """Start the cases whose retries pause, so that they wait beside the other tests."""
    ci = Controller(tmp_path_factory.mktemp("slow"))
    ci.freestyle("image").build(files={"disk": BODY})
    with standin.serve(ci) as busy, standin.serve(ci) as broken, standin.serve(ci) as flaky:
        busy.faults.add("/api/json", Status(503), times=None)
        broken.faults.add("/api/json", Cut(10), times=None)
        broken.faults.add("/artifact/", Cut(1000), first=1, times=1)
        broken.faults.add("/artifact/", Cut(0), first=2, times=None)
        whole = {"Content-Type": "application/octet-stream", "Content-Length": str(len(BODY))}
        for at in range(40):  # ignores ranges, and breaks now later, now earlier
            cut = _Short(BODY[: 5000 if at % 2 else 3000], whole)
            flaky.faults.add("/artifact/", cut, first=at + 1)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"

        def told(what, *arguments):
            try:
                what(*arguments)
            except JenkinsError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(5) as pool:
            SLOW["cut"] = pool.submit(told, Client(broken.url).json, "", TREE)
            SLOW["busy"] = pool.submit(told, Client(busy.url).json, "", TREE)
            SLOW["nobody"] = pool.submit(told, Client(nobody).json, "", TREE)
            SLOW["broken"] = pool.submit(told, Client(broken.url).download, DISK, Kept())
            SLOW["flaky"] = pool.submit(told, Client(flaky.url).download, DISK, Kept())
            yield {"busy": busy, "broken": broken, "flaky": flaky}


class _Short:
    """A 200 whose body ends before its announced length."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.body, self.headers = body, headers

    def play(self, wire, _answer):
        wire.record.status = 200
        wire.send_response(200)
        for name, value in self.headers.items():
            wire.send_header(name, value)
        wire.end_headers()
        wire.wfile.write(self.body)
        wire.hang_up()


class _Tiring:
    """Nearly all of it at once, the rest byte by byte."""

    def play(self, wire, answer):
        reply = answer()
        with reply.body:
            wire.head(reply)
            body = b"".join(reply.blocks())
        wire.put(body[:-60], "length")
        for byte in body[-60:]:
            wire.server.stopped.wait(0.05)
            wire.put(bytes([byte]), "length")


class TestJson:
    def test_the_body_of_one_request_with_the_tree_in_it(self, client, server):
        assert client.json("job/image", "name,builds[number]{0,5}").endswith(
            b'"name":"image","builds":[{"_class":"hudson.model.FreeStyleBuild","number":1}]}'
        )
        (asked,) = server.requests
        assert asked.path == "/job/image/api/json"
        assert asked.query == "tree=name,builds[number]{0,5}"
        assert asked.headers["accept-encoding"] == "identity"
        assert asked.headers["user-agent"].startswith("imagepress")
        assert "authorization" not in asked.headers

    @pytest.mark.usefixtures("client")
    def test_a_slash_at_the_end_of_the_url_does_no_harm(self, server):
        assert Client(f"{server.url}/job/image/").json("", "name")
        assert server.requests[0].path == "/job/image/api/json"

    @pytest.mark.parametrize(
        ("fault", "kind", "words"),
        [
            (LOGIN_PAGE, Malformed, "not JSON but a page; is a login or a proxy in front of it?"),
            (Status(200, {"Content-Type": "text/plain"}, b"{}"), Malformed, "not JSON"),
            (Status(200, {}, b"{}"), Malformed, "not JSON"),
            (Status(302, {"Location": "https://sso.example.org/login"}), JenkinsError, "https://sso.example.org/login'; is a login in front of it?"),
            (Status(302, {"Location": "/login?from=x"}), JenkinsError, "redirects to '/login?from=x'; is a login in front of it?"),
            (Status(302, {"Location": "http://[::1"}), JenkinsError, ""),
            (Status(302), JenkinsError, "HTTP status 302"),
            (Status(401), JenkinsError, "HTTP status 401: the user or its token is wrong"),
            (Status(403), JenkinsError, "HTTP status 403: this user may not read it"),
            (Status(404), NotFound, "not found (gone, or this user may not see it)"),
            (Status(204, {}, b""), JenkinsError, "HTTP status 204"),
            (Status(206, JSON, b'{"jobs":[]}'), JenkinsError, "HTTP status 206"),
            (Status(418), JenkinsError, "HTTP status 418"),
            (Status(200, {**JSON, "Content-Encoding": "gzip"}, b"not gzip"), JenkinsError, "gzip"),
        ],
        ids=str,
    )  # fmt: skip
    def test_an_answer_that_is_none_is_refused_by_name(self, client, server, fault, kind, words):
        server.faults.add("/api/json", fault, times=None)
        with pytest.raises(JenkinsError) as caught:
            client.json("", TREE)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(f"{server.url}/api/json: ")
        assert words in str(caught.value)

    def test_a_redirect_of_the_api_is_never_followed(self, client, server):
        server.faults.add("/api/json", Status(302, {"Location": "/job/image/api/json"}))
        with pytest.raises(JenkinsError):
            client.json("", TREE)
        assert len(server.requests) == 1

    def test_a_byte_order_mark_is_taken_off(self, client, server):
        server.faults.add("/api/json", BOM)
        assert [name for name, _ in api.parse_jobs(client.json("", TREE))] == ["image"]

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b'"x"', b'{"jobs":5}', b'{"jobs":[{}]}', b"\xff\xfe{", b"[" * 100_000]
    )
    def test_what_is_no_document_of_jenkins_is_malformed(self, client, server, body):
        server.faults.add("/api/json", Status(200, JSON, body))
        with pytest.raises(Malformed, match="not what Jenkins says"):
            list(api.parse_jobs(client.json("", TREE)))

    def test_half_a_document_is_malformed(self, client, server):
        server.faults.add("/api/json", HALF)
        with pytest.raises(Malformed, match="not what Jenkins says"):
            list(api.parse_jobs(client.json("", TREE)))

    def test_unknown_fields_and_nulls_are_no_fault(self, client, server):
        body = b'{"_class":"x.Y","new":{"a":[1]},"jobs":[{"name":"a","url":null,"lastStableBuild":null,"activeConfigurations":null,"x":1}]}'
        server.faults.add("/api/json", Status(200, JSON, body))
        ((path, job),) = api.parse_jobs(client.json("", TREE))
        assert (path, job.finished(unstable=False)) == ("a", ())

    def test_a_body_that_breaks_off_is_asked_for_again(self, client, server):
        server.faults.add("/api/json", Cut(10))
        assert [name for name, _ in api.parse_jobs(client.json("", TREE))] == ["image"]
        assert len(server.requests) == 2

    @pytest.mark.parametrize(
        "fault", [*(Status(code) for code in (429, 500, 502, 503, 504)), Reset(), Hang(0.01)], ids=str
    )
    def test_a_server_that_recovers_is_asked_again(self, client, server, fault):
        server.faults.add("/api/json", fault)
        assert b"image" in client.json("", TREE)
        assert len(server.requests) == 2

    def test_a_restart_of_jenkins_is_waited_for(self, client, server):
        client.json("", TREE)
        server.restart(busy=2)
        assert b"image" in client.json("", TREE)

    def test_retry_after_is_obeyed(self, client, server):
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        server.faults.add("/api/json", Status(503, {"Retry-After": format_datetime(until, usegmt=True)}))
        assert b"image" in client.json("", TREE)
        assert datetime.now(UTC) >= until


class TestWho:
    @pytest.fixture
    def guarded(self, tmp_path):
        ci = Controller(tmp_path / "jenkins")
        ci.freestyle("image").build(files={"disk": BODY})
        with standin.serve(ci, auth=AUTH) as running:
            yield running

    def test_the_token_goes_with_every_request(self, guarded):
        client = Client(guarded.url, "me", "11aa")
        client.json("", TREE)
        assert fetched(client).data == BODY
        assert {record.headers["authorization"] for record in guarded.requests} == {"Basic bWU6MTFhYQ=="}

    def test_a_wrong_token_is_said_at_once_and_never_shown(self, guarded):
        with pytest.raises(JenkinsError, match="HTTP status 401: the user or its token is wrong") as caught:
            Client(guarded.url, "me", "s3cr3t").json("", TREE)
        assert "s3cr3t" not in str(caught.value)
        assert len(guarded.requests) == 1

    def test_without_a_token_jenkins_wants_a_login(self, guarded):
        with pytest.raises(JenkinsError, match="HTTP status 403: this user may not read it"):
            Client(guarded.url, "me").json("", TREE)
        assert "authorization" not in guarded.requests[0].headers

    def test_a_token_of_any_characters(self, guarded):
        with pytest.raises(JenkinsError, match="HTTP status 401"):
            Client(guarded.url, "møøse", "пароль").json("", TREE)

    def test_netrc_is_not_read(self, guarded, tmp_path, monkeypatch):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password 11aa\n")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with pytest.raises(JenkinsError, match="403"):
            Client(guarded.url).json("", TREE)
        assert "authorization" not in guarded.requests[0].headers

    @pytest.mark.parametrize("kind", ["s3", "resource"])
    def test_an_artifact_kept_elsewhere_is_fetched_there_without_credentials(self, guarded, kind):
        with Elsewhere(kind) as other:
            guarded.faults.add("/artifact/", Away(other), times=None)
            assert fetched(Client(guarded.url, "me", "11aa")).data == BODY
            assert [record.headers.get("authorization") for record in other.requests] == [None]
            assert guarded.requests[0].headers["authorization"]

    @pytest.mark.parametrize("kind", ["s3", "resource"])
    def test_a_link_elsewhere_that_has_expired_is_asked_for_again(self, guarded, kind):
        with Elsewhere(kind) as other:
            guarded.faults.add("/artifact/", Away(other, expired=True))
            guarded.faults.add("/artifact/", Away(other), first=2, times=None)
            assert fetched(Client(guarded.url, "me", "11aa")).data == BODY
            assert all("authorization" not in record.headers for record in other.requests)

    def test_a_file_that_is_gone_elsewhere_is_not_found(self, guarded):
        with Elsewhere("s3") as other:
            guarded.faults.add(
                "/artifact/", Status(302, {"Location": f"{other.url}/bucket/disk?X-Amz-Signature={'0' * 32}"})
            )
            with pytest.raises(NotFound):
                fetched(Client(guarded.url, "me", "11aa"))
            assert len(other.requests) == 1

    def test_a_redirect_without_end_is_an_error(self, client, server):
        server.faults.add("/artifact/", Status(302, {"Location": f"/{DISK}"}), times=None)
        assert "redirects" in failure(client)

    @pytest.mark.parametrize(
        "target",
        [
            "http://[::1",
            "ftp://example.org/disk",
            "file:///etc/passwd",
            "//",
            "http://",
            f"http://{'x' * 900}/",
        ],
    )
    def test_a_redirect_to_nowhere_is_an_error(self, client, server, target):
        server.faults.add("/artifact/", Status(302, {"Location": target}), times=None)
        failure(client)

    def test_the_environment_says_which_proxy(self, server, monkeypatch):
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(NotFound):
            Client("http://jenkins.invalid").json("", TREE)
        assert server.requests[0].target.startswith("http://jenkins.invalid/api/json")

    def test_the_environment_says_for_whom_there_is_no_proxy(self, client, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert client.json("", TREE)


class TestDownload:
    def test_whole_in_one_request(self, client, server):
        sink = fetched(client)
        assert (sink.data, sink.size, sink.resets) == (BODY, len(BODY), 0)
        assert ranges(server) == [None]
        assert server.requests[0].headers["accept-encoding"] == "identity"

    def test_an_empty_file(self, server):
        server.ci.freestyle("image").build(files={"disk": b""})
        assert fetched(Client(server.url)).data == b""

    def test_a_text_without_an_announced_length(self, client):
        assert (
            fetched(client, f"{JOB}/consoleText").data
            == b"Started by user admin\nso it went\nFinished: SUCCESS\n"
        )

    def test_what_is_not_there_is_not_found_and_not_asked_for_again(self, client, server):
        with pytest.raises(NotFound, match="artifact/none: not found"):
            fetched(client, f"{JOB}/artifact/none")
        assert len(server.requests) == 1

    def test_a_login_page_is_no_artifact(self, client, server):
        server.faults.add("/artifact/", LOGIN_PAGE, times=None)
        assert "login" in failure(client)

    def test_a_page_elsewhere_is_no_artifact(self, client, server):
        server.faults.add("/artifact/", Status(302, {"Location": "/sign-in"}), times=None)
        server.faults.add("/sign-in", LOGIN_PAGE, times=None)
        assert "login" in failure(client)

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    @pytest.mark.parametrize("at", [1, 1000, len(BODY) - 1])
    def test_a_cut_file_goes_on_exactly_where_it_broke(self, client, server, framing, at):
        server.faults.add("/artifact/", Cut(at, framing))
        sink = fetched(client)
        assert sink.data == BODY
        assert sink.resets == 0
        assert ranges(server) == [None, f"bytes={at}-"]
        assert sum(record.sent for record in server.requests) == len(BODY)

    def test_a_file_cut_again_and_again_arrives_as_long_as_it_gets_on(self, client, server):
        for hit in range(1, 8):
            server.faults.add("/artifact/", Cut(1000), first=hit)
        assert fetched(client).data == BODY
        assert ranges(server) == [None, *(f"bytes={at}000-" for at in range(1, 8))]

    def test_a_file_that_breaks_before_its_first_byte_starts_again(self, client, server):
        server.faults.add("/artifact/", Cut(0))
        assert fetched(client).data == BODY
        assert ranges(server) == [None, None]

    def test_a_reset_connection_is_tried_again(self, client, server):
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", Reset(), first=2)
        assert fetched(client).data == BODY
        assert ranges(server) == [None, "bytes=1000-", "bytes=1000-"]

    def test_a_file_replaced_between_two_attempts_starts_from_zero(self, client, server):
        build = server.ci.job("image").builds[1]
        other = BODY[::-1]
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", first=2, call=lambda: _replace(build.directory / "disk", other))
        sink = fetched(client)
        assert sink.data == other
        assert sink.resets == 1
        assert ranges(server) == [None, "bytes=1000-", None]

    @pytest.mark.parametrize("size", [500, 1000, 5000, len(BODY) * 2])
    def test_a_file_replaced_in_the_same_second_by_one_of_other_length_starts_from_zero(
        self, client, server, size
    ):
        path = server.ci.job("image").builds[1].directory / "disk"
        when, other = path.stat().st_mtime, (BODY[::-1] * 2)[:size]
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", first=2, call=lambda: _replace(path, other, when))
        assert fetched(client).data == other

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Range": "bytes 0-511999/512000"},
            {"Content-Range": "bytes 999-511999/512000"},
            {"Content-Range": "bytes 1000-999/1000"},
            {"Content-Range": "bytes 1000-511998/512000"},
            {"Content-Range": "bytes 1000-511999/511000"},
            {"Content-Range": "bytes */512000"},
            {},
        ],
        ids=str,
    )
    def test_a_continuation_that_makes_no_sense_is_not_believed(self, client, server, headers):
        same = {"Last-Modified": modified(server)}
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", Status(206, {**same, **headers}, b"x" * 1000), first=2)
        sink = fetched(client)
        assert sink.data == BODY
        assert ranges(server) == [None, "bytes=1000-", None]

    def test_a_continuation_of_another_day_is_not_believed(self, client, server):
        headers = {
            "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT",
            "Content-Range": f"bytes 1000-{len(BODY) - 1}/{len(BODY)}",
        }
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", Status(206, headers, b"x" * (len(BODY) - 1000)), first=2)
        assert fetched(client).data == BODY
        assert ranges(server) == [None, "bytes=1000-", None]

    def test_a_server_that_does_not_continue_gives_all_of_it_again(self, client, server):
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", Status(200, {}, BODY), first=2)
        sink = fetched(client)
        assert (sink.data, sink.resets) == (BODY, 1)
        assert ranges(server) == [None, "bytes=1000-"]

    @pytest.mark.parametrize("code", [206, 200])
    def test_a_part_that_nobody_asked_for_is_not_the_file(self, client, server, code):
        headers = {"Content-Range": f"bytes 5-9/{len(BODY)}"} if code == 206 else {"Content-Encoding": "gzip"}
        server.faults.add("/artifact/", Status(code, headers, b"hello"), times=None)
        failure(client)

    @pytest.mark.parametrize("length", ["abc", "", "-5", "5.0", "５"])
    def test_a_length_that_is_no_number_announces_nothing(self, client, server, length):
        server.faults.add(
            "/artifact/", _Short(b"hello", {"Content-Length": length.encode().decode("latin-1")})
        )
        assert fetched(client).data == b"hello"

    def test_the_same_length_said_twice_is_one(self, client, server):
        server.faults.add("/artifact/", Status(200, {"Content-Length": "5"}, b"hello"))
        assert fetched(client).data == b"hello"

    def test_too_small_a_length_does_not_spoil_the_next_answer(self, client, server):
        server.faults.add("/artifact/", Understate(100))
        assert fetched(client).data == BODY[:-100]  # whether that is all is for the md5 to say
        assert b"image" in client.json("", TREE)

    def test_a_deleted_build_is_not_found_in_the_middle(self, client, server):
        server.faults.add("/artifact/", Cut(1000))
        server.faults.add("/artifact/", first=2, call=lambda: server.ci.job("image").delete_build(1))
        with pytest.raises(NotFound):
            fetched(client)

    def test_a_slow_file_comes_in_as_it_is_sent(self, client, server):
        server.faults.add("/artifact/", Drip(size=1000, pause=0.001), times=None)
        seen = []

        class Watched(Kept):
            def write(self, chunk):
                seen.append(len(chunk))
                super().write(chunk)

        sink = Watched()
        client.download(DISK, sink)
        assert sink.data == BODY
        assert len(seen) > 10, "what is too slow could only be told at the end"

    def test_a_server_that_drips_is_given_up(self, client, server):
        server.faults.add("/artifact/", Drip(size=10, pause=0.05), times=None)
        client.patience = 0.3
        assert "slower than 1024 bytes a second" in failure(client)
        assert len(server.requests) == 1

    def test_a_server_that_begins_to_drip_is_given_up(self, client, server):
        server.faults.add("/artifact/", _Tiring(), times=None)
        client.patience = 0.2
        assert "slower than 1024 bytes a second" in failure(client)

    def test_a_slow_server_is_waited_for(self, client, server):
        server.faults.add("/artifact/", Drip(size=50_000, pause=0.05), times=None)
        client.patience = 0.06
        assert fetched(client).data == BODY

    def test_threads_do_not_disturb_each_other(self, client, server):
        server.faults.add("/artifact/", Cut(3000), first=3, times=2)
        with ThreadPoolExecutor(4) as pool:
            assert {sink.digest.digest() for sink in pool.map(lambda _: fetched(client), range(8))} == {
                sha256(BODY).digest()
            }


class TestGivenUp:
    """The cases whose retries pause."""

    def test_a_file_without_progress(self, slow):
        assert "0 of" in (said := SLOW["broken"].result(30)) or "IncompleteRead" in said
        assert ranges(slow["broken"]) == [None, *["bytes=1000-"] * 5]

    def test_a_file_that_only_seems_to_get_on(self, slow):
        assert SLOW["flaky"].result(60)
        assert slow["flaky"].count("/artifact/") <= 12

    def test_an_answer_that_always_breaks_off(self, slow):
        assert "IncompleteRead" in (said := SLOW["cut"].result(30))
        assert said.startswith(f"{slow['broken'].url}/api/json: ")
        assert slow["broken"].count("/api/json") == 5

    def test_a_server_that_stays_busy(self, slow):
        assert SLOW["busy"].result(60).endswith("/api/json: HTTP status 503")
        assert len(slow["busy"].requests) == 6

    def test_nobody_there(self):
        said = SLOW["nobody"].result(60)
        assert said.startswith("http://127.0.0.1:")
        assert "Connection refused" in said
        assert "\n" not in said


def _replace(path: Path, data: bytes, when: float = 1_700_000_000) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(data)
    os.utime(fresh, (when, when))
    fresh.replace(path)
