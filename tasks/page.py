"""The page for people: what the indexes list, and the lines that clients take (pure).

It is made of what the indexes say, after the proof: whatever is in quarantine, withdrawn, pinned or
hidden from a client is on the page as it is in the lists, and so are the products of upstreams, each
with where it comes from. How clients make names of aliases, and what they list, is in
lxc/incus:shared/simplestreams (simplestreams.go, products.go) and its LXD twin; what LXC asks for in
lxc/lxc:templates/lxc-download.in.

Every value is hostile: escaped as HTML, quoted as a word of the shell, and in links as a URL. The policy
in the page's head lets the browser run the one script and fetch nothing.
"""

import re
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from html import escape, unescape
from typing import NamedTuple
from urllib.parse import quote, unquote

from tasks.image import SUMS, Image, parse_delta
from tasks.proof import types
from tasks.settings import Page
from tasks.streams import Json
from tasks.words import counted

SERVER = "SERVER"  # in a line, where the script of the page puts its own address
CLIENTS = {"incus": "Incus", "lxd": "LXD"}
COMMANDS = {"incus": "incus", "lxd": "lxc"}
KINDS = {"container": "container", "virtual-machine": "VM"}
# What has to be set at launch, by kind; the servers of both refuse to start the instance without it.
LAUNCH = {
    "container": {("nesting", "true"): "security.nesting=true"},
    "virtual-machine": {("secureboot", "false"): "security.secureboot=false"},
}
# A disk without which Incus starts no such VM, and which cannot be added at launch; LXD 5.0 knows neither.
AGENT, DISK = ("cdrom_agent", "true"), ["agent", "disk", "source=agent:config"]
# What a template may say, and whether it has to.
PLACES = {"POLICY": True, "TITLE": True, "COUNT": False, "USE": True, "ROWS": True}
REQUIREMENTS = {"incus": "requirements", "lxd": "lxd_requirements"}


class Address(str):
    """A word of a line that holds the server's address."""

    __slots__ = ()

    @property
    def marked(self) -> str:
        """As HTML, with the address where the script of the page finds it."""
        return self.replace(SERVER, f"<b>{SERVER}</b>")


class Origin(NamedTuple):
    """Where a product of another server comes from, and what it calls it."""

    name: str  # of the upstream
    url: str
    parts: tuple[str, ...]  # os, release, arch and variant, which its keys are not made of
    also: tuple[str, ...]  # its version and title


class Offer(NamedTuple):
    """One product as the indexes list it."""

    key: str  # os:release:arch:variant
    aliases: tuple[str, ...]
    listed: frozenset[tuple[str, str]]  # clients, and types of image that they see
    kinds: Mapping[str, str]  # type of image -> its newest serial
    lxc: str  # the serial that LXC's index names, "" where it does not
    requirements: Mapping[str, Mapping[str, str]]  # of each client
    files: Mapping[str, Mapping[str, int]]  # serial -> file -> bytes, as far as the streams tell
    origin: Origin | None = None  # of what is not our own

    @property
    def parts(self) -> tuple[str, ...]:
        """Os, release, arch and variant."""
        return self.origin.parts if self.origin else tuple(self.key.split(":"))

    @property
    def names(self) -> list[str]:
        """Its aliases with the architecture, as clients register them too."""
        arch = self.parts[2]
        return [f"{alias}/{arch}" for alias in self.aliases]

    @property
    def serials(self) -> list[str]:
        """The newest of every kind, newest first."""
        return sorted({*self.kinds.values(), self.lxc} - {""}, reverse=True)

    @property
    def paths(self) -> dict[str, str]:
        """The directories of these images, by serial, relative to ``public``; none of what is not our own."""
        serials = [] if self.origin else self.serials
        return {serial: f"images/{self.key.replace(':', '/')}/{serial}" for serial in serials}


