"""A site, seven mirrors of every kind, and clients of them all, while everything happens at random.

Builds, withdrawals, rollbacks, kills of the publisher; and to each mirror cuts, slow lines, full disks and kills
of all that runs there. Nobody ever reads an index that names a file which is missing or wrong, and at last one
publication makes all of them equal. IMAGEPRESS_STORM is its length in seconds, IMAGEPRESS_SEED repeats the dice.
"""

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hosts import Host, Network, children, network
from mirrors import behind
from sites import CHECKOUT, Key, Site, build, files, matrix, wait_for
from test_kill import told
from test_troubles import web
from visitors import Visitor

from jenkins import standin
from jenkins.controller import Controller
from tasks.layout import Layout
from tasks.state import Mirrored, load

SECONDS = int(os.environ.get("IMAGEPRESS_STORM", "40"))
PRODUCTS = ("tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default")
GRACE = 20  # seconds: no mirror is away for so long
HOLD = GRACE - 2  # what a client may rely on: times are kept in whole seconds
PULLED = HOLD - 5  # of a mirror that pulls, which learns later that a file is listed no more
AWAY = (0.3, 3.0)  # seconds that a trouble lasts
CALM = GRACE / 4  # seconds of failure after which a mirror has a quiet time
PATIENCE = 60.0  # seconds in which an index must fit its signature again, where they are replaced one by one
LAST = 80  # events that are told with a fault
WORST = 150  # seconds that a command may take
CONFIG = """\
[snapshot]
keep = 3
keep_for = "0s"
"""
MIRROR = """\
[[mirror]]
name = "{name}"
url = "{url}"
timeout = "3s"
retries = 1
pause = "1s"
"""


@dataclass
class Storm:
    """All that takes part."""

    net: Network
    site: Site
    origin: Host
    client: Host
    dice: random.Random
    key: Path
    pushed: dict[str, Host] = field(default_factory=dict)
    pulling: dict[str, Host] = field(default_factory=dict)
    visitors: list[Visitor] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)  # what was withdrawn at once
    faults: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    events: list[str] = field(default_factory=list)
    born: float = field(default_factory=time.monotonic)
    calm: threading.Event = field(default_factory=threading.Event)  # no more trouble, for now

    def note(self, what: str) -> None:
        self.events.append(f"{time.monotonic() - self.born:.2f} s {what}")

    def told(self) -> str:
        """All that was wrong, and what happened last."""
        wrong = [*self.faults, *(fault for visitor in self.visitors for fault in visitor.faults)]
        return "\n".join([*self.events[-LAST:], *wrong]) if wrong else ""

    @property
    def env(self) -> dict[str, str]:
        return {"RSYNC_RSH": self.net.rsh}

    def doit(self, *words: str, kill: bool = False) -> int:
        """Run a command, or kill it somewhere; only what is expected may go wrong."""
        self.note(f"doit {' '.join(words)}{' to be killed' if kill else ''}")
        run = self.site.start(*words, env=self.env)
        try:
            if kill:
                with suppress(subprocess.TimeoutExpired):
                    run.wait(self.dice.uniform(0.2, 6))
                for pid in children(run.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            out, err = run.communicate(timeout=WORST)
        finally:
            run.kill()
            run.communicate()
        self.done[f"{words[0]}: {run.returncode}"] += 1
        self.note(f"exit {run.returncode}\n" + "".join(f"    {line[:150]}\n" for line in out.splitlines()))
        unpinned = "ERROR: nothing is pinned" in err  # as every build that a rollback took back was withdrawn
        if run.returncode not in (0, 1, -signal.SIGKILL) and not unpinned:
            self.faults.append(f"doit {' '.join(words)}: exit {run.returncode}\n{out}{err}")
        return run.returncode

    def step(self) -> None:
        """One thing that an operator or Jenkins does, and a publication."""
        self.rest()
        what = self.dice.choices(["build", "nothing", "withdraw", "now", "rollback"], [10, 2, 2, 1, 2])[0]
        kill = self.dice.random() < 0.3
        self.done[what] += 1
        if what == "build":
            new_build(self.site, *self.dice.sample(PRODUCTS, self.dice.randint(1, 3)))
        elif what in ("withdraw", "now"):
            newest = self.newest(self.dice.choice(PRODUCTS))
            if what == "now":  # it waits for no mirror of a group: whoever is behind would lack what is new
                self.calm.set()
                self.doit("publish")
                self.spare.append(f"images/{newest}/")
            self.doit("withdraw", *(["--now"] if what == "now" else []), newest, kill=kill)
            self.calm.clear()
        elif what == "rollback":
            kept = sorted(path.name for path in (self.site.root / "snapshots").glob("2*"))
            self.doit("rollback", self.dice.choice(kept), kill=kill)
            self.doit("publish", kill=kill)
            self.doit("rollback", "--release")
        self.doit("publish", kill=kill)

    def rest(self) -> None:
        """Have a quiet time when a mirror has failed for long, as each is promised to be there again soon."""
        failing = [load(Layout(self.site.root).mirrored(name), Mirrored) for name in self.pushed]
        since = min((one.since for one in failing if one and one.since), default=0)
        if since and time.time() - since > CALM:
            self.calm.set()
            for _ in range(3):  # a busy machine may be too slow for the mirrors' time-out
                if self.doit("publish") == 0:
                    break
            self.calm.clear()

    def newest(self, product: str) -> str:
        serials = sorted((self.site.latest.resolve() / "images" / product).iterdir())
        return f"{product}/{serials[-1].name}"


def trouble(storm: Storm, host: Host, dice: random.Random, stop: threading.Event) -> None:
    """Trouble of one mirror, again and again."""
    kinds: dict[str, Callable[[], object]] = {
        "cut": host.cut,
        "slow": lambda: host.slow(dice.choice(["256kbit", "1mbit", "4mbit"])),
        "full": host.fill,
        "killed": host.kill,
        "receivers killed": host.kill_receivers,
    }
    while not stop.wait(dice.uniform(1, 12)):
        if storm.calm.is_set():
            continue
        kind = dice.choice(sorted(kinds))
        storm.done[kind] += 1
        storm.note(f"{host.name} {kind}")
        kinds[kind]()
        end = time.monotonic() + dice.uniform(*AWAY)
        while time.monotonic() < end and not (stop.is_set() or storm.calm.is_set()):
            time.sleep(0.05)
        host.mend()
        host.start()
        storm.note(f"{host.name} mended")


def pull(storm: Storm, host: Host, recipe: str, stop: threading.Event) -> None:
    """What a mirror's cron runs, more often than that."""
    while True:
        argv = [*host.inside, "flock", "--nonblock", str(host.home), "sh", "-c", recipe]
        ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=WORST)
        storm.done[f"pull: {ended.returncode and 'failed'}"] += 1
        if stop.wait(0.5):
            return


