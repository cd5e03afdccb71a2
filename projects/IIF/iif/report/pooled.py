"""Methods of several seeds in words: which to use, and which cannot be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iif.evaluation.at_recall import GROUPS
from iif.evaluation.seeds import SeedComparison, SeedRow
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.run_details import RunDetails
from iif.report.tables import page_interval, page_number, page_signed
from iif.report.verdict import is_difference

_METRICS = ("AP", "APr", "APc", "APf")
# Methods that are named in a sentence; of more, their number is given.
_MAX_NAMED = 5


class PooledWords(NamedTuple):
    """What seeds show of methods.

    Attributes:
        lead: the method of the highest mean, its spread, and how sure its lead is.
        use: the recommendation.
    """

    lead: str
    use: str


def method_names(details: Sequence[RunDetails]) -> list[str]:
    """Return of each run the name of its method: what the names of its seeds have in common."""
    members: dict[str, list[RunDetails]] = {}
    for run in details:
        members.setdefault(run.family or run.name, []).append(run)
    named: dict[str, str] = {}
    for family, own in members.items():
        name = _common_name(own)
        named[family] = name if name not in named.values() else own[0].name
    return [named[run.family or run.name] for run in details]


def find_row(found: SeedComparison, iou_type: str, metric: str = "AP") -> SeedRow | None:
    """Return the row of a metric, if it is there."""
    rows = (row for row in found.metrics if (row.iou_type, row.metric) == (iou_type, metric))
    return next(rows, None)


def pooled_words(found: SeedComparison, iou_type: str) -> PooledWords | None:
    """Return which method to use and how sure that is; None where no AP is defined.

    Args:
        found: the methods, the baseline first.
        iou_type: whose AP decides.
    """
    row = find_row(found, iou_type)
    if row is None or row.best is None:
        return None
    best, kind = row.best, IOU_NAMES[iou_type]
    methods, name, first = found.methods, found.methods[row.best], found.methods[0]
    lead = f"Of {len(methods)} methods ({_seeds(found)}) {name} has the highest mean {kind} AP: "
    lead += f"{_value(row, best)}"
    if best:
        lead += f"; {first} has {_value(row, 0)}"
        interval = page_interval(row.intervals[best - 1])
        lead += f", a difference of {page_signed(row.differences[best - 1])}"
        lead += f" {interval}." if interval else "."
    else:
        lead += ", and it is the baseline."
    rivals = [
        i
        for i, interval in enumerate(row.behind)
        if i != best and not (interval is not None and is_difference(interval))
    ]
    if not found.replicates:
        doubt = "There are no intervals, so the order of the methods may be chance."
        return PooledWords(f"{lead} {doubt}", f"Use {name}. {doubt}")
    others = len(methods) - 1
    if len(rivals) == others:
        doubt = "Nothing is distinguishable: the interval of every difference to it includes zero."
        use = f"No method is shown to be better than another. {name} has the highest mean; any "
        use += "other may be as good, so choose by cost, or train more seeds."
        return PooledWords(f"{lead} {doubt}", use)
    if rivals:
        names = _listed([methods[i] for i in rivals])
        doubt = f"No difference to it is shown for {names}."
        use = f"Use {name}; {names} may be as good: between them choose by cost, or train more "
        use += "seeds."
    else:
        doubt = "Its difference to every other method is more than chance."
        use = f"Use {name}: it is better than every other method here."
    return PooledWords(f"{lead} {doubt}", use + _losses(found, iou_type, best))


def _losses(found: SeedComparison, iou_type: str, best: int) -> str:
    """Return the sentence on the groups in which the method loses against the baseline."""
    if best == 0:
        return ""
    lost = []
    for group, metric in zip(GROUPS[1:], _METRICS[1:], strict=True):
        row = find_row(found, iou_type, metric)
        interval = row.intervals[best - 1] if row is not None else None
        if row is not None and interval is not None and interval.high < 0:
            change = page_signed(row.differences[best - 1])
            lost.append(f"{GROUP_LABELS[group]} categories ({change} {page_interval(interval)})")
    if not lost:
        return ""
    return f" It loses in {' and '.join(lost)}: where these count most, keep {found.methods[0]}."


def _seeds(found: SeedComparison) -> str:
    low, high = min(found.seeds), max(found.seeds)
    each = f"{low}" if low == high else f"{low} to {high}"
    return f"{each} seed{'s' if high > 1 else ''} each"


def _value(row: SeedRow, method: int) -> str:
    spread = row.spreads[method]
    text = page_number(row.means[method])
    return text if spread is None else f"{text} \N{PLUS-MINUS SIGN} {page_number(spread)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MAX_NAMED:
        return f"{len(names)} other methods"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _common_name(own: Sequence[RunDetails]) -> str:
    """Return the run's name, or of several seeds what their names have in common."""
    if len(own) == 1:
        return own[0].name
    prefix = own[0].name
    for run in own[1:]:
        while not run.name.startswith(prefix):
            prefix = prefix[:-1]
    prefix = prefix.rstrip("-_ /0123456789").removesuffix("seed").rstrip("-_ /")
    return prefix or own[0].method or own[0].name
