"""FASA in Detectron2: seam, cascades, adaptation on held-out images, checkpoints, resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from d2_runs import entries, read, saved_config, write_config
from helpers_d2 import STATISTICS, tiny_cfg, training_batch
from iif import ClassStatistics, InputError
from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.d2.augmentation import augmentations_of
from iif.d2.checkpoint import MethodCheckpointer, fold, load_model
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers, TrainingPredictions
from iif.d2.loader import iterations_per_epoch
from iif.d2.train import Trainer, run

ROOT = Path(__file__).parents[1]
ON = ("MODEL.FASA.ENABLED", True, "MODEL.FASA.ADAPT", False)
CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
C4 = (
    *("MODEL.ROI_HEADS.NAME", "IIFRes5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RPN.IN_FEATURES", ["res4"], "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]]),
)


SAVE_EACH_RANK = """
import sys, torch, train_net
from detectron2.utils import comm
class Trainer(train_net.Trainer):
    def after_train(self):
        super().after_train()
        state = {k: v for k, v in self.model.state_dict().items() if "augmentation" in k}
        torch.save(state, f"{self.cfg.OUTPUT_DIR}/rank{comm.get_rank()}.pth")
train_net.Trainer = Trainer
if __name__ == "__main__":
    sys.exit(train_net.run())
"""


def build(*overrides, start=1, chance=1.0):
    """Return a tiny model; its virtual features begin with epoch ``start`` of 2 iterations."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*ON, "MODEL.FASA.START_EPOCH", start, *overrides)).train()
    for augmentation in augmentations_of(model):
        augmentation.epoch_length = 2
        if chance is not None:
            augmentation.chance.fill_(chance)
    return model


def step(model, seed=0):
    torch.manual_seed(seed)
    with EventStorage():
        return model(training_batch(seed=seed))


def predictor_of(model):
    return model.roi_heads.box_predictor


def test_switched_off_nothing_changes():
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).train()
    assert predictor_of(model).augmentation is None
    assert not any("augmentation" in key for key in model.state_dict())
    assert type(predictor_of(model)(torch.randn(3, 32))) is tuple
    with_fasa = build(start=9)  # starts alike and has the same losses in its first epochs
    for key, value in model.state_dict().items():
        assert torch.equal(value, with_fasa.state_dict()[key]), key
    plain, augmented = step(model), step(with_fasa)
    for key, loss in plain.items():
        assert torch.equal(loss, augmented[key]), key


def test_the_features_are_those_of_the_box_classifier():
    predictor = predictor_of(build())
    x = torch.randn(6, 32)
    predictions = predictor(x)
    outputs, deltas = predictions
    assert isinstance(predictions, TrainingPredictions)
    assert torch.equal(predictions.features, x)
    assert torch.equal(predictor.cls_score(x), outputs)
    assert deltas.shape == (6, 20)
    predictor.eval()
    found = predictor(x)
    assert type(found) is tuple
    assert not any(isinstance(value, torch.Tensor) for value in vars(predictor).values())


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_the_loss_is_raised_by_the_virtual_features_cross_entropy(weight):
    model = build("MODEL.FASA.WEIGHT", weight, "MODEL.LONG_TAIL.METHOD", "logit_adjustment")
    predictor = predictor_of(model)
    losses = step(model)
    augmentation = predictor.augmentation
    assert augmentation.seen.any()
    augmentation.iteration.zero_()
    virtual, classes = augmentation.draw()
    logits = predictor.method.training_logits(predictor.cls_score(virtual), classes)
    expected = weight * F.cross_entropy(logits, classes)
    without = build("MODEL.LONG_TAIL.METHOD", "logit_adjustment", start=9)
    torch.testing.assert_close(losses["loss_cls"], step(without)["loss_cls"] + expected)


