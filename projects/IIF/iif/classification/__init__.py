"""Long-tailed image classification."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iif.classification.checkpoint import Classifier, load
    from iif.classification.classifiers import CosineClassifier, LearnedCosineClassifier
    from iif.classification.config import ClassifyConfig, read_config
    from iif.classification.counts import long_tailed_counts
    from iif.classification.inference import evaluate
    from iif.classification.sources import load_data
    from iif.classification.trainer import train
    from iif.evaluation.classification.evaluate import evaluate_predictions, write_evaluation
    from iif.evaluation.classification.predictions import Predictions

__all__ = [
    "Classifier",
    "ClassifyConfig",
    "CosineClassifier",
    "LearnedCosineClassifier",
    "Predictions",
    "evaluate",
    "evaluate_predictions",
    "load",
    "load_data",
    "long_tailed_counts",
    "read_config",
    "train",
    "write_evaluation",
]

# Imported when first used (PEP 562): the evaluation needs no torch.
_HOME = {
    "Classifier": "iif.classification.checkpoint",
    "ClassifyConfig": "iif.classification.config",
    "CosineClassifier": "iif.classification.classifiers",
    "LearnedCosineClassifier": "iif.classification.classifiers",
    "Predictions": "iif.evaluation.classification.predictions",
    "evaluate": "iif.classification.inference",
    "evaluate_predictions": "iif.evaluation.classification.evaluate",
    "load": "iif.classification.checkpoint",
    "load_data": "iif.classification.sources",
    "long_tailed_counts": "iif.classification.counts",
    "read_config": "iif.classification.config",
    "train": "iif.classification.trainer",
    "write_evaluation": "iif.evaluation.classification.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
