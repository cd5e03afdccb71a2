"""The methods by name, and how one is built from plain settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from iif.errors import InputError
from iif.methods.base import Method, Options
from iif.methods.counts import CountsRefused, Written
from iif.methods.eqlv2 import EQLv2
from iif.methods.fracal import Fracal
from iif.methods.iif import IIF
from iif.methods.logit_adjustment import LogitAdjustment
from iif.methods.logn import LogN
from iif.methods.norcal import NorCal
from iif.methods.seesaw import Seesaw
from iif.statistics import ClassStatistics

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Method, IIF, LogitAdjustment, NorCal, Fracal, LogN, Seesaw, EQLv2)
}
BASELINE = Method.name
DEFAULT = IIF.name
_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    dict: "settings by name",
}


def method_type(name: str, *, key: str = "method") -> type[Method]:
    """Return a method's class.

    Args:
        name: the method's name.
        key: what the setting is called where the user made it, for the message.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"{key} is {name!r}; it must be one of {', '.join(METHODS)}")
    return METHODS[name]


def build_method(
    name: str,
    statistics: ClassStatistics | None = None,
    options: Mapping[str, Any] | Options | None = None,
    background: bool = True,
    *,
    written: Written | None = None,
) -> Method:
    """Build a long-tail method for a classifier.

    Args:
        name: one of `METHODS`.
        statistics: of the training set; the baseline needs none.
        options: the method's settings by name, or its options.
        background: whether the classifier has a background output (a detector's, last).
        written: how an option and its value are written where the user makes settings, for the
            message; by default as in a call.

    Raises:
        InputError: there is no such method or option, a value is not legal, or the statistics are
            missing or cannot be used; the message names them.
    """
    kind = method_type(name)
    settings = options if isinstance(options, Options) else parse_options(kind, options or {})
    if statistics is None and kind is not Method:
        raise InputError(
            f"method {name} needs the class statistics of the training set: count its annotations "
            "with ClassStatistics.from_json"
        )
    try:
        return kind(settings, statistics, background=background)
    except CountsRefused as error:
        if written is None:
            raise
        raise InputError(error.text(written)) from None


def parse_options(
    kind: type[Any],
    values: Mapping[str, Any],
    *,
    key: Callable[[str], str] = str,
) -> Options:
    """Check plain settings and return them as the method's options.

    Args:
        kind: the method's class, or another with its ``name`` and ``options_type``.
        values: the settings by name; those that are missing have their default.
        key: what an option is called where the user set it, for the message.

    Raises:
        InputError: an unknown option, or a value that is not legal; says what is.
    """
    hints = option_types(kind)
    for name, value in values.items():
        if name not in hints:
            legal = f"it has {', '.join(map(key, hints))}" if hints else "it has none"
            raise InputError(f"method {kind.name} has no option {key(name)}; {legal}")
        try:
            msgspec.convert(value, hints[name])
        except msgspec.ValidationError:
            raise illegal(key(name), value, hints[name]) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise illegal(key(name), value, hints[name])
    return msgspec.convert(dict(values), kind.options_type)


def option_types(kind: type[Any]) -> dict[str, Any]:
    """Return the annotated type of each option of a method, in order."""
    return get_type_hints(kind.options_type, include_extras=True)


def description(hint: Any) -> str:
    """Return what an option's type says of it (`msgspec.Meta`); empty without."""
    metas = [part for part in get_args(hint)[1:] if isinstance(part, msgspec.Meta)]
    return next((meta.description for meta in metas if meta.description), "")


def legal_values(hint: Any) -> str:
    """Return in words what an option's type allows: "one of ...", "a number, 0 or more"."""
    base, *metas = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    parts = [part for part in get_args(base) if part is not NoneType]
    if NoneType in get_args(base):
        return f"{legal_values(parts[0])}; or null"
    if get_origin(base) is Literal:
        return f"one of {', '.join(parts)}"
    if get_origin(base) is tuple:
        inner, *others = parts
        many = f"{len(parts)} values" if others and others != [...] else "values"
        return f"a list of {many}, each {legal_values(inner)}"
    words = [_WORDS.get(get_origin(base) or base, "text")]
    for limits in (
        (("ge", "{:g} or more"), ("gt", "above {:g}")),
        (("le", "at most {:g}"), ("lt", "below {:g}")),
    ):
        for meta in metas:
            for attribute, template in limits:
                limit = getattr(meta, attribute, None)
                if limit is not None:
                    words.append(template.format(limit))
    return ", ".join(words)


def illegal(key: str, value: Any, hint: Any) -> InputError:
    """Return the error for a value that an option's or a setting's type does not allow."""
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return InputError(f"{key} is {shown}; it must be {legal_values(hint)}")
