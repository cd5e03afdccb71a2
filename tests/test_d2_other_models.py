"""The box predictor in models beside Mask R-CNN with FPN: PointRend and ViTDet."""

from __future__ import annotations

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.model_zoo import get_config
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers_d2 import STATISTICS, TINY, give_statistics, training_batch
from iif import build_method
from iif.d2 import IIFFastRCNNOutputLayers, IIFROIHeads, add_iif_config
from iif.d2.mask_head import PredictedClassMaskHead


def train_and_detect(model):
    with EventStorage():
        losses = model.train()(training_batch(2))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert model.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0
    with torch.no_grad():
        found = model.eval()(training_batch(1))[0]["instances"]
    assert len(found) > 0
    assert found.pred_masks.shape[1:] == (64, 64)
    return losses


def test_pointrend():
    point_rend = pytest.importorskip(
        "detectron2.projects.point_rend", reason="PointRend is not installed"
    )
    cfg = get_cfg()
    point_rend.add_pointrend_config(cfg)
    add_iif_config(cfg)
    cfg.merge_from_other_cfg(type(cfg)(TINY))
    give_statistics(cfg, STATISTICS)
    mask = {
        "NAME": "PointRendMaskHead",
        "POOLER_TYPE": "",
        "POOLER_RESOLUTION": 14,
        "FC_DIM": 32,
        "NUM_FC": 2,
        "OUTPUT_SIDE_RESOLUTION": 7,
        "IN_FEATURES": ["p2"],
        "POINT_HEAD_ON": True,
    }
    points = {"FC_DIM": 16, "NUM_FC": 2, "IN_FEATURES": ["p2"], "NUM_CLASSES": 5}
    for node, values in (("ROI_MASK_HEAD", mask), ("POINT_HEAD", points)):
        for key, value in values.items():
            cfg.MODEL[node][key] = value
    torch.manual_seed(0)
    model = build_model(cfg)
    assert isinstance(model.roi_heads, IIFROIHeads)
    assert type(model.roi_heads.mask_head).__name__ == "PointRendMaskHead"
    assert "loss_mask_point" in train_and_detect(model)


def test_vitdet():
    """ViTDet's model of Detectron2's common configurations, made small."""
    pytest.importorskip("timm", reason="timm, which Detectron2's ViT needs, is not installed")
    model = get_config("common/models/mask_rcnn_vitdet.py").model
    vit = model.backbone.net
    vit.update(img_size=64, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.0)
    vit.update(window_size=2, window_block_indexes=[0])
    model.backbone.update(out_channels=16, square_pad=64)
    for head in (model.roi_heads.box_head, model.roi_heads.mask_head):
        head.input_shape.channels = 16
    model.proposal_generator.head.update(in_channels=16)
    model.roi_heads.box_head.update(conv_dims=[16], fc_dims=[32])
    model.roi_heads.mask_head.update(conv_dims=[16, 16], _target_=PredictedClassMaskHead)
    model.roi_heads.update(num_classes=5, batch_size_per_image=32)
    model.roi_heads.box_predictor.input_shape.channels = 32
    model.roi_heads.box_predictor.update(
        _target_=IIFFastRCNNOutputLayers,
        test_score_thresh=1e-4,
        method=L(build_method)(name="iif", statistics=STATISTICS),
    )
    torch.manual_seed(0)
    built = instantiate(model)
    assert built.roi_heads.box_predictor.method.name == "iif"
    train_and_detect(built)
