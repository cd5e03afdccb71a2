"""What can be found in a file: the faults that the readers refuse, and what only looks odd."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from iif.data.faults import Fault

Level = Literal["error", "warning", "note"]
Area = Literal["file", "images", "annotations", "masks", "classes", "split", "results"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was found, once or several times.

    Attributes:
        kind: a stable key.
        level: "error" of what training refuses, "warning" of what is probably not meant, "note"
            of what is good to know.
        area: what it concerns.
        title: what it is, in a few words.
        message: the first case in words, with the remedy.
        number: how many there are.
        examples: ids, rows or names of the first.
        effect: what it does in training and in evaluation.
    """

    kind: str
    level: Level
    area: Area
    title: str
    message: str
    number: int
    examples: list[int | str]
    effect: str


class Kind(NamedTuple):
    """What is said of all findings of a kind; see `Finding`."""

    level: Level
    area: Area
    title: str
    effect: str


_REFUSED = "Refused by training and by evaluation."
_NO_TRAINING = "Training refuses the file."

KINDS: dict[str, Kind] = {
    # What the readers report.
    "malformed_images": Kind("error", "images", "entries that are no image", _REFUSED),
    "malformed_categories": Kind("error", "classes", "entries that are no category", _REFUSED),
    "malformed_annotations": Kind("error", "annotations", "no annotation", _REFUSED),
    "duplicate_images_ids": Kind("error", "images", "image ids that occur again", _REFUSED),
    "duplicate_categories_ids": Kind("error", "classes", "category ids that occur again", _REFUSED),
    "duplicate_annotations_ids": Kind("error", "annotations", "ids that occur again", _REFUSED),
    "unknown_image_id": Kind("error", "annotations", "annotations of unknown images", _REFUSED),
    "unknown_category_id": Kind(
        "error", "annotations", "annotations of unknown categories", _REFUSED
    ),
    "missing_annotations": Kind("error", "file", "no list of annotations", _REFUSED),
    "missing_height": Kind("error", "images", "images without height", _REFUSED),
    "missing_width": Kind("error", "images", "images without width", _REFUSED),
    "impossible_size": Kind("error", "images", "images of an impossible size", _REFUSED),
    "missing_bbox": Kind("error", "annotations", "annotations without a box", _REFUSED),
    "missing_lvis_keys": Kind(
        "error", "file", "images that lack LVIS's keys, which others have", _REFUSED
    ),
    "missing_area": Kind("error", "annotations", "annotations without area", _REFUSED),
    "no_frequency": Kind("error", "classes", "categories with an impossible frequency", _REFUSED),
    "unknown_neg_category_ids": Kind(
        "error", "images", "unknown categories in neg_category_ids", _REFUSED
    ),
    "unknown_not_exhaustive_category_ids": Kind(
        "error", "images", "unknown categories in not_exhaustive_category_ids", _REFUSED
    ),
    "nothing_to_train_on": Kind("error", "annotations", "nothing to train on", _NO_TRAINING),
    "broken_rles": Kind(
        "error", "masks", "broken masks (RLE)", "Refused by training and by evaluation of masks."
    ),
    "odd_polygons": Kind(
        "error", "masks", "odd polygons", "Refused by training and by evaluation of masks."
    ),
    "no_names": Kind("error", "images", "images without file name", _NO_TRAINING),
    "unusable_names": Kind(
        "error", "images", "file names that leave the image folder", _NO_TRAINING
    ),
    "missing_images": Kind("error", "images", "image files that are not there", _NO_TRAINING),
    "ambiguous_images": Kind(
        "error", "images", "names that several images would share", _NO_TRAINING
    ),
    "unreadable_images": Kind(
        "error", "images", "unreadable images", "Training and inference stop where they meet one."
    ),
    "other_sizes": Kind(
        "error",
        "images",
        "images of another size than annotated",
        "Training and inference stop where they meet one.",
    ),
    "sizes_before_rotation": Kind(
        "error",
        "images",
        "images that EXIF turns, annotated as they lie",
        "They are turned upright when they are read, and then refused: their size is another one.",
    ),
    "malformed_rows": Kind("error", "results", "rows that are no detection", "Not evaluated."),
    "results_score": Kind("error", "results", "scores that are no number", "Not evaluated."),
    "results_image_id": Kind("error", "results", "detections in unknown images", "Not evaluated."),
    "results_category_id": Kind(
        "error", "results", "detections of unknown categories", "Not evaluated."
    ),
    "results_bbox": Kind("error", "results", "detections without a box", "Not evaluated."),
    "results_segmentation": Kind("error", "results", "missing or broken masks", "Not evaluated."),
    "results_size": Kind("error", "results", "masks of another size", "Not evaluated."),
    "other_categories": Kind(
        "error",
        "split",
        "categories that differ from the training set's",
        "Evaluation after training is refused.",
    ),
    # What only this check looks for.
    "no_mask": Kind(
        "warning",
        "masks",
        "annotations without a mask, which others have",
        "Boxes alone can be trained; a model with masks is refused.",
    ),
    "boxes_only": Kind(
        "note", "masks", "no masks", "Boxes alone can be trained (Faster R-CNN) and evaluated."
    ),
    "no_polygon": Kind(
        "warning",
        "masks",
        "masks without a polygon of 3 points",
        "Left out of training, and refused when masks are evaluated.",
    ),
    "masks_of_boxes": Kind(
        "warning",
        "masks",
        "masks that are rectangles",
        "A mask head would learn rectangles: train boxes alone (model=fasterrcnn_resnet50_fpn_v2).",
    ),
    "corners": Kind(
        "warning",
        "annotations",
        "boxes that seem to be two corners",
        "They are read as x, y, width, height: boxes far too large are trained and evaluated.",
    ),
    "boxes_beyond": Kind(
        "note", "annotations", "boxes that leave their image", "Cut off at its edge in training."
    ),
    "no_box_area": Kind(
        "warning",
        "annotations",
        "boxes without an area inside the image",
        "Not trained on; in evaluation they are objects that nothing finds.",
    ),
    "no_area": Kind(
        "warning",
        "annotations",
        "areas that are not above 0",
        "Ignored in evaluation, neither found nor missed.",
    ),
    "computed_areas": Kind(
        "note", "annotations", "missing areas", "Computed from the masks, or from the boxes."
    ),
    "same_annotations": Kind(
        "warning",
        "annotations",
        "annotations that repeat another one",
        "Each copy counts: as an instance of its class, and as one more object to find.",
    ),
    "whole_floats": Kind(
        "note", "file", "whole numbers written as floats (1.0)", "Read as whole numbers."
    ),
    "same_files": Kind(
        "warning",
        "images",
        "images listed again under another id",
        "They count twice, in N and in their classes.",
    ),
    "no_annotation": Kind(
        "note",
        "images",
        "images without an annotation",
        "They count in N of the weights; training does not show them.",
    ),
    "rotated": Kind(
        "note",
        "images",
        "images that EXIF turns",
        "They are turned upright when they are read; boxes must be those of the upright image.",
    ),
    "same_class_names": Kind(
        "warning", "classes", "category names that occur again", "They are trained as two classes."
    ),
    "empty_categories": Kind(
        "warning",
        "classes",
        "categories without an annotation",
        "Left out: the model has no class for them.",
    ),
    "empty_lvis_categories": Kind(
        "warning",
        "classes",
        "categories without an annotation",
        "Their weight is infinite: training with IIF needs zero_count clamp.",
    ),
    "crowd_only": Kind(
        "warning",
        "classes",
        "categories of which there are only crowds",
        "They are counted and never trained on; nothing of them is to be found in evaluation.",
    ),
    "other_image_count": Kind(
        "warning",
        "classes",
        "categories whose image_count is wrong",
        "The annotations are followed.",
    ),
    "no_weight": Kind(
        "warning",
        "classes",
        "classes whose IIF weight is not above 0",
        "They are in every image: training with IIF needs nonpositive clamp, or another variant.",
    ),
    "empty_group": Kind(
        "note",
        "classes",
        "groups without a class",
        "Their AP (APr, APc or APf) is undefined.",
    ),
    "shared_files": Kind(
        "warning",
        "split",
        "images of the training set with the same name",
        "The result is measured on images that the model was trained on.",
    ),
    "shared_content": Kind(
        "warning",
        "split",
        "images of the training set with the same content",
        "The result is measured on images that the model was trained on.",
    ),
    "shared_ids": Kind(
        "note", "split", "image ids that the training set has, too", "None where the images differ."
    ),
    "never_trained": Kind(
        "warning",
        "split",
        "classes that the training set never shows",
        "No model learns them: their AP is 0.",
    ),
    "not_in_validation": Kind(
        "note", "split", "classes without an object in the validation set", "They have no AP."
    ),
    "result_corners": Kind(
        "warning",
        "results",
        "boxes that seem to be two corners",
        "They are read as x, y, width, height, and hardly match.",
    ),
    "same_detections": Kind(
        "warning",
        "results",
        "detections that repeat another one",
        "Each copy counts as a false positive.",
    ),
    "no_detection": Kind(
        "note", "results", "images without a detection", "Their objects count as missed."
    ),
    "scores_above_1": Kind(
        "note", "results", "scores outside of 0 to 1", "Evaluation needs only their order."
    ),
}


def finding(fault: Fault) -> Finding:
    """Return a fault with what is said of its kind."""
    kind = KINDS[fault.kind]
    return Finding(
        kind=fault.kind,
        level=kind.level,
        area=kind.area,
        title=kind.title,
        message=fault.message,
        number=fault.number,
        examples=list(fault.examples),
        effect=kind.effect,
    )


def in_order(faults: Iterable[Fault]) -> list[Finding]:
    """Return findings, errors first."""
    levels: list[Level] = ["error", "warning", "note"]
    return sorted(map(finding, faults), key=lambda found: levels.index(found.level))
