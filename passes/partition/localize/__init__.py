"""Local forms of ops: a routine for each op that is not legal on local shapes as it stands."""

from . import indexing, shape, window_ops  # registers the routines
from .core import LOCALIZED, LocalOp, localize, localizer

__all__ = ["LOCALIZED", "LocalOp", "indexing", "localize", "localizer", "shape", "window_ops"]
