"""What can go wrong between Jenkins and its client, to be planned per URL.

    server.faults.add(r"/artifact/disk", Cut(1000))             the first request loses its end
    server.faults.add(r"/api/json", Status(503), first=2, times=3)    the 2nd, 3rd and 4th
    server.faults.add(r"/api/json", Status(500), times=None)    all of them
    server.faults.add(r"/artifact/serial", call=lambda: job.delete_build(7))

A pattern is searched for in the decoded ``path?query``. ``call`` runs before the answer is made.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from jenkins.wire import Framing, Reply, Wire, page

Answer = Callable[[], Reply]


class Fault(Protocol):
    """A way to answer badly."""

    def play(self, wire: Wire, answer: Answer) -> None:
        """Answer; ``answer`` makes the right one if that is wanted."""


@dataclass(frozen=True, slots=True)
class Status:
    """Another answer altogether; an HTML error page unless there is a body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def play(self, wire: Wire, _answer: Answer) -> None:
        """Send it."""
        if self.body is None:
            wire.send(page(self.status, headers=self.headers))
        else:
            wire.send(Reply.of(self.body, self.headers, status=self.status))


LOGIN_PAGE = Status(
    200,
    {"Content-Type": "text/html;charset=utf-8"},
    b"<html><head><title>Sign in</title></head><body><form action='/login'></form></body></html>",
)


@dataclass(frozen=True, slots=True)
class Cut:
    """The first bytes of the body, then the end of the connection."""

    at: int
    framing: Framing | None = None

    def play(self, wire: Wire, answer: Answer) -> None:
        """Send what is before the cut."""
        reply = answer()
        framing = self.framing or reply.framing
        with reply.body:
            wire.head(reply, framing)
            left = self.at
            for block in reply.blocks():
                if left > 0:
                    wire.put(block[:left], framing)
                left -= len(block)
        wire.hang_up()


@dataclass(frozen=True, slots=True)
class Understate:
    """A Content-Length that is too small; the rest of the body comes all the same."""

    by: int

    def play(self, wire: Wire, answer: Answer) -> None:
        """Send all of it."""
        reply = answer()
        with reply.body:
            wire.head(reply, "length", reply.length - self.by)
            for block in reply.blocks():
                wire.put(block, "length")


@dataclass(frozen=True, slots=True)
class Drip:
    """The right answer, very slowly."""

    size: int = 1
    pause: float = 0.2

    def play(self, wire: Wire, answer: Answer) -> None:
        """Send a little, wait, and so on, until all is sent or the server stops."""
        reply = answer()
        with reply.body:
            wire.head(reply)
            for block in reply.blocks(self.size):
                wire.put(block, reply.framing)
                if wire.server.stopped.wait(self.pause):
                    return wire.hang_up()
            if reply.framing == "chunked":
                wire.put(b"", "chunked")
        return None


@dataclass(frozen=True, slots=True)
class Reset:
    """A connection that breaks in the middle of the headers."""

    def play(self, wire: Wire, _answer: Answer) -> None:
        """Begin to answer, and break."""
        wire.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
        wire.reset()


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer, until the server stops or the time is over."""

    seconds: float | None = None

    def play(self, wire: Wire, _answer: Answer) -> None:
        """Wait."""
        wire.server.stopped.wait(self.seconds)
        wire.hang_up()


@dataclass(frozen=True, slots=True)
class Edit:
    """The right answer with another body, properly framed."""

    change: Callable[[bytes], bytes]

    def play(self, wire: Wire, answer: Answer) -> None:
        """Change it and send it."""
        reply = answer()
        with reply.body:
            body = self.change(b"".join(reply.blocks()))
        wire.send(Reply.of(body, reply.headers, status=reply.status, framing=reply.framing))


BOM = Edit(lambda body: b"\xef\xbb\xbf" + body)
HALF = Edit(lambda body: body[: len(body) // 2])
FLIPPED = Edit(lambda body: bytes([body[0] ^ 1]) + body[1:])


@dataclass(slots=True)
class Rule:
    """A planned fault; ``hits`` counts the requests that matched, faulty or not."""

    pattern: re.Pattern[str]
    fault: Fault | None
    first: int
    times: int | None
    call: Callable[[], object] | None
    hits: int = 0

    def strikes(self, asked: str) -> bool:
        """Count a request, and tell whether it is one of the planned ones."""
        if not self.pattern.search(asked):
            return False
        self.hits += 1
        return self.hits >= self.first and (self.times is None or self.hits < self.first + self.times)


class FaultPlan:
    """The faults of one server; of several that strike at once, the first added does."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = Lock()

    def add(
        self,
        pattern: str,
        fault: Fault | None = None,
        *,
        first: int = 1,
        times: int | None = 1,
        call: Callable[[], object] | None = None,
    ) -> Rule:
        """Plan a fault from the first-th matching request on, so many times."""
        rule = Rule(re.compile(pattern), fault, first, times, call)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Let all go well."""
        with self._lock:
            self._rules.clear()

    def strike(self, asked: str) -> Fault | None:
        """Count a request, run the calls planned for it, and say how it shall fail."""
        with self._lock:
            rules = [rule for rule in self._rules if rule.strikes(asked)]
        for rule in rules:
            if rule.call:
                rule.call()
        return next((rule.fault for rule in rules if rule.fault), None)
