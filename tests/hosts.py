"""Hosts in namespaces of their own on one network, with real servers: to be cut off, slowed, filled and killed.

A host is a process and the network, PID and mount namespaces that began with it. Whatever runs on the host, is
mounted there or plugged in goes with that process, and that goes with pytest, however it ends; none of it has a
name outside. It takes root. Kernels without netem can do all of this too: a cut is a link that is down (packets
vanish), a slow line is a token bucket, a full disk is a small tmpfs with one large file.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import servers
import trustme
from tools import need, need_root, program

WHY = "namespaces take root; run pytest as root to see mirrors cut off and killed"
START = 20.0  # seconds that a server may take until it listens
DISK = 96 << 20  # bytes
HOSTS = 20  # at most
NAME = "images.example.org"  # what all of them are called together
BURST = "4kb"  # of a slow line; larger packets are cut up
CLONE_NEWNET = 0x40000000  # linux/sched.h
LISTENS = "0A"  # linux/tcp_states.h
# Of an init that ignores its children's ends, orphans leave no zombies.
INIT = ["sh", "-c", "echo; exec env --ignore-signal=CHLD sleep infinity"]
_LIBC = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class Space:
    """The namespaces of one host, or of the switch between them."""

    def __init__(self, pid: int) -> None:
        self.pid = pid  # of the init, as seen from outside
        self._mark = os.readlink(f"/proc/{pid}/ns/pid")

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that let it run here, in this checkout."""
        enter = ("nsenter", f"--target={self.pid}", "--net", "--pid", "--mount")
        return (*enter, "--", "env", f"--chdir={os.getcwd()}")

    def run(self, *argv: str | Path, feed: str = "") -> str:
        """Run a program that must succeed."""
        words = [*self.inside, *map(str, argv)]
        done = subprocess.run(words, check=False, input=feed, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def processes(self) -> list[int]:
        """All that run here but the init, by their PIDs outside."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):  # no process, or one that ended meanwhile
                if os.readlink(f"/proc/{entry}/ns/pid") == self._mark:
                    found.append(int(entry))
        return [pid for pid in found if pid != self.pid]

    def enter(self) -> None:
        """Let the present thread, and those that it starts, make their sockets here."""
        with open(f"/proc/{self.pid}/ns/net", "rb") as file:
            if _LIBC.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def call(self, act: Callable[[], T]) -> T:
        """Call a function whose sockets shall be here."""
        with ThreadPoolExecutor(1, initializer=self.enter) as thread:
            return thread.submit(act).result()


class Host(Space):
    """One host: its address, a disk of its own, and its servers."""

    def __init__(self, network: "Network", name: str, pid: int) -> None:
        super().__init__(pid)
        self.name, self._network = name, network
        self.address = network.plug(self)
        self.home = network.work / name
        self.home.mkdir()
        self.disk = network.work / "disk"  # as it is called on every host
        self.disk.mkdir(exist_ok=True)
        self.run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", self.disk)
        self.seen = Path(f"/proc/{pid}/root{self.disk}")  # the same, from outside
        self.tree = self.seen / "tree"
        self.tree.mkdir()
        self._servers: dict[int, list[str]] = {}  # by port
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def cut(self) -> None:
        """Let all packets vanish."""
        self._network.switch.run("ip", "link", "set", self.name, "down")

    def mend(self) -> None:
        """Take back any of these: cut, slow, filled."""
        self._network.switch.run("ip", "link", "set", self.name, "up")
        for space, device in self._ends:
            if "tbf" in space.run("tc", "qdisc", "show", "dev", device):
                space.run("tc", "qdisc", "del", "dev", device, "root")
        self.free()

    def slow(self, rate: str) -> None:
        """Let no more than this through, in either direction: "256kbit"."""
        for space, device in self._ends:
            bucket = ["tbf", "rate", rate, "burst", BURST, "latency", "1s"]
            space.run("tc", "qdisc", "replace", "dev", device, "root", *bucket)

    @property
    def _ends(self) -> list[tuple[Space, str]]:
        return [(self._network.switch, self.name), (self, "eth0")]

    def received(self) -> int:
        """The bytes that have come here."""
        lines = Path(f"/proc/{self.pid}/net/dev").read_text().splitlines()
        (words,) = (line.split() for line in lines if line.strip().startswith("eth0:"))
        return int(words[1])

    def fill(self) -> None:
        """Leave no room on the disk."""
        with suppress(OSError), (self.seen / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def free(self) -> None:
        """Make room again."""
        (self.seen / "filler").unlink(missing_ok=True)

    def serve(self, port: int, argv: list[str]) -> None:
        """Start a server, which ``start`` will start again."""
        self._servers[port] = argv
        self.start()

    def start(self) -> None:
        """Start the servers that do not run."""
        for port, argv in self._servers.items():
            running = self._running.get(port)
            if running and running.poll() is None:
                continue
            with (self.home / "log").open("ab") as log:
                words = [*self.inside, *argv]
                server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._running[port] = server
            end = time.monotonic() + START
            while port not in self.ports():
                log = (self.home / "log").read_text(errors="replace")
                assert server.poll() is None, f"{argv}: {log}"
                assert time.monotonic() < end, f"{argv} does not listen: {log}"
                time.sleep(0.01)

    def ports(self) -> set[int]:
        """Those that something listens on."""
        rows = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENS}

    def kill(self) -> None:
        """Kill all that runs here, as a power cut does."""
        end = time.monotonic() + START
        while found := self.processes():
            assert time.monotonic() < end, f"they do not die: {found}"
            _kill(found)
        for server in self._running.values():
            server.wait()
        self._running.clear()

    def receivers(self) -> list[int]:
        """The processes that write what rsync brings: all of that name but the daemon that waits for more."""
        servers = [child for server in self._running.values() for child in children(server.pid)]
        below = [*servers, self.pid]  # orphans are the init's
        found = []
        while below:
            below = [child for pid in below for child in children(pid)]
            found += [pid for pid in below if _name(pid) == "rsync"]
        return found

    def kill_receivers(self) -> bool:
        """Kill these; tells whether there were any."""
        found = self.receivers()
        _kill(found)
        return bool(found)

    def nginx(self, site: str) -> None:
        """Serve what a part of nginx's configuration says, on port 443."""
        home = self._place("nginx")
        (home / "site.conf").write_text(site)
        (home / "nginx.conf").write_text(servers.nginx_config(home))
        log = str(home / "error.log")
        self.serve(443, [program("nginx"), "-p", str(home), "-e", log, "-c", str(home / "nginx.conf")])

    def rsyncd(self, modules: Mapping[str, Path] | str) -> None:
        """Let others write to these directories, or say all that modules may be told."""
        home = self._place("rsyncd")
        if isinstance(modules, str):
            text = f"{servers.rsyncd_globals(home, 873, self.address)}\n{modules}"
        else:
            text = servers.rsyncd_config(modules, home, 873, read_only=False, address=self.address)
        (home / "rsyncd.conf").write_text(text)
        config = f"--config={home / 'rsyncd.conf'}"
        self.serve(873, [program("rsync"), "--daemon", "--no-detach", config])

    def sshd(self) -> None:
        """Let root in with the network's key."""
        home = self._place("sshd")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists; no init script made it
        shutil.copy(self._network.ssh / "host_key", home)
        shutil.copy(self._network.ssh / "identity.pub", home)
        (home / "sshd_config").write_text(servers.sshd_config(home, 22, self.address))
        self.serve(22, [program("sshd"), "-D", "-e", "-f", str(home / "sshd_config")])

    def _place(self, name: str) -> Path:
        """A directory off the small disk, so that a full one is full of images."""
        home = self.home / name
        home.mkdir()
        return home


class Network:
    """A switch, a certificate for all and its authority, one SSH key; and the hosts that are plugged in."""

    def __init__(self, work: Path, spaces: ExitStack) -> None:
        self.work = work
        self.ssh = work / "ssh"
        self._make_keys()
        self.ca, self.certificate = work / "ca.pem", work / "server.pem"
        ca, all_of_them = trustme.CA(), [_address(number) for number in range(1, HOSTS)]
        ca.cert_pem.write_to_path(self.ca)
        ca.issue_cert(NAME, *all_of_them).private_key_and_cert_chain_pem.write_to_path(self.certificate)
        self._spaces, self._count = spaces, 0
        self.switch = Space(spaces.enter_context(_space()))
        self.switch.run("ip", "-batch", "-", feed="link add br0 type bridge\nlink set br0 up\n")

    def host(self, name: str) -> Host:
        """A new host; the name has up to 15 letters, as that of a network device."""
        made = Host(self, name, self._spaces.enter_context(_space()))
        self._spaces.callback(made.kill)
        return made

    def plug(self, host: Host) -> str:
        """Lay a cable to the host; returns its new address."""
        self._count += 1
        address = _address(self._count)
        link = f"link add {host.name} type veth peer name eth0 netns {host.pid}\n"
        # In no PID namespace but ours, so that the number means the same to the kernel.
        outside = ["nsenter", f"--target={self.switch.pid}", "--net", "--", "ip", "-batch", "-"]
        feed = f"{link}link set {host.name} master br0\nlink set {host.name} up\n"
        subprocess.run(outside, input=feed, text=True, check=True, capture_output=True, timeout=60)
        lines = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
        host.run("ip", "-batch", "-", feed="\n".join(lines) + "\n")
        return address

    @property
    def rsh(self) -> str:
        """The remote shell for rsync: its -e option, or RSYNC_RSH."""
        return f"ssh -F {self.ssh}/config"

    def _make_keys(self) -> None:
        """One key for root, and one for all hosts to be known by."""
        self.ssh.mkdir(parents=True)
        servers.new_key(self.ssh / "identity")
        key = servers.new_key(self.ssh / "host_key").with_suffix(".pub").read_text()
        (self.ssh / "known_hosts").write_text(f"imagepress-test {key}")
        (self.ssh / "config").write_text(
            f"Host *\nHostKeyAlias imagepress-test\nUser root\nIdentityFile {self.ssh}/identity\n"
            f"IdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {self.ssh}/known_hosts\n"
            "GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\nBatchMode yes\n"
            "KexAlgorithms curve25519-sha256\nLogLevel ERROR\n"
        )


@contextmanager
def network(work: Path) -> Iterator[Network]:
    """A network without hosts."""
    need_root(WHY)
    need("ip", "tc", "nsenter", "unshare", "setpriv", "rsync", "nginx", "ssh", "sshd", "ssh-keygen")
    with ExitStack() as spaces:
        yield Network(work, spaces)


@contextmanager
def _space() -> Iterator[int]:
    """New namespaces; yields the PID of their init."""
    # Killed with pytest, and all that is in the namespaces is killed with it.
    argv = [program("setpriv"), "--pdeathsig=KILL", program("unshare"), "--net", "--pid", "--mount"]
    argv += ["--mount-proc", "--propagation=slave", "--fork", "--kill-child", *INIT]
    holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()  # all is set up
        (init,) = children(holder.pid)
        yield init
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.read()  # until the init has gone too
        holder.stdout.close()


def _address(number: int) -> str:
    return f"192.0.2.{number}"  # RFC 5737: nobody's


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
