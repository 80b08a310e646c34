"""The glue to doit: one run's settings, lock, signals, reporter and exit codes.

Only dodo.py and the modules of this sort know doit.
"""

import os
import pwd
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec
from doit.exceptions import (
    InvalidCommand,
    InvalidDodoFile,
    InvalidTask,
    TaskFailed,
)
from msgspec.structs import replace

from tasks import config, demo, files, frozen, policy, report
from tasks.decisions import Decisions
from tasks.errors import PublishError, SettingsError, UpstreamError
from tasks.image import SUMS, Image, Product
from tasks.journal import Journal
from tasks.layout import Layout
from tasks.options import Options, inside_own_build, pushed, vain
from tasks.plan import Wish
from tasks.settings import Settings, Share
from tasks.state import PRIVATE, Failure, Ledger, Offers, decisions, load, load_all, save
from tasks.turns import Turns
from tasks.words import counted

if TYPE_CHECKING:
    from jenkins.client import Client
    from tasks.sign import Signer


NO_JENKINS = "there is no [jenkins] in the configuration"
READ_ONLY = frozenset(
    {"plan", "serverconfig", "snapshots", "status", "twin", "verify"}
)  # for everybody who may read the site
Given = ParamSpec("Given")
Told = TypeVar("Told")


def guarded(ask: Callable[Given, Told]) -> Callable[Given, Told]:
    """For what doit asks outside of an action: our errors become its own, one line and exit 2."""

    @wraps(ask)
    def asking(*args: Given.args, **options: Given.kwargs) -> Told:
        try:
            return ask(*args, **options)
        except PublishError as error:
            raise InvalidTask(f"ERROR: {error}") from None

    return asking


class Polls(msgspec.Struct, frozen=True):
    """Counters, not clocks: polls of everything that were begun, and the last one that succeeded."""

    begun: int = 0
    done: int = 0


