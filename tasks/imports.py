"""``doit import``, a doit task (glue): images that no Jenkins built, taken and shown at once."""

from collections import Counter
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from doit.exceptions import TaskError, TaskFailed
from msgspec.structs import replace

from tasks import files, report, runtime
from tasks.errors import SettingsError
from tasks.exposure import at_once
from tasks.foreign import Foreign, shown
from tasks.image import COMBINED, Product
from tasks.origin import NAMES, Found, as_listed, lacking, serial_of, to_store
from tasks.reporter import honest
from tasks.words import counted

__all__ = ["task_import"]

Ended: TypeAlias = str | TaskFailed | TaskError
WHAT = "a directory, a tree, a unified image, incus:ALIAS or lxd:ALIAS"

PARAMETERS = [
    {"name": "given", "long": "from", "type": list, "default": [], "help": WHAT},
    {
        "name": "adopt",
        "long": "adopt",
        "type": list,
        "default": [],
        "help": "a tree to take over, without a copy",
    },
    {"name": "product", "long": "as", "default": "", "help": "os/release/arch/variant of one image"},
    {"name": "serial", "long": "serial", "default": "", "help": "YYYYMMDD_HH:MM of one image"},
    {"name": "dry", "long": "dry-run", "type": bool, "default": False, "help": "only say what would be done"},
]


class Asked(NamedTuple):
    """What the command line says."""

    source: str  # as the operator wrote it
    option: str
    product: Product | None
    serial: str
    dry: bool

    @property
    def adopts(self) -> bool:
        """Whether files are taken over where they lie."""
        return self.option == "--adopt"


def task_import() -> dict[str, object]:
    """Publish what lies in a directory or tree, --from=SRC, with the checks that builds go through."""

    def act(names: list[str], *, given: list[str], adopt: list[str], dry: bool, **told: str) -> Ended:
        option, source = _one([("--from", one) for one in given] + [("--adopt", one) for one in adopt], names)
        return _import(Asked(source, option, *_told(told["product"], told["serial"]), dry))

    return {"actions": [(honest(act),)], "params": PARAMETERS, "pos_arg": "names", "meta": {"lockless": True}}


def _one(sources: list[tuple[str, str]], names: list[str]) -> tuple[str, str]:
    """The one source that the command line names, and how; raises SettingsError."""
    if len(sources) == 1 and sources[0][1] and not names:
        return sources[0]
    what = f"say from where, --from=SRC: {WHAT}; or --adopt=TREE"
    if len(sources) > 1:
        what = f"{' and '.join(f'{option}={shown(source)}' for option, source in sources)}: one at a time"
    elif sources and names:
        what = f"{shown(' '.join(names))}: what is this? Options begin with --, and a source is one of them"
    raise SettingsError([f"doit import: {what}"])


def _told(product: str, serial: str) -> tuple[Product | None, str]:
    """What the command line says of one image; raises SettingsError."""
    try:
        named = as_listed(Product.parse(product)) if product else None
        return named, serial_of(serial) if serial else ""
    except ValueError as error:
        raise SettingsError([f"doit import: {error}"]) from None


def _look(asked: Asked) -> tuple[Foreign, list[Found]]:
    """Every image that lies there; raises SettingsError where none does."""
    from tasks.take import PLACE, alone, find, single  # noqa: PLC0415 - only this command needs it

    path, given = Path(asked.source), f"{asked.option}={shown(asked.source)}"
    if files.status(path) is None:
        raise SettingsError([f"{given}: there is no such file or directory"])
    single_file = path.is_file()
    source = Foreign(path.parent if single_file else path)
    if asked.adopts and (single_file or alone(source)):
        raise SettingsError([f"{given}: only a whole tree is taken over; for one image use --from"])
    if single_file and path.name in NAMES.keys() - {*COMBINED}:
        halves = lacking(to_store([path.name]))
        raise SettingsError([f"{given}: {halves}; name the directory that has them all"])
    found = [single(path.name)] if single_file else alone(source)
    found = found or find(source, whole=asked.adopts)
    if all(one.stray for one in found):
        what = f"incus.tar.xz and the like in it, [images/]{PLACE} below it, and streams/v1"
        faults = [f"{one.where}: {one.fault}" for one in found[: report.SHOWN]]
        raise SettingsError([f"{given}: there is no image; looked for were {what}", *faults])
    if (asked.product or asked.serial) and len(found) > 1:
        raise SettingsError(
            [f"--as and --serial name one image, and {shown(asked.source)} holds {len(found)}"]
        )
    return source, found


