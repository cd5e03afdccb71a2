"""The configurations: each loads and builds its heads, with the published setting it names.

tests/slow/test_configurations.py trains and evaluates each.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.solver import build_lr_scheduler, build_optimizer

from helpers_d2 import give_statistics
from iif import ClassStatistics, InputError
from iif.d2 import IIFCascadeROIHeads, IIFROIHeads, add_iif_config
from iif.d2.config import load_config
from iif.d2.cosine import CosineClassifier, CosineMaskHead
from iif.d2.mask_head import PredictedClassMaskHead

FOLDER = Path(__file__).parents[1] / "configs"
# Those with a key data are of iif classify (test_classification_config.py).
FILES = sorted(p for p in FOLDER.glob("*.yaml") if "\ndata: " not in p.read_text())
NUM_IMAGES = {"lvis_v1": 100_170, "lvis_v0.5": 57_263, "coco": 118_287}


def load(name: str) -> CfgNode:
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.merge_from_file(str(FOLDER / name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def give_counts(cfg: CfgNode) -> None:
    """Give the configuration made-up counts, so that it needs no data set."""
    counts = np.arange(1, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1)
    give_statistics(
        cfg,
        ClassStatistics(
            image_count=counts,
            num_images=100_170,
            instance_count=2 * counts,
            fractal_dimension=np.linspace(1, 2, len(counts)),
        ),
    )


def test_the_package_has_them_under_a_name_of_its_own():
    name = "lvis_iif_cosine_rfs_2x.yaml"  # with two bases
    assert load_config(f"iif://configs/{name}", []) == load_config(str(FOLDER / name), [])
    with pytest.raises(InputError, match=r"iif://configs/lvis.yaml: .*lvis_baseline.yaml, "):
        load_config("iif://configs/lvis.yaml", [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_loads_and_builds_its_heads(path):
    cfg = load(path.name)
    give_counts(cfg)
    cfg.freeze()  # as in training
    shapes = {
        name: ShapeSpec(channels=cfg.MODEL.FPN.OUT_CHANNELS, stride=2 ** int(name[1:]))
        for name in cfg.MODEL.ROI_HEADS.IN_FEATURES
    }
    heads = build_roi_heads(cfg, shapes)
    cascade = "cascade" in path.name
    assert isinstance(heads, IIFCascadeROIHeads if cascade else IIFROIHeads)
    predictors = list(heads.box_predictor) if cascade else [heads.box_predictor]
    options = cfg.MODEL.LONG_TAIL
    for predictor in predictors:
        assert predictor.method.name == options.METHOD
        classifier = predictor.cls_score
        assert isinstance(classifier, CosineClassifier) == (options.CLASSIFIER == "cosine")
        # All start alike, so that two runs differ in the method alone.
        assert options.CLASSIFIER_INIT == "normal"
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (classifier.bias == options.CLASSIFIER_BIAS).all()
    cosine = cfg.MODEL.ROI_MASK_HEAD.NAME == "CosineMaskHead"
    assert type(heads.mask_head) is (CosineMaskHead if cosine else PredictedClassMaskHead)


# Iterations of an epoch on LVIS v1 in the authors' logs, 16 images each: the 99,388 images with
# annotations, drawn once each, or repeated by repeat-factor sampling (threshold 0.001).
LVIS_EPOCH = {"TrainingSampler": 6213, "RepeatFactorTrainingSampler": 7674}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name.startswith(("lvis", "coco"))], ids=lambda path: path.name
)
def test_a_full_schedule_is_12_or_24_epochs(path):
    cfg = load(path.name)
    (name,) = cfg.DATASETS.TRAIN
    epoch = LVIS_EPOCH[cfg.DATALOADER.SAMPLER_TRAIN]
    if not name.startswith("lvis_v1"):
        # No log of the authors: every image once, rounded down.
        images = next(n for prefix, n in NUM_IMAGES.items() if name.startswith(prefix))
        epoch = images / cfg.SOLVER.IMS_PER_BATCH
    if cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY:
        expected = [2 + 2 / 3, 3 + 2 / 3, 4]
    else:
        twice = 18 * epoch < cfg.SOLVER.MAX_ITER
        assert twice == ("2x" in path.name or "headline" in path.name)
        expected = [16, 22, 24] if twice else [8, 11, 12]
    found = [*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER]
    if name.startswith("lvis_v1"):
        assert found == [round(part * epoch) for part in expected]
        assert epoch == cfg.SOLVER.CHECKPOINT_PERIOD
    np.testing.assert_allclose([step / epoch for step in found], expected, rtol=2e-4)
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (0.02, 0.9, 1e-4)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (500, 0.001)


def test_the_published_schedules():
    """As the authors' logs print them."""
    for name, steps, last in (
        ("lvis_iif.yaml", (49_704, 68_343), 74_556),
        ("lvis_baseline_rfs.yaml", (61_392, 84_414), 92_088),
        ("lvis_iif_headline.yaml", (122_784, 168_828), 184_176),
    ):
        cfg = load(name)
        assert (steps, last) == (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER)


