"""Rare, common and frequent categories: LVIS's limits, terciles, and limits that a user gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_compare import make_gt, make_results, write
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.groups import LVIS_LIMITS, GroupLimits, default_limits
from iif.errors import InputError
from iif.evaluation.compare import compare
from iif.evaluation.seeds import compare_seeds
from iif.report.text import comparison_text
from iif.statistics import ClassStatistics

COUNTS = [400, 300, 290, 150, 140, 120, 60, 50, 40]


def as_coco(content: dict) -> dict:
    """Return a data set without the keys that are LVIS's."""
    images = [
        {k: v for k, v in image.items() if not k.endswith("category_ids")}
        for image in content["images"]
    ]
    categories = [{"id": c["id"], "name": c["name"]} for c in content["categories"]]
    return {**content, "images": images, "categories": categories}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (COUNTS, (60, 150, "terciles")),  # no class has at most 10 images
        ([5, 50, 500], (10, 100, "lvis")),  # LVIS's limits fill all three
        ([1, 2, 3, 4, 5], (2, 3, "terciles")),
        ([20] * 8 + [30, 40], (20, 30, "terciles")),  # equal counts stay together
        ([1] + [40] * 8 + [50], (1, 40, "terciles")),
        ([70, 300], (10, 100, "lvis")),  # two counts make no three groups
        ([70, 70, 70], (10, 100, "lvis")),
    ],
)
def test_default_limits_of_own_data(counts, expected):
    limits = default_limits(np.array(counts), own_data=True)
    assert (limits.rare, limits.common, limits.rule) == expected
    assert default_limits(np.array(counts), own_data=False) == LVIS_LIMITS


@given(st.lists(st.integers(0, 2000), min_size=3, max_size=60))
def test_no_group_of_own_data_is_empty_where_three_counts_differ(counts):
    limits = default_limits(np.array(counts), own_data=True)
    assert (len(set(limits.groups(np.array(counts)))) == 3) == (len(set(counts)) >= 3)


def test_statistics_know_their_limits(tmp_path):
    content = make_gt(images=12)
    lvis, coco = (
        write(tmp_path / f"{n}.json", c)
        for n, c in zip("lc", (content, as_coco(content)), strict=True)
    )
    with pytest.warns(UserWarning, match="disagrees"):
        own = ClassStatistics.from_json(lvis)
    assert own.federated is True
    assert own.group_limits == LVIS_LIMITS
    counted = ClassStatistics.from_json(coco)
    assert counted.federated is False
    assert counted.group_limits.rule == "terciles"
    assert set(counted.groups) == {"r", "c", "f"}
    given_ones = counted.replace(group_limits=[2, 4])
    assert given_ones.group_limits == GroupLimits(rare=2, common=4)
    for one in (counted, given_ones):
        one.save(tmp_path / "saved.json")
        assert ClassStatistics.load(tmp_path / "saved.json").group_limits == one.group_limits
    assert counted.same_counts(given_ones)
    old = counted.to_dict()
    del old["federated"], old["group_limits"]  # as versions before these keys wrote them
    assert ClassStatistics.from_dict(old).group_limits == LVIS_LIMITS


@pytest.mark.parametrize("limits", [[5], [5, 5], [7, 3], [-1, 4], [1, 2, 3]])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(InputError, match="limits of the groups"):
        ClassStatistics(image_count=COUNTS, num_images=500, group_limits=limits)


