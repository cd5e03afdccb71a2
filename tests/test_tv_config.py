"""Settings of the torchvision engine, and ``iif train``."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import make_dataset
from iif import ClassStatistics, InputError
from iif.cli import main
from iif.methods import METHODS, Method, Options
from iif.tv import TrainConfig
from iif.tv.config import OPENMOJI


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data")


class TestConfig:
    def test_round_trip(self):
        assert TrainConfig.from_dict(json.loads(json.dumps(OPENMOJI.to_dict()))) == OPENMOJI

    def test_override(self):
        config = OPENMOJI.override(["iif.variant=base10", "steps=[3,4]", "clip_gradients=null"])
        assert (config.steps, config.clip_gradients) == ((3, 4), None)
        assert config.options["iif"].variant == "base10"
        assert config.base_lr == OPENMOJI.base_lr

    def test_a_methods_options_are_a_node_under_its_name(self):
        values = OPENMOJI.override(["iif.strength=2"]).to_dict()
        assert values["method"] == "iif"
        assert values["iif"] == {
            "variant": "raw",
            "count_by": "image",
            "strength": 2.0,
            "apply": "train_and_test",
            "zero_count": "error",
            "nonpositive": "error",
        }
        assert TrainConfig.from_dict({"iif": {"strength": 2}}).options["iif"].strength == 2

    def test_options_are_checked_however_they_are_given(self):
        config = TrainConfig(options={"iif": {"variant": "base2"}})
        assert config.options["iif"].variant == "base2"
        assert config == TrainConfig.from_dict({"iif": {"variant": "base2"}})
        with pytest.raises(InputError, match=r"iif\.variant is 'row'"):
            TrainConfig(options={"iif": {"variant": "row"}})
        with pytest.raises(InputError, match="options has 'fii'; methods with options: iif"):
            TrainConfig(options={"fii": {}})
        with pytest.raises(
            InputError, match="'zzz' is no setting; the settings are method, preset"
        ):
            TrainConfig.from_dict({"zzz": 3})

    def test_a_new_method_is_known_without_another_line(self, monkeypatch):
        class NewOptions(Options, frozen=True, kw_only=True):
            gamma: float = 0.5

        class New(Method):
            name, options_type = "new", NewOptions

        monkeypatch.setitem(METHODS, "new", New)
        config = TrainConfig().override(["method=new", "new.gamma=2"])
        assert config.to_dict()["new"] == {"gamma": 2.0}
        assert TrainConfig.from_dict(config.to_dict()) == config
        statistics = ClassStatistics(image_count=[1], num_images=2)
        assert config.build_method(statistics).options == NewOptions(gamma=2.0)
        with pytest.raises(InputError, match=r"no option new\.lambda; it has new\.gamma"):
            config.override(["new.lambda=2"])

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("method=if", "method is 'if'; it must be one of none, iif"),
            ("iif.variant=row", r"iif\.variant is 'row'; it must be one of raw, smooth"),
            ("iif.count_by=pixel", r"iif\.count_by is 'pixel'; it must be one of image, instance"),
            ("iif.strength=-1", r"iif\.strength is -1; it must be a number, 0 or more"),
            ("iif.strength=much", r"iif\.strength is 'much'"),
            ("iif.varant=raw", r"method iif has no option iif\.varant; it has iif\.variant"),
            ("iif=3", "iif is 3; it must hold options of the method by name"),
            ("none.variant=raw", r"'none\.variant' is no setting; did you mean iif\.variant\?"),
            ("options={}", "'options' is no setting"),
            ("variant=base10", r"'variant' is no setting; did you mean iif\.variant\?"),
            (
                "zero_count=clamp",
                r"did you mean iif\.zero_count or logit_adjustment\.zero_count or",
            ),
            ("iterations=0", "iterations is 0; it must be a whole number, above 0"),
            ("seed=-1", "seed is -1; it must be a whole number, 0 or more"),
            (
                "nms_threshold=1.5",
                r"nms_threshold is 1\.5; it must be a number, 0 or more, at most 1",
            ),
            (
                "min_size=[]",
                r"min_size is \[\]; it must be a list of values, each a whole number, 1 or",
            ),
            ("clip_gradients=0", "clip_gradients is 0; it must be a number, above 0; or null"),
            ("workers=2", "cache_images keeps images"),
            ("iterations=many", "iterations is 'many'; it must be a whole number, above 0"),
            ("base_lrr=1", r"'base_lrr' is no setting; did you mean base_lr\?"),
            ("base_lr=NaN", "base_lr is 'NaN'; it must be a number, above 0"),
            ("flip=yes", "flip is 'yes'; it must be true or false"),
            ("iterations", "'iterations' sets nothing; write KEY=VALUE"),
        ],
    )
    def test_wrong_values(self, assignment, message):
        with pytest.raises(InputError, match=message):
            OPENMOJI.override([assignment])


class TestCommandLine:
    SETTINGS = ("model=maskrcnn_resnet18_fpn_small", "weights_backbone=null", "iif.variant=smooth")
    SIZES = ("min_size=[64]", "max_size=64", "images_per_batch=2", "iterations=1", "workers=0")

    def test_train_and_evaluate(self, data, tmp_path, capsys):
        images, output = str(data.parent / "images"), str(tmp_path)
        command = ["train", "--images", images, "--val", str(data), "--output", output]
        command += ["--device", "cpu"]
        assert main([*command, "--train", str(data), *self.SETTINGS, *self.SIZES]) == 0
        trained = capsys.readouterr().out
        assert "APr" in trained
        (tmp_path / "inference/eval_summary.json").unlink()
        assert main([*command, "--eval-only"]) == 0
        assert capsys.readouterr().out.strip() in trained
        assert (tmp_path / "inference/eval_summary.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--train is missing"),
            (["--eval-only"], "--eval-only needs --val"),
            (["--train", "x.json", "speed=1"], "'speed' is no setting"),
            (["--train", "x.json"], r"x\.json: no such file"),
        ],
    )
    def test_faults_are_told_in_one_line(self, tmp_path, capsys, arguments, message):
        images, output = str(tmp_path), str(tmp_path / "out")
        command = ["train", "--images", images, "--output", output, "--device", "cpu"]
        assert main([*command, *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "out").exists()
