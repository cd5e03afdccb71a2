"""The demo: a small real long-tailed data set, and a run of every step on it."""
