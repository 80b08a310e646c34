"""The operator's commands beside ``publish``, each a doit task (glue)."""

import getpass
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

from doit import task_params
from doit.exceptions import TaskFailed

from tasks import decide, demo, preview, report, runtime
from tasks.decisions import BuildName
from tasks.errors import SettingsError
from tasks.exposure import Exposure
from tasks.image import Product
from tasks.preview import Preview
from tasks.reporter import honest, step
from tasks.state import encode

__all__ = [
    "task_block",
    "task_demo_build",
    "task_hold",
    "task_plan",
    "task_retire",
    "task_rollback",
    "task_snapshots",
    "task_status",
    "task_unhold",
    "task_verify",
    "task_withdraw",
]

CLONE = Path(__file__).parents[1]
PRODUCT = "os/release/arch/variant"
JSON = {"name": "json", "long": "json", "type": bool, "default": False, "help": "for programs"}
WHY = {"name": "why", "long": "why", "default": "", "help": "the reason, kept with the decision"}
BUILD = {"name": "build", "long": "build", "default": "", "help": "as reports name it: JOB/CONFIGURATION #N"}


@task_params(
    [
        {
            "name": "product",
            "long": "product",
            "default": "debian/trixie/amd64/default",
            "help": "os/release/arch/variant",
        },
        {
            "name": "damage",
            "long": "damage",
            "default": "",
            "help": "meta, magic, serial or missing",
        },
        {
            "name": "untested",
            "long": "untested",
            "type": bool,
            "default": False,
            "help": "no test passes it",
        },
    ]
)
def task_demo_build(product: str, damage: str, *, untested: bool) -> Iterator[dict[str, object]]:
    """Finish one more build in the demo's Jenkins: good, damaged or untested."""

    def act() -> str:
        if damage not in get_args(demo.Damage):
            raise SettingsError([f"--damage={damage}: one of {', '.join(get_args(demo.Damage)[1:])}"])
        try:
            wanted = Product.parse(product)
        except ValueError as error:
            raise SettingsError([f"--product={product}: {error}"]) from None
        return demo.build(CLONE, wanted, damage, tested=not untested)  # type: ignore[arg-type]

    yield {"basename": "demo_build", "actions": step(act), "meta": {"lockless": True}}


def task_status() -> dict[str, object]:
    """How every product stands: newest serial, age, kinds, build, and what holds it; --json too."""

    def act(json: bool, globs: list[str]) -> None:  # noqa: FBT001 - doit hands parameters by name
        run = runtime.current()
        rows = report.status(run.layout, globs, run.decisions, run.now)
        sys.stdout.write(
            encode(rows).decode() if json else "\n".join(_pinned(run, report.table(rows))) + "\n"
        )
        _tell_blind(run)

    return {
        "actions": [(honest(act),)],
        "params": [JSON],
        "pos_arg": "globs",
        "meta": {"lockless": True},
    }


def _pinned(run: runtime.Run, lines: list[str]) -> list[str]:
    return [*run.decisions.pin_line(), *lines]


def _tell_blind(run: runtime.Run) -> None:
    if run.layout.blind:
        sys.stderr.write(f"{run.layout.root}/state is its owner's alone: this is what is exposed, no more\n")


def task_plan() -> dict[str, object]:
    """What publish would do, and why; asks Jenkins and changes nothing; globs and --json too."""

    def act(json: bool, globs: list[str]) -> TaskFailed | None:  # noqa: FBT001 - doit hands them by name
        run = runtime.current()
        offers, wishes = run.look()
        rows = Preview(run.layout, offers, wishes, run.decisions, run.rejection).products()
        due = list(Exposure(run).due())
        if json:
            sys.stdout.write(encode({"products": rows, "due": due, "failed": offers.failed}).decode())
        else:
            lines = [
                *run.decisions.lines()[: bool(run.decisions.pinned())],
                *preview.table(rows, globs),
                *due,
            ]
            sys.stdout.write("\n".join(lines) + "\n")
        _tell_blind(run)
        why = f"Jenkins: {offers.failed}; this is what the last poll knew"
        return TaskFailed(why) if offers.failed else None

    return {
        "actions": [(honest(act),)],
        "params": [JSON],
        "pos_arg": "globs",
        "meta": {"lockless": True},
    }


