"""The star: networks, datasets, losses and utils do not know each other; only scripts join them."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
ROOMS = ("networks", "datasets", "losses", "utils")
SCRIPTS = {path.stem for path in HOUSE.glob("*.py")}
WING = HOUSE / "paper_tables"  # may use every room, as a script does
FILES = sorted(file for room in ROOMS for file in (HOUSE / room).rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    """First words of every absolute import in `file`."""
    tree = ast.parse(file.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return {name.split(".", maxsplit=1)[0] for name in names}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_a_room_imports_neither_another_room_nor_a_script(file):
    own = file.relative_to(HOUSE).parts[0]
    forbidden = imported_modules(file) & ((set(ROOMS) - {own}) | SCRIPTS)
    assert not forbidden, f"{file.name} imports {sorted(forbidden)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_no_relative_import_climbs_out_of_a_room(file):
    depth_in_room = len(file.relative_to(HOUSE).parts) - 1
    nodes = ast.walk(ast.parse(file.read_text()))
    levels = [node.level for node in nodes if isinstance(node, ast.ImportFrom)]
    assert all(level <= depth_in_room for level in levels)


def test_scripts_import_no_other_script_than_evaluate_and_those_without_a_command():
    shared = {p.stem for p in HOUSE.glob("*.py") if "__main__" not in p.read_text()}
    for script in [*HOUSE.glob("*.py"), *WING.glob("*.py")]:
        assert imported_modules(script) & SCRIPTS <= {"evaluate", *shared}, script.name


def test_only_its_script_uses_the_wing_of_the_tables():
    for file in [*FILES, *HOUSE.glob("*.py")]:
        assert file.stem == "reproduce" or WING.name not in imported_modules(file), file
