"""Follow other image servers: ask what is new, check its signature, and keep it ready (acts).

Each upstream has two files in the state directory: what was last asked and said, and its products as they
may stand beside ours. The second changes only when the upstream did, or what the configuration says of it,
and what is in it came with a good signature. What fails leaves it as it is.
"""

from collections.abc import Iterable, Mapping

import msgspec

from tasks import files, overlay, streams
from tasks.errors import PublishError, UpstreamError
from tasks.layout import Layout
from tasks.proof import prove_streams
from tasks.schema import Fault, objects, parsed
from tasks.settings import Upstream
from tasks.sign import signed_by
from tasks.state import Document, Followed, load, save
from tasks.web import Web

INDEX = "streams/v1/index"
SHORT = 100  # characters of a date that somebody else writes


def follow(layout: Layout, upstreams: Iterable[Upstream]) -> list[str]:
    """Ask every upstream; a line of each."""
    return [_follow(layout, one) for one in upstreams]


def _follow(layout: Layout, of: Upstream) -> str:
    place, data = layout.followed(of.name), layout.overlay(of.name)
    known = load(place, Followed) or Followed()
    try:
        with files.disk("read"):
            rules = files.digest(repr(of).encode() + of.keyring.read_bytes())
        asked = _Upstream(of, known.marks if known.rules == rules and data.exists() else {})
        found = asked.products()
    except (PublishError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        save(place, msgspec.structs.replace(known, failed=why))
        return f"{of.name}: failed: {why}; what is there stays"
    if found is None:
        documents = {**known.documents, **asked.documents}
        save(place, msgspec.structs.replace(known, failed="", marks=asked.marks, documents=documents))
        return f"{of.name}: nothing new"
    products, left = found
    changed = files.write_changed(data, streams.text(products))
    notes, documents = tuple(overlay.said(left)), {**known.documents, **asked.documents}
    documents = {where: document for where, document in documents.items() if where in asked.marks}
    save(place, Followed(url=of.url, rules=rules, marks=asked.marks, notes=notes, documents=documents))
    return f"{of.name}: {overlay.summary(products)}" + ("" if changed else ", no byte changed")


class _Upstream:
    """One server, asked once."""

    def __init__(self, of: Upstream, before: Mapping[str, str]) -> None:
        self._of, self._before = of, before
        self._web = Web(of.url, str(of.ca or ""))
        self.marks: dict[str, str] = {}  # file without suffix -> its ETag, and its digest
        self.documents: dict[str, Document] = {}  # those that are new

    def products(self) -> tuple[overlay.Products, list[overlay.Left]] | None:
        """What may stand beside ours of it, None when nothing is new."""
        index = self._signed(INDEX)
        known = [one for one in self._before if one != INDEX]
        places = known if index is None else overlay.places(self._document(INDEX, index))
        texts = {place: self._signed(place) for place in places}
        if {*places} == {*known} and all(text is None for text in texts.values()):
            return None
        for place in [place for place, text in texts.items() if text is None]:
            texts[place] = self._signed(place, again=True)
        documents = [self._document(place, text or b"") for place, text in texts.items()]
        found, left = overlay.overlaid(documents, self._of.name, self._of.match)
        found, more = overlay.Taken({}).spare(found)
        self._prove(found)
        for place, document in zip(texts, documents, strict=True):
            of_it = tuple(sorted(key for key, _ in objects(document, "products") if key in found))
            self._note(place, products=of_it)
        return found, left + more

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