def test_only_the_classifier_learns_from_virtual_features():
    def gradients(model):
        sum(step(model).values()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    augmented, plain = gradients(build()), gradients(build(start=9))
    assert augmented.keys() == plain.keys()
    changed = {key for key, grad in plain.items() if not torch.equal(grad, augmented[key])}
    assert changed == {
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.cls_score.bias",
    }


def test_a_methods_counts_see_no_virtual_feature():
    model = build("MODEL.LONG_TAIL.METHOD", "seesaw")
    plain = build("MODEL.LONG_TAIL.METHOD", "seesaw", start=9)
    for seed in range(2):
        step(model, seed)
        step(plain, seed)
    assert predictor_of(model).method.seen.sum() > 0
    assert torch.equal(predictor_of(model).method.seen, predictor_of(plain).method.seen)


@pytest.mark.parametrize("stages", [CASCADE, (*CASCADE[:3], False)])
def test_a_cascade_has_statistics_in_each_stage(stages):
    model = build(*stages)
    losses = step(model)
    plain = step(build(*stages, start=9))
    augmentations = augmentations_of(model)
    assert [augmentation.stage for augmentation in augmentations] == [0, 1, 2]
    for i, augmentation in enumerate(augmentations):
        assert augmentation.seen.any()
        assert augmentation.iteration.item() == 1
        assert losses[f"loss_cls_stage{i}"] > plain[f"loss_cls_stage{i}"]
    assert not torch.equal(augmentations[0].mean, augmentations[1].mean)


@pytest.mark.parametrize("overrides", [(), CASCADE])
def test_evaluation_and_scripting_see_nothing_of_it(overrides):
    model = build(*overrides)
    step(model)
    plain = build_model(tiny_cfg(*overrides))
    state = {k: v for k, v in model.state_dict().items() if "augmentation" not in k}
    plain.load_state_dict(state)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    plain.eval()
    with torch.no_grad():
        (found,), (expected,) = model(training_batch(1)), plain(training_batch(1))
    assert torch.equal(found["instances"].scores, expected["instances"].scores)
    assert torch.equal(
        found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor
    )
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_predictor_can_be_scripted():
    predictor = predictor_of(build()).eval()
    scripted = torch.jit.script(predictor)
    x = torch.randn(4, 32)
    for found, expected in zip(scripted(x), predictor(x), strict=True):
        assert torch.equal(found, expected)


class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("MODEL.LONG_TAIL.METHOD", "eqlv2"), "method eqlv2 has a loss of its own"),
            (("MODEL.FASA.WEIGHT", -1.0), r"MODEL\.FASA\.WEIGHT is -1\.0; it must be a number, 0"),
            (("MODEL.FASA.START_EPOCH", 0), r"MODEL\.FASA\.START_EPOCH is 0; it must be a whole"),
            (
                ("MODEL.LONG_TAIL.METHOD", "none", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
                r"MODEL\.FASA adds a softmax cross entropy",
            ),
        ],
    )
    def test_settings(self, overrides, message):
        with pytest.raises(InputError, match=message):
            build_model(tiny_cfg(*ON, *overrides))

    def test_statistics_without_instances(self):
        images_alone = ClassStatistics(image_count=[60, 30, 12, 5, 1], num_images=100)
        with pytest.raises(InputError, match="counts images alone"):
            build_model(tiny_cfg(*ON, statistics=images_alone))

    def test_an_unknown_length_of_the_epoch(self):
        model = build_model(tiny_cfg(*ON)).train()
        with pytest.raises(InputError, match="set its epoch_length"):
            step(model)


def test_an_epoch_is_the_training_set_once():
    cfg = tiny_cfg("SOLVER.IMS_PER_BATCH", 2)
    images = [{"annotations": [{"category_id": c} for c in shown]} for shown in ([0], [0], [0, 1])]
    assert iterations_per_epoch(cfg, images) == 2
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 3.0  # factors sqrt(3 / 1) and, of class 1, sqrt(3 / (1/3))
    assert iterations_per_epoch(cfg, images) == int(np.ceil((3**0.5 + 3**0.5 + 3) / 2))


