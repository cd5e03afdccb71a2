"""What the classes of the methods say of themselves, as plain values: for people and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getdoc
from typing import Any

import msgspec

from iif.methods.base import Method
from iif.methods.registry import METHODS, description, legal_values, option_types


def all_facts(kinds: Sequence[type[Method]] | None = None) -> list[dict[str, Any]]:
    """Return `facts` of each method, by default of all in the registry and in its order."""
    return [facts(kind) for kind in (METHODS.values() if kinds is None else kinds)]


def facts(kind: type[Method]) -> dict[str, Any]:
    """Return what a method is.

    Returns:
        name, summary (the first sentence of its class), paper, phases, needs, post_hoc (the
        options with which it is used on a plain model, or None), tuned_option, softmax (whether
        loss and probabilities are a softmax's, the only ones that torchvision has), and options:
        name, default, values (what is legal, in words) and description of each.
    """
    defaults = msgspec.to_builtins(kind.options_type())
    return {
        "name": kind.name,
        "summary": " ".join((getdoc(kind) or "").partition("\n\n")[0].split()),
        "paper": kind.paper,
        "phases": list(kind.phases),
        "needs": list(kind.needs),
        "post_hoc": None if kind.post_hoc is None else dict(kind.post_hoc),
        "tuned_option": kind.tuned_option,
        "softmax": kind.loss is Method.loss and kind.probabilities is Method.probabilities,
        "options": [
            {
                "name": name,
                "default": defaults[name],
                "values": legal_values(hint),
                "description": description(hint),
            }
            for name, hint in option_types(kind).items()
        ],
    }