def differences(one: CfgNode, other: CfgNode, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in one.items():
        if isinstance(value, CfgNode):
            found |= differences(value, other[key], f"{prefix}{key}.")
        elif value != other[key]:
            found.add(prefix + key)
    return found


METHOD = "MODEL.LONG_TAIL.METHOD"


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("lvis_iif.yaml", "lvis_baseline.yaml", {METHOD}),
        ("lvis_logit_adjustment.yaml", "lvis_baseline.yaml", {METHOD}),
        ("lvis_norcal.yaml", "lvis_baseline.yaml", {METHOD, "MODEL.WEIGHTS"}),
        ("lvis_fracal.yaml", "lvis_baseline.yaml", {METHOD, "MODEL.WEIGHTS"}),
        (
            "lvis_eqlv2.yaml",
            "lvis_baseline.yaml",
            {METHOD, "MODEL.LONG_TAIL.CLASSIFIER_BIAS"},
        ),
        (
            "lvis_federated.yaml",
            "lvis_baseline.yaml",
            {"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS"},
        ),
        (
            "lvis_seesaw_rfs_2x.yaml",
            "lvis_iif_cosine_rfs_2x.yaml",
            {
                METHOD,
                "MODEL.LONG_TAIL.COSINE_TEMPERATURE",
                "MODEL.ROI_HEADS.NMS_THRESH_TEST",
                "MODEL.IIF.VARIANT",
                "MODEL.IIF.COUNT_BY",
            },
        ),
    ],
)
def test_a_comparator_differs_in_its_method_alone(name, base, expected):
    assert differences(load(name), load(base)) == expected | {"OUTPUT_DIR"}


def test_the_authors_backbone_start():
    cfg = load("lvis_iif_headline.yaml")
    assert cfg.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False


def test_the_authors_stage_weights():
    cfg = load("lvis_iif_cascade.yaml")
    assert cfg.MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS == (1.0, 0.5, 0.25)


@pytest.mark.parametrize("name", ["lvis_iif_cosine_rfs_2x.yaml", "lvis_iif_headline.yaml"])
def test_the_best_published_setting(name):
    cfg = load(name)
    assert cfg.MODEL.LONG_TAIL.METHOD == "iif"
    assert (cfg.MODEL.IIF.VARIANT, cfg.MODEL.IIF.COUNT_BY) == ("base10", "instance")
    options = cfg.MODEL.LONG_TAIL
    assert (options.COSINE_TEMPERATURE, options.MASK_TEMPERATURE) == (8.0, 20.0)
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.3
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    assert cfg.DATALOADER.REPEAT_THRESHOLD == 0.001
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300


def test_output_folders_are_distinct():
    folders = [load(path.name).OUTPUT_DIR for path in FILES if not path.name.startswith("Base")]
    assert len(set(folders)) == len(folders) >= 12
    assert get_cfg().OUTPUT_DIR not in folders


@pytest.fixture(scope="module")
def both():
    lazy = LazyConfig.load(str(FOLDER / "lvis_iif.py"))
    cfg = load("lvis_iif.yaml")
    return lazy, cfg, instantiate(lazy.model), build_model(cfg)