def _import(asked: Asked) -> Ended:
    from tasks.take import CLIENTS, export  # noqa: PLC0415 - only this command needs it

    run = runtime.current()
    given = f"{asked.option}={shown(asked.source)}"
    daemon, _, image = asked.source.partition(":")
    if asked.adopts or daemon not in CLIENTS:
        source, found = _look(asked)
        if asked.adopts:
            _refuse_elsewhere(given, source.top, run.settings.site.root)
        _begin(run, dry=asked.dry)
        return _bring(run, asked, source, found)
    if not image:
        raise SettingsError([f"{given}: name an image, {daemon}:ALIAS"])
    _begin(run, dry=asked.dry)
    with files.scratch(None if asked.dry else run.layout.staging) as directory:
        if asked.dry:
            run.say("import", f"{given}: exported to {directory} for a look; TMPDIR names another place")
        one = export(daemon, image, directory, () if asked.dry else [run.lock()])
        return _bring(run, asked, Foreign(directory), [one])


def _refuse_elsewhere(given: str, top: Path, root: Path) -> None:
    """What is taken over gets a second name, which another file system cannot give it."""
    here = next(seen for path in (root, *root.parents) if (seen := files.status(path)))
    there = files.status(top)
    if there and there.st_dev != here.st_dev:
        raise SettingsError([f"{given}: it is on another file system than site.root, {root}; use --from"])


def _begin(run: runtime.Run, *, dry: bool) -> None:
    if not dry:
        run.signer()  # a key that does not sign is said before anything is copied
        run.begin()


def _as_told(source: Foreign, found: list[Found], asked: Asked) -> list[Found]:
    """What each image is: one as the command line says, others as their places or metadata do."""
    from tasks.take import identify  # noqa: PLC0415 - as above

    if asked.product or asked.serial:
        one = found[0]
        found = [replace(one, product=asked.product or one.product, serial=asked.serial or one.serial)]
    return [identify(source, one, one.product, one.serial) for one in found]


def _bring(run: runtime.Run, asked: Asked, source: Foreign, found: list[Found]) -> Ended:
    """Take them, a line each, and show them."""
    from tasks.bring import Into, bring, is_there  # noqa: PLC0415 - as above
    from tasks.sign import verifier  # noqa: PLC0415 - as above

    counts: Counter[str] = Counter()
    judge = cache(partial(verifier, run.settings.signing, [])) if asked.adopts else None
    into = Into(run.layout, run.settings, run.signer, run.now, asked.dry, judge)
    there: set[str] = set()
    for one, made in bring(_as_told(source, found, asked), source, into):
        run.say("import", "; ".join([f"{one.name}: {made.line}", *one.notes]))
        counts["refused" if made.failed else "taken" if made.image else "left"] += 1
        if made.image or (not made.failed and is_there(one, run.layout)):
            there |= {one.name, one.name.rpartition("/")[0]}
    if asked.adopts and there:
        _keep_extras(run, source, dry=asked.dry)
    said = f"{counted(len(found), 'image')} found"
    said += "".join(f", {counts[how]} {how}" for how in ("taken", "left", "refused") if counts[how])
    if asked.dry:
        said = f"{said}; nothing was changed"
        return TaskFailed(said) if counts["refused"] else said
    run.say("import", said)
    end = at_once(run, "exposed" if counts["taken"] else "nothing new", "taken, and not shown")
    if not isinstance(end, str):
        return end
    apart = {name: why for name, why in report.apart(run.layout).items() if name in there}
    for name, why in apart.items():
        run.say("import", f"{name}: in quarantine: {why}")
    faults = [f"{counted(counts['refused'], 'image')} refused"] if counts["refused"] else []
    faults += [f"{len(apart)} in quarantine"] if apart else []
    return TaskFailed(f"{end}; {', '.join(faults)}, named above") if faults else end


def _keep_extras(run: runtime.Run, source: Foreign, *, dry: bool) -> None:
    """Take over what lies beside the images, a line each; of what would be taken, some."""
    from tasks.beside import keep_extras  # noqa: PLC0415 - as above

    lines = keep_extras(source, run.layout, dry=dry)
    for line in islice(lines, report.SHOWN if dry else None):
        run.say("import", line)
    if rest := len(list(lines)):
        run.say("import", f"and {counted(rest, 'file')} more beside the images")
