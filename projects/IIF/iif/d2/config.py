"""The configuration keys that IIF adds to Detectron2's, each defined by the comment above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Any

import msgspec
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from iif.augmentation import FasaOptions
from iif.errors import InputError
from iif.files import PACKAGED, packaged_file
from iif.methods import DEFAULT, METHODS


class PackageHandler(PathHandler):
    """Lets Detectron2 open the package's own files: iif://configs/lvis_iif.yaml, for example."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PACKAGED]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(packaged_file(path))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return packaged_file(path).is_file()

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(packaged_file(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(PackageHandler(), allow_override=True)

# Keys that moved within MODEL: of the default method's node to MODEL.LONG_TAIL.
_MOVED = {
    **dict.fromkeys(
        (
            *("CLASSIFIER", "COSINE_TEMPERATURE", "CLASSIFIER_INIT", "MASK_TEMPERATURE"),
            *("TRAIN_CLASSIFIER_ONLY", "FAST_INFERENCE", "NUM_IMAGES"),
        )
    ),
    "FREQUENCY_FILE": "STATISTICS",
    "FREQUENCY": "STATISTICS",
    **{
        f"FREQUENCY.{key}": "STATISTICS"
        for key in ("IDS", "NAMES", "IMAGE_COUNT", "INSTANCE_COUNT", "NUM_IMAGES", "SOURCE")
    },
}


def add_iif_config(cfg: CfgNode) -> None:
    """Add IIF's keys with their defaults to ``cfg``; no key of Detectron2 is changed."""
    # Data sets to register by name, so that DATASETS.TRAIN and DATASETS.TEST can use them: a list
    # of [name, annotation file, image folder]. The file is in LVIS's or COCO's format (told apart
    # by its content). Paths may hold ~ and $VARIABLES and are relative to the working directory.
    cfg.DATASETS.CUSTOM = []
    # The part of the images of DATASETS.TRAIN, chosen by their ids, that is left out of training
    # for "iif tune" and for MODEL.FASA.ADAPT. They still count for the class statistics.
    cfg.DATASETS.HELD_OUT = 0.0

    cfg.MODEL.LONG_TAIL = CfgNode()
    # The long-tail method, by its name in iif.methods; its options are a node of their own,
    # MODEL.<METHOD>. The baseline is equal to Detectron2's predictor. A method takes effect where
    # MODEL.ROI_HEADS.NAME is "IIFROIHeads", "IIFCascadeROIHeads" or "IIFRes5ROIHeads".
    cfg.MODEL.LONG_TAIL.METHOD = DEFAULT
    # What the classes are counted in: an LVIS- or COCO-format annotation file, or the
    # class_statistics.json that a run left beside its config.yaml. "" counts the data sets of
    # DATASETS.TRAIN. Training saves the statistics in OUTPUT_DIR and names that file here; for
    # evaluation and inference it is looked for here, then beside MODEL.WEIGHTS, then in OUTPUT_DIR.
    cfg.MODEL.LONG_TAIL.STATISTICS = ""
    # Overrides the number N of training images; 0 uses the number found with the counts.
    cfg.MODEL.LONG_TAIL.NUM_IMAGES = 0
    # The most training images of a rare and of a common class, as (10, 100); () takes LVIS's, 10
    # and 100, or terciles where these leave a group empty and the data is not in LVIS's format.
    cfg.MODEL.LONG_TAIL.GROUP_LIMITS = ()

    # The classifier, under any method: "linear", or "cosine" for
    # COSINE_TEMPERATURE * cos(feature, weight) + bias.
    cfg.MODEL.LONG_TAIL.CLASSIFIER = "linear"
    # The authors of IIF use 8 with it and 20 without.
    cfg.MODEL.LONG_TAIL.COSINE_TEMPERATURE = 8.0
    # How the classifier's weights start: "normal" as in Detectron2 (N(0, 0.01^2)), or "constant" as
    # the authors' models with a linear classifier (all 0.001).
    cfg.MODEL.LONG_TAIL.CLASSIFIER_INIT = "normal"
    # How all of its biases start. The authors' softmax baselines have -6.5, which no softmax sees
    # (the background has it too); a head of sigmoids starts at p = 0.001 with -6.907.
    cfg.MODEL.LONG_TAIL.CLASSIFIER_BIAS = 0.0
    # The temperature of the normalised mask predictor, which
    # MODEL.ROI_MASK_HEAD.NAME "CosineMaskHead" switches on.
    cfg.MODEL.LONG_TAIL.MASK_TEMPERATURE = 20.0
    # Learn that temperature as t^2, t starting at the square root of MASK_TEMPERATURE. FRACAL's
    # starts at t = 4.5: MASK_TEMPERATURE 20.25.
    cfg.MODEL.LONG_TAIL.LEARN_MASK_TEMPERATURE = False
    # Factors of the losses of a cascade's stages, one for each stage; () weighs them alike, as
    # Detectron2 does. The authors have (1.0, 0.5, 0.25).
    cfg.MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS = ()
    # Train the classifier alone and leave all else as it was loaded (decoupled training).
    cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY = False
    # Run NMS on the best-scored boxes only, as many as decide the detections; bit-equal to
    # Detectron2's inference and faster the more classes there are. False calls Detectron2's.
    cfg.MODEL.LONG_TAIL.FAST_INFERENCE = True
    # Compute the mask of each detection's own class at inference, not those of all classes; equal
    # to Detectron2's to rounding. False calls Detectron2's.
    cfg.MODEL.LONG_TAIL.PREDICTED_MASKS_ONLY = True

    # The options of each method, as its own file defines and describes them.
    for name, kind in METHODS.items():
        options = msgspec.to_builtins(kind.options_type())
        if options:
            cfg.MODEL[name.upper()] = CfgNode({key.upper(): v for key, v in options.items()})

    # FASA, virtual features beside any method; its options as iif.augmentation describes them.
    fasa = msgspec.to_builtins(FasaOptions())
    cfg.MODEL.FASA = CfgNode({key.upper(): value for key, value in fasa.items()})

    for old, new in _MOVED.items():
        full = f"MODEL.{DEFAULT.upper()}.{old}"
        cfg.register_renamed_key(full, f"MODEL.LONG_TAIL.{new or old}")


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Return the configuration of a YAML file with overrides, and the CPU where there is no GPU.

    Args:
        config_file: the file, ``iif://configs/NAME`` for one of the package's, or "" for the
            defaults.
        opts: keys and values in turn.

    Raises:
        InputError: the file or an override cannot be used; the message names it.
    """
    cfg = get_cfg()
    add_iif_config(cfg)
    what = config_file
    try:
        if config_file:
            cfg.merge_from_file(config_file, allow_unsafe=False)
        what = "command line"
        cfg.merge_from_list(list(opts))
    except (OSError, KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        raise InputError(f"{what}: {message}") from None
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def plain_config(cfg: CfgNode) -> dict[str, Any]:
    """Return a configuration as plain values for JSON, which cannot represent infinity."""
    return _finite(yaml.safe_load(cfg.dump()))


def _finite(value: Any) -> Any:
    """Replace infinities by strings in nested values."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
