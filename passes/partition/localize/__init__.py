"""Local forms of ops: a routine for each op that is not legal on local shapes as it stands."""

from .core import LocalOp, localize, localizer

__all__ = ["LocalOp", "localize", "localizer"]
