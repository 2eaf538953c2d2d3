"""The releases of JAX that autopar works with."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import jax

SUPPORTED_JAX = ((0, 10, 2), (0, 12, 0))
"""Releases [from, before) that autopar is tested with."""


def check_jax_version() -> None:
    """ImportError in one line where JAX is outside the supported range."""
    version = tuple(int(part) for part in jax.__version_info__[:3])
    low, high = SUPPORTED_JAX
    if not low <= version < high:
        span = f">={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
        raise ImportError(
            f"autopar works with jax{span}, found jax {jax.__version__}: pip install 'jax{span}'"
        )
