"""What the publisher of images.linuxcontainers.org does with a Jenkins, as a small model.

``publish`` polls the Jenkins that imagepress polls, the way that publisher does, and writes the
tree and the indexes that it would write, so that a test can compare two trees of the same builds.

The behaviour is that of lxc/lxc-ci:bin/jenkins-import-images at commit fc92ea2e, the version with
compat levels and lists for LXD. Variant aliases came a little later (commit 06e98d19): without a
table for them the model does what the older one did. Left out on purpose: signatures, deltas (and
so their lines in SHA256SUMS), HTML, snapshots, the cached fingerprints in dot files, the limit of
images in one run, and the doubled slashes in the URLs that it asks for. ``CRASH`` marks what ends
the whole run there, indexes unwritten; here the rest goes on, or nothing could be compared.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

CRASH = "reference would crash: "
KEEP = 3
BARE_LEVEL = 5  # the compat level of the indexes without a number
LISTS = "meta/simplestreams/v1"
PREFIX = "image-"
METADATA = "incus.tar.xz"
SUMS = "SHA256SUMS"

# Artifacts that are kept, in the order of SHA256SUMS; build.log follows them.
STORED = ("rootfs.tar.xz", "rootfs.squashfs", "disk.qcow2", "meta.tar.xz", METADATA, "image.yaml")
# Root file -> key of its item, ftype, names of its combined hash; in the order of looking for twins.
ROOTS = {
    "rootfs.tar.xz": ("root.tar.xz", "root.tar.xz", ("combined_sha256", "combined_rootxz_sha256")),
    "rootfs.squashfs": ("root.squashfs", "squashfs", ("combined_squashfs_sha256",)),
    "disk.qcow2": ("disk.qcow2", "disk-kvm.img", ("combined_disk-kvm-img_sha256",)),
}
PAIRS = ({"rootfs.tar.xz", "meta.tar.xz"}, {"rootfs.squashfs", METADATA}, {"disk.qcow2", METADATA})
FAULTS = (OSError, HTTPException, LookupError, TypeError, ValueError, AttributeError)

_opener = build_opener(ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The constants of the reference. Entries of ``require_*`` are prefixes of aliases, unless said."""

    # fmt: off
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {
        "debian/buster": ("debian/10",), "debian/bullseye": ("debian/11",),
        "debian/bookworm": ("debian/12",), "debian/trixie": ("debian/13",),
        "debian/forky": ("debian/14",), "ubuntu/jammy": ("ubuntu/22.04",),
        "ubuntu/noble": ("ubuntu/24.04",), "ubuntu/plucky": ("ubuntu/25.04",),
        "ubuntu/questing": ("ubuntu/25.10",), "ubuntu/resolute": ("ubuntu/26.04",),
    })
    variant_aliases: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=lambda: {
        "freebsd": {  # os -> variant -> further names
            "default+zfs": ("default", "zfs"), "default+ufs": ("ufs",), "cloud+zfs": ("cloud",),
        },
    })
    require_cgroup1: tuple[str, ...] = ("centos/7", "oracle/7", "springdalelinux/7")
    require_cgroup1_exact: tuple[str, ...] = ("amazonlinux/2",)  # up to the end, or to a slash
    require_cgroup2: tuple[str, ...] = ("ubuntu/24.04",)
    require_no_secureboot: tuple[str, ...] = (
        "alpine", "archlinux", "debian/9", "freebsd", "gentoo", "nixos", "openeuler",
    )
    require_no_privileged: tuple[str, ...] = ()
    require_cdrom_agent: tuple[str, ...] = (
        "almalinux", "centos", "openeuler", "oracle", "rockylinux", "springdalelinux",
    )
    require_cdrom_cloud_init: tuple[str, ...] = ("freebsd",)  # and a variant that ends in "cloud"
    require_incus: tuple[str, ...] = ("nixos",)  # os: not in the list for LXD
    require_vm: tuple[str, ...] = ("freebsd",)  # os: not in the LXC indexes
    lxd_restricted: tuple[str, ...] = ("alpine", "centos", "debian", "ubuntu")  # os
    lxc_since: Mapping[str, int] = field(default_factory=lambda: {
        "archlinux": 2, "opensuse": 2, "alpine": 3, "sabayon": 4,  # os -> first compat level
    })
    # os -> the only releases of it that index-user.1 lists
    lxc_user_1: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {
        "centos": ("6",), "debian": ("wheezy",), "ubuntu": ("precise", "trusty", "utopic"),
    })
    # fmt: on

    def demands(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Requirement, value, prefixes of ``alias + "/"``, end of the variant; a later row wins."""
        exact = tuple(f"{entry}/" for entry in self.require_cgroup1_exact)
        return [
            ("cgroup", "v1", self.require_cgroup1 + exact, ""),
            ("cgroup", "v2", self.require_cgroup2, ""),
            ("secureboot", "false", self.require_no_secureboot, ""),
            ("privileged", "false", self.require_no_privileged, ""),
            ("cdrom_agent", "true", self.require_cdrom_agent, ""),
            ("cdrom_cloud_init", "true", self.require_cdrom_cloud_init, "cloud"),
        ]


class Skip(Exception):  # noqa: N818 - the ordinary way out, not an error
    """This build is not taken, and why."""


@dataclass(frozen=True, slots=True)
class Build:
    """The last successful build of one configuration."""

    os: str
    axes: Mapping[str, str]
    serial: str
    number: int
    log: str
    artifacts: Mapping[str, str]

    @property
    def product(self) -> Path:
        """Its product's directory, relative to the root."""
        parts = (self.os, *(self.axes[axis] for axis in ("release", "architecture", "variant")))
        if any("/" in part or part in ("", ".", "..") for part in (*parts, self.serial)):
            raise Skip(f"reference would leave its layout: {parts} {self.serial!r}")
        return Path("images", *parts)


def publish(jenkins: str, root: Path, tables: Tables) -> list[str]:
    """Import what is new into ``root``, rewrite the indexes, and tell what was skipped and why."""
    messages: list[str] = []
    jenkins = jenkins.rstrip("/")
    tested = _tested(jenkins, messages)
    serial_seen = False
    for os, configuration in _configurations(jenkins, messages):
        name = f"{os}: {configuration.get('name')}: "
        try:
            build = _last_success(os, configuration, serial_seen=serial_seen)
            serial_seen = True
            _import(build, root, tested)
        except Skip as reason:
            messages.append(f"{name}{reason}")
        except FAULTS as fault:
            messages.append(f"{name}{CRASH}{fault!r}")
    for product, serials in _products(root):
        for serial in serials[:-KEEP]:
            shutil.rmtree(product / serial)
    _write_lxc_indexes(root, tables)
    _write_streams(root, tables, messages)
    return messages


def _fetch(url: str) -> bytes:
    with _opener.open(url, timeout=60) as answer:
        return bytes(answer.read())


def _ask(url: str, depth: int = 0) -> Any:
    return json.loads(_fetch(f"{url.rstrip('/')}/api/json?depth={depth}").decode())


def _tested(jenkins: str, messages: list[str]) -> dict[str, int]:
    """The build number of each os that its newest successful test covers."""
    tested: dict[str, int] = {}
    try:
        builds = _ask(f"{jenkins}/job/test-image", depth=1)["builds"]
    except FAULTS as fault:
        messages.append(f"test-image: {CRASH}{fault!r}")
        return tested
    for build in builds:
        try:
            if build["inProgress"] or build["result"] != "SUCCESS":
                continue
            parameters = [act["parameters"] for act in build["actions"] if "parameters" in act]
            if parameters and (url := parameters[0][1]["value"]):
                *_, os, number, _ = url.split("/")
                tested.setdefault(os.split(PREFIX)[-1], int(number))
        except FAULTS as fault:
            messages.append(f"test-image: {CRASH}{fault!r}")
    return tested


def _configurations(jenkins: str, messages: list[str]) -> Iterator[tuple[str, Any]]:
    """Every active configuration of every image job, with the os; in Jenkins' order."""
    try:
        jobs = _ask(f"{jenkins}/view/All")["jobs"]
    except FAULTS as fault:
        messages.append(f"view All: no jobs: {fault!r}")
        return
    for job in jobs:
        if not job["name"].startswith(PREFIX):
            continue
        os = job["name"].split(PREFIX)[-1]
        try:
            configurations = _ask(job["url"])["activeConfigurations"]
        except FAULTS as fault:
            messages.append(f"{os}: {CRASH}{fault!r}")
            continue
        yield from ((os, configuration) for configuration in configurations)


def _last_success(os: str, configuration: Any, *, serial_seen: bool) -> Build:
    """Read the build to import; a serial that cannot be read is fatal unless one was before."""
    last = _ask(configuration["url"])["lastSuccessfulBuild"]
    if not last:
        raise Skip("no successful build")
    axes = dict(pair.split("=") for pair in configuration["name"].split(","))  # a=b=c is fatal
    url = last["url"].rstrip("/")
    build = _ask(url)
    artifacts = {a["fileName"]: f"{url}/artifact/{a['relativePath']}" for a in build["artifacts"]}
    try:
        serial = _fetch(artifacts["serial"]).decode().strip()
    except FAULTS as fault:
        reason = "missing serial" if serial_seen else f"{CRASH}no serial, nor one before"
        raise Skip(reason) from fault
    log = f"{build['url'].rstrip('/')}/consoleText"
    return Build(os, axes, serial, int(build["id"]), log, artifacts)


def _import(build: Build, root: Path, tested: Mapping[str, int]) -> None:
    """Store the build unless one of the reference's rules is against it."""
    if ":" not in build.serial:
        raise Skip(f"serial {build.serial!r} has no colon")
    product = root / build.product
    present = {path.name for path in product.iterdir()} if product.exists() else set()
    if build.serial in present:
        raise Skip(f"{build.serial} is there")
    if build.serial not in sorted(present | {build.serial})[-KEEP:]:
        raise Skip(f"{build.serial} is older than the newest {KEEP}")
    if tested.get(build.os, -1) < build.number:
        raise Skip(f"{build.serial} is not tested")
    found = dict(build.artifacts)
    if METADATA not in found and "lxd.tar.xz" in found:
        found[METADATA] = found["lxd.tar.xz"]
    if not any(pair <= found.keys() for pair in PAIRS):
        raise Skip(f"{build.serial} is partial")
    if METADATA not in found:
        raise Skip(f"{CRASH}no {METADATA} to hash with the root file")
    files = {name: _fetch(found[name]) for name in STORED if name in found}
    files["build.log"] = _fetch(build.log)
    sums = "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items())
    directory = product / build.serial
    directory.mkdir(parents=True)
    for name, body in (*files.items(), (SUMS, sums.encode())):
        (directory / name).write_bytes(body)


def _products(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each product's directory and its complete serials, in the order of the path as one string."""
    for name in sorted(glob.glob("images/*/*/*/*", root_dir=root)):
        if complete := sorted(path.parent.name for path in (root / name).glob(f"*/{SUMS}")):
            yield root / name, complete


def _write_lxc_indexes(root: Path, tables: Tables) -> None:
    """Write every index that lists something; one that lists nothing any more stays as it was."""
    indexes: dict[str, list[str]] = {}
    for product, serials in _products(root):
        os, release, arch, variant = product.parts[-4:]
        if "desktop" in variant or os in tables.require_vm:
            continue
        url = f"/images/{os}/{release}/{arch}/{variant}/{serials[-1]}/"
        line = f"{os};{release};{arch};{variant};{serials[-1]};{url}\n"
        old = tables.lxc_user_1.get(os)
        since = {"system": tables.lxc_since.get(os, 1)}
        since["user"] = max(since["system"], 1 if old is None or release in old else 2)
        for mode, first in since.items():
            for level in range(first, BARE_LEVEL + 1):
                suffix = "" if level == BARE_LEVEL else f".{level}"
                indexes.setdefault(f"index-{mode}{suffix}", []).append(line)
    directory = root / "meta/1.0"
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in indexes.items():
        (directory / name).write_text("".join(lines))


def _write_streams(root: Path, tables: Tables, messages: list[str]) -> None:
    """Write index.json, images.json and the three lists that a web server can hand to LXD."""
    products: dict[str, dict[str, Any]] = {}
    published: set[str] = set()
    for product, serials in _products(root):
        os, release, arch, variant = product.parts[-4:]
        for serial in serials:
            hashes = _combined(product / serial)
            if _is_duplicate(hashes.values(), published):
                messages.append(f"found duplicate: {product.relative_to(root) / serial}")
                continue
            key = f"{os}:{release}:{arch}:{variant}"
            entry = products.setdefault(key, _product(os, release, arch, variant, tables))
            items = _items(product / serial, product.relative_to(root) / serial, hashes)
            entry["versions"][serial] = {"items": items}
    lxd = {key: p for key, p in products.items() if key.split(":")[0] not in tables.require_incus}
    few = {key: p for key, p in products.items() if key.split(":")[0] in tables.lxd_restricted}
    kind = {"datatype": "image-downloads", "format": "products:1.0"}
    stream = kind | {"path": "streams/v1/images.json", "products": sorted(products)}
    _write_json(root, "index.json", {"index": {"images": stream}, "format": "index:1.0"})
    lists = {"images.json": products, ".images.json.lxd": lxd}
    lists |= {".images.json.lxd_restricted": few, ".images.json.lxd_empty": {}}
    for name, listed in lists.items():
        _write_json(root, name, {"content_id": "images"} | kind | {"products": listed})


def _write_json(root: Path, name: str, value: object) -> None:
    (root / LISTS).mkdir(parents=True, exist_ok=True)
    (root / LISTS / name).write_text(json.dumps(value) + "\n")


def _combined(image: Path) -> dict[str, str]:
    """Root file -> sha256 of the metadata and the root, one after the other."""
    roots = [name for name in ROOTS if (image / name).exists()]
    metadata = (image / METADATA).read_bytes()
    return {n: hashlib.sha256(metadata + (image / n).read_bytes()).hexdigest() for n in roots}


def _is_duplicate(fingerprints: Iterable[str], published: set[str]) -> bool:
    """Whether one was published before; those ahead of it count as published all the same."""
    for fingerprint in fingerprints:
        if fingerprint in published:
            return True
        published.add(fingerprint)
    return False


def _product(os: str, release: str, arch: str, variant: str, tables: Tables) -> dict[str, Any]:
    aliases = _aliases(os, release, variant, tables)
    requirements = {
        key: value
        for alias in aliases
        for key, value, prefixes, end in tables.demands()
        if f"{alias}/".startswith(prefixes) and variant.endswith(end)
    }
    return {
        "aliases": ",".join(aliases),
        "arch": arch,
        "os": os.title(),
        "release": release,
        "release_title": release,
        "requirements": requirements,
        "variant": variant,
        "versions": {},
    }


def _aliases(os: str, release: str, variant: str, tables: Tables) -> list[str]:
    releases = (f"{os}/{release}", *tables.aliases.get(f"{os}/{release}", ()))
    variants = (variant, *tables.variant_aliases.get(os, {}).get(variant, ()))
    aliases = [f"{stem}/{name}" for stem in releases for name in variants]
    if "default" in variants:
        aliases += releases
    if release == "current":
        aliases.append(os if variant == "default" else f"{os}/{variant}")
    return aliases


def _items(image: Path, path: Path, hashes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The metadata, once for Incus and once more for LXD, and every root file."""
    sums = {line.split()[1]: line.split()[0] for line in (image / SUMS).read_text().splitlines()}

    def item(name: str, ftype: str) -> dict[str, Any]:
        size = (image / name).stat().st_size
        return {"ftype": ftype, "sha256": sums[name], "size": size, "path": f"{path}/{name}"}

    metadata = item(METADATA, METADATA)
    for root, value in hashes.items():
        metadata |= dict.fromkeys(ROOTS[root][2], value)
    items = {METADATA: metadata, "lxd.tar.xz": metadata | {"ftype": "lxd.tar.xz"}}
    return items | {ROOTS[root][0]: item(root, ROOTS[root][1]) for root in hashes}


def as_rules(tables: Tables) -> str:
    """Say the tables as ``[[rules]]`` of publish.toml; ``lxd_restricted`` has no rule of its own."""
    rules = [(key, f"aliases = {json.dumps(names)}") for key, names in tables.aliases.items()]
    for os, variants in tables.variant_aliases.items():
        for variant, names in variants.items():
            rules.append((f"{os}/*/*/{variant}", f"variant_aliases = {json.dumps(names)}"))
    for key, value, prefixes, end in tables.demands():
        for prefix in prefixes:
            body = f'requirements = {{ {key} = "{value}" }}'
            rules += [(match, body) for match in _matches(prefix, end, tables)]
    rules += [(os, f"lxc_min_level = {level}") for os, level in tables.lxc_since.items()]
    for os, old in tables.lxc_user_1.items():
        rules.append((os, "lxc_user_min_level = 2"))
        rules += [(f"{os}/{release}", "lxc_user_min_level = 1") for release in old]
    rules += [(match, "lxc = false") for match in ("*/*/*/*desktop*", *tables.require_vm)]
    rules += [(os, 'clients = ["incus"]') for os in tables.require_incus]
    return "\n".join(f'[[rules]]\nmatch = "{match}"\n{body}\n' for match, body in rules)


def _matches(prefix: str, end: str, tables: Tables) -> list[str]:
    """Every pattern of products with an alias that starts like this; a final "/" is the very name."""
    os, _, name = prefix.partition("/")
    if not name:
        matches = [f"{os}*"]
    elif end or "/" in name.rstrip("/"):
        raise ValueError(f"{prefix!r}: no rule can say this")
    else:
        release = name.rstrip("/") if name.endswith("/") else f"{name}*"
        matches = [f"{os}/{release}", f"{os}/current/*/{release}"]
    for key, aliases in tables.aliases.items():
        if not key.startswith(prefix) and any(f"{a}/".startswith(prefix) for a in aliases):
            matches.append(key)
    return [m + "/*" * (2 - m.count("/")) + f"/*{end}" for m in matches] if end else matches


TABLES_AS_RULES = as_rules(Tables())
