"""Weights to start from: torchvision's published ones, or a file of them without a network."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import Module

pytest.importorskip("torchvision", reason="torchvision is not installed")
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from helpers_tv import make_dataset, run, state, tiny_config
from iif import ClassStatistics, InputError
from iif.tv.model import build_model

COUNTS = ClassStatistics(image_count=[3, 2, 1], num_images=4)
MODELS = (
    "maskrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the cache of published weights, empty, without a network to fill it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def configure(**values):
    values = {"weights": None, "weights_backbone": None} | values
    return tiny_config(min_size=(64,), max_size=64, **values)


def frozen(model: Module) -> tuple[set[str], dict[str, float]]:
    """Return the names of frozen parameters, and eps of the frozen normalisation layers."""
    norms = {n: m.eps for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    return {n for n, p in model.named_parameters() if not p.requires_grad}, norms


@pytest.mark.parametrize(("name", "layers"), zip(MODELS, (None, 5, 1, 2), strict=True))
def test_a_file_gives_what_torchvision_makes_of_published_weights(cache, tmp_path, name, layers):
    torch.manual_seed(0)
    published = get_model(name, weights=None, weights_backbone=None, num_classes=91).state_dict()
    file = tmp_path / "mine.pth"
    torch.save(published, file)
    url = get_model_weights(name)["COCO_V1"].url
    shutil.copy(file, cache / url.rpartition("/")[2])
    torch.manual_seed(1)
    expected = build_model(
        configure(model=name, weights="COCO_V1", trainable_backbone_layers=layers), COUNTS
    )
    found = build_model(
        configure(model=name, weights=str(file), trainable_backbone_layers=layers), COUNTS
    )
    assert frozen(found) == frozen(expected)
    theirs, ours = expected.state_dict(), found.state_dict()
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        if not key.startswith(("roi_heads.box_predictor", "roi_heads.mask_predictor")):
            assert torch.equal(ours[key], value), key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weights": "COCO_V1"}, "or give its path as weights=FILE, or start at random with"),
        ({"weights_backbone": "IMAGENET1K_V1"}, "resnet50-0676ba61.pth into "),
    ],
)
def test_without_a_network_the_message_says_what_to_put_where(cache, values, words):
    with pytest.raises(InputError) as error:
        build_model(configure(model=MODELS[0], **values), COUNTS)
    text = str(error.value)
    assert "no network here" in text
    assert words in text
    assert str(cache) in text
    assert "weights=null weights_backbone=null: about three times as many iterations" in text
    assert "\n" not in text


def test_another_file_is_refused_by_name(tmp_path):
    other = tmp_path / "other.pth"
    torch.save(
        get_model(
            "fasterrcnn_mobilenet_v3_large_fpn", weights=None, weights_backbone=None
        ).state_dict(),
        other,
    )
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    for file, words in (
        (other, f"not of {MODELS[1]}: .* is not the same; set model"),
        (text, "not a file of weights that torch can read"),
        (tmp_path / "none.pth", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            build_model(configure(model=MODELS[1], weights=str(file)), COUNTS)


def test_a_checkpoint_of_a_run_starts_one_of_other_classes(tmp_path):
    data = make_dataset(tmp_path / "data", images=4)
    run(data, tmp_path / "first", tiny_config(iterations=1))
    start = str(tmp_path / "first" / "model_final.pth")
    torch.manual_seed(3)
    model = build_model(tiny_config(weights=start), COUNTS)
    trained, own = state(tmp_path / "first")["model"], model.state_dict()
    shared = [k for k in trained if k.startswith(("backbone", "rpn", "roi_heads.box_head"))]
    assert shared
    assert all(torch.equal(trained[key], own[key]) for key in shared)
    boxes = build_model(tiny_config(weights=start, model="fasterrcnn_resnet18_fpn_small"), COUNTS)
    assert not any("mask" in key for key in boxes.state_dict())
