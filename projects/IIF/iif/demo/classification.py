"""The demo of image classification: OpenMoji crops, the baseline, IIF, comparison, report.

Every step is one that the ``iif`` command does on its own; here they follow one another, small
enough for two processor cores.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from iif import layout
from iif.classification import ClassifyConfig, train
from iif.demo.openmoji_crops import CropSettings, make_openmoji_crops
from iif.demo.quickstart import begin, step
from iif.methods import DEFAULT

NAMES = {"baseline": "baseline", DEFAULT: f"{DEFAULT.upper()}, second stage"}
_STEPS = 4
# The settings of configs/openmoji_classification.yaml, which cannot be read without PyYAML.
CONFIG = ClassifyConfig(
    data="folder",
    root=None,
    train="train",
    test="test",
    cache_images=True,
    model="se_resnet8",
    image_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    images_per_batch=32,
    epochs=15,
    base_lr=0.2,
    schedule="cosine",
    channels_last=True,
    workers=0,
    second_stage={"epochs": 5, "base_lr": 0.1},
)


def quickstart(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    crops: CropSettings | None = None,
    settings: Iterable[str] = (),
) -> Path:
    """Make the crops, train the baseline, then IIF on it, compare them, and write the report.

    Steps that are finished in ``out`` are not repeated, and training resumes from its last
    checkpoint. Prints one line for each step, the comparison, and where the files are.

    Args:
        out: the folder to work in: new, empty, or one that this quickstart was begun in.
        seed: of the data set and of both training runs.
        crops: the data set, whose seed is replaced; by default one for two processor cores.
        settings: KEY=VALUE overrides of the training settings.

    Returns:
        the report's path.

    Raises:
        InputError: ``out`` holds other files or was begun with other settings.
    """
    from iif.evaluation.classification.compare import compare_classifications
    from iif.report.classification.page import write_classification_report
    from iif.report.classification.pictures import MAX_EXAMPLES, make_examples
    from iif.report.classification.text import comparison_text, save_comparison_tables

    folder = Path(out).resolve()
    size = dataclasses.replace(crops or CropSettings(), seed=seed)
    data, report = folder / "openmoji_crops", folder / layout.REPORT
    config = CONFIG.override([f"seed={seed}", *settings])
    marker = {"data set": dataclasses.asdict(size), "training": config.to_dict()}
    begin(folder, {"task": "classification", **marker})
    config = config.override([f"root={data}"])
    with step(1, f"data set: crops of {size.categories} kinds of thing", _STEPS):
        make_openmoji_crops(data, size)
    baseline, second = (folder / name for name in NAMES)
    with step(2, "baseline: training and test (some minutes)", _STEPS):
        _train_once(config, baseline)
    with step(3, f"{NAMES[DEFAULT]}: training of the classifier and test", _STEPS):
        staged = config.override([f"method={DEFAULT}"]).of_second_stage()
        _train_once(staged, second, start=baseline)
    with step(4, "comparison and report", _STEPS):
        comparison = compare_classifications([baseline, second], names=list(NAMES.values()))
        save_comparison_tables(comparison, folder / layout.COMPARISON)
        examples = make_examples(comparison, data, MAX_EXAMPLES)
        write_classification_report(comparison, report, examples=examples)
    print(f"\n{comparison_text(comparison)}\n")
    print(f"Comparison: {folder / layout.COMPARISON}")
    print(f"Report:     {report} (open it in a browser)", flush=True)
    return report


def _train_once(config: ClassifyConfig, run: Path, start: Path | None = None) -> None:
    if (run / layout.INFERENCE / layout.SUMMARY).is_file():
        print(f"    {run.name}: done before")
        return
    train(config, run, start=start, resume=True, device="cpu")
