"""A long-tail method in the box head of any torchvision Faster R-CNN or Mask R-CNN, in place.

Shapes: R regions, C features, K foreground classes. torchvision has the background in column 0 of
the logits; a method always sees it last. Annotations are not postponed, for TorchScript.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from iif.augmentation import FeatureAugmentation, still_logits
from iif.errors import InputError
from iif.methods import Method
from iif.tv.roi_heads import LongTailRoIHeads

Model = TypeVar("Model", bound=nn.Module)


class LongTailPredictor(nn.Module):
    """A ``FastRCNNPredictor`` that returns a method's logits; its layers are the given ones.

    ``RoIHeads`` takes the loss and the probabilities from the logits that the predictor returns.
    The parameters keep their names, so a plain model's checkpoint loads.

    Attributes:
        labels: (R,) of the regions to come, background 0, which `LongTailRoIHeads` sets in
            training; None otherwise.
        virtual_loss: what the augmentation adds to the classification loss of an iteration, until
            `LongTailRoIHeads` takes it; None otherwise.
    """

    labels: Tensor | None
    virtual_loss: Tensor | None

    def __init__(
        self,
        predictor: FastRCNNPredictor,
        method: Method,
        augmentation: FeatureAugmentation | None = None,
    ) -> None:
        """Take over the layers of ``predictor``.

        Args:
            predictor: returns logits (R, K + 1), background first.
            method: for K classes and a background. With ``extra_outputs`` the classifier is drawn
                anew with K + 1 + extra_outputs outputs, its background last.
            augmentation: adds virtual features to the classification loss; None adds none.
        """
        super().__init__()
        classifier: nn.Linear = predictor.cls_score
        self.num_classes = classifier.out_features - 1
        self.extra_outputs = method.extra_outputs
        if method.extra_outputs:
            outputs = classifier.out_features + method.extra_outputs
            classifier = nn.Linear(classifier.in_features, outputs).to(classifier.weight)
        self.cls_score = classifier
        self.bbox_pred = predictor.bbox_pred
        self.method = method.to(classifier.weight.device)
        self.augmentation = augmentation
        if augmentation is not None:
            augmentation.to(classifier.weight.device)
        self.labels = None
        self.virtual_loss = None
        self.train(predictor.training)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (R, K + 1), background first, and box deltas (R, (K + 1) * 4).

        Args:
            x: (R, C, 1, 1) or (R, C) features.
        """
        x = x.flatten(start_dim=1)
        outputs = self.cls_score(x)
        if self.extra_outputs == 0:
            outputs = outputs.roll(-1, dims=1)
        labels = self.labels
        if labels is not None:
            self.labels = None
            labels = torch.where(labels > 0, labels - 1, self.num_classes)
            logits = self.method.training_logits(outputs, labels)
            if self.augmentation is not None:
                self._augment(x, labels)
        elif self.training:
            raise RuntimeError("LongTailPredictor: LongTailRoIHeads gave no labels to train on")
        else:
            logits = self.method.test_logits(outputs)
        return logits.roll(1, dims=1), self.bbox_pred(x)

    @torch.jit.unused
    def _augment(self, features: Tensor, labels: Tensor) -> None:
        assert self.augmentation is not None
        self.virtual_loss = self.augmentation.loss(features, labels, self.virtual_logits)

    @torch.jit.unused
    def virtual_logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return training logits (V, K + 1), background last, of features that are no region's.

        The method's own statistics stay as they are.
        """
        outputs = self.cls_score(features)
        if self.extra_outputs == 0:
            outputs = outputs.roll(-1, dims=1)
        return still_logits(self.method, outputs, labels)


def add_method(
    model: Model, method: Method, augmentation: FeatureAugmentation | None = None
) -> Model:
    """Give a torchvision Faster R-CNN or Mask R-CNN a long-tail method, in place.

    Training loss and inference both come from the method's logits. Box regression and masks are
    as before. The method's buffers lie under ``roi_heads.box_predictor.method.`` in the state
    dict.

    Args:
        model: a model whose box predictor is torchvision's ``FastRCNNPredictor``; replace the
            predictor for your own classes first.
        method: built by `iif.build_method` from the training set's statistics; class r is label
            r + 1. One with ``extra_outputs`` draws the classifier anew.
        augmentation: FASA beside the method, for the box classifier's number of features. Set its
            ``epoch_length`` before training, and call ``follow`` after an epoch where it adapts.

    Returns:
        the same model.

    Raises:
        TypeError: the model has no such box head.
        InputError: the model has a method already, or another number of classes; or the method
            is no softmax, or was built without a background.
    """
    heads: Any = getattr(model, "roi_heads", None)
    predictor = getattr(heads, "box_predictor", None)
    if isinstance(predictor, LongTailPredictor):
        raise InputError(
            f"the model has method {predictor.method.name} already; build a plain model and add "
            "one method"
        )
    if (
        not isinstance(predictor, FastRCNNPredictor)
        or type(predictor).forward is not FastRCNNPredictor.forward
    ):
        found = "found none" if predictor is None else f"found a {type(predictor).__name__}"
        raise TypeError(
            f"{type(model).__name__}: a method needs a box head with torchvision's "
            f"FastRCNNPredictor, as FasterRCNN and MaskRCNN have; {found} (a predictor of "
            "your own can call training_logits and test_logits of a method itself)"
        )
    if type(heads) is not RoIHeads:
        raise TypeError(
            f"{type(model).__name__}: a method needs torchvision's RoIHeads, found a "
            f"{type(heads).__name__}"
        )
    _check_method(method, predictor.cls_score.out_features)
    heads = LongTailRoIHeads.taking_over(heads)
    heads.box_predictor = LongTailPredictor(predictor, method, augmentation)
    model.roi_heads = heads
    return model


def _check_method(method: Method, outputs: int) -> None:
    """Raise InputError unless a method fits a box head with so many outputs."""
    kind = type(method)
    for function in ("loss", "probabilities"):
        if getattr(kind, function) is not getattr(Method, function):
            raise InputError(
                f"method {method.name} computes its {function} without a softmax, but "
                "torchvision's RoIHeads hard-code softmax cross entropy and softmax "
                "probabilities; train it with Detectron2"
            )
    if not method.background:
        raise InputError(
            f"method {method.name} was built without a background, which a detector has; build it "
            "with background=True"
        )
    if method.num_classes is not None and outputs != method.num_classes + 1:
        raise InputError(
            f"method {method.name} is for {method.num_classes} classes, so the box head must have "
            f"{method.num_classes + 1} outputs (background first), but it has {outputs}; replace "
            "model.roi_heads.box_predictor by FastRCNNPredictor(in_features, "
            f"{method.num_classes + 1})"
        )
