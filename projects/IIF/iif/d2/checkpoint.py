"""Checkpoints that carry their method, models from them, and checkpoints for Detectron2 alone."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from iif import layout
from iif.d2 import augmentation
from iif.d2.cosine import CosineClassifier, CosineMaskHead
from iif.d2.datasets import register_custom_datasets
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.method import METHOD_KEY, methods_of, record_of
from iif.d2.safe_pickle import load_arrays
from iif.d2.statistics import statistics_from_config
from iif.errors import InputError
from iif.files import atomic_write
from iif.methods import Method
from iif.methods.record import PREFIX, RECORD, check_evaluated, check_resumed

logger = logging.getLogger(__name__)

# IIF's ROI heads and those of Detectron2 that take a folded checkpoint.
STOCK_HEADS = {
    "IIFROIHeads": "StandardROIHeads",
    "IIFCascadeROIHeads": "CascadeROIHeads",
    "IIFRes5ROIHeads": "Res5ROIHeads",
}


class MethodCheckpointer(DetectionCheckpointer):
    """Saves the method with the model, and refuses to resume or evaluate it under another.

    A training that starts from weights takes the configuration's method.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, evaluate: bool = False, **kwargs: Any
    ) -> None:
        """Take the arguments of :class:`DetectionCheckpointer`.

        Args:
            model: the model, from a configuration.
            save_dir: the output folder.
            evaluate: the model is to be evaluated: every parameter must be in the checkpoint.
            kwargs: further objects to save and load, or ``save_to_disk``.
        """
        super().__init__(model, save_dir, **kwargs)
        self._evaluate = evaluate
        self._resume = False
        self._path = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint with the record of the method, whole or not at all."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: held.state_dict() for key, held in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, RECORD: record_of(self.model)}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_write(path, "wb") as f:
            torch.save({**content, **kwargs}, f)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the checkpoint that a resumed training starts from, whole or not at all."""
        with atomic_write(Path(self.save_dir, layout.LAST_CHECKPOINT)) as f:
            f.write(last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint; with all its states (None) a training is resumed.

        Raises:
            InputError: the checkpoint's method is not the configuration's where it must be, or a
                parameter to evaluate is missing.
        """
        self._path = path
        self._resume = checkpointables is None and not self._evaluate
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> Any:
        """Read a checkpoint without running code that it may hold."""
        if filename.endswith(".pyth"):  # of pycls; Detectron2 leaves its safety to torch's default
            state = self._torch_load(filename).get("model_state")
            if state is None:
                raise InputError(f"{filename}: not a checkpoint of pycls: it has no model_state")
            state = {key: v for key, v in state.items() if not key.endswith("num_batches_tracked")}
            return {"model": state, "__author__": "pycls", "matching_heuristics": True}
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)
        with PathManager.open(filename, "rb") as f:
            content = load_arrays(f, filename)
        if "model" in content and "__author__" in content:
            return content
        arrays = content.get("blobs", content)  # of Caffe2 and Detectron1
        arrays = {key: v for key, v in arrays.items() if not key.endswith("_momentum")}
        return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}

    def _torch_load(self, f: str) -> Any:
        return _read(f)

    def _load_model(self, checkpoint: Any) -> Any:
        found = checkpoint.get(RECORD)
        method = next(iter(methods_of(self.model)), Method())
        buffers = any(f".{PREFIX}" in key for key in checkpoint["model"])
        augmented = any(f".{augmentation.PREFIX}" in key for key in checkpoint["model"])
        if self._evaluate or self._resume:
            if found is not None or not augmented:
                augmentation.refuse_other_augmentation(self.model, found, self._path)
        else:  # what FASA saw of the features of another training is not taken over
            checkpoint["model"] = {
                key: value
                for key, value in checkpoint["model"].items()
                if f".{augmentation.PREFIX}" not in key
            }
        if self._evaluate:
            self.model.eval()  # where a method refuses buffers that are not its own
            if not checkpoint.get("matching_heuristics"):
                self._refuse_missing(checkpoint["model"])
            if found is not None or not buffers:
                check_evaluated(method, found, self._path)
        elif self._resume:
            check_resumed(method, found, self._path)
        elif buffers:
            logger.info(
                "%s was trained under method %s: its buffers are not loaded, this training takes "
                "method %s of the configuration",
                self._path,
                "(not recorded)" if found is None else found["name"],
                method,
            )
        return super()._load_model(checkpoint)

    def _refuse_missing(self, state: dict[str, Any]) -> None:
        """Refuse a checkpoint that lacks parameters, whatever its method."""
        faults = []
        for name, value in self.model.state_dict().items():
            found = state.get(name, state.get(f"module.{name}"))
            if f".{PREFIX}" not in name and (
                found is None or tuple(found.shape) != tuple(value.shape)
            ):
                faults.append(name)
        self._refuse(faults)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = [key for key, *_ in incompatible.incorrect_shapes]
        if self._evaluate:
            self._refuse([*incompatible.missing_keys, *shapes])
        elif any("cls_score." in key for key in shapes):
            logger.info(
                "%s: the classifier has another number of outputs than method %s needs; it is "
                "drawn anew",
                self._path,
                record_of(self.model)["name"],
            )
        super()._log_incompatible_keys(incompatible)

    def _refuse(self, faults: list[str]) -> None:
        if faults:
            raise InputError(
                f"{self._path}: does not fit the configuration: {len(faults)} parameters are "
                f"missing or of another shape, among them {faults[0]}; give a checkpoint of the "
                "whole model, and its own config.yaml"
            )


