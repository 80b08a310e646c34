"""The structure as a test: nouns are pure, verbs act, doors are few, and nothing grows without end."""

import ast
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOUNS = {
    "apache",
    "archive",
    "catalogue",
    "dated",
    "decisions",
    "destination",
    "errors",
    "headers",
    "image",
    "importurl",
    "lxcindex",
    "metadata",
    "origin",
    "overlay",
    "page",
    "plan",
    "policy",
    "portion",
    "proof",
    "protocols",
    "rest",
    "rsyncd",
    "schema",
    "stock",
    "streams",
    "trace",
    "twin",
    "webserver",
    "words",
}
VERBS = {
    "beside",
    "bring",
    "check",
    "decide",
    "delta",
    "fetch",
    "follow",
    "haul",
    "hook",
    "indexes",
    "make",
    "mirror",
    "partial",
    "poll",
    "preview",
    "prune",
    "purge",
    "report",
    "snapshot",
    "verify",
    "rebuild",
    "take",
}
DOORS = {
    "threads",
    "files",
    "foreign",
    "frozen",
    "hashed",
    "xdelta",
    "programs",
    "sign",
    "state",
    "config",
    "settings",
    "layout",
    "ledgers",
    "mirrored",
    "rsync",
    "tree",
    "trees",
    "turns",
    "audit",
    "web",
}
GLUE = {
    "batches",
    "hands",
    "options",
    "runtime",
    "exposure",
    "fleet",
    "imports",
    "reporter",
    "journal",
    "commands",
    "demo",
}
FAR_SIDE = {"poll", "fetch", "hook", "plan", "demo", "runtime", "web"}  # who may import jenkins
# What a noun must not import or call: the world.
WORLD = {
    "os",
    "shutil",
    "subprocess",
    "requests",
    "time",
    "random",
    "tempfile",
    "socket",
    "pysequoia",
    "doit",
}
# make is the straight line of one image, bring that of one which no Jenkins built; the glue drives everything.
JOINERS = {"make", "bring"}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60

MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted((ROOT / "tasks").glob("*.py"))}
SOURCES = [
    ROOT / "dodo.py",
    *sorted((ROOT / "tasks").glob("*.py")),
    *sorted((ROOT / "jenkins").rglob("*.py")),
]


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def siblings(name: str) -> set[str]:
    return {one.split(".")[1] for one in imports(MODULES[name]) if one.startswith("tasks.")} & MODULES.keys()


def test_every_module_has_its_place() -> None:
    assert NOUNS | VERBS | DOORS | GLUE | {"__init__"} == MODULES.keys()


def test_the_reading_order_names_every_module() -> None:
    text = ast.get_docstring(MODULES["__init__"]) or ""
    assert MODULES.keys() - {"__init__"} <= set(re.findall(r"[a-z]+", text))


@pytest.mark.parametrize("name", sorted(NOUNS))
def test_a_noun_touches_no_world(name: str) -> None:
    tree = MODULES[name]
    assert not {one.split(".")[0] for one in imports(tree)} & WORLD
    assert siblings(name) <= NOUNS | {"settings", "layout"}, "settings' records and layout's names are pure"
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {
        "now",
        "utcnow",
        "today",
        "read_bytes",
        "read_text",
        "write_bytes",
        "write_text",
        "environ",
        "exists",
    }


@pytest.mark.parametrize("name", sorted(VERBS - JOINERS))
def test_a_verb_calls_no_other_verb(name: str) -> None:
    assert not siblings(name) & VERBS


@pytest.mark.parametrize("name", sorted(NOUNS | VERBS | DOORS))
def test_nothing_below_the_glue_knows_doit_or_the_glue(name: str) -> None:
    assert "doit" not in {one.split(".")[0] for one in imports(MODULES[name])}
    assert not siblings(name) & GLUE


def test_each_door_is_the_only_one() -> None:
    for path in SOURCES:
        roots = {one.split(".")[0] for one in imports(ast.parse(path.read_text()))}
        tops = roots & {"subprocess", "requests", "pysequoia"}
        allowed = {
            "web": "requests",
            "programs": "subprocess",
            "client": "requests",
            "sign": "pysequoia",
            "demo": "pysequoia",
        }
        assert tops <= {allowed.get(path.stem, "")}, path


def test_what_is_imported_is_declared_with_the_lowest_version_that_will_do() -> None:
    """What comes along with something else is there in any version: an old urllib3 unpacks without a limit."""
    roots = {one.split(".")[0] for path in SOURCES for one in imports(ast.parse(path.read_text()))}
    needed = roots - sys.stdlib_module_names - {"tasks", "jenkins"}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(one.split(">=") for one in declared)
    assert needed == {"yaml" if name == "PyYAML" else name for name in bounds}


def test_only_the_near_side_knows_the_far_side() -> None:
    for name, tree in MODULES.items():
        if name not in FAR_SIDE:
            assert not {one for one in imports(tree) if one.split(".")[0] == "jenkins"}, name
    for path in (ROOT / "jenkins").rglob("*.py"):
        assert "tasks" not in {one.split(".")[0] for one in imports(ast.parse(path.read_text()))}, path


def test_no_import_goes_in_a_circle() -> None:
    arrows = {name: siblings(name) for name in MODULES}
    while free := {name for name, needs in arrows.items() if not needs}:
        arrows = {name: needs - free for name, needs in arrows.items() if name not in free}
    assert not arrows


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_grows_without_end(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_the_plot_fits_a_page() -> None:
    plot = (ROOT / "dodo.py").read_text()
    assert len(plot.splitlines()) <= 150
    handlers = [node for node in ast.walk(ast.parse(plot)) if isinstance(node, ast.Try | ast.If | ast.While)]
    assert not handlers, "the plot decides nothing"


def test_the_top_level_is_what_it_should_be() -> None:
    ignored = {".git", ".venv", ".demo", "build", "publish.toml", "imagepress.egg-info", "__pycache__"}
    names = {path.name for path in ROOT.iterdir()} - ignored
    assert {one for one in names if not one.startswith(".")} == {
        "dodo.py",
        "tasks",
        "jenkins",
        "tests",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }


def test_the_tests_mock_nothing() -> None:
    words = ("Mock" + "(", "patch" + "(", "monkeypatch" + ".setattr", "mocker" + ".")
    for path, word in itertools.product((ROOT / "tests").rglob("*.py"), words):
        assert word not in path.read_text(), f"{path}: {word}"


def test_skips_are_decided_in_one_place() -> None:
    words = ("pytest" + ".skip", "mark" + ".skip", "mark" + ".xfail", "import" + "orskip")
    for path, word in itertools.product((ROOT / "tests").rglob("*.py"), words):
        assert path.name == "tools.py" or word not in path.read_text(), f"{path}: {word}"
