"""What publish.toml may say, as frozen records; ``config`` reads it.

The classes below are the reference of the configuration: a field without a default is required.
Paths are relative to the file. Secrets are never values here: they come from a file or from the
environment, and are read when they are needed.
"""

import os
import re
import warnings
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tasks.errors import SettingsError

Alias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]*(/[A-Za-z0-9._+~-]+)*\Z", description="a name like debian/12"
    ),
]
LONGEST = 1000  # characters of a regular expression; nginx ends at 4096 bytes
NonEmpty = Annotated[str, Meta(min_length=1)]
# What clients show to people, and sort by: white space at an end would not be seen.
Title = Annotated[
    str,
    Meta(
        pattern=r"^(?=\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]*(?<=\S)\Z",
        description="one line without blanks at its ends",
    ),
]
FileGlob = Annotated[
    str, Meta(pattern=r"^[^/?\[\]]*\Z", description="a file name in which only '*' is special")
]


class Span(msgspec.Struct, frozen=True):
    """A length of time, written ``90s``, ``15m``, ``48h`` or ``3d``."""

    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Span":
        """Read ``48h``; raises ValueError."""
        if not (found := re.fullmatch(r"(\d{1,6})([smhd])", text)):
            raise ValueError(f"{text!r} is no length of time; write it like 90s, 15m, 48h or 3d")
        return cls(int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]])


class Share(msgspec.Struct, frozen=True):
    """A part of a whole, written ``10%``."""

    percent: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read ``10%``; raises ValueError."""
        if not (found := re.fullmatch(r"(\d{1,2}|100)%", text)):
            raise ValueError(f"{text!r} is no percentage; write it like 10%")
        return cls(int(found[1]))


class Day(msgspec.Struct, frozen=True):
    """A day, written ``2030-04-30``: the one form of it that Incus and LXD read."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Day":
        """Read ``2030-04-30``; raises ValueError."""
        try:
            if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                raise ValueError  # noqa: TRY301 - the same sentence for both
            date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is no day; write it like 2030-04-30") from None
        return cls(text)


class Agent(msgspec.Struct, frozen=True):
    """A regular expression on a User-Agent: what Python and PCRE, and so nginx and Apache, read alike."""

    pattern: str

    @classmethod
    def parse(cls, text: str) -> "Agent":
        """Read ``^LXD ``; raises ValueError."""
        escapes = [one for one in re.findall(r"\\.", text) if one[1].isalnum() and one[1] not in "dDwWsSbB"]
        rest = re.sub(r"\\.", "", text)
        strange = [*escapes, *re.findall(r"\(\?(?!:|=|!|<=|<!|i\)).?|\{,|\[\[|[+*?}]\+", rest)]
        # PCRE takes these for POSIX's, and has none (check_posix_syntax in pcre2:src/pcre2_compile.c).
        strange += [one[0] for of in (text, rest) for one in re.finditer(r"\[([.:=])[^]]*\1\]", of)]
        why = ""
        if not text.isascii() or not text.isprintable() or not 0 < len(text) <= LONGEST:
            why = f"it must be one line of ASCII, of 1 to {LONGEST} characters"
        elif strange:
            why = f"not every web server reads {strange[0]!r} so"
        else:
            try:
                with warnings.catch_warnings(action="error", category=FutureWarning):  # sets of sets
                    re.compile(text)
            except (re.error, RecursionError, OverflowError, FutureWarning) as error:
                why = str(error)
        if why:
            raise ValueError(f"{text!r} is no regular expression like '^LXD ': {why}")
        return cls(text)


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """``[site]``: the working tree and what it keeps."""

    root: Path
    keep: Annotated[int, Meta(ge=1)] = 3
    grace: Span = Span(48 * 3600)
    max_shrink: Share = Share(10)
    batch: Annotated[int, Meta(ge=1)] = 30
    batch_time: Span = Span(15 * 60)
    compat: bool = False  # the file names of images.linuxcontainers.org's publisher too


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """``[jenkins.axes]``: which matrix axis is which part of the product."""

    release: NonEmpty = "release"
    arch: NonEmpty = "architecture"
    variant: NonEmpty = "variant"