def _decision(
    act: Callable[..., str | TaskFailed | None], names: str = "", *more: Mapping[str, object]
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
        layout = runtime.current().layout
        return "\n".join(decide.hold(layout, name, serial, _by(why)) for name in names)

    serial = {"name": "serial", "long": "serial", "default": "", "help": "YYYYMMDD_HH:MM"}
    return _decision(act, "products", serial)


def task_unhold() -> dict[str, object]:
    """Take back what was decided of a product, an image (…/SERIAL), or of a --build."""

    def act(why: str, build: str, names: list[str]) -> str:
        wanted = [_build(build).text] if build else _named(names, "unhold", "a product, an image or --build=")
        layout = runtime.current().layout
        return "\n".join(decide.unhold(layout, name, _by(why)) for name in wanted)

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
        return "\n".join(decide.retire(runtime.current().layout, name, _by(why)) for name in names)

    return _decision(act, "products")


def task_withdraw() -> dict[str, object]:
    """Take images (os/release/arch/variant/serial) back; with --now at once and from everywhere."""

    def act(why: str, images: list[str], *, now: bool) -> str | TaskFailed:
        run = runtime.current()
        pairs = [name.rpartition("/") for name in _named(images, "withdraw", f"the image, {PRODUCT}/serial")]
        wanted = [(_product(product), serial) for product, _, serial in pairs]
        said = [decide.withdraw(run.layout, one, serial, _by(why), now=now) for one, serial in wanted]
        return _exposed(run, said) if now else "\n".join(said)

    now = {"name": "now", "long": "now", "type": bool, "default": False, "help": "at once and everywhere"}
    return _decision(act, "images", now)


def task_rollback() -> dict[str, object]:
    """List again what an earlier snapshot listed, until --release or until the bad builds are blocked."""

    def act(why: str, snapshots: list[str], *, release: bool) -> str | TaskFailed:
        run = runtime.current()
        run.lock()  # what is newest must not move meanwhile
        if release:
            return decide.release(run.layout, _by(why))
        names = _named(snapshots, "rollback", "the snapshot; doit snapshots lists them")
        return _exposed(run, [decide.pin(run.layout, names[0], _by(why))])

    release = {"name": "release", "long": "release", "type": bool, "default": False, "help": "let go of it"}
    return _decision(act, "snapshots", release)


def _exposed(run: runtime.Run, said: list[str]) -> str | TaskFailed:
    """Show a decision to the world at once; it is written down already, should this be killed."""
    for line in said:
        run.say("decided", line)
    run.lock()
    trouble = False
    for name, line in Exposure(run).all():
        trouble |= isinstance(line, TaskFailed)
        run.say(name, line.message if isinstance(line, TaskFailed) else line)
    return TaskFailed("not everywhere; the next publish tries again") if trouble else "exposed"


def task_snapshots() -> dict[str, object]:
    """List the snapshots, newest first: what each shows, and what holds it."""

    def act(json: bool) -> None:  # noqa: FBT001 - doit hands parameters by name
        run = runtime.current()
        rows = report.snapshots(run.layout, run.decisions)
        sys.stdout.write(encode(rows).decode() if json else "\n".join(report.listing(rows)) + "\n")

    return {"actions": [(honest(act),)], "params": [JSON], "meta": {"lockless": True}}


KEY = {
    "name": "key",
    "long": "key",
    "type": list,
    "default": [],
    "help": "a file with a public key, instead of signing.key's; may be given more than once",
}


@task_params([KEY])
def task_verify(key: list[str]) -> Iterator[dict[str, object]]:
    """Hash what is served again and check every signature and index; changes nothing."""

    def act() -> str | TaskFailed:
        from tasks.sign import verifier  # noqa: PLC0415 - only this command needs both
        from tasks.verify import verify  # noqa: PLC0415 - as above

        run = runtime.current()
        keys = [Path(one) for one in key]
        by = partial(verifier, run.settings.signing, keys)
        found = verify(run.layout, run.settings.lxc, by, _say)
        return TaskFailed(str(found)) if found.faults else str(found)

    yield {"basename": "verify", "actions": step(act), "meta": {"lockless": True}}


def _say(line: str) -> None:
    """A line at once: a whole tree takes its time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
