"""Annotation and result files in and out; the glyph data set."""
