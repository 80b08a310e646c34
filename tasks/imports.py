"""``doit import``, a doit task (glue): images that no Jenkins built, taken and shown at once."""

from collections import Counter
from pathlib import Path
from typing import TypeAlias

from doit.exceptions import TaskError, TaskFailed
from msgspec.structs import replace

from tasks import files, runtime
from tasks.errors import SettingsError
from tasks.exposure import at_once
from tasks.foreign import Foreign, shown
from tasks.image import Product
from tasks.origin import Found, serial_of
from tasks.reporter import honest
from tasks.words import counted

__all__ = ["task_import"]

Ended: TypeAlias = str | TaskFailed | TaskError
WHAT = "a directory, a tree, a unified image, incus:ALIAS or lxd:ALIAS"

PARAMETERS = [
    {"name": "given", "long": "from", "default": "", "help": WHAT},
    {"name": "product", "long": "as", "default": "", "help": "os/release/arch/variant of one image"},
    {"name": "serial", "long": "serial", "default": "", "help": "YYYYMMDD_HH:MM of one image"},
    {"name": "dry", "long": "dry-run", "type": bool, "default": False, "help": "only say what would be done"},
]


def task_import() -> dict[str, object]:
    """Publish what lies in a directory or tree, --from=SRC, with the checks that builds go through."""

    def act(given: str, product: str, serial: str, names: list[str], *, dry: bool) -> Ended:
        if not given or names:
            raise SettingsError([f"doit import: say from where, --from=SRC: {WHAT}"])
        return _import(given, *_told(product, serial), dry=dry)

    return {"actions": [(honest(act),)], "params": PARAMETERS, "pos_arg": "names", "meta": {"lockless": True}}


def _told(product: str, serial: str) -> tuple[Product | None, str]:
    """What the command line says of one image; raises SettingsError."""
    try:
        return Product.parse(product) if product else None, serial_of(serial) if serial else ""
    except ValueError as error:
        raise SettingsError([f"doit import: {error}"]) from None


def _look(given: str) -> tuple[Foreign, list[Found]]:
    """Every image that lies there; raises SettingsError where none does."""
    from tasks.take import find, single  # noqa: PLC0415 - only this command needs it

    path = Path(given)
    if files.status(path) is None:
        raise SettingsError([f"--from={shown(given)}: there is no such file or directory"])
    source = Foreign(path.parent if path.is_file() else path)
    found = [single(path.name)] if path.is_file() else find(source)
    if not found:
        what = "no image, no tree os/release/arch/variant/serial and no streams/v1"
        raise SettingsError([f"--from={shown(given)}: there is {what} in it"])
    return source, found


def _import(given: str, product: Product | None, serial: str, *, dry: bool) -> Ended:
    from tasks.bring import build_name  # noqa: PLC0415 - only this command needs it
    from tasks.take import CLIENTS, export  # noqa: PLC0415 - as above

    run = runtime.current()
    try:
        build_name(given, "20260101_00:00")
    except ValueError:
        raise SettingsError([f"--from={shown(given)}: a name with # or unprintable characters"]) from None
    daemon, _, image = given.partition(":")
    if daemon not in CLIENTS:
        source, found = _look(given)
        if (product or serial) and len(found) > 1:
            raise SettingsError([f"--as and --serial name one image, and {shown(given)} holds {len(found)}"])
        _begin(run, dry=dry)
        return _bring(run, given, source, _as_told(source, found, product, serial), dry=dry)
    if not image:
        raise SettingsError([f"--from={given}: name an image, {daemon}:ALIAS"])
    _begin(run, dry=dry)
    with files.scratch(None if dry else run.layout.staging) as directory:
        one = export(daemon, image, directory, () if dry else [run.lock()])
        source = Foreign(directory)
        return _bring(run, given, source, _as_told(source, [one], product, serial), dry=dry)


def _begin(run: runtime.Run, *, dry: bool) -> None:
    if not dry:
        run.signer()  # a key that does not sign is said before anything is copied
        run.begin()


def _as_told(source: Foreign, found: list[Found], product: Product | None, serial: str) -> list[Found]:
    """What each image is: one as the command line says, others as their places or metadata do."""
    from tasks.take import identify  # noqa: PLC0415 - as above

    if product or serial:
        one = found[0]
        found = [replace(one, product=product or one.product, serial=serial or one.serial)]
    return [identify(source, one, one.product, one.serial) for one in found]


def _bring(run: runtime.Run, given: str, source: Foreign, found: list[Found], *, dry: bool) -> Ended:
    """Take them, a line each, and show them."""
    from tasks.bring import Into, bring  # noqa: PLC0415 - as above

    counts: Counter[str] = Counter()
    into = Into(run.layout, run.settings, run.signer, run.now, dry)
    for one, made in bring(found, source, given, into):
        run.say("import", "; ".join([f"{one.name}: {made.line}", *one.notes]))
        counts["refused" if made.failed else "taken" if made.image else "left"] += 1
    said = f"{counted(len(found), 'image')} found"
    said += "".join(f", {counts[how]} {how}" for how in ("taken", "left", "refused") if counts[how])
    if dry:
        said = f"{said}; nothing was changed"
        return TaskFailed(said) if counts["refused"] else said
    run.say("import", said)
    end = at_once(run, "exposed", "taken, and not shown")
    if counts["refused"] and isinstance(end, str):
        return TaskFailed(f"{end}; {counted(counts['refused'], 'image')} refused, named above")
    return end
