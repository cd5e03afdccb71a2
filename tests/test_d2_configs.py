"""The configurations: each loads and builds its heads, with the published setting it names."""

from __future__ import annotations

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
from iif import ClassStatistics
from iif.d2 import IIFCascadeROIHeads, IIFROIHeads, add_iif_config
from iif.d2.cosine import CosineClassifier, CosineMaskHead
from iif.methods import Method

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
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
        cfg, ClassStatistics(image_count=counts, num_images=100_170, instance_count=2 * counts)
    )


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
    for predictor in predictors:
        assert (type(predictor.method) is Method) == (cfg.MODEL.LONG_TAIL.METHOD == "none")
        assert isinstance(predictor.cls_score, CosineClassifier) == ("cosine" in path.name)
        assert (predictor.cls_score.weight == 0.001).all() == (
            cfg.MODEL.LONG_TAIL.CLASSIFIER_INIT == "constant"
        )
    assert isinstance(heads.mask_head, CosineMaskHead) == ("cosine" in path.name)


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name.startswith(("lvis", "coco"))], ids=lambda path: path.name
)
def test_a_full_schedule_is_12_or_24_epochs(path):
    cfg = load(path.name)
    (name,) = cfg.DATASETS.TRAIN
    images = next(n for prefix, n in NUM_IMAGES.items() if name.startswith(prefix))
    epoch = images / cfg.SOLVER.IMS_PER_BATCH
    if cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY:
        expected = [2.667, 3.667, 4]
    else:
        expected = [16, 22, 24] if "2x" in path.name else [8, 11, 12]
    found = [step / epoch for step in (*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER)]
    np.testing.assert_allclose(found, expected, rtol=2e-3)  # LVIS: 6,250 iterations an epoch
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY) == (0.02, 0.9, 1e-4)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (500, 0.001)


def test_the_best_published_setting():
    cfg = load("lvis_iif_cosine_rfs_2x.yaml")
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
    for step in (0, 100, 499, 500, 49_999, 50_000, 68_749, 68_750, 74_999):
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
