"""Mirrors on hosts of their own, with real rsyncd, sshd and nginx: each kind of trouble in each phase of a push.

Eight mirrors are pushed to at once, and each meets the trouble in another phase, while clients read from all of
them. When it is over, one publication makes all of them equal to the newest snapshot.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hosts import NAME, Host, Network, children, network
from mirrors import behind
from sites import Key, Site, build, files, matrix, wait_for
from tools import program
from visitors import Visitor

from jenkins import standin
from jenkins.controller import Controller

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
GRACE = 3  # seconds
LONG = 90  # seconds, for what takes some of them on a machine that has nothing else to do
# What each call of rsync that writes is for, in order, to a mirror that has been given a tree before.
IN_PLACE = ("images", "upstreams", "deltas", "lxc index", "streams", "page", "gone images", "gone indexes")
FLIPPED = (
    "images",
    "upstreams",
    "deltas",
    "place",
    "indexes",
    "flip",
    "links",
    "gone images",
    "gone indexes",
    "gone links",
)
STRUCK = {False: IN_PLACE, True: ("images", "indexes", "flip", "links", "gone indexes")}
LINKS = {"flip", "links"}
TROUBLES = ("cut", "slow", "full", "receiver killed", "publisher killed")
RATES = {"images": 128, "streams": 16, "indexes": 16}  # KiB/s: these phases have a middle
SLOW = 2  # KiB/s, for those that carry next to nothing
WHOLE = random.Random(6).randbytes(80_000)  # of every image: deltas are small

# In the place of rsync: counts the calls that write, by mirror, and holds one of them until it may go on.
WRAPPER = """\
#!/bin/sh
case " $* " in *" --recursive "*) ;; *) exec @RSYNC@ "$@" ;; esac
for url; do :; done
mirror=$(printf %s "$url" | sed 's,^rsync://,,; s,[:/].*,,')
cd "@HOME@"
number=$(($(cat "count-$mirror" 2>/dev/null || echo 0) + 1))
echo $number >"count-$mirror"
[ "$number" = "$(cat "stop-$mirror" 2>/dev/null)" ] || exec @RSYNC@ "$@"
: >"reached-$mirror"
until [ -e "go-$mirror" ]; do sleep 0.01; done
exec @RSYNC@ "--bwlimit=$(cat "rate-$mirror")" "$@"
"""


@dataclass
class World:
    """An origin, a client, and a mirror for each phase."""

    net: Network
    site: Site
    mirrors: dict[str, Host]  # by the phase in which they meet trouble
    flip: bool
    visitors: list[Visitor] = field(default_factory=list)

    @property
    def wrapper(self) -> Path:
        return self.net.work / "wrapper"

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": f"{self.wrapper}:{os.environ['PATH']}", "RSYNC_RSH": self.net.rsh}

    def hold(self) -> None:
        """Let the next publication stop in every phase, each on another mirror."""
        for path in self.wrapper.glob("*-*"):
            path.unlink()
        order = FLIPPED if self.flip else IN_PLACE
        for phase, host in self.mirrors.items():
            (self.wrapper / f"stop-{host.address}").write_text(f"{order.index(phase) + 1}")
            (self.wrapper / f"rate-{host.address}").write_text(f"{RATES.get(phase, SLOW)}")

    def are_held(self) -> bool:
        return all((self.wrapper / f"reached-{host.address}").exists() for host in self.mirrors.values())

    def release(self, host: Host) -> None:
        (self.wrapper / f"go-{host.address}").touch()

    def strike(self, act: Callable[[Host], object]) -> None:
        """Let each phase begin, and call ``act(host)`` in the middle of it."""
        for phase, host in self.mirrors.items():
            before = {*host.receivers()}  # of a connection that was cut before, which nobody told of it
            self.release(host)
            wait_for(lambda: {*host.receivers()} - before, LONG)  # noqa: B023 - now
            if phase in RATES:
                time.sleep(0.3)
            assert act(host) is not False, phase

    def behind(self, *, lapsed: bool = False) -> dict[str, list[str]]:
        """What is not there as in the newest snapshot, by the mirror's phase."""
        found = {
            phase: behind(host.tree, self.site.latest, lapsed=lapsed) for phase, host in self.mirrors.items()
        }
        return {phase: paths for phase, paths in found.items() if paths}