def test_the_lazy_models_equal_the_yamls(both):
    _, _, lazy, yaml = both
    expected, found = yaml.state_dict(), lazy.state_dict()
    assert {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in found.items()}
    key = "roi_heads.box_predictor.method.scale"
    assert torch.equal(expected[key], found[key])
    assert found[key][0].item() == pytest.approx(7.355740938246138, rel=1e-6)

    with torch.no_grad():
        for name, value in expected.items():
            if name.endswith("conv3.norm.weight"):
                value.mul_(0.1)  # keeps the features of a random backbone small
    lazy.load_state_dict(expected)
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(lazy.roi_heads.box_predictor.cls_score.weight, std=0.01)
    yaml.roi_heads.box_predictor.load_state_dict(lazy.roi_heads.box_predictor.state_dict())
    outputs = []
    for model in (lazy, yaml):
        model.proposal_generator.post_nms_topk = {True: 30, False: 30}
        model.roi_heads.box_predictor.test_topk_per_image = 20
        with torch.no_grad():
            outputs.append(model.eval()([{"image": image}])[0]["instances"])
    assert len(outputs[0]) == 20
    assert torch.equal(outputs[0].scores, outputs[1].scores)
    assert torch.equal(outputs[0].pred_boxes.tensor, outputs[1].pred_boxes.tensor)
    assert torch.equal(outputs[0].pred_masks, outputs[1].pred_masks)


def test_the_lazy_models_settings_equal_the_yamls(both):
    _, _, lazy, yaml = both

    def settings(model):
        plain = int | float | str | tuple | list | dict
        found = {}
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, plain) and not key.startswith("_") and key != "training":
                    found[f"{name}.{key}"] = list(value) if isinstance(value, tuple) else value
        return found

    expected, found = settings(yaml), settings(lazy)
    shared = expected.keys() & found.keys()
    assert len(shared) > 200
    weight = "roi_heads.box_predictor.loss_weight"  # a loss that it does not name weighs 1
    assert {*expected.pop(weight).values(), *found.pop(weight).values()} == {1.0}
    for key in shared - {weight}:
        same = expected[key] == found[key] or repr(expected[key]) == repr(found[key])
        assert same, key


def test_the_lazy_schedule_equals_the_yamls(both):
    lazy, cfg, model, _ = both
    lazy.optimizer.params.model = model
    optimizer = instantiate(lazy.optimizer)
    expected = build_optimizer(cfg, model)
    for key in ("lr", "momentum", "weight_decay"):
        assert optimizer.defaults[key] == expected.defaults[key]
    multiplier = instantiate(lazy.lr_multiplier)
    scheduler = build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1)], lr=1.0))
    for step in (0, 100, 499, 500, 49_703, 49_704, 68_342, 68_343, 74_555):
        scheduler.last_epoch = step
        (rate,) = scheduler.get_lr()
        assert multiplier(step / lazy.train.max_iter) == pytest.approx(rate), step
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert lazy.train.checkpointer.period == cfg.SOLVER.CHECKPOINT_PERIOD
    train = lazy.dataloader.train
    assert train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert (train.dataset.names,) == cfg.DATASETS.TRAIN
    assert (lazy.dataloader.test.dataset.names,) == cfg.DATASETS.TEST
    resize = train.mapper.augmentations[0]
    assert tuple(resize.short_edge_length) == cfg.INPUT.MIN_SIZE_TRAIN
    assert resize.max_size == cfg.INPUT.MAX_SIZE_TRAIN
    assert lazy.train.eval_period == cfg.SOLVER.MAX_ITER
    assert lazy.train.output_dir == cfg.OUTPUT_DIR


def test_the_lazy_evaluator_knows_settings_and_method(tmp_path, monkeypatch):
    logger = logging.getLogger("iif")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    lazy = LazyConfig.load(str(FOLDER / "lvis_iif.py"))
    lazy.train.output_dir = str(tmp_path)
    lazy.model.roi_heads.box_predictor.test_score_thresh = 0.05
    # LVIS's metadata have no counts of the validation set, and its file is not there.
    evaluator = instantiate(lazy.dataloader.evaluator)
    assert evaluator._output_dir == tmp_path / "inference"
    assert evaluator._test_settings == {
        "score_threshold": 0.05,
        "nms_threshold": 0.5,
        "detections_per_image": 300,
    }
    assert evaluator._method["name"] == "iif"
    assert evaluator._method["options"]["variant"] == "raw"
    json.dumps(evaluator._config)
    assert evaluator._config["model"]["roi_heads"]["box_predictor"]["test_score_thresh"] == 0.05
    assert evaluator._config["train"]["max_iter"] == 74_556
    assert evaluator._config["model"]["target"].endswith("GeneralizedRCNN")
    logger.info("a line of ours")
    assert "a line of ours" in (tmp_path / "log.txt").read_text()