def recipes(origin: Host, place: Path) -> list[str]:
    """What the README tells mirrors that pull: to switch by a link, and in one directory."""
    text = (CHECKOUT / "README.md").read_text().partition("## Mirrors that pull\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
    assert len(found) == 2, text
    return [
        recipe.replace("images.example.org", origin.address).replace("/srv/mirror", str(place))
        for recipe in found
    ]


@contextmanager
def running(*threads: tuple[Callable[..., object], ...]) -> Iterator[None]:
    """Run functions in threads of their own, each with an event for its last argument that stops it."""
    stop = threading.Event()
    started = [threading.Thread(target=act, args=(*words, stop), daemon=True) for act, *words in threads]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in started:
            thread.join()


def new_build(site: Site, *products: str) -> None:
    content = {one: files(one, payload=os.urandom(50_000)) for one in products}
    build(site.ci, *products, content=content)


@pytest.fixture
def storm(tmp_path: Path, key: Key) -> Iterator[Storm]:
    seed = os.environ.get("IMAGEPRESS_SEED") or str(random.SystemRandom().randrange(10**6))
    with network(tmp_path / "network") as net, ExitStack() as servers:
        origin, client = net.host("origin"), net.host("client")
        ci = Controller(tmp_path / "jenkins")
        server = servers.enter_context(origin.call(lambda: standin.serve(ci)))
        site = Site(tmp_path, server, key, inside=origin.inside)
        site.lines = f'keep = 2\ngrace = "{GRACE}s"\nmax_shrink = "100%"'
        matrix(server.ci, *PRODUCTS)
        made = Storm(net, site, origin, client, random.Random(seed), key.public)
        made.done[f"seed {seed}"] += 1
        prepare(made)
        yield made


def prepare(storm: Storm) -> None:
    """Publish for the first time, to every kind of mirror."""
    net, site, origin = storm.net, storm.site, storm.origin
    place = origin.disk / "tree"  # on every host
    site.more = CONFIG
    for name, more in (
        ("one1", 'group = "one"\n'),
        ("one2", 'group = "one"\n'),
        ("flip", "flip = true\n"),
        ("plain", ""),
        ("part", 'match = ["tiny/1"]\nkeep = 1\n'),
    ):
        host = storm.pushed[name] = net.host(name)
        ssh = name in ("flip", "plain")
        url = f"{host.address}:{place}/" if ssh else f"rsync://{host.address}/images/"
        site.more += MIRROR.format(name=name, url=url) + more
        host.sshd() if ssh else host.rsyncd({"images": place})
    site.configure()
    served = web(site, net, place)
    modules = site.doit("serverconfig", "rsyncd").out
    origin.rsyncd(modules.replace("timeout = 600", "timeout = 3"))
    origin.nginx(served.replace(str(place), str(site.latest)))
    for host in storm.pushed.values():
        host.nginx(served)
    for name in ("now", "pull"):
        host = storm.pulling[name] = net.host(name)
        host.nginx(served.replace(str(place), f"{place}/now") if name == "now" else served)
    new_build(site, *PRODUCTS)
    site.publish(env=storm.env)
    for host, recipe in zip(storm.pulling.values(), recipes(origin, place), strict=True):
        host.run("sh", "-c", recipe)


def visitors(storm: Storm) -> list[Visitor]:
    """Clients of each server, and of those that are one to them."""
    every = {"origin": storm.origin, **storm.pushed, **storm.pulling}
    places: dict[str, list[Host]] = {name: [host] for name, host in every.items()}
    places["one"] = [host for name, host in every.items() if name.startswith("one")]
    return [
        Visitor(
            name,
            hosts,
            storm.client,
            storm.net.ca,
            storm.key,
            PULLED if name in storm.pulling else HOLD,
            strict=name in ("origin", "flip", "now"),
            spare=storm.spare,
        )
        for name, hosts in places.items()
    ]


@pytest.mark.timeout(SECONDS * 2 + 400)
def test_no_client_is_ever_misled(storm: Storm, request: pytest.FixtureRequest) -> None:
    place = storm.origin.disk / "tree"
    dice = random.Random(storm.dice.random())
    troubled = [*storm.pushed.values(), *storm.pulling.values()]
    pulls = zip(storm.pulling.values(), recipes(storm.origin, place), strict=True)
    with ExitStack() as reading:
        seen = [reading.enter_context(visitor) for visitor in visitors(storm)]
        with running(*((pull, storm, host, recipe) for host, recipe in pulls)):
            with running(*((trouble, storm, host, random.Random(dice.random())) for host in troubled)):
                end = time.monotonic() + SECONDS
                while time.monotonic() < end and not storm.told():
                    storm.step()
            storm.doit("rollback", "--release")
            ended = storm.doit("publish")
        for visitor in seen:
            with suppress(AssertionError):
                wait_for(lambda: not visitor.open)  # noqa: B023 - now
    for name, count in sorted(storm.done.items()):
        told(request, f"{name}: {count}")
    for visitor in seen:
        told(request, f"{visitor.name}: {visitor.counts}")
    assert storm.told() == ""
    assert ended == 0, storm.events[-1]
    for visitor in seen:
        assert visitor.open == [], visitor.name
        assert visitor.counts.window < PATIENCE, visitor.name
        assert min(visitor.counts.indexes, visitor.counts.files, visitor.counts.held) > 0, visitor
    time.sleep(GRACE + 1)
    assert storm.doit("publish") == 0, storm.events[-1]
    for name, host in storm.pushed.items():
        assert name == "part" or behind(host.tree, storm.site.latest, lapsed=True) == [], name
        assert storm.doit("verify", f"--mirror={name}") == 0, storm.events[-1]
    for host, recipe in zip(storm.pulling.values(), recipes(storm.origin, place), strict=True):
        host.run("sh", "-c", recipe)
        tree = host.tree / os.readlink(host.tree / "now") if host.name == "now" else host.tree
        assert behind(tree, storm.site.latest, lapsed=True) == [], host.name
