#!/usr/bin/env python3
"""Mutate the rules of the package and report which faults the tests would not notice.

    pip install cosmic-ray
    python tools/mutation_score.py --sample 40 --json survivors.json [rle matching ...]

Works on a copy of the checkout. A random sample of the mutants of each module is tested, one after
another; mutants of type annotations, which change nothing at run time, are left out.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("projects/IIF/iif")
COPIED = ("projects", "tests", "configs", "benchmarks", "train_net.py", "pyproject.toml")
# Module: the tests that are to notice.
MODULES = {
    "data/rle.py": ["test_rle.py", "test_results.py"],
    "data/split.py": ["test_split.py", "test_tuning_values.py"],
    "data/trainable.py": ["test_trainable.py"],
    "statistics.py": ["test_statistics.py", "test_trainable.py"],
    "methods/base.py": ["test_methods.py", "test_method_iif.py", "test_method_seesaw.py"],
    "methods/affine.py": ["test_method_iif.py", "test_method_logit_adjustment.py"],
    "methods/iif.py": ["test_iif_weights.py", "test_method_iif.py"],
    "methods/logit_adjustment.py": ["test_method_logit_adjustment.py"],
    "methods/norcal.py": ["test_method_norcal.py"],
    "methods/fracal.py": ["test_method_fracal.py"],
    "methods/logn.py": ["test_method_logn.py"],
    "methods/seesaw.py": ["test_method_seesaw.py"],
    "methods/eqlv2.py": ["test_method_eqlv2.py"],
    "evaluation/matching.py": ["test_matching.py", "test_evaluate.py"],
    "evaluation/metrics.py": ["test_metrics.py", "test_evaluate.py"],
    "tv/sampling.py": ["test_tv_sampling.py"],
}


def main() -> int:
    """Run the command line; return 0 when every mutant was noticed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", help="parts of names of modules; by default all")
    parser.add_argument("--sample", type=int, default=40, help="mutants a module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--json", type=Path, help="write the survivors' differences here")
    args = parser.parse_args()
    chosen = [m for m in MODULES if not args.modules or any(part in m for part in args.modules)]
    survivors: dict[str, list[str]] = {}
    tested = 0
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Path(folder, "checkout")
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, _parent(copy / name))
        for module in chosen:
            outcome = run(copy, module, args.sample, args.seed)
            survivors[module] = [diff for diff, survived in outcome if survived]
            tested += len(outcome)
            noticed = len(outcome) - len(survivors[module])
            print(f"{module:32} {noticed:4} of {len(outcome):4} mutants noticed", flush=True)
    left = sum(map(len, survivors.values()))
    print(f"{'all':32} {tested - left:4} of {tested:4} mutants noticed")
    if args.json:
        args.json.write_text(json.dumps(survivors, indent=1))
    return 1 if left else 0


def run(copy: Path, module: str, sample: int, seed: int) -> list[tuple[str, bool]]:
    """Return the difference of each sampled mutant of a module, and whether it survived."""
    path = copy / PACKAGE / module
    tests = " ".join(f"tests/{name}" for name in MODULES[module])
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider --hypothesis-seed=0 {tests}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(copy / "projects/IIF"), str(copy)]),
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    }

    def call(*arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=copy, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    call(*command.split())  # compiles the numba code, and must pass
    began = time.monotonic()
    call(*command.split())
    timeout = 30 + 5 * (time.monotonic() - began)
    config, database = copy / "mutants.toml", copy / "mutants.sqlite"
    config.write_text(
        "[cosmic-ray]\n"
        f"module-path = {json.dumps(str(path))}\n"
        f"timeout = {timeout}\nexcluded-modules = []\n"
        f"test-command = {json.dumps(command)}\n"
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    database.unlink(missing_ok=True)
    call("cosmic-ray", "init", str(config), str(database))
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute(
            "SELECT job_id, operator_name, start_pos_row, start_pos_col FROM mutation_specs"
        ).fetchall()
        places = annotations(path.read_text())
        real = sorted(row for row in rows if (row[2], row[3]) not in places)
        # Job ids are random; operator and place are not.
        real.sort(key=lambda row: row[1:])
        kept = {row[0] for row in random.Random(seed).sample(real, min(sample, len(real)))}
        for row in rows:
            if row[0] not in kept:
                for table in ("mutation_specs", "work_items"):
                    connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (row[0],))
    call("cosmic-ray", "exec", str(config), str(database))
    outcomes = []
    for line in call("cosmic-ray", "dump", str(database)).splitlines():
        _, result = json.loads(line)
        outcomes.append((result["diff"], result["test_outcome"] == "survived"))
    return outcomes


def annotations(code: str) -> set[tuple[int, int]]:
    """Return line and column of every place inside of a type annotation."""
    places = set()
    for node in ast.walk(ast.parse(code)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for part in (part for part in parts if part is not None):
            lines = code.splitlines()
            for row in range(part.lineno, (part.end_lineno or part.lineno) + 1):
                first = part.col_offset if row == part.lineno else 0
                last = part.end_col_offset if row == part.end_lineno else len(lines[row - 1])
                places |= {(row, column) for column in range(first, last or 0)}
    return places


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
