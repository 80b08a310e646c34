"""Serving archived files, like DirectoryBrowserSupport of jenkinsci/jenkins over jenkinsci/stapler.

Also the other hosts that Jenkins may send a client to for them: the resource root domain and an
S3 bucket.

    with Elsewhere("s3") as bucket:
        server.faults.add("/artifact/", Away(bucket), times=None)
"""

import re
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from io import BufferedReader, BytesIO
from os import fstat
from pathlib import Path
from typing import Literal

from jenkins.faults import Answer
from jenkins.wire import Listener, Reply, Wire, page

_TYPES = {
    ".xz": "application/x-xz",
    ".gz": "application/gzip",
    ".json": "application/json",
    ".html": "text/html",
    ".txt": "text/plain",
    ".log": "text/plain",
}
_CSP = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';"
_CSP_HEADERS = ("Content-Security-Policy", "X-WebKit-CSP", "X-Content-Security-Policy")
_NOSNIFF = {"X-Content-Type-Options": "nosniff"}


def browse(top: Path, words: Sequence[str], asked: Message, url: str) -> Reply:
    """Answer for the ``words`` below a build's ``artifact/``; those with stars are questions."""
    names = [word for word in words if word]
    stars = [at for at, name in enumerate(names) if name.startswith("*")]
    path = top.joinpath(*names[: min(stars, default=len(names))])
    question = names[stars[0]] if stars else ""
    if _unseen(top, path):
        return page(404)
    try:
        if path.is_dir():
            return _directory(path, question, url)
        return _static(path, asked, plain=question == "*view*")
    except (FileNotFoundError, NotADirectoryError):
        return page(404)


def _directory(path: Path, question: str, url: str) -> Reply:
    listing = "".join(f"{each.name}{'/' * each.is_dir()}\n" for each in sorted(path.iterdir()))
    match question:
        case "*zip*":
            return Reply.of(_zipped(path), {"Content-Type": "application/zip"}, framing="chunked")
        case "*plain*":
            kind = {"Content-Type": "text/plain;charset=UTF-8"}
            return Reply.of(listing.encode(), kind, framing="chunked")
        case "" if url.endswith("/"):
            return page(200, listing)
        case "":
            return page(302, headers={"Location": f"{url}/"})
    return page(404)


def _unseen(top: Path, path: Path) -> bool:
    """Neither symbolic links nor temporary directories of a workspace are shown."""
    below = path.relative_to(top)
    steps = [top / parent for parent in (below, *below.parents)]
    return any(step.is_symlink() or step.name.endswith("@tmp") for step in steps)


def _zipped(folder: Path) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return buffer.getvalue()


def _static(path: Path, asked: Message, *, plain: bool = False) -> Reply:
    """Answer with a file as Stapler.serveStaticResource does, faults included."""
    file = path.open("rb")
    status = fstat(file.fileno())
    if _unchanged(asked["If-Modified-Since"], status.st_mtime):
        file.close()
        return Reply(status=304)
    modified = formatdate(int(status.st_mtime), usegmt=True)
    headers = {
        "Last-Modified": modified,
        "Expires": modified,
        "Accept-Ranges": "bytes",
        "Content-Type": _TYPES.get(path.suffix, "application/octet-stream"),
        **_NOSNIFF,
    }
    if plain:
        headers["Content-Type"] = "text/plain"
        headers["Content-Disposition"] = f"inline; filename={path.name}"
    else:
        headers.update(dict.fromkeys(_CSP_HEADERS, _CSP))
    size = length = status.st_size
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked["Range"] or "")
    if span:
        # No 416: past the end the numbers just stop making sense, as they do there.
        start = int(span[1])
        end = min(int(span[2]) + 1 if span[2] else size, size)
        length = min(end - start, size)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        file.seek(start)
    return Reply(status=206 if span else 200, headers=headers, body=file, length=length)


def _unchanged(since: str | None, modified: float) -> bool:
    try:
        return since is not None and modified < parsedate_to_datetime(since).timestamp() + 1
    except ValueError:
        return False


class Elsewhere(Listener):
    """The second host: knows files by the token in their URL, and does not want credentials."""

    def __init__(self, kind: Literal["s3", "resource"]) -> None:
        self.kind = kind
        self.offers: dict[str, tuple[Away, Path, str]] = {}
        super().__init__(("127.0.0.1", 0), _Elsewhere)

    def offer(self, away: "Away", path: Path, origin: str) -> str:
        """Make a URL for a file, fresh each time."""
        token = secrets.token_hex(16)
        self.offers[token] = away, path, origin
        if self.kind == "s3":
            return f"{self.url}/bucket/{path.name}?X-Amz-Expires=3600&X-Amz-Signature={token}"
        return f"{self.url}/static-files/{token}/{path.name}"


@dataclass(frozen=True, slots=True)
class Away:
    """302 to where the artifact is kept instead of it; the URL may be too old already."""

    to: Elsewhere
    expired: bool = False

    def play(self, wire: Wire, answer: Answer) -> None:
        """Redirect, if there is such a file."""
        reply = answer()
        if not isinstance(reply.body, BufferedReader):
            return wire.send(reply)
        reply.body.close()
        url = self.to.offer(self, Path(reply.body.name), wire.server.url + wire.record.target)
        return wire.send(page(302, headers={"Location": url}))


class _Elsewhere(Wire):
    server: Elsewhere

    def respond(self) -> None:
        token = re.search("[0-9a-f]{32}", self.path)
        offer = self.server.offers.get(token[0]) if token else None
        if offer is None:
            self.send(page(404))
        else:
            self.send((self.bucket if self.server.kind == "s3" else self.resource)(*offer))

    def resource(self, away: Away, path: Path, origin: str) -> Reply:
        if "Authorization" in self.headers:
            return page(400, "Credentials are not allowed here")
        if away.expired:
            return page(302, headers={"Location": origin})
        return _static(path, self.headers) if path.exists() else page(404)

    def bucket(self, away: Away, path: Path, _origin: str) -> Reply:
        if "Authorization" in self.headers:
            return _s3_error(400, "InvalidArgument")
        if away.expired or self.command == "HEAD":
            return _s3_error(403, "AccessDenied")
        if not path.exists():
            return _s3_error(404, "NoSuchKey")
        size = length = path.stat().st_size
        headers = {"Content-Type": "binary/octet-stream", "ETag": f'"{path.stat().st_mtime_ns:x}"'}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if span and int(span[1]) >= size:
            return _s3_error(416, "InvalidRange")
        file = path.open("rb")
        if span:
            end = min(int(span[2] or size), size - 1)
            length = end + 1 - file.seek(int(span[1]))
            headers["Content-Range"] = f"bytes {span[1]}-{end}/{size}"
        return Reply(status=206 if span else 200, headers=headers, body=file, length=length)


def _s3_error(status: int, code: str) -> Reply:
    xml = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Reply.of(xml.encode(), {"Content-Type": "application/xml"}, status=status)