def saved_seed(folder: str) -> int | None:
    """Return the seed of the training that a folder holds; None where it has no checkpoint."""
    name = Path(folder, layout.LAST_CHECKPOINT)
    if not name.is_file():
        return None
    path = name.with_name(name.read_text(encoding="utf-8").strip())
    seed = _read(str(path), mmap=True).get("stream", {}).get("SEED")
    return None if seed is None else int(seed)


def _read(path: str, *, mmap: bool = False) -> Any:
    """Read a checkpoint without running code that it may hold; with mmap no tensor is read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({reason}); it may be cut off, or hold more "
            "than tensors and plain values: give another one"
        ) from None


def load_model(cfg: CfgNode, weights: str) -> Any:
    """Build the model that ``cfg`` describes, in evaluation mode, with a checkpoint's weights.

    What FASA kept for training is left out.

    Raises:
        InputError: there is no such file, it lacks parameters of the model, or it was trained
            under another method.
    """
    if "://" not in weights and not PathManager.isfile(weights):
        raise InputError(f"{weights}: no such file; give a checkpoint (.pth)")
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS:  # it reads counts when it is built
        register_custom_datasets(cfg, statistics_from_config(cfg))
    model = build_model(cfg).eval()
    MethodCheckpointer(model, evaluate=True).load(weights)
    for module in model.modules():
        if isinstance(module, IIFFastRCNNOutputLayers):
            module.augmentation = None
    return model


def fold(cfg: CfgNode, weights: str, output: str | os.PathLike[str]) -> Path:
    """Write the method into the linear classifiers of a checkpoint, for Detectron2 alone.

    Args:
        cfg: the model's configuration.
        weights: its checkpoint.
        output: the checkpoint to write; its configuration goes beside it, as ``.yaml``.

    Returns:
        The path of the configuration, which needs no key of this project's.

    Raises:
        InputError: the method cannot be folded, or a part of the model is not Detectron2's; the
            message says which and why.
    """
    checkpoint = Path(output)
    if checkpoint.suffix != ".pth":
        raise InputError(f"{output}: the name of a checkpoint must end in .pth")
    _refuse_config(cfg)
    model = load_model(cfg, weights)
    for module in model.modules():
        _refuse_module(module)
    for module in model.modules():
        if isinstance(module, IIFFastRCNNOutputLayers):
            fold_predictor(module)
    with atomic_write(checkpoint, "wb") as f:
        torch.save({"model": model.state_dict()}, f)
    config = checkpoint.with_suffix(".yaml")
    with atomic_write(config) as f:
        f.write(_stock_config(cfg, checkpoint).dump())
    return config


@torch.no_grad()
def fold_predictor(predictor: IIFFastRCNNOutputLayers) -> None:
    """Write the method into the parameters of a linear classifier, in place.

    Raises:
        InputError: the method is not the same as any linear classifier; says why.
    """
    classifier = predictor.cls_score
    # In double precision, so that the parameters are rounded once.
    weight, bias = predictor.method.fold(classifier.weight.double(), classifier.bias.double())
    classifier.weight.copy_(weight)
    classifier.bias.copy_(bias)
    predictor.method = Method()


def _refuse_config(cfg: CfgNode) -> None:
    name = cfg.MODEL.ROI_HEADS.NAME
    if name not in STOCK_HEADS:
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {name!r}; {METHOD_KEY} can be folded for "
            f"{', '.join(STOCK_HEADS)}"
        )
    if name == "IIFCascadeROIHeads" and not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise InputError(
            "this cascade cannot be folded: its box regression is class-specific, and Detectron2's "
            "CascadeROIHeads allow class-agnostic regression only"
        )


def _refuse_module(module: nn.Module) -> None:
    if isinstance(module, CosineClassifier):
        raise InputError(
            "the cosine classifier cannot be folded: it divides each region's feature and each "
            "class's weight by their length, so that scaling a weight changes nothing, and the "
            "linear layer of Detectron2's predictor divides by no length"
        )
    if isinstance(module, CosineMaskHead):
        raise InputError(
            "this model cannot be folded: its normalised mask predictor (CosineMaskHead) is not "
            "part of Detectron2"
        )


def _stock_config(cfg: CfgNode, checkpoint: Path) -> CfgNode:
    stock = cfg.clone()
    stock.defrost()
    stock.MODEL.ROI_HEADS.NAME = STOCK_HEADS[cfg.MODEL.ROI_HEADS.NAME]
    stock.MODEL.WEIGHTS = str(checkpoint)
    _drop_unknown_keys(stock, get_cfg())
    return stock


def _drop_unknown_keys(node: CfgNode, known: CfgNode) -> None:
    for key in list(node):
        if key not in known:
            del node[key]
        elif isinstance(node[key], CfgNode):
            _drop_unknown_keys(node[key], known[key])
