"""The settings of a training in words, for its help and for ``iif settings``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from iif.commands.arguments import require_torchvision

if TYPE_CHECKING:
    from iif.settings import Settings


def settings_text(training: str, keys: Sequence[str] = ()) -> str:
    """Return what each setting means, its default and what is legal.

    Args:
        training: "train" or "classify".
        keys: of these alone; the name of a method stands for all of its options. By default those
            of the training itself; options of methods are in ``iif methods``.

    Raises:
        InputError: there is no such setting.
    """
    from iif.methods import METHODS
    from iif.report.methods import options_text

    facts = _settings_of(training).facts()
    named = {fact["name"]: fact for fact in facts}
    if not keys:
        own = [fact for fact in facts if fact["name"].partition(".")[0] not in METHODS]
        return (
            "settings, KEY=VALUE, each with its default:\n"
            + "\n".join(options_text(own, indent=2))
            + "\n\nA method's options are METHOD.OPTION=VALUE; iif methods lists them."
        )
    chosen = []
    for key in keys:
        found = [f for name, f in named.items() if key in (name, name.partition(".")[0])]
        if not found:
            raise _settings_of(training).unknown(key)
        chosen += found
    return "\n".join(options_text(chosen, indent=0))


def _settings_of(training: str) -> type[Settings]:
    require_torchvision()
    if training == "classify":
        from iif.classification import ClassifyConfig

        return ClassifyConfig
    from iif.tv import TrainConfig

    return TrainConfig
