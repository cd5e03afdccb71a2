"""iif.tv.model: new last layers, published weights, and the demo's model."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from torchvision.models import detection, get_model, get_model_weights, list_models

from helpers_tv import assert_same_state, batch, make_dataset, run, small_model, state, tiny_config
from iif import ClassStatistics, InputError, build_method
from iif.tv import add_method, load, replace_predictors
from iif.tv.model import frozen_layers

K = 5


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_fine_tuning_from_a_model_of_other_classes(name):
    model = get_model(name, weights=None, weights_backbone=None, min_size=64, max_size=64)
    replace_predictors(model, K + 1)
    statistics = ClassStatistics(image_count=[1, 2, 5, 10, 90], num_images=100)
    add_method(model, build_method("iif", statistics))
    losses = model.train()(*batch())
    assert all(loss.isfinite() for loss in losses.values())
    heads = model.roi_heads
    assert heads.box_predictor.cls_score.out_features == K + 1
    assert heads.box_predictor.bbox_pred.out_features == 4 * (K + 1)
    if heads.has_mask():
        assert heads.mask_predictor.mask_fcn_logits.out_channels == K + 1


def test_masks_of_the_demos_model_are_class_agnostic():
    predictor = small_model().roi_heads.mask_predictor
    logits = predictor(torch.randn(3, 64, 14, 14))
    assert logits.shape == (3, K + 1, 28, 28)
    assert torch.equal(logits, logits[:, :1].expand_as(logits))
    logits[:, 2].sum().backward()
    assert predictor.mask_fcn_logits.weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def published(monkeypatch):
    """Stand in for the download of published weights: those of a freshly built model."""

    def state_dict(weights, *args, **kwargs):
        name = next(n for n in list_models() if get_model_weights(n) is type(weights))
        options = {"weights_backbone": None} if name in list_models(detection) else {}
        return get_model(name, weights=None, **options).state_dict()

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", state_dict)


class TestPublishedWeights:
    """torchvision freezes layers and normalisation where weights are published."""

    @pytest.mark.parametrize(
        "values",
        [{"weights_backbone": "IMAGENET1K_V1"}, {"weights": "COCO_V1"}],
        ids=["backbone", "model"],
    )
    def test_resumed_and_loaded_runs_keep_the_frozen_layers(
        self, data, tmp_path, published, values
    ):
        values |= {"model": "fasterrcnn_mobilenet_v3_large_320_fpn", "trainable_backbone_layers": 2}
        run(data, tmp_path / "whole", tiny_config(iterations=4, **values))
        run(data, tmp_path / "parts", tiny_config(iterations=2, **values))
        run(data, tmp_path / "parts", tiny_config(iterations=4, **values), resume=True)
        whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
        assert whole["frozen_layers"]["norms"]
        assert whole["frozen_layers"]["parameters"]
        assert_same_state(whole["frozen_layers"], parts["frozen_layers"])
        assert_same_state(whole["model"], parts["model"])
        assert_same_state(whole["optimizer"], parts["optimizer"])
        model = load(tmp_path / "whole").model
        assert frozen_layers(model) == whole["frozen_layers"]
        assert_same_state(model.state_dict(), whole["model"])

    def test_no_network(self, data, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise URLError("no route")

        monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", fail)
        config = tiny_config(model="maskrcnn_resnet50_fpn", weights="COCO_V1")
        with pytest.raises(InputError, match=r"cannot be downloaded .*no route"):
            run(data, tmp_path, config)
