"""Local forms of ops: a routine for each op that is not legal on local shapes as it stands.

The files of this folder register their routines when they are imported, all of them here.
"""

from importlib import import_module
from pkgutil import iter_modules

from .core import (
    LocalOp,
    localize,
    localizer,
    localizer_of,
    moves_elements,
    register_custom_call_localizer,
    register_localizer,
)

__all__ = [
    "LocalOp",
    "localize",
    "localizer",
    "localizer_of",
    "moves_elements",
    "register_custom_call_localizer",
    "register_localizer",
]

for _file in iter_modules(__path__):
    import_module(f".{_file.name}", __name__)
