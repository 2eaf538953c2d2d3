"""StableHLO constants from and to NumPy arrays, every dtype."""

from __future__ import annotations

from typing import Any, cast

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute

from ..constants import Array, constant_array, dense_attr, splat_attr
from .shape import ConstantOp

__all__ = ["constant_array", "dense_attr", "make_constant", "scalar_constant", "splat_constant"]


def make_constant(array: Array, type: TensorType[Any] | None = None) -> ConstantOp:
    """A constant with the bits of the array."""
    return ConstantOp(dense_attr(array, type))


def splat_constant(value: float | int | bool | complex, type: Attribute) -> ConstantOp:
    """A constant of a tensor type with one value everywhere."""
    assert isinstance(type, TensorType), f"a constant needs a tensor type, not {type}"
    return ConstantOp(splat_attr(value, cast(TensorType[Attribute], type)))


def scalar_constant(value: float | int | bool | complex, element_type: Attribute) -> ConstantOp:
    """A rank-0 constant."""
    return ConstantOp(splat_attr(value, TensorType(element_type, [])))
