"""The configurations load, hold the settings that they say, and differ where they should."""

from __future__ import annotations

from pathlib import Path

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from iif.d2 import IIFROIHeads, add_iif_config

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name):
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    return cfg


def flat(node, prefix=""):
    """Return the leaves of a configuration by their whole key."""
    leaves = {}
    for key, value in node.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def differences(first, second):
    a, b = flat(load(first)), flat(load(second))
    assert a.keys() == b.keys()
    return {key: (a[key], b[key]) for key in a if a[key] != b[key]}


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_configuration_loads(name):
    assert load(name).VERSION == 2


def test_iif_differs_from_its_baseline_in_the_variant_alone():
    assert differences("lvis_baseline.yaml", "lvis_iif.yaml") == {
        "MODEL.IIF.VARIANT": ("none", "raw")
    }
    assert differences("glyphs_baseline.yaml", "glyphs_iif.yaml") == {
        "MODEL.IIF.VARIANT": ("none", "raw"),
        "OUTPUT_DIR": ("output/glyphs_baseline", "output/glyphs_iif"),
    }


def test_lvis_has_the_published_schedule():
    solver = load("lvis_iif.yaml").SOLVER
    epoch = 6250
    assert solver.IMS_PER_BATCH * epoch == pytest.approx(100_170, rel=0.002)
    assert 12 * epoch == solver.MAX_ITER
    assert (8 * epoch, 11 * epoch) == solver.STEPS
    assert (solver.BASE_LR, solver.GAMMA, solver.MOMENTUM) == (0.02, 0.1, 0.9)


def test_the_lvis_model_builds_without_any_file():
    cfg = load("lvis_iif.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert isinstance(model.roi_heads, IIFROIHeads)
    weight = model.roi_heads.box_predictor.iif_logits.weight
    assert weight.shape == (1204,)
    # ln(100170 / 64): category 1, "aerosol_can", is in 64 training images.
    assert weight[0].item() == pytest.approx(7.355740938246138, rel=1e-6)
