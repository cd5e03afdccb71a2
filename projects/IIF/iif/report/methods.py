"""The long-tail methods in words: `iif.methods.facts` as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

WIDTH = 96
PHASES = {"train_and_test": "in training and at test", "train": "in training", "test": "at test"}
NEEDS = {
    "counts": "class counts of the training set",
    "boxes": "the training set's boxes",
    "moments": "moments of a plain model's logits (iif moments)",
}


def methods_text(methods: Sequence[dict[str, Any]]) -> str:
    """Return name, phase, needs, options and paper of each method.

    Args:
        methods: `iif.methods.facts.facts` of each.
    """
    return "\n\n".join(_method_text(method) for method in methods)


def _method_text(method: dict[str, Any]) -> str:
    lines = [method["name"], *_wrapped(method["summary"], 2)]
    rows = {"phase": _phase(method["phases"])}
    if method["needs"]:
        rows["needs"] = ", ".join(NEEDS[need] for need in method["needs"])
    if method["post_hoc"] is not None:
        settings = " ".join(f"{key}={value}" for key, value in method["post_hoc"].items())
        rows["on a plain model"] = f"yes{f', with {settings}' if settings else ''}"
    if method["tuned_option"]:
        rows["tuned option"] = method["tuned_option"]
    if not method["softmax"]:
        rows["engine"] = "Detectron2 alone: its loss is no softmax's"
    if method["paper"]:
        rows["paper"] = method["paper"]
    width = max(map(len, rows))
    for key, value in rows.items():
        lines += _wrapped(value, 2, f"{key.ljust(width)}  ")
    lines += options_text(method["options"], indent=2)
    return "\n".join(lines)


def options_text(options: Sequence[dict[str, Any]], indent: int) -> list[str]:
    """Return lines with name, default, what is legal and meaning of each option or setting."""
    lines = []
    for option in options:
        default = option["default"]
        shown = default if isinstance(default, str) and default else json.dumps(default)
        lines.append(f"{' ' * indent}{option['name']} = {shown}  ({option['values']})")
        lines += _wrapped(option["description"], indent + 4)
    return lines


def _phase(phases: Sequence[str]) -> str:
    if not phases:
        return "none: the logits stay as they are"
    first, *others = (PHASES[phase] for phase in phases)
    return first + "".join(f"; or {other} alone" for other in others)


def _wrapped(text: str, indent: int, first: str = "") -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=space + first,
        subsequent_indent=space + " " * len(first),
        break_on_hyphens=False,
    )
