"""Detectron2's box predictor under a long-tail method.

Shapes, as in ``detectron2.modeling.roi_heads.fast_rcnn``: R regions of interest of all images of
the minibatch, K foreground classes, the background last (index K). There are no postponed
annotations here: TorchScript reads types at run time.
"""

from typing import Any, List, Tuple  # noqa: UP035 (TorchScript reads these)

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference as stock_inference
from detectron2.structures import Instances
from torch import Tensor, nn

from iif.augmentation import FeatureAugmentation, refuse_own_loss, still_logits
from iif.d2.augmentation import augmentation_from_config
from iif.d2.cosine import CosineClassifier
from iif.d2.inference import fast_rcnn_inference
from iif.d2.method import method_from_config, refuse_sigmoid
from iif.errors import InputError
from iif.methods import Method

# The legal values of keys of MODEL.LONG_TAIL.
CLASSIFIER = ("linear", "cosine")
CLASSIFIER_INIT = ("normal", "constant")


def _check_choice(key: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{key} is {value!r}; it must be one of {', '.join(legal)}")


class TrainingPredictions(tuple[Tensor, Tensor]):
    """Outputs and deltas, as Detectron2 unpacks them, with the features that they were made from.

    Attributes:
        features: (R, C), the input of the box classifier.
    """

    features: Tensor


class IIFFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` whose class logits are those of a long-tail method.

    In evaluation :meth:`forward` returns the method's test logits, which every caller sees
    (test-time augmentation, the cascade, tracing and export). In training it returns the
    classifier's outputs, and :meth:`losses` makes the training logits of them, once the labels
    are known; loss and logged accuracy are taken from these.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        method: Method | None = None,
        augmentation: FeatureAugmentation | None = None,
        cosine_temperature: float | None = None,
        classifier_init: str = "normal",
        classifier_bias: float = 0.0,
        fast_inference: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build Detectron2's predictor with the method.

        Args:
            input_shape: as for :class:`FastRCNNOutputLayers`.
            method: from :func:`iif.build_method`; None is the baseline, equal to Detectron2's
                predictor.
            augmentation: adds virtual features to the classification loss; None adds none.
            cosine_temperature: the temperature of a cosine classifier; None for a linear one.
            classifier_init: one of ``CLASSIFIER_INIT``: MODEL.LONG_TAIL.CLASSIFIER_INIT.
            classifier_bias: the value at which all biases of the classifier start.
            fast_inference: whether to use :mod:`iif.d2.inference` in place of Detectron2's own.
            kwargs: the other arguments of :class:`FastRCNNOutputLayers`.

        Raises:
            InputError: an argument is not one of its values, the method belongs to another number
                of classes, it is given together with the sigmoid or the federated loss, or the
                augmentation together with a method that has a loss of its own.
        """
        super().__init__(input_shape, **kwargs)
        _check_choice("MODEL.LONG_TAIL.CLASSIFIER_INIT", classifier_init, CLASSIFIER_INIT)
        self.method = Method() if method is None else method
        self.augmentation = augmentation
        if augmentation is not None:
            refuse_own_loss(self.method)
        if self.use_fed_loss:
            # Each of its classes is sampled once, and only a class with a training image can be.
            sampled = int((self.fed_loss_cls_weights > 0).sum())
            asked: int = self.fed_loss_num_classes  # type: ignore[has-type]
            self.fed_loss_num_classes = min(asked, sampled)
        self.classifier_init = classifier_init
        self.classifier_bias = classifier_bias
        self.fast_inference = fast_inference
        if type(self.method) is not Method:
            refuse_sigmoid(self.method.name, self.use_sigmoid_ce)
            self.method.check_classes(self.num_classes)
        inputs = self.bbox_pred.in_features
        outputs = self.num_classes + 1 + self.method.extra_outputs
        if cosine_temperature is not None:
            self.cls_score: nn.Linear = CosineClassifier(
                inputs, outputs, temperature=cosine_temperature
            )
        elif self.method.extra_outputs:
            self.cls_score = nn.Linear(inputs, outputs)
            nn.init.normal_(self.cls_score.weight, std=0.01)
            nn.init.zeros_(self.cls_score.bias)
        self._init_classifier()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        options = cfg.MODEL.LONG_TAIL
        _check_choice("MODEL.LONG_TAIL.CLASSIFIER", options.CLASSIFIER, CLASSIFIER)
        cosine = options.CLASSIFIER == "cosine"
        width = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        return {
            **super().from_config(cfg, input_shape),
            "method": method_from_config(cfg),
            "augmentation": augmentation_from_config(cfg, width),
            "cosine_temperature": options.COSINE_TEMPERATURE if cosine else None,
            "classifier_init": options.CLASSIFIER_INIT,
            "classifier_bias": options.CLASSIFIER_BIAS,
            "fast_inference": options.FAST_INFERENCE,
        }

    def start_from(self, stock: FastRCNNOutputLayers) -> None:
        """Take over the initial values that Detectron2's predictor has drawn.

        A classifier with more outputs keeps its own.
        """
        state = {**self.state_dict(), **stock.state_dict()}
        if self.method.extra_outputs:
            state |= {f"cls_score.{k}": v for k, v in self.cls_score.state_dict().items()}
        self.load_state_dict(state)
        self._init_classifier()

    def _init_classifier(self) -> None:
        if self.classifier_init == "constant":
            nn.init.constant_(self.cls_score.weight, 0.001)
        nn.init.constant_(self.cls_score.bias, self.classifier_bias)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Return class logits (in training: the classifier's outputs) and box regression deltas.

        Args:
            x: (R, C, H, W) or (R, C) features of the regions.

        Returns:
            Logits (R, K + 1), in training outputs (R, K + 1 + extra outputs of the method), and
            deltas (R, 4K), or (R, 4) when they are class-agnostic. In training with an
            augmentation the pair is a :class:`TrainingPredictions`.
        """
        # Detectron2's own three lines: TorchScript knows no super().
        if x.dim() > 2:
            x = torch.flatten(x, start_dim=1)
        outputs = self.cls_score(x)
        deltas = self.bbox_pred(x)
        if not self.training:
            outputs = self.method.test_logits(outputs)
        elif not torch.jit.is_scripting() and self.augmentation is not None:
            predictions = TrainingPredictions((outputs, deltas))
            predictions.features = x
            return predictions
        return outputs, deltas

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Return the losses of what :meth:`forward` returned in training, as Detectron2 does."""
        outputs, deltas = predictions
        labels = [image.gt_classes for image in proposals]
        classes = cat(labels, dim=0) if labels else torch.empty(0, dtype=torch.int64)
        logits = self.method.training_logits(outputs, classes)
        losses = super().losses((logits, deltas), proposals)
        loss = self.method.loss(outputs, classes)
        weight = self.loss_weight.get("loss_cls", 1.0)
        if loss is not None:
            losses["loss_cls"] = loss * weight
        if isinstance(predictions, TrainingPredictions) and self.augmentation is not None:
            loss = self.augmentation.loss(predictions.features, classes, self.virtual_logits)
            losses["loss_cls"] = losses["loss_cls"] + loss * weight
        return losses

    def virtual_logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return training logits (V, K + 1) of features (V, C) that are no region's.

        The method's own statistics stay as they are.
        """
        return still_logits(self.method, self.cls_score(features), labels)

    def predict_probs(
        self,
        predictions: Tuple[Tensor, Tensor],  # noqa: UP006
        proposals: List[Instances],  # noqa: UP006
    ) -> List[Tensor]:  # noqa: UP006
        """Return the probabilities of each image's regions, (Ri, K + 1).

        Args:
            predictions: what :meth:`forward` returned in evaluation.
            proposals: of each image.
        """
        logits, _ = predictions
        regions = [len(image) for image in proposals]
        if self.use_sigmoid_ce:
            probabilities = logits.sigmoid()
        else:
            probabilities = self.method.probabilities(logits)
        return probabilities.split(regions, dim=0)

    def inference(
        self,
        predictions: Tuple[Tensor, Tensor],  # noqa: UP006
        proposals: List[Instances],  # noqa: UP006
    ) -> Tuple[List[Instances], List[Tensor]]:  # noqa: UP006
        """Return the detections of each image and the rows of the proposals that they are from.

        Args:
            predictions: what :meth:`forward` returned in evaluation.
            proposals: of each image, with the field ``proposal_boxes``.
        """
        boxes = self.predict_boxes(predictions, proposals)
        probabilities = self.predict_probs(predictions, proposals)
        image_shapes = [image.image_size for image in proposals]
        thresholds = self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image
        if self.fast_inference and not torch.jit.is_scripting():
            return fast_rcnn_inference(boxes, probabilities, image_shapes, *thresholds)
        return stock_inference(boxes, probabilities, image_shapes, *thresholds)
