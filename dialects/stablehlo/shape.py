"""Operations that build, move and re-arrange elements without computing on them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_prop_def, prop_def, result_def, traits_def, var_operand_def
from xdsl.traits import ConstantLike, Pure

from .base import (
    AnyTensor,
    I64Array,
    StableHLOOp,
    check,
    check_dims,
    compatible_shapes,
    element_type,
    irdl_op_definition,
    shape_of,
)


def dims_attr(values: Sequence[int]) -> DenseArrayBase:
    """`array<i64: …>`."""
    return DenseArrayBase.from_list(i64, values)


def tensor_type(like: Attribute, shape: Sequence[int]) -> TensorType[Attribute]:
    """A tensor type of another shape."""
    return TensorType(element_type(like), shape)


@irdl_op_definition
class ConstantOp(StableHLOOp):
    """A constant; see `constants.make_constant` for building one from a NumPy array."""

    name = "stablehlo.constant"

    value = prop_def(Attribute)
    output = result_def(AnyTensor)

    traits = traits_def(Pure(), ConstantLike())

    def __init__(self, value: DenseIntOrFPElementsAttr):
        super().__init__(properties={"value": value}, result_types=[value.type])

    def verify_(self) -> None:
        value: Attribute = self.value
        if isinstance(value, DenseIntOrFPElementsAttr):
            type_ = cast(DenseIntOrFPElementsAttr, value).type
            check(
                type_ == self.output.type,
                self,
                f"holds a value of type {type_}, but its result is {self.output.type}",
            )


@irdl_op_definition
class IotaOp(StableHLOOp):
    """Counts from 0 along one dimension."""

    name = "stablehlo.iota"

    iota_dimension = prop_def(IntegerAttr)
    output = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, dimension: int, result_type: Attribute):
        super().__init__(
            properties={"iota_dimension": IntegerAttr(dimension, i64)}, result_types=[result_type]
        )

    def verify_(self) -> None:
        shape = shape_of(self.output.type)
        check_dims(self, "iota_dimension", [self.iota_dimension.value.data], len(shape))


@irdl_op_definition
class DynamicIotaOp(StableHLOOp):
    """iota whose shape is an operand."""

    name = "stablehlo.dynamic_iota"

    output_shape = operand_def(AnyTensor)
    iota_dimension = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ReshapeOp(StableHLOOp):
    """The same elements in row-major order with another shape."""

    name = "stablehlo.reshape"

    operand = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, shape: Sequence[int]):
        super().__init__(operands=[operand], result_types=[tensor_type(operand.type, shape)])

    def verify_(self) -> None:
        before, after = shape_of(self.operand.type), shape_of(self.result.type)
        if DYNAMIC_INDEX not in (*before, *after):
            check(
                prod(before) == prod(after),
                self,
                f"must keep the number of elements: the operand {self.operand.type} has "
                f"{prod(before)}, the result {self.result.type} has {prod(after)}",
            )


@irdl_op_definition
class DynamicReshapeOp(StableHLOOp):
    """reshape whose shape is an operand."""

    name = "stablehlo.dynamic_reshape"

    operand = operand_def(AnyTensor)
    output_shape = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class BitcastConvertOp(StableHLOOp):
    """The same bits as another element type; the minor dimension holds a change of width."""

    name = "stablehlo.bitcast_convert"

    operand = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, result_type: Attribute):
        super().__init__(operands=[operand], result_types=[result_type])


@irdl_op_definition
class TransposeOp(StableHLOOp):
    """Result dimension i is operand dimension permutation[i]."""

    name = "stablehlo.transpose"

    operand = operand_def(AnyTensor)
    permutation = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, permutation: Sequence[int]):
        shape = shape_of(operand.type)
        super().__init__(
            operands=[operand],
            properties={"permutation": dims_attr(permutation)},
            result_types=[tensor_type(operand.type, [shape[dim] for dim in permutation])],
        )

    def verify_(self) -> None:
        shape = shape_of(self.operand.type)
        permutation = [int(dim) for dim in self.permutation.get_values()]
        check(
            sorted(permutation) == list(range(len(shape))),
            self,
            f"needs a permutation of 0 to {len(shape) - 1}, found {permutation}",
        )
        expected = [shape[dim] for dim in permutation]
        check(
            compatible_shapes(expected, shape_of(self.result.type)),
            self,
            f"turns {self.operand.type} into shape {expected}, but the result is "
            f"{self.result.type}",
        )


@irdl_op_definition
class BroadcastInDimOp(StableHLOOp):
    """Operand dimension i becomes result dimension broadcast_dimensions[i]; size 1 is repeated."""

    name = "stablehlo.broadcast_in_dim"

    operand = operand_def(AnyTensor)
    broadcast_dimensions = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, shape: Sequence[int], dimensions: Sequence[int]):
        super().__init__(
            operands=[operand],
            properties={"broadcast_dimensions": dims_attr(dimensions)},
            result_types=[tensor_type(operand.type, shape)],
        )

    def verify_(self) -> None:
        before, after = shape_of(self.operand.type), shape_of(self.result.type)
        dims = [int(dim) for dim in self.broadcast_dimensions.get_values()]
        check(
            len(dims) == len(before),
            self,
            f"has {len(dims)} broadcast_dimensions for an operand of rank {len(before)}",
        )
        check_dims(self, "broadcast_dimensions", dims, len(after))
        for i, dim in enumerate(dims):
            check(
                before[i] in (1, DYNAMIC_INDEX, after[dim]) or after[dim] == DYNAMIC_INDEX,
                self,
                f"cannot repeat dimension {i} of the operand (size {before[i]}) into dimension "
                f"{dim} of the result (size {after[dim]})",
            )


@irdl_op_definition
class BroadcastOp(StableHLOOp):
    """New major dimensions of these sizes (deprecated form of broadcast_in_dim)."""

    name = "stablehlo.broadcast"

    operand = operand_def(AnyTensor)
    broadcast_sizes = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class DynamicBroadcastInDimOp(StableHLOOp):
    """broadcast_in_dim whose shape is an operand."""

    name = "stablehlo.dynamic_broadcast_in_dim"

    operand = operand_def(AnyTensor)
    output_dimensions = operand_def(AnyTensor)
    broadcast_dimensions = prop_def(I64Array)
    known_expanding_dimensions = opt_prop_def(I64Array)
    known_nonexpanding_dimensions = opt_prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class SliceOp(StableHLOOp):
    """Elements start, start + stride … below limit of each dimension."""

    name = "stablehlo.slice"

    operand = operand_def(AnyTensor)
    start_indices = prop_def(I64Array)
    limit_indices = prop_def(I64Array)
    strides = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(
        self,
        operand: SSAValue,
        start: Sequence[int],
        limit: Sequence[int],
        strides: Sequence[int] | None = None,
    ):
        strides = strides or [1] * len(start)
        shape = [-(-(b - a) // s) for a, b, s in zip(start, limit, strides, strict=True)]
        super().__init__(
            operands=[operand],
            properties={
                "start_indices": dims_attr(start),
                "limit_indices": dims_attr(limit),
                "strides": dims_attr(strides),
            },
            result_types=[tensor_type(operand.type, shape)],
        )

    def verify_(self) -> None:
        before, after = shape_of(self.operand.type), shape_of(self.result.type)
        start = [int(x) for x in self.start_indices.get_values()]
        limit = [int(x) for x in self.limit_indices.get_values()]
        strides = [int(x) for x in self.strides.get_values()]
        check(
            len(start) == len(limit) == len(strides) == len(before) == len(after),
            self,
            f"has {len(start)} starts, {len(limit)} limits and {len(strides)} strides for "
            f"{self.operand.type} and {self.result.type}",
        )
        for dim, size in enumerate(before):
            bounds = f"[{start[dim]}:{limit[dim]}:{strides[dim]}]"
            check(
                strides[dim] > 0
                and 0 <= start[dim] <= limit[dim]
                and (size == DYNAMIC_INDEX or limit[dim] <= size),
                self,
                f"takes {bounds} of dimension {dim}, which has size {size}",
            )
            expected = -(-(limit[dim] - start[dim]) // strides[dim])
            check(
                after[dim] in (DYNAMIC_INDEX, expected),
                self,
                f"takes {bounds} of dimension {dim}, {expected} elements, but the result has "
                f"{after[dim]}",
            )


@irdl_op_definition
class RealDynamicSliceOp(StableHLOOp):
    """slice whose bounds are operands."""

    name = "stablehlo.real_dynamic_slice"

    operand = operand_def(AnyTensor)
    start_indices = operand_def(AnyTensor)
    limit_indices = operand_def(AnyTensor)
    strides = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ConcatenateOp(StableHLOOp):
    """The inputs one after another along a dimension."""

    name = "stablehlo.concatenate"

    inputs = var_operand_def(AnyTensor)
    dimension = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, inputs: Sequence[SSAValue], dimension: int):
        shape = list(shape_of(inputs[0].type))
        shape[dimension] = sum(shape_of(x.type)[dimension] for x in inputs)
        super().__init__(
            operands=[inputs],
            properties={"dimension": IntegerAttr(dimension, i64)},
            result_types=[tensor_type(inputs[0].type, shape)],
        )

    def verify_(self) -> None:
        after = shape_of(self.result.type)
        dim = self.dimension.value.data
        check_dims(self, "dimension", [dim], len(after))
        for index, value in enumerate(self.inputs):
            shape = shape_of(value.type)
            check(
                len(shape) == len(after)
                and compatible_shapes(
                    [*shape[:dim], *shape[dim + 1 :]], [*after[:dim], *after[dim + 1 :]]
                ),
                self,
                f"joins along dimension {dim}, but input {index} is {value.type} and the result "
                f"is {self.result.type}",
            )
        sizes = [shape_of(value.type)[dim] for value in self.inputs]
        check(
            DYNAMIC_INDEX in sizes or after[dim] in (DYNAMIC_INDEX, sum(sizes)),
            self,
            f"joins sizes {sizes} along dimension {dim}, but the result has {after[dim]}",
        )


@irdl_op_definition
class PadOp(StableHLOOp):
    """Padding at both ends of each dimension (negative: cropping) and between elements."""

    name = "stablehlo.pad"

    operand = operand_def(AnyTensor)
    padding_value = operand_def(AnyTensor)
    edge_padding_low = prop_def(I64Array)
    edge_padding_high = prop_def(I64Array)
    interior_padding = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(
        self,
        operand: SSAValue,
        padding_value: SSAValue,
        low: Sequence[int],
        high: Sequence[int],
        interior: Sequence[int] | None = None,
    ):
        before = shape_of(operand.type)
        interior = interior or [0] * len(before)
        shape = [
            size + lo + hi + max(size - 1, 0) * gap
            for size, lo, hi, gap in zip(before, low, high, interior, strict=True)
        ]
        super().__init__(
            operands=[operand, padding_value],
            properties={
                "edge_padding_low": dims_attr(low),
                "edge_padding_high": dims_attr(high),
                "interior_padding": dims_attr(interior),
            },
            result_types=[tensor_type(operand.type, shape)],
        )

    def verify_(self) -> None:
        before, after = shape_of(self.operand.type), shape_of(self.result.type)
        low = [int(x) for x in self.edge_padding_low.get_values()]
        high = [int(x) for x in self.edge_padding_high.get_values()]
        gaps = [int(x) for x in self.interior_padding.get_values()]
        check(
            len(low) == len(high) == len(gaps) == len(before) == len(after),
            self,
            f"has {len(low)} low, {len(high)} high and {len(gaps)} interior paddings for "
            f"{self.operand.type} and {self.result.type}",
        )
        for dim, size in enumerate(before):
            expected = size + low[dim] + high[dim] + max(size - 1, 0) * gaps[dim]
            check(
                size == DYNAMIC_INDEX or after[dim] in (DYNAMIC_INDEX, expected),
                self,
                f"makes dimension {dim} of size {size} into {expected}, but the result has "
                f"{after[dim]}",
            )


@irdl_op_definition
class DynamicPadOp(StableHLOOp):
    """pad whose amounts are operands."""

    name = "stablehlo.dynamic_pad"

    operand = operand_def(AnyTensor)
    padding_value = operand_def(AnyTensor)
    edge_padding_low = operand_def(AnyTensor)
    edge_padding_high = operand_def(AnyTensor)
    interior_padding = operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ReverseOp(StableHLOOp):
    """The elements in reverse order along some dimensions."""

    name = "stablehlo.reverse"

    operand = operand_def(AnyTensor)
    dimensions = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def verify_(self) -> None:
        rank = len(shape_of(self.operand.type))
        check_dims(self, "dimensions", [int(d) for d in self.dimensions.get_values()], rank)


@irdl_op_definition
class GetDimensionSizeOp(StableHLOOp):
    """The size of a dimension as an i32."""

    name = "stablehlo.get_dimension_size"

    operand = operand_def(AnyTensor)
    dimension = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class SetDimensionSizeOp(StableHLOOp):
    """Declares how much of a bounded dimension is valid."""

    name = "stablehlo.set_dimension_size"

    operand = operand_def(AnyTensor)
    size = operand_def(AnyTensor)
    dimension = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


OPERATIONS = [
    ConstantOp,
    IotaOp,
    DynamicIotaOp,
    ReshapeOp,
    DynamicReshapeOp,
    BitcastConvertOp,
    TransposeOp,
    BroadcastInDimOp,
    BroadcastOp,
    DynamicBroadcastInDimOp,
    SliceOp,
    RealDynamicSliceOp,
    ConcatenateOp,
    PadOp,
    DynamicPadOp,
    ReverseOp,
    GetDimensionSizeOp,
    SetDimensionSizeOp,
]
