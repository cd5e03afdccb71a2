"""IIF in the box head of any torchvision Faster R-CNN or Mask R-CNN, in place.

Shapes: R regions, C features, K foreground classes. torchvision keeps the background in column 0
of the logits; Detectron2 keeps it last. :class:`iif.logits.IIFLogits` serves both.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from iif.errors import InputError
from iif.logits import IIFLogits

Model = TypeVar("Model", bound=nn.Module)


class IIFFastRCNNPredictor(FastRCNNPredictor):
    """A ``FastRCNNPredictor`` whose class logits are adjusted; its layers are the given ones.

    ``RoIHeads`` takes the loss and the probabilities from the logits that the predictor returns,
    so both see the adjusted ones. The parameters keep their names: a checkpoint of the plain model
    loads, the weights given here then standing; one of the IIF model brings its own weights.
    """

    def __init__(self, predictor: FastRCNNPredictor, weights: Tensor) -> None:
        """Take over the layers of ``predictor``.

        Args:
            predictor: gives logits (R, K + 1), background first.
            weights: (K,) as :func:`iif.weights.iif_weights` returns them.
        """
        nn.Module.__init__(self)
        self.cls_score = predictor.cls_score
        self.bbox_pred = predictor.bbox_pred
        self.iif_logits = IIFLogits(weights, background="first").to(self.bbox_pred.weight.device)
        self.train(predictor.training)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return adjusted logits (R, K + 1) and box deltas (R, (K + 1) * 4) of features (R, C)."""
        x = x.flatten(start_dim=1)
        return self.iif_logits(self.cls_score(x)), self.bbox_pred(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}iif_logits.weight", self.iif_logits.weight)
        super()._load_from_state_dict(state_dict, prefix, *args)


def add_iif(model: Model, weights: Tensor) -> Model:
    """Give a torchvision Faster R-CNN or Mask R-CNN IIF in its box head, in place.

    Training loss and inference both see the adjusted logits, and ``state_dict`` carries the
    weights. Box regression and masks are as before.

    Args:
        model: a model whose box predictor is torchvision's ``FastRCNNPredictor``; replace the
            predictor for your own classes first.
        weights: (K,) as :func:`iif.weights.iif_weights` returns them: row r is for label r + 1.

    Returns:
        the same model.

    Raises:
        TypeError: the model has no such box head.
        InputError: the model has IIF already, or has another number of classes.
    """
    heads: Any = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", None)
    if isinstance(predictor, IIFFastRCNNPredictor):
        raise InputError("the model has IIF already; build a plain model and add IIF once")
    if (
        not isinstance(predictor, FastRCNNPredictor)
        or type(predictor).forward is not FastRCNNPredictor.forward
    ):
        found = "none" if predictor is None else f"a {type(predictor).__name__}"
        raise TypeError(
            f"{type(model).__name__}: IIF needs a box head with torchvision's FastRCNNPredictor, "
            f"as FasterRCNN and MaskRCNN have; found {found} (an own predictor can pass its "
            'logits through iif.IIFLogits(weights, background="first"))'
        )
    columns = predictor.cls_score.out_features
    if columns != len(weights) + 1:
        raise InputError(
            f"there are weights for {len(weights)} classes, so the box head must have "
            f"{len(weights) + 1} outputs (background first), but it has {columns}; replace "
            f"model.roi_heads.box_predictor by FastRCNNPredictor(in_features, {len(weights) + 1})"
        )
    heads.box_predictor = IIFFastRCNNPredictor(predictor, weights)
    return model
