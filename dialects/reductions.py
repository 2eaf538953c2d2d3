"""Kinds of reductions: the op that combines two values, and the element that it ignores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constants import extremes

COMBINERS = {
    "sum": "stablehlo.add",
    "max": "stablehlo.maximum",
    "min": "stablehlo.minimum",
    "product": "stablehlo.multiply",
    "bitwise_and": "stablehlo.and",
    "bitwise_or": "stablehlo.or",
    "bitwise_xor": "stablehlo.xor",
}
"""The op of each kind of partial results that has a meaning here (upstream's `generic` does not,
`average` is a sum)."""
REDUCTION_KINDS = tuple(COMBINERS)
KIND_OF_COMBINER = {op: kind for kind, op in COMBINERS.items()}


def neutral_value(kind: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The element that a reduction of `kind` ignores, as a scalar array of `dtype`.

    Of a sum of floats that is -0.0, bit for bit: +0.0 would make +0.0 of -0.0.
    """
    match kind:
        case "sum":
            zero = np.zeros((), dtype)
            return -zero if dtype.kind not in "biu" and zero == 0 else zero  # f8E8M0FNU has none
        case "bitwise_or" | "bitwise_xor":
            return np.zeros((), dtype)
        case "product":
            return np.ones((), dtype)
        case "bitwise_and":
            return np.array(-1).astype(dtype)
        case "max":
            return extremes(dtype)[0]
        case "min":
            return extremes(dtype)[1]
        case _:
            raise ValueError(f"no neutral element is known for the reduction {kind}")
