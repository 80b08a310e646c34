"""Real servers on 127.0.0.1 for one test: nginx or Apache with TLS, an rsync daemon, an SSH server.

Each is a context manager that writes a configuration of its own under the given directory, takes
a free port, runs the program in the foreground, yields when it answers, and stops that process.
"""

import os
import pwd
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from tools import need, program

from tasks import webserver
from tasks.apache import apache as apache_config
from tasks.settings import List

Configured = Callable[[Path, Iterable[List], webserver.Web], str]
START = 20.0  # seconds that a server may take until it answers
STOP = 10.0  # and to end, before it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """A running nginx or Apache."""

    url: str  # https://localhost:PORT
    ca: Path  # the certificate that a client has to trust
    log: Path  # access log, "combined"; a line is written just after its response
    http: str = ""  # http://localhost:PORT

    @property
    def host(self) -> str:
        """The name and port, for clients that take no URL."""
        return self.url.removeprefix("https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """A running SSH server that lets the present user in with `identity`."""

    port: int
    user: str
    identity: Path
    known_hosts: Path
    config: Path  # for `ssh -F`: sends every host name to this server

    @property
    def rsh(self) -> str:
        """The remote shell for rsync: its -e option, or RSYNC_RSH."""
        return f"ssh -F {shlex.quote(str(self.config))}"


@contextmanager
def nginx(public: Path, work: Path, configured: Configured = webserver.nginx) -> Iterator[Web]:
    """Serve a directory, or a symlink that may be flipped meanwhile, as the generated configuration says."""
    need("nginx")
    home = _home(work, "nginx")
    web = _written(public, home, configured)
    (home / "nginx.conf").write_text(nginx_config(home))
    argv = [program("nginx"), "-p", str(home), "-e", str(home / "error.log"), "-c", str(home / "nginx.conf")]
    with _running(argv, _port(web.url), home / "error.log"):
        yield web


@contextmanager
def apache(public: Path, work: Path, configured: Configured = apache_config) -> Iterator[Web]:
    """The same by Apache, with the modules and their settings that Debian's package enables."""
    need("apache2")
    home = _home(work, "apache")
    web = _written(public, home, configured)
    (home / "apache.conf").write_text(_apache_config(home, _port(web.url), _port(web.http)))
    # Root's Apache would become somebody who cannot pass through the directories of a test.
    argv = [*_not_root(), program("apache2"), "-D", "FOREGROUND", "-f", str(home / "apache.conf")]
    with _running(argv, _port(web.url), home / "error.log"):
        yield web


def apache_faults(text: str, work: Path) -> str:
    """What Apache finds wrong with a configuration, "" when it is good."""
    home = _home(work, "apache")
    (home / "site.conf").write_text(text)
    (home / "apache.conf").write_text(_apache_config(home))
    argv = [program("apache2"), "-t", "-f", str(home / "apache.conf")]
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return "" if (done.returncode, done.stderr) == (0, "Syntax OK\n") else done.stderr


def nginx_faults(text: str, work: Path) -> str:
    """What nginx finds wrong with a configuration for its http block, "" when it is good."""
    home = _home(work, "nginx")
    (home / "site.conf").write_text(text)
    (home / "nginx.conf").write_text(nginx_config(home))
    argv = [
        program("nginx"),
        "-t",
        "-q",
        "-p",
        str(home),
        "-e",
        str(home / "error.log"),
        "-c",
        str(home / "nginx.conf"),
    ]
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


@contextmanager
def rsyncd(
    modules: Mapping[str, Path], work: Path, *, read_only: bool = False, at: str = ""
) -> Iterator[str]:
    """Serve directories as rsync modules, where one was served before (``at``); yields rsync://127.0.0.1:PORT."""
    need("rsync")
    home, port = _home(work, "rsyncd"), _port(at) if at else _free_port()
    config = home / "rsyncd.conf"
    config.write_text(rsyncd_config(modules, home, port, read_only=read_only))
    argv = [program("rsync"), "--daemon", "--no-detach", f"--config={config}"]
    # It would sleep 0.4 s over SIGTERM, and has nothing to save.
    with _running(argv, port, home / "rsyncd.log", stop=signal.SIGKILL):
        yield f"rsync://127.0.0.1:{port}"


@contextmanager
def rsyncd_as(config: str, work: Path) -> Iterator[str]:
    """Run an rsync daemon with these modules as they are; yields rsync://127.0.0.1:PORT."""
    need("rsync")
    home, port = _home(work, "rsyncd"), _free_port()
    (home / "modules.conf").write_text(config)
    (home / "rsyncd.conf").write_text(f"{rsyncd_globals(home, port)}\n&include {home}/modules.conf\n")
    argv = [program("rsync"), "--daemon", "--no-detach", f"--config={home}/rsyncd.conf"]
    with _running(argv, port, home / "rsyncd.log", stop=signal.SIGKILL):
        yield f"rsync://127.0.0.1:{port}"


@contextmanager
def sshd(work: Path) -> Iterator[Ssh]:
    """Let the present user in over SSH, with new keys."""
    need("sshd", "ssh", "ssh-keygen")
    home, port = _home(work, "sshd"), _free_port()
    ssh = Ssh(
        port=port,
        user=pwd.getpwuid(os.getuid()).pw_name,
        identity=new_key(home / "identity"),
        known_hosts=home / "known_hosts",
        config=home / "ssh_config",
    )
    host_key = new_key(home / "host_key")
    public_key = host_key.with_suffix(".pub").read_text()
    ssh.known_hosts.write_text(f"imagepress-test,[127.0.0.1]:{port},[localhost]:{port} {public_key}")
    ssh.config.write_text(_ssh_config(ssh))
    config = home / "sshd_config"
    config.write_text(sshd_config(home, port))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists; no init script made it
    with _running([program("sshd"), "-D", "-e", "-f", str(config)], port, home / "sshd.log"):
        yield ssh


def _written(public: Path, home: Path, configured: Configured) -> Web:
    """Write the site's part of a web server's configuration, for free ports, with a new certificate."""
    port, plain = _free_ports(2)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(home / "ca.pem")
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
    told = webserver.Web(
        names=("localhost", "127.0.0.1"),
        certificate=str(home / "server.pem"),
        key=str(home / "server.pem"),
        https=(f"127.0.0.1:{port}",),
        http=(f"127.0.0.1:{plain}",),
    )
    (home / "site.conf").write_text(configured(public.absolute(), (), told))
    return Web(
        url=f"https://localhost:{port}",
        ca=home / "ca.pem",
        log=home / "access.log",
        http=f"http://localhost:{plain}",
    )


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _not_root() -> list[str]:
    """What makes a program run as nobody who may read and write all that root may."""
    if os.geteuid() != 0:
        return []
    may = "+dac_override,+dac_read_search"
    ids = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    return [program("setpriv"), *ids, f"--inh-caps={may}", f"--ambient-caps={may}"]


def _apache_config(home: Path, *ports: int) -> str:
    """What surrounds a site: /etc/apache2/apache2.conf and what it includes, as Debian comes with it."""
    # fmt: off
    modules = [
        "mpm_event", "access_compat", "alias", "auth_basic", "authn_core", "authn_file", "authz_core",
        "authz_host", "authz_user", "autoindex", "deflate", "dir", "env", "filter", "mime", "negotiation",
        "reqtimeout", "setenvif", "status",
        "socache_shmcb", "ssl", "rewrite", "headers", "include", "asis",  # a2enmod
    ]
    # fmt: on
    mods = Path("/etc/apache2/mods-available")
    files = [mods / f"{name}.{kind}" for kind in ("load", "conf") for name in modules]
    return "\n".join(
        [
            f'Define APACHE_RUN_DIR "{home}"\nDefine APACHE_LOCK_DIR "{home}"\nDefine APACHE_LOG_DIR "{home}"',
            f'ServerRoot "/etc/apache2"\nServerName localhost\nDefaultRuntimeDir "{home}"',
            f'PidFile "{home}/apache.pid"\nErrorLog "{home}/error.log"',
            *(f"Include {path}" for path in files if path.exists()),
            r'LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" combined',
            f'CustomLog "{home}/access.log" combined',
            # What many a server has beside:
            "AddEncoding x-gzip .gz .tgz\nAddEncoding x-xz .xz\nDirectoryIndex disabled\nDirectoryIndex index.php",
            *(f"Listen 127.0.0.1:{port}" for port in ports),
            f'IncludeOptional "{home}/site.conf"',
        ]
    )


def nginx_config(home: Path) -> str:
    """What surrounds a site: one process, as the user that runs the test, who can read what it wrote."""
    temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    return f"""
daemon off;
master_process off;
pid "{home}/nginx.pid";
events {{ worker_connections 512; }}
http {{
  access_log "{home}/access.log" combined;
  {" ".join(f'{name}_temp_path "{home}/{name}";' for name in temporary)}
  include "{home}/site.conf";
}}
"""


def rsyncd_globals(home: Path, port: int, address: str = "127.0.0.1") -> str:
    files = [f"{name} file = {home}/rsyncd.{name}" for name in ("pid", "lock", "log")]
    return "\n".join([f"address = {address}\nport = {port}", *files])


def rsyncd_config(
    modules: Mapping[str, Path], home: Path, port: int, *, read_only: bool, address: str = "127.0.0.1"
) -> str:
    lines = [
        rsyncd_globals(home, port, address),
        "munge symlinks = no\nreverse lookup = no\ntransfer logging = yes",
        f"read only = {'yes' if read_only else 'no'}",
    ]
    # Without a chroot, which takes root, rsync rewrites symlinks that lead out of the module.
    root = os.geteuid() == 0
    lines.append("use chroot = yes\nuid = root\ngid = root" if root else "use chroot = no")
    lines += [f"[{name}]\npath = {path.absolute()}" for name, path in modules.items()]
    return "\n".join(lines) + "\n"


def sshd_config(home: Path, port: int, address: str = "127.0.0.1") -> str:
    return f"""
ListenAddress {address}
Port {port}
HostKey "{home}/host_key"
PidFile "{home}/sshd.pid"
AuthorizedKeysFile "{home}/identity.pub"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
SetEnv HOME="{home}"
MaxStartups 100
Subsystem sftp internal-sftp
"""


def _ssh_config(ssh: Ssh) -> str:
    return f"""
Host *
  HostName 127.0.0.1
  HostKeyAlias imagepress-test
  Port {ssh.port}
  User {ssh.user}
  IdentityFile "{ssh.identity}"
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile "{ssh.known_hosts}"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  # The default spends 0.2 s on post-quantum keys.
  KexAlgorithms curve25519-sha256
  LogLevel ERROR
"""


def new_key(path: Path) -> Path:
    argv = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=START)
    return path


def _home(work: Path, name: str) -> Path:
    """Make a directory for one server: a test may start two of a kind."""
    work.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work.absolute()))


def _free_port() -> int:
    return _free_ports(1)[0]


def _free_ports(count: int) -> list[int]:
    """Held until all are found: a port that is given back may be given out again."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def _running(
    argv: Sequence[str], port: int, log: Path, *, stop: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """Run a server while the body runs, from its first answer on."""
    with log.open("ab") as output:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(server, port, log)
        yield
    finally:
        server.send_signal(stop)
        try:
            server.wait(STOP)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    state = "did not answer" if server.returncode is None else f"exit code {server.returncode}"
    command = shlex.join(str(word) for word in server.args)  # type: ignore[union-attr]
    raise RuntimeError(f"{command}: {state}\n{log}:\n{log.read_text(errors='replace')}")
