"""Builds StableHLO on local shapes, in front of an op that is being partitioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import (
    DenseArrayBase,
    IntegerAttr,
    IntegerType,
    Signedness,
    TensorType,
    i1,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from autopar.dialects.constants import extremes, numpy_dtype
from autopar.dialects.reductions import neutral_value
from autopar.dialects.stablehlo import StableHLO
from autopar.dialects.stablehlo.attributes import ComparisonDirection
from autopar.dialects.stablehlo.constants import make_constant, splat_constant
from autopar.dialects.tensors import element_type, ranked_tensor, shape_of, tensor_type

from .specs import AxisTable

_OPS = {op.name: op for op in StableHLO.operations}


def i64_array(values: Sequence[int]) -> Attribute:
    """`array<i64: …>`."""
    return _i64_array(tuple(values))


@lru_cache(maxsize=10_000)
def _i64_array(values: tuple[int, ...]) -> Attribute:
    return DenseArrayBase.from_list(i64, values)


def resized(type: Attribute, shape: Sequence[int]) -> TensorType[Attribute]:
    """The tensor type with another shape (its encoding kept)."""
    tensor = tensor_type(type)
    return ranked_tensor(tensor.element_type, tuple(shape), tensor.encoding)


def splat_neutral(kind: str, type: Attribute) -> Operation:
    """A constant of the neutral element of a reduction."""
    return splat_constant(neutral_value(kind, numpy_dtype(element_type(type))).item(), type)


LARGEST_I32 = 2**31 - 1


def index_type(reach: int) -> IntegerType:
    """The type of indices and sizes up to `reach`: i32, or i64 where that is too narrow."""
    return i32 if reach <= LARGEST_I32 else i64


class LocalBuilder:
    """Inserts ops before `anchor`; knows the grid, to look up each device's own numbers."""

    def __init__(
        self,
        table: AxisTable,
        anchor: Operation,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        self.table = table
        self.anchor = anchor
        self._attributes = dict(attributes or {})
        """Discardable attributes that every inserted op gets."""
        block = anchor.parent
        assert block is not None
        self._block: Block = block
        self._index: SSAValue | None = None

    def insert(self, op: Operation) -> SSAValue:
        """Puts an op before the anchor, with its location; its first result."""
        op.location = self.anchor.location
        if self._attributes:
            op.attributes.update(self._attributes)
        self._block.insert_op_before(op, self.anchor)
        return op.results[0]

    def op(
        self,
        name: str,
        operands: Sequence[SSAValue],
        type: Attribute,
        **properties: Attribute,
    ) -> SSAValue:
        """`stablehlo.<name>` with one result."""
        return self.insert(
            _OPS[f"stablehlo.{name}"].create(
                operands=operands, result_types=[type], properties=properties
            )
        )

    # ---- constants and devices ----

    def constant(self, array: np.ndarray, element: Attribute) -> SSAValue:
        """A constant tensor of `array`'s shape."""
        return self.insert(make_constant(array, TensorType(element, array.shape)))

    def index(self, value: int, type: IntegerType = i32) -> SSAValue:
        """A scalar tensor of an integer type."""
        return self.insert(splat_constant(value, ranked_tensor(type, ())))

    def neutral(self, kind: str, type: Attribute) -> SSAValue:
        """The neutral element of a reduction, broadcast to `type` (of a sum -0.0)."""
        return self.insert(splat_neutral(kind, type))

    def zeros(self, type: Attribute) -> SSAValue:
        """Zeros of a tensor type."""
        return self.insert(splat_constant(0, type))

    def empty(self, type: Attribute, shape: Sequence[int]) -> SSAValue:
        """A tensor without elements."""
        return self.zeros(resized(type, shape))

    def device_index(self) -> SSAValue:
        """This device's row-major index in the grid, tensor<i32>."""
        if self._index is None:
            unsigned = TensorType(IntegerType(32, Signedness.UNSIGNED), [])
            replica = self.op("replica_id", [], unsigned)
            self._index = self.op("convert", [replica], TensorType(i32, []))
        return self._index

    def per_device(self, values: Sequence[int], reach: int = 0) -> SSAValue:
        """A scalar that has its own value on every device of the grid: tensor<i32>, or tensor<i64>
        where a value, or `reach`, needs it (`index_type`)."""
        type = index_type(max(reach, *map(abs, values)))
        if len(set(values)) == 1:
            return self.index(values[0], type)
        table = self.constant(np.array(values, numpy_dtype(type)), type)
        one = self.op(
            "dynamic_slice",
            [table, self.device_index()],
            TensorType(type, [1]),
            slice_sizes=i64_array([1]),
        )
        return self.op("reshape", [one], TensorType(type, []))

    def part_index(self, axes: Sequence[int]) -> list[int]:
        """For each device the index of the part that it holds of a dimension split over `axes`."""
        grid = self.table.refined
        refs = self.table.axes(axes)
        return [grid.linear_coordinate(device, refs) for device in range(grid.num_devices)]

    # ---- shapes ----

    def slice(self, value: SSAValue, dim: int, start: int, limit: int, stride: int = 1) -> SSAValue:
        """`value[..., start:limit:stride, ...]` along one dimension."""
        type = tensor_type(value.type)
        shape = list(type.get_shape())
        if start == 0 and limit == shape[dim] and stride == 1:
            return value
        starts, limits, strides = [0] * len(shape), list(shape), [1] * len(shape)
        starts[dim], limits[dim], strides[dim] = start, limit, stride
        shape[dim] = -(-(limit - start) // stride)
        return self.op(
            "slice",
            [value],
            resized(type, shape),
            start_indices=i64_array(starts),
            limit_indices=i64_array(limits),
            strides=i64_array(strides),
        )

    def dynamic_slice(self, value: SSAValue, dim: int, start: SSAValue, size: int) -> SSAValue:
        """`value[..., start:start+size, ...]`; `start` is an integer scalar, clamped by the op."""
        type = tensor_type(value.type)
        shape = list(type.get_shape())
        zero = self.index(0, integer_type(start))
        starts = [start if d == dim else zero for d in range(len(shape))]
        shape[dim] = size
        return self.op(
            "dynamic_slice",
            [value, *starts],
            resized(type, shape),
            slice_sizes=i64_array(shape),
        )

    def pad(
        self,
        value: SSAValue,
        dim: int,
        low: int,
        high: int,
        interior: int = 0,
        fill: SSAValue | None = None,
    ) -> SSAValue:
        """Padding along one dimension by the scalar `fill` (None: zeros)."""
        if low == 0 and high == 0 and interior == 0:
            return value
        type = tensor_type(value.type)
        shape = list(type.get_shape())
        if fill is None:
            fill = self.zeros(TensorType(type.element_type, []))
        lows, highs, interiors = [0] * len(shape), [0] * len(shape), [0] * len(shape)
        lows[dim], highs[dim], interiors[dim] = low, high, interior
        shape[dim] += low + high + max(0, shape[dim] - 1) * interior
        return self.op(
            "pad",
            [value, fill],
            resized(type, shape),
            edge_padding_low=i64_array(lows),
            edge_padding_high=i64_array(highs),
            interior_padding=i64_array(interiors),
        )

    def concatenate(self, values: Sequence[SSAValue], dim: int) -> SSAValue:
        """The values one after the other along `dim`."""
        if len(values) == 1:
            return values[0]
        type = tensor_type(values[0].type)
        shape = list(type.get_shape())
        shape[dim] = sum(shape_of(v.type)[dim] for v in values)
        return self.op("concatenate", values, resized(type, shape), dimension=IntegerAttr(dim, i64))

    def broadcast(self, value: SSAValue, shape: Sequence[int], dims: Sequence[int]) -> SSAValue:
        """`stablehlo.broadcast_in_dim`: dimension i of the value becomes `dims[i]` of `shape`."""
        return self.op(
            "broadcast_in_dim",
            [value],
            resized(value.type, shape),
            broadcast_dimensions=i64_array(dims),
        )

    def iota(self, shape: Sequence[int], dim: int, type: IntegerType = i32) -> SSAValue:
        """A tensor of the index along `dim`."""
        return self.op("iota", [], TensorType(type, shape), iota_dimension=IntegerAttr(dim, i64))

    # ---- arithmetic on tensors of equal type ----

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a + b."""
        return self.op("add", [a, b], a.type)

    def subtract(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a - b."""
        return self.op("subtract", [a, b], a.type)

    def convert(self, value: SSAValue, element: Attribute) -> SSAValue:
        """The value with another element type."""
        if element_type(value.type) == element:
            return value
        type = TensorType(element, shape_of(value.type))
        return self.op("convert", [value], type)

    def bounded_index(self, value: SSAValue, low: int, high: int, type: IntegerType) -> SSAValue:
        """Integers of any type, at least `low` <= 0 and at most `high` >= 0, as `type`.

        They are bounded first: what the narrower type does not hold would come out somewhere else.
        """
        own = integer_type(value)
        least, most = extremes(numpy_dtype(own))
        lows, highs = max(low, int(least)), min(high, int(most))
        bounded = self.clamp(self.index(lows, own), value, self.index(highs, own))
        return self.convert(bounded, type)

    def clamp(self, low: SSAValue, value: SSAValue, high: SSAValue) -> SSAValue:
        """`value`, at least `low` and at most `high`."""
        return self.op("clamp", [low, value, high], value.type)

    def barrier(self, value: SSAValue) -> SSAValue:
        """`value`, which XLA's simplifications do not see through."""
        return self.op("optimization_barrier", [value], value.type)

    def both(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a and b, of predicates."""
        return self.op("and", [a, b], a.type)

    def select(self, predicate: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        """`a` where the predicate holds, else `b`."""
        return self.op("select", [predicate, a, b], a.type)

    def compare(self, a: SSAValue, direction: str, b: SSAValue) -> SSAValue:
        """A predicate an element; `direction` is EQ, NE, LT, LE, GT or GE."""
        type = tensor_type(a.type)
        return self.op(
            "compare",
            [a, b],
            TensorType(i1, type.get_shape()),
            comparison_direction=ComparisonDirection(direction),
        )

    def in_range(self, value: SSAValue, low: int, high: int) -> SSAValue:
        """Where `low <= value < high`, elementwise on integers whose type holds both."""
        type = value.type
        lows = self.insert(splat_constant(low, type))
        highs = self.insert(splat_constant(high, type))
        return self.both(self.compare(value, "GE", lows), self.compare(value, "LT", highs))

    def positions(
        self, shape: Sequence[int], dim: int, offset: SSAValue, reach: int = 0
    ) -> SSAValue:
        """`offset` (a scalar) plus the index along `dim`, as tensor<shape x i32>; i64 where the
        offset is, or to compare with `reach` takes it."""
        if index_type(reach) == i64:
            offset = self.convert(offset, i64)
        indices = self.iota(shape, dim, integer_type(offset))
        return self.add(indices, self.broadcast(offset, shape, []))

    def mask(
        self, value: SSAValue, dim: int, offset: SSAValue, low: int, high: int, fill: SSAValue
    ) -> SSAValue:
        """`value` where offset + index along `dim` is in [low, high), else `fill` (a scalar or a
        tensor of the same type)."""
        type = tensor_type(value.type)
        shape = type.get_shape()
        inside = self.in_range(self.positions(shape, dim, offset, high), low, high)
        if fill.type != type:
            fill = self.broadcast(fill, shape, [])
        return self.select(inside, value, fill)


def integer_type(value: SSAValue) -> IntegerType:
    """The element type of a tensor of integers."""
    element = element_type(value.type)
    assert isinstance(element, IntegerType)
    return cast(IntegerType, element)


def is_dynamic_slice(value: SSAValue) -> bool:
    """Whether XLA makes the value by a dynamic slice, as it does a gather with one index."""
    op = value.owner
    if not isinstance(op, Operation):
        return False
    if op.name == "stablehlo.gather":
        numbers: Any = op.properties["dimension_numbers"]
        batch = [
            size
            for dim, size in enumerate(shape_of(op.operands[1].type))
            if dim != numbers.index_vector_dim
        ]
        return prod(batch) == 1
    return op.name == "stablehlo.dynamic_slice"
