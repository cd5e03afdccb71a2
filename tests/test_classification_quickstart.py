"""iif quickstart for classification, and the crops of OpenMoji."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchvision", reason="torchvision is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from iif import InputError
from iif.classification import long_tailed_counts, read_config
from iif.cli import main
from iif.demo.classification import CONFIG, quickstart
from iif.demo.openmoji_crops import CropSettings, make_openmoji_crops

CROPS = CropSettings(categories=6, largest=12, imbalance_factor=6, test=2, image_size=16)
SETTINGS = ("epochs=1", "images_per_batch=4", "image_size=16")
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return make_openmoji_crops(tmp_path_factory.mktemp("data") / "crops", CROPS)


class TestCrops:
    def test_counts_are_those_of_the_rule(self, crops):
        kinds = sorted(path.name for path in (crops / "train").iterdir())
        counts = [len(list((crops / "train" / kind).iterdir())) for kind in kinds]
        assert counts == long_tailed_counts(6, 12, 6).tolist()
        assert [len(list((crops / "test" / kind).iterdir())) for kind in kinds] == [2] * 6

    def test_the_licence_is_named(self, crops):
        info = json.loads((crops / "openmoji_crops.json").read_text())
        assert info["license"]["name"] == "CC BY-SA 4.0"
        assert "OpenMoji" in info["attribution"]

    def test_the_same_settings_make_the_same_pixels(self, crops, tmp_path):
        again = make_openmoji_crops(tmp_path / "crops", CROPS)
        files = sorted(path.relative_to(crops) for path in crops.rglob("*.png"))
        assert len(files) == long_tailed_counts(6, 12, 6).sum() + 12
        for file in files:
            one, other = (np.asarray(Image.open(folder / file)) for folder in (crops, again))
            assert one.shape == (16, 16, 3)
            assert np.array_equal(one, other)

    def test_what_is_there_is_kept_or_refused(self, crops, tmp_path):
        before = (crops / "openmoji_crops.json").stat().st_mtime_ns
        make_openmoji_crops(crops, CROPS)
        assert (crops / "openmoji_crops.json").stat().st_mtime_ns == before
        with pytest.raises(InputError, match="made with other settings"):
            make_openmoji_crops(crops, CropSettings(categories=6))
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match="holds no OpenMoji crops"):
            make_openmoji_crops(tmp_path, CROPS)

    def test_the_command_line_and_bad_sizes(self, tmp_path, capsys):
        sizes = ["--categories", "3", "--largest", "3", "--imbalance-factor", "3", "--test", "1"]
        assert main(["openmoji-crops", str(tmp_path / "a"), *sizes]) == 0
        assert len(list((tmp_path / "a").rglob("*.png"))) == 3 + 1 + 1 + 3
        assert main(["openmoji-crops", str(tmp_path / "b"), "--image-size", "8"]) == 2
        assert "image_size 8" in capsys.readouterr().err
        assert not (tmp_path / "b").exists()


def test_the_demos_settings_are_those_of_the_configuration():
    file = read_config(CONFIGS / "openmoji_classification.yaml")
    assert CONFIG.override([f"root={file.root}"]) == file


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart") / "demo"
    return out, quickstart(out, crops=CROPS, settings=SETTINGS)


class TestQuickstart:
    def test_everything_is_written(self, done):
        out, report = done
        assert report == out.resolve() / "report.html"
        for name in ("baseline", "iif"):
            assert (out / name / "inference" / "eval_summary.json").is_file()
        assert list(out.glob("comparison/*.json"))
        assert "<html" in report.read_text(encoding="utf-8")[:300]

    def test_iif_starts_from_the_baseline(self, done):
        out, _ = done
        one, other = (
            json.loads((out / name / "classification.json").read_text())
            for name in ("baseline", "iif")
        )
        assert one["start"] is None
        assert Path(other["start"]["checkpoint"]).parent == (out / "baseline").resolve()
        assert other["config"]["freeze_backbone"] is True

    def test_what_is_done_is_not_repeated(self, done, capsys):
        out, _ = done
        before = (out / "iif" / "model_final.pth").stat().st_mtime_ns
        quickstart(out, crops=CROPS, settings=SETTINGS)
        assert (out / "iif" / "model_final.pth").stat().st_mtime_ns == before
        assert capsys.readouterr().out.count("done before") == 2

    def test_another_size_is_refused(self, done):
        with pytest.raises(InputError, match="begun here with another data set"):
            quickstart(done[0], seed=1, crops=CROPS, settings=SETTINGS)
