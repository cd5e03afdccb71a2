"""IIF: Inverse Image Frequency for long-tailed instance segmentation (arXiv 2209.04861)."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from iif.errors import InputError

if TYPE_CHECKING:
    from iif.logits import IIFLogits
    from iif.statistics import ClassStatistics
    from iif.weights import iif_weights

try:
    __version__ = version("iif")
except PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
    __version__ = "0+unknown"

__all__ = ["ClassStatistics", "IIFLogits", "InputError", "__version__", "iif_weights"]

# Imported when first used (PEP 562): torch takes seconds and hundreds of megabytes, which the
# evaluation, the comparison and the report do without.
_HOME = {"ClassStatistics": "statistics", "IIFLogits": "logits", "iif_weights": "weights"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
