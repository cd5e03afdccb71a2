"""A finished row as a JSON file that stands alone: what the page is written from, nothing else.

Beside the metrics it has what two rows are compared by: the false positives of each category at
the row's own operating point, and the AP of the bootstrap's replicates, whose draws of images are
the same for every row. So no comparison needs another run's files.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif import layout
from iif.evaluation.bootstrap import GROUP_METRICS, paired_bootstrap, percentile_interval
from iif.evaluation.matches_file import load_matches
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from iif.evaluation.operating_points import num_kept, select_kept
from iif.evaluation.summary_file import read_summary
from iif.files import read_json

FORMAT = "iif-results-row/1"
RECALL = 0.5
REPLICATES = 1000
_UNDEFINED = np.iinfo(np.uint16).max


def evaluation(folder: Path) -> dict[str, Any]:
    """Return what a row keeps of an evaluated run: metrics, operating points and replicates.

    Args:
        folder: with eval_summary.json and eval_matches.npz.
    """
    summary = read_summary(folder / layout.SUMMARY)
    groups = np.array([row.group for row in summary.per_category])
    matches = load_matches(folder / layout.MATCHES)
    return {
        "metrics": summary.metrics,
        "method": summary.method,
        "categories": {
            "groups": "".join(groups),
            "image_count": [row.image_count for row in summary.per_category],
            "instances": [row.num_gt for row in summary.per_category],
        },
        "at_recall": {
            "recall": RECALL,
            **{iou_type: _operating_points(of_type) for iou_type, of_type in matches.items()},
        },
        "replicates": {
            "of": list(GROUP_METRICS),
            "number": REPLICATES,
            "seed": 0,
            "encoding": "base64 of little-endian uint16, hundredths of a percent, 65535 undefined",
            **{
                iou_type: _encoded(
                    paired_bootstrap(
                        [of_type], groups, summary.dataset.num_images, replicates=REPLICATES
                    )[0]
                )
                for iou_type, of_type in matches.items()
            },
        },
        "sha256": {"annotations": summary.dataset.sha256, "results": summary.results.sha256},
        "versions": summary.versions,
    }


def _operating_points(matches: Matches) -> dict[str, list[int | None]]:
    """Return each category's true and false positives at the recall; None: not reached."""
    (kept,) = num_kept(matches, [RECALL])
    category, at_point = select_kept(matches, kept)
    counts = {}
    for name, flag in (("true_positives", TRUE_POSITIVE), ("false_positives", FALSE_POSITIVE)):
        chosen = at_point & (matches.flags[0, 0] == flag)
        number = np.bincount(category[chosen], minlength=len(kept)).tolist()
        counts[name] = [n if k >= 0 else None for n, k in zip(number, kept, strict=True)]
    return counts


def _encoded(values: NDArray[np.float64]) -> str:
    """Return (replicates, metrics) percent as text."""
    hundredths = np.where(np.isnan(values), _UNDEFINED, np.round(100 * values))
    return base64.b64encode(hundredths.astype("<u2").tobytes()).decode()


@dataclass(frozen=True)
class Row:
    """One run's record, as its file has it."""

    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Row:
        """Read a record.

        Raises:
            ValueError: it is of another format.
        """
        content = read_json(path, dict[str, Any], what="a row of the results table")
        if content.get("format") != FORMAT:
            raise ValueError(f"{path}: its format is {content.get('format')}, not {FORMAT}")
        return cls(content)

    @property
    def seed(self) -> int:
        """Of the training run."""
        return self.content["seed"]

    def metric(self, iou_type: str, name: str) -> float | None:
        """Return a metric in percent."""
        return self.content["metrics"][iou_type][name]

    def replicates(self, iou_type: str, name: str) -> NDArray[np.float64]:
        """Return (replicates,) a metric on each draw of images, in percent."""
        stored = self.content["replicates"]
        raw = np.frombuffer(base64.b64decode(stored[iou_type]), "<u2")
        values = raw.reshape(stored["number"], -1)[:, stored["of"].index(name)]
        return np.where(values == _UNDEFINED, np.nan, values / 100)

    def reached(self, iou_type: str) -> int:
        """Return how many categories the run brings to the recall."""
        return sum(n is not None for n in self._counts(iou_type, "false_positives"))

    def false_discovery(self, iou_type: str) -> float:
        """Return FP / (FP + TP) in percent, the mean over the categories with objects.

        A category that the run does not bring to the recall counts 100.
        """
        rates = [
            100.0 if false is None else 100 * false / (false + true)
            for false, true, objects in zip(
                self._counts(iou_type, "false_positives"),
                self._counts(iou_type, "true_positives"),
                self.content["categories"]["instances"],
                strict=True,
            )
            if objects
        ]
        return statistics.mean(rates)

    def share(self, base: Row, iou_type: str) -> tuple[float | None, int]:
        """Return false positives as a share of another row's, and the categories compared.

        They are those that both bring to the recall; None where the other has no false positive.
        """
        pairs = [
            (own, other)
            for own, other in zip(
                self._counts(iou_type, "false_positives"),
                base._counts(iou_type, "false_positives"),
                strict=True,
            )
            if own is not None and other is not None
        ]
        before = sum(other for _, other in pairs)
        return sum(own for own, _ in pairs) / before if before else None, len(pairs)

    def _counts(self, iou_type: str, name: str) -> list[int | None]:
        return self.content["at_recall"][iou_type][name]


def difference(
    rows: Sequence[Row], base: Sequence[Row], iou_type: str, metric: str
) -> tuple[float | None, tuple[float, float] | None]:
    """Return the difference of two methods' means over seeds, and its 95% interval.

    The rule of `iif.evaluation.seeds.compare_seeds`: a replicate draws images, the same for all
    runs, and of each method with n seeds n - 1 of them.

    Args:
        rows, base: of the two methods, the same seeds in the same order.
        iou_type: "bbox" or "segm".
        metric: one of the replicates'.
    """
    means = [_mean([row.metric(iou_type, metric) for row in of]) for of in (base, rows)]
    rng = np.random.default_rng([0, len(base) + len(rows)])
    drawn = []
    for of in (base, rows):
        values = np.stack([row.replicates(iou_type, metric) for row in of])
        picks = rng.integers(len(of), size=(values.shape[1], max(1, len(of) - 1)))
        drawn.append(values[picks, np.arange(values.shape[1])[:, None]].mean(axis=1))
    found = None if means[0] is None or means[1] is None else means[1] - means[0]
    return found, percentile_interval(drawn[1] - drawn[0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) and known else None


def load_rows(folder: Path, names: dict[str, str]) -> dict[str, list[Row]]:
    """Return the rows of each method that has one, by name, in the order of their seeds.

    Args:
        folder: with a folder for each method.
        names: of the methods -> of their folders.
    """
    found: dict[str, list[Row]] = {}
    for name, of_method in names.items():
        rows = [Row.read(path) for path in (folder / of_method).glob("seed*.json")]
        if rows:
            found[name] = sorted(rows, key=lambda row: row.seed)
    return found
