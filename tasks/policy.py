"""The operator's rules, applied to a product (pure).

Says what the constant tables of the images.linuxcontainers.org publisher say: release aliases,
variant aliases, requirements, who may see a product, and from which LXC compat level on.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256

import msgspec

from tasks.image import Product
from tasks.settings import Artifacts, Rule

CLIENTS = ("incus", "lxd")
NO_PATTERN = Artifacts()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the rules say of one product, later rules over earlier ones."""

    aliases: tuple[str, ...]
    requirements: Mapping[str, str]
    lxd_requirements: Mapping[str, str]
    lxc: bool
    lxc_min_level: int
    lxc_user_min_level: int
    clients: tuple[str, ...]
    os: str  # as clients show it
    release_title: str
    support_eol: str  # YYYY-MM-DD, "" for none


def policy(product: Product, rules: Iterable[Rule]) -> Policy:
    """Apply the rules that match, first to last."""
    releases: dict[str, None] = {}
    variants: dict[str, None] = {}
    requirements: dict[str, str] = {}
    lxd_requirements: dict[str, str] = {}
    lxc, level, user_level = True, 1, 1
    clients: tuple[str, ...] = CLIENTS
    title, release_title, support_eol = product.os.title(), product.release, ""
    for rule in rules:
        if not matches(rule.match, product):
            continue
        releases |= dict.fromkeys(rule.aliases)
        variants |= dict.fromkeys(rule.variant_aliases)
        requirements |= rule.requirements
        lxd_requirements |= rule.lxd_requirements
        lxc = lxc if rule.lxc is None else rule.lxc
        level = rule.lxc_min_level or level
        user_level = rule.lxc_user_min_level or user_level
        clients = clients if rule.clients is None else rule.clients
        title = rule.os or title
        release_title = rule.release_title or release_title
        support_eol = rule.support_eol.text if rule.support_eol else support_eol
    return Policy(
        aliases=aliases(product, tuple(releases), tuple(variants)),
        requirements=requirements,
        lxd_requirements=requirements | lxd_requirements,
        lxc=lxc,
        lxc_min_level=level,
        lxc_user_min_level=max(level, user_level),
        clients=clients,
        os=title,
        release_title=release_title,
        support_eol=support_eol,
    )


def matches(pattern: str, product: Product) -> bool:
    """Whether ``os[/release[/arch[/variant]]]``, globs allowed, covers the product."""
    return all(
        fnmatchcase(part, glob)
        for part, glob in zip(product.name.split("/"), pattern.split("/"), strict=False)
    )


def matched(product: Product, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns covers the product."""
    return any(matches(pattern, product) for pattern in patterns)


def digest(product: Product, rules: Iterable[Rule], unified: Artifacts = NO_PATTERN) -> str:
    """A mark of what a rejection depends on, which changes when the operator edits it.

    That is the rules that match, and how unified images are called.
    """
    mine: list[Rule | Artifacts] = [rule for rule in rules if matches(rule.match, product)]
    mine += [unified] if unified != NO_PATTERN else []
    return sha256(msgspec.json.encode(mine, order="deterministic")).hexdigest()


def aliases(product: Product, releases: tuple[str, ...], variants: tuple[str, ...]) -> tuple[str, ...]:
    """The names under which clients find a product, in the order of the reference publisher.

    Always os/release/variant; the same with every release alias (``debian/12``) and variant alias;
    os/release where the variant is, or is called, default; the bare os where the release is
    ``current``. Clients add ``/arch`` themselves (lxc/incus:shared/simplestreams/simplestreams.go).
    """
    here = f"{product.os}/{product.release}"
    names = [f"{name}/{variant}" for name in (here, *releases) for variant in (product.variant, *variants)]
    if "default" in (product.variant, *variants):
        names += [here, *releases]
    if product.release == "current":
        default = product.variant == "default"
        names.append(product.os if default else f"{product.os}/{product.variant}")
    return tuple(dict.fromkeys(names))
