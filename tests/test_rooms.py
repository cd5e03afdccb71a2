"""The rooms of the package: imports run downwards, one subject a file, a method in its own file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iif

PACKAGE = Path(iif.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up; those of one floor do not import each other.
FLOORS = (
    ("errors", "layout", "nms", "mask_logits", "progress", "threads"),
    ("outputs",),
    ("files", "locking"),
    ("distributed",),
    ("data",),
    ("statistics",),
    ("methods", "evaluation"),
    ("augmentation", "settings"),
    ("report",),
    ("tuning",),
    ("d2", "tv", "classification"),
    ("demo", "predict"),
    ("commands",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    """Return the room of a dotted name under ``iif``; None for the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "iif" and len(parts) > 1 else None


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "iif":
            rooms |= {alias.name for alias in node.names if alias.name in FLOOR}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(room_of(node.module))
        elif isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names}
    return rooms - {None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the face of the package hands names on
    for other in imported(path) - {own}:
        assert FLOOR[other] < FLOOR[own], f"{own} imports {other}, which does not lie below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_subject(path):
    assert len(path.read_text().splitlines()) <= 450


def test_the_trainer_stays_short():
    assert len((PACKAGE / "d2" / "train.py").read_text().splitlines()) <= 130


def test_a_methods_name_stands_in_its_own_file_alone():
    pytest.importorskip("torch")
    from iif.methods import METHODS

    homes = {name: Path(ast_file(kind)) for name, kind in METHODS.items()}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or node.value not in METHODS:
                continue
            if is_another_word(path, node):
                continue
            assert path == homes[node.value], f"{path}:{node.lineno} names method {node.value}"


def ast_file(kind: type) -> str:
    import inspect

    return inspect.getfile(kind)


def is_another_word(path: Path, node: ast.Constant) -> bool:
    """Return whether the string is no method: the package, the command, the logger, no edge."""
    line = path.read_text().splitlines()[node.lineno - 1]
    words = ('version("iif")', 'prog="iif"', 'name="iif"', '"iif",', 'edgecolor="none"')
    return any(word in line for word in words)
