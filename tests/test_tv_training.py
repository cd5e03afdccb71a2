"""iif.tv.train, load and evaluate: from annotation files to the evaluation summary."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from pycocotools import mask as coco_mask

from helpers_tv import CATEGORY_IDS, assert_same_state, make_dataset, run, state, tiny_config
from iif import InputError
from iif.data import annotation_file
from iif.data.annotation_file import forget_annotation_files
from iif.data.annotations import load_annotations
from iif.tv import TrainConfig, evaluate, load, maskrcnn_resnet18_fpn_small, train
from iif.tv.dataset import DetectionImages
from iif.tv.inference import detections_to_results
from iif.tv.trainer import learning_rate


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A short run with its evaluation."""
    output = tmp_path_factory.mktemp("trained")
    summary = run(data, output, tiny_config(iterations=6), val_json=data)
    return output, summary


class TestTraining:
    @pytest.mark.parametrize("threshold", [0.0, 0.9])
    def test_resumed_run_equals_an_uninterrupted_one(self, data, tmp_path, threshold):
        options = {"repeat_threshold": threshold, "min_size": (48, 64), "steps": (7,)}
        run(data, tmp_path / "whole", tiny_config(iterations=10, **options))
        run(data, tmp_path / "parts", tiny_config(iterations=5, **options))
        run(data, tmp_path / "parts", tiny_config(iterations=10, **options), resume=True)
        whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
        assert whole["iteration"] == parts["iteration"] == 10
        assert_same_state(whole["model"], parts["model"])
        assert_same_state(whole["optimizer"], parts["optimizer"])
        assert [step for step, _ in scalars(tmp_path / "parts", "lr")] == [5, 10]

    def test_an_interrupted_run_goes_on_from_its_last_checkpoint(self, data, tmp_path):
        config = tiny_config(iterations=5, checkpoint_period=2)
        run(data, tmp_path / "whole", config)
        assert (tmp_path / "whole" / "last_checkpoint").read_text() == "model_final.pth"
        interrupted = tmp_path / "interrupted"
        interrupted.mkdir()
        shutil.copy(tmp_path / "whole" / "model_0000003.pth", interrupted)
        (interrupted / "last_checkpoint").write_text("model_0000003.pth")
        run(data, interrupted, config, resume=True)
        assert_same_state(state(tmp_path / "whole")["model"], state(interrupted)["model"])

    def test_worker_processes_change_nothing(self, data, tmp_path):
        run(data, tmp_path / "alone", tiny_config(iterations=2))
        run(data, tmp_path / "two", tiny_config(iterations=2, workers=2, cache_images=False))
        assert_same_state(state(tmp_path / "alone")["model"], state(tmp_path / "two")["model"])

    def test_the_seed_decides(self, data, tmp_path):
        run(data, tmp_path / "a", tiny_config(iterations=1))
        run(data, tmp_path / "b", tiny_config(iterations=1, seed=1))
        one, other = state(tmp_path / "a")["model"], state(tmp_path / "b")["model"]
        key = "roi_heads.box_predictor.cls_score.weight"
        assert not torch.equal(one[key], other[key])

    def test_it_learns(self, data, tmp_path):
        run(data, tmp_path, tiny_config(iterations=40, base_lr=0.01))
        values = scalars(tmp_path, "loss_objectness")
        assert [step for step, _ in values] == [20, 40]
        assert values[1][1] < 0.9 * values[0][1]
        assert scalars(tmp_path, "lr")[0][1] == pytest.approx(0.01)

    def test_the_baselines_state_is_that_of_a_plain_model(self, data, tmp_path):
        run(data, tmp_path, tiny_config(iterations=1, method="none"))
        plain = maskrcnn_resnet18_fpn_small(len(CATEGORY_IDS) + 1)
        assert state(tmp_path)["model"].keys() == plain.state_dict().keys()

    def test_a_loss_that_is_not_finite_stops_the_run(self, data, tmp_path):
        config = tiny_config(iterations=20, base_lr=1e9, warmup_iterations=0, clip_gradients=None)
        with pytest.raises(FloatingPointError, match=r"no longer finite .*lower base_lr"):
            run(data, tmp_path, config)
        assert not (tmp_path / "model_final.pth").exists()

    def test_two_processes(self, data, tmp_path):
        script = tmp_path / "job.py"
        script.write_text(
            "import sys\n"
            "from helpers_tv import tiny_config\n"
            "from iif.tv import train\n"
            f"data = {os.fspath(data)!r}\n"
            "config = tiny_config(iterations=3, images_per_batch=4)\n"
            f"summary = train(data, {os.fspath(data.parent / 'images')!r}, sys.argv[1], config,\n"
            "    val_json=data, device='cpu')\n"
            "sys.stdout.write(f'SUMMARY {summary is not None}\\n')\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc_per_node=2", str(script), str(tmp_path / "out")),
            ],
            env={**os.environ, "PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        # Gloo writes lines of its own.
        said = sorted(line for line in done.stdout.splitlines() if line.startswith("SUMMARY"))
        assert said == ["SUMMARY False", "SUMMARY True"]
        results = json.loads((tmp_path / "out/inference/lvis_instances_results.json").read_text())
        ids = [result["image_id"] for result in results]
        assert ids == sorted(ids)
        # What process 0 saved is what both have: the gradients were averaged.
        detector = load(tmp_path / "out")
        evaluate(detector, data, data.parent / "images", tmp_path / "alone", device="cpu")
        alone = json.loads((tmp_path / "alone/inference/lvis_instances_results.json").read_text())
        assert len(alone) == len(results)
        for one, other in zip(alone, results, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def scalars(folder, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_learning_rate():
    config = TrainConfig(base_lr=0.2, warmup_iterations=10, warmup_factor=0.1, steps=(20, 30))
    rates = [learning_rate(config, i) for i in (0, 5, 10, 19, 20, 29, 30)]
    assert rates == pytest.approx([0.02, 0.11, 0.2, 0.2, 0.02, 0.02, 0.002])


def test_learning_rate_is_detectron2s():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    cfg = get_cfg()
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 7, 0.01
    cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = (12, 17), 20, 0.3
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = build_lr_scheduler(cfg, optimizer)
    config = TrainConfig(base_lr=0.3, warmup_iterations=7, warmup_factor=0.01, steps=(12, 17))
    for iteration in range(20):
        assert learning_rate(config, iteration) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


class TestEvaluation:
    def test_summary_and_results_are_written(self, data, trained):
        output, summary = trained
        assert summary["metrics"].keys() == {"bbox", "segm"}
        assert 0 <= summary["metrics"]["bbox"]["AP"] <= 100
        assert summary["test_settings"] == {
            "score_threshold": 1e-4,
            "nms_threshold": 0.5,
            "detections_per_image": 20,
        }
        assert summary["config"]["engine"] == "torchvision"
        assert json.loads((output / "inference/eval_summary.json").read_text()) == summary
        results = json.loads((output / "inference/lvis_instances_results.json").read_text())
        assert {result["category_id"] for result in results} <= set(CATEGORY_IDS)
        assert results[0]["segmentation"]["size"] == [64, 64]

    def test_a_checkpoint_alone_gives_the_same_evaluation(self, data, trained, tmp_path):
        output, summary = trained
        moved = tmp_path / "moved.pth"
        shutil.copy(output / "model_final.pth", moved)
        again = evaluate(moved, data, data.parent / "images", tmp_path, device="cpu")
        assert again["metrics"] == summary["metrics"]

    def test_loaded_model_gives_bit_equal_output(self, data, trained):
        output, _ = trained
        image = DetectionImages(load_annotations(data), data.parent / "images")[0]
        with torch.no_grad():
            one = load(output).model([image])[0]
            other = load(output / "model_final.pth").model([image])[0]
        assert len(one["scores"]) > 0
        for key in one:
            assert torch.equal(one[key], other[key])

    def test_a_checkpoint_says_what_it_was_trained_on(self, trained):
        detector = load(trained[0])
        assert detector.iteration == 6
        assert detector.statistics.ids.tolist() == sorted(CATEGORY_IDS)
        assert detector.statistics.image_count.tolist() == [8, 4, 3, 2]
        assert detector.config == tiny_config(iterations=6)
        scale = detector.model.roi_heads.box_predictor.method.scale
        expected = [*(math.log(9 / (f + 1)) + 1 for f in (8, 4, 3, 2)), 1.0]
        assert scale.tolist() == pytest.approx(expected)

    def test_coco_format_is_told_by_content(self, data, tmp_path):
        content = json.loads(data.read_text())
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        for category in content["categories"]:
            del category["frequency"], category["image_count"]
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content))
        options = {"device": "cpu", "val_json": path}
        images = data.parent / "images"
        config = tiny_config(iterations=1)
        with pytest.raises(InputError, match="say that the annotation is exhaustive"):
            train(path, images, tmp_path / "out", config, exhaustive=False, **options)
        summary = train(path, images, tmp_path / "out", config, **options)
        assert summary["dataset"]["exhaustive"] is True
        again = evaluate(tmp_path / "out", path, images, tmp_path / "again", device="cpu")
        assert again["metrics"] == summary["metrics"]
        assert again["dataset"]["exhaustive"] is True

    def test_a_federated_file_is_not_exhaustive(self, data, trained, tmp_path):
        images = data.parent / "images"
        with pytest.raises(InputError, match="is in LVIS's format"):
            evaluate(trained[0], data, images, tmp_path, exhaustive=True, device="cpu")
        assert trained[1]["dataset"]["exhaustive"] is False

    def test_a_loaded_model_goes_to_the_device_of_the_evaluation(self, data, trained, monkeypatch):
        seen = []

        def predict(model, images, category_ids, device, **options):
            seen.append((next(model.parameters()).device.type, device.type))

        monkeypatch.setattr("iif.tv.inference.predict", predict)
        monkeypatch.setattr("iif.tv.inference.pick_device", lambda name: torch.device("meta"))
        evaluate(load(trained[0]), data, data.parent / "images", trained[0] / "unused")
        assert seen == [("meta", "meta")]

    def test_faster_rcnn_needs_no_masks(self, data, tmp_path):
        content = json.loads(data.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        boxes = tmp_path / "boxes.json"
        boxes.write_text(json.dumps(content))
        config = tiny_config(model="fasterrcnn_mobilenet_v3_large_320_fpn", iterations=1)
        train(boxes, data.parent / "images", tmp_path / "out", config, device="cpu")
        assert (tmp_path / "out" / "model_final.pth").is_file()

    def test_faster_rcnn_is_evaluated_on_boxes(self, data, tmp_path):
        config = tiny_config(
            model="fasterrcnn_mobilenet_v3_large_320_fpn", iterations=1, min_size=(64,)
        )
        summary = run(data, tmp_path, config, val_json=data)
        assert summary["metrics"].keys() == {"bbox"}

    def test_detections_become_result_entries(self):
        masks = torch.zeros(2, 1, 6, 8)
        masks[0, 0, 1:3, 2:5] = 0.9
        masks[1, 0, :, :] = 0.5  # not above the threshold
        detections = {
            "boxes": torch.tensor([[2.0, 1.0, 5.0, 3.0], [0.0, 0.0, 8.0, 6.0]]),
            "labels": torch.tensor([2, 1]),
            "scores": torch.tensor([0.5, 0.25]),
            "masks": masks,
        }
        first, second = detections_to_results(detections, 42, np.array([5, 9]))
        assert first["image_id"] == 42
        assert first["category_id"] == 9
        assert first["bbox"] == [2.0, 1.0, 3.0, 2.0]
        assert first["score"] == 0.5
        assert second["category_id"] == 5
        decoded = coco_mask.decode(first["segmentation"])
        assert np.array_equal(decoded, (masks[0, 0] > 0.5).numpy())
        assert coco_mask.area(second["segmentation"]) == 0


def test_each_annotation_file_is_decoded_once(data, tmp_path, monkeypatch):
    val = tmp_path / "val.json"
    shutil.copy(data, val)
    time.sleep(0.1)  # a file is kept only when a change of it could be seen
    forget_annotation_files()
    decoded = []
    original = annotation_file.decode
    monkeypatch.setattr(
        annotation_file, "decode", lambda path: decoded.append(path) or original(path)
    )
    run(data, tmp_path / "out", tiny_config(iterations=1), val_json=val)
    assert sorted(decoded) == sorted([os.fspath(data), os.fspath(val)])


class TestBadInput:
    def test_output_of_an_earlier_run(self, data, trained):
        with pytest.raises(InputError, match="earlier run; resume it"):
            run(data, trained[0])

    def test_resumed_with_other_settings(self, data, trained):
        with pytest.raises(InputError, match=r"has base_lr=0\.005, now it is 0\.1"):
            run(data, trained[0], tiny_config(iterations=9, base_lr=0.1), resume=True)

    def test_resumed_with_fewer_iterations(self, data, trained):
        with pytest.raises(InputError, match="trained 6 iterations already"):
            run(data, trained[0], tiny_config(iterations=3), resume=True)

    def test_resumed_with_other_data(self, data, trained, tmp_path):
        other = make_dataset(tmp_path / "other", images=5)
        with pytest.raises(InputError, match="trained on other data"):
            run(other, trained[0], tiny_config(iterations=6), resume=True)

    def test_validation_with_other_categories(self, data, tmp_path):
        content = json.loads(data.read_text())
        content["categories"][1]["name"] = "something else"
        val = tmp_path / "val.json"
        val.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"val\.json: its 4 categories are not the 4 of"):
            run(data, tmp_path / "out", val_json=val)
        assert not (tmp_path / "out").exists()

    def test_a_class_that_was_never_seen(self, data, tmp_path):
        content = json.loads(data.read_text())
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 30]
        path = tmp_path / "unseen.json"
        path.write_text(json.dumps(content))
        config = tiny_config(iif={"variant": "raw", "nonpositive": "clamp"})
        with pytest.raises(InputError, match=r"colour30.*clamp"):
            train(path, data.parent / "images", tmp_path / "out", config, device="cpu")

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(InputError, match="holds no checkpoint"):
            load(tmp_path)

    def test_a_cut_off_checkpoint(self, trained, tmp_path):
        content = (trained[0] / "model_final.pth").read_bytes()
        (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"cut\.pth: not a checkpoint .* or cut off"):
            load(tmp_path / "cut.pth")

    @pytest.mark.parametrize("text", ["hello world\n", "a,b,c\n1,2,3\n", "epoch 1", ""])
    def test_a_text_file(self, tmp_path, text):
        (tmp_path / "log.pth").write_text(text)
        with pytest.raises(InputError, match=r"log\.pth: not a checkpoint that iif"):
            load(tmp_path / "log.pth")

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_image_that_is_none(self, data, tmp_path, workers):
        shutil.copytree(data.parent, tmp_path / "data")
        for path in (tmp_path / "data" / "images").iterdir():
            path.write_text("no image")
        config = tiny_config(workers=workers, cache_images=False)
        with pytest.raises(InputError, match=r"^/\S+png: cannot be read as an image"):
            run(tmp_path / "data" / data.name, tmp_path / "out", config)

    def test_another_file(self, tmp_path):
        torch.save({"model": {}}, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"not a checkpoint that iif\.tv\.train wrote"):
            load(tmp_path / "other.pth")

    def test_batch_that_cannot_be_shared(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr("iif.tv.trainer.world_size", lambda: 3)
        with pytest.raises(InputError, match="must be a multiple of the 3 processes"):
            run(data, tmp_path)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
    def test_no_gpu(self, data, tmp_path):
        with pytest.raises(InputError, match="0 GPUs are available"):
            run(data, tmp_path, device="cuda")

    def test_unknown_device(self, data, tmp_path):
        with pytest.raises(InputError, match="device is 'gpu'"):
            run(data, tmp_path, device="gpu")

    def test_amp_on_the_cpu(self, data, tmp_path):
        with pytest.raises(InputError, match="amp is for GPUs"):
            run(data, tmp_path, tiny_config(amp=True))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"model": "maskrcnn_resnet51"}, "model is 'maskrcnn_resnet51'; it must be one of"),
            ({"weights": "COCO_V1"}, "has no published weights"),
            (
                {"model": "maskrcnn_resnet50_fpn", "weights": "COCO_V9"},
                "no published weights as asked",
            ),
        ],
    )
    def test_models_that_do_not_exist(self, data, tmp_path, values, message):
        with pytest.raises(InputError, match=message):
            run(data, tmp_path, tiny_config(**values))
