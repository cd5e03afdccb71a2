"""What a checkpoint says of its method, and whether it may be used under a configuration.

A checkpoint carries ``{"name", "options", "acts_in_training", "sha256"}`` beside the model
(`Method.record`). A checkpoint without such a record is one of a plain model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iif.errors import InputError
from iif.methods.base import Method

# The key of a checkpoint's record, and that of a method's buffers in a state dict.
RECORD = "long_tail_method"
PREFIX = "method."

PLAIN = Method().record()


def check_resumed(method: Method, found: Mapping[str, Any] | None, source: str) -> None:
    """Refuse to go on training under another method than before.

    Args:
        method: of the configuration.
        found: the checkpoint's record.
        source: the checkpoint, for the message.

    Raises:
        InputError: method, an option or the statistics differ; names both values.
    """
    _refuse_difference(method.record(), found or PLAIN, source, "resume")


def check_evaluated(method: Method, found: Mapping[str, Any] | None, source: str) -> None:
    """Refuse to evaluate a model under a method that it was not trained for.

    A model that was trained without a method may be evaluated under any that acts at test alone.

    Args:
        method: of the configuration.
        found: the checkpoint's record.
        source: the checkpoint, for the message.

    Raises:
        InputError: names both values, and the remedy.
    """
    found = found or PLAIN
    if not found["acts_in_training"] and not method.acts_in_training:
        return
    if not found["acts_in_training"]:
        remedy = "train under it"
        if method.post_hoc is not None:
            options = " ".join(f"{key} {value}" for key, value in method.post_hoc.items())
            remedy += f", or use it post-hoc ({options})"
        raise InputError(
            f"{source}: a plain model, trained without a long-tail method, but the configuration "
            f"has method {method.name}, which is to be trained; {remedy}"
        )
    _refuse_difference(method.record(), found, source, "evaluate")


def _refuse_difference(
    wanted: Mapping[str, Any], found: Mapping[str, Any], source: str, verb: str
) -> None:
    remedy = f"{verb} it with the configuration that it was trained with"
    pairs = [("method", found["name"], wanted["name"])]
    if found["name"] == wanted["name"]:
        keys = dict.fromkeys([*found["options"], *wanted["options"]])
        pairs += [
            (f"{wanted['name']}.{key}", found["options"].get(key), wanted["options"].get(key))
            for key in keys
        ]
        pairs.append(("class statistics (hash)", found["sha256"][:12], wanted["sha256"][:12]))
    for what, before, now in pairs:
        if before != now:
            raise InputError(
                f"{source}: was trained with {what} {before}, the configuration has {now}; {remedy}"
            )
