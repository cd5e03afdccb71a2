"""Image classification: predictions, accuracy, false positives, calibration and comparison."""
