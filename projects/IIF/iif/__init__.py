"""IIF: Inverse Image Frequency for long-tailed instance segmentation (arXiv 2209.04861)."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from iif.errors import InputError

if TYPE_CHECKING:
    from iif.evaluation.api import Evaluator, evaluate
    from iif.methods import build_method
    from iif.statistics import ClassStatistics

try:
    __version__ = version("iif")
except PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
    __version__ = "0+unknown"

__all__ = [
    "ClassStatistics",
    "Evaluator",
    "InputError",
    "__version__",
    "build_method",
    "evaluate",
]

# Imported when first used (PEP 562): torch takes seconds and hundreds of megabytes, which the
# evaluation, the comparison and the report do without.
_HOME = {
    "ClassStatistics": "statistics",
    "Evaluator": "evaluation.api",
    "build_method": "methods",
    "evaluate": "evaluation.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
