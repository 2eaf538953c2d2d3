"""Local forms of ops: a routine for each op that is not legal on local shapes as it stands."""

from . import indexing, shape, window_ops  # registers the routines
from .core import (
    LocalOp,
    localize,
    localizer,
    localizer_of,
    register_custom_call_localizer,
    register_localizer,
)

__all__ = [
    "LocalOp",
    "indexing",
    "localize",
    "localizer",
    "localizer_of",
    "register_custom_call_localizer",
    "register_localizer",
    "shape",
    "window_ops",
]
