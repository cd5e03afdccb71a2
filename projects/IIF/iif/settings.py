"""Settings of a run with plain torch: typed fields, methods' options, KEY=VALUE, what each means.

`iif.tv.TrainConfig` and `iif.classification.ClassifyConfig` are settings. A field's type is
``Annotated`` with its limits and its meaning (`msgspec.Meta`), as a method's option is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Self, get_type_hints

import msgspec
from msgspec import Meta

from iif.errors import InputError
from iif.methods import BASELINE, METHODS, Options, method_type, option_types, parse_options
from iif.methods.registry import description, illegal, legal_values

METHOD = 'The long-tail method; "iif methods" lists them.'
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Above0 = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all settings have: the long-tail method, and the options of each under its name.

    In a file of settings the options of a method are a node of their own, in KEY=VALUE form
    METHOD.OPTION=VALUE.
    """

    method: Annotated[str, Meta(description=METHOD)] = BASELINE
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values, and fill in the options that are not given.

        Raises:
            InputError: a value is of another type or out of its range; names the key and what is
                right.
        """
        method_type(self.method)
        for key, hint in types_of(type(self)).items():
            _converted(key, getattr(self, key), hint)
        nodes = self.nodes()
        for name in self.options:
            if name not in nodes:
                raise InputError(f"options has {name!r}; methods with options: {', '.join(nodes)}")
        options = {
            name: _parse_node(kind, self.options.get(name, {})) for name, kind in nodes.items()
        }
        msgspec.structs.force_setattr(self, "options", options)

    @classmethod
    def nodes(cls) -> dict[str, type[Any]]:
        """Return what has options under a name of its own: the methods."""
        return {name: kind for name, kind in METHODS.items() if option_types(kind)}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        values = msgspec.json.decode(msgspec.json.encode(self))
        return values | values.pop("options")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values, the inverse of :meth:`to_dict`; those missing are the defaults.

        Raises:
            InputError: an unknown key, or a value of the wrong type or out of its range.
        """
        hints, nodes = types_of(cls), cls.nodes()
        for key in values:
            if key not in hints and key not in nodes:
                raise cls.unknown(key)
        settings = {
            key: _converted(key, v, hints[key]) for key, v in values.items() if key in hints
        }
        return cls(**settings, options={key: v for key, v in values.items() if key in nodes})

    def override(self, assignments: Iterable[str]) -> Self:
        """Return the settings with ``KEY=VALUE`` assignments applied; values are JSON or words.

        ``NODE.KEY=VALUE`` reaches into a node: the options of a method, for instance.

        Raises:
            InputError: as :meth:`from_dict`, or an assignment without "=".
        """
        values = self.to_dict()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise InputError(f"{assignment!r} sets nothing; write KEY=VALUE")
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = text
            node, dot, inner = key.partition(".")
            if dot and isinstance(values.get(node), dict):
                values[node] = {**values[node], inner: value}
            elif key in values:
                values[key] = value
            else:
                raise self.unknown(key)
        return self.from_dict(values)

    @classmethod
    def facts(cls) -> list[dict[str, Any]]:
        """Return key, default, what is legal (in words) and meaning of each setting, in order.

        The options of methods are among them, as METHOD.OPTION.
        """
        defaults = cls().to_dict()
        keys = [(key, hint, defaults[key]) for key, hint in types_of(cls).items()]
        for name, kind in cls.nodes().items():
            for option, hint in option_types(kind).items():
                keys.append((f"{name}.{option}", hint, defaults[name][option]))
        return [
            {
                "name": key,
                "default": default,
                "values": legal_values(hint),
                "description": description(hint),
            }
            for key, hint, default in keys
        ]

    @classmethod
    def unknown(cls, key: str) -> InputError:
        """Return the error for a key that is none, with the nearest keys."""
        known = list(cls._written())
        options = [name for name in known if name.partition(".")[2] == key]
        close = options or difflib.get_close_matches(key, known, n=2)
        if close:
            return InputError(f"{key!r} is no setting; did you mean {' or '.join(close)}?")
        return InputError(f"{key!r} is no setting; the settings are {', '.join(known)}")

    @classmethod
    def _written(cls) -> Iterator[str]:
        """Yield the keys as they are written in KEY=VALUE form."""
        yield from types_of(cls)
        for name, kind in cls.nodes().items():
            yield from (f"{name}.{option}" for option in option_types(kind))


@cache
def types_of(kind: type[Settings]) -> dict[str, Any]:
    """Return the annotated type of each setting, in order; options of methods are left out."""
    hints = get_type_hints(kind, include_extras=True)
    names = (field.name for field in msgspec.structs.fields(kind))
    return {name: hints[name] for name in names if name != "options"}


def _converted(key: str, value: Any, hint: Any) -> Any:
    """Return a plain value as the type of its setting; raise InputError where it is none."""
    try:
        converted = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise illegal(key, value, hint) from None
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise illegal(key, value, hint)
    return converted


def _parse_node(kind: type[Any], node: Any) -> Options:
    if isinstance(node, kind.options_type):
        return node
    if not isinstance(node, Mapping):
        raise InputError(f"{kind.name} is {node!r}; it must hold options of the method by name")
    return parse_options(kind, node, key=lambda option: f"{kind.name}.{option}")
