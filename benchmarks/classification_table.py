"""The long-tail methods on two small classification sets: several seeds, one table.

    python benchmarks/classification_table.py                # about an hour on two cores
    python benchmarks/classification_table.py --sets digits --seeds 1

Runs that are finished in the work folder are not repeated, and training resumes; the table has the
runs that are finished and says how many. Two processes share the work when both are given a set
(--sets) and the same folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from pathlib import Path
from typing import NamedTuple

import torch

from iif import layout
from iif.classification import ClassifyConfig, evaluate, read_config, train
from iif.demo.openmoji_crops import make_openmoji_crops
from iif.evaluation.classification.summary import read_classification_summary
from iif.files import atomic_write, versions
from iif.methods.iif import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
SETS = {"digits": "digits.yaml", "openmoji": "openmoji_classification.yaml"}
TITLES = {
    "digits": "Digits: 5,000 of MNIST's, 400 to 4 of a class for training, 1,000 for test",
    "openmoji": "OpenMoji crops: 100 kinds, 200 to 2 of a kind for training, 2,000 for test",
}
COLUMNS = {"top1": "top-1", "many": "many", "medium": "medium", "few": "few", "ece": "ECE"}
FORMS = {"train": "", "second": "stage 2: ", "test": "post-hoc: "}

# The authors' figures, top-1 in percent, as their repository prints them.
PUBLISHED = (
    ("ImageNet-LT", "SE-ResNet-50, IIF post-hoc", "55.87"),
    ("ImageNet-LT", "SE-ResNeXt-50, IIF", "56.21"),
    ("Places-LT", "SE-ResNet-152, IIF", "40.07"),
    ("ImageNet-LT", "their later AGLU", "57.9 and 59.1"),
    ("ImageNet-LT", "GPaCo, others'", "58.5"),
    ("ImageNet-LT", "ProCo, ResNet-50, others'", "57.8"),
)


class Arm(NamedTuple):
    """A row of the table: how it is trained, and its settings."""

    name: str
    form: str  # of FORMS
    settings: tuple[str, ...] = ()
    base: str = "softmax"  # the run that a second stage or a test starts from

    @property
    def label(self) -> str:
        """The name in the table."""
        return FORMS[self.form] + self.name


ADJUSTED = ("method=logit_adjustment",)
ARMS = (
    Arm("softmax", "train"),
    *(
        Arm(f"IIF {v}", "test", ("method=iif", "iif.apply=test", f"iif.variant={v}"))
        for v in VARIANTS
    ),
    Arm("logit adjustment", "test", (*ADJUSTED, "logit_adjustment.apply=test")),
    Arm("softmax", "second"),
    *(Arm(f"IIF {v}", "second", ("method=iif", f"iif.variant={v}")) for v in VARIANTS),
    Arm("logit adjustment", "second", ADJUSTED),
    Arm("logit adjustment", "train", ADJUSTED),
    Arm("class-balanced sampling", "train", ("sampling=class_balanced",)),
    Arm("DRW, the last fifth", "train", ("reweight_from=DRW",)),
    Arm("Seesaw", "train", ("method=seesaw",)),
    Arm("cosine", "train", ("classifier=cosine",)),
    Arm(
        "cosine, IIF smooth",
        "test",
        ("method=iif", "iif.apply=test", "iif.variant=smooth"),
        base="cosine",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/classification_table"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results-classification.md")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table-only", action="store_true", help="write the table of what is done")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    for name in () if args.table_only else args.sets:
        for seed in range(args.seeds):
            config = settings(name, seed, args.work)
            for arm in ARMS:
                run(arm, config, args.work / name / str(seed))
                write_table(args.work, args.out)
    write_table(args.work, args.out)


def settings(name: str, seed: int, work: Path) -> ClassifyConfig:
    """Return the settings of a set's runs; make its images where they are made."""
    config = read_config(ROOT / "configs" / SETS[name]).override([f"seed={seed}"])
    if name == "openmoji":
        config = config.override([f"root={make_openmoji_crops(work / 'openmoji_crops')}"])
    return config


def run(arm: Arm, config: ClassifyConfig, folder: Path) -> None:
    """Train or test an arm, unless it is done."""
    output = folder / slug(arm.label)
    if (output / layout.INFERENCE / layout.SUMMARY).is_file():
        return
    deferred = config.epochs * 4 // 5
    base = next(a for a in ARMS if (a.name, a.form) == (arm.base, "train"))
    own = [text.replace("DRW", str(deferred)) for text in arm.settings]
    print(f"{output}", flush=True)
    if arm.form == "train":
        train(config.override(own), output, resume=True, device="cpu")
        return
    start = folder / slug(base.label)
    config = config.override([*base.settings, *own])
    if arm.form == "test":
        evaluate(start, output, config, device="cpu")
    else:
        train(config.of_second_stage(), output, start=start, resume=True, device="cpu")


def slug(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label.lower())


def write_table(work: Path, out: Path) -> None:
    """Write the table of the runs that are finished."""
    parts = [
        "# Results: image classification",
        "Written by `python benchmarks/classification_table.py`; not edited. Figures are top-1 "
        "accuracy in percent, over all test images and as the mean over the classes of a group "
        "(many: more than 100 training images, medium: 20 to 100, few: under 20), and the "
        "expected calibration error: mean ± standard deviation over training seeds, of the last "
        "epoch. No value was tuned: every method has its default options.",
    ]
    for name, file in SETS.items():
        rows = [row for arm in ARMS if (row := table_row(arm, work / name))]
        if not rows:
            parts += [f"## {TITLES[name]}", f"Not run yet (`configs/{file}`)."]
        else:
            head = ["method", "seeds", *COLUMNS.values()]
            lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
            parts.append(f"## {TITLES[name]}")
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
            left = [arm.label for arm in ARMS if not table_row(arm, work / name)]
            note = f"`configs/{file}`."
            parts.append(note + (f" Not run: {', '.join(left)}." if left else ""))
    parts += [
        "- Stage 2 trains the classifier alone, from the softmax run on; post-hoc changes the "
        "softmax run's logits at test. raw, base2 and base10 are one weight at three scales.",
        f"- {platform.processor() or platform.machine()}, {os.cpu_count()} cores; "
        + ", ".join(f"{k} {v}" for k, v in versions().items() if k in ("torch", "torchvision"))
        + ".",
        "## The target: published figures",
        "Top-1 in percent, by their authors; **not measured here**.",
        "\n".join(
            f"| {' | '.join(line)} |"
            for line in (("set", "model", "top-1"), (":--", ":--", "--:"), *PUBLISHED)
        ),
    ]
    with atomic_write(out) as f:
        f.write("\n\n".join(parts) + "\n")


def table_row(arm: Arm, folder: Path) -> list[str] | None:
    """Return the cells of an arm, or None where no seed of it is finished."""
    found = []
    for path in sorted(folder.glob(f"*/{slug(arm.label)}/{layout.INFERENCE}/{layout.SUMMARY}")):
        found.append(read_classification_summary(path).metrics)
    if not found:
        return None
    cells = []
    for key in COLUMNS:
        values = [metrics[key] for metrics in found if metrics[key] is not None]
        cell = f"{statistics.mean(values):.1f}" if values else "-"
        cells.append(cell + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""))
    return [arm.label, str(len(found)), *cells]


if __name__ == "__main__":
    main()
