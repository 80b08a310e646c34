"""publish.toml read once into the records of ``settings``, every fault told in one line each."""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from tasks import destination
from tasks.errors import SettingsError
from tasks.settings import Jenkins, Mirror, Settings, Signing, is_remote

CONFIG = "publish.toml"
FIELDS = ("os", "release", "arch", "variant", "file")  # of jenkins.path
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # what a row may be called in the line of a fault
Record = TypeVar("Record", bound=msgspec.Struct)


def record(kind: type[Record], text: str, path: Path) -> Record:
    """Read the TOML text of another file into a record as strictly; raises SettingsError with every fault."""
    reader = _Reader(path.name, path.parent)
    found = reader.record(kind, _table(text, path), "")
    if found is None:
        raise SettingsError(reader.faults)
    return found


def read(path: Path, clone: Path) -> Settings:
    """Read and check the configuration; raises SettingsError with every fault that can be told.

    ``clone`` is the checkout of imagepress: no key may lie inside, where git would pick it up.
    """
    table = _table(text_of(path), path)
    reader = _Reader(path.name, path.absolute().parent)
    settings = reader.record(Settings, table, "")
    if settings is not None:
        settings = reader.located(settings, clone)
    if settings is None or reader.faults:
        raise SettingsError(reader.faults)
    return settings