def offers(products: Mapping[str, Json], lines: Iterable[str]) -> list[Offer]:
    """What images.json and LXC's index list, by product; nothing that no client could take.

    Who is handed another list may see less of it.
    """
    fields = (line.split(";") for line in lines)
    lxc = {":".join(one[:4]): one[4] for one in fields}
    keys = sorted(products.keys() | lxc, key=lambda one: one.split(":"))
    found = (_offer(key, _object(products, key), lxc.get(key, "")) for key in keys)
    return [one for one in found if one.serials]


def followed(name: str, document: Mapping[str, Json]) -> list[Offer]:
    """What an upstream's file lists, by os, release, arch and variant."""
    found, url, products = [], str(document.get("upstream") or ""), _object(document, "products")
    for key in products:
        product = _object(products, key)
        os, release, version, arch, variant, title = (
            str(product.get(field) or "")
            for field in ("os", "release", "version", "arch", "variant", "release_title")
        )
        parts = (os or key, release or version, arch, variant or "default")
        offer = _offer(key, product, "")._replace(origin=Origin(name, url, parts, (version, title)))
        found += [offer] if offer.serials else []
    return sorted(found, key=lambda one: (one.parts, one.key))


def faults(template: str) -> list[str]:
    """What keeps a text from being a template, a line each."""
    found = dict.fromkeys(re.findall("@([A-Z]+)@", template))
    known = ", ".join(f"@{name}@" for name in PLACES)
    lines = [f"@{name}@ is none of {known}" for name in found if name not in PLACES]
    lines += [f"it lacks @{name}@" for name, needed in PLACES.items() if needed and name not in found]
    if "@TITLE@" in template and "<title>@TITLE@</title>" not in template:
        lines.append("it lacks <title>@TITLE@</title>")
    return lines


def page(template: str, settings: Page, listed: Iterable[Offer], images: Mapping[str, Image]) -> bytes:
    """The page; ``images`` are those of ``Offer.paths`` whose own record could be read."""
    listed = tuple(listed)
    names = Counter(name for one in listed for name in {*one.aliases, *one.names})
    seen = [client for client in CLIENTS if any(of == client for one in listed for of, _ in one.listed)]
    parts = {
        "POLICY": escape(_policy(template)),
        "TITLE": escape(settings.title),
        "COUNT": counted(len(listed), "product"),
        "USE": "\n".join(_line(f"Add to {CLIENTS[one]}", [_remote(one, settings.remote)]) for one in seen),
        "ROWS": "\n".join(_row(one, settings.remote, names, images) for one in listed),
    }
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], template).encode()


def links(html: bytes) -> Iterator[str]:
    """What the page links to in its own tree, by path; not where an upstream is."""
    for link in re.findall(rb'<a href="([^"]*)"', html):
        if not link.startswith((b"https://", b"http://")):
            yield unquote(unescape(link.decode(errors="replace")))


def settings(html: bytes) -> Page:
    """What a page was told beside the indexes, as far as it says so."""
    text = html.decode(errors="replace")
    title = re.search("<title>([^<]*)</title>", text)
    remote = re.search(" remote add ([A-Za-z0-9._-]+) ", text)
    return Page(title=unescape(title[1]) if title else "", remote=remote[1] if remote else "")


def _offer(key: str, product: Mapping[str, Json], lxc: str) -> Offer:
    listed: set[tuple[str, str]] = set()
    kinds: dict[str, str] = {}
    files: dict[str, dict[str, int]] = {}
    versions = _object(product, "versions")
    for serial in sorted(versions, reverse=True):
        items = _object(_object(versions, serial), "items")
        one = {name: _object(items, name) for name in items}
        seen = {(client, type_) for client in CLIENTS for type_ in types(one, client)}
        listed |= seen
        kinds = {type_: serial for _, type_ in seen} | kinds
        if serial in {*kinds.values(), lxc}:
            sizes = ((str(item.get("path")).rpartition("/")[2], item.get("size")) for item in one.values())
            files[serial] = {name: size for name, size in sizes if isinstance(size, int)}
        if len(listed) == len(CLIENTS) * len(KINDS) and serial <= (lxc or serial):
            break  # older ones have nothing to add
    return Offer(
        key=key,
        aliases=tuple(filter(None, str(product.get("aliases") or "").split(","))),
        listed=frozenset(listed),
        kinds=kinds,
        lxc=lxc,
        requirements={
            client: {name: str(value) for name, value in sorted(_object(product, field).items())}
            for client, field in REQUIREMENTS.items()
        },
        files=files,
    )