class TestCheckpoint:
    def test_a_resumed_run_equals_an_unbroken_one(self, tmp_path):
        unbroken = build(chance=0.6)
        for seed in range(3):
            step(unbroken, seed)
        MethodCheckpointer(unbroken, str(tmp_path)).save("half")
        expected = [step(unbroken, seed) for seed in (3, 4)]

        resumed = build(chance=None)
        MethodCheckpointer(resumed, str(tmp_path)).load(str(tmp_path / "half.pth"))
        assert augmentations_of(resumed)[0].iteration.item() == 3
        for seed, losses in zip((3, 4), expected, strict=True):
            for key, loss in step(resumed, seed).items():
                assert torch.equal(loss, losses[key]), key
        for (name, buffer), other in zip(resumed.named_buffers(), unbroken.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, rtol=0, atol=0, equal_nan=True, msg=name)

    def test_says_that_fasa_ran_and_with_what(self, tmp_path):
        MethodCheckpointer(build(), str(tmp_path)).save("run")
        record = torch.load(tmp_path / "run.pth", weights_only=True)["long_tail_method"]
        assert record["fasa"]["enabled"]
        assert record["fasa"]["weight"] == 0.1
        assert "fasa" not in Trainer.build_model(tiny_cfg()).roi_heads.box_predictor.method.record()

    @pytest.mark.parametrize("evaluate", [True, False])
    @pytest.mark.parametrize(
        ("trained", "used", "message"),
        [
            (ON, (), r"trained with MODEL\.FASA\.ENABLED True, the configuration has False"),
            ((), ON, r"trained with MODEL\.FASA\.ENABLED False, the configuration has True"),
            (
                ON,
                (*ON, "MODEL.FASA.WEIGHT", 0.5),
                r"trained with MODEL\.FASA\.WEIGHT 0\.1, the configuration has 0\.5",
            ),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path, trained, used, message, evaluate):
        MethodCheckpointer(build_model(tiny_cfg(*trained)), str(tmp_path)).save("run")
        checkpointer = MethodCheckpointer(build_model(tiny_cfg(*used)), evaluate=evaluate)
        with pytest.raises(InputError, match=message):
            checkpointer.load(str(tmp_path / "run.pth"))

    def test_a_training_that_starts_from_weights_begins_anew(self, tmp_path):
        trained = build()
        step(trained)
        MethodCheckpointer(trained, str(tmp_path)).save("run")
        model = build(chance=None)
        start = {k: v.clone() for k, v in model.state_dict().items() if "augmentation" in k}
        MethodCheckpointer(model).load(str(tmp_path / "run.pth"), checkpointables=[])
        for key, value in start.items():
            torch.testing.assert_close(model.state_dict()[key], value, equal_nan=True)
        key = "roi_heads.box_predictor.cls_score.weight"
        assert torch.equal(model.state_dict()[key], trained.state_dict()[key])

    def test_a_folded_checkpoint_has_nothing_of_it(self, tmp_path):
        cfg = tiny_cfg(*ON)
        MethodCheckpointer(build_model(cfg), str(tmp_path)).save("run")
        loaded = load_model(cfg, str(tmp_path / "run.pth"))
        assert not any("augmentation" in key for key in loaded.state_dict())
        fold(cfg, str(tmp_path / "run.pth"), tmp_path / "plain.pth")
        keys = torch.load(tmp_path / "plain.pth", weights_only=True)["model"]
        assert not any("augmentation" in key for key in keys)
        assert "FASA" not in (tmp_path / "plain.yaml").read_text()


def test_lazy_arguments_build_the_same():
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform

    predictor = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=8),
        augmentation=FeatureAugmentation(
            STATISTICS.instance_count, 8, options=FasaOptions(epoch_length=3)
        ),
        num_classes=5,
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    )
    assert "augmentation.mean" in predictor.state_dict()


@pytest.fixture(scope="module")
def trained(openmoji_dir, tmp_path_factory):
    """Return the configuration file and the output folder of a run of 2 epochs."""
    folder = tmp_path_factory.mktemp("fasa")
    config = write_config(openmoji_dir, folder)
    arguments = ["--config-file", str(config), *TestTraining.SETTINGS, "OUTPUT_DIR"]
    assert run([*arguments, str(folder / "run")]) == 0
    return config, folder / "run"


