"""``iif train`` on own data: what it chooses and says, the best checkpoint, the end of a run."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_own_data import as_own_data, image_numbers
from iif import InputError, layout
from iif.cli import main
from iif.data.split import write_split
from iif.tv.defaults import choose

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def own(openmoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    as_own_data(openmoji_dir, folder)
    return folder


def chosen(path: Path, *assignments: str, validated: bool = True):
    return choose(path, assignments, device=CPU, validated=validated)


def edited(own: Path, target: Path, edit) -> Path:
    content = json.loads((own / "train.json").read_text())
    edit(content)
    target.write_text(json.dumps(content))
    return target


# ------------------------------------------------------------------------------- choices


def test_small_images_get_the_small_model(own: Path) -> None:
    choice = chosen(own / "train.json")
    config = choice.config
    assert config.model == "maskrcnn_resnet18_fpn_small"
    assert (config.weights, config.weights_backbone) == (None, None)
    assert (config.min_size, config.max_size) == ((64,), 64)
    assert (config.images_per_batch, config.base_lr) == (8, 0.04)
    # 12 epochs of the images that have objects would be 60 iterations at most.
    assert config.iterations == 600
    assert config.steps == (400, 550)
    assert config.evaluation_period == config.checkpoint_period == 60
    assert not config.keep_all_checkpoints
    text = "\n".join(choice.notes)
    for words in ("12 classes, 40 images", "have a mask", "too few to learn from", "preset=lvis"):
        assert words in text


def test_large_images_get_cocos_weights_and_a_rate_for_the_batch(own: Path, tmp_path: Path) -> None:
    def enlarge(content: dict) -> None:
        for image in content["images"]:
            image |= {"height": 480, "width": 640}
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[0, 0, 9, 0, 9, 9]]

    config = chosen(edited(own, tmp_path / "t.json", enlarge)).config
    assert (config.model, config.weights) == ("maskrcnn_resnet50_fpn_v2", "COCO_V1")
    assert config.min_size == (640, 672, 704, 736, 768, 800)
    assert config.max_size == 1333
    assert config.images_per_batch == 2
    assert config.base_lr == pytest.approx(0.02 * 2 / 16)
    at_random = chosen(tmp_path / "t.json", "weights=null", "weights_backbone=null").config
    assert at_random.iterations == 3 * config.iterations == 3000
    bigger = chosen(tmp_path / "t.json", "images_per_batch=8").config
    assert bigger.base_lr == pytest.approx(0.02 * 8 / 16)


def test_what_the_user_gives_stands_and_is_not_explained(own: Path) -> None:
    choice = chosen(own / "train.json", "base_lr=0.5", "min_size=[48]", "epochs=100")
    assert (choice.config.base_lr, choice.config.min_size) == (0.5, (48,))
    trained = int(choice.notes[0].split(" of them")[0].split()[-1])
    assert choice.config.iterations == -(-100 * trained // 8)
    assert not any(
        line.startswith("  ") and "base_lr=" in line.partition(":")[0] for line in choice.notes
    )
    with pytest.raises(InputError, match="epochs and iterations both"):
        chosen(own / "train.json", "epochs=1", "iterations=5")
    published = chosen(own / "train.json", "preset=lvis").config
    assert (published.iterations, published.images_per_batch) == (74_556, 16)


def test_the_model_follows_the_annotations(openmoji_dir: Path, own: Path, tmp_path: Path) -> None:
    as_own_data(openmoji_dir, tmp_path / "boxes", masks=False)
    choice = chosen(tmp_path / "boxes" / "train.json")
    assert choice.config.model == "fasterrcnn_resnet18_fpn_small"
    assert "no object has a mask: boxes alone are trained" in "\n".join(choice.notes)

    def drop_one(content: dict) -> None:
        content["annotations"][0]["segmentation"] = []

    choice = chosen(edited(own, tmp_path / "one.json", drop_one))
    assert choice.config.model == "fasterrcnn_resnet18_fpn_small"
    assert "1 of " in (text := "\n".join(choice.notes))
    assert "have no mask: boxes alone are trained" in text


def test_a_class_in_every_image_is_clamped_unless_that_is_refused(
    openmoji_dir: Path, tmp_path: Path
) -> None:
    as_own_data(openmoji_dir, tmp_path, everywhere=True)
    choice = chosen(tmp_path / "train.json")
    assert choice.config.options["iif"].nonpositive == "clamp"
    assert "iif.nonpositive=error refuses it" in "\n".join(choice.notes)
    refused = chosen(tmp_path / "train.json", "iif.nonpositive=error").config
    assert refused.options["iif"].nonpositive == "error"
    # LVIS's own files stay strict.
    strict = chosen(openmoji_dir / "openmoji_train.json").config
    assert strict.options["iif"].nonpositive == "error"


def test_without_a_long_tail_the_plain_softmax_is_trained(own: Path, tmp_path: Path) -> None:
    def one_of_each(content: dict) -> None:
        """Every class in every image."""
        number = 0
        annotations = []
        for image in content["images"]:
            for category in content["categories"]:
                number += 1
                annotations.append(
                    {
                        **content["annotations"][0],
                        "id": number,
                        "image_id": image["id"],
                        "category_id": category["id"],
                        "bbox": [1, 1, 9, 9],
                        "segmentation": [[1, 1, 10, 1, 10, 10]],
                    }
                )
        content["annotations"] = annotations

    choice = chosen(edited(own, tmp_path / "flat.json", one_of_each))
    assert choice.config.method == "none"
    assert "there is no long tail" in "\n".join(choice.notes)


def test_a_split_is_the_same_each_time_and_loses_nothing(own: Path, tmp_path: Path) -> None:
    train, val = write_split(own / "train.json", tmp_path / "a", 0.2)
    again = [path.read_bytes() for path in write_split(own / "train.json", tmp_path / "b", 0.2)]
    assert again == [train.read_bytes(), val.read_bytes()]
    both = sorted([*image_numbers(train), *image_numbers(val)])
    assert both == list(image_numbers(own / "train.json"))
    assert len(image_numbers(val)) == 8
    for part in (train, val):
        content = json.loads(part.read_text())
        shown = {image["id"] for image in content["images"]}
        assert {a["image_id"] for a in content["annotations"]} <= shown


# ------------------------------------------------------------------------------- a run


TINY = ("iterations=6", "evaluation_period=2", "checkpoint_period=2", "images_per_batch=2")


def run(own: Path, images: Path, output: Path, *words: str) -> list[str]:
    data = ["--train", str(own / "train.json"), "--images", str(images)]
    return ["train", *data, "--output", str(output), "--device", "cpu", *TINY, *words]


@pytest.fixture(scope="module")
def finished(
    own: Path, openmoji_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The output folder of a run, and what it printed."""
    output = tmp_path_factory.mktemp("trained") / "run"
    with redirect_stdout(printed := StringIO()):
        assert main(run(own, openmoji_dir, output, "--val", str(own / "val.json"))) == 0
    return output, printed.getvalue()


