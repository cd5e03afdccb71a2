from __future__ import annotations

import csv
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from iif import ClassStatistics, InputError
from iif.cli import main
from iif.methods.iif import COUNT_BY, VARIANTS, iif_weights
from iif.report.plots import plot_weights
from iif.report.weights import write_weights_csv

mp.dps = 40


def exact_normal_quantile(p: mpf) -> mpf:
    """Invert the normal CDF in 40 digits, by bisection of mpmath's own CDF."""
    low, high = mpf(-40), mpf(40)
    for _ in range(150):
        middle = (low + high) / 2
        low, high = (middle, high) if mp.ncdf(middle) < p else (low, middle)
    return (low + high) / 2


EXACT = {
    "raw": lambda f, n: mp.log(n / f),
    "smooth": lambda f, n: mp.log((n + 1) / (f + 1)) + 1,
    "prob": lambda f, n: mp.log((n - f) / f),
    "normit": lambda f, n: -exact_normal_quantile(f / n),
    "gombit": lambda f, n: -mp.log(-mp.log(1 - f / n)),
    "base2": lambda f, n: mp.log(n / f, 2),
    "base10": lambda f, n: mp.log10(n / f),
}

# LVIS v1 train: category id 1 is shown by 64 of 100,170 images, 109 of 1,270,141 instances; the
# other 11 stand for the rest of the instances.
REST = [115_457] * 10 + [115_462]
LVIS_V1 = ClassStatistics(
    image_count=[64, *[9_000] * 11], num_images=100_170, instance_count=[109, *REST]
)


@pytest.mark.parametrize(
    ("variant", "count_by", "expected"),
    [
        ("raw", "image", 7.355740938246138),
        ("smooth", "image", 8.340246734689194),
        ("prob", "image", 7.3551018202072465),
        ("normit", "image", 3.2209133650223976),
        ("gombit", "image", 7.355421396246417),
        ("base2", "image", 10.612090973671634),
        ("base10", "image", 3.194557699790146),
        ("raw", "instance", 9.363290593665011),
        ("base10", "instance", 4.0664254372853375),
    ],
)
def test_check_values_of_lvis_v1(variant, count_by, expected):
    weights = iif_weights(LVIS_V1, variant, count_by)
    assert weights.dtype == torch.float64
    assert weights.shape == (12,)
    assert LVIS_V1.num_instances == 1_270_141
    assert weights[0].item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("total", [3, 57_263, 100_170, 118_287])
def test_equals_the_formula_in_forty_digits(variant, total):
    counts = sorted(
        {1, 2, 10, 64, 1000, total // 3, total // 2 - 1} & set(range(1, total // 2 + 1))
    )
    weights = iif_weights(ClassStatistics(image_count=counts, num_images=total), variant)
    for count, weight in zip(counts, weights.tolist(), strict=True):
        exact = EXACT[variant](mpf(count), mpf(total))
        # Near 1/2, f / N itself is only known to 1e-16, whatever the formula.
        assert abs(weight - exact) <= 1e-12 * exact + mpf(10) ** -15


@pytest.mark.parametrize(("variant", "expected"), [("prob", -0.1685), ("normit", -0.1055)])
def test_a_negative_weight_is_refused_by_name(variant, expected):
    coco = ClassStatistics(
        image_count=[64_115, 3_252], num_images=118_287, names=["person", "bicycle"]
    )
    with pytest.raises(InputError, match=rf"{variant}.*'person' \(id 1: 64115 images\)") as error:
        iif_weights(coco, variant)
    assert f"{expected:.4f}"[:6] in str(error.value)
    with pytest.warns(UserWarning, match="'person'"):
        weights = iif_weights(coco, variant, nonpositive="clamp")
    assert weights[0] == weights[1] > 0


def test_nonpositive_clamp_leaves_positive_weights_alone():
    statistics = ClassStatistics(image_count=[900, 1000, 400, 2], num_images=1000)
    with pytest.warns(UserWarning, match="'1' .*'2'"):
        weights = iif_weights(statistics, "prob", nonpositive="clamp")
    positive = iif_weights(ClassStatistics(image_count=[400, 2], num_images=1000), "prob")
    assert weights.tolist() == [positive[0], positive[0], positive[0], positive[1]]


def test_the_weight_zero_of_a_class_in_every_image_is_refused_or_clamped():
    statistics = ClassStatistics(image_count=[20, 5, 2], num_images=20)
    with pytest.raises(InputError, match=r"raw.*'1' .*20 images.* is 0; "):
        iif_weights(statistics, "raw")
    with pytest.warns(UserWarning, match="raised to 1.386"):
        weights = iif_weights(statistics, "raw", nonpositive="clamp")
    assert weights.tolist() == [math.log(4), math.log(4), math.log(10)]


def test_nonpositive_clamp_needs_a_positive_weight_to_clamp_to():
    with pytest.raises(InputError, match=r"raw.*is 0 \(and 1 more class.*take another") as error:
        iif_weights(ClassStatistics(image_count=[5, 5], num_images=5), "raw", nonpositive="clamp")
    assert "clamp" not in str(error.value)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "smooth"])
