"""IIF: Inverse Image Frequency for long-tailed instance segmentation (arXiv 2209.04861)."""

from importlib.metadata import PackageNotFoundError, version

from iif.files import InputError
from iif.frequency import ClassFrequency
from iif.logits import IIFLogits
from iif.weights import iif_weights

try:
    __version__ = version("iif")
except PackageNotFoundError:  # a checkout on PYTHONPATH, not installed
    __version__ = "0+unknown"

__all__ = ["ClassFrequency", "IIFLogits", "InputError", "__version__", "iif_weights"]
