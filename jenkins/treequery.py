"""The ``tree=`` language of the Jenkins API, ``depth=``, and what they leave of an object; pure.

    parse("jobs[name,builds[number]{0,5}]")    a Tree: which properties, how many of a list
    prune(object, parse(spec))                 plain JSON values with just those properties
    prune(object, Depth(0))                    what Jenkins answers without ``tree=``

An object is a mapping, which may compute a property only when asked; ``_class`` always stays.
The grammar and its oddities (the last of two equal names wins, an empty list is an error, ``*``
reaches hidden properties too) are those of jenkinsci/stapler, NamedPathPruner.java.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"

_TOKEN = re.compile(r"[^,\[\]{}]+|[,\[\]{}]")
_PUNCTUATION = frozenset(",[]{}")
# What the depth must reach before a property shows; 1 when not named here. From the
# @Exported(visibility=...) marks of jenkinsci/jenkins.
_VISIBILITY = {
    "name": 999, "url": 999, "value": 3, "fileName": 3, "relativePath": 3, "displayPath": 3,
    "shortDescription": 3, "number": 2, "color": 2, "parameters": 2, "causes": 2,
    "fingerprint": -1, "allBuilds": -2,
}  # fmt: skip


class TreeSyntaxError(ValueError):
    """The text after ``tree=`` is not a tree."""


class Pruner(Protocol):
    """Decides what is shown of an object."""

    def pick(self, names: Collection[str]) -> Iterable[tuple[str, "Pruner"]]:
        """Choose what is shown of these properties, each with what decides inside of it."""

    def cut(self, items: Sequence[Value]) -> Sequence[Value]:
        """Choose what is shown of a list."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed ``tree=``: the properties below an object and the range over a list of it."""

    children: Mapping[str, "Tree"] = field(default_factory=dict)
    start: int = 0
    stop: int | None = None

    def pick(self, names: Collection[str]) -> Iterable[tuple[str, Pruner]]:
        """Choose the named properties, and all others when there is a ``*``."""
        if "*" not in self.children:
            return [(name, tree) for name, tree in self.children.items() if name in names]
        return [(name, self.children.get(name, self.children["*"])) for name in names]

    def cut(self, items: Sequence[Value]) -> Sequence[Value]:
        """Apply the range."""
        return items[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class Depth:
    """What ``depth=N`` shows: fewer properties with each step inwards."""

    depth: int

    def pick(self, names: Collection[str]) -> Iterable[tuple[str, Pruner]]:
        """Choose the properties whose visibility the depth reaches."""
        inner = Depth(self.depth - 1)
        return [(name, inner) for name in names if _VISIBILITY.get(name, 1) >= 1 - self.depth]

    def cut(self, items: Sequence[Value]) -> Sequence[Value]:
        """Show lists whole."""
        return items


def prune(value: Value, pruner: Pruner) -> Json:
    """Turn an exported value into JSON, with no more of it than the pruner picks."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Sequence):
        return [prune(item, pruner) for item in pruner.cut(value)]
    picked = {name: prune(value[name], inner) for name, inner in pruner.pick(value)}
    return {"_class": prune(value["_class"], pruner), **picked} if "_class" in value else picked


def parse(spec: str) -> Tree:
    """Read a ``tree=`` expression."""
    reader = _Reader(spec)
    tree = Tree(reader.nodes())
    if reader.peek:
        raise reader.error("the end")
    return tree


class _Reader:
    def __init__(self, spec: str) -> None:
        self.tokens: list[str] = [*_TOKEN.findall(spec), ""]
        self.at = 0

    @property
    def peek(self) -> str:
        return self.tokens[self.at]

    def error(self, wanted: str) -> TreeSyntaxError:
        return TreeSyntaxError(f"expected {wanted} at {len(''.join(self.tokens[: self.at]))}")

    def accept(self, token: str) -> bool:
        found = self.peek == token
        self.at += found
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(token)

    def word(self, wanted: str, pattern: str = "(?s).+") -> str:
        token = self.peek
        if token in _PUNCTUATION or not re.fullmatch(pattern, token):
            raise self.error(wanted)
        self.at += 1
        return token

    def number(self) -> int:
        return int(self.word("number", "[0-9]+"))

    def nodes(self) -> dict[str, Tree]:
        children = dict([self.node()])
        while self.accept(","):
            children.update([self.node()])
        return children

    def node(self) -> tuple[str, Tree]:
        name = self.word("name")
        children = {}
        if self.accept("["):
            children = self.nodes()
            self.expect("]")
        start, stop = 0, None
        if self.accept("{"):
            start, stop = self.span()
            self.expect("}")
        return name, Tree(children, start, stop)

    def span(self) -> tuple[int, int | None]:
        if self.accept(","):
            return 0, self.number()
        start = self.number()
        if self.peek == "}":
            return start, start + 1
        self.expect(",")
        return start, None if self.peek == "}" else self.number()