@pytest.mark.parametrize("count_by", COUNT_BY)
def test_a_class_never_seen_is_refused_or_clamped(variant, count_by):
    statistics = ClassStatistics(
        image_count=[5, 0, 30, 20],
        num_images=1000,
        instance_count=[50, 0, 50, 40],
        names=["a", "ghost", "c", "d"],
    )
    with pytest.raises(InputError, match=rf"{variant} weight by {count_by}.*'ghost'.*is inf"):
        iif_weights(statistics, variant, count_by)
    with pytest.raises(InputError, match="zero_count"):
        iif_weights(statistics, variant, count_by, nonpositive="clamp")
    with pytest.warns(UserWarning, match=r"'ghost' \(id 2: 0 images, 0 instances\)"):
        clamped = iif_weights(
            statistics, variant, count_by, zero_count="clamp", nonpositive="clamp"
        )
    total = 1000 if count_by == "image" else 140
    assert clamped[1].item() == pytest.approx(float(EXACT[variant](mpf(1), mpf(total))), rel=1e-12)


def test_smooth_is_finite_for_a_class_never_seen():
    statistics = ClassStatistics(image_count=[5, 0], num_images=10)
    assert iif_weights(statistics, "smooth")[1].item() == pytest.approx(math.log(11) + 1)


def test_no_warning_where_nothing_is_clamped():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iif_weights(
            ClassStatistics(image_count=[5, 1], num_images=1000),
            zero_count="clamp",
            nonpositive="clamp",
        )


@pytest.mark.parametrize("variant", ["raw", "base2", "base10", "prob", "normit", "gombit"])
def test_a_class_in_every_image_is_refused(variant):
    with pytest.raises(InputError, match="finite and positive"):
        iif_weights(ClassStatistics(image_count=[5, 10], num_images=10), variant)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "Raw"}, "'Raw'.*raw, smooth, prob, normit, gombit, base2, base10"),
        ({"count_by": "object"}, "'object'.*image, instance"),
        ({"zero_count": "ignore"}, "'ignore'.*error, clamp"),
        ({"nonpositive": "ignore"}, "'ignore'.*error, clamp"),
    ],
)
def test_a_mistyped_argument_lists_the_right_ones(arguments, message):
    with pytest.raises(InputError, match=message):
        iif_weights(LVIS_V1, **arguments)


def test_weights_by_instance_need_instances():
    with pytest.raises(InputError, match="count_by 'image'"):
        iif_weights(ClassStatistics(image_count=[5], num_images=10), count_by="instance")


# Counts below a third of N, where every variant is positive.
counts_strategy = st.lists(st.integers(1, 3000), min_size=2, max_size=30)


@settings(max_examples=60)
@given(counts=counts_strategy, variant=st.sampled_from(VARIANTS))
def test_a_more_frequent_class_never_weighs_more(counts, variant):
    weights = iif_weights(ClassStatistics(image_count=counts, num_images=10_000), variant)
    order = np.argsort(counts)
    ordered_counts, ordered = np.array(counts)[order], weights.numpy()[order]
    steps = np.diff(ordered)
    assert (steps[np.diff(ordered_counts) > 0] < 0).all()
    assert (steps[np.diff(ordered_counts) == 0] == 0).all()


@settings(max_examples=60)
@given(counts=counts_strategy)
def test_bases_differ_by_a_factor_only(counts):
    statistics = ClassStatistics(image_count=counts, num_images=10_000)
    raw, base2, base10 = (iif_weights(statistics, v) for v in ("raw", "base2", "base10"))
    torch.testing.assert_close(base2 * math.log(2), raw, rtol=1e-14, atol=0)
    torch.testing.assert_close(base10 * math.log(10), raw, rtol=1e-14, atol=0)


