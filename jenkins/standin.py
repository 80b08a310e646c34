"""A Jenkins on a local port: the HTTP face of jenkins.controller, for tests, benchmarks, the demo.

    with serve(ci) as server:
        requests.get(f"{server.url}/api/json?tree=jobs[name]")
        server.count("/api/json")          # 1
        server.faults.add("/artifact/", Cut(1000))

It answers as a real one would where a client may look: chunked JSON, HTML errors, session header,
redirects, permissions, and files as jenkins.artifacts has them.
"""

import json
import re
import secrets
import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, quote, unquote

from jenkins.artifacts import browse
from jenkins.controller import Controller
from jenkins.exports import Moved, Site, Subject, find
from jenkins.faults import FaultPlan, Status
from jenkins.jobs import Build, Folder, Job, View
from jenkins.treequery import Depth, parse, prune
from jenkins.wire import Listener, Reply, Wire, page

_OWN = "own"
_SECURITY = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "deny"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Who may do what; the patterns are matched with the beginning of a job's full name."""

    user: str
    token: str
    password: str = ""
    anonymous: bool = False  # whether everybody may read
    hidden: str = "(?!)"  # jobs that may not even be discovered: 404
    denied: str = "(?!)"  # jobs that may be discovered, not read: 403
    artifacts: bool = True  # whether Run/Artifacts is granted


class Standin(Listener):
    """The server; ``requests`` is its log, ``faults`` what shall go wrong."""

    def __init__(
        self,
        ci: Controller,
        address: tuple[str, int],
        *,
        latency: float,
        auth: Auth | None,
        public_url: str | None,
    ) -> None:
        self.ci = ci
        self.latency = latency
        self.auth = auth
        self.faults = FaultPlan()
        self.session = secrets.token_hex(4)
        self.public_url = public_url
        super().__init__(address, _Visitor)

    @property
    def site(self) -> Site:
        """The controller as its visitors see it."""
        url = self.url if self.public_url == _OWN else self.public_url
        return Site(self.ci, url, self.unlisted, secured=self.auth is not None)

    def unlisted(self, path: str) -> bool:
        """Tell whether a job is left out of lists."""
        return bool(self.auth and re.match(f"{self.auth.hidden}|{self.auth.denied}", path))

    def restart(self, busy: int = 0) -> None:
        """Begin a new session; the next so many requests come too early."""
        self.session = secrets.token_hex(4)
        if busy:
            self.faults.add("", Status(503), times=busy)

    def crumb(self, cookie: str) -> str:
        """Make the CSRF crumb of a browser session."""
        return sha256(f"{self.session}:{cookie}".encode()).hexdigest()


def serve(  # noqa: PLR0913 - one keyword for each thing that can be otherwise
    ci: Controller,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    latency: float = 0.0,
    auth: Auth | None = None,
    public_url: str | None = _OWN,
) -> Standin:
    """Start a server; ``public_url`` is the "Jenkins URL" setting, which may be wrong or None."""
    return Standin(ci, (host, port), latency=latency, auth=auth, public_url=public_url)


