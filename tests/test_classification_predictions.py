"""Predictions of a classifier: ranking, their file, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import iif.evaluation.classification.predictions as module
from iif import InputError
from iif.classification import Predictions


def names(count):
    return [f"test/{i:04d}.png" for i in range(count)]


def test_softmax_by_hand():
    made = Predictions.from_logits(np.log([[1.0, 2.0, 5.0]]), [1], ["a.png"])
    np.testing.assert_array_equal(made.top, [[2, 1, 0]])
    np.testing.assert_allclose(made.probability, [[0.625, 0.25, 0.125]], rtol=1e-6)


def test_large_logits_do_not_overflow_and_ties_go_to_the_lower_class():
    logits = np.array([[1e4, 1e4, -1e4], [0.0, 3e38, 3e38]], np.float32)
    made = Predictions.from_logits(logits, [0, 0], names(2))
    np.testing.assert_array_equal(made.top, [[0, 1, 2], [1, 2, 0]])
    np.testing.assert_allclose(made.probability, [[0.5, 0.5, 0.0]] * 2)


@settings(deadline=None, max_examples=50)
@given(
    logits=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.integers(-3, 3).map(float),
    ),
    chunk=st.sampled_from([1, 10, 10**6]),
)
def test_ranking_is_a_stable_sort(logits, chunk):
    # Few values, so that ties are frequent; chunks split the images.
    before, module._CHUNK = module._CHUNK, chunk
    try:
        made = Predictions.from_logits(logits, np.zeros(len(logits), int), names(len(logits)))
    finally:
        module._CHUNK = before
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(made.top, order)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        made.probability, np.take_along_axis(softmax, order, axis=1), rtol=1e-6
    )


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    images = [*names(18), "Ünï/ code.png", "last.png"]
    return Predictions.from_logits(rng.normal(size=(20, 7)), rng.integers(7, size=20), images)


def test_file_gives_back_what_was_saved(made, tmp_path):
    path = tmp_path / "new" / "predictions.npz"
    made.save(path)
    read = Predictions.load(path)
    for key in ("labels", "top", "probability"):
        np.testing.assert_array_equal(getattr(read, key), getattr(made, key))
    assert (read.images, read.num_classes) == (made.images, 7)
    assert read.sha256 == made.sha256
    first = path.read_bytes()
    made.save(path)
    assert path.read_bytes() == first


def test_hash_is_of_the_test_set_alone(made):
    rng = np.random.default_rng(1)

    def other(labels=made.labels, images=made.images, classes=7):
        logits = rng.normal(size=(len(labels), classes))
        return Predictions.from_logits(logits, labels, images).sha256

    assert other() == made.sha256
    assert other(labels=np.roll(made.labels, 1)) != made.sha256
    assert other(images=[*made.images[:-1], "x"]) != made.sha256
    assert other(classes=8) != made.sha256


@pytest.mark.parametrize(
    ("logits", "labels", "images", "message"),
    [
        ([[0.0, np.nan]], [0], ["a.png"], "image 'a.png' is not finite"),
        ([[0.0, 1.0], [np.inf, 0.0]], [0, 1], ["a", "b.png"], "'b.png'"),
        ([[0.0, 1.0]], [2], ["a.png"], "'a.png' has a label outside 0 to 1"),
        ([[0.0, 1.0]], [-1], ["a.png"], "outside 0 to 1"),
        ([[0.0, 1.0]], [0.0], ["a.png"], "whole numbers"),
        ([[0.0, 1.0]], [0, 1], ["a", "b"], r"\(1, 2\) and labels \(2,\)"),
        ([[0.0, 1.0]], [0], ["a", "b"], "2 image names for 1 labels"),
        (np.zeros((0, 3)), np.zeros(0, int), [], "at least one"),
        (np.zeros((2, 0)), [0, 0], ["a", "b"], "shape"),
    ],
)
def test_impossible_predictions_are_refused(logits, labels, images, message):
    with pytest.raises(InputError, match=message):
        Predictions.from_logits(logits, labels, images)


def test_faulty_files_are_refused(made, tmp_path):
    path = tmp_path / "predictions.npz"
    with pytest.raises(InputError, match="no such file"):
        Predictions.load(path)
    made.save(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"predictions\.npz: not a file of"):
            Predictions.load(path)
    np.savez(path, format=np.array("iif-predictions/1"), labels=np.array([0]))
    with pytest.raises(InputError, match="not a file of"):
        Predictions.load(path)
    stored = {
        "format": np.array("iif-predictions/1"),
        "labels": np.array([9]),
        "top": np.array([[0, 1]]),
        "probability": np.array([[0.75, 0.25]]),
        "images": np.array(["a"]),
        "num_classes": np.array(2),
    }
    np.savez(path, **stored)
    with pytest.raises(InputError, match=r"predictions\.npz: .*label outside 0 to 1"):
        Predictions.load(path)
    np.savez(path, **stored | {"labels": np.array([0]), "probability": np.array([[0.25, 0.75]])})
    with pytest.raises(InputError, match="descend"):
        Predictions.load(path)
    np.savez(path, **stored | {"images": np.array([{}], dtype=object)})
    with pytest.raises(InputError, match="not a file of"):
        Predictions.load(path)


def test_evaluation_imports_no_torch():
    code = (
        "import sys; from iif.classification import Predictions, write_evaluation; "
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
