"""Choosing the strength of post-hoc IIF on held-out training images."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from helpers_d2 import tiny_cfg
from iif import ClassStatistics, InputError
from iif.cli import main
from iif.d2 import add_iif_config, register_custom_datasets, statistics_from_config, tuning
from iif.d2.datasets import check_dataset
from iif.d2.evaluator import IIFEvaluator
from iif.d2.train import Trainer
from iif.d2.tuning import tune
from iif.data.split import held_out_images

STRENGTHS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def cfg(openmoji_dir):
    """A tiny model's configuration, with the data sets under names of this module."""
    train = openmoji_dir / "openmoji_train.json"
    custom = [
        ["tune_train", str(train), str(openmoji_dir)],
        ["tune_val", str(openmoji_dir / "openmoji_val.json"), str(openmoji_dir)],
        ["tune_alias", str(train), str(openmoji_dir)],
    ]
    cfg = tiny_cfg(
        *("DATASETS.CUSTOM", custom, "DATASETS.TRAIN", ("tune_train",)),
        *("DATASETS.TEST", ("tune_val",), "DATASETS.HELD_OUT", 0.3),
        *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0),
        *("MODEL.ROI_HEADS.NUM_CLASSES", len(ClassStatistics.from_json(train))),
        *(
            "TEST.DETECTIONS_PER_IMAGE",
            300,
            "MODEL.RPN.POST_NMS_TOPK_TEST",
            200,
            "MODEL.RPN.PRE_NMS_TOPK_TEST",
            400,
        ),
        statistics=None,
    )
    register_custom_datasets(cfg)
    return cfg


@pytest.fixture(scope="module")
def weights(cfg, tmp_path_factory):
    """The checkpoint of a plain model whose classifier has something to say."""
    plain = cfg.clone()
    plain.MODEL.LONG_TAIL.METHOD = "none"
    torch.manual_seed(0)
    model = build_model(plain)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    folder = tmp_path_factory.mktemp("plain")
    DetectionCheckpointer(model, save_dir=str(folder)).save("plain")
    return str(folder / "plain.pth")


