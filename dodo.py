"""imagepress: the build file of an image server.

poll asks Jenkins what is new; image:<os>/<release>/<arch>/<variant> fetches, checks, signs and places one
image; prune removes what has lapsed; upstream brings other servers' files; collect decides what is listed;
streams and lxc_index write what clients read; proof reads it as they do; page is for people; snapshot shows
the tree, frozen; purge takes out what was withdrawn at once; mirror:<name> hands it to rsync; publish is all.
"""

from collections.abc import Iterator
from pathlib import Path

from doit import create_after, task_params

from tasks import runtime, tree
from tasks.batches import Batches
from tasks.commands import *  # noqa: F403 - what the operator asks, each a task of its own
from tasks.exposure import Exposure
from tasks.hands import *  # noqa: F403 - and what he decides
from tasks.imports import *  # noqa: F403 - images that no Jenkins built
from tasks.options import ADOPT, OPTIONS
from tasks.reporter import asked, doit_config, kept, same, step

Tasks = Iterator[dict[str, object]]

run = runtime.Run(Path(__file__).parent)
show = Exposure(run)
images = Batches(run, show)
site, rules = run.layout, run.settings.rules
DOIT_CONFIG = doit_config(run)


@task_params(OPTIONS)
def task_publish(**options: str | int | bool) -> Tasks:
    """Publish everything that is new: the whole pipeline."""
    run.told(**options)
    yield {"basename": "poll", "doc": "Ask Jenkins what is new.", "actions": step(run.poll)}
    yield {
        "basename": "publish",
        "actions": step(run.verdict),
        "task_dep": ["prune", "purge", "mirror"],
        "uptodate": [run.is_flawless],
    }


@create_after(executed="poll")
def task_image() -> Tasks:
    """Fetch, check, sign and place the image of one product."""
    yield {"basename": "image", "name": None, "doc": "Bring every product to its newest good build."}
    for wish, done in run.wishes():
        yield {
            "name": wish.product.name,
            "doc": wish.build,
            "actions": step(images.make, wish),
            "file_dep": [site.wish(wish.product)],
            "targets": [done] if done else [],
            "uptodate": [run.settled(wish, done)],
        }


def task_prune() -> dict[str, object]:
    """Remove lapsed images and old snapshots."""
    # It waits for no image: a full disk must not keep it from making room.
    return {"actions": step(show.prune), "task_dep": ["poll"], "uptodate": [asked(show.is_pruned)]}


def task_upstream() -> dict[str, object]:
    """Bring the files of mirrored upstreams here."""
    return {"actions": step(show.haul), "task_dep": ["image"], "uptodate": [asked(show.is_hauled)]}


def task_collect() -> dict[str, object]:
    """Gather the images to be listed."""
    return {
        "actions": step(show.collect),
        "task_dep": ["upstream", "prune"],
        "targets": [site.catalogue],
        "uptodate": [same(run.ledgers), same(lambda: (run.settings.site.keep, run.decisions))],
    }


def task_streams() -> dict[str, object]:
    """Write and sign the simplestreams of Incus and LXD."""
    return {
        "actions": step(show.streams),
        "file_dep": [site.catalogue],
        "targets": show.stream_files(),
        "uptodate": [same(show.streamed), same(lambda: run.settings.signing.key)],
    }


def task_lxc_index() -> dict[str, object]:
    """Write and sign the indexes of LXC's download template."""
    return {
        "actions": step(show.lxc_index),
        "task_dep": ["streams"],  # needs nothing of it; the same order every time
        "file_dep": [site.catalogue],
        "targets": tree.lxc_files(site.public, show.lxc),
        "uptodate": [same(lambda: (rules, show.lxc, run.settings.signing.key))],
    }


def task_proof() -> dict[str, object]:
    """Read the new indexes as the clients will."""
    return {
        "actions": step(show.prove),
        "file_dep": [site.catalogue, *show.files()],
        "uptodate": [asked(show.is_proven)],
    }


def task_page() -> dict[str, object]:
    """Write the page for people, the public key, and what older protocols ask for."""
    return {
        "actions": step(show.page),
        "task_dep": ["proof"],  # which may take something out of the indexes
        "file_dep": [site.catalogue, tree.TEMPLATE, *show.files()],
        "targets": show.people(),
        "uptodate": [kept(show.page_mark), asked(show.has_key)],
    }


def task_snapshot() -> dict[str, object]:
    """Freeze the tree and show it to the world."""
    return {
        "actions": step(show.freeze),
        "file_dep": [*show.files(), *show.people()],
        "task_dep": ["page"],
        "uptodate": [same(run.ledgers), site.latest.exists, asked(show.is_cleared), same(show.beside)],
    }


def task_purge() -> dict[str, object]:
    """Take back what was withdrawn at once, from every snapshot."""
    return {"actions": step(show.purge), "task_dep": ["snapshot"], "uptodate": [asked(show.is_purged)]}


@task_params(ADOPT)
def task_mirror(adopt: list[str]) -> Tasks:
    """Make the mirrors equal to the newest snapshot."""
    run.adopting(adopt)
    yield {"name": None, "doc": "Make every mirror equal to the newest snapshot."}
    for one in run.settings.mirror:
        yield {
            "name": one.name,
            "doc": one.url,
            "params": ADOPT,
            "actions": step(show.push, one),
            "task_dep": ["purge"],
            "uptodate": [asked(show.is_mirrored, one)],
        }
