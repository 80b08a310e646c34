"""The operator's hands, each a doit task (glue): what he decides, and what is shown at once."""

import getpass
import os
from collections.abc import Callable, Mapping

from doit.exceptions import TaskError, TaskFailed

from tasks import decide, runtime
from tasks.decisions import BuildName
from tasks.errors import SettingsError, TreeError
from tasks.exposure import Exposure, at_once, make_room
from tasks.image import Product
from tasks.reporter import honest

__all__ = [
    "task_block",
    "task_hold",
    "task_pin",
    "task_retire",
    "task_rollback",
    "task_unhold",
    "task_unpin",
    "task_withdraw",
]

PRODUCT = "os/release/arch/variant"
WHY = {"name": "why", "long": "why", "default": "", "help": "the reason, kept with the decision"}
BUILD = {"name": "build", "long": "build", "default": "", "help": "as reports name it: JOB/CONFIGURATION #N"}


def _decision(
    act: Callable[..., str | TaskFailed | TaskError | None], names: str = "", *more: Mapping[str, object]
) -> dict[str, object]:
    """A command that writes a decision: it needs no lock but its own."""
    task = {"actions": [(honest(act),)], "params": [WHY, *more], "meta": {"lockless": True}}
    return {**task, "pos_arg": names} if names else task


def _by(why: str) -> decide.By:
    """Who speaks: the person behind sudo, where there is one."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    if not why.isprintable():
        raise SettingsError([f"--why={why!a}: one line of plain text"])
    when = runtime.current().now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return decide.By(who=f"{user}@{os.uname().nodename}", when=when, why=why)


def _named(names: list[str], command: str, what: str) -> list[str]:
    """The names that a command was given; raises SettingsError where there is none."""
    if not names:
        raise SettingsError([f"doit {command}: name {what}"])
    if late := next((name for name in names if name.startswith("-")), ""):
        raise SettingsError([f"doit {command}: {late}: options come before names"])
    return names


def _product(name: str) -> Product:
    try:
        return Product.parse(name)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


def task_hold() -> dict[str, object]:
    """Keep products at their newest published serial, or at --serial, until doit unhold."""

    def act(why: str, serial: str, products: list[str]) -> str:
        names = [_product(name) for name in _named(products, "hold", f"the product, {PRODUCT}")]
        return decide.hold(runtime.current().layout, names, serial, _by(why))

    serial = {"name": "serial", "long": "serial", "default": "", "help": "YYYYMMDD_HH:MM"}
    return _decision(act, "products", serial)


def task_unhold() -> dict[str, object]:
    """Take back what was decided of a product, an image (…/SERIAL), or of a --build."""

    def act(why: str, build: str, names: list[str]) -> str:
        wanted = [_build(build).text] if build else []
        wanted += _named(names, "unhold", "a product, an image or --build=") if names or not build else []
        return decide.unhold(runtime.current().layout, wanted, _by(why))

    return _decision(act, "names", BUILD)


def _build(text: str) -> BuildName:
    try:
        return BuildName.parse(text)
    except ValueError as error:
        raise SettingsError([f"--build: {error}"]) from None


def task_block() -> dict[str, object]:
    """Never publish a --build; what was made of it is delisted."""

    def act(why: str, build: str) -> str:
        return decide.block(runtime.current().layout, _build(build), _by(why))

    return _decision(act, "", BUILD)


def task_retire() -> dict[str, object]:
    """End products: delisted by the next publish, and never fetched again."""

    def act(why: str, products: list[str]) -> str:
        names = [_product(name) for name in _named(products, "retire", f"the product, {PRODUCT}")]
        return decide.retire(runtime.current().layout, names, _by(why))

    return _decision(act, "products")


def task_withdraw() -> dict[str, object]:
    """Take images (os/release/arch/variant/serial) back; with --now at once and from everywhere."""

    def act(why: str, images: list[str], *, now: bool) -> str | TaskFailed | TaskError:
        run = runtime.current()
        names = _named(images, "withdraw", f"the image, {PRODUCT}/serial")
        if short := next((name for name in names if name.count("/") != 4), ""):  # noqa: PLR2004 - as above
            raise SettingsError([f"{short!r} is not {PRODUCT}/serial"])
        wanted = [(_product(name.rpartition("/")[0]), name.rpartition("/")[2]) for name in names]
        if not now:
            return decide.withdraw(run.layout, wanted, _by(why), now=False)
        run.signer()  # a key that does not sign is said before anything is decided
        try:
            decided = decide.withdraw(run.layout, wanted, _by(why), now=True)
        except TreeError:  # no room? what has lapsed is not worth a secret that stays
            make_room(run)
            decided = decide.withdraw(run.layout, wanted, _by(why), now=True)
        return _exposed(run, decided, "nothing is left of it")

    now = {"name": "now", "long": "now", "type": bool, "default": False, "help": "at once and everywhere"}
    return _decision(act, "images", now)


def task_rollback() -> dict[str, object]:
    """List again what an earlier snapshot listed, until --release or until the bad builds are blocked."""

    def act(why: str, snapshots: list[str], *, release: bool) -> str | TaskFailed | TaskError:
        run = runtime.current()
        if len(snapshots) != (not release):
            raise SettingsError(
                ["doit rollback: name one snapshot (doit snapshots lists them), or --release"]
            )
        run.lock()  # what is newest must not move meanwhile
        if release:
            return decide.release(run.layout, _by(why))
        run.signer()  # as above
        name = _named(snapshots, "rollback", "the snapshot")[0]
        return _exposed(run, decide.pin(run.layout, name, _by(why)), "exposed")

    release = {"name": "release", "long": "release", "type": bool, "default": False, "help": "let go of it"}
    return _decision(act, "snapshots", release)


def task_pin() -> dict[str, object]:
    """Keep a snapshot, whatever its age, as a remote of its own: at/SNAPSHOT/, or at/NAME/ with --as=NAME."""

    def act(why: str, name: str, snapshots: list[str]) -> str:
        run = runtime.current()
        if len(snapshots) != 1:
            raise SettingsError(["doit pin: name one snapshot; doit snapshots lists them"])
        run.lock()  # none must go meanwhile
        said = decide.keep(run.layout, _named(snapshots, "pin", "the snapshot")[0], name, _by(why))
        Exposure(run).date()
        return said

    name = {"name": "name", "long": "as", "default": "", "help": "what it is called too"}
    return _decision(act, "snapshots", name)


def task_unpin() -> dict[str, object]:
    """Let snapshots go that were pinned, each by its own name or the one it was given."""

    def act(why: str, names: list[str]) -> str:
        run = runtime.current()
        run.lock()
        said = decide.unkeep(run.layout, _named(names, "unpin", "the snapshot"), _by(why))
        Exposure(run).date()
        return said

    return _decision(act, "names")


def _exposed(run: runtime.Run, decided: str, done: str) -> str | TaskFailed | TaskError:
    """Show a decision to the world at once; it is written down already, should this be killed."""
    for line in decided.splitlines():
        run.say("decided", line)
    return at_once(run, done, "decided, and not done")