def test_given_limits_stand_above_the_groups_of_the_file(tmp_path):
    content = make_gt(images=12)
    path = write(tmp_path / "gt.json", content)
    counted = ClassStatistics(
        image_count=[1, 2, 3, 4, 5, 6],
        num_images=12,
        ids=sorted(c["id"] for c in content["categories"]),
    )
    own = load_annotations(path, statistics=counted)
    assert own.group_limits is None
    other = load_annotations(path, statistics=counted.replace(group_limits=[2, 4]))
    assert other.groups.tolist() == ["r", "r", "c", "c", "f", "f"]
    assert other.group_limits == GroupLimits(rare=2, common=4)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two runs on a COCO-format file: evaluated by terciles, and by 2 and 4 images."""
    folder = tmp_path_factory.mktemp("groups")
    content = as_coco(make_gt(3, images=20, categories=9))
    gt = write(folder / "gt.json", content)
    for seed, (name, groups) in enumerate(
        {"terciles": [], "given": ["--groups", "2", "4"]}.items()
    ):
        results = write(folder / f"{name}.json", make_results(content, seed))
        command = ["evaluate", "--gt", str(gt), "--results", str(results), "--train-json", str(gt)]
        assert main([*command, *groups, "--output", str(folder / name)]) == 0
    return folder


def test_limits_are_recorded_and_told(evaluated, capsys):
    limits = {
        name: json.loads((evaluated / name / "eval_summary.json").read_text())["evaluation"][
            "group_limits"
        ]
        for name in ("terciles", "given")
    }
    assert limits["given"] == {"rare": 2, "common": 4, "rule": "given"}
    assert limits["terciles"]["rule"] == "terciles"
    page = evaluated / "page.html"
    assert main(["report", str(evaluated / "given"), "--output", str(page)]) == 0
    assert "Rare categories are in at most 2 training images" in page.read_text()
    assert "by the COCO rules" in page.read_text()
    command = ["evaluate", "--gt", str(evaluated / "gt.json")]
    command += ["--results", str(evaluated / "given.json"), "--output", str(evaluated / "x")]
    capsys.readouterr()
    assert main([*command, "--train-json", str(evaluated / "gt.json")]) == 0
    assert "(terciles of the categories, because LVIS's limits, 10 and" in capsys.readouterr().out
    assert main([*command, "--groups", "2", "4"]) == 2
    assert "give the training annotations (--train-json)" in capsys.readouterr().err


def test_runs_of_other_limits_are_not_compared_by_group(evaluated):
    runs = [evaluated / "terciles", evaluated / "given"]
    found = compare(runs, bootstrap=20)
    rows = {(row.iou_type, row.metric): row for row in found.metrics}
    assert rows["segm", "APr"].values == [None, None]
    assert rows["segm", "AP"].differences[0] is not None
    text = comparison_text(found)
    assert "no comparison of rare, common and frequent categories: terciles by the limits" in text
    assert "given by the limits 2 and 4; evaluate both with the same limits" in text


def test_a_comparison_can_choose_the_limits(evaluated, tmp_path):
    runs = [evaluated / "terciles", evaluated / "given"]
    chosen = compare(runs, bootstrap=20, group_limits=GroupLimits(rare=2, common=4))
    recorded = json.loads((evaluated / "given" / "eval_summary.json").read_text())
    for row in chosen.metrics:
        if not row.metric.startswith("AR"):
            expected = recorded["metrics"][row.iou_type][row.metric]
            assert row.values[1] == pytest.approx(expected), row.metric
    assert chosen.group_limits == GroupLimits(rare=2, common=4)
    assert not any("no comparison" in note for note in chosen.notes)
    page = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "--groups", "2", "4", "--output", str(page)]) == 0
    names = ["a", "b"]
    found = compare_seeds(runs, names, bootstrap=20)
    assert any("no comparison of rare" in note for note in found.notes)
    assert main(["report", *map(str, runs), "--output", str(page)]) == 0  # without groups
    assert "evaluate both with the same limits" in page.read_text()


def test_a_run_without_counts_cannot_be_grouped_anew(evaluated, tmp_path, capsys):
    command = ["evaluate", "--gt", str(evaluated / "gt.json"), "--output", str(tmp_path / "run")]
    assert main([*command, "--results", str(evaluated / "given.json")]) == 0
    runs = [str(evaluated / "given"), str(tmp_path / "run")]
    assert main(["compare", *runs, "--groups", "2", "4"]) == 2
    assert "run does not record how many training images" in capsys.readouterr().err
