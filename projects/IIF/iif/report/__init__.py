"""Plots, pictures and the self-contained HTML page."""
