"""Annotation and result files in and out."""
