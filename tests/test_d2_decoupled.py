"""Decoupled training: after some iterations the classifier has moved and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from helpers_d2 import tiny_cfg, training_batch
from iif import InputError
from iif.d2.train import Trainer

ONLY = ("MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY", True)
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)


def trained_baseline(folder, *overrides: object) -> str:
    """Save a plain model whose BatchNorm statistics are no longer the initial ones."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.LONG_TAIL.METHOD", "none", *overrides)).train()
    with EventStorage():
        model(training_batch())
    DetectionCheckpointer(model, save_dir=str(folder)).save("baseline")
    return str(folder / "baseline.pth")


@pytest.mark.parametrize(
    "overrides",
    [(), CASCADE, ("MODEL.LONG_TAIL.CLASSIFIER", "cosine")],
    ids=["plain", "cascade", "cos"],
)
def test_only_the_classifier_moves(overrides, tmp_path):
    weights = trained_baseline(tmp_path, *overrides)
    cfg = tiny_cfg(*ONLY, *overrides, "SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.1)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    optimizer = build_optimizer(cfg, model)
    before = copy.deepcopy(model.state_dict())
    saved = torch.load(weights, weights_only=False)["model"]
    for name, value in before.items():
        assert "method" in name or torch.equal(value, torch.as_tensor(saved[name])), name

    model.train()
    for seed in range(3):
        with EventStorage():
            losses = model(training_batch(seed=seed))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    for name, value in model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (".cls_score." in name), name
    assert any("running_mean" in name for name in before)


def test_batch_statistics_are_neither_used_nor_gathered():
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg(*ONLY)).train()
    norms = [m for m in model.modules() if "BatchNorm" in type(m).__name__]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)


def test_the_loss_is_the_adjusted_one(tmp_path):
    weights = trained_baseline(tmp_path)
    losses = []
    for overrides in (ONLY, (*ONLY, "MODEL.LONG_TAIL.METHOD", "none")):
        model = Trainer.build_model(tiny_cfg(*overrides)).train()
        DetectionCheckpointer(model).load(weights)
        torch.nn.init.ones_(model.roi_heads.box_predictor.cls_score.bias)
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model(training_batch()))
    assert losses[0]["loss_cls"] != losses[1]["loss_cls"]
    assert losses[0]["loss_box_reg"] == losses[1]["loss_box_reg"]


def test_all_parameters_train_without_it():
    model = Trainer.build_model(tiny_cfg())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_heads_without_iif_are_refused():
    with pytest.raises(InputError, match=r"TRAIN_CLASSIFIER_ONLY needs .*IIFROIHeads"):
        Trainer.build_model(tiny_cfg(*ONLY, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"))
