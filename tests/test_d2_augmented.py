"""TEST.AUG.ENABLED: results of both evaluations, as Detectron2's own train_net.py gives them."""

from __future__ import annotations

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils.events import EventStorage

from d2_runs import read, saved_config
from iif import InputError, layout
from iif.d2 import train
from iif.d2.augmented_test import test_all as evaluate_all
from iif.d2.augmented_test import tta_hooks
from iif.d2.checkpoint import load_model
from iif.d2.datasets import register_custom_datasets
from iif.d2.evaluator import test_settings as conditions_of
from iif.d2.statistics import statistics_of_run
from iif.evaluation.compare import compare

AUGMENTED = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.FLIP", True)


def augmented_config(run, folder):
    cfg = saved_config(run)
    cfg.merge_from_list([*AUGMENTED, "OUTPUT_DIR", str(folder)])
    return cfg


def test_both_results(iif_run, tmp_path):
    cfg = augmented_config(iif_run, tmp_path)
    register_custom_datasets(cfg, statistics_of_run(cfg))
    model = load_model(cfg, str(iif_run / layout.FINAL_CHECKPOINT))
    with EventStorage():
        results = evaluate_all(train.Trainer, cfg, model)
    assert list(results) == ["bbox", "segm", "bbox_TTA", "segm_TTA"]
    plain, augmented = (read(tmp_path / f / layout.SUMMARY) for f in ("inference", "inference_TTA"))
    for name in ("bbox", "segm"):
        assert results[name]["AP"] == pytest.approx(plain["metrics"][name]["AP"], nan_ok=True)
        found = results[f"{name}_TTA"]["AP"]
        assert found == pytest.approx(augmented["metrics"][name]["AP"], nan_ok=True)
    assert plain["results"]["sha256"] != augmented["results"]["sha256"]
    assert augmented["test_settings"] == plain["test_settings"] | {"augmented_images": 4}
    assert augmented["method"] == plain["method"]
    # The same evaluation by Detectron2's own module.
    evaluator = train.evaluators_of(cfg.clone(), model, augmented=True)[0]
    evaluator._output_dir = tmp_path / "own"
    loader = train.Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    own = inference_on_dataset(GeneralizedRCNNWithTTA(cfg, model), loader, evaluator)
    assert own["bbox"] == pytest.approx(results["bbox_TTA"], nan_ok=True)
    with pytest.raises(InputError, match=r"augmented versions of an image is 1 in .* and 4 in"):
        compare([tmp_path / "inference", tmp_path / "inference_TTA"])


def test_eval_only_from_the_command_line(iif_run, tmp_path):
    arguments = ["--eval-only", "--config-file", str(iif_run / "config.yaml")]
    weights = ("MODEL.WEIGHTS", str(iif_run / layout.FINAL_CHECKPOINT))
    overrides = [*weights, *map(str, AUGMENTED), "OUTPUT_DIR", str(tmp_path)]
    assert train.run([*arguments, *overrides]) == 0
    for folder in (layout.INFERENCE, layout.INFERENCE_TTA):
        assert (tmp_path / folder / layout.SUMMARY).is_file()


def test_training_ends_with_both(config_file, tmp_path):
    overrides = [*map(str, AUGMENTED), "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path)]
    assert train.run(["--config-file", str(config_file), *overrides]) == 0
    for folder in (layout.INFERENCE, layout.INFERENCE_TTA):
        assert (tmp_path / folder / layout.SUMMARY).is_file()


def test_it_is_off_by_default(iif_run, tmp_path):
    cfg = saved_config(iif_run)
    assert "augmented_images" not in conditions_of(cfg)

    class Trainer:
        pass

    Trainer.cfg = cfg
    assert tta_hooks(Trainer) == []
