"""No call of the package reads a file in a way that could run what the file says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import iif
from iif.cli import main

PACKAGE = Path(iif.__file__).parent
ROOT = PACKAGE.parents[2]
FILES = sorted(
    [
        *PACKAGE.rglob("*.py"),
        *(path for folder in ("tools", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
        *ROOT.glob("*.py"),
    ]
)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield the dotted name of everything that a file calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def unsafe(name: str, call: ast.Call) -> bool:
    """Return whether a call could run code that a file holds."""
    last = name.rpartition(".")[2]
    if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
        return keyword(call, "weights_only") is not True
    if last == "merge_from_file":
        return keyword(call, "allow_unsafe") is not False
    if name in ("np.load", "numpy.load"):
        return bool(keyword(call, "allow_pickle"))
    return (
        name in ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system")
        or (name.startswith("yaml.") and last in ("load", "unsafe_load", "full_load"))
        or bool(keyword(call, "shell"))
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_runs_what_a_file_says(path: Path) -> None:
    for name, call in calls(path):
        if name == "exec" and path.name == "tool.py":
            continue  # the tool of Detectron2 that the command line names
        assert not unsafe(name, call), f"{path}:{call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize(
    "call",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "pickle.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "cfg.merge_from_file(f)",
        "cfg.merge_from_file(f, allow_unsafe=True)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(f, shell=True)",
        "eval(f)",
    ],
)
def test_an_unsafe_call_would_be_seen(call: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(call)
    assert next(unsafe(*found) for found in calls(tmp_path / "file.py"))


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_checkpoint_of_torchvision_runs_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    proof, path = tmp_path / "proof", tmp_path / "model_final.pth"
    torch.save({"format": "iif-torchvision/2", "model": Runs(proof)}, path)
    (tmp_path / "gt.json").write_text("{}")
    command = ["train", "--eval-only", "--run", str(path), "--val", str(tmp_path / "gt.json")]
    command += ["--images", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert f"{path}: not a checkpoint" in capsys.readouterr().err
    assert not proof.exists()


def test_matches_run_no_code(tmp_path: Path) -> None:
    """numpy's archives can hold pickles."""
    import numpy as np

    from iif.errors import InputError
    from iif.evaluation.matches_file import load_matches

    proof, path = tmp_path / "proof", tmp_path / "eval_matches.npz"
    with path.open("wb") as f:
        np.savez(f, format=np.array([Runs(proof)], dtype=object))
    with pytest.raises(InputError, match=r"eval_matches.npz: not a file of"):
        load_matches(path)
    assert not proof.exists()