class Artifacts(msgspec.Struct, frozen=True, kw_only=True):
    """``[jenkins.artifacts]``: which artifacts are unified images, by patterns of their names."""

    unified: FileGlob = ""
    unified_lxd: FileGlob = ""
    unified_vm: FileGlob = ""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """``[jenkins.gate]``: the job that tests images, and what one pass of it covers."""

    job: NonEmpty
    image: NonEmpty = "image"
    build: NonEmpty = "build"
    scope: Literal["product", "os"] = "product"


class Jenkins(msgspec.Struct, frozen=True, kw_only=True):
    """``[jenkins]``: where images come from."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?\Z",
            description="an http:// or https:// URL without user",
        ),
    ]
    folder: str = ""
    view: str = ""
    jobs: Annotated[tuple[NonEmpty, ...], Meta(min_length=1)] = ("image-*",)
    path: str = ""
    user: str = ""
    token_file: Path | None = None
    ca: Path | None = None
    unstable: bool = False
    downloads: Annotated[int, Meta(ge=1, le=64)] = 4
    log: bool = False
    axes: Axes = Axes()
    artifacts: Artifacts = Artifacts()
    gate: Gate | None = None

    def token(self) -> str:
        """The API token, from the environment or from ``token_file``; raises SettingsError."""
        return _secret("PUBLISH_JENKINS_TOKEN", self.token_file, "jenkins.token_file")


class Signing(msgspec.Struct, frozen=True, kw_only=True):
    """``[signing]``: ``key`` is a key file (sequoia) or a fingerprint known to gpg."""

    key: NonEmpty
    backend: Literal["auto", "gpg", "sequoia"] = "auto"
    passphrase_file: Path | None = None

    @property
    def is_fingerprint(self) -> bool:
        """Whether ``key`` names a key in gpg's keyring; ``!`` at its end picks that very subkey."""
        return bool(re.fullmatch(r"(0x)?([0-9A-Fa-f]{16}|[0-9A-Fa-f]{40})!?", self.key))

    @property
    def uses_gpg(self) -> bool:
        """Whether gpg signs."""
        return self.backend == "gpg" or (self.backend == "auto" and self.is_fingerprint)

    def passphrase(self) -> str:
        """The key's passphrase, "" for none; raises SettingsError."""
        return _secret("PUBLISH_SIGNING_PASSPHRASE", self.passphrase_file, "signing.passphrase_file")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """``[[rules]]``: what holds for the products that ``match`` names; later rules add or override."""

    match: NonEmpty
    aliases: tuple[Alias, ...] = ()
    variant_aliases: tuple[Alias, ...] = ()
    requirements: Mapping[str, str] = msgspec.field(default_factory=dict)
    lxd_requirements: Mapping[str, str] = msgspec.field(default_factory=dict)
    lxc: bool | None = None
    lxc_min_level: Annotated[int, Meta(ge=1, le=9)] | None = None
    lxc_user_min_level: Annotated[int, Meta(ge=1, le=9)] | None = None
    clients: tuple[Literal["incus", "lxd"], ...] | None = None
    os: Title | None = None
    release_title: Title | None = None
    support_eol: Day | None = None


class Deltas(msgspec.Struct, frozen=True, kw_only=True):
    """``[deltas]``: what saves whoever has an earlier image from fetching the next one whole."""

    bases: Annotated[int, Meta(ge=0, le=9)] = 1
    max_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.7
    vm: bool = False


class List(msgspec.Struct, frozen=True, kw_only=True):
    """``[[list]]``: a list for some clients, which the web server hands to them instead of images.json.

    It holds what ``client`` may see of the products that ``match`` names, with its metadata alone.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^(?!images\Z|index\Z)[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z",
            description="made of letters, digits, '_' and '-', and neither 'images' nor 'index'",
        ),
    ]
    client: Literal["incus", "lxd"]
    match: tuple[NonEmpty, ...] = ("*",)
    agent: Agent | None = None  # whose User-Agent gets it; None is nobody, unless by its own URL


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """``[[upstream]]``: another image server, whose products are listed beside ours."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^(?!images\Z|index\Z)[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z",
            description="made of letters, digits, '_' and '-', and neither 'images' nor 'index'",
        ),
    ]
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~%:/+-]*)?\Z",
            description="an http:// or https:// URL without user",
        ),
    ]
    keyring: Path
    match: Annotated[tuple[NonEmpty, ...], Meta(min_length=1)] = ("*",)
    mode: Literal["overlay", "mirror"] = "overlay"
    kinds: Annotated[tuple[Literal["container", "vm"], ...], Meta(min_length=1)] = ("container", "vm")
    keep: Annotated[int, Meta(ge=0)] = 0  # newest versions of each product, 0 for all that it lists
    ca: Path | None = None

    @property
    def is_mirrored(self) -> bool:
        """Whether its files are brought here."""
        return self.mode == "mirror"


