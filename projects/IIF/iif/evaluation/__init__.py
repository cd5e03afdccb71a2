"""LVIS metrics, comparison and false positives: works on result files alone."""
