"""The demo over several seeds: time, AP and false positives of baseline and IIF, mean and spread.

    python benchmarks/demo_seeds.py --engine torchvision --out output/demo_seeds [--seeds 0 1 2]

Each seed makes its own data set and trains both models on it (``iif quickstart --seed S``). What
is finished in ``--out`` is not done again; its time is then not known and shown as "-". False
positives are those at recall 0.5 (mask IoU 0.5) over the categories in which both reach it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from results_table import spread

from iif.report.tables import markdown_table

METRICS = ("AP", "APr", "APc", "APf")
MODELS = {"softmax": "baseline", "IIF raw": "iif"}  # name -> folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("detectron2", "torchvision"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()

    runs = {
        seed: run_seed(args.engine, args.out / f"{args.engine}_{seed}", seed) for seed in args.seeds
    }
    header = ["seed", "minutes", "model", *(f"box {m}" for m in METRICS)]
    header += [*(f"mask {m}" for m in METRICS), "false positives"]
    rows = []
    for seed, (minutes, values) in runs.items():
        for model, found in zip(MODELS, values, strict=True):
            rows.append([str(seed), minutes, model, *(f"{v:.1f}" for v in found[:-1])])
            rows[-1].append(f"{found[-1]:.0f}")
    for i, model in enumerate(MODELS):
        columns = list(zip(*(values[i] for _, values in runs.values()), strict=True))
        rows.append(["mean", "", model, *(spread(column) for column in columns)])
    print(markdown_table(header, rows))


def run_seed(engine: str, out: Path, seed: int) -> tuple[str, list[list[float]]]:
    """Run the quickstart; return its minutes and, of each model, the table's figures."""
    minutes = "-"
    if not (out / "report.html").exists():
        fresh = not out.exists()
        start = time.monotonic()
        command = [sys.executable, "-m", "iif.cli", "quickstart", "--engine", engine]
        subprocess.run([*command, "--seed", str(seed), "--out", str(out)], check=True)
        if fresh:
            minutes = f"{(time.monotonic() - start) / 60:.1f}"
    analysis = json.loads((out / "false_positives" / "false_positives.json").read_text())
    false_positives = analysis["groups"][0]["false_positives"]
    values = []
    for folder, count in zip(MODELS.values(), false_positives, strict=True):
        summary = json.loads((out / folder / "inference" / "eval_summary.json").read_text())
        metrics = summary["metrics"]
        values.append([metrics[t][m] for t in ("bbox", "segm") for m in METRICS] + [count])
    return minutes, values


if __name__ == "__main__":
    main()
