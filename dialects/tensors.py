"""Small facts about types of values, asked for all the time: shapes, elements, sizes in bytes."""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from typing import Any, cast

from typing_extensions import TypeIs
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ComplexType,
    IndexType,
    IntegerType,
    NoneAttr,
    TensorType,
    i1,
)
from xdsl.ir import Attribute

_NO_ENCODING = NoneAttr()
_SIZES: dict[int, tuple[int, Attribute]] = {}
"""Bytes of types, by the identity of the type, which is kept with them: to hash a type takes longer
than to find its bytes."""
_MOST_SIZES = 10_000
_WIDTHS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "tf32": 32}


def is_tensor(type: Attribute) -> TypeIs[TensorType[Attribute]]:
    """Whether the type is a ranked tensor."""
    # `class is` rather than isinstance: xDSL's attributes are abstract classes, whose instance
    # checks are slow, and this runs for every value of a program.
    return type.__class__ is TensorType


def tensor_type(type: Attribute) -> TensorType[Attribute]:
    """The type as a tensor type; it must be one."""
    assert is_tensor(type), f"expected a tensor, found {type}"
    return type


@lru_cache(maxsize=10_000)
def ranked_tensor(
    element: Attribute, shape: tuple[int, ...], encoding: Attribute = _NO_ENCODING
) -> TensorType[Attribute]:
    """A tensor type, made once: xDSL verifies every attribute that is made, which takes longer
    than all else that passes do with it."""
    return TensorType(element, shape, encoding)


def element_type(type: Attribute) -> Attribute:
    """The element type of a tensor; the type itself where it is none."""
    return type.element_type if is_tensor(type) else type


def is_bool(type: Attribute) -> bool:
    """Whether a tensor's elements are i1."""
    return element_type(type) == i1


def shape_of(type: Attribute) -> tuple[int, ...]:
    """The dimensions of a tensor; () for tokens and anything else that cannot be split."""
    # not `get_shape`, whose generator takes twice as long
    return tuple([size.data for size in type.shape.data]) if is_tensor(type) else ()


def item_bytes(type: Attribute) -> int:
    """Bytes of an element, at least one (i1 and i4 take a byte in XLA's buffers)."""
    return _element_bytes(type.element_type) if is_tensor(type) else 0


@cache
def _element_bytes(element: Attribute) -> int:
    return max(1, _bits(element) // 8)


def _bits(element: Attribute) -> int:
    if isinstance(element, IntegerType):
        return cast("IntegerType[Any]", element).width.data
    if isinstance(element, ComplexType):
        return 2 * _bits(cast("ComplexType[Any]", element).element_type)
    if isinstance(element, IndexType):
        return 64
    name = str(element)
    if name in _WIDTHS:
        return _WIDTHS[name]
    digits = "".join(c for c in name.split("E")[0] if c.isdigit())
    return int(digits) if digits else 32


def num_bytes(type: Attribute) -> int:
    """Bytes of a whole tensor of the type; 0 for anything else, and where a size is not known."""
    known = _SIZES.get(id(type))
    if known is None:
        if len(_SIZES) >= _MOST_SIZES:
            _SIZES.clear()
        known = _SIZES[id(type)] = _count_bytes(type), type
    return known[0]


def _count_bytes(type: Attribute) -> int:
    return item_bytes(type) * prod(shape_of(type)) if is_splittable(type) else 0


def is_splittable(type: Attribute) -> bool:
    """Whether the type is a ranked tensor of static shape."""
    return is_tensor(type) and DYNAMIC_INDEX not in [size.data for size in type.shape.data]
