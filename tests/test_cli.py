"""The `iif` command: its help, and how it tells a fault."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iif
from helpers_compare import make_gt, make_results, write
from iif.cli import _REMEDIES, COMMANDS, build_parser, main

PACKAGE = Path(iif.__file__).parent


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        build_parser().parse_args([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: iif {command}" in shown
    assert " ".join(COMMANDS[command].run.__doc__.split("\n")[0].split()) in " ".join(shown.split())


def test_the_flag_of_a_remedy_is_one_of_a_command() -> None:
    flags = {f for command in COMMANDS.values() for a in command.arguments for f in a.flags}
    assert set(_REMEDIES.values()) <= flags


def test_a_fault_names_the_flag_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = make_gt()
    for category in gt["categories"]:
        del category["frequency"]
    results = write(tmp_path / "results.json", make_results(gt))
    command = ["evaluate", "--gt", str(write(tmp_path / "gt.json", gt)), "--results", str(results)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.endswith(" (--train-json)\n")
    assert error.count("\n") == 1


def test_names_of_runs_are_refused_by_their_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["false-positives", "--gt", "gt.json", "--results", "r.json", "--names", "a", "b"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "1 different names are needed" in (error := capsys.readouterr().err)
    assert error.endswith("(--names)\n")


def flags_in(path: Path) -> set[str]:
    """The texts of a module, docstrings left out, that name a command-line flag."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {ast.get_docstring(n, clean=False) for n in ast.walk(tree) if isinstance(n, documented)}
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {
        text
        for text in texts - docs
        if any(word.startswith("--") and word[2:3].isalpha() for word in text.split())
    }


def test_only_the_command_line_names_its_flags() -> None:
    # The trainer parses arguments of its own; the demo starts it.
    allowed = {"cli.py", "demo/quickstart.py"}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in allowed and not name.startswith(("d2/", "commands/")):
            assert flags_in(path) == set(), name
