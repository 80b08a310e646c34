"""metadata.yaml, which every Incus and LXD image has (pure).

What stands in it: lxc/incus:shared/api/image.go. It comes from anybody.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.image import debian_arch

DEPTH_LIMIT = 100  # libyaml's composer recurses on the C stack
TAG = "tag:yaml.org,2002:"
WHOLE = re.compile(r"(0|[1-9][0-9]{0,18})\Z")  # what int64 holds, in one spelling
# What yaml raises over hostile input, beside errors of its own.
MALFORMED = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)


def parse(text: bytes) -> Mapping[str, object]:
    """Read it, every scalar as text but whole numbers and nulls, as Incus does by the fields' types.

    So a release of 3.20 stays it, and no time is lost in YAML's sexagesimal numbers, where it grows with
    the square of their length. Raises ValueError, whose text goes on after the file's name.
    """
    import yaml  # noqa: PLC0415 - 30 ms that a run with nothing new does not need

    class Loader(yaml.CSafeLoader):
        """What the tags of a document may ask for."""

    kept = ("map", "seq", "str", "null")
    given = yaml.CSafeLoader.yaml_constructors.items()
    Loader.yaml_constructors = {tag: made for tag, made in given if not tag or tag.removeprefix(TAG) in kept}
    Loader.yaml_implicit_resolvers = {}
    Loader.add_implicit_resolver(f"{TAG}null", re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""])
    Loader.add_implicit_resolver(f"{TAG}int", WHOLE, list("0123456789"))
    Loader.add_constructor(f"{TAG}int", lambda _, node: _whole(str(node.value)))
    try:
        depth = 0
        bad = False
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if bad := isinstance(event, yaml.AliasEvent) or depth > DEPTH_LIMIT:
                break
        metadata = None if bad else yaml.load(text, Loader=Loader)  # noqa: S506 - less than the safe one
    except (yaml.YAMLError, *MALFORMED) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"is no YAML: {said}") from error
    if bad:
        raise ValueError("has YAML aliases or is nested too deep")
    if not isinstance(metadata, dict):
        raise ValueError("is not a mapping")  # noqa: TRY004 - as all that is wrong with it
    return metadata


def _whole(text: str) -> int:
    """A number, also where a tag says that it is one."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)


def product_fields(metadata: Mapping[str, object]) -> tuple[str, str, str, str]:
    """The os, release, arch and variant that its properties tell, as directories are called; "" for none.

    distrobuilder writes «Debian» where the tree has «debian» (lxc/distrobuilder:image/incus.go).
    """
    told = metadata.get("properties")
    properties = told if isinstance(told, dict) else {}
    arch = properties.get("architecture") or metadata.get("architecture") or ""
    named = [str(properties.get(name) or "") for name in ("os", "release", "variant")]
    return named[0].lower(), named[1], debian_arch(str(arch)), named[2] or "default"


def serial_text(metadata: Mapping[str, object]) -> str:
    """Its property ``serial``, else the minute in UTC at which it was made; "" for none."""
    told = metadata.get("properties")
    if isinstance(told, dict) and (serial := told.get("serial")):
        return str(serial)
    created = metadata.get("creation_date")
    if (
        not isinstance(created, int)
        or isinstance(created, bool)
        or not re.fullmatch("[0-9]{1,11}", str(created))
    ):
        return ""
    return f"{datetime.fromtimestamp(created, UTC):%Y%m%d_%H:%M}"
