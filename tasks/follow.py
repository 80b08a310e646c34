"""Follow other image servers: ask what is new, check its signature, and keep it ready (acts).

Each upstream has two files in the state directory: what was last asked and said, and its products as they
may stand beside ours; of one that is mirrored they are what ``haul`` chooses from. The second changes only
when the upstream did, or what the configuration says of it, and what is in it came with a good signature.
What fails leaves it as it is.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from tasks import files, overlay, stock, streams
from tasks.errors import PublishError, SettingsError, TreeError, UpstreamError
from tasks.layout import Layout
from tasks.proof import prove_streams
from tasks.schema import Fault, objects, parsed
from tasks.settings import Share, Upstream
from tasks.sign import signed_by
from tasks.state import Document, Followed, load, save
from tasks.web import Web
from tasks.words import counted, escaped

INDEX = "streams/v1/index"
SHORT = 100  # characters of a date that somebody else writes
SHOWN = 10  # products named before the rest is only counted


def follow(
    layout: Layout,
    upstreams: Collection[Upstream],
    shrink: Share,
    say: Callable[[str], object] = lambda _line: None,
) -> list[str]:
    """Ask every upstream; a line of each, and one for ``say`` where an answer is waited for.

    ``shrink`` is how much of its products one may lose at once. Raises SettingsError before it asks any,
    should a file that the configuration names not be there.
    """
    if faults := [fault for one in upstreams for fault in _unreadable(one)]:
        raise SettingsError(faults)
    return [_follow(layout, one, shrink, say) for one in upstreams]


def _unreadable(of: Upstream) -> Iterator[str]:
    for name, path in {"keyring": of.keyring, "ca": of.ca}.items():
        try:
            if path:
                path.open("rb").close()
        except OSError as error:
            yield f"upstream.{name}: of {of.name}: cannot read {path}: {error.strerror}"


def _follow(layout: Layout, of: Upstream, shrink: Share, say: Callable[[str], object]) -> str:
    place = layout.followed(of.name)
    data = layout.offered(of.name) if of.is_mirrored else layout.overlay(of.name)
    known = _known(place)
    try:
        with files.disk("read"):
            told = overlay.rules(of, of.keyring.read_bytes())
        same = known.rules == told and data.exists()
        asked = _Upstream(of, known if same else Followed(), place, say)
        found = asked.products()
        if found and same:
            _refuse_shrink(load(data, dict) or {}, found[0], shrink)
    except (PublishError, ValueError, RecursionError) as error:
        why = escaped(" ".join(str(error).split()))
        save(place, msgspec.structs.replace(known, failed=why))
        return f"{of.name}: failed: {why}; what is there stays"
    if found is None:
        documents = {**known.documents, **asked.documents}
        save(place, msgspec.structs.replace(known, failed="", marks=asked.marks, documents=documents))
        return f"{of.name}: nothing new"
    products, left = found
    if not of.is_mirrored:
        products = stock.newest(products, of.keep)
    changed = files.write_changed(data, streams.text(products))
    notes = (*asked.idle, *overlay.said(left))
    save(place, Followed(url=of.url, rules=told, marks=asked.marks, notes=notes, documents=asked.documents))
    return f"{of.name}: {overlay.summary(products)}" + ("" if changed else ", no byte changed")


def _refuse_shrink(before: Collection[str], after: Collection[str], limit: Share) -> None:
    """Raise UpstreamError when an upstream suddenly has much less: it may be its fault."""
    lost = sorted(key for key in before if key not in after)
    if len(lost) * 100 > len(before) * limit.percent:
        named = ", ".join(lost[:SHOWN]) + (", …" if len(lost) > SHOWN else "")
        raise UpstreamError(
            f"{len(lost)} of {counted(len(before), 'product')} would vanish ({named}),"
            " more than site.max_shrink allows; if that is meant: doit publish --allow-shrink"
        )


def _known(place: Path) -> Followed:
    """What was asked before; where that is damaged all is asked again, as if it were new."""
    try:
        return load(place, Followed) or Followed()
    except TreeError:
        return Followed()


class _Upstream:
    """One server, asked once."""

    def __init__(self, of: Upstream, known: Followed, record: Path, say: Callable[[str], object]) -> None:
        self._of, self._before, self._known = of, known.marks, known
        self._record = record  # what an operator removes to have all of it forgotten
        self._web = Web(of.url, str(of.ca or ""), say)
        self.marks: dict[str, str] = {}  # file without suffix -> its ETag, and its digest
        self.documents: dict[str, Document] = {}  # those that were read: with anything new, all of them
        self.idle: list[str] = []  # what the configuration asks of it in vain

    def products(self) -> tuple[overlay.Products, list[overlay.Left]] | None:
        """What may stand beside ours of it, None when nothing is new."""
        index = self._signed(INDEX)
        known = {one for one in self._before if one != INDEX}
        named = {} if index is None else self._places(index)
        texts = {place: self._signed(place) for place in named or known}
        if texts.keys() == known and all(text is None for text in texts.values()):
            return None
        named = named or self._places(self._signed(INDEX, again=True) or b"")
        self.marks = {place: mark for place, mark in self.marks.items() if place in (INDEX, *named)}
        texts = {place: texts.get(place) or self._signed(place, again=True) for place in named}
        documents = [self._document(place, text or b"") for place, text in texts.items()]
        for place, document in zip(texts, documents, strict=True):
            if why := overlay.misplaced(document, named[place]):
                raise UpstreamError(
                    f"{self.documents[place].url}: {why}: it is not the file that was asked for"
                )
        of = self._of
        found, left = overlay.overlaid(documents, of.name, of.match, of.kinds, here=of.is_mirrored)
        found, more = overlay.Taken({}).spare(found)
        self._prove(found)
        for place, document in zip(texts, documents, strict=True):
            of_it = tuple(sorted(key for key, _ in objects(document, "products") if key in found))
            self._note(place, products=of_it)
        self.idle = overlay.idle(documents, self._of.match)
        return found, left + more

    def _places(self, index: bytes) -> dict[str, set[str]]:
        try:
            return overlay.places(self._document(INDEX, index))
        except ValueError as error:
            raise UpstreamError(f"{self.documents[INDEX].url}: {error}") from None

    def _note(self, place: str, **told: object) -> None:
        self.documents[place] = msgspec.structs.replace(self.documents[place], **told)

    def _signed(self, place: str, *, again: bool = False) -> bytes | None:
        """What a good signature covers of a file, None when it is what it was; raises UpstreamError."""
        known = "" if again else self._before.get(place, "")
        etag, _, digest = known.rpartition(" ")
        signed, signature = f"{place}.sjson", b""
        answer = self._web.get(signed, etag)
        if answer == (None, ""):
            signed = f"{place}.json"
            answer = self._web.get(signed, etag)
            if answer == (None, ""):
                raise UpstreamError(f"{self._of.url}/{place}.sjson and {signed}: neither is there")
        if answer.body is None or files.digest(answer.body) == digest:
            self.marks[place] = f"{answer.mark} {digest}"
            return None
        if signed.endswith(".json"):
            signature = self._web.get(f"{signed}.gpg").body or b""
            if not signature:
                raise UpstreamError(f"{self._of.url}/{signed} is not signed: there is no .sjson and no .gpg")
        try:
            text, key = signed_by(answer.body, signature, self._of.keyring)
        except ValueError as error:
            raise UpstreamError(f"{self._of.url}/{signed}: {error}") from None
        self.marks[place] = f"{answer.mark} {(digest := files.digest(answer.body))}"
        url = f"{self._of.url.rstrip('/')}/{signed}"
        self.documents[place] = Document(url=url, etag=answer.mark, sha256=digest, key=key)
        return text

    def _document(self, place: str, text: bytes) -> Mapping[str, object]:
        document = parsed(text, place)
        if isinstance(document, Fault):
            raise UpstreamError(f"{self._of.url}: {document}")
        updated = str(document.get("updated", ""))[:SHORT]
        self._note(place, updated=updated if updated.isprintable() else ascii(updated))
        before = self._known.documents[place].updated if place in self._known.documents else ""
        if 0 < stock.made(updated) < stock.made(before):
            raise UpstreamError(
                f"{self._of.url}/{place}: is of {updated!r}, and that of {before!r} was there before:"
                f" somebody serves an old one again; if that is meant: rm {self._record}"
            )
        return document

    def _prove(self, products: overlay.Products) -> None:
        """Raise UpstreamError for what a client could not read: nothing of ours may suffer."""
        index = streams.text(streams.index_json(products))
        document = streams.text({"products": products})
        sizes = streams.sizes(products)
        read = {"streams/v1/index.json": index, "streams/v1/images.json": document}.get
        for client in ("incus", "lxd"):
            for fault in prove_streams(read, sizes.get, client):
                raise UpstreamError(f"{self._of.url}: {fault}")
