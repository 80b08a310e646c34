"""The operator's commands beside ``publish``, each a doit task (glue)."""

import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from doit import task_params
from doit.exceptions import TaskFailed

from tasks import config, demo, files, frozen, preview, report, runtime
from tasks.errors import SettingsError
from tasks.exposure import Exposure
from tasks.image import Product
from tasks.preview import Preview
from tasks.reporter import Broken, honest, step
from tasks.state import encode, snapshots
from tasks.words import counted

__all__ = [
    "task_demo_build",
    "task_init",
    "task_plan",
    "task_rebuild",
    "task_serverconfig",
    "task_snapshots",
    "task_status",
    "task_twin",
    "task_verify",
]

CLONE = Path(__file__).parents[1]
JSON = {"name": "json", "long": "json", "type": bool, "default": False, "help": "for programs"}


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
    """How every product and upstream stands: newest serial, age, kinds, build, what holds it; --json too."""

    def act(json: bool, globs: list[str]) -> None:  # noqa: FBT001 - doit hands parameters by name
        run = runtime.current()
        known = report.status(run.layout, run.decisions, run.now)
        rows = report.chosen(known, globs)
        missed = report.unmatched(known, globs) if known else ["no product is known yet"]
        beside = [] if globs else report.upstreams(run.layout, run.settings)
        mirrors = [] if globs else report.mirrors(run.layout, run.settings)
        others = [*report.provenance(beside), *report.standing(mirrors, run.now)]
        lines = _pinned(run, [*report.table(rows), *missed, *others])
        told = encode({"products": rows, "upstreams": beside, "mirrors": mirrors}).decode()
        sys.stdout.write(told if json else "\n".join(lines) + "\n")
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
            lines = _pinned(run, [*preview.table(rows, globs), *due])
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


def task_init() -> dict[str, object]:
    """Make ready the place of the site, on btrfs a subvolume; says how snapshots will be made."""

    def act() -> str:
        run = runtime.current()
        wanted, layout = run.settings.snapshot.backend, run.layout
        done = frozen.convert(layout) if wanted in {"auto", "btrfs"} else ""
        frozen.prepare(layout, wanted)
        with files.disk("make"):
            layout.staging.mkdir(parents=True, exist_ok=True)
        return f"{done or layout.root}; snapshots by {frozen.backend(layout, wanted).name}"

    return {"actions": step(act)}


def task_snapshots() -> dict[str, object]:
    """List the snapshots, newest first: what each shows, and what holds it."""

    def act(json: bool) -> None:  # noqa: FBT001 - doit hands parameters by name
        run = runtime.current()
        rows = report.snapshots(run.layout, run.decisions)
        sys.stdout.write(encode(rows).decode() if json else "\n".join(report.listing(rows)) + "\n")

    return {"actions": [(honest(act),)], "params": [JSON], "meta": {"lockless": True}}


def _option(name: str, what: str, kind: type = str, default: object = "") -> dict[str, object]:
    return {"name": name, "long": name.replace("_", "-"), "type": kind, "default": default, "help": what}


SERVERS = ("nginx", "apache", "rsyncd")
WEB = ("server_name", "tree", "certificate", "certificate_key", "listen", "listen_http", "basic_auth")
MODULE = ("tree", "module", "comment", "snapshots")


def task_serverconfig() -> dict[str, object]:
    """Print the configuration of a server for this site: doit serverconfig nginx, apache or rsyncd."""

    def act(*, programs: list[str], **options: str | list[str]) -> None:
        if len(programs) != 1 or programs[0] not in SERVERS:
            said = " ".join(programs) or "nothing"
            raise SettingsError([f"doit serverconfig: {said}: it knows {', '.join(SERVERS)}"])
        told = {name: value for name, value in options.items() if value}
        strange = told.keys() - (MODULE if programs == ["rsyncd"] else WEB)
        if strange:
            names = (name.replace("_", "-") for name in sorted(strange))
            raise SettingsError([f"--{name}: {programs[0]} has no use for it" for name in names])
        sys.stdout.write(_serverconfig(programs[0], told))

    return {
        "actions": [(honest(act),)],
        "params": [
            _option("server_name", "a host name of the site; may be given more than once", list, []),
            _option("tree", "where the tree lies, on a mirror"),
            _option("certificate", "the file with its certificate chain"),
            _option("certificate_key", "the file with the key of that"),
            _option("listen", "where HTTPS is served, like 443 or [::]:443; may be given again", list, []),
            _option("listen_http", "the same for plain HTTP; none for nowhere", list, []),
            _option("basic_auth", "the file of those who may read (htpasswd); with --listen-http=none alone"),
            _option("module", "what rsyncd calls the tree; images"),
            _option("comment", "what rsyncd says of it to who asks for its modules"),
            _option("snapshots", "of rsyncd: a module for each snapshot too", bool, default=False),
        ],
        "pos_arg": "programs",
        "meta": {"lockless": True},
    }