def _table(text: str, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits and endless brackets
        raise SettingsError([f"{path.name}: {error}"]) from error


def text_of(path: Path) -> str:
    """The text of a TOML file; raises SettingsError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path.name}: {error}"]) from error


def unreadable(mirrors: Iterable[Mirror]) -> Iterator[str]:
    """What rsync or the probe would not read of the files that are named for mirrors, a line each.

    Asked when they are needed: who only looks may read neither. What rsync says of a password's file is in
    getpassf() of its authenticate.c.
    """
    for mirror in mirrors:
        for key, path in {"password_file": mirror.password_file, "ca": mirror.ca}.items():
            where = f"mirror {mirror.name!r}: {key}"
            try:
                if path:
                    path.open("rb").close()
                if key == "password_file" and path:
                    seen = path.stat()
                    if seen.st_mode & 0o006:
                        yield f"{where}: is open to others, and rsync refuses it: chmod o= {path}"
                    if os.geteuid() == 0 != seen.st_uid:
                        yield f"{where}: {path} is not root's, who runs this, and rsync refuses it"
            except OSError as error:
                yield f"{where}: cannot read {path}: {error.strerror}"


class _Reader:
    """Turns tables into records and collects a line per fault on the way."""

    def __init__(self, file: str, base: Path) -> None:
        self.file, self.base, self.faults = file, base, list[str]()

    def fault(self, where: str, what: str) -> None:
        self.faults.append(f"{self.file}: {where}: {what}")

    def record(self, cls: type[Record], table: object, where: str) -> Record | None:
        """Build ``cls`` from a table, or None with the faults noted."""
        if not isinstance(table, dict):
            self.fault(where, "must be a table")
            return None
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        before = len(self.faults)
        numbered, where = where, _called(where, table)
        dot = f"{where}: " if where != numbered else f"{where}." if where else ""
        for key in (key for key in table if key not in fields):
            near = get_close_matches(key, fields, n=1)
            shown = key if key.isprintable() else ascii(key)
            self.fault(dot + shown, "unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
        values = {}
        for name, field in fields.items():
            if name in table:  # a name that is none is not the row's
                at = f"{numbered}.name" if name == "name" else dot + name
                values[name] = self.value(field.type, table[name], at)
            elif field.required:
                self.fault(dot + name, "is missing, and has no default")
        try:
            return cls(**values) if len(self.faults) == before else None
        except ValueError as error:  # what only the whole record can tell
            self.fault(where, str(error))
            return None

    def value(self, kind: Any, value: object, where: str) -> object:  # noqa: ANN401 - a type
        """Convert one value, or one table, or a list of tables."""
        options = [option for option in get_args(kind) if option is not type(None)]
        if type(None) in get_args(kind) and len(options) == 1:
            return None if options[0] is Path and value == "" else self.value(options[0], value, where)
        if _is_record(kind):
            return self.record(kind, value, where)
        if get_origin(kind) is tuple and _is_record(options[0]) and isinstance(value, list):
            rows = enumerate(value, start=1)
            return tuple(self.record(options[0], row, f"{where}[{i}]") for i, row in rows)
        try:
            if get_origin(kind) is Literal and value not in options:
                raise ValueError(f"{value!r} is not one of {', '.join(map(repr, options))}")  # noqa: TRY301
            if hasattr(kind, "parse"):
                return kind.parse(str(value))
            return msgspec.convert(value, kind, dec_hook=self.path)
        except (msgspec.ValidationError, ValueError) as error:
            self.fault(where, _plain(str(error), kind, value))
            return None

    def path(self, _: type, value: object) -> Path:
        """A path, the one type that msgspec does not know; relative to the file."""
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        if not value or "\0" in value:
            raise ValueError("Must be a path")
        try:
            return self.base / Path(value).expanduser()
        except RuntimeError:
            raise ValueError("Is at the home of nobody") from None

    def place(self, where: str, text: str) -> Path:
        """The path that a setting of two meanings turned out to be."""
        try:
            return self.path(Path, text)
        except ValueError as error:
            self.fault(where, _plain(str(error), Path, text))
            return Path(os.devnull)

    def located(self, settings: Settings, clone: Path) -> Settings:
        """Check what only the whole can tell, and make the key and local mirrors absolute."""
        self.check_names(settings)
        root, home = settings.site.root.resolve(), clone.resolve()
        if home.is_relative_to(root) or root.is_relative_to(home):
            self.fault("site.root", f"{settings.site.root} and the checkout {clone} must lie apart")
        if settings.jenkins:
            self.check_jenkins(settings.jenkins)
        for number, rule in enumerate(settings.rules, start=1):
            self.check_match(f"rules[{number}].match", rule.match)
        if settings.page.template:
            self.check_template(settings.page.template)
        signing = settings.signing
        if not signing.uses_gpg:
            signing = msgspec.structs.replace(signing, key=str(self.key(signing, clone)))
        elif not signing.is_fingerprint:
            self.fault("signing.key", "the gpg back end needs a fingerprint of 16 or 40 hex digits")
        mirrors = tuple(
            mirror if is_remote(mirror.url) else self.local(mirror, settings.site.root, clone)
            for mirror in settings.mirror
        )
        self.check_apart(mirrors)
        return msgspec.structs.replace(settings, signing=signing, mirror=mirrors)

    def check_names(self, settings: Settings) -> None:
        """Check the names of tables that have one, and the patterns in them."""
        lists, upstreams, mirrors = settings.list, settings.upstream, settings.mirror
        for what, rows in (("mirror", mirrors), ("list", lists), ("upstream", upstreams)):
            names = [row.name for row in rows]
            for name in sorted({name for name in names if names.count(name) > 1}):
                self.fault(what, f"two {what}s are called {name!r}; names must differ")
            for row in rows:
                for pattern in row.match:
                    self.check_match(f"{what} {row.name!r}: match", pattern)
        for group in sorted({one.group for one in mirrors} - {""}):
            if len({(one.match, one.keep) for one in mirrors if one.group == group}) > 1:
                self.fault("mirror", f"those of group {group!r} must have the same match and keep")

    def check_match(self, where: str, pattern: str) -> None:
        """Check a pattern of products."""
        if pattern.count("/") > 3:  # noqa: PLR2004 - os/release/arch/variant
            self.fault(where, "has more than os/release/arch/variant")
        if "" in pattern.split("/"):
            self.fault(where, f"{pattern!r} has an empty part, so it fits nothing")

    def check_template(self, path: Path) -> None:
        """Check a page of the operator's own: it is public, so whoever runs anything here may read it."""
        from tasks import page  # noqa: PLC0415 - few have one

        try:
            found = page.faults(path.read_text(encoding="utf-8"))
        except OSError as error:
            found = [f"cannot be read: {error.strerror}"]
        except UnicodeDecodeError:
            found = ["is no UTF-8"]
        for fault in found:
            self.fault("page.template", f"{path}: {fault}")

    def check_jenkins(self, jenkins: Jenkins) -> None:
        """Check the two small languages of ``[jenkins]``."""
        for pattern in jenkins.jobs:
            if pattern.count("*") != 1:
                self.fault("jenkins.jobs", f"{pattern!r} must have one '*', which stands for the os")
            if set(pattern) & set("?[]/"):
                self.fault(
                    "jenkins.jobs", f"{pattern!r}: only '*' is special, and folders go to jenkins.folder"
                )
        if jenkins.path and not jenkins.path.endswith("{file}"):
            self.fault("jenkins.path", 'must end in {file}, like "{arch}/{release}/{variant}/{file}"')
        fields = re.findall(r"\{(.*?)\}", jenkins.path)
        for field in dict.fromkeys(fields):
            if field not in FIELDS or fields.count(field) > 1:
                self.fault("jenkins.path", f"{{{field}}} is none of {', '.join(FIELDS)}, each once")

    def local(self, mirror: Mirror, root: Path, clone: Path) -> Mirror:
        """A mirror at a path, made absolute: a deletion there must reach nothing of ours."""
        path = self.place(f"mirror {mirror.name!r}", mirror.url)
        for name, taken in (("site.root", root), ("the checkout", clone)):
            here, there = path.resolve(), taken.resolve()
            if here.is_relative_to(there) or there.is_relative_to(here):
                self.fault(f"mirror {mirror.name!r}", f"url: {path} and {name} {taken} must lie apart")
        return msgspec.structs.replace(mirror, url=str(path))

    def check_apart(self, mirrors: Sequence[Mirror]) -> None:
        """Check what mirrors are told: each deletes what it does not know, so none may lie in another."""
        places = list[tuple[Mirror, tuple[str, ...]]]()
        for mirror in mirrors:
            found = list(destination.faults(mirror))
            for fault in found:
                self.fault(f"mirror {mirror.name!r}", fault)
            if not any(fault.startswith("url:") for fault in found):
                real = mirror.url if is_remote(mirror.url) else str(Path(mirror.url).resolve())
                places.append((mirror, destination.place(msgspec.structs.replace(mirror, url=real))))
        for (one, here), (other, there) in combinations(places, 2):
            if one.name != other.name and destination.overlap(here, there):
                both = f"mirrors {one.name!r} and {other.name!r}"
                self.fault(both, f"url: {one.url} and {other.url} must lie apart")

    def key(self, signing: Signing, clone: Path) -> Path:
        """The key file, which git must not pick up."""
        key = self.place("signing.key", signing.key)
        if key.resolve().is_relative_to(clone.resolve()):
            self.fault("signing.key", f"{key} is inside the clone; keep the secret key elsewhere")
        return key


def _called(where: str, row: Mapping[object, object]) -> str:
    """How faults call a row of a list of tables: by its name, should it have a proper one."""
    name = row.get("name")
    if not where.endswith("]") or not isinstance(name, str) or not re.fullmatch(NAME, name):
        return where
    return f"{where.partition('[')[0]} {name!r}"


def _words(kind: object) -> list[str]:
    """The words that a type of literals takes, however deep they lie in it."""
    return [one for part in get_args(kind) for one in ([part] if isinstance(part, str) else _words(part))]


def _is_record(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not hasattr(kind, "parse")


def _plain(error: str, kind: Any, value: object) -> str:  # noqa: ANN401 - a type
    """msgspec's sentence, without its marks, with the value where that helps."""  # noqa: D403
    text = error.split(" - at ", maxsplit=1)[0].replace("`", "")
    if "Invalid enum value" in text:
        text += f"; known are {', '.join(map(repr, _words(kind)))}"
    if "matching regex" in text:
        kinds = [kind, *get_args(kind)]
        meta = next(one.__metadata__[0] for one in kinds if hasattr(one, "__metadata__"))
        text = f"must be {meta.description}"
    shown = isinstance(value, str | int) and repr(value) not in text
    return f"{text[0].lower()}{text[1:]}" + (f" ({value!r})" if shown else "")
