"""Images that start: a root file system of nothing but busybox, as an image job archives it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sites import files
from tools import program

from jenkins.jobs import Files

APPLETS = ("cat", "sh", "sleep")
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp")
# Incus and LXD start /sbin/init, busybox' own, and that wants to be told what to do.
INITTAB = "::sysinit:/bin/cat /etc/serial\n::respawn:/bin/sleep 3600\n::shutdown:/bin/cat /etc/serial\n"


def machine(product: str) -> Files:
    """The artifacts of a product ``os/release/arch/variant`` for amd64, whose container starts.

    Its disk for virtual machines does not.
    """
    made = dict(files(product, kinds=("container", "vm", "lxc")))
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "root"
        _plant(root, bytes(made["serial"]).decode())
        squashed, packed = Path(work) / "rootfs.squashfs", Path(work) / "rootfs.tar.xz"
        _call("mksquashfs", str(root), str(squashed), "-all-root", "-quiet", "-no-progress")
        _call("tar", "--owner=0", "--group=0", "--numeric-owner", "-C", str(root), "-cJf", str(packed), ".")
        return made | {path.name: path.read_bytes() for path in (squashed, packed)}


def unified_machine(product: str) -> Files:
    """The same as one unified image, packed by gzip, under the name that says so."""
    made = dict(files(product, kinds=("container",)))
    metadata = bytes(made.pop("incus.tar.xz"))
    del made["rootfs.squashfs"]
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "incus.tar.xz").write_bytes(metadata)
        _call("tar", "-C", work, "-xJf", f"{work}/incus.tar.xz")
        _plant(Path(work) / "rootfs", bytes(made["serial"]).decode())
        packed = Path(work) / "incus_combined.tar.gz"
        names = ("metadata.yaml", "templates", "rootfs")
        _call("tar", "--owner=0", "--group=0", "--numeric-owner", "-C", work, "-czf", str(packed), *names)
        return made | {packed.name: packed.read_bytes()}


def _plant(root: Path, serial: str) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, mode=0o755)
    shutil.copy(program("busybox"), root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc/inittab").write_text(INITTAB)
    (root / "etc/hostname").write_text("LXC_NAME\n")
    (root / "etc/serial").write_text(serial)


def _call(name: str, *words: str) -> None:
    env = {**os.environ, "XZ_OPT": "-0"}
    subprocess.run(
        [program(name), *words], env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
