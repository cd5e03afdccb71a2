"""Every method with every way of training: repeat factors, cosine, cascade, decoupled."""

from __future__ import annotations

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data.samplers import RepeatFactorTrainingSampler

from d2_runs import read, saved_config
from iif import ClassStatistics
from iif.d2.checkpoint import load_model
from iif.d2.cosine import CosineClassifier
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.train import run
from iif.methods import METHODS
from iif.methods.moments import RunningMoments

FEDERATED = "federated"  # the baseline with Detectron2's federated loss
WAYS = {
    "repeat_factors": (
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.REPEAT_THRESHOLD", "0.5"),
    ),
    "cosine": ("MODEL.LONG_TAIL.CLASSIFIER", "cosine"),
    "cascade": (
        *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    ),
    "specific_cascade": ("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
    "decoupled": ("MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY", "True"),
}


@pytest.fixture(scope="module")
def moments(openmoji_dir, tmp_path_factory):
    """The path of moments for the classes of the data set."""
    statistics = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    running = RunningMoments(len(statistics))
    running.update(torch.randn(50, len(statistics), generator=torch.Generator().manual_seed(0)))
    source = {"checkpoint": "x", "checkpoint_sha256": "", "engine": "detectron2", "iterations": 1}
    path = tmp_path_factory.mktemp("moments") / "moments.json"
    running.result(statistics, **source).save(path)
    return str(path)


def overrides_of(method, moments):
    """Return the overrides that a method needs beside its name."""
    if method == FEDERATED:
        chosen = ["MODEL.LONG_TAIL.METHOD", "none"]
        for key in ("USE_SIGMOID_CE", "USE_FED_LOSS"):
            chosen += [f"MODEL.ROI_BOX_HEAD.{key}", "True"]
        return chosen
    chosen = ["MODEL.LONG_TAIL.METHOD", method]
    if "moments" in METHODS[method].needs:
        chosen += [f"MODEL.{method.upper()}.MOMENTS", moments]
    return chosen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", [*METHODS, FEDERATED])
def test_it_builds_trains_a_step_and_evaluates(
    method, way, config_file, baseline, moments, tmp_path, monkeypatch
):
    thresholds = []
    real = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency

    def spy(dicts, threshold, *args, **kwargs):
        thresholds.append(threshold)
        return real(dicts, threshold, *args, **kwargs)

    monkeypatch.setattr(
        RepeatFactorTrainingSampler, "repeat_factors_from_category_frequency", staticmethod(spy)
    )
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["SOLVER.MAX_ITER", "1", *overrides_of(method, moments), *WAYS[way]]
    if way == "decoupled":
        arguments += ["MODEL.WEIGHTS", str(baseline / "model_final.pth")]
    assert run(arguments) == 0

    summary = read(tmp_path / "inference" / "eval_summary.json")
    assert summary["method"]["name"] == ("none" if method == FEDERATED else method)
    assert summary["metrics"]["bbox"]["AP"] is not None
    assert summary["metrics"]["segm"]["AP"] is not None
    model = load_model(saved_config(tmp_path), str(tmp_path / "model_final.pth"))
    predictors = [m for m in model.modules() if isinstance(m, IIFFastRCNNOutputLayers)]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert len(predictors) == (3 if "cascade" in way else 1)
    assert {p.use_fed_loss for p in predictors} == {method == FEDERATED}
    assert thresholds == ([0.5] if way == "repeat_factors" else [])
    for predictor in predictors:
        assert isinstance(predictor.cls_score, CosineClassifier) == (way == "cosine")
    if way == "decoupled":
        before = torch.load(baseline / "model_final.pth", weights_only=False)["model"]
        moved = {
            name
            for name, value in model.named_parameters()
            if not (value.shape == before[name].shape and torch.equal(value, before[name]))
        }
        assert moved == {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}


POST_HOC = [name for name, kind in METHODS.items() if kind.post_hoc is not None]


@pytest.mark.parametrize("method", POST_HOC)
def test_a_plain_checkpoint_is_evaluated_under_a_post_hoc_method(
    method, config_file, baseline, moments, tmp_path
):
    """End to end: detections change, and the summary records what ran."""
    weights = str(baseline / "model_final.pth")
    arguments = ["--eval-only", "--config-file", str(config_file), "MODEL.WEIGHTS", weights]
    node = f"MODEL.{method.upper()}"
    settings = [(f"{node}.{key.upper()}", v) for key, v in METHODS[method].post_hoc.items()]
    arguments += [*overrides_of(method, moments), *(part for pair in settings for part in pair)]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path)]) == 0
    summary = read(tmp_path / "inference" / "eval_summary.json")
    assert summary["method"]["name"] == method
    assert summary["method"]["acts_in_training"] is False
    plain = read(baseline / "inference" / "eval_summary.json")
    assert summary["results"]["sha256"] != plain["results"]["sha256"]
    assert summary["test_settings"] == plain["test_settings"]


def test_a_post_hoc_method_that_changes_nothing_gives_the_plain_detections(
    config_file, baseline, tmp_path
):
    arguments = ["--eval-only", "--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(baseline / "model_final.pth")]
    assert (
        run([*arguments, *("MODEL.LONG_TAIL.METHOD", "norcal", "MODEL.NORCAL.GAMMA", "0.0")]) == 0
    )
    summaries = [read(f / "inference" / "eval_summary.json") for f in (baseline, tmp_path)]
    assert summaries[0]["results"]["sha256"] == summaries[1]["results"]["sha256"]
