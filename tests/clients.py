"""Thin runners for the real clients of an image server, each in an environment of its own.

None of them reads or writes the caller's home, caches, trusted certificates or proxies.
A client that fails raises ClientFailed with all it said.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from servers import Web
from tools import PATH, need, need_root, program

TIMEOUT = 60.0
LXC_DOWNLOAD = "/usr/share/lxc/templates/lxc-download"
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"


class ClientFailed(Exception):  # noqa: N818 (named like the project's ProgramFailed)
    """A client ended with an exit code that it should not have, or not in time."""

    def __init__(self, argv: Sequence[str], code: int | None, output: str, errors: str) -> None:
        super().__init__(argv, code, output, errors)
        self.argv, self.code, self.output, self.errors = argv, code, output, errors

    def __str__(self) -> str:
        end = f"not done after {TIMEOUT:.0f} s" if self.code is None else f"exit code {self.code}"
        return f"{shlex.join(self.argv)}: {end}\n{self.errors}\n{self.output}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """`incus` or `lxc` with one simplestreams remote, `pub`, and nothing else."""

    program: str
    env: Mapping[str, str]

    def images(self) -> list[dict[str, Any]]:
        """Every image the remote lists, all versions."""
        images: list[dict[str, Any]] = json.loads(self._run("list", "pub:", "--format", "json"))
        return images

    def info(self, name: str, *, vm: bool = False) -> str:
        """What the client says of an alias or fingerprint."""
        return self._run("info", f"pub:{name}", *_vm(vm))

    def export(self, name: str, into: Path, *, vm: bool = False) -> str:
        """Download an alias or fingerprint; returns the fingerprint of what has arrived."""
        into.mkdir(parents=True, exist_ok=True)
        target = into / "image"
        self._run("export", f"pub:{name}", str(target), *_vm(vm))
        return _sha256(*sorted(into.glob("image*")))  # image, image.root: metadata comes first

    def line(self, line: str) -> str:
        """Run a line as it stands on the page for people."""
        name, *words = shlex.split(line)
        assert program(name) == self.program
        return run([self.program, *words], self.env).decode()

    def resolve(self, line: str) -> str:
        """What the client says of the image that such a line would launch; that takes a daemon."""
        name, launch, image, *options = shlex.split(line)
        assert (program(name), launch) == (self.program, "launch")
        return self._run("info", image, *_vm("--vm" in options))

    def _run(self, *words: str) -> str:
        return run([self.program, "-q", "image", *words], self.env).decode()


def bare(name: Literal["incus", "lxc"], web: Web, home: Path) -> Remote:
    """A fresh client without a remote of ours."""
    home = fresh(home)
    env = environment(
        HOME=str(home),
        INCUS_CONF=str(home / "incus"),
        INCUS_CACHE=str(home / "cache"),
        LXD_CONF=str(home / "lxd"),
        SSL_CERT_FILE=str(web.ca),
        SSL_CERT_DIR="/nonexistent",
    )
    return Remote(program=program(name), env=env)


def incus(web: Web, home: Path) -> Remote:
    """Add the server to a fresh `incus`: its CLI caches an index for five minutes."""
    return _remote("incus", web, home)


def lxc(web: Web, home: Path) -> Remote:
    """Add the server to a fresh LXD client."""
    return _remote("lxc", web, home)


def incus_simplestreams(tree: Path, command: Literal["list", "verify"]) -> str:
    """Let Incus's own parser read a tree where it lies; `list` answers in JSON."""
    argv = [program("incus-simplestreams"), command]
    if command == "list":
        argv.append("--format=json")
    return run(argv, environment(), cwd=tree).decode()


def lxc_create(web: Web, work: Path, *product: str) -> Path:
    """Make an LXC container of os, release, arch, variant; returns its root file system."""
    words = ["lxc-create", "--name=c", "--template=download", "--", f"--server={web.host}", *_image(product)]
    return lxc_create_line(web, work, shlex.join(words))


