"""Small facts about tensor types that partitioning asks for all the time."""

from __future__ import annotations

from functools import cache

from xdsl.dialects.builtin import (
    ComplexType,
    IndexType,
    IntegerType,
    TensorType,
)
from xdsl.ir import Attribute

_WIDTHS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "tf32": 32}


def shape_of(type: Attribute) -> tuple[int, ...]:
    """The dimensions of a tensor; () for tokens and anything else that cannot be split."""
    # `type(…) is` rather than isinstance: xDSL's attributes are abstract classes, whose instance
    # checks are slow, and this runs for every value of a program.
    return type.get_shape() if type.__class__ is TensorType else ()  # pyright: ignore


def item_bytes(type: Attribute) -> int:
    """Bytes of an element, at least one (i1 and i4 take a byte in XLA's buffers)."""
    if not isinstance(type, TensorType):
        return 0
    return _element_bytes(type.element_type)


@cache
def _element_bytes(element: Attribute) -> int:
    return max(1, _bits(element) // 8)


def _bits(element: Attribute) -> int:
    if isinstance(element, IntegerType):
        return element.width.data
    if isinstance(element, ComplexType):
        return 2 * _bits(element.element_type)
    if isinstance(element, IndexType):
        return 64
    name = str(element)
    if name in _WIDTHS:
        return _WIDTHS[name]
    digits = "".join(c for c in name.split("E")[0] if c.isdigit())
    return int(digits) if digits else 32


def is_splittable(type: Attribute) -> bool:
    """Whether the type is a ranked tensor of static shape."""
    return type.__class__ is TensorType and -1 not in type.get_shape()  # pyright: ignore
