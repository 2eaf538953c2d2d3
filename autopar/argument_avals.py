"""What a compiled program knows of its arguments' values."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from autopar.lowering.jax_compat import canonical_dtype, is_key_dtype


class ArgumentAval:
    """What a compiled program knows of a flat argument: shape, dtype and weak type."""

    __slots__ = ("dtype", "python_type", "shape", "weak_type")

    def __init__(self, leaf: Any) -> None:
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            self.python_type = None
            self.shape: tuple[int, ...] = tuple(leaf.shape)
            keep = isinstance(leaf, jax.Array) or is_key_dtype(leaf.dtype)
            self.dtype: Any = leaf.dtype if keep else canonical_dtype(leaf)
            self.weak_type = bool(getattr(leaf, "weak_type", False))
        else:
            self.python_type = type(leaf)
            self.shape = ()
            known = isinstance(leaf, bool | int | float | complex)
            self.dtype = canonical_dtype(leaf) if known else None
            self.weak_type = True

    def __str__(self) -> str:
        if self.python_type is not None:
            return f"a Python {self.python_type.__name__}"
        weak = " (weakly typed)" if self.weak_type else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{weak}"

    def fits(self, leaf: Any) -> bool:
        """Whether the program may be run with `leaf`, whatever its value."""
        other = ArgumentAval(leaf)
        return (
            self.shape == other.shape
            and self.dtype == other.dtype
            and self.weak_type == other.weak_type
            and self.python_type is other.python_type
        )

    def abstract(self, leaf: Any, sharding: Any) -> Any:
        """What tracing gets for the argument."""
        if self.python_type is not None:
            return leaf
        return jax.ShapeDtypeStruct(
            self.shape, self.dtype, sharding=sharding, weak_type=self.weak_type
        )

    def microbatch(self, count: int) -> ArgumentAval:
        """The aval of one of `count` microbatches."""
        part = ArgumentAval.__new__(ArgumentAval)
        part.python_type, part.dtype, part.weak_type = None, self.dtype, self.weak_type
        part.shape = (self.shape[0] // count, *self.shape[1:])
        return part


def host_value(leaf: Any) -> Any:
    """An argument as `jax.device_put` takes it, in the dtype that JAX gives it."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, canonical_dtype(leaf))