def _serverconfig(program: str, said: Mapping[str, Any]) -> str:
    """What a server needs; raises SettingsError for what it could not read."""
    from tasks import apache, rsyncd, webserver  # noqa: PLC0415 - only this command needs them

    run, tree = runtime.current(), said.get("tree", "")
    older = run.settings.protocols
    module = rsyncd.Module(
        name=said.get("module", rsyncd.NAME), comment=said.get("comment", rsyncd.COMMENT), tree=tree
    )
    listen_http = said.get("listen_http", webserver.HTTP)
    web = webserver.Web(
        names=tuple(said.get("server_name", ("images.example.org",))),
        tree=tree,
        certificate=said.get("certificate", ""),
        key=said.get("certificate_key", ""),
        https=tuple(said.get("listen", webserver.HTTPS)),
        http=() if listen_http == ["none"] else tuple(listen_http),
        passwords=said.get("basic_auth", ""),
    )
    faults = module.faults() if program == "rsyncd" else web.faults()
    if tree and said.get("snapshots"):
        faults.append("--snapshots: a mirror has the newest alone; leave it out, or --tree")
    if program == "apache" and not faults:
        faults = apache.faults(web)
    if faults:
        raise SettingsError(faults)
    try:
        if program == "rsyncd":
            names = run.decisions.dated(snapshots(run.layout)) if said.get("snapshots") else []
            return rsyncd.rsyncd(run.layout.latest, module, [run.layout.dated / name for name in names])
        if program == "apache":
            return apache.apache(run.layout.latest, run.settings.list, web, run.settings.upstream, older)
        return webserver.nginx(run.layout.latest, run.settings.list, web, run.settings.upstream, older)
    except ValueError as error:
        raise SettingsError([f"site.root: {error}"]) from None


KEY = {
    "name": "key",
    "long": "key",
    "type": list,
    "default": [],
    "help": "a file with a public key, instead of signing.key's; may be given more than once",
}


@task_params([KEY, _option("mirror", "a mirror, held against what is served, byte by byte", list, [])])
def task_verify(key: list[str], mirror: list[str]) -> Iterator[dict[str, object]]:
    """Hash what is served again and check every signature and index; changes nothing."""

    def compare(name: str) -> str | TaskFailed:
        run = runtime.current()
        if faults := list(config.unreadable(one for one in run.settings.mirror if one.name == name)):
            raise SettingsError(faults)
        found = Exposure(run).compare(name)
        for line in found:
            _say(line)
        if not found:
            return f"mirror {name} is, byte for byte, what it should be"
        again = f"doit mirror --adopt={name} brings it again, byte by byte"
        return TaskFailed(f"mirror {name}: {counted(len(found), 'fault')}; {again}")

    def act() -> str | TaskFailed:
        if len(mirror) > 1:
            raise SettingsError([f"--mirror={' --mirror='.join(mirror)}: one at a time"])
        if mirror:
            return compare(*mirror)
        from tasks.sign import verifier  # noqa: PLC0415 - only this command needs both
        from tasks.verify import verify  # noqa: PLC0415 - as above

        run = runtime.current()
        keys = [Path(one) for one in key]
        by = partial(verifier, run.settings.signing, keys)
        mirrored = [one.name for one in run.settings.upstream if one.is_mirrored]
        found = verify(run.layout, run.settings.lxc, by, _say, run.settings.page, mirrored)
        return TaskFailed(str(found)) if found.faults else str(found)

    yield {"basename": "verify", "actions": step(act), "meta": {"lockless": True}}


def task_rebuild() -> dict[str, object]:
    """Make the ledger again from the tree, setting damaged images aside."""

    def act() -> str | TaskFailed:
        from tasks.rebuild import rebuild  # noqa: PLC0415 - only this command needs it

        found = rebuild(runtime.current().layout, _say)
        return TaskFailed(str(found)) if found.aside else str(found)

    return {"actions": step(act)}


def task_twin() -> dict[str, object]:
    """Add what Incus or LXD lacks to a products file: doit twin < in.json > out.json."""

    def act() -> None:
        from tasks.twin import decoded, twinned  # noqa: PLC0415 - only this command needs it

        if sys.stdin is None or sys.stdin.isatty():  # None where it is closed
            raise Broken(2, "ERROR: doit twin reads a products file: doit twin < in.json > out.json")
        try:
            text, _ = twinned(decoded(sys.stdin.buffer.read()))
            with os.fdopen(os.dup(1), "wb") as out:  # not doit's own, which keeps all that it is given
                out.write(text.encode())
        except ValueError as error:
            raise Broken(2, f"ERROR: what was read is no products file: {error}") from None
        except OSError as error:
            raise Broken(2, f"ERROR: cannot write: {error.strerror}") from None

    return {"actions": [(honest(act),)], "meta": {"lockless": True}}


def _say(line: str) -> None:
    """A line at once: a whole tree takes its time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