@pytest.fixture(scope="module")
def tuned(cfg, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    with mock.patch.object(tuning, "match", wraps=tuning.match) as spy:
        result = tune(cfg, weights, folder, values=STRENGTHS)
    return result, folder, [call.args for call in spy.call_args_list]


def test_it_writes_curve_picture_and_configuration(tuned, weights, cfg):
    result, folder, _ = tuned
    assert json.loads((folder / "tuning.json").read_text()) == result
    assert [point["value"] for point in result["curve"]] == STRENGTHS
    best = max(point["AP"] for point in result["curve"])
    chosen = next(point for point in result["curve"] if point["AP"] == best)
    assert result["value"] == chosen["value"]
    assert result["seen_in_training"] is False
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")

    written = get_cfg()
    add_iif_config(written)
    written.merge_from_file(str(folder / "config.yaml"))
    assert written.MODEL.IIF.APPLY == "test"
    assert result["value"] == written.MODEL.IIF.STRENGTH
    assert weights == written.MODEL.WEIGHTS
    assert len(ClassStatistics.load(folder / "class_statistics.json")) == len(
        statistics_from_config(cfg)
    )
    assert (result["method"], result["option"]) == ("iif", "strength")
    assert result["options"]["strength"] == result["value"]
    build_model(written)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_curve_is_what_an_evaluation_of_the_held_out_images_gives(
    strength, tuned, cfg, weights, openmoji_dir, tmp_path
):
    """The same through Detectron2's test loop on an annotation file of those images alone."""
    content = json.loads((openmoji_dir / "openmoji_train.json").read_text())
    out = held_out_images([image["id"] for image in content["images"]], 0.3)
    content["images"] = [i for i, o in zip(content["images"], out, strict=True) if o]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "held_out.json").write_text(json.dumps(content))
    name = f"held_out_{strength}"
    cfg = cfg.clone()
    cfg.merge_from_list(
        [
            *("DATASETS.TEST", (name,), "MODEL.WEIGHTS", weights),
            *("MODEL.IIF.APPLY", "test", "MODEL.IIF.STRENGTH", strength),
        ]
    )
    cfg.DATASETS.CUSTOM.append([name, str(tmp_path / "held_out.json"), str(openmoji_dir)])
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    register_custom_datasets(cfg)
    check_dataset(name, "DATASETS.TEST", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    evaluator = IIFEvaluator(name, tmp_path, iou_types=("bbox",), distributed=False)
    metrics = Trainer.test(cfg, model, evaluators=[evaluator])["bbox"]
    result, _, matched = tuned
    assert result["num_images"] == len(kept) > 3

    gt, detections, _ = matched[STRENGTHS.index(strength)]
    expected = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    assert len(detections) == len(expected) > 100
    assert [row["image_id"] for row in expected] == gt.image_ids[detections.image].tolist()
    assert [row["category_id"] for row in expected] == gt.category_ids[detections.category].tolist()
    np.testing.assert_allclose([row["score"] for row in expected], detections.score, atol=1e-5)
    np.testing.assert_allclose([row["bbox"] for row in expected], detections.bbox, atol=1e-3)

    (point,) = (p for p in result["curve"] if p["value"] == strength)
    for metric in ("AP", "APr", "APc", "APf"):
        if point[metric] is None:
            assert metrics[metric] != metrics[metric]  # NaN
        else:
            assert point[metric] == pytest.approx(metrics[metric], abs=1e-3)


def test_training_leaves_the_held_out_images_out(cfg):
    everything = {image["image_id"] for image in DatasetCatalog.get("tune_train")}
    seen = set()
    for batch in Trainer.build_train_loader(cfg):
        seen.update(image["image_id"] for image in batch)
        if len(seen) >= 0.65 * len(everything):
            break
    out = held_out_images(sorted(everything), 0.3)
    assert not seen & {i for i, o in zip(sorted(everything), out, strict=True) if o}


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        ((), {"dataset": "tune_val"}, r"'tune_val' is not in DATASETS.TRAIN \(tune_train\)"),
        (
            ("DATASETS.TEST", ("tune_alias",)),
            {},
            "has the annotations of 'tune_alias' of DATASETS.TEST",
        ),
        (
            ("DATASETS.TRAIN", ("tune_train", "tune_val")),
            {"dataset": "tune_val"},
            "has the annotations of 'tune_val' of DATASETS.TEST",
        ),
        (("MODEL.LONG_TAIL.METHOD", "none"), {}, "METHOD is none, which has nothing to tune.*iif"),
        ((), {"fraction": 1.5}, r"must be in \[0, 1\)"),
        ((), {"fraction": 1e-6}, "no image of tune_train is held out"),
        ((), {"values": []}, "no value of strength to try; give one or more"),
        ((), {"values": [-1.0]}, r"MODEL\.IIF\.STRENGTH is -1.0; it must be a number, 0 or more"),
    ],
)
def test_what_cannot_be_tuned_is_refused(overrides, arguments, message, cfg, weights, tmp_path):
    cfg = cfg.clone()
    cfg.merge_from_list(list(overrides))
    with pytest.raises(InputError, match=message):
        tune(cfg, weights, tmp_path, **{"values": STRENGTHS, **arguments})
    assert not list(tmp_path.iterdir())


def test_images_seen_in_training_are_noted(cfg, weights, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(cfg.dump())
    arguments = ["--config-file", str(tmp_path / "c.yaml"), "--weights", weights]
    options = ["--fraction", "0.4", "--values", "0", "1"]
    assert main(["tune", *options, *arguments, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "some of these images were trained on" in printed
    assert printed.count("<- chosen") == 1
    assert json.loads((tmp_path / "out" / "tuning.json").read_text())["seen_in_training"]


@pytest.fixture(scope="module", autouse=True)
def forget_the_data_sets():
    yield
    for name in [n for n in DatasetCatalog.list() if n.startswith(("tune_", "held_out_"))]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