def lxc_create_line(web: Web, work: Path, line: str) -> Path:
    """Run a line of lxc-create, but for where the container lies; returns its root file system.

    By another user than root its template alone is run, as it does: it would want subordinate ids.
    """
    need("wget", "xz")
    home = fresh(work)
    name, *words = shlex.split(line)
    if os.geteuid() == 0:
        (home / "lxc.conf").write_text("lxc.net.0.type = empty\n")  # in place of /etc/lxc/default.conf
        own = [f"--lxcpath={home}", f"--config={home}/lxc.conf"]
        run([program(name), *own, *words], lxc_environment(web, home))
    else:
        (home / "c/rootfs").mkdir(parents=True)
        (home / "c/config").touch()
        place = ["--name=c", f"--path={home}/c", f"--rootfs={home}/c/rootfs"]
        options = words[words.index("--") + 1 :]
        run([*_template(home, 7, user=False), *place, *options], lxc_environment(web, home))
    (rootfs,) = home.glob("*/rootfs")
    return rootfs


def lxc_start(container: Path, *command: str) -> str:
    """Start a container that lxc_create has made, run a command in it, and stop it."""
    need_root()
    need("lxc-start", "lxc-attach", "lxc-stop", "unshare")
    script = """trap 'lxc-stop --kill "$@"' EXIT; lxc-start "$@"; lxc-attach "$@" -- $command"""
    where = [f"--lxcpath={container.parent}", f"--name={container.name}"]
    # Whatever becomes of it ends with these namespaces.
    argv = [
        program("unshare"),
        "--mount",
        "--propagation=slave",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
    ]
    return run([*argv, "sh", "-ec", script, "sh", *where], environment(command=" ".join(command))).decode()


def lxc_template(web: Web, work: Path, *product: str, level: int = 7, user: bool = False) -> Path:
    """Run the download template alone, as lxc-create does; returns the container's directory.

    With a `level` as LXC did when that was its compat level; as `user` in a user namespace.
    """
    home = fresh(work)
    (home / "c/rootfs").mkdir(parents=True)
    (home / "c/config").touch()
    place = ["--name=c", f"--path={home}/c", f"--rootfs={home}/c/rootfs"]
    argv = [*_template(home, level, user=user), *place, f"--server={web.host}", *_image(product)]
    run(argv, lxc_environment(web, home))
    return home / "c"


def lxc_list(web: Web, work: Path, *, level: int = 7, user: bool = False) -> list[list[str]]:
    """The download template's list: os, release, arch, variant, build."""
    home = fresh(work)
    argv = [*_template(home, level, user=user), "--list", f"--server={web.host}", "--variant="]
    # LXC 5.0 ends a successful --list with 1.
    done = _complete(argv, lxc_environment(web, home))
    lines = done.stdout.decode().splitlines()
    if lines.count("---") != 3:  # around the heading, and after the rows
        raise _failed(done)
    heading = lines.index("---", lines.index("---") + 1)
    return [line.split("\t") for line in lines[heading + 1 : lines.index("---", heading + 1)]]


def _template(home: Path, level: int, *, user: bool) -> list[str]:
    """The installed template; of an older level, a copy that says so: its requests are the same."""
    need("wget", "xz")
    text = Path(program(LXC_DOWNLOAD)).read_text()
    text, found = re.subn(r"(?m)^(DOWNLOAD_COMPAT_LEVEL)=7$", rf"\1={level}", text)
    assert found == 1, f"{LXC_DOWNLOAD} is of another compat level than 7"
    (home / "lxc-download").write_text(text)
    argv = ["sh", str(home / "lxc-download")]
    if not user:
        return argv
    # Root's own map makes it "userns-root"; that of others makes it ask for the map.
    return [program("unshare"), "--map-root-user", *argv, "--mapped-uid=0", "--mapped-gid=0"]


def _image(product: Sequence[str]) -> list[str]:
    names = ("--dist", "--release", "--arch", "--variant")
    return [f"{name}={value}" for name, value in zip(names, product, strict=True)]


