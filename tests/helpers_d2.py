"""A Mask R-CNN small enough to be built and trained in a test, and input for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

from iif import ClassStatistics
from iif.d2 import add_iif_config

# Counts of 5 classes in 100 images.
STATISTICS = ClassStatistics(
    image_count=[60, 30, 12, 5, 1],
    num_images=100,
    instance_count=[90, 40, 12, 7, 2],
    names=["a", "b", "c", "d", "e"],
)

TINY = {
    "MODEL": {
        "DEVICE": "cpu",
        "MASK_ON": True,
        "WEIGHTS": "",
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "STEM_OUT_CHANNELS": 16,
            "NORM": "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "PRE_NMS_TOPK_TRAIN": 60,
            "PRE_NMS_TOPK_TEST": 60,
            "POST_NMS_TOPK_TRAIN": 30,
            "POST_NMS_TOPK_TEST": 30,
        },
        "ROI_HEADS": {
            "NAME": "IIFROIHeads",
            "NUM_CLASSES": 5,
            "IN_FEATURES": ["p2", "p3"],
            "BATCH_SIZE_PER_IMAGE": 32,
            "SCORE_THRESH_TEST": 0.0001,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_FC": 1,
            "FC_DIM": 32,
            "POOLER_RESOLUTION": 4,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 16,
            "POOLER_RESOLUTION": 7,
        },
    },
}


# The statistics files of all configurations of a test process.
_FOLDER = tempfile.TemporaryDirectory(prefix="statistics")


def give_statistics(cfg: CfgNode, statistics: ClassStatistics) -> None:
    """Save statistics as a training does, and name their file in the configuration."""
    path = Path(_FOLDER.name, f"{len(list(Path(_FOLDER.name).iterdir()))}.json")
    statistics.save(path)
    cfg.MODEL.LONG_TAIL.STATISTICS = str(path)


def tiny_cfg(*overrides: object, statistics: ClassStatistics | None = STATISTICS) -> CfgNode:
    """Return the configuration of a tiny model that knows its classes' frequencies."""
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(TINY))
    if statistics is not None:
        give_statistics(cfg, statistics)
    cfg.merge_from_list(list(overrides))
    return cfg


def training_batch(num_images: int = 2, size: int = 64, seed: int = 0) -> list[dict]:
    """Return images with two or more instances each, as Detectron2's mapper makes them."""
    rng = torch.Generator().manual_seed(seed)
    batch = []
    for image_id in range(num_images):
        instances = Instances((size, size))
        corners = torch.randint(0, size // 2, (3, 2), generator=rng).float()
        extent = torch.randint(12, size // 2, (3, 2), generator=rng).float()
        instances.gt_boxes = Boxes(torch.cat([corners, corners + extent], dim=1))
        instances.gt_classes = torch.randint(0, 5, (3,), generator=rng)
        masks = torch.zeros(3, size, size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.int(), strict=True):
            mask[y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, size, size), generator=rng).float()
        batch.append(
            {
                "image": image,
                "instances": instances,
                "height": size,
                "width": size,
                "image_id": image_id,
            }
        )
    return batch
