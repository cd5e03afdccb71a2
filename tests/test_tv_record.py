"""The torchvision engine: the method that runs is the one that is recorded."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import make_dataset, run, state, tiny_config
from iif import ClassStatistics, InputError, build_method
from iif.cli import main
from iif.methods.record import RECORD
from iif.tv import evaluate, load
from iif.tv.model import method_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run with IIF (smooth), evaluated."""
    output = tmp_path_factory.mktemp("trained")
    return output, run(data, output, tiny_config(iterations=1), val_json=data)


@pytest.fixture(scope="module")
def baseline(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("baseline")
    return output, run(data, output, tiny_config(iterations=1, method="none"), val_json=data)


def smooth(data):
    return build_method("iif", ClassStatistics.from_json(data), {"variant": "smooth"})


class TestRecord:
    def test_a_checkpoint_carries_its_method(self, data, trained):
        assert state(trained[0])[RECORD] == smooth(data).record()

    def test_the_summary_says_what_ran(self, data, trained, baseline):
        output, summary = trained
        method = summary["method"]
        assert method == smooth(data).record()
        assert method["name"] == "iif"
        assert method["options"]["variant"] == "smooth"
        assert len(method["sha256"]) == 64
        assert json.loads((output / "inference/eval_summary.json").read_text())["method"] == method
        assert baseline[1]["method"]["name"] == "none"
        assert baseline[1]["method"]["sha256"] != method["sha256"]

    def test_the_summary_names_the_method_in_the_model(self, data, trained, tmp_path):
        detector = load(trained[0])
        other = build_method("iif", detector.statistics, {"variant": "smooth", "strength": 0.5})
        detector.model.roi_heads.box_predictor.method = other.eval()
        summary = evaluate(detector, data, data.parent / "images", tmp_path, device="cpu")
        assert summary["method"] == other.record()

    def test_the_statistics_lie_beside_the_settings(self, data, trained):
        output, _ = trained
        saved = ClassStatistics.load(output / "class_statistics.json")
        assert saved.same_counts(ClassStatistics.from_json(data))
        config = json.loads((output / "config.json").read_text())["config"]
        assert config["method"] == "iif"
        assert config["iif"]["variant"] == "smooth"

    def test_the_statistics_file_is_not_needed_for_evaluation(self, data, trained, tmp_path):
        content = state(trained[0])
        torch.save(content, tmp_path / "alone.pth")
        summary = evaluate(
            tmp_path / "alone.pth", data, data.parent / "images", tmp_path, device="cpu"
        )
        assert summary["metrics"] == trained[1]["metrics"]
        assert summary["method"] == trained[1]["method"]

    def test_a_post_hoc_run_is_a_plain_one_with_another_test(self, data, baseline, tmp_path):
        options = {"variant": "smooth", "apply": "test"}
        summary = run(data, tmp_path, tiny_config(iterations=1, iif=options), val_json=data)
        plain, content = state(baseline[0]), state(tmp_path)
        assert content["model"].keys() == plain["model"].keys()
        assert all(torch.equal(v, plain["model"][k]) for k, v in content["model"].items())
        assert summary["method"]["options"]["apply"] == "test"
        assert summary["method"]["acts_in_training"] is False
        assert summary["results"]["sha256"] != baseline[1]["results"]["sha256"]
        again = evaluate(tmp_path, data, data.parent / "images", tmp_path / "again", device="cpu")
        assert again["results"]["sha256"] == summary["results"]["sha256"]


RESUMED = [
    ({"iif": {"variant": "base10", "nonpositive": "clamp"}}, r"iif\.variant smooth.* has base10"),
    ({"iif": {"variant": "smooth", "strength": 0.5}}, r"iif\.strength 1\.0.* has 0\.5"),
    ({"iif": {"variant": "smooth", "apply": "test"}}, r"iif\.apply train_and_test.* has test"),
    ({"iif": {"variant": "smooth", "zero_count": "clamp"}}, r"iif\.zero_count error.* has clamp"),
    ({"method": "none"}, "method iif.* has none"),
]


class TestResume:
    @pytest.mark.parametrize(("values", "message"), RESUMED)
    def test_another_method_or_option_is_refused(self, data, trained, values, message):
        before = state(trained[0])
        with pytest.raises(InputError, match=rf"trained with {message}; resume it with"):
            run(data, trained[0], tiny_config(iterations=2, **values), resume=True)
        assert state(trained[0])["iteration"] == before["iteration"]

    def test_a_plain_run_is_not_resumed_under_a_method(self, data, baseline):
        with pytest.raises(InputError, match=r"trained with method none.* has iif"):
            run(data, baseline[0], tiny_config(iterations=2), resume=True)

    def test_other_statistics_are_refused(self, data, trained, tmp_path):
        other = make_dataset(tmp_path / "other", images=5)
        with pytest.raises(InputError, match=r"other data: .*8 images.*now it is .*5 images"):
            run(other, trained[0], tiny_config(iterations=2), resume=True)

    def test_options_of_a_method_that_does_not_run_may_change(self, data, tmp_path):
        run(data, tmp_path, tiny_config(iterations=1, method="none"))
        config = tiny_config(iterations=2, method="none", iif={"variant": "base10"})
        run(data, tmp_path, config, resume=True)
        assert state(tmp_path)["iteration"] == 2
        assert state(tmp_path)[RECORD]["name"] == "none"

    @pytest.mark.parametrize(
        ("setting", "both"),
        [
            ("iif.variant=base2", ("iif.variant smooth", "has base2")),
            ("iif.strength=0.25", ("iif.strength 1.0", "has 0.25")),
            ("method=none", ("method iif", "has none")),
        ],
    )
    def test_exit_status_2(self, data, trained, capsys, setting, both):
        settings = [
            f"{key}={json.dumps(value) if not isinstance(value, str) else value}"
            for key, value in tiny_config(iterations=2).to_dict().items()
            if not isinstance(value, dict)
        ]
        command = ["train", "--train", str(data), "--images", str(data.parent / "images")]
        command += ["--output", str(trained[0]), "--device", "cpu", "--resume"]
        settings += ["iif.variant=smooth", "iif.nonpositive=clamp", setting]
        assert main([*command, *settings]) == 2
        error = capsys.readouterr().err
        assert error.startswith("iif train: error: ")
        assert all(value in error for value in both)


class TestEvaluation:
    def test_a_checkpoint_is_evaluated_under_its_own_method(self, data, trained):
        detector = load(trained[0])
        assert detector.config.options["iif"].variant == "smooth"
        assert method_of(detector.model).record() == state(trained[0])[RECORD]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sha256": "0" * 64}, r"class statistics \(hash\) 000000000000.* has [0-9a-f]{12}"),
            ({"name": "other"}, "method other.* has iif"),
        ],
    )
    def test_a_method_that_is_computed_otherwise_now_is_refused(
        self, trained, tmp_path, change, message
    ):
        content = state(trained[0])
        content[RECORD] |= change
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=rf"other\.pth: was trained with {message}"):
            load(tmp_path / "other.pth")
