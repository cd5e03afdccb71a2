"""What a model predicts of the test images, tested and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from iif import layout
from iif.classification import checkpoint
from iif.classification.config import ClassifyConfig
from iif.classification.images import DataSet, ImageSet
from iif.classification.model import ClassificationModel
from iif.classification.sources import load_data
from iif.classification.transforms import test_loader
from iif.distributed import bar_disabled, gather, pick_device, process_group, rank, world_size
from iif.errors import InputError
from iif.evaluation.classification.evaluate import evaluate_predictions, write_evaluation
from iif.evaluation.classification.predictions import Predictions
from iif.methods import Method
from iif.statistics import ClassStatistics
