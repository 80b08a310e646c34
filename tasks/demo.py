"""The site that a fresh clone has: a Jenkins of its own, a throw-away key, a mirror beside it (acts).

Everything lies in ``.demo/`` beside dodo.py, and nothing here is used once there is a configuration.
The pipeline does not know: it polls an HTTP server that keeps its builds between runs.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks import files
from tasks import settings as config
from tasks.errors import SettingsError
from tasks.image import DISK, META, SQUASHFS, Product
from tasks.layout import Layout

if TYPE_CHECKING:
    from jenkins.controller import Controller
    from jenkins.jobs import Files

GATE = "test-image"
JOB = "image-debian"
HELD = "image-alpine"
# configuration -> kinds; alpine is built but not tested, and so held back
CONFIGURATIONS: dict[str, dict[Product, tuple[str, ...]]] = {
    JOB: {
        Product("debian", "trixie", "amd64", "default"): ("container", "vm", "lxc"),
        Product("debian", "trixie", "arm64", "default"): ("container", "lxc"),
        Product("debian", "bookworm", "amd64", "default"): ("container", "lxc"),
        Product("debian", "bookworm", "arm64", "default"): ("container", "lxc"),
    },
    HELD: {Product("alpine", "3.22", "amd64", "default"): ("container", "lxc")},
}
Damage = Literal["", "meta", "magic", "serial", "missing"]


def settings(clone: Path) -> config.Settings:
    """The demo's configuration; makes nothing."""
    base = clone / ".demo"
    return config.Settings(
        site=config.Site(root=base / "root"),
        jenkins=config.Jenkins(url="http://127.0.0.1", gate=config.Gate(job=GATE, scope="os")),
        signing=config.Signing(key=str(base / "keys/publisher.asc")),
        rules=(
            config.Rule(match="debian/trixie", aliases=("debian/13",)),
            config.Rule(match="debian/bookworm", aliases=("debian/12",)),
            config.Rule(match="alpine", requirements={"secureboot": "false"}, lxc_min_level=3),
        ),
        mirror=(config.Mirror(name="demo", url=str(base / "mirror")),),
        snapshot=config.Snapshot(backend="hardlink"),  # to start over is to remove .demo, by rm
    )


@cache
def serve(clone: Path) -> str:
    """Start the demo's Jenkins for as long as this process lives; returns its URL.

    At the first use it gets a few finished builds, and the site its key.
    """
    from jenkins import standin  # noqa: PLC0415 - the demo alone needs a server

    make_key(clone / ".demo/keys")
    return standin.serve(_controller(clone)).url


def build(clone: Path, product: Product, damage: Damage, *, tested: bool) -> str:
    """Finish one more build of a product; returns what it was."""
    for job, configurations in CONFIGURATIONS.items():
        if product in configurations:
            return _build(_controller(clone), job, [product], damage, tested=tested)
    known = ", ".join(one.name for every in CONFIGURATIONS.values() for one in every)
    raise SettingsError([f"--product={product.name}: the demo builds {known}"])


def farewell(clone: Path, layout: Layout) -> list[str]:
    """How to look at what was made."""
    here = Path(os.path.relpath(clone))
    tree = here / os.path.relpath(layout.latest, clone)
    called = Path(sys.argv[0]).absolute()
    inside = called.name == "doit" and called.is_relative_to(clone)
    doit = os.path.relpath(called) if inside else "doit"
    looks = {
        f"find -L {tree}/ -type f": "the published tree",
        f"(cd {tree} && incus-simplestreams list)": "as Incus sees it",
        f"gpg --show-keys {here / '.demo/keys/publisher.pub.asc'}": "the throw-away key that signed it",
        f"{doit} demo_build && {doit} publish": "one more build, published",
        f"{doit} demo_build --damage=meta": "a bad one: publish refuses it by name",
    }
    width = max(map(len, looks))
    return [
        "",
        "This was the demo: there is no publish.toml yet. To look at what it made:",
        *(f"  {command:<{width}}   {what}" for command, what in looks.items()),
        "To start over, remove .demo/. For a real server, README.md says what to put into publish.toml.",
    ]


def make_key(directory: Path) -> None:
    """A key of its own for the demo, where there is none yet."""
    import pysequoia  # noqa: PLC0415 - once in a demo's life

    secret = directory / "publisher.asc"
    if secret.exists():
        return
    key = pysequoia.Tsk.generate(
        user_id="imagepress demo, trust nothing signed by it",
        profile=pysequoia.Profile.RFC4880,  # gpg of Debian 12 and Ubuntu 24.04 read no newer
        cipher_suite=pysequoia.CipherSuite.Cv25519,
    )
    public = pysequoia.armor(bytes(key.extract_certificate()), pysequoia.ArmorKind.PublicKey)
    files.write(directory / "publisher.pub.asc", _bytes(public))
    files.write(secret, _bytes(pysequoia.armor(bytes(key), pysequoia.ArmorKind.SecretKey)), 0o600)


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _controller(clone: Path) -> "Controller":
    """The demo's Jenkins, with its first builds."""
    from jenkins.controller import Controller  # noqa: PLC0415 - as above

    ci = Controller(clone / ".demo/jenkins")
    if GATE not in ci.jobs:
        with ci.bulk():
            ci.freestyle(GATE)
            for job, products in CONFIGURATIONS.items():
                combinations = [_combination(product) for product in products]
                axes = {axis: sorted({one[axis] for one in combinations}) for axis in combinations[0]}
                ci.matrix(job, axes, only=list(combinations))
                _build(ci, job, list(products), "", tested=job != HELD)
    return ci


def _build(ci: "Controller", job: str, products: list[Product], damage: Damage, *, tested: bool) -> str:
    serial = _next_serial(ci, job)
    runs = {
        tuple(sorted(_combination(product).items())): _artifacts(job, product, serial, damage)
        for product in products
    }
    with ci.bulk():
        done = ci.job(job).build(
            {frozenset(run): content for run, content in runs.items()}, description=serial
        )
        if tested:
            url = f"http://jenkins.invalid/job/{job}/{done.number}/"
            ci.job(GATE).build(parameters={"image": job, "build": url})
    what = f"{job} #{done.number}, serial {serial}: {', '.join(product.name for product in products)}"
    return what + (f", damaged ({damage})" if damage else "") + ("" if tested else ", not tested")


def _next_serial(ci: "Controller", job: str) -> str:
    """The present minute in UTC, or the minute after the job's last serial."""
    now = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
    last = max((one.description for one in ci.job(job).builds.values()), default="")
    if last:
        now = max(now, datetime.strptime(last, "%Y%m%d_%H:%M").replace(tzinfo=UTC) + timedelta(minutes=1))
    return f"{now:%Y%m%d_%H:%M}"


def _combination(product: Product) -> dict[str, str]:
    return {"architecture": product.arch, "release": product.release, "variant": product.variant}


def _artifacts(job: str, product: Product, serial: str, damage: Damage) -> "Files":
    from jenkins import samples  # noqa: PLC0415 - as above

    made: dict[str, bytes | Path] = dict(
        samples.artifacts(
            os=product.os,
            release=product.release,
            arch=product.arch,
            variant=product.variant,
            serial=serial,
            kinds=CONFIGURATIONS[job][product],
        )
    )
    if damage == "meta":
        made[META] = samples.meta_tarball(arch=product.arch, serial=serial, omit=["config"])
    elif damage == "magic":
        made[SQUASHFS] = b"not a file system"
    elif damage == "serial":
        made["serial"] = b"yesterday\n"
    elif damage == "missing":
        made = {name: content for name, content in made.items() if name in ("serial", DISK)}
    return made
