"""The rows of the results table: each method's settings, over the configuration of the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from iif.demo.plan import OpenMojiSettings
from iif.methods.iif import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
# LVIS repeats the images of categories with fewer than 100 of about 100,000 images. As many images
# here give a category of n images the factor that it would have there.
REPEAT_THRESHOLD_IMAGES = 100
# The part of the training images on which the values of post-hoc methods are chosen.
HELD_OUT = 0.2
# A decoupled run's iterations, as a part of the schedule.
DECOUPLED = 3

Settings = tuple[object, ...]


@dataclass(frozen=True)
class Size:
    """A data set and the recipe that all rows share.

    Attributes:
        name: as ``--size`` takes it.
        config: the baseline's configuration.
        data: the data set.
        opts: KEY VALUE for all rows.
        federated_classes: of the federated loss, in an iteration.
    """

    name: str
    config: Path
    data: OpenMojiSettings
    opts: Settings
    federated_classes: int

    @property
    def repeat_threshold(self) -> float:
        """The frequency below which repeat-factor sampling repeats a category's images."""
        return REPEAT_THRESHOLD_IMAGES / self.data.train

    @property
    def rows(self) -> Path:
        """Where the finished rows lie."""
        return ROOT / "benchmarks" / "results" / f"openmoji_{self.name}"


SIZES = {
    size.name: size
    for size in (
        Size(
            "small",
            ROOT / "configs" / "openmoji_baseline.yaml",
            OpenMojiSettings(categories=40, train=1000, val=300, image_size=96),
            ("SOLVER.MAX_ITER", 450, "SOLVER.CHECKPOINT_PERIOD", 225),
            # A batch shows about 11 of the 40 categories; 50, as on LVIS, would be all of them.
            federated_classes=20,
        ),
        Size(
            "large",
            ROOT / "configs" / "openmoji_large_baseline.yaml",
            OpenMojiSettings(categories=1203, train=20_000, val=5000, image_size=512),
            (),
            federated_classes=50,
        ),
    )
}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as printed.
        overrides: of the baseline's configuration.
        how: "train"; or, from the softmax run of the same seed, "decoupled" (its classifier learns
            on) or "post-hoc" (nothing does).
        post_hoc: the method's name in iif.methods, of a post-hoc row.
        default: whether it is run unless ``--methods`` says otherwise.
    """

    name: str
    overrides: Settings = ()
    how: Literal["train", "decoupled", "post-hoc"] = "train"
    post_hoc: str = ""
    default: bool = True

    @property
    def folder(self) -> str:
        """The name of its folder."""
        name = self.name.replace(" + ", "_").replace(", ", "_").replace(" ", "_")
        return name.replace("(", "").replace(")", "")


SOFTMAX = Method("softmax")
# Trained without the images on which the values of post-hoc methods are chosen; not a row.
HELD_OUT_SOFTMAX = Method("softmax without held-out images", ("DATASETS.HELD_OUT", HELD_OUT))
SAMPLED = "softmax, repeat-factor sampling"

_COSINE: Settings = (
    *("MODEL.LONG_TAIL.CLASSIFIER", "cosine"),
    "MODEL.LONG_TAIL.COSINE_TEMPERATURE",
)
_LOGIT_ADJUSTMENT: Settings = ("MODEL.LONG_TAIL.METHOD", "logit_adjustment")
# With the linear classifier, as all rows but those of the cosine classifier.
_SEESAW: Settings = ("MODEL.LONG_TAIL.METHOD", "seesaw")
# Sigmoids that start at a probability of 0.001, as the authors'.
_EQLV2: Settings = (
    *("MODEL.LONG_TAIL.METHOD", "eqlv2"),
    *("MODEL.LONG_TAIL.CLASSIFIER_BIAS", -6.906755),
)


def iif(variant: str = "raw", count_by: str = "image") -> Settings:
    """Return the settings of IIF."""
    return (
        *("MODEL.LONG_TAIL.METHOD", "iif"),
        *("MODEL.IIF.VARIANT", variant, "MODEL.IIF.COUNT_BY", count_by),
    )


# Without adaptation, which would take images away: of a rare category's few, a fifth.
_FASA: Settings = (*iif(), "MODEL.FASA.ENABLED", True, "MODEL.FASA.ADAPT", False)


def methods(size: Size) -> list[Method]:
    """Return all rows, in the order in which they are run: those that matter most first."""
    sampler: Settings = (
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.REPEAT_THRESHOLD", size.repeat_threshold),
    )
    # The start of CenterNet2's sigmoids, whose loss it is (arXiv 2103.07461): 0.01.
    federated: Settings = (
        *("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True),
        *("MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", size.federated_classes),
        *("MODEL.LONG_TAIL.CLASSIFIER_BIAS", -4.59512),
    )
    sampling = ", repeat-factor sampling"
    return [
        SOFTMAX,
        Method("IIF raw", iif()),
        Method(SAMPLED, sampler),
        Method(f"IIF raw{sampling}", (*iif(), *sampler)),
        Method("decoupled IIF raw", iif(), "decoupled"),
        Method("decoupled softmax", (), "decoupled"),
        Method("post-hoc IIF raw", iif(), "post-hoc", "iif"),
        Method("post-hoc logit adjustment", _LOGIT_ADJUSTMENT, "post-hoc", "logit_adjustment"),
        *(
            Method(label, ("MODEL.LONG_TAIL.METHOD", name), "post-hoc", name)
            for name, label in (("norcal", "NorCal"), ("fracal", "FRACAL"), ("logn", "LogN"))
        ),
        Method("logit adjustment", _LOGIT_ADJUSTMENT),
        Method("Seesaw", _SEESAW),
        Method("EQL v2", _EQLV2),
        Method("FASA + IIF raw", _FASA),
        Method("federated loss", federated),
        Method(f"logit adjustment{sampling}", (*_LOGIT_ADJUSTMENT, *sampler)),
        Method(f"Seesaw{sampling}", (*_SEESAW, *sampler)),
        Method(f"EQL v2{sampling}", (*_EQLV2, *sampler)),
        Method(f"FASA + IIF raw{sampling}", (*_FASA, *sampler)),
        *(
            Method(f"IIF {variant}{', by instance' if by == 'instance' else ''}", iif(variant, by))
            for by, variants in (
                ("image", [v for v in VARIANTS if v != "raw"]),
                ("instance", ["raw", "smooth", "base10"]),
            )
            for variant in variants
        ),
        Method("cosine", (*_COSINE, 20.0), default=False),
        Method("cosine + IIF raw", (*_COSINE, 8.0, *iif()), default=False),
    ]


def by_name(size: Size, names: Sequence[str] | None) -> list[Method]:
    """Return the rows of these names, by default those that are run by default.

    Raises:
        ValueError: there is no such row.
    """
    known = {method.name: method for method in methods(size)}
    if names is None:
        return [method for method in known.values() if method.default]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}; --list prints them")
    return [method for name, method in known.items() if name in names]