@pytest.fixture(scope="module", params=["in place by rsyncd", "flipped over ssh"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, key: Key
) -> Iterator[World]:
    flip = request.param == "flipped over ssh"
    base = tmp_path_factory.mktemp("world")
    with network(base / "network") as net, ExitStack() as running:
        origin, client = net.host("origin"), net.host("client")
        ci = Controller(base / "jenkins")
        server = running.enter_context(origin.call(lambda: standin.serve(ci)))
        site = Site(base, server, key, inside=origin.inside, lines=f'keep = 1\ngrace = "{GRACE}s"')
        matrix(server.ci, A, B)
        mirrors = {phase: net.host(f"eu{n}") for n, phase in enumerate(STRUCK[flip])}
        made = World(net, site, mirrors, flip)
        (made.wrapper).mkdir()
        text = WRAPPER.replace("@RSYNC@", program("rsync")).replace("@HOME@", str(made.wrapper))
        (made.wrapper / "rsync").write_text(text)
        (made.wrapper / "rsync").chmod(0o755)
        site.more = '[snapshot]\nkeep = 2\nkeep_for = "0s"\n' + tables(mirrors.values(), flip=flip)
        site.configure()
        served = web(site, net, next(iter(mirrors.values())).disk / "tree")
        for host in mirrors.values():
            host.nginx(served)
            host.sshd() if flip else host.rsyncd({"images": host.disk / "tree"})
        new_build(site, A, B)
        site.publish(env=made.env)
        for host in mirrors.values():
            (made.wrapper / f"count-{host.address}").unlink()
        new_build(site, A)
        site.publish(env=made.env)
        for host in mirrors.values():
            calls = int((made.wrapper / f"count-{host.address}").read_text())
            assert calls == len(FLIPPED if flip else IN_PLACE), "tasks/mirror.py has other phases by now"
        for n, (phase, host) in enumerate(mirrors.items()):
            visitor = Visitor(phase, [host], client, net.ca, key.public, GRACE, strict=flip, seed=n)
            made.visitors.append(running.enter_context(visitor))
        yield made


def tables(mirrors: Sequence[Host], *, flip: bool) -> str:
    text = ""
    for host in mirrors:
        url = f"{host.address}:{host.disk}/tree/" if flip else f"rsync://{host.address}/images/"
        text += f'[[mirror]]\nname = "{host.name}"\nurl = "{url}"\nflip = {str(flip).lower()}\n'
        text += 'timeout = "5s"\nretries = 0\npause = "1s"\n'
    return text


def web(site: Site, net: Network, tree: Path) -> str:
    """What `doit serverconfig nginx` prints for a mirror."""
    certificate = [f"--certificate={net.certificate}", f"--certificate-key={net.certificate}"]
    words = [f"--server-name={NAME}", f"--tree={tree}", *certificate, "--listen=443", "--listen-http=80"]
    said = site.doit("serverconfig", *words, "nginx")
    assert said.code == 0, said.err
    return said.out


def new_build(site: Site, *products: str) -> None:
    content = {one: files(one, payload=WHOLE + os.urandom(4_000)) for one in products}
    build(site.ci, *products, content=content)


def nothing(_: Host) -> None:
    pass


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_in_every_phase(world: World, trouble: str) -> None:
    before = [visitor.counts.rounds for visitor in world.visitors]
    new_build(world.site, A)
    code, failed = publish_with(world, trouble)
    every = set(world.mirrors)
    if trouble == "full":  # what goes takes no room, and links may take none
        taking = {phase for phase in every if not phase.startswith("gone")}
        assert taking - LINKS <= failed <= taking
    else:
        assert failed == {"slow": set(), "publisher killed": set()}.get(trouble, every)
    assert code == {"slow": 0, "publisher killed": -9}.get(trouble, 1)
    world.site.publish(env=world.env)
    assert world.behind() == {}
    for visitor, rounds in zip(world.visitors, before, strict=True):
        wait_for(lambda: visitor.counts.rounds > rounds + 1 or visitor.faults)  # noqa: B023 - now
        assert visitor.faults == []
        assert visitor.counts.away < visitor.counts.rounds, visitor.counts


def test_at_last_nothing_is_left_of_it(world: World) -> None:
    """What lapsed goes; a signature that was out of step with its index for a moment is not any more."""
    time.sleep(GRACE + 1)
    world.site.publish(env=world.env)
    assert world.behind(lapsed=True) == {}
    for visitor in world.visitors:
        wait_for(lambda: not visitor.open)  # noqa: B023 - now
        assert visitor.faults == []
        assert visitor.counts.held > 0, visitor.counts


def publish_with(world: World, trouble: str) -> tuple[int, set[str]]:
    """Publish with the trouble in every phase; the exit code, and the phases of the mirrors that it names."""
    hosts = world.mirrors.values()
    world.hold()
    run = world.site.start("publish", env=world.env)
    try:
        wait_for(lambda: world.are_held() or run.poll() is not None, LONG)
        for host in hosts:
            if trouble == "full":
                host.fill()
            if trouble == "slow":
                host.slow("2mbit")
        world.strike({"cut": Host.cut, "receiver killed": Host.kill_receivers}.get(trouble, nothing))
        if trouble == "publisher killed":
            (doit,) = children(run.pid)
            os.kill(doit, signal.SIGKILL)
        out, err = run.communicate(timeout=LONG)
    finally:
        for pid in [*children(run.pid), run.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.communicate()
        for host in hosts:
            world.release(host)
            host.mend()
    print(f"{trouble}: exit {run.returncode}\n{out}{err}")
    names = {phase for phase, host in world.mirrors.items() if f"failed: mirror {host.name}:" in out}
    return run.returncode, names
