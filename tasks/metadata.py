"""metadata.yaml, which every Incus and LXD image has (pure).

What stands in it: lxc/incus:shared/api/image.go. It comes from anybody.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from tasks.image import debian_arch

DEPTH_LIMIT = 100  # libyaml's composer recurses on the C stack
# What yaml raises over hostile input, beside errors of its own.
MALFORMED = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)


def parse(text: bytes) -> Mapping[str, object]:
    """Read it; raises ValueError, whose text goes on after the file's name."""
    import yaml  # noqa: PLC0415 - 30 ms that a run with nothing new does not need

    try:
        depth = 0
        bad = False
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if bad := isinstance(event, yaml.AliasEvent) or depth > DEPTH_LIMIT:
                break
        metadata = None if bad else yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, *MALFORMED) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"is no YAML: {said}") from error
    if bad:
        raise ValueError("has YAML aliases or is nested too deep")
    if not isinstance(metadata, dict):
        raise ValueError("is not a mapping")  # noqa: TRY004 - as all that is wrong with it
    return metadata


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
