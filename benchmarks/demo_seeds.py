"""The demo over several seeds: time, AP of baseline and IIF, mean and spread.

    python benchmarks/demo_seeds.py --engine torchvision --out output/demo_seeds [--seeds 0 1 2]

Each seed makes its own data set and trains both models on it (``iif quickstart --seed S``). What
is finished in ``--out`` is not done again; its time is then not known and shown as "-".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

METRICS = ("AP", "APr", "APc", "APf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("detectron2", "torchvision"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()

    rows = [run_seed(args.engine, args.out / f"{args.engine}_{seed}", seed) for seed in args.seeds]
    header = ["seed", "minutes", "boxes or masks"]
    header += [f"{metric} {run}" for run in ("baseline", "IIF") for metric in METRICS]
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for iou_type in ("bbox", "segm"):
        for seed, (minutes, metrics) in zip(args.seeds, rows, strict=True):
            values = [f"{value:.1f}" for value in metrics[iou_type]]
            print(f"| {seed} | {minutes} | {iou_type} | " + " | ".join(values) + " |")
        columns = list(zip(*(metrics[iou_type] for _, metrics in rows), strict=True))
        spread = [
            f"{mean(c):.1f} ± {stdev(c):.1f}" if len(c) > 1 else f"{mean(c):.1f}" for c in columns
        ]
        print(f"| mean ± deviation | | {iou_type} | " + " | ".join(spread) + " |")


def run_seed(engine: str, out: Path, seed: int) -> tuple[str, dict[str, list[float]]]:
    """Run the quickstart; return its minutes and per IoU type baseline's and IIF's metrics."""
    minutes = "-"
    if not (out / "report.html").exists():
        fresh = not out.exists()
        start = time.monotonic()
        command = [sys.executable, "-m", "iif.cli", "quickstart", "--engine", engine]
        subprocess.run([*command, "--seed", str(seed), "--out", str(out)], check=True)
        if fresh:
            minutes = f"{(time.monotonic() - start) / 60:.1f}"
    summaries = [
        json.loads((out / run / "inference" / "eval_summary.json").read_text())["metrics"]
        for run in ("baseline", "iif")
    ]
    return minutes, {
        iou_type: [summary[iou_type][metric] for summary in summaries for metric in METRICS]
        for iou_type in ("bbox", "segm")
    }


if __name__ == "__main__":
    main()
