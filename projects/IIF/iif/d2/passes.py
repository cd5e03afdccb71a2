"""One pass of Detectron2's network over images, and what each of many methods detects in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from torch import Tensor

from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.inference import fast_rcnn_inference
from iif.data.annotations import Annotations
from iif.evaluation.tuning import FoundBoxes
from iif.methods import Method
from iif.progress import progress

Images = Sequence[dict[str, Any]]


@torch.no_grad()
def find_boxes(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    images: Images,
    methods: Sequence[Method],
    gt: Annotations,
) -> list[FoundBoxes]:
    """Return the boxes found under each method; the network runs once an image.

    Backbone, proposals and box head do; of each method only the logits differ. A cascade with
    class-specific regression is the exception: there the method also decides the boxes that a
    stage hands on, so its box heads run once for each method.

    Args:
        model: a plain model without masks, in evaluation mode.
        cfg: its configuration.
        images: Detectron2's dicts.
        methods: those to try.
        gt: annotations of the images; the rows of their ids are the image rows.
    """
    found = [FoundBoxes() for _ in methods]
    for image, row, every in _detections(model, cfg, images, methods, gt):
        for boxes, instances in zip(found, every, strict=True):
            whole = detector_postprocess(instances, image["height"], image["width"]).to("cpu")
            boxes.add(row, whole.pred_boxes.tensor, whole.scores, whole.pred_classes)
    return found


@torch.no_grad()
def find_results(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    images: Images,
    methods: Sequence[Method],
    gt: Annotations,
) -> list[list[dict[str, Any]]]:
    """Return each method's detections as entries of a result file, with masks if the model has.

    Args:
        model, cfg, images, methods, gt: as for `find_boxes`; the model may have masks.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in methods]
    for image, _, every in _detections(model, cfg, images, methods, gt):
        for rows, instances in zip(found, every, strict=True):
            whole = detector_postprocess(instances, image["height"], image["width"]).to("cpu")
            for result in instances_to_coco_json(whole, image["image_id"]):
                result["category_id"] = int(gt.category_ids[result["category_id"]])
                rows.append(result)
    return found


def _detections(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    images: Images,
    methods: Sequence[Method],
    gt: Annotations,
) -> Iterator[tuple[dict[str, Any], int, Iterator[Instances]]]:
    """Yield each image, its row, and its detections under each method, in network coordinates."""
    moved = [method.to(model.device).eval() for method in methods]
    loader = build_detection_test_loader(
        list(images),
        mapper=DatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    for batch in progress(loader, desc="detecting", unit="image"):
        (image,) = batch
        tensors = model.preprocess_image(batch)
        features = model.backbone(tensors.tensor)
        proposals, _ = model.proposal_generator(tensors, features)
        (row,) = gt.image_row([image["image_id"]]).tolist()
        if model.roi_heads.mask_on or _boxes_depend_on_the_method(model.roi_heads):
            every = _one_by_one(model, tensors, features, proposals, moved)
        elif isinstance(model.roi_heads, CascadeROIHeads):
            every = _of_stages(model.roi_heads, features, proposals, moved)
        else:
            every = _of_outputs(model, tensors, features, proposals, moved)
        yield image, row, every
    _set_method(model, Method())


def _boxes_depend_on_the_method(heads: Any) -> bool:
    if not isinstance(heads, CascadeROIHeads):
        return False
    final = heads.box_predictor[-1]
    return final.bbox_pred.out_features > 4 or not final.fast_inference


def _set_method(model: torch.nn.Module, method: Method) -> None:
    for module in model.modules():
        if isinstance(module, IIFFastRCNNOutputLayers):
            module.method = method


def _one_by_one(
    model: GeneralizedRCNN,
    tensors: Any,
    features: dict[str, Tensor],
    proposals: list[Instances],
    methods: Sequence[Method],
) -> Iterator[Instances]:
    """Run the ROI heads under each method."""
    for method in methods:
        _set_method(model, method)
        (instances,), _ = model.roi_heads(tensors, features, proposals)
        yield instances


def _of_outputs(
    model: GeneralizedRCNN,
    tensors: Any,
    features: dict[str, Tensor],
    proposals: list[Instances],
    methods: Sequence[Method],
) -> Iterator[Instances]:
    """Run the ROI heads once, and the methods on the outputs of their one predictor."""
    predictor = model.roi_heads.box_predictor
    captured: list[tuple[Tensor, Tensor]] = []
    predictor.method = Method()  # whose logits are the classifier's outputs
    hook = predictor.register_forward_hook(lambda *call: captured.append(call[-1]))
    try:
        (plain,), _ = model.roi_heads(tensors, features, proposals)
    finally:
        hook.remove()
    ((outputs, deltas),) = captured
    for method in methods:
        if type(method) is Method:
            yield plain
            continue
        predictor.method = method
        (instances,), _ = predictor.inference((method.test_logits(outputs), deltas), proposals)
        yield instances


def _of_stages(
    heads: Any,
    features: dict[str, Tensor],
    proposals: list[Instances],
    methods: Sequence[Method],
) -> Iterator[Instances]:
    """Run a cascade's stages once, and the methods on the outputs of each stage's predictor.

    The steps are those of IIFCascadeROIHeads; with class-agnostic regression the boxes that a
    stage hands on are the same under every method.
    """
    pooled = [features[name] for name in heads.box_in_features]
    image_sizes = [image.image_size for image in proposals]
    stages = []
    for stage, predictor in enumerate(heads.box_predictor):
        predictor.method = Method()
        outputs, deltas = heads._run_stage(pooled, proposals, stage)
        boxes = predictor.predict_boxes((outputs, deltas), proposals)
        stages.append((predictor, outputs, deltas, proposals))
        if stage < heads.num_cascade_stages - 1:
            proposals = heads._create_proposals_from_boxes(boxes, image_sizes)
    final = heads.box_predictor[-1]
    for method in methods:
        summed: Any = 0
        for predictor, outputs, deltas, of_stage in stages:
            predictor.method = method
            logits = method.test_logits(outputs)
            (scores,) = predictor.predict_probs((logits, deltas), of_stage)
            summed = summed + scores
        (instances,), _ = fast_rcnn_inference(
            list(boxes),
            [summed * (1.0 / heads.num_cascade_stages)],
            image_sizes,
            final.test_score_thresh,
            final.test_nms_thresh,
            final.test_topk_per_image,
        )
        yield instances
