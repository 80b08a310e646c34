"""A products file with the metadata items that one of the two daemons lacks (pure: text in, text out).

Incus takes metadata of the ftype ``incus.tar.xz`` alone and LXD that of ``lxd.tar.xz`` alone
(lxc/incus:shared/simplestreams/products.go and its LXD twin), while the files may be the same. All other
bytes stay: the text is walked down to the items and parts of it are put in again, and no document made.
"""

import json
import re
from collections.abc import Iterator

TWINS = {"incus.tar.xz": "lxd.tar.xz", "lxd.tar.xz": "incus.tar.xz"}
FORMAT = "products:1.0"
SECOND = 2
_OTHER = {  # how what people have at hand begins
    b"\x1f\x8b": "it is packed; zcat FILE | doit twin",
    b"\xef\xbb\xbf": "it begins with a byte order mark, which no JSON has",
    b"-----BEGIN PGP": "it is signed, and would not be any more; gpg --decrypt FILE | doit twin",
}
_BLANK = re.compile(r"[ \t\n\r]*")


def twinned(text: str) -> tuple[str, int]:
    """The text with its twins, and how many were put in; raises ValueError for what is no products file.

    A twin stands behind the item that it repeats: the same members in the same layout, under another name
    and with another ftype.
    """
    try:
        return _Walk(text).twinned()
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def decoded(data: bytes) -> str:
    """The text of a file; raises ValueError for what is no JSON from its first bytes on."""
    for begin, what in _OTHER.items():
        if data.startswith(begin):
            raise ValueError(what)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


class _Walk:
    """A place in a text that only goes forward."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._written = 0  # of the text, in what follows
        self._parts: list[str] = []
        self._count = 0

    def twinned(self) -> tuple[str, int]:
        self._blank()
        found = False
        for name in self._members("it"):
            if name == "products":
                found = True
                self._products()
            elif (value := self._value()) != FORMAT and name == "format":
                raise ValueError(f"its format is {value!r}, not {FORMAT!r}")
        self._blank()
        if self._at < len(self._text):
            raise json.JSONDecodeError("Extra data", self._text, self._at)
        if not found:
            raise ValueError("it has no products")
        return "".join([*self._parts, self._text[self._written :]]), self._count

    def _products(self) -> None:
        for product in self._members("products"):
            for field in self._members(repr(product)):
                if field != "versions":
                    self._value()
                    continue
                for version in self._members(f"{product!r}: versions"):
                    where = f"{product!r}: {version!r}"
                    for name in self._members(where):
                        if name == "items":
                            self._items(f"{where}: items")
                        else:
                            self._value()

    def _items(self, where: str) -> None:
        """Put the twin of each metadata item that has none behind it."""
        found: dict[str, tuple[int, int, int]] = {}  # ftype -> where its name begins, its value, and both end
        names, blanks, last = set[str](), "", self._at + 1
        for name in self._members(where):
            begin, value = self._name, self._at
            if len(names) < SECOND:  # a first one may stand without the blanks of all others
                blanks = self._text[last:begin].rpartition(",")[2]
            item = self._value()
            last = self._at
            if not isinstance(item, dict):
                raise ValueError(f"{where}: {name!r} is no object")  # noqa: TRY004 - one sort for all
            names.add(name)
            ftype = item.get("ftype")
            if isinstance(ftype, str) and ftype in TWINS:
                found[ftype] = begin, value, last
        for ftype in found if len(found) == 1 else ():
            name = TWINS[ftype]
            while name in names:
                name += ".twin"
            self._put(TWINS[ftype], blanks + json.dumps(name), *found[ftype])

    def _put(self, twin: str, lead: str, begin: int, value: int, end: int) -> None:
        """Write up to the end of an item, and its twin."""
        text, back = self._text, self._at
        self._at = begin
        self._value()
        parts = [",", lead, text[self._at : value]]
        written = self._at = value
        for field in self._members("an item"):
            start = self._at
            self._value()
            if field == "ftype":
                parts += [text[written:start], json.dumps(twin)]
                written = self._at
        parts.append(text[written:end])
        self._parts += [text[self._written : end], *parts]
        self._written, self._at = end, back
        self._count += 1

    def _members(self, where: str) -> Iterator[str]:
        """The names in the object here; whoever asks for the next one has passed the value before."""
        if self._next() != "{":
            raise ValueError(f"{where} is no object")
        self._blank()
        if self._text.startswith("}", self._at):
            self._at += 1
            return
        while True:
            if not self._text.startswith('"', self._at):
                raise json.JSONDecodeError("Expecting a name in double quotes", self._text, self._at)
            begin = self._at
            name = str(self._value())
            self._blank()
            if self._next() != ":":
                raise json.JSONDecodeError("Expecting ':'", self._text, self._at - 1)
            self._blank()
            self._name = begin
            yield name
            self._blank()
            if (mark := self._next()) == "}":
                return
            if mark != ",":
                raise json.JSONDecodeError("Expecting ',' or '}'", self._text, self._at - 1)
            self._blank()

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _blank(self) -> None:
        if found := _BLANK.match(self._text, self._at):
            self._at = found.end()

    def _value(self) -> object:
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value