class Run:
    """One process: what it was told, and what it opened so far."""

    def __init__(self, clone: Path) -> None:
        self.clone = clone
        self.options = Options()
        self.result = ""  # of the hook's build
        self.published: list[Image] = []
        self.adopted = ""  # the mirror that is taken over
        self.trouble = ""  # why the hook's build could not be awaited
        self.pending: dict[Wish, None] = {}  # without an image, in order
        self.selected: tuple[str, ...] = ()
        self._decided: tuple[object, Decisions] | None = None
        self._signer: Signer | None = None
        self._client: Client | None = None
        try:
            self.settings, self.is_demo = _settings(clone)
        except SettingsError as error:
            raise InvalidDodoFile(str(error)) from None
        self.layout = Layout(self.settings.site.root)
        if (state := self.layout.state).is_dir() and not os.access(state, os.R_OK | os.X_OK):
            self.layout = Layout(self.settings.site.root, blind=True)
        self.turns = Turns(self.layout, self.say)
        Journal.read_only = not os.access(self.layout.state, os.W_OK)  # of no use but to read
        try:
            self.decisions  # noqa: B018 - what is wrong in it is said before anything is done
        except PublishError as error:
            raise InvalidDodoFile(str(error)) from None
        _RUNS.append(self)

    @property
    def now(self) -> datetime:
        """The clock; everything below is told the time."""
        return datetime.now(UTC)

    @property
    def decisions(self) -> Decisions:
        """The operator's word as it stands now: it may change while a run lasts."""
        path = self.layout.decisions
        mark = (seen.st_ino, seen.st_mtime_ns, seen.st_size) if (seen := files.status(path)) else None
        if self._decided is None or self._decided[0] != mark:
            self._decided = mark, decisions(self.layout)
        return self._decided[1]

    @guarded
    def prepare(self) -> None:
        """Make the state directory, which is nobody else's business, and see that there is a key."""
        signing = self.settings.signing
        if "publish" in self.selected and not (
            self.is_demo or signing.uses_gpg or Path(signing.key).is_file()
        ):
            raise InvalidCommand(
                f"signing.key: {signing.key} is neither a file nor a fingerprint without blanks"
            )
        if faults := [*vain(self.selected), *config.unreadable(pushed(self.selected, self.settings.mirror))]:
            raise InvalidCommand("\n".join(faults))
        if READ_ONLY.issuperset(self.selected):
            Journal.read_only = True
            return
        self._refuse_others()
        Journal.read_only = False
        with files.disk("make"):
            self.layout.state.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _refuse_others(self) -> None:
        """Raise InvalidCommand for any other user than the site's: what root writes, nobody else can."""
        seen = files.status(self.settings.site.root / "state")
        if seen and seen.st_uid != os.geteuid():
            try:
                owner = pwd.getpwuid(seen.st_uid).pw_name
            except KeyError:
                owner = f"#{seen.st_uid}"
            site = self.settings.site.root
            raise InvalidCommand(
                f"{site} belongs to the user {owner}; run this as {owner}: sudo -u {owner} …"
            )

    def lock(self) -> int:
        """Take the site's lock, waiting for another run to end; the descriptor to hand to children."""
        return self.turns.take()

    def is_awaited(self) -> bool:
        """Whether what can go on later has to make way for another run."""
        return self.turns.is_over(self.settings.site.batch_time.seconds)

    def begin(self) -> None:
        """Take the lock, and clear away what a killed run left."""
        self.lock()
        if (said := files.read(self.layout.decisions)) is not None:
            files.write_changed(self.layout.decisions_copy, said, PRIVATE)
        frozen.sweep(self.layout)
        frozen.prepare(self.layout, self.settings.snapshot.backend)
        files.clear(self.layout.staging)

    def say(self, step: str, line: str) -> None:
        """Print a line that must not wait for the end of a task."""
        with suppress(OSError):  # nobody reads any more: no reason to stop publishing
            sys.stdout.write(f"{step:<11} {line}\n")
            sys.stdout.flush()

    def client(self) -> "Client":
        """The transport to Jenkins; the demo's own Jenkins is started at its first use."""
        from jenkins.client import Client  # noqa: PLC0415 - requests costs 110 ms to import

        jenkins = self.settings.jenkins
        if self._client is None:
            if jenkins is None:
                raise SettingsError(["there is no [jenkins] in the configuration, so nothing to poll"])
            token = jenkins.token()
            if bool(token) != bool(jenkins.user):
                both = "jenkins.user and a token (jenkins.token_file or PUBLISH_JENKINS_TOKEN)"
                raise SettingsError([f"{both} go together; only one of them is given"])
            if jenkins.ca and not jenkins.ca.is_file():
                raise SettingsError([f"jenkins.ca: there is no file {jenkins.ca}"])
            url = demo.serve(self.clone) if self.is_demo else jenkins.url
            ca = str(jenkins.ca or "")
            self._client = Client(url, jenkins.user, token, ca, jenkins.downloads)
        return self._client

    def signer(self) -> "Signer":
        """The signing back end, opened once."""
        from tasks.sign import signer  # noqa: PLC0415 - not needed when nothing is new

        if self._signer is None:
            if self.is_demo:
                demo.make_key(self.clone / ".demo/keys")
            self._signer = signer(self.settings.signing)
        return self._signer

    def asked(self, wish: Wish) -> bool:
        """Whether the command line names this very product."""
        return f"image:{wish.product.name}" in self.selected

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Doit does nothing and exits 0 for an unknown sub-task; raises InvalidCommand: exit 3."""
        names = {f"image:{name}" for name in known}
        for asked in self.selected:
            if asked.startswith("image:") and asked not in names and "*" not in asked:
                if self.settings.jenkins is None:
                    raise InvalidCommand(f"{asked}: {NO_JENKINS} to bring it from; see doit import")
                near = get_close_matches(asked, names, n=3, cutoff=0.5)
                hint = f"; near are {', '.join(near)}" if near else ""
                raise InvalidCommand(f"{asked}: there is no such product{hint}")

    def poll(self) -> str:
        """The poll step: Jenkins, then the upstreams, unless it is a job's hook that asks."""
        said = [self._poll()]
        if self.settings.upstream and not self.options.job:
            from tasks.follow import follow  # noqa: PLC0415 - as above

            shrink = Share(100) if self.options.allow_shrink else self.settings.site.max_shrink
            said += follow(self.layout, self.settings.upstream, shrink, partial(self.say, "poll"))
        return "; ".join(said)

    def _poll(self) -> str:
        """Ask Jenkins: wait for the hook's build, then for the lock, then ask unless just done."""
        from tasks.hook import await_build  # noqa: PLC0415 - as above
        from tasks.poll import poll  # noqa: PLC0415 - as above

        options, jenkins = self.options, self.settings.jenkins
        if jenkins is None:
            self.lock()
            return "no [jenkins] in the configuration"
        if options.build:
            inside_own_build(options.job, options.build, os.environ)
            try:
                self.result = await_build(self.client(), options.job, options.build, options.wait)
            except UpstreamError as error:
                self.trouble = str(error)
                self.lock()
                return f"not polled: {error}"
            if not self.result:
                build = f"{options.job} #{options.build}"
                self.trouble = f"{build} still runs after {options.wait} s; the next publish takes it"
        counters = self.layout.state / "polls.json"
        seen = (load(counters, Polls) or Polls()).begun
        self.begin()
        known = load(counters, Polls) or Polls()
        if known.done > seen:
            return "another run polled after this one began"
        if options.job:
            return poll(self.client(), jenkins, self.layout, options.job)
        save(counters, Polls(known.begun + 1, known.done))
        line = poll(self.client(), jenkins, self.layout)
        if not (load(self.layout.offers, Offers) or Offers()).failed:
            save(counters, Polls(known.begun + 1, known.begun + 1))
        return line

    def look(self) -> tuple[Offers, Mapping[Product, Wish]]:
        """What a poll would leave, asked without leaving it; without access, what the last one left."""
        from tasks.poll import look  # noqa: PLC0415 - as above

        jenkins = self.settings.jenkins
        try:
            if jenkins is not None:
                return look(self.client(), jenkins, self.layout)
            failed = ""
        except SettingsError as error:  # the token is not for everybody
            failed = str(error)
        wishes = {wish.product: wish for wish in load_all(self.layout.state / "wishes", Wish)}
        return replace(load(self.layout.offers, Offers) or Offers(), failed=failed), wishes

    def told(self, **options: str | int | bool) -> None:
        """Take the command line of publish; raises InvalidDodoFile: exit 3."""
        self.options = msgspec.convert(options, Options)
        if self.options.build and not self.options.job:
            raise InvalidDodoFile("--build=N needs --job=NAME: which job's build?")
        if self.options.job and self.settings.jenkins is None:
            raise InvalidDodoFile(f"--job={self.options.job}: {NO_JENKINS} to ask")
        if min(self.options.build, self.options.wait) < 0:
            raise InvalidDodoFile("--build and --wait take numbers from 0 on")

    @guarded
    def wishes(self) -> list[tuple[Wish, Path | None]]:
        """Every wish, with the mark of its image where that is complete in the tree."""
        return list(self._wishes())

    def _wishes(self) -> Iterator[tuple[Wish, Path | None]]:
        wishes = list(load_all(self.layout.state / "wishes", Wish))
        self.refuse_unknown(wish.product.name for wish in wishes)
        ledgers = {ledger.product: ledger for ledger in load_all(self.layout.state / "ledger", Ledger)}
        for wish in wishes:
            ledger = ledgers.get(wish.product)
            if ledger and self.stopped(wish) and not self.asked(wish):
                continue
            image = ledger.of_build(wish) if ledger else None
            if image is None:
                self.pending[wish] = None
            yield wish, self.layout.image(image) / SUMS if image else None

    @guarded
    def settled(self, wish: Wish, done: Path | None) -> bool | None:
        """Doit's word on a wish without an image: content that was rejected is not fetched again."""
        if done or self.asked(wish):
            return None if done else False
        if self.settings.jenkins is None:
            return True  # there is nowhere to fetch it from
        return bool(self.rejection(wish))

    def rejection(self, wish: Wish) -> str:
        """Why this very build was rejected before, under the rules of today, "" when it was not."""
        failure = load(self.layout.failure(wish.product), Failure)
        if (
            failure
            and failure.rejected
            and (failure.build, failure.timestamp) == (wish.build, wish.timestamp)
            and failure.rules == self.rules_of(wish)
        ):
            return failure.reason
        return ""

    def rules_of(self, wish: Wish) -> str:
        """A mark of what the operator says of the images of a product."""
        jenkins = self.settings.jenkins
        unified = jenkins.artifacts if jenkins else policy.NO_PATTERN
        return policy.digest(wish.product, self.settings.rules, unified)

    def stopped(self, wish: Wish) -> str:
        """Why the operator wants nothing fetched for a wish, "" when nothing is decided of it."""
        return self.decisions.stop(wish.product, wish.job, wish.configuration, wish.number)

    @guarded
    def ledgers(self) -> str:
        """A mark of all records of what lies here, that changes whenever one of them does."""
        return files.stamp(self.layout.state / "ledger") + files.stamp(self.layout.state / "held")

    def alone(self, said: str) -> str | TaskFailed:
        """Exit 1 for a step that failed softly and was asked for by name, without ``publish`` to tell."""
        failed = said.startswith(("failed:", "rejected:", "waits for ")) and "publish" not in self.selected
        return TaskFailed(said) if failed else said

    def adopting(self, names: Sequence[str]) -> None:
        """Take ``--adopt`` of the command line; raises InvalidDodoFile: exit 3."""
        known = [mirror.name for mirror in self.settings.mirror]
        if unknown := [name for name in names if name not in known]:
            raise InvalidDodoFile(f"--adopt={unknown[0]}: the mirrors are {', '.join(known) or 'none'}")
        names = [*names, *([self.adopted] if self.adopted else [])]
        if len(names) > 1:
            raise InvalidDodoFile(f"--adopt={' --adopt='.join(names)}: one at a time")
        self.adopted = "".join(names)

    @guarded
    def is_flawless(self) -> bool:
        """Whether publish has nothing to complain of."""
        return not report.faults(self.layout, self.settings) and not self.trouble

    def verdict(self) -> str | TaskFailed | None:
        """The last step: exit 1 when images or mirrors failed; the summary names them."""
        found = report.faults(self.layout, self.settings) + [self.trouble] * bool(self.trouble)
        return TaskFailed(f"done, but for {counted(len(found), 'fault')}, named below") if found else None

    def last_words(self, *, nothing_done: bool) -> list[str]:
        """The summary."""
        lines = [f"failed: {self.trouble}"] if self.trouble else []
        if self.options.build and self.result:
            lines += report.fate(self.layout, self.options.job, self.options.build, self.result)
        shown = [image for image in self.published if (self.layout.latest / image.path).exists()]
        lines += report.published(shown)
        lines += report.summary(self.layout, self.settings, self.decisions, nothing_done=nothing_done)
        return lines + (demo.farewell(self.clone, self.layout) if self.is_demo else [])


_RUNS: list[Run] = []


def current() -> Run:
    """The run of this process, for the commands that dodo.py imports before it makes one."""
    return _RUNS[-1]


def _settings(clone: Path) -> tuple[Settings, bool]:
    """The configuration, and whether it is the demo's."""
    if named := os.environ.get("PUBLISH_CONFIG"):
        return config.read(Path(named), clone), False
    path = clone / config.CONFIG
    if path.exists():
        return config.read(path, clone), False
    return demo.settings(clone), True
