"""The plan of the house: who may import whom, who prints, and how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stn_cli

PACKAGE = Path(stn_cli.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py"))

# From the bottom. Each imports only what stands below it, and its own kind.
ORDER = [
    {"errors", "names"},
    {"storage", "randomness", "compiled"},
    {"geometry"},
    {"drawing"},
    {"distortions"},
    {"datasets"},
    {"models"},
    {"training"},
    {"visualize"},
    {"experiments"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# The schema of a run stands beside the rooms: it needs names and errors alone, and few may read it.
CONFIG = {"config", "config_distortion", "config_files", "config_model", "config_problems"}
READS_CONFIG = ("cli/", "experiments/", "visualize/", "training/", *(f"{room}/build.py" for room in LEVEL))
KNOWS_TENSORBOARD = {"training/event_file.py", "visualize/server.py"}
LONGEST = 300


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of everything a file imports, inside functions too, "stn_cli.errors.StnError"."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: Path) -> Iterator[str]:
    """Yield the rooms of this package that a file imports from; its version is everybody's."""
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "stn_cli" and parts[1:] != ["__version__"]:
            yield parts[1]


def test_every_room_has_its_place():
    assert {room_of(file) for file in FILES} <= set(LEVEL) | CONFIG | {"__init__"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_import_points_upward(file: Path):
    room, rooms = room_of(file), set(own_imports(file))
    if room in CONFIG:
        assert rooms <= {"names", "errors"} | CONFIG
    elif room == "__init__":
        assert not rooms
    else:
        above = {other for other in rooms - CONFIG - {room} if LEVEL[other] >= LEVEL[room]}
        assert not above, f"{name_of(file)} imports {above}, which do not stand below it"
        assert name_of(file).startswith(READS_CONFIG) or not rooms & CONFIG, f"{name_of(file)} knows of the config"
    assert not (room == "models" and "datasets" in rooms), "datasets and models never meet"


def calls_print(file: Path) -> bool:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write") for node in nodes)


@pytest.mark.parametrize("file", [file for file in FILES if room_of(file) != "cli"], ids=name_of)
def test_only_the_command_line_prints(file: Path):
    assert not calls_print(file)
    assert not {name.split(".")[0] for name in imports(file)} & {"typer", "rich", "click"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_only_the_logger_and_the_board_know_tensorboard(file: Path):
    knows = any("tensorboard" in name for name in imports(file) if not name.startswith("stn_cli."))
    assert knows <= (name_of(file) in KNOWS_TENSORBOARD)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_can_be_read_in_one_sitting(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yield every public class, function and method."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_whatever_is_public_is_documented(file: Path):
    module = ast.parse(file.read_text(encoding="utf-8"))
    assert not module.body or ast.get_docstring(module), f"{name_of(file)} does not say what it is"
    # A method of several classes is documented once, where it is abstract, in the same room.
    neighbours = [ast.parse(other.read_text(encoding="utf-8")) for other in FILES if other.parent == file.parent]
    documented = {node.name for other in neighbours for node in public(other.body) if ast.get_docstring(node)}
    own = {node.name for node in public(module.body) if isinstance(node, ast.ClassDef) or node in module.body}
    documented -= own - {node.name for node in public(module.body) if ast.get_docstring(node)}
    assert [node.name for node in public(module.body) if node.name not in documented] == []


def test_no_drawer_is_called_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert not vague & {part for file in FILES for part in file.relative_to(PACKAGE).with_suffix("").parts}