def _object(of: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _policy(template: str) -> str:
    """Nothing may be fetched, and no script or style is good but those of the template."""
    allowed = ""
    for of in ("style", "script"):
        found = re.findall(f"<{of}>(.*?)</{of}>", template, re.DOTALL)
        marks = (f" 'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in found)
        allowed += f"; {of}-src{''.join(marks)}" if found else ""
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'{allowed}"


def _remote(client: str, remote: str) -> list[str]:
    return [
        COMMANDS[client],
        "remote",
        "add",
        remote,
        Address(f"https://{SERVER}"),
        "--protocol=simplestreams",
    ]


def _launch(offer: Offer, remote: str, names: Mapping[str, int]) -> Iterator[tuple[str, list[list[str]]]]:
    """A title and the commands, in words, of every line that makes an instance of this product."""
    os, release, arch, variant = offer.parts
    alias = next((name for name in offer.names if names[name] == 1), "")  # what leads nowhere else
    for client, command in COMMANDS.items() if alias else ():
        for type_, kind in KINDS.items():
            if (client, type_) in offer.listed:
                needs = offer.requirements[client].items()
                vm = ["--vm"] * (type_ == "virtual-machine")
                settings = [
                    word for one in needs if one in LAUNCH[type_] for word in ("-c", LAUNCH[type_][one])
                ]
                image = f"{remote}:{alias}"
                lines = [[command, "launch", image, *vm, *settings]]
                if vm and AGENT in needs and client == "incus":
                    lines = [
                        [command, "init", image, "NAME", *vm, *settings],
                        [command, "config", "device", "add", "NAME", *DISK],
                        [command, "start", "NAME"],
                    ]
                yield f"{CLIENTS[client]} {kind}", lines
    if offer.lxc:
        words = ["lxc-create", "-n", "NAME", "-t", "download", "--", "--server", Address(SERVER)]
        yield "LXC", [[*words, "-d", os, "-r", release, "-a", arch, "--variant", variant]]


@lru_cache(maxsize=4096)
def _word(word: str) -> str:
    """A word of the shell, not to be broken after the dashes of an option."""
    shown = escape(shlex.quote(word))
    return f"<i>{shown}</i>" if word.startswith("-") else shown


def _line(title: str, commands: Iterable[Iterable[str]]) -> str:
    """A line to copy; the server's address is marked where it stands."""
    said = escape(" && ").join(
        " ".join(word.marked if isinstance(word, Address) else _word(word) for word in words)
        for words in commands
    )
    return f'<div class="line"><span>{escape(title)}</span><code>{said}</code></div>'


def _row(offer: Offer, remote: str, names: Mapping[str, int], images: Mapping[str, Image]) -> str:
    os, release, arch, variant = (escape(part) for part in offer.parts)
    newest = offer.serials[0]
    kinds = {KINDS[type_]: offer.kinds[type_] for type_ in KINDS if type_ in offer.kinds}
    kinds |= {"LXC": offer.lxc} if offer.lxc else {}
    told = [kind if serial == newest else f"{kind} ({_day(serial)})" for kind, serial in kinds.items()]
    files = {serial: _files(offer, serial, images) for serial in offer.serials}
    also = (offer.origin.name, offer.key, *offer.origin.also) if offer.origin else ()
    words = " ".join(["/".join(offer.parts), *offer.aliases, *kinds, *also]).lower()
    lines = "\n".join(_line(title, line) for title, line in _launch(offer, remote, names))
    aliases = ", ".join(f"<code>{escape(alias)}</code>" for alias in offer.aliases)
    return f"""<tbody data-words="{escape(words)}">
<tr><th scope="row"><button type="button" class="open" aria-expanded="false">\
<span>{os}/<wbr>{release}</span></button>{_from(offer.origin)}</th>\
<td>{variant}</td><td>{arch}</td>\
<td class="keep"><time datetime="{_moment(newest)}">{_moment(newest, " ", "")}</time></td>\
<td class="keep"></td>\
<td class="words">{", ".join(map(escape, told))}</td><td class="keep">{_size(_whole(files[newest]))}</td>\
<td>{_requires(offer)}</td></tr>
<tr><td colspan="8"><div class="lines">
{lines}
</div>{f'<span class="quiet">Also called</span> {aliases}' if aliases else ""}
{_source(offer)}{"".join(_links(path, files[serial]) for serial, path in offer.paths.items())}</td></tr>
</tbody>"""


def _from(origin: Origin | None) -> str:
    return f'<small class="quiet">from {escape(origin.name)}</small>' if origin else ""


def _source(offer: Offer) -> str:
    """Where a product comes from that is not our own."""
    if not offer.origin:
        return ""
    name, url = escape(offer.origin.name), escape(offer.origin.url)
    of = f'<a href="{url}" rel="external">{name}</a>' if url.startswith(("https://", "http://")) else name
    key = escape(offer.key)
    return f'<p class="quiet">From {of}, where it is called <code>{key}</code>.</p>'


def _files(offer: Offer, serial: str, images: Mapping[str, Image]) -> Mapping[str, int]:
    if image := images.get(offer.paths.get(serial, "")):
        return {name: file.size for name, file in sorted(image.files.items())}
    return offer.files.get(serial, {})


def _whole(files: Mapping[str, int]) -> int:
    """Bytes of an image; deltas are in place of it."""
    return sum(size for name, size in files.items() if not parse_delta(name))


def _links(path: str, files: Mapping[str, int]) -> str:
    """The files of an image, each with its signature."""
    at = quote(path, safe="/:~+")
    rows = []
    for name, size in [*((name, f" {_size(size)}") for name, size in files.items()), (SUMS, "")]:
        link, shown = _file(name)
        rows.append(f'<li><a href="{at}/{link}">{shown}</a>{size} <a href="{at}/{link}.asc">.asc</a></li>')
    return f'<ul class="files">{"".join(rows)}</ul>'


@lru_cache(maxsize=4096)
def _file(name: str) -> tuple[str, str]:
    """A file's name as part of a link, and as text."""
    return quote(name, safe=":~+"), escape(name)


def _requires(offer: Offer) -> str:
    """What Incus needs to know, and where LXD needs to know otherwise."""
    common, lxd = offer.requirements["incus"], offer.requirements["lxd"]
    clients = {client for client, _ in offer.listed}
    told = [f"{name}={value}" for name, value in common.items()] if "incus" in clients else []
    if "lxd" in clients:
        own = (f"{name}={value}" for name, value in lxd.items())
        told += [one if "incus" not in clients else f"{one} (LXD)" for one in own if one not in told]
    return escape(", ".join(told))


def _moment(serial: str, between: str = "T", zone: str = "Z") -> str:
    """``YYYYMMDD_HH:MM`` as browsers and people read it; of another server's serial the day."""
    clock = re.fullmatch("_([0-9]{2}:[0-9]{2})", serial[8:])
    return escape(_day(serial) + (f"{between}{clock[1]}{zone}" if clock else ""))


def _day(serial: str) -> str:
    return f"{serial[:4]}-{serial[4:6]}-{serial[6:8]}"


def _size(size: float) -> str:
    """Bytes for people, in powers of ten as on packages and plans."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:  # noqa: PLR2004 - else three digits would say 1e+03
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
