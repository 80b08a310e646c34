"""A site of its own for a test: a Jenkins stand-in, a publish.toml, and doit as a subprocess."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jenkins.controller import Controller
from jenkins.jobs import Build, Files
from jenkins.samples import artifacts
from jenkins.standin import Standin

CHECKOUT = Path(__file__).parents[1]
NEXT = {"minute": 0}


@dataclass(frozen=True)
class Key:
    """A throw-away OpenPGP key, as a file each."""

    secret: Path
    public: Path


@dataclass(frozen=True)
class Result:
    """How a doit command ended."""

    code: int
    out: str
    err: str

    @property
    def executed(self) -> list[str]:
        """The tasks that did something, in order: the first word of each line that a step prints."""
        known = (
            "poll",
            "image",
            "collect",
            "streams",
            "lxc_index",
            "proof",
            "page",
            "prune",
            "snapshot",
            "purge",
            "mirror",
            "publish",
        )
        words = [line.split(" ")[0] for line in self.out.splitlines() if line.strip()]
        return [word for word in words if word.split(":")[0] in known and not word.endswith(":")]


@dataclass
class Site:
    """One configured site under a directory."""

    base: Path
    server: Standin
    key: Key
    more: str = ""  # tables after [site], [jenkins] and [signing]
    jenkins: str = ""  # lines inside [jenkins]
    lines: str = ""  # lines inside [site]
    inside: tuple[str, ...] = ()  # words before doit's: where it runs

    @property
    def ci(self) -> Controller:
        return self.server.ci

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def latest(self) -> Path:
        return self.root / "latest"

    @property
    def mirror(self) -> Path:
        return self.base / "mirror"

    @property
    def config(self) -> Path:
        return self.base / "publish.toml"

    def configure(self) -> None:
        self.config.write_text(
            f'[site]\nroot = "root"\n{self.lines}\n'
            f'[jenkins]\nurl = "{self.server.url}"\n{self.jenkins}\n'
            f'[signing]\nkey = "{self.key.secret}"\n{self.more}\n'
        )

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        # Of a Jenkins agent that runs these tests, nothing may leak into the program under test.
        clean = {
            k: v for k, v in os.environ.items() if k not in ("JOB_NAME", "BUILD_NUMBER", "PUBLISH_CONFIG")
        }
        return {**clean, "PUBLISH_CONFIG": str(self.config), **(env or {})}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        if not self.config.exists():
            self.configure()
        return subprocess.Popen(
            [*self.inside, sys.executable, "-m", "doit", *arguments],
            cwd=CHECKOUT,
            env=self.environment(env),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def doit(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120) -> Result:
        process = self.start(*arguments, env=env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        return Result(process.returncode, out, err)

    def publish(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> Result:
        """Publish, and hold the exit code against what the test expects."""
        result = self.doit("publish", *arguments, env=env)
        assert result.code == code, f"exit {result.code}, not {code}\n{result.out}\n{result.err}"
        return result

    def json(self, path: str) -> Any:
        return json.loads((self.latest / path).read_bytes())

    def products(self) -> dict[str, Any]:
        return self.json("streams/v1/images.json")["products"]

    def tree(self, *tops: str) -> dict[str, tuple[int, int]]:
        """Every file under the root's served parts with mtime and inode: what «not touched» means."""
        found = {}
        for top in tops or ("site", "snapshots", "latest"):
            for path in (self.root / top).rglob("*"):
                seen = path.lstat()
                found[str(path.relative_to(self.root))] = (seen.st_mtime_ns, seen.st_ino)
        return found


def serial() -> str:
    """A new serial, a minute after the one before, long past."""
    NEXT["minute"] += 1
    hours, minutes = divmod(NEXT["minute"], 60)
    days, hours = divmod(hours, 24)
    return f"202601{days + 1:02d}_{hours:02d}:{minutes:02d}"


def files(product: str, **options: Any) -> Files:
    """The artifacts of a product ``os/release/arch/variant``, with a new serial unless one is given."""
    os_, release, arch, variant = product.split("/")
    options.setdefault("serial", serial())
    return dict(artifacts(os=os_, release=release, arch=arch, variant=variant, **options))


def configuration(product: str) -> str:
    _, release, arch, variant = product.split("/")
    return f"architecture={arch},release={release},variant={variant}"


def matrix(ci: Controller, *products: str, folder: str = "") -> None:
    """Make the image jobs of these products."""
    for os_ in dict.fromkeys(product.split("/")[0] for product in products):
        only = [
            dict(pair.split("=", 1) for pair in configuration(p).split(","))
            for p in products
            if p.split("/")[0] == os_
        ]
        axes = {axis: list(dict.fromkeys(one[axis] for one in only)) for axis in only[0]}
        ci.matrix(f"image-{os_}", axes=axes, only=only, folder=folder)


def build(
    ci: Controller, *products: str, content: Mapping[str, Files] | None = None, **options: Any
) -> Build:
    """Finish a build of these products of one os; ``content`` overrides their artifacts."""
    job = ci.job(f"image-{products[0].split('/')[0]}")
    runs = {configuration(p): (content or {}).get(p) or files(p) for p in products}
    return job.build(runs, **options)


def passes(ci: Controller, tested: Build, base: str, result: str = "SUCCESS") -> None:
    """A run of the test job on a build."""
    if "test-image" not in ci.jobs:
        ci.freestyle("test-image")
    url = f"{base}/{tested.url_path}"
    ci.job("test-image").build(parameters={"image": tested.job.path, "build": url}, result=result)


def wait_for(condition: Any, seconds: float = 20) -> None:
    """Wait until something is so; what takes longer is a failure, not a measurement."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