def gpg_home(public_key: Path, work: Path) -> Path:
    """Make a GnuPG home that holds just this certificate."""
    home = fresh(work)
    run([*_gpg(home), "--import", str(public_key)], environment())
    return home


def gpg_verify(home: Path, signature: Path, signed: Path) -> None:
    """Verify a detached signature with GnuPG."""
    run([*_gpg(home), "--verify", str(signature), str(signed)], environment())


def gpg_clearsigned(home: Path, signed: Path) -> bytes:
    """Verify a clear-signed file with GnuPG; returns the text that is signed."""
    return run([*_gpg(home), "--output", "-", "--decrypt", str(signed)], environment())


def sqv(public_key: Path, signature: Path, signed: Path) -> None:
    """Verify a detached signature with Sequoia."""
    argv = [program("sqv"), "--keyring", str(public_key), str(signature), str(signed)]
    run(argv, environment())


def sqv_clearsigned(public_key: Path, signed: Path, work: Path) -> None:
    """Verify a clear-signed file with Sequoia.

    sqv 1.1 takes detached signatures only, and that is what the armour at the end is: one over
    the text without its last line end (RFC 9580, 7.1 and 7.2).
    """
    home = fresh(work)
    head, _, armour = signed.read_bytes().partition(b"\n" + SIGNATURE)
    lines = head.partition(b"\n\n")[2].split(b"\n")
    (home / "text").write_bytes(b"\n".join(line.removeprefix(b"- ") for line in lines))
    (home / "signature").write_bytes(SIGNATURE + armour)
    sqv(public_key, home / "signature", home / "text")


def sha256sum(sums: Path) -> None:
    """Check a SHA256SUMS as people do."""
    argv = [program("sha256sum"), "--check", "--strict", "--quiet", sums.name]
    run(argv, environment(), cwd=sums.parent)


def xdelta3(base: Path, delta: Path) -> bytes:
    """Apply a delta as the daemons do."""
    argv = [program("xdelta3"), "-d", "-c", "-s", str(base), str(delta)]
    return run(argv, environment())


def _remote(name: Literal["incus", "lxc"], web: Web, home: Path) -> Remote:
    remote = bare(name, web, home)
    remote.line(shlex.join([name, "remote", "add", "pub", web.url, "--protocol=simplestreams"]))
    return remote


def lxc_environment(web: Web, home: Path) -> dict[str, str]:
    # Debian's wget is built with GnuTLS, which does not look at SSL_CERT_FILE.
    (home / "wgetrc").write_text(f"ca_certificate = {web.ca}\n")
    return environment(HOME=str(home), WGETRC=str(home / "wgetrc"), LXC_CACHE_PATH=str(home / "cache"))


def _gpg(home: Path) -> list[str]:
    words = ["--homedir", str(home), "--batch", "--no-tty", "--no-autostart", "--quiet"]
    return [program("gpg"), *words, "--trust-model=always"]


def _vm(vm: bool) -> list[str]:
    return ["--vm"] if vm else []


def fresh(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent.absolute()))


def environment(**more: str) -> dict[str, str]:
    return {"PATH": PATH, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC", **more}


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run(argv: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None, feed: bytes = b"") -> bytes:
    """Run a client that has to end with 0; returns its standard output."""
    done = _complete(argv, env, cwd=cwd, feed=feed)
    if done.returncode != 0:
        raise _failed(done)
    return done.stdout


def _complete(
    argv: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None, feed: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, env=env, cwd=cwd, check=False, timeout=TIMEOUT, input=feed, capture_output=True
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise ClientFailed(argv, None, _text(late.stdout), _text(late.stderr)) from None


def _failed(done: subprocess.CompletedProcess[bytes]) -> ClientFailed:
    return ClientFailed(done.args, done.returncode, _text(done.stdout), _text(done.stderr))


def _text(output: bytes | None) -> str:
    return (output or b"")[-10_000:].decode(errors="replace")
