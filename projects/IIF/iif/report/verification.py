"""How much the official evaluator differs, as text."""

from __future__ import annotations

from collections.abc import Sequence

from iif.evaluation.verify import Verification
from iif.report.labels import IOU_NAMES


def verification_text(found: Sequence[Verification]) -> str:
    """Return a line for each IoU type: the largest difference, and where it is."""
    lines = []
    for one in found:
        place = f" ({one.place})" if one.place else ""
        lines.append(
            f"{IOU_NAMES[one.iou_type]}: {one.cells:,} values of precision and recall; largest "
            f"difference to {one.evaluator}: {one.difference:.2g} percentage points{place}"
        )
    return "\n".join(lines)