class Lxc(msgspec.Struct, frozen=True, kw_only=True):
    """``[lxc]``: the compat-level indexes written beside the bare one."""

    levels: tuple[Annotated[int, Meta(ge=1, le=9)], ...] = (1, 2, 3, 4)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """``[snapshot]``: a snapshot goes when both limits are passed."""

    backend: Literal["auto", "btrfs", "zfs", "cephfs", "hardlink"] = "auto"
    keep: Annotated[int, Meta(ge=1)] = 3
    keep_for: Span = Span(48 * 3600)


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """``[[mirror]]``: a destination that rsync understands, or a local path."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", description="made of letters, digits, '.', '_' and '-'"
        ),
    ]
    url: Annotated[str, Meta(pattern=r"^[^-]", description="a path or an rsync URL")]
    group: str = ""  # mirrors behind one host name share it
    match: Annotated[tuple[NonEmpty, ...], Meta(min_length=1)] = ("*",)
    keep: Annotated[int, Meta(ge=0)] = 0  # newest images of each product, 0 for all that are listed
    flip: bool = False  # its indexes are replaced by one symbolic link
    bandwidth: Annotated[
        str, Meta(pattern=r"^([0-9]+(\.[0-9]+)?[KMG]?)?\Z", description="bytes a second, like 20M")
    ] = ""
    timeout: Span = Span(5 * 60)  # without a byte, before rsync gives up
    retries: Annotated[int, Meta(ge=0, le=20)] = 2
    pause: Span = Span(10)  # before the first retry; before each further one it is doubled
    ssh: Annotated[str, Meta(pattern=r"^[^\x00-\x1f]*\Z", description="options of ssh in one line")] = ""
    password_file: Path | None = None  # of an rsync daemon's user
    probe: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~%:/+-]*)?)?\Z",
            description="an http:// or https:// URL without user",
        ),
    ] = ""  # where clients find it
    ca: Path | None = None  # of that

    @property
    def is_partial(self) -> bool:
        """Whether it gets some of the images only, and so indexes of its own."""
        return self.match != ("*",) or self.keep > 0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """``[page]``: the page for people; ``remote`` is what its lines call this server."""

    title: NonEmpty = "Images"
    # Not "images": Incus and LXD come with a remote of that name, and refuse to add another.
    remote: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", description="made of letters, digits, '.', '_' and '-'"
        ),
    ] = "imagepress"
    template: Path | None = None  # None is page.html, beside this


class Protocols(msgspec.Struct, frozen=True, kw_only=True):
    """``[protocols]``: what was spoken before simplestreams, as files beside the streams."""

    rest: bool = False
    header_import: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    site: Site
    signing: Signing
    jenkins: Jenkins | None = None
    rules: tuple[Rule, ...] = ()
    list: tuple[List, ...] = ()
    upstream: tuple[Upstream, ...] = ()
    deltas: Deltas = Deltas()
    lxc: Lxc = Lxc()
    page: Page = Page()
    protocols: Protocols = Protocols()
    snapshot: Snapshot = Snapshot()
    mirror: tuple[Mirror, ...] = ()


def is_remote(url: str) -> bool:
    """Whether rsync would take this for another host: ``rsync://``, ``host::module``, ``host:path``."""
    return ":" in url.split("/", 1)[0]


def _secret(variable: str, file: Path | None, key: str) -> str:
    """A secret from the environment, else from a file, else ""."""
    if found := os.environ.get(variable):
        return found
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError([f"{key}: {file} cannot be read: {error.strerror}"]) from error
