"""What configs/lvis_iif.py needs to hand an evaluator its model's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from iif.methods import Method


def settings_json(*, _root_: DictConfig) -> str:
    """Return a whole LazyConfig as JSON: classes, functions and other objects by their names.

    Registered as the resolver ``${iif_settings:}``, so that overrides of the command line are in
    it. References stay as they are written, and ``_target_`` becomes ``target``: nothing of it is
    built.
    """
    return json.dumps(_plain(OmegaConf.to_container(_root_, resolve=False)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key).removeprefix("_").removesuffix("_"): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", None)
    return str(value) if name is None else f"{module}.{name}"


def method_record(method: Method) -> dict[str, Any]:
    """Return what an evaluation's summary says of a method."""
    return method.record()


OmegaConf.register_new_resolver("iif_settings", settings_json, replace=True)
