"""The daemons that run images, incusd and lxd, each alone in a directory of its own, without systemd.

They take root: a container is a mount, a user namespace and a control group. Each runs in a mount and a PID
namespace of its own, so that nothing that it mounted or started outlives it, however the test ends.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from clients import ClientFailed, environment, run
from tools import need, need_root, program

START = 30  # seconds until it has to answer, or to have done with a container
STOP = 10  # and to end; then it is killed, with all that it started
DAEMONS = {"incus": ("incus", "/usr/libexec/incus/incusd"), "lxd": ("lxc", "lxd")}  # client, daemon
PRESEED = b"""\
storage_pools: [{name: default, driver: dir}]
profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running daemon, spoken to by its own client; "pub" is its simplestreams remote."""

    name: str  # incus or lxd
    home: Path
    env: Mapping[str, str]

    def __call__(self, *words: str) -> str:
        """Run a command of the client, which has to succeed."""
        return run([program(DAEMONS[self.name][0]), "-q", *words], self.env).decode()

    def follow(self, url: str) -> None:
        """Let "pub" be the server at this URL."""
        self("remote", "add", "pub", url, "--protocol=simplestreams")

    def copy(self, image: str, *, vm: bool = False) -> None:
        """Let the daemon download an image, named by alias or fingerprint."""
        self("image", "copy", f"pub:{image}", "local:", *(["--vm"] if vm else []))

    def images(self) -> dict[str, str]:
        """The fingerprint of every image that the daemon has, with its type."""
        images = json.loads(self("image", "list", "local:", "--format=json"))
        return {image["fingerprint"]: image["type"] for image in images}

    def forget(self) -> None:
        """Age the indexes: the daemon keeps one for an hour, incus' own client for five minutes."""
        for cache in (self.home / "daemon/cache", self.home / "cache"):
            for index in cache.glob("*"):
                shutil.rmtree(index)

    def _delete(self, instance: str) -> None:
        """Delete an instance; lxd still stops one that did not start, and refuses meanwhile."""
        until = time.monotonic() + START
        while True:
            try:
                self("delete", "--force", instance)
            except ClientFailed as failed:
                if "busy" not in failed.errors or time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return

    def clear(self) -> None:
        """Delete all that a test has left, so that the next begins with nothing."""
        for instance in json.loads(self("list", "--format=json")):
            self._delete(instance["name"])
        for fingerprint in self.images():
            self("image", "delete", fingerprint)
        with suppress(ClientFailed):  # there is none
            self("remote", "remove", "pub")
        self.forget()


@contextmanager
def running(name: str, ca: Path) -> Iterator[Daemon]:
    """Start incusd ("incus") or lxd ("lxd") with a storage pool; `ca` is the certificate it trusts."""
    need_root()
    need("setpriv", "unshare")
    client, daemon = map(program, DAEMONS[name])
    admin = [client, "admin"] if name == "incus" else [daemon]
    # Not in pytest's directories: they are 0700, and a container's root, who is not ours, has to pass.
    home = Path(tempfile.mkdtemp(prefix=f"imagepress-{name}-"))
    home.chmod(0o711)
    env = _daemon_environment(home, ca)
    # Killed with pytest, and all that is in the namespaces is killed with it.
    argv = [program("setpriv"), "--pdeathsig=KILL", program("unshare"), "--mount", "--pid", "--mount-proc"]
    argv.append("--propagation=slave")  # what is unmounted meanwhile is not held by the daemon
    argv += ["--fork", "--kill-child", daemon, "--group=root"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        run([*admin, "waitready", f"--timeout={START}"], env)
        run([*admin, "init", "--preseed"], env, feed=PRESEED)
        yield Daemon(name=name, home=home, env=env)
        run([*admin, "shutdown", f"--timeout={STOP}"], env)
        server.wait(STOP)
    except ClientFailed as failed:
        failed.add_note((home / "log").read_text(errors="replace"))
        raise
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(home)


def _daemon_environment(home: Path, ca: Path) -> dict[str, str]:
    (home / "daemon").mkdir()
    return environment(
        HOME=str(home),
        INCUS_DIR=str(home / "daemon"),
        INCUS_CONF=str(home / "client"),
        INCUS_CACHE=str(home / "cache"),
        LXD_DIR=str(home / "daemon"),
        LXD_CONF=str(home / "client"),
        SSL_CERT_FILE=str(ca),
        SSL_CERT_DIR="/nonexistent",
        # They would ask images.linuxcontainers.org for instance types; nobody is behind the proxy.
        HTTPS_PROXY="http://127.0.0.1:9",
    )
