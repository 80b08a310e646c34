"""README.md says what is so."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from tasks import config, settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def keys(record: type[msgspec.Struct], top: str = "") -> set[str]:
    """Every key of the configuration, with its table."""
    found = set()
    for field in msgspec.structs.fields(record):
        inner = [one for one in [field.type, *getattr(field.type, "__args__", ())] if isinstance(one, type)]
        records = [one for one in inner if issubclass(one, msgspec.Struct) and not hasattr(one, "parse")]
        name = f"{top}.{field.name}" if top else field.name
        found |= keys(records[0], name) if records else {name}
    return found


def test_the_first_two_blocks_are_one_line_each() -> None:
    assert [block.count("\n") for block in SHELL[:2]] == [1, 1]
    assert SHELL[0].strip().endswith(".venv/bin/doit publish")
    assert SHELL[1].strip().endswith(".venv/bin/pytest")


def test_the_table_names_every_setting_and_no_other() -> None:
    named = set()
    table = README.partition("| key | default |")[2].partition("\n\n")[0]
    for cell in re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE):
        first, *rest = re.findall(r"`([^`]+)`", cell)
        top = first.rpartition(".")[0]
        named |= {first, *(f"{top}{one}" if one.startswith(".") else one for one in rest)}
    assert named == keys(settings.Settings)


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    text = next(iter(re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)))
    path = tmp_path / "publish.toml"
    path.write_text(text)
    read = config.read(path, ROOT)
    assert len(read.rules) == len(tomllib.loads(text)["rules"])


@pytest.mark.parametrize(
    ("heading", "least"), [("Which client reads what", 15), ("When something goes wrong", 20)]
)
def test_every_row_names_a_test_that_exists(heading: str, least: int) -> None:
    table = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > least
    text = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", text))
    for *says, test in rows:
        assert all(cell.strip() for cell in says), says
        (name,) = re.findall(r"`(test_\w+)`", test)
        assert name in there, says


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout of its own, without configuration: what git has, and what it would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        if (ROOT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def run(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    doit = f"{shlex.quote(sys.executable)} -m doit"
    command = line.replace(".venv/bin/doit", doit)
    command = re.sub(r"(^|&& )doit ", rf"\1{doit} ", command)
    return subprocess.run(
        command, shell=True, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_demo_publishes_and_then_has_nothing_to_do(clone: Path) -> None:
    publish = SHELL[0].strip().rpartition(" && ")[2]
    first = run(publish, clone)
    assert first.returncode == 0, first.stdout + first.stderr
    latest = clone / ".demo/root/latest"
    streams = msgspec.json.decode((latest / "streams/v1/images.json").read_bytes())["products"]
    assert len(streams) == 4
    ftypes = {
        item["ftype"]
        for p in streams.values()
        for v in p["versions"].values()
        for item in v["items"].values()
    }
    assert {"squashfs", "disk-kvm.img", "root.tar.xz"} <= ftypes
    assert {product["arch"] for product in streams.values()} == {"amd64", "arm64"}
    assert {product["release"] for product in streams.values()} == {"trixie", "bookworm"}
    assert "held: alpine/3.22/amd64/default: build #1 has not passed the test job" in first.stdout
    assert "To look at what it made:" in first.stdout
    mirrored = {p.relative_to(clone / ".demo/mirror") for p in (clone / ".demo/mirror").rglob("*")}
    assert mirrored == {p.relative_to(latest) for p in latest.rglob("*")}
    second = run(publish, clone)
    assert second.returncode == 0
    assert "nothing changed" in second.stdout


def test_every_other_command_does_what_it_says(clone: Path) -> None:
    said = ""
    for block in SHELL[2:]:
        for line in block.splitlines():
            done = run(line, clone)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
    assert "rejected: meta.tar.xz holds no file 'config'" in said


def test_list_shows_the_commands_without_a_demo(clone: Path) -> None:
    done = run("doit list", clone)
    assert done.returncode == 0, done.stderr
    assert "Publish everything that is new" in done.stdout
    assert not (clone / ".demo").exists()
