"""Settings of a classifier: YAML, overrides, faults; the shipped configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from iif import InputError
from iif.classification import ClassifyConfig, read_config

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = (
    "cifar10_lt",
    "cifar100_lt",
    "digits",
    "imagenet_lt",
    "inaturalist",
    "openmoji_classification",
    "places_lt",
)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations(name):
    config = read_config(CONFIGS / f"{name}.yaml")
    assert config.method == "none"
    assert ClassifyConfig.from_dict(config.to_dict()) == config
    second = config.of_second_stage()
    assert second.freeze_backbone
    assert second.mixup == 0
    assert second.epochs < config.epochs


def test_none_is_left_out():
    files = [p for p in CONFIGS.glob("*.yaml") if "\ndata: " in p.read_text()]
    assert sorted(path.stem for path in files) == sorted(SHIPPED)


def test_the_papers_table():
    cifar = read_config(CONFIGS / "cifar100_lt.yaml")
    assert (cifar.images_per_batch, cifar.epochs, cifar.base_lr) == (64, 400, 0.1)
    assert (cifar.schedule, cifar.steps, cifar.step_factor) == ("steps", (360, 380), 0.01)
    assert (cifar.momentum, cifar.weight_decay, cifar.mixup) == (0.9, 1e-4, 0.2)
    assert (cifar.warmup_epochs, cifar.warmup_factor, cifar.cutout) == (1, 0.001, 16)
    imagenet = read_config(CONFIGS / "imagenet_lt.yaml")
    assert (imagenet.images_per_batch, imagenet.epochs, imagenet.base_lr) == (256, 200, 0.2)
    places = read_config(CONFIGS / "places_lt.yaml")
    assert (places.epochs, places.classifier, places.policy) == (
        30,
        "learned_cosine",
        "randaugment",
    )
    for config, epochs, rate in ((cifar, 20, 1e-4), (imagenet, 5, 2e-5), (places, 5, 2e-5)):
        second = config.of_second_stage()
        assert (second.epochs, second.base_lr) == (epochs, rate)


def test_overrides_are_json_or_words():
    config = ClassifyConfig().override(
        ["method=iif", "iif.strength=0.5", "base_lr=1e-3", "steps=[1,2]", "crop=null", "root=a=b"]
    )
    assert config.method == "iif"
    assert config.options["iif"].strength == 0.5
    assert (config.base_lr, config.steps, config.crop, config.root) == (1e-3, (1, 2), None, "a=b")
    second = config.override(["second_stage.epochs=3", "second_stage.base_lr=0.5"])
    assert second.of_second_stage().epochs == 3
    assert second.of_second_stage().method == "iif"


def test_a_number_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base_lr: 1e-4\ndata: digits\nroot: null\n")
    assert read_config(path).base_lr == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metod: iif\n", r"'metod' is no setting; did you mean method"),
        ("epochs: many\n", "epochs is 'many'; it must be a whole number, above 0"),
        ("epochs: 0\n", "epochs is 0; it must be a whole number, above 0"),
        ("held_out: 1.0\n", r"held_out is 1\.0; it must be a number, 0 or more, below 1"),
        ("data: mnist\n", "data is 'mnist'; it must be one of cifar10, "),
        ("classifier: tree\n", "classifier is 'tree'; it must be one of linear, cosine"),
        ("crop: square\n", "crop is 'square'; it must be one of padded, random_resized; or null"),
        ("method: ldam\n", "method is 'ldam'; it must be one of none, iif"),
        ("iif: {strenth: 1}\n", "no option iif.strenth; it has iif.variant"),
        ("iif: 1\n", "iif is 1; it must hold options"),
        ("reweight_from: 400\n", "reweight_from is 400; it must be one of the 400 epochs"),
        ("std: [0, 1, 1]\n", "std is .* a list of 3 values, each a number, above 0"),
        ("- 1\n", "holds no settings"),
        ("a: [\n", "not valid YAML"),
        ("second_stage: {second_stage: {}}\n", "there are two stages"),
        ("x: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_faults_name_the_file_and_the_remedy(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as refused:
        read_config(path)
    assert str(path) in str(refused.value)


def test_missing_file_and_assignments(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        read_config(tmp_path / "none.yaml")
    for assignment, message in (
        ("epochs", "sets nothing; write KEY=VALUE"),
        ("epoch=1", r"did you mean epochs\?"),
        ("mixup.alpha=1", "is no setting"),
    ):
        with pytest.raises(InputError, match=message):
            ClassifyConfig().override([assignment])
    with pytest.raises(InputError, match="the settings have no second_stage"):
        ClassifyConfig().of_second_stage()
    with pytest.raises(InputError, match="'epoch' is no setting"):
        ClassifyConfig().override(["second_stage.epoch=1"]).of_second_stage()
