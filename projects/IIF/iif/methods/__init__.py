"""Long-tail methods: one protocol, one file for each method, and a registry."""

from iif.methods.affine import Affine
from iif.methods.base import Method, Options, wide
from iif.methods.registry import (
    BASELINE,
    DEFAULT,
    METHODS,
    build_method,
    description,
    method_type,
    option_types,
    parse_options,
)

__all__ = [
    "BASELINE",
    "DEFAULT",
    "METHODS",
    "Affine",
    "Method",
    "Options",
    "build_method",
    "description",
    "method_type",
    "option_types",
    "parse_options",
    "wide",
]
