"""autopar: a single-device JAX program, run on many devices.

The public names are imported when first used, so that compilers that embed `autopar.passes` pay for
neither JAX nor the runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .decisions import StalePlanError
    from .embed import apply
    from .methods import (
        FSDP,
        AutoShardParallel,
        DataParallel,
        ShardParallel,
        Zero2Parallel,
        Zero3Parallel,
        method_names,
    )
    from .parallelized import clear_executable_cache, parallelize, plan
    from .plans import Plan
    from .session import init, local_devices, shutdown

_PUBLIC = {
    "AutoShardParallel": "methods",
    "DataParallel": "methods",
    "FSDP": "methods",
    "Plan": "plans",
    "ShardParallel": "methods",
    "StalePlanError": "decisions",
    "Zero2Parallel": "methods",
    "Zero3Parallel": "methods",
    "apply": "embed",
    "clear_executable_cache": "parallelized",
    "init": "session",
    "local_devices": "session",
    "method_names": "methods",
    "parallelize": "parallelized",
    "plan": "parallelized",
    "shutdown": "session",
}

__all__ = [
    "FSDP",
    "AutoShardParallel",
    "DataParallel",
    "Plan",
    "ShardParallel",
    "StalePlanError",
    "Zero2Parallel",
    "Zero3Parallel",
    "__version__",
    "apply",
    "clear_executable_cache",
    "init",
    "local_devices",
    "method_names",
    "parallelize",
    "plan",
    "shutdown",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autopar' has no attribute '{name}'")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
