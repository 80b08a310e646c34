"""The operator's commands beside ``publish``, each a doit task (glue)."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from doit import task_params

from tasks import demo, report, runtime
from tasks.errors import SettingsError
from tasks.image import Product
from tasks.reporter import step
from tasks.state import encode

__all__ = ["task_demo_build", "task_status"]

CLONE = Path(__file__).parents[1]


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
        rows = report.status(run.layout, globs, run.now)
        text = encode(rows).decode() if json else "\n".join(report.table(rows)) + "\n"
        sys.stdout.write(text)

    return {
        "actions": [(act,)],
        "params": [{"name": "json", "long": "json", "type": bool, "default": False, "help": "for programs"}],
        "pos_arg": "globs",
        "meta": {"lockless": True},
    }
