"""Forty products at a stand-in Jenkins, and five moments of their lives.

    forty = Forty(ci, server.url)
    for moment in MOMENTS:
        moment.happen(forty)               # builds are added, tested or not
        ...                                # and now somebody publishes

Names and kinds are those of the image jobs of images.linuxcontainers.org, so that each of its tables
has a product that it is about. What goes wrong with a build, and for which, the constants below say.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from sites import passes

from jenkins.controller import Controller
from jenkins.jobs import Build, Files, Job, configuration_name
from jenkins.samples import artifacts

ALL: Mapping[str, Any] = {"kinds": ("container", "vm", "lxc")}
BOX: Mapping[str, Any] = {"kinds": ("container", "lxc")}
VM: Mapping[str, Any] = {"kinds": ("vm",)}
PATH = "{arch}/{release}/{variant}/{file}"  # how the pipeline's artifacts lie

PRODUCTS: Mapping[str, Mapping[str, Any]] = {
    "almalinux/9/amd64/default": ALL,
    "almalinux/9/arm64/cloud": BOX,
    "alpine/3.22/amd64/default": ALL,
    "alpine/edge/amd64/tinycloud": BOX,
    "amazonlinux/2/amd64/default": BOX,
    "amazonlinux/2023/amd64/default": BOX,
    "archlinux/current/amd64/default": ALL,
    "busybox/1.37/amd64/default": BOX,  # of a pipeline
    "centos-stream/9/amd64/default": ALL,
    "centos/6/i386/default": BOX,
    "centos/7/amd64/default": BOX,
    "debian/bookworm/amd64/cloud": BOX,
    "debian/bookworm/amd64/default": ALL,
    "debian/trixie/arm64/default": BOX,
    "debian/wheezy/amd64/default": BOX,
    "devuan/daedalus/amd64/default": BOX,  # never tested
    "fedora/43/amd64/default": {"kinds": ("container",)},
    "freebsd/14.4/amd64/cloud+zfs": VM,
    "freebsd/14.4/amd64/default+ufs": VM,
    "freebsd/14.4/amd64/default+zfs": VM,
    "freebsd/15.0/arm64/cloud": VM,
    "funtoo/current/amd64/default": BOX,  # only ever failed, then builds
    "funtoo/current/arm64/default": BOX,  # never built
    "gentoo/current/amd64/systemd": BOX,
    "kali/current/amd64/default": BOX,  # of a matrix without the axis of the release
    "mint/virginia/amd64/desktop-cinnamon": ALL,
    "nixos/25.11/amd64/default": ALL,
    "openeuler/24.03/amd64/default": ALL,
    "opensuse/tumbleweed/amd64/default": {**ALL, "lxd": "only"},
    "openwrt/24.10/amd64/default": ALL,
    "oracle/7/amd64/default": BOX,
    "plamo/8.x/amd64/default": BOX,
    "rockylinux/9/amd64/default": ALL,
    "sabayon/current/amd64/default": BOX,
    "slackware/15.0/amd64/default": {"kinds": ("lxc",)},
    "springdalelinux/7/amd64/default": {"kinds": ("container",), "tar_root": True},
    "ubuntu/noble/amd64/default": {**ALL, "lxd": "same"},
    "ubuntu/noble/amd64/desktop": VM,
    "ubuntu/trusty/armhf/default": BOX,
    "void/current/amd64/musl": BOX,
}


class Image(NamedTuple):
    """A product at a serial."""

    product: str
    serial: str


def night(number: int) -> str:
    """The serial of what was built in one of the nights, each time an hour earlier."""
    return f"202601{number:02d}_{10 - number:02d}:42"


def of(os: str) -> list[str]:
    """The products of an os."""
    return [product for product in PRODUCTS if product.startswith(f"{os}/")]


HELD = [Image(product, night(2)) for product in of("alpine")]  # passed behind a newer, untested build
TESTED_AGAIN = [Image(product, night(2)) for product in of("almalinux")]  # then an older build passed again
UNSTABLE = Image("mint/virginia/amd64/desktop-cinnamon", night(2))
NO_SERIAL = Image("nixos/25.11/amd64/default", night(2))
NO_COLON = Image("void/current/amd64/musl", "20260102_0742")
NO_DATE = Image("void/current/amd64/musl", "2026-01-03_07:42")
LATE = Image("gentoo/current/amd64/systemd", "20990101_07:42")  # the clock of its machine was ahead
EARLY = Image("centos-stream/9/amd64/default", "20251231_07:42")  # and here behind
BROKEN = Image("sabayon/current/amd64/default", night(2))  # rootfs.squashfs is an error page
TWICE = Image("amazonlinux/2/amd64/default", night(2))  # two artifacts of one name
PARTIAL = Image("rockylinux/9/amd64/default", night(2))
REPEATED = Image("springdalelinux/7/amd64/default", night(1))  # published with other bytes before
SUBDIRECTORY = Image("openeuler/24.03/amd64/default", night(2))  # archived below out/
TWO_METADATA = Image("ubuntu/noble/amd64/default", night(2))  # incus.tar.xz and lxd.tar.xz differ
SAME_AS_OTHER = Image("centos/7/amd64/default", night(2))  # the bytes of centos-stream, which sorts before
SAME = Image("plamo/8.x/amd64/default", night(2))  # the bytes of the night before
HALF_SAME = Image("plamo/8.x/amd64/default", night(3))  # its squashfs is old, its tarball new
SAME_AS_UNLISTED = Image("plamo/8.x/amd64/default", night(4))  # its tarball is that of the night before


class Moment(NamedTuple):
    """What happens at Jenkins between two publications."""

    name: str
    happen: Callable[["Forty"], None]
    code: int  # with which `doit publish` ends then: 1 as long as a build that it refused is the last


class Forty:
    """The image jobs of the products."""

    def __init__(self, ci: Controller, url: str) -> None:
        self.ci, self.url = ci, url
        with ci.bulk():
            ci.view("All", jobs=["*"])
            ci.freestyle("test-image")
            ci.pipeline("image-busybox")
            for os in sorted({product.partition("/")[0] for product in PRODUCTS} - {"busybox"}):
                self.matrix(os)

    def matrix(self, os: str) -> Job:
        """Make the job of an os."""
        only = [axes(product) for product in of(os)]
        values = {axis: list(dict.fromkeys(one[axis] for one in only)) for axis in only[0]}
        return self.ci.matrix(f"image-{os}", values, only=only, keep=3)

    def build(
        self,
        *names: str,
        serial: str,
        tested: bool = True,
        changed: Mapping[str, Files] | None = None,
        **options: Any,
    ) -> Build:
        """Finish one build: of these products, or of all of an os; ``changed`` are other artifacts."""
        products = [product for name in names for product in ([name] if "/" in name else of(name))]
        changed = changed or {}
        content = {product: changed.get(product) or files(product, serial) for product in products}
        options.setdefault("log", f"building {serial}\n")
        job = self.ci.job(f"image-{products[0].partition('/')[0]}")
        if job.kind == "pipeline":
            done = job.build(files=dict(_laid_out(content)), **options)
        else:
            runs = {configuration_name(axes(product)): content[product] for product in products}
            done = job.build(runs, **options)
        if tested:
            self.test(done)
        return done

    def test(self, build: Build, result: str = "SUCCESS") -> None:
        """Run the test job."""
        passes(self.ci, build, self.url, result)

    def first_night(self) -> None:
        """Everything is built, and nearly everything tested."""
        for os in sorted({product.partition("/")[0] for product in PRODUCTS} - {"funtoo"}):
            self.build(os, serial=night(1), tested=os != "devuan")
        self.build("funtoo/current/amd64/default", serial=night(1), result="FAILURE")

    def second_night(self) -> None:
        """Most of what can go wrong with a build goes wrong."""
        for os in ("archlinux", "busybox", "debian", "fedora", "freebsd", "slackware"):
            self.build(os, serial=night(2))
        self.build("openwrt", serial=night(2), changed=_without_vm(night(2)))
        self.test(self.build("alpine", serial=night(2), tested=False), "FAILURE")
        self.build("almalinux", serial=night(2))
        self.test(self.ci.job("image-almalinux").builds[1])
        self.build("mint", serial=UNSTABLE.serial, result="UNSTABLE")
        self.build("oracle", serial=night(2), result="FAILURE")
        self.build("centos-stream", serial=EARLY.serial)
        self.build("gentoo", serial=LATE.serial)
        self.odd(NO_SERIAL, night(2), without=["serial"])
        self.odd(NO_COLON, night(2))
        self.odd(BROKEN, night(2), {"rootfs.squashfs": b"<html>502 Bad Gateway</html>\n"})
        self.odd(TWICE, night(2), {"old/rootfs.squashfs": files(TWICE.product, night(1))["rootfs.squashfs"]})
        self.odd(PARTIAL, night(2), without=["incus.tar.xz", "meta.tar.xz"])
        self.odd(REPEATED, night(2))
        self.odd(SAME, night(1))
        self.odd(SAME_AS_OTHER, night(1), files("centos-stream/9/amd64/default", night(1)))
        self.odd(TWO_METADATA, night(2), files(TWO_METADATA.product, night(2), lxd="differs"))
        below = {f"out/{name}": body for name, body in files(SUBDIRECTORY.product, night(2)).items()}
        self.build("openeuler", serial=night(2), changed={SUBDIRECTORY.product: below})

    def third_night(self) -> None:
        """The test of the older alpine passes; some jobs are deleted and made again."""
        for os in ("almalinux", "debian", "gentoo", "mint", "nixos", "ubuntu"):
            self.build(os, serial=night(3))
        self.build("openwrt", serial=night(3), changed=_without_vm(night(3)))
        self.build("alpine", serial=night(3), tested=False)
        self.test(self.ci.job("image-alpine").builds[2])
        self.odd(NO_DATE, night(3))
        old = files(HALF_SAME.product, night(1))
        self.odd(HALF_SAME, night(3), {name: old[name] for name in ("incus.tar.xz", "rootfs.squashfs")})
        for os in ("fedora", "opensuse", "sabayon"):
            self.ci.job(f"image-{os}").remove()
            self.matrix(os)
        self.build("fedora", serial=night(3))  # #1 after #2 was published
        self.build("opensuse", serial=night(3))  # #1 after #1 was published
        self.build("sabayon", serial=night(3), result="FAILURE")
        self.build("sabayon", serial=night(3))  # #2 after #2 was refused
        self.ci.job("image-funtoo").start().run(axes("funtoo/current/amd64/default"))

    def fourth_night(self) -> None:
        """The fourth image of debian, and the third build of openwrt without a VM."""
        for os in ("busybox", "debian", "freebsd", "oracle", "rockylinux"):
            self.build(os, serial=night(4))
        self.build("openwrt", serial=night(4), changed=_without_vm(night(4)))
        self.test(self.ci.job("image-alpine").builds[3])
        metadata = files(SAME_AS_UNLISTED.product, night(1))["incus.tar.xz"]
        root = files(SAME_AS_UNLISTED.product, night(3))["rootfs.tar.xz"]
        self.odd(SAME_AS_UNLISTED, night(4), {"incus.tar.xz": metadata, "rootfs.tar.xz": root})

    def quiet_night(self) -> None:
        """Nothing is built; Jenkins loses artifacts, and a job that was published."""
        wheezy = self.ci.job("image-debian").configuration(axes("debian/wheezy/amd64/default"))
        wheezy.builds[4].purge_artifacts()
        self.ci.job("image-rockylinux").remove()

    def odd(
        self, image: Image, base: str, changed: Files | None = None, without: Collection[str] = ()
    ) -> None:
        """Build one product under this serial, from the artifacts of another, some of them changed."""
        serial = f"{image.serial}\n".encode()
        content = {**files(image.product, base), **(changed or {}), "serial": serial}
        content = {name: body for name, body in content.items() if name not in without}
        self.build(image.product, serial=image.serial, changed={image.product: content})


def axes(product: str) -> dict[str, str]:
    """The matrix configuration that makes a product."""
    os, release, arch, variant = product.split("/")
    found = {"architecture": arch, "release": release, "variant": variant}
    if os == "freebsd":
        found["build_architecture"] = "amd64"
    if os == "kali":
        del found["release"]
    return found


def files(product: str, serial: str, **options: Any) -> dict[str, bytes]:
    """The artifacts of a product as its job makes them."""
    os, release, arch, variant = product.split("/")
    names = {"os": os, "release": release, "arch": arch, "variant": variant, "serial": serial}
    return artifacts(**names, **{**PRODUCTS[product], **options})


def _without_vm(serial: str) -> dict[str, Files]:
    return {product: files(product, serial, **BOX) for product in of("openwrt")}


def _laid_out(content: Mapping[str, Files]) -> Iterator[tuple[str, Any]]:
    """One build's artifacts of several products, by path."""
    for product, artifacts_ in content.items():
        _, release, arch, variant = product.split("/")
        for name, body in artifacts_.items():
            yield PATH.format(release=release, arch=arch, variant=variant, file=name), body


MOMENTS = [
    Moment("the first night", Forty.first_night, 0),
    Moment("the second night", Forty.second_night, 1),
    Moment("the third night", Forty.third_night, 1),
    Moment("the fourth night", Forty.fourth_night, 1),
    Moment("a quiet night", Forty.quiet_night, 1),
]
