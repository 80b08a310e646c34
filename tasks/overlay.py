"""Another server's products as they may stand beside ours (pure: documents in, documents out).

Nothing that the proof would refuse may come in: an upstream's fault must not keep our own images from
anybody. So a product is made anew of what Incus and LXD know (``schema``), and what cannot be listed is
left out and counted. The files stay at the upstream: paths lead to where the web server redirects.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, NamedTuple

from tasks.image import canonical_arch
from tasks.schema import (
    HEX,
    ITEM_TEXTS,
    METADATA,
    PRODUCT_TEXTS,
    REQUIREMENTS,
    ROOTS,
    TYPES,
    UNIFIED,
    VERSION_TEXTS,
    is_dated,
    is_day,
    objects,
)
from tasks.settings import Upstream
from tasks.streams import Json
from tasks.twin import FORMAT, TWINS
from tasks.words import counted, escaped

EDITION = 1  # of what is made here of an upstream; with another one all is asked for and made anew
INDEX_FORMAT = "index:1.0"
TOP = "upstream"  # the first part of the paths of all that lies elsewhere
DATATYPE = "image-downloads"
LONGEST = 2000  # characters of any text: a clear-signed line may have 19,993 bytes
KINDS = {"container": TYPES[0], "vm": TYPES[1]}  # as a configuration calls them
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~@:,=-]{0,199}")  # of a path that needs no escapes in a URL
_KNOWN = {*METADATA.values(), *ROOTS, *UNIFIED.values()}  # no deltas: their bases may be left out
Products = dict[str, Json]
Item = dict[str, Json]


class Left(NamedTuple):
    """What was left out, and why."""

    why: str
    what: str


def said(left: Iterable[Left]) -> list[str]:
    """A line for each reason, with how many there were and the first of them, in printable characters."""
    found: dict[str, list[str]] = {}
    for why, what in left:
        found.setdefault(why, []).append(what)
    return [
        escaped(f"left out: {what[0]}" + (f" and {len(what) - 1} more" if len(what) > 1 else "") + f": {why}")
        for why, what in found.items()
    ]


def rules(of: Upstream, keyring: bytes, edition: int = EDITION) -> str:
    """A digest of all that says what becomes of what an upstream lists: other rules, made again."""
    return sha256(f"{edition} {of!r}".encode() + keyring).hexdigest()


def places(index: Mapping[str, object]) -> dict[str, set[str]]:
    """The products files that an index names for images, without their suffix, and what it calls each.

    Raises ValueError, also for what is signed and no index: another file may have been put in its place.
    """
    if (said := index.get("format", INDEX_FORMAT)) != INDEX_FORMAT:
        raise ValueError(f"its format is {str(said)[:50]!r}, not {INDEX_FORMAT!r}")
    found: dict[str, set[str]] = {}
    for name, entry in objects(index, "index"):
        if entry.get("datatype") == DATATYPE and entry.get("format", FORMAT) == FORMAT:
            path = entry.get("path")
            if not isinstance(path, str) or not _is_plain(path):
                raise ValueError(f"the path of {name!r} is {path!r}")
            found.setdefault(path.removesuffix(".sjson").removesuffix(".json"), set()).add(name)
    if not found:
        raise ValueError("it names no images")
    return found


def misplaced(document: Mapping[str, object], names: Collection[str]) -> str:
    """Why a document is not the products file that an index calls so, "" when it may be.

    Whoever stands between may put another file that its owner signed in its place.
    """
    wanted = {"format": {FORMAT}, "datatype": {DATATYPE}, "content_id": {*names}}
    for field, values in wanted.items():
        if field in document and document[field] not in values:
            return f"its {field} is {str(document[field])[:100]!r}, not {' or '.join(sorted(values))}"
    return "" if isinstance(document.get("products"), dict) else "it has no products"


def idle(documents: Iterable[Mapping[str, object]], match: Iterable[str]) -> list[str]:
    """A line for each pattern that fits no product."""
    products = [product for document in documents for _, product in objects(document, "products")]
    return [
        f"upstream.match: {pattern!r} fits no product of it"
        for pattern in match
        if not any(matches(one, [pattern]) for one in products)
    ]


def overlaid(
    documents: Iterable[Mapping[str, object]],
    name: str,
    match: Collection[str],
    kinds: Collection[str] = tuple(KINDS),
    *,
    here: bool = False,
) -> tuple[Products, list[Left]]:
    """The products that match, with their twins and with paths of ours; of one key the first counts.

    With ``here`` their files are to lie in our own tree.
    """
    made: Products = {}
    reader = _Reader(name, {KINDS[kind] for kind in kinds}, here=here)
    for document in documents:
        for key, product in objects(document, "products"):
            if not matches(product, match):
                continue
            if why := "its key is there twice" if key in made else _unusable(key, product):
                reader.leave(why, key)
            elif versions := reader.versions(key, product):
                made[key] = reader.product(key, product, versions)
            elif {*kinds} == {*KINDS}:  # else it may be of the other kind
                reader.leave("no client lists any image of it", key)
    return made, reader.left


def matches(product: Mapping[str, object], match: Collection[str]) -> bool:
    """Whether one of the patterns os/release/arch/variant fits; a release is called by its version too."""
    texts = {field: str(product.get(field) or "") for field in PRODUCT_TEXTS}
    parts = [
        {texts["os"], texts["os"].lower()},
        {texts["release"], texts["version"]},
        {texts["arch"]},
        {texts["variant"] or "default"},
    ]
    return any(
        all(
            any(fnmatchcase(one, glob) for one in names)
            for names, glob in zip(parts, pattern.split("/"), strict=False)
        )
        for pattern in match
    )


def _unusable(key: str, product: Mapping[str, object]) -> str:
    """Why nothing of a product can be listed, "" when something may."""
    if not _is_short(key) or not key:
        return "its key is no short, printable text"
    if canonical_arch(str(product.get("arch"))) is None:
        return f"no client knows the architecture {str(product.get('arch'))[:50]!r}"
    for field in REQUIREMENTS:
        value = product.get(field, {})
        if not isinstance(value, dict) or not all(_is_short(one) for pair in value.items() for one in pair):
            return f"its {field} are no texts"
    return ""


class _Reader:
    """Reads one upstream, and remembers which fingerprints it saw and what it left out."""

    def __init__(self, name: str, types: Collection[str], *, here: bool) -> None:
        self._name, self._types, self._here = name, types, here
        self._marks = set[tuple[str, str]]()
        self._files = dict[Json, tuple[Json, Json]]()  # path -> what is said of it
        self.left: list[Left] = []

    def leave(self, why: str, what: str) -> None:
        self.left.append(Left(why, what[:LONGEST]))

    def product(self, key: str, product: Mapping[str, object], versions: Products) -> Products:
        """What of a product is not its versions, and these."""
        names = [one.strip() for one in str(product.get("aliases") or "").split(",")]
        kept = ",".join(dict.fromkeys(one for one in names if one.isprintable() and one))
        texts = {**product, "aliases": kept}
        bad = [f"the alias {one!r}" for one in names if not one.isprintable()]
        bad += [of for of in PRODUCT_TEXTS if isinstance(text := texts.get(of), str) and not _is_short(text)]
        for what in bad:
            self.leave("it is no short, printable text", f"{what} of {key}")
        made = {"aliases": "", **_texts(texts, PRODUCT_TEXTS)}
        made |= {field: value for field in REQUIREMENTS if isinstance(value := product.get(field), dict)}
        if not is_day(str(made.get("support_eol"))):
            made.pop("support_eol", None)
        return {**made, "versions": versions}

    def versions(self, key: str, product: Mapping[str, object]) -> Products:
        made: Products = {}
        for serial, version in objects(product, "versions"):
            where = f"{key} {serial}"
            if not is_dated(serial[:8]) or not _is_short(serial):
                self.leave("its version is no short, printable text that begins with a date", where)
            elif items := self._items(where, version):
                texts = _texts(version, VERSION_TEXTS)
                made[serial] = {"items": items, **texts}
        return made

    def _items(self, where: str, version: Mapping[str, object]) -> Products:
        """The items of a version that clients list, none when they list nothing of it."""
        good: dict[str, Item] = {}
        for label, item in objects(version, "items"):
            if str(item.get("ftype")) not in _KNOWN or not self._is_of_kind(item):
                continue  # manifests and whatever else there is for others
            made = _item(item, self._name)
            if not _is_short(label):
                self.leave("its name is no short, printable text", f"{where} {label}")
            elif made is None:
                self.leave("its path, size or sha256 is none", f"{where} {label}")
            elif self._here and not all(map(_PART.fullmatch, str(item["path"]).split("/"))):
                self.leave("its path has other characters than files here have", f"{where} {label}")
            elif self._files.setdefault(made["path"], file := (made["size"], made["sha256"])) != file:
                self.leave("its path is there with another size or sha256", f"{where} {label}")
            else:
                good[label] = made
        metadata: dict[str, Item] = {}  # ftype -> item
        for item in good.values():
            if item["ftype"] in TWINS:
                metadata.setdefault(str(item["ftype"]), item)
        for ftype, item in list(metadata.items()):
            metadata.setdefault(TWINS[ftype], {**item, "ftype": TWINS[ftype]})
        listed: Products = {
            label: item for label, item in good.items() if self._is_listed(f"{where} {label}", item, metadata)
        }
        return (
            {**listed, **{_free(ftype, listed): item for ftype, item in metadata.items()}} if listed else {}
        )

    def _is_of_kind(self, item: Mapping[str, object]) -> bool:
        ftype = str(item.get("ftype"))
        if ftype in UNIFIED.values():
            of = item.get("combined_type", TYPES[0])
            return of in self._types or of not in TYPES  # the second is to be named
        return ftype not in ROOTS or ROOTS[ftype][0] in self._types

    def _is_listed(self, where: str, item: Item, metadata: Mapping[str, Item]) -> bool:
        """Whether each client makes an image of a root or unified item; without metadata not worth a word."""
        found = list(_fingerprints(item, metadata))
        if not all(HEX.fullmatch(mark) for _, mark in found):
            self.leave("it has no combined hash", where)
            return False
        if self._marks.intersection(found):
            self.leave("its fingerprint is there twice", where)
            return False
        self._marks |= {*found}
        return bool(found)


def _texts(of: Mapping[str, object], names: Iterable[str]) -> Products:
    return {name: text for name in names if isinstance(text := of.get(name), str) and _is_short(text)}


def _free(ftype: str, names: Collection[str]) -> str:
    while ftype in names:
        ftype += ".twin"
    return ftype


def _fingerprints(item: Item, metadata: Mapping[str, Item]) -> Iterator[tuple[str, str]]:
    """What each client calls the image of a root or unified item, none of any other."""
    ftype = str(item["ftype"])
    for client, own in METADATA.items():
        if ftype == UNIFIED[client]:
            yield client, str(item["sha256"])
        elif ftype in ROOTS and metadata:
            of = metadata[own]
            yield client, str(next((of[key] for key in ROOTS[ftype][1] if key in of), ""))


def _item(item: Mapping[str, object], name: str) -> Item | None:
    path, size, digest = item.get("path"), item.get("size"), item.get("sha256")
    if not isinstance(path, str) or not _is_plain(path):
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        return None
    if not isinstance(digest, str) or not HEX.fullmatch(digest):
        return None
    if item.get("combined_type", TYPES[0]) not in TYPES:
        return None
    texts = _texts(item, ITEM_TEXTS)
    texts.pop("delta_base", None)
    return {
        "ftype": str(item["ftype"]),
        "path": f"{TOP}/{name}/{path}",
        "sha256": digest,
        "size": size,
        **texts,
    }


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return path.isprintable() and len(path) < LONGEST and not {"", ".", ".."} & {*parts}


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) < LONGEST and value.isprintable()


class Taken:
    """What clients would find already: keys, names and fingerprints."""

    def __init__(self, products: Mapping[str, object]) -> None:
        self._keys = set[str]()
        self._names = dict[tuple[str, str], str]()
        self._marks = dict[str, str]()
        for key, product in objects({"": products}, ""):
            self._take(key, product)

    def _take(self, key: str, product: Mapping[str, object]) -> None:
        self._keys.add(key)
        for name in _names(product):
            self._names.setdefault(name, key)
        for _, version in objects(product, "versions"):
            self._marks |= dict.fromkeys(_marks(version), key)

    def spare(self, products: Mapping[str, object]) -> tuple[Products, list[Left]]:
        """These without what others have, which then is taken too: whoever came first keeps his names."""
        made: dict[str, Any] = {}  # parts of what is Json already
        left: list[Left] = []
        for key, product in objects({"": products}, ""):
            if key in self._keys:
                left.append(Left("another product has its key", key))
                continue
            versions: dict[str, object] = {}
            for serial, version in objects(product, "versions"):
                if owner := next((self._marks[one] for one in _marks(version) if one in self._marks), ""):
                    left.append(Left(f"it repeats a fingerprint of {owner}", f"{key} {serial}"))
                else:
                    versions[serial] = version
            kept = []
            for alias in filter(None, str(product.get("aliases", "")).split(",")):
                names = _names({"arch": product.get("arch"), "aliases": alias})
                if owner := next((self._names[one] for one in names if one in self._names), ""):
                    left.append(Left(f"{owner} has it", f"the alias {alias!r} of {key}"))
                else:
                    kept.append(alias)
            if versions:
                made[key] = {**product, "aliases": ",".join(kept), "versions": versions}
                self._take(key, made[key])
        return made, left


def _names(product: Mapping[str, object]) -> list[tuple[str, str]]:
    """The names of a product with its architecture; clients add ``name/arch`` themselves."""
    arch = str(product.get("arch"))
    of = canonical_arch(arch) or arch
    names = filter(None, str(product.get("aliases") or "").split(","))
    return [(of, one) for name in names for one in (name, f"{name}/{arch}")]


def _marks(version: Mapping[str, object]) -> set[str]:
    """All fingerprints that a client may give to what is in a version."""
    found = set()
    for _, item in objects(version, "items"):
        names = [name for name in item if name.startswith("combined_") and name.endswith("sha256")]
        names += ["sha256"] if item.get("ftype") in UNIFIED.values() else []
        found |= {str(item[name]) for name in names}
    return found


def summary(products: Mapping[str, object]) -> str:
    """How much of it there is."""
    versions = sum(len(dict(objects(one, "versions"))) for _, one in objects({"": products}, ""))
    return f"{counted(len(products), 'product')}, {counted(versions, 'version')}"
