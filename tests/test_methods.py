"""What the methods say of themselves: `iif methods`."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from iif.cli import main
from iif.methods import BASELINE, METHODS, Method, build_method
from iif.methods.affine import Affine
from iif.methods.facts import all_facts, facts
from iif.report.methods import NEEDS, PHASES
from method_contract import STATISTICS, K

NAMES = [name for name in METHODS if name != BASELINE]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_states_its_paper_and_phases_itself(name):
    own = vars(METHODS[name])
    assert own["paper"].count("arXiv") == 1
    assert own["phases"]
    assert set(own["phases"]) <= set(PHASES)
    assert set(METHODS[name].needs) <= set(NEEDS)
    assert facts(METHODS[name])["summary"]


@pytest.mark.parametrize("name", NAMES)
def test_each_option_has_a_description_a_default_and_legal_values(name):
    for option in facts(METHODS[name])["options"]:
        assert option["description"].endswith(".")
        assert option["default"] is not None
        assert option["values"]


@pytest.mark.parametrize("name", [n for n in NAMES if "moments" not in METHODS[n].needs])
def test_the_first_phase_is_that_of_the_default_options(name):
    kind = METHODS[name]
    method = build_method(name, STATISTICS)
    assert method.acts_in_training == (kind.phases[0] != "test")
    assert (kind.post_hoc is not None) == ("test" in kind.phases)
    if kind.post_hoc is not None:
        assert not build_method(name, STATISTICS, kind.post_hoc).acts_in_training


def test_the_command_prints_every_method_as_text_and_as_json(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for method in all_facts():
        assert f"\n{method['name']}\n" in f"\n{text}"
        for option in method["options"]:
            assert f"  {option['name']} = " in text
    assert max(map(len, text.splitlines())) <= 100
    assert main(["methods", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"methods": all_facts()}


def test_a_method_without_a_softmax_says_that_torchvision_cannot_train_it():
    for found in all_facts():
        own = METHODS[found["name"]]
        assert found["softmax"] == (own.loss is Method.loss)


def test_the_values_to_tune_rise() -> None:
    for kind in METHODS.values():
        assert list(kind.tuned_values) == sorted(set(kind.tuned_values)), kind.name
        assert bool(kind.tuned_values) == (kind.tuned_option is not None), kind.name


def test_a_shift_downwards_alone_is_added() -> None:
    method = Affine(
        Affine.options_type(), STATISTICS, torch.ones(K), torch.full((K,), -1.0), phase="test"
    )
    outputs = torch.zeros(2, K + 1)
    expected = torch.tensor([-1.0] * K + [0.0]).expand(2, -1)
    assert torch.equal(method.test_logits(outputs), expected)