class _Visitor(Wire):
    server: Standin

    def respond(self) -> None:
        time.sleep(self.server.latency)
        fault = self.server.faults.strike(self.record.asked)
        if fault:
            fault.play(self, self.answer)
        else:
            self.send(self.answer())

    def end_headers(self) -> None:
        """Sign every answer, refusals too."""
        self.send_header("X-Jenkins", "2.541")
        self.send_header("X-Jenkins-Session", self.server.session)
        super().end_headers()

    @property
    def bare_path(self) -> str:
        return self.path.partition("?")[0]

    def answer(self) -> Reply:
        query = self.path.partition("?")[2]
        words = [unquote(word) for word in self.bare_path.removeprefix("/").split("/")]
        refusal = self.refusal()
        if refusal:
            return refusal
        if any(word == ".." or "/" in word or "\\" in word for word in words):
            return page(400)
        ci = self.server.ci
        with ci.lock:
            ci.refresh()
            try:
                subject, rest = find(ci, words)
            except Moved as moved:
                location = f"/{moved}?{query}" if query else f"/{moved}"
                return page(302, headers={"Location": location})
        return self.forbidden(subject) or self.route(subject, rest, query)

    def refusal(self) -> Reply | None:
        """Refuse who is not known, and who posts without proof that it is on purpose."""
        auth = self.server.auth
        given = self.headers["Authorization"]
        secret = _secret(given, auth.user) if auth and given else None
        if auth and given and (not secret or secret not in {auth.token, auth.password}):
            return page(401, headers={"WWW-Authenticate": 'Basic realm="Jenkins"'})
        if auth and not given and not auth.anonymous:
            return _login(self.path)
        if self.command == "POST" and not (auth and secret == auth.token):
            crumb = self.server.crumb(self.cookie)
            if self.headers["Jenkins-Crumb"] != crumb:
                return page(403, "No valid crumb was included in the request")
        return None

    @property
    def cookie(self) -> str:
        cookies = SimpleCookie(self.headers["Cookie"] or "")
        return cookies["JSESSIONID"].value if "JSESSIONID" in cookies else ""

    def forbidden(self, subject: Subject) -> Reply | None:
        auth = self.server.auth
        path = _job_path(subject)
        if auth and re.match(auth.hidden, path):
            return page(404)
        if auth and re.match(auth.denied, path):
            return self.missing("hudson.model.Item.Read")
        return None

    def missing(self, permission: str) -> Reply:
        auth = self.server.auth
        user = auth.user if auth and self.headers["Authorization"] else "anonymous"
        return page(
            403,
            f"{user} is missing the {permission.rpartition('.')[2]} permission",
            {"X-You-Are-Authenticated-As": user, "X-Required-Permission": permission},
        )

    def route(self, subject: Subject, rest: list[str], query: str) -> Reply:
        match subject, rest:
            case _, ["api", "json" | "python" as form]:
                reply = self.api(subject, query, form)
            case Build(), ["artifact", *words]:
                reply = self.artifact(subject, words)
            case Build(), ["consoleText"]:
                reply = _text(_console(subject), "text/plain")
            case Job(), ["build" | "buildWithParameters"]:
                reply = self.trigger(subject, query)
            case Folder(path=""), ["crumbIssuer", "api", "json"]:
                reply = self.crumb()
            case _, []:
                reply = page(302, headers={"Location": f"{self.bare_path}/"})
            case _, [""]:
                reply = page(200)
            case _:
                reply = page(404)
        return reply

    def api(self, subject: Subject, query: str, form: str) -> Reply:
        asked = dict(reversed(parse_qsl(query, keep_blank_values=True)))
        if "jsonp" in asked:
            return page(403, "jsonp forbidden; implement jenkins.security.SecureRequester")
        try:
            pruner = parse(asked["tree"]) if "tree" in asked else Depth(int(asked.get("depth", 0)))
        except ValueError as error:
            return page(500, f"Malformed tree expression: {error}")
        with self.server.ci.lock:
            document = prune(self.server.site.show(subject), pruner)
        if form == "python":
            return _text(repr(document), "text/x-python")
        pretty = asked.get("pretty") == "true"
        return _json(document, indent=2 if pretty else None)

    def artifact(self, build: Build, words: list[str]) -> Reply:
        auth = self.server.auth
        if auth and not auth.artifacts:
            return self.missing("hudson.model.Run.Artifacts")
        return browse(build.directory, words, self.headers, self.bare_path)

    def trigger(self, job: Job, query: str) -> Reply:
        if self.command != "POST":
            return page(405, "This URL requires POST", {"Allow": "POST"})
        if job.disabled:
            return page(409, f"{job.name} is not buildable")
        asked = dict(parse_qsl(query) + parse_qsl(self.form))
        build = job.queue(parameters=asked)
        if job.ci.on_trigger:
            job.ci.on_trigger(build)
        return page(201, headers={"Location": f"{self.server.url}/queue/item/{build.queue}/"})

    def crumb(self) -> Reply:
        cookie = self.cookie or secrets.token_hex(16)
        document = {
            "_class": "hudson.security.csrf.DefaultCrumbIssuer",
            "crumb": self.server.crumb(cookie),
            "crumbRequestField": "Jenkins-Crumb",
        }
        return _json(document, {"Set-Cookie": f"JSESSIONID={cookie}; Path=/; HttpOnly"})


def _text(text: str, kind: str, headers: Mapping[str, str] | None = None) -> Reply:
    typed = {"Content-Type": f"{kind};charset=utf-8", **_SECURITY, **(headers or {})}
    return Reply.of(text.encode(), typed, framing="chunked")


def _json(document: object, headers: Mapping[str, str] | None = None, indent: int | None = None) -> Reply:
    separators = (",", " : ") if indent else (",", ":")
    text = json.dumps(document, ensure_ascii=False, indent=indent, separators=separators)
    return _text(text, "application/json", headers)


def _secret(given: str, user: str) -> str | None:
    """Take the password out of a Basic header of this user."""
    scheme, _, encoded = given.partition(" ")
    try:
        name, _, secret = b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return secret if scheme == "Basic" and name == user else None


def _login(path: str) -> Reply:
    url = f"/login?from={quote(path, safe='')}"
    html = (
        f"<html><head><meta http-equiv='refresh' content='1;url={url}'/><script>window.location."
        f"replace('{url}');</script></head><body>Authentication required</body></html>"
    )
    headers = {
        "Content-Type": "text/html;charset=utf-8",
        "X-You-Are-Authenticated-As": "anonymous",
        "X-Required-Permission": "hudson.model.Hudson.Read",
    }
    return Reply.of(html.encode(), headers, status=403)


def _job_path(subject: Subject) -> str:
    match subject:
        case Build(job=job) | (Job() as job):
            return job.path
        case Folder(path=path) | View(folder=path):
            return path
    return ""


def _console(build: Build) -> str:
    end = "" if build.building else f"Finished: {build.result}\n"
    return f"Started by user admin\n{build.log}{end}"
