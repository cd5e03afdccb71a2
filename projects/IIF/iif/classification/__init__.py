"""Long-tailed image classification."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iif.evaluation.classification.evaluate import evaluate_predictions, write_evaluation
    from iif.evaluation.classification.predictions import Predictions

__all__ = ["Predictions", "evaluate_predictions", "write_evaluation"]

# Imported when first used (PEP 562): the evaluation needs no torch.
_HOME = {
    "Predictions": "iif.evaluation.classification.predictions",
    "evaluate_predictions": "iif.evaluation.classification.evaluate",
    "write_evaluation": "iif.evaluation.classification.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
