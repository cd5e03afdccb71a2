"""The `iif` command: its help, and how it tells a fault."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import iif
from helpers_compare import make_gt, make_results, write
from iif.cli import _REMEDIES, COMMANDS, main
from iif.commands.parser import parse

PACKAGE = Path(iif.__file__).parent


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: iif {command}" in shown
    assert " ".join(COMMANDS[command].run.__doc__.split("\n")[0].split()) in " ".join(shown.split())


def test_the_help_lists_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 0
    listed = re.findall(r"^  ([a-z-]+) {2,}", shown := capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    assert listed[0] == "quickstart"
    assert shown.index("Evaluate and compare:") < shown.index("Methods on a trained model:")


def test_the_version_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"iif {iif.__version__}\npython ")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trian", "iif: error: 'trian' is no command; did you mean train?"),
        ("xyzzy", "iif: error: 'xyzzy' is no command; iif --help lists them"),
        ("methods --jsn", "--jsn is no option; did you mean --json?"),
        ("methods --xyz", "iif methods: error: --xyz is no option (iif methods --help)"),
        ("methods x", "'x' is one argument too many"),
        ("train --images", "--images needs a value"),
        ("evaluate --gt x --output y", "--results is missing"),
        ("quickstart --engine d2", "--engine is 'd2'; it must be one of auto, detectron2, tor"),
        ("quickstart --seed -1", "--seed: '-1' is not a whole number from 0 on"),
        ("predict r i --output o --min-score much", "--min-score: 'much' is not a number"),
        ("predict r i --output o --min-score nan", "--min-score: 'nan' is not a number"),
        (
            "train --images x --output y --resume --eval-only",
            "--resume and --eval-only exclude each other",
        ),
    ],
)
def test_a_mistyped_line_is_told_in_one_line(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(line.split())
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_settings_may_stand_anywhere_among_the_options() -> None:
    args = parse(
        [
            "train",
            "seed=1",
            "--images",
            "x",
            "base_lr=2",
            "--output",
            "y",
            "--train",
            "z",
            "amp=true",
        ]
    )
    assert args.settings == ["seed=1", "base_lr=2", "amp=true"]
    assert (args.command, args.images, args.output, args.train) == ("train", "x", "y", "z")
    assert parse(["train", "--images", "x", "--output", "y"]).settings == []
    args = parse(["predict", "run", "--output", "o", "a.jpg", "--device", "cpu", "b.jpg"])
    assert (args.run, args.images) == ("run", ["a.jpg", "b.jpg"])


@pytest.mark.parametrize("training", ["train", "classify"])
def test_every_setting_is_explained(training: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from iif.classification import ClassifyConfig
    from iif.tv import TrainConfig

    facts = (TrainConfig if training == "train" else ClassifyConfig).facts()
    assert all(fact["description"].endswith(".") for fact in facts)
    assert main(["settings", training]) == 0
    listed = capsys.readouterr().out
    assert "  base_lr = " in listed
    with pytest.raises(SystemExit):
        main([training, "--help"])
    assert listed in capsys.readouterr().out
    assert main(["settings", training, "iif", "seed"]) == 0
    names = re.findall(r"^(\S+) = ", capsys.readouterr().out, re.MULTILINE)
    assert names == [f["name"] for f in facts if f["name"].startswith("iif.")] + ["seed"]
    assert main(["settings", training, "base_lrr"]) == 2
    assert "did you mean base_lr?" in capsys.readouterr().err


def test_weights_are_printed_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = make_gt()
    path = write(tmp_path / "gt.json", gt)
    command = ["weights", "--json", str(path), "--zero-count", "clamp", "--nonpositive", "clamp"]
    assert main(command) == 0
    rows = capsys.readouterr().out.partition("  class\n")[2].splitlines()
    assert sorted(row.split(maxsplit=3)[3] for row in rows) == sorted(
        category["name"] for category in gt["categories"]
    )
    counts = [int(row.split()[0]) for row in rows]
    assert counts == sorted(counts)


def test_the_trainer_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'detectron2' else find(name, *a)\n"
    )
    done = subprocess.run(
        [sys.executable, str(PACKAGE / "d2" / "train.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "README.md, Installation" in done.stderr
    assert done.stderr.count("\n") == 1


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
