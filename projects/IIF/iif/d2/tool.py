"""Run one of Detectron2's own tools, unmodified, with this project's keys, heads and data sets.

    python -m iif.d2.tool [--config-file FILE] SCRIPT [arguments of the script]

The configuration that the script makes (``detectron2.config.get_cfg``) has this project's keys.
When the script freezes it, the data sets of DATASETS.CUSTOM are registered. A script without a
configuration, as visualize_json_results.py, gets the data sets of FILE.

The script runs in this module's namespace: processes that it spawns import this module first, as
``__mp_main__``, and then have the same keys and the script's own functions.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import detectron2.config
import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from iif.d2.config import add_iif_config, load_config
from iif.d2.datasets import register_custom_datasets
from iif.d2.statistics import statistics_from_config
from iif.errors import InputError

# The environment variable that tells spawned processes the script.
_SCRIPT = "IIF_TOOL_SCRIPT"

# What demo/demo.py calls the module beside it, in commits that keep the name of Meta's repository.
_DEMO_MODULE = "vision.fair.detectron2.demo.predictor"

_stock_get_cfg = detectron2.config.get_cfg
_stock_freeze = CfgNode.freeze


def get_cfg() -> CfgNode:
    """Return Detectron2's default configuration with this project's keys."""
    cfg = _stock_get_cfg()
    add_iif_config(cfg)
    return cfg


def freeze(cfg: CfgNode) -> None:
    """Register the data sets of a whole configuration, their class names included; freeze it."""
    if "CUSTOM" in cfg.get("DATASETS", {}):
        register_data_sets(cfg)
    _stock_freeze(cfg)


def register_data_sets(cfg: CfgNode) -> None:
    """Register the data sets of DATASETS.CUSTOM, with class names where the counts are at hand."""
    if not len(cfg.DATASETS.CUSTOM):
        return
    try:
        statistics = statistics_from_config(cfg)
    except InputError:  # a tool may need neither classes nor a training set
        statistics = None
    register_custom_datasets(cfg, statistics)


def prepare(script: str) -> str:
    """Give a script this project's keys, and the modules beside it; return its text."""
    detectron2.config.get_cfg = get_cfg
    CfgNode.freeze = freeze  # a subclass would not merge with CfgNode
    setup_logger(name="iif")
    if not hasattr(np, "float"):
        vars(np)["float"] = float  # lvis 0.5.3, which Detectron2 evaluates with, uses the old name
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    text = Path(script).read_text(encoding="utf-8")
    if f"from {_DEMO_MODULE} import" in text:
        sys.modules[_DEMO_MODULE] = importlib.import_module("predictor")
        packages = _DEMO_MODULE.split(".")[:-1]
        for end in range(1, len(packages) + 1):
            name = ".".join(packages[:end])
            sys.modules.setdefault(name, ModuleType(name))
    return text


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this module's own arguments and the script's."""
    parser = argparse.ArgumentParser(
        prog="python -m iif.d2.tool", description="Run one of Detectron2's tools with IIF's keys."
    )
    parser.add_argument("--config-file", metavar="FILE", help="registers its DATASETS.CUSTOM")
    parser.add_argument("script", metavar="SCRIPT", help="of Detectron2's repository: tools/...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script")
    args = parser.parse_args(argv)
    if not Path(args.script).is_file():
        parser.error(f"no such file {args.script}")
    return args, args.arguments


def _start() -> str | None:
    """Find the script that this process, the first or a spawned one, is to run."""
    if __name__ == "__mp_main__":
        return os.environ[_SCRIPT]
    if __name__ != "__main__":
        return None
    args, arguments = parse(sys.argv[1:])
    os.environ[_SCRIPT] = args.script
    sys.argv = [args.script, *arguments]
    if args.config_file:
        try:
            register_data_sets(load_config(args.config_file, []))
        except InputError as error:
            sys.exit(f"error: {error}")
    return args.script


_script = _start()
if _script is not None:
    __file__ = _script
    exec(compile(prepare(_script), _script, "exec", dont_inherit=True), globals())