@pytest.fixture(scope="module")
def trained(finished: tuple[Path, str]) -> Path:
    return finished[0]


def test_a_run_ends_with_its_figures_and_the_next_command(finished: tuple[Path, str]) -> None:
    output, printed = finished
    for words in (
        "Chosen from the training data, KEY=VALUE changes each",
        "The last checkpoint reaches mask AP",
        f"Last checkpoint: {output / layout.FINAL_CHECKPOINT}",
        f"Best checkpoint: {output / layout.BEST_CHECKPOINT}",
        f"Report: {output / layout.REPORT}",
        "iif predict ",
        "method=none",
    ):
        assert words in printed, words
    assert "<html" in (output / layout.REPORT).read_text()[:300]
    config = json.loads((output / layout.CONFIG_JSON).read_text())
    assert config["config"]["model"] == "maskrcnn_resnet18_fpn_small"
    assert any("have a mask" in note for note in config["notes"])


def test_the_best_and_the_last_checkpoint_are_kept(trained: Path) -> None:
    kept = sorted(path.name for path in trained.glob("*.pth"))
    best = json.loads((trained / layout.BEST).read_text())
    assert layout.BEST_CHECKPOINT in kept
    assert layout.FINAL_CHECKPOINT in kept
    assert len(kept) <= 3
    assert best["checkpoint"] == layout.BEST_CHECKPOINT
    assert best["iteration"] in (2, 4, 6)
    assert best["metric"].startswith("segm/")
    last = json.loads((trained / layout.INFERENCE / layout.SUMMARY).read_text())
    assert best["score"] >= (last["metrics"]["segm"]["AP"] or 0)


def test_a_resumed_run_has_the_same_best_and_last_checkpoint(
    own: Path, openmoji_dir: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    stopped = run(own, openmoji_dir, output, "--val", str(own / "val.json"))
    stopped[stopped.index("iterations=6")] = "iterations=4"
    # The rate falls at the same iterations as in the run of six.
    stopped += ["steps=[4,6]", "warmup_iterations=1"]
    assert main(stopped) == 0
    resumed = run(own, openmoji_dir, output, "--val", str(own / "val.json"), "--resume")
    assert main([*resumed, "steps=[4,6]", "warmup_iterations=1"]) == 0
    states = [
        torch.load(folder / name, weights_only=True)["model"]
        for folder in (trained, output)
        for name in (layout.FINAL_CHECKPOINT,)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    whole, parts = (json.loads((f / layout.BEST).read_text()) for f in (trained, output))
    assert whole == parts


def test_without_a_validation_set_images_are_held_out(
    own: Path, openmoji_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(run(own, openmoji_dir, output, "iterations=2", "--val-part", "0.2")) == 0
    assert "20% of the images are held out" in capsys.readouterr().out
    held_out = image_numbers(output / layout.SPLIT / "val.json")
    summary = json.loads((output / layout.INFERENCE / layout.SUMMARY).read_text())
    assert summary["dataset"]["num_images"] == len(held_out) == 8