class TestTraining:
    """A whole run of train_net.py: 2 epochs, adaptation after each."""

    LENGTH = 3
    SETTINGS = (
        *("MODEL.FASA.ENABLED", "True", "MODEL.FASA.EPOCH_LENGTH", str(LENGTH)),
        *("DATASETS.HELD_OUT", "0.3", "MODEL.FASA.START_EPOCH", "2"),
        *("SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.WARMUP_ITERS", "2"),
    )

    def state(self, folder, name):
        state = torch.load(folder / name, weights_only=True)["model"]
        return {k.rpartition(".")[2]: v for k, v in state.items() if ".augmentation." in k}

    def test_the_first_epoch_stores_and_the_second_adapts(self, trained):
        _, folder = trained
        first = self.state(folder, "model_0000002.pth")
        last = self.state(folder, "model_final.pth")
        assert first["iteration"].item() == self.LENGTH
        assert last["iteration"].item() == 2 * self.LENGTH
        statistics = ClassStatistics.load(folder / "class_statistics.json")
        inverse = 1 / statistics.instance_count
        np.testing.assert_allclose(first["chance"], inverse / inverse.sum(), rtol=1e-6)
        change = last["held_out_loss"] - first["held_out_loss"]
        assert torch.isfinite(change).all()
        factor = torch.where(change < 0, 1.1, torch.where(change > 0, 0.9, 1.0))
        torch.testing.assert_close(last["chance"], first["chance"] * factor)
        assert (change != 0).any()

    def test_the_summary_and_the_checkpoint_say_so(self, trained):
        _, folder = trained
        summary = read(folder / "inference" / "eval_summary.json")
        assert summary["config"]["MODEL"]["FASA"]["ENABLED"] is True
        assert summary["method"]["fasa"]["epoch_length"] == self.LENGTH
        assert saved_config(folder).MODEL.FASA.ENABLED

    def test_resuming_after_the_first_epoch_goes_on_with_its_state(self, trained, tmp_path):
        import shutil

        config, folder = trained
        resumed = tmp_path / "resumed"
        shutil.copytree(folder, resumed)
        (resumed / "last_checkpoint").write_text("model_0000002.pth")
        (resumed / "model_final.pth").unlink()
        arguments = ["--config-file", str(config), "--resume", *self.SETTINGS]
        assert run([*arguments, "OUTPUT_DIR", str(resumed)]) == 0
        last = self.state(resumed, "model_final.pth")
        assert last["iteration"].item() == 2 * self.LENGTH
        # Detectron2 draws other images after a resumption, so that only the state can be compared.
        first = self.state(resumed, "model_0000002.pth")
        change = last["held_out_loss"] - first["held_out_loss"]
        factor = torch.where(change < 0, 1.1, torch.where(change > 0, 0.9, 1.0))
        torch.testing.assert_close(last["chance"], first["chance"] * factor)

    def test_two_processes_end_with_the_same_state(self, trained, tmp_path):
        config, _ = trained
        path = tmp_path / "two.py"
        path.write_text(SAVE_EACH_RANK)
        command = [sys.executable, str(path), "--num-gpus", "2", "--dist-url", "auto"]
        command += ["--config-file", str(config), *self.SETTINGS, "OUTPUT_DIR", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=170)
        states = [torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2)]
        assert any(value.bool().any() for key, value in states[0].items() if "seen" in key)
        for key, value in states[0].items():
            torch.testing.assert_close(value, states[1][key], rtol=0, atol=0, equal_nan=True)

    def test_evaluates_with_its_own_configuration_and_no_other(self, trained, tmp_path, capsys):
        _, folder = trained
        weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
        arguments = ["--eval-only", "--config-file", str(folder / "config.yaml"), *weights]
        assert run(arguments) == 0
        assert run([*arguments, "MODEL.FASA.ENABLED", "False"]) == 2
        assert "trained with MODEL.FASA.ENABLED True" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["DATASETS.HELD_OUT", "0.0"], "set DATASETS.HELD_OUT, 0.01 for instance"),
            (["DATASETS.HELD_OUT", "1e-9"], "holds out no image"),
            (["DATASETS.TEST", "('openmoji_train',)"], "FASA must not adapt to the data"),
            (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "has no place for it"),
        ],
    )
    def test_refused(self, trained, tmp_path, capsys, overrides, message):
        config, _ = trained
        overrides = [*overrides, "MODEL.LONG_TAIL.METHOD", "none"]
        arguments = ["--config-file", str(config), *self.SETTINGS, "OUTPUT_DIR", str(tmp_path)]
        assert run([*arguments, *overrides]) == 2
        assert message in capsys.readouterr().err

    def test_a_copy_of_the_test_sets_annotations_is_refused(
        self, trained, openmoji_dir, tmp_path, capsys
    ):
        config, _ = trained
        copied = tmp_path / "copy.json"
        copied.write_bytes((openmoji_dir / "openmoji_val.json").read_bytes())
        (_, _, images), val = entries(openmoji_dir)
        custom = json.dumps([["openmoji_train", str(copied), images], val])
        arguments = ["--config-file", str(config), *self.SETTINGS, "DATASETS.CUSTOM", custom]
        assert run([*arguments, "OUTPUT_DIR", str(tmp_path / "run")]) == 2
        assert "has the annotations of 'openmoji_val'" in capsys.readouterr().err


@pytest.mark.parametrize("overrides", [(), CASCADE, C4])
def test_the_held_out_loss_is_that_of_ground_truth_boxes(overrides):
    from iif.d2.hooks import follow_held_out_loss

    cfg = tiny_cfg(*ON, *overrides)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batches = [training_batch(1, seed=seed) for seed in range(4)]
    follow_held_out_loss(model, batches, cfg)
    assert model.training
    for augmentation in augmentations_of(model):
        assert torch.isfinite(augmentation.held_out_loss).any()
        assert augmentation.iteration.item() == 0
        assert not augmentation.seen.any()
    if overrides:
        return
    predictor, heads = predictor_of(model.eval()), model.roi_heads
    losses, labels = [], []
    for batch in batches:
        (image,) = batch
        with torch.no_grad():
            features = model.backbone(model.preprocess_image(batch).tensor)
            boxes = [image["instances"].gt_boxes]
            pooled = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
            logits = predictor.method.training_logits(
                predictor.cls_score(heads.box_head(pooled)), image["instances"].gt_classes
            )
        labels.append(image["instances"].gt_classes)
        losses.append(F.cross_entropy(logits, labels[-1], reduction="none"))
    groups = STATISTICS.groups
    labels, losses = torch.cat(labels).numpy(), torch.cat(losses).numpy()
    for c in range(5):  # no class has 10 regions: each has the mean of its group
        members = groups[labels] == groups[c]
        expected = losses[members].mean() if members.any() else np.nan
        assert predictor.augmentation.held_out_loss[c].item() == pytest.approx(
            expected, rel=1e-5, nan_ok=True
        )
