"""Kernels: compiled once, loaded without numba, compiled anew where anything has changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import TypingError

from iif import kernels
from iif.kernels import Kernel, kernel
from iif.threads import in_threads

SCRIPT = """
import sys
import numpy as np
from iif.kernels import kernel

@kernel
def shifted(value):
    return value + {shift}

@kernel
def fill(values, factor, out):
    for i in range(len(values)):
        out[i] = factor * shifted(values[i])

out = np.empty(3)
fill(np.arange(6, dtype=np.int32)[::2], 0.5, out)
print(*out, "numba" in sys.modules)
"""


@kernel
def add_up(values, weights, scale, out):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i] += scale * values[i, j] * weights[j]


@kernel
def quotient(a, b, out):  # type: ignore[no-untyped-def]
    out[0] = a / b


@kernel
def allocates(out):  # type: ignore[no-untyped-def]
    out[:] = np.zeros(len(out))


def run(folder: Path, shift: int = 1) -> str:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(shift=shift)],
        env=kernels.os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.strip() + process.stderr


def test_later_processes_load_the_code_without_numba(tmp_path: Path) -> None:
    assert run(tmp_path) == "0.5 1.5 2.5 True"
    assert run(tmp_path) == "0.5 1.5 2.5 False"
    # What a kernel calls is part of it.
    assert run(tmp_path, shift=3) == "1.5 2.5 3.5 True"
    assert run(tmp_path, shift=3) == "1.5 2.5 3.5 False"
    assert run(tmp_path) == "0.5 1.5 2.5 False"


def test_damaged_code_is_compiled_anew(tmp_path: Path) -> None:
    run(tmp_path)
    (file,) = (tmp_path / "iif-kernels").iterdir()
    code = bytearray(file.read_bytes())
    for content in (code[:-1], b"", b"\n", code[:200] + b"\0" + code[201:]):
        file.write_bytes(content)
        assert run(tmp_path) == "0.5 1.5 2.5 True"
        assert file.read_bytes() == code


def test_without_a_folder_a_run_compiles_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = run(tmp_path / "file" / "folder")
    assert text.startswith("0.5 1.5 2.5 True")
    assert text.count("set NUMBA_CACHE_DIR") == 1


@pytest.mark.parametrize("order", ["C", "F", "stepped", "unaligned", "read-only"])
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8])
def test_arrays_of_every_order_and_type(order: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (4, 6)).astype(dtype)
    if order == "F":
        values = np.asfortranarray(values)
    elif order == "stepped":
        values = values[::2, ::-1]
    elif order == "unaligned":
        values = np.frombuffer(b" " + values.tobytes(), dtype, offset=1).reshape(4, 6)
    elif order == "read-only":
        values.flags.writeable = False
    out, weights = np.zeros(len(values)), np.arange(values.shape[1])
    add_up(values, weights, 2, out)
    np.testing.assert_array_equal(out, 2 * values.astype(np.float64) @ weights)


def test_division_by_zero_and_scalars() -> None:
    out = np.zeros(1)
    for a, b, expected in ((1.0, 0.0, np.inf), (np.int32(6), np.int64(4), 1.5), (True, 2, 0.5)):
        quotient(a, b, out)
        assert out[0] == expected


def test_a_kernel_that_needs_numba_at_run_time_is_refused() -> None:
    with pytest.raises(TypingError, match=r"np\.empty"):
        allocates(np.ones(3))


def test_threads_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compiled = []
    compile_ = Kernel._compile
    monkeypatch.setattr(
        Kernel, "_compile", lambda self, of: compiled.append(of) or compile_(self, of)
    )
    fresh = kernel(add_up.function)
    outs = [np.zeros(50) for _ in range(8)]
    in_threads(lambda out: fresh(np.ones((50, 3)), np.ones(3), 1.0, out), outs)
    assert len(compiled) == 1
    assert all((out == 3).all() for out in outs)
