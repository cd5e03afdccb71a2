"""The result of "iif check" as text and as a page."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from iif.files import atomic_write, versions
from iif.report.data_section import class_histogram
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS
from iif.report.tables import text_table
from iif.report.templating import render_template

if TYPE_CHECKING:
    from iif.check.annotations import Content
    from iif.check.findings import Finding
    from iif.check.run import Check, FileCheck

_WIDTH = 96
_CLASSES = 20
_FORMATS = {"lvis": "LVIS's format", "coco": "COCO's format"}
_HEADINGS = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
_MODELS = {
    "masks": "boxes and masks can be trained",
    "boxes": "boxes alone can be trained",
    "": "nothing can be trained",
}


def verdict(check: Check) -> str:
    """Return the result in one sentence."""
    if not check.usable:
        bad = [file.path for file in check.files if not file.usable]
        errors = sum(f.level == "error" for file in check.files for f in file.findings)
        kinds = "1 kind of error" if errors == 1 else f"{errors} kinds of errors"
        return f"Not usable: {kinds} in {', '.join(bad)}."
    warnings = sum(f.level == "warning" for file in check.files for f in file.findings)
    words = f"Usable: {_MODELS[check.content.model]}."
    return words if not warnings else f"{words} {_count(warnings, 'warning')}."


def check_text(check: Check) -> str:
    """Return the whole result as text."""
    parts = [verdict(check)]
    for file in check.files:
        parts.append("\n".join([f"{file.path}: {_facts_of(check, file)}", *_file_lines(file)]))
    if check.classes:
        parts.append(_classes_text(check))
    return "\n\n".join(parts)


def _facts_of(check: Check, file: FileCheck) -> str:
    if file.role == "results":
        assert check.results is not None
        found = check.results
        return (
            f"{_count(found.detections, 'detection')} in {found.images:,} images, of "
            f"{found.categories:,} categories; {' and '.join(found.iou_types)}"
        )
    content = check.content if file.role == "annotations" else check.validation
    assert content is not None
    return "; ".join(facts(content))


def facts(content: Content) -> list[str]:
    """Return what an annotation file holds, in words."""
    words = [
        _FORMATS[content.format],
        f"{_count(content.images, 'image')}, {_count(content.annotations, 'annotation')}, "
        f"{_count(content.categories, 'category', 'categories')}",
    ]
    if content.crowds:
        words.append(_count(content.crowds, "crowd"))
    words.append(f"{content.masks:,} with a mask")
    if content.model:
        words.append(
            f"{content.trained:,} annotations in {content.shown:,} images would be trained on"
        )
    return words


def _file_lines(file: FileCheck) -> list[str]:
    lines = []
    for level, heading in _HEADINGS.items():
        found = [f for f in file.findings if f.level == level]
        if found:
            lines += [f"  {heading}", *(line for f in found for line in _finding_lines(f))]
    return lines or ["  Nothing to complain of."]


def _finding_lines(found: Finding) -> Iterable[str]:
    message = found.message[:600] + ("..." if len(found.message) > 600 else "")
    yield f"    {found.title}: {found.number:,}{_examples(found)}"
    yield from textwrap.wrap(message, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    yield from textwrap.wrap(
        f"Effect: {found.effect}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )


def _examples(found: Finding) -> str:
    if not found.examples:
        return ""
    more = ", ..." if found.number > len(found.examples) else ""
    return f" ({', '.join(map(str, found.examples))}{more})"


def _classes_text(check: Check) -> str:
    rows = sorted(check.classes, key=lambda row: -row.image_count)
    table = text_table(
        ["class", "id", "group", "images", "instances", "IIF weight"],
        [
            [
                row.name,
                str(row.id),
                GROUP_LABELS.get(row.group, "-"),
                f"{row.image_count:,}",
                f"{row.instance_count:,}",
                "-" if row.weight is None else f"{row.weight:.3f}",
            ]
            for row in rows[:_CLASSES]
        ],
    )
    left = len(rows) - _CLASSES
    more = f"\n... and {left:,} more, with fewer images" if left > 0 else ""
    return f"Classes: {groups_text(check)}\n{table}{more}"


def groups_text(check: Check) -> str:
    """Return how many classes each group has, and how many images show one of them."""
    words = []
    for key, group in check.groups.items():
        range_text = ""
        if group.fewest is not None and group.most is not None:
            same = group.fewest == group.most
            least = "" if same else f"{group.fewest:,} to "
            range_text = f" ({least}{_count(group.most, 'image')})"
        words.append(f"{group.classes:,} {GROUP_LABELS[key]}{range_text}")
    return ", ".join(words)


def write_check_page(check: Check, path: str | os.PathLike[str]) -> None:
    """Write the result as one self-contained page, whole or not at all."""
    text = render_check(check)
    with atomic_write(path) as f:
        f.write(text)


def render_check(check: Check) -> str:
    """Return the page as HTML text."""
    counted = [row for row in check.classes if row.group]
    return render_template(
        "check.html.j2",
        {
            "check": check,
            "verdict": verdict(check),
            "groups": groups_text(check),
            "facts": {file.path: _facts_of(check, file) for file in check.files},
            "columns": ["Class", "Id", "Group", "Images", "Instances", "Crowds", "Weight"],
            "rows": sorted(check.classes, key=lambda row: -row.image_count),
            "histogram": class_histogram(counted) if counted else None,
            "group_colors": GROUP_COLORS,
            "group_labels": GROUP_LABELS,
            "versions": versions(),
        },
        filters={"examples": _examples, "initial": _initial},
        styles=("report.css", "sections.css"),
    )


def _initial(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
