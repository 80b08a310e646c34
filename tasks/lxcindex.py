"""The index of LXC's download template (pure): one line per product.

``dist;release;arch;variant;build;/path/``, sorted by product; the template takes the first line
whose first four fields are equal (lxc/lxc:templates/lxc-download.in). Older templates ask for
``index-<mode>.<level>`` and get what their level can unpack.
"""

from collections.abc import Iterable

from tasks.image import Image, Kind
from tasks.policy import policy
from tasks.settings import Rule

MODES = ("system", "user")
CURRENT = 99  # the bare index is for the templates that know every level


def names(levels: Iterable[int]) -> dict[str, tuple[str, int]]:
    """Every index file with its mode and level."""
    return {
        f"index-{mode}" if level == CURRENT else f"index-{mode}.{level}": (mode, level)
        for mode in MODES
        for level in (CURRENT, *levels)
    }


def indexes(images: Iterable[Image], rules: Iterable[Rule], levels: Iterable[int]) -> dict[str, bytes]:
    """The text of every index file by name."""
    rules = tuple(rules)
    newest = {image.product: image for image in images if Kind.LXC in image.kinds}
    found = dict.fromkeys(names(levels), "")
    for product in sorted(newest, key=lambda one: one.name):
        rule, line = policy(product, rules), _line(newest[product])
        for name, (mode, level) in names(levels).items():
            least = rule.lxc_user_min_level if mode == "user" else rule.lxc_min_level
            if rule.lxc and least <= level:
                found[name] += line
    return {name: text.encode() for name, text in found.items()}


def path(line: str) -> str:
    """The directory of the image that a line names, relative to ``public``."""
    return line.rstrip("\n").rsplit(";", 1)[-1].strip("/")


def _line(image: Image) -> str:
    product = image.product
    fields = (
        product.os,
        product.release,
        product.arch,
        product.variant,
        image.serial,
        f"/{image.path}/",
    )
    return ";".join(fields) + "\n"
