"""Test-time augmentation (TEST.AUG): a second evaluation, as in Detectron2's own train_net.py."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import EvalHook, HookBase
from detectron2.evaluation import verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn

from iif.d2.evaluator import evaluators_of

logger = logging.getLogger(__name__)


def test_all(trainer: type[DefaultTrainer], cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Evaluate a model on DATASETS.TEST, where TEST.AUG.ENABLED says so with augmentation too.

    The results are checked against TEST.EXPECTED_RESULTS, as Detectron2 does.

    Returns:
        The results of both, those with augmentation under keys that end in ``_TTA``.
    """
    results = trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(test_augmented(trainer, cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def test_augmented(
    trainer: type[DefaultTrainer], cfg: CfgNode, model: nn.Module
) -> OrderedDict[str, Any]:
    """Evaluate a model with test-time augmentation; writes into OUTPUT_DIR/inference_TTA."""
    logger.info("Running inference with test-time augmentation")
    augmented = GeneralizedRCNNWithTTA(cfg, model)
    results = trainer.test(cfg, augmented, evaluators_of(cfg, augmented, augmented=True))
    return OrderedDict((f"{key}_TTA", value) for key, value in results.items())


def tta_hooks(trainer: DefaultTrainer) -> list[HookBase]:
    """Return the hook that evaluates with augmentation after training; none where it is off."""
    if not trainer.cfg.TEST.AUG.ENABLED:
        return []
    return [EvalHook(0, lambda: test_augmented(type(trainer), trainer.cfg, trainer.model))]