@settings(max_examples=60)
@given(counts=counts_strategy, variant=st.sampled_from(VARIANTS), data=st.data())
def test_the_order_of_the_rows_does_not_matter(counts, variant, data):
    ids = data.draw(
        st.lists(st.integers(0, 9999), unique=True, min_size=len(counts), max_size=len(counts))
    )
    order = data.draw(st.permutations(range(len(counts))))
    straight = iif_weights(ClassStatistics(image_count=counts, num_images=10_000, ids=ids), variant)
    shuffled = iif_weights(
        ClassStatistics(
            image_count=[counts[i] for i in order], num_images=10_000, ids=[ids[i] for i in order]
        ),
        variant,
    )
    assert torch.equal(straight, shuffled)
    by_id = dict(zip(sorted(ids), straight.tolist(), strict=True))
    for key, count in zip(ids, counts, strict=True):
        alone = iif_weights(ClassStatistics(image_count=[count], num_images=10_000), variant)
        assert by_id[key] == pytest.approx(alone.item(), rel=1e-15)


@settings(max_examples=60)
@given(
    counts=st.lists(
        st.integers(1, 50).flatmap(lambda f: st.tuples(st.just(f), st.integers(f, 3 * f))),
        min_size=4,
        max_size=20,
    ),
    variant=st.sampled_from(("raw", "smooth", "base2", "base10")),
)
def test_by_instance_counts_instances_and_their_total(counts, variant):
    images, instances = zip(*counts, strict=True)
    by_instance = iif_weights(
        ClassStatistics(image_count=images, num_images=5000, instance_count=instances),
        variant,
        "instance",
    )
    as_images = iif_weights(
        ClassStatistics(image_count=instances, num_images=sum(instances)), variant, "image"
    )
    assert torch.equal(by_instance, as_images)


# ------------------------------------------------------------------------- table, plot, command


@pytest.mark.parametrize("count_by", COUNT_BY)
def test_command_writes_table_and_plot(openmoji_dir, tmp_path, capsys, count_by):
    train = str(openmoji_dir / "openmoji_train.json")
    table, plot = tmp_path / "out" / "w.csv", tmp_path / "out" / "w.png"
    arguments = ["weights", "--json", train, "--variant", "smooth", "--count-by", count_by]
    assert main([*arguments, "--csv", str(table), "--plot", str(plot)]) == 0
    statistics = ClassStatistics.from_json(train)
    expected = iif_weights(statistics, "smooth", count_by)
    with open(table, newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["id", "name", "image_count", "instance_count", "weight"]
    assert [int(row["id"]) for row in rows] == statistics.ids.tolist()
    assert [row["name"] for row in rows] == statistics.names
    assert [int(row["image_count"]) for row in rows] == statistics.image_count.tolist()
    assert [int(row["instance_count"]) for row in rows] == statistics.instance_count.tolist()
    assert [float(row["weight"]) for row in rows] == expected.tolist()
    assert plot.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "12 classes, 40 images" in printed
    for group, name in (("r", "rare"), ("c", "common"), ("f", "frequent")):
        number = np.count_nonzero(statistics.groups == group)
        (line,) = [line for line in printed.splitlines() if line.startswith(name)]
        assert int(line.split()[1]) == number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "Raw"], "must be one of raw, smooth"),
        (["--count-by", "object"], "must be one of image, instance"),
        (["--plot", "w.jpeg"], "must end in png, pdf, svg"),
    ],
)
def test_command_refuses_in_one_line(
    openmoji_dir, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    train = str(openmoji_dir / "openmoji_train.json")
    assert main(["weights", "--json", train, "--csv", "w.csv", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_table_leaves_unknown_instances_empty(tmp_path: Path):
    statistics = ClassStatistics(image_count=[2, 5], num_images=10, names=['a "b", c', "é"])
    write_weights_csv(tmp_path / "w.csv", statistics, iif_weights(statistics))
    with open(tmp_path / "w.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    assert rows[1] == ["1", 'a "b", c', "2", "", repr(math.log(5))]
    assert rows[2][1] == "é"


def test_plot_shows_every_class_in_the_colour_of_its_group():
    counts = [0, 3, 10, 11, 100, 101, 900]
    statistics = ClassStatistics(image_count=counts, num_images=1000)
    weights = iif_weights(statistics, "smooth")
    by_count, by_rank = plot_weights(statistics, weights, variant="smooth").axes
    sizes = [len(points.get_offsets()) for points in by_count.collections]
    assert sizes == [3, 2, 2]
    points = np.concatenate([points.get_offsets() for points in by_count.collections])
    np.testing.assert_allclose(points[:, 0], [0.5, *counts[1:]])
    np.testing.assert_allclose(points[:, 1], weights)
    ranks = np.concatenate([points.get_offsets() for points in by_rank.collections])
    np.testing.assert_allclose(ranks[:, 0], [7, 6, 5, 4, 3, 2, 1])
    labels = [text.get_text() for text in by_count.get_legend().get_texts()]
    assert labels == ["rare (3)", "common (2)", "frequent (2)", "background (1)"]
    with pytest.raises(InputError, match="not counted"):
        plot_weights(statistics, weights, variant="raw", count_by="instance")
