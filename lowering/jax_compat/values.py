"""Arrays, their dtypes, and typed PRNG keys."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
from jax._src import dtypes
from jax._src.array import ArrayImpl

__all__ = ["ArrayImpl", "canonical_dtype", "is_key_dtype", "key_data", "key_impl"]


def is_key_dtype(dtype: Any) -> bool:
    """Whether a dtype is that of typed PRNG keys."""
    return dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def key_data(keys: Any) -> Any:
    """The integers behind typed PRNG keys, without a copy."""
    return keys._base_array


def key_impl(dtype: Any) -> Any:
    """The PRNG implementation of a key dtype, as `jax.random.wrap_key_data(impl=…)` takes it."""
    return dtype._impl


def canonical_dtype(value: Any) -> Any:
    """The dtype that JAX gives a Python or NumPy value."""
    return dtypes.canonicalize_dtype(dtypes.dtype(value))
