"""Operations whose region combines elements: reductions, windows, sort, map."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr
from xdsl.ir import Attribute, Region, SSAValue
from xdsl.irdl import (
    SameVariadicOperandSize,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import RecursiveMemoryEffect

from .base import (
    AnyTensor,
    I64Array,
    StableHLOOp,
    check,
    check_dims,
    compatible_shapes,
    irdl_op_definition,
    shape_of,
)
from .shape import dims_attr


def _check_reduction(op: ReduceOp | ReduceWindowOp) -> None:
    """As many initial values and results as inputs; a region of two scalars an input."""
    inputs = len(op.inputs)
    check(
        inputs == len(op.init_values) == len(op.results_),
        op,
        f"has {inputs} inputs, {len(op.init_values)} initial values and {len(op.results_)} results",
    )
    arguments = len(op.body.block.args)
    check(
        arguments == 2 * inputs,
        op,
        f"has {inputs} inputs, but its region takes {arguments} arguments instead of {2 * inputs}",
    )


@irdl_op_definition
class ReduceOp(StableHLOOp):
    """Combines the elements along some dimensions by the region, starting from init_values."""

    name = "stablehlo.reduce"

    inputs = var_operand_def(AnyTensor)
    init_values = var_operand_def(AnyTensor)
    dimensions = prop_def(I64Array)
    body = region_def("single_block")
    results_ = var_result_def(AnyTensor)

    irdl_options = (SameVariadicOperandSize(),)
    traits = traits_def(RecursiveMemoryEffect())

    def __init__(
        self,
        inputs: Sequence[SSAValue],
        init_values: Sequence[SSAValue],
        dimensions: Sequence[int],
        body: Region,
        result_types: Sequence[Attribute],
    ):
        super().__init__(
            operands=[inputs, init_values],
            properties={"dimensions": dims_attr(dimensions)},
            regions=[body],
            result_types=[result_types],
        )

    def verify_(self) -> None:
        _check_reduction(self)
        dims = [int(dim) for dim in self.dimensions.get_values()]
        for value, result in zip(self.inputs, self.results_, strict=True):
            shape = shape_of(value.type)
            check_dims(self, "dimensions", dims, len(shape))
            expected = [size for dim, size in enumerate(shape) if dim not in dims]
            check(
                compatible_shapes(expected, shape_of(result.type)),
                self,
                f"reduces {value.type} over dimensions {dims} to shape {expected}, but the "
                f"result is {result.type}",
            )


@irdl_op_definition
class ReduceWindowOp(StableHLOOp):
    """Combines the elements of each window by the region (pooling, cumulative sums)."""

    name = "stablehlo.reduce_window"

    inputs = var_operand_def(AnyTensor)
    init_values = var_operand_def(AnyTensor)
    window_dimensions = prop_def(I64Array)
    window_strides = opt_prop_def(I64Array)
    base_dilations = opt_prop_def(I64Array)
    window_dilations = opt_prop_def(I64Array)
    padding = opt_prop_def(Attribute)
    body = region_def("single_block")
    results_ = var_result_def(AnyTensor)

    irdl_options = (SameVariadicOperandSize(),)
    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        _check_reduction(self)
        rank = len(shape_of(self.inputs[0].type)) if self.inputs else 0
        for name in ("window_dimensions", "window_strides", "base_dilations", "window_dilations"):
            value = self.properties.get(name)
            if isinstance(value, DenseArrayBase):
                found = len(value.get_values())
                check(found == rank, self, f"has {found} {name} for an input of rank {rank}")


@irdl_op_definition
class SelectAndScatterOp(StableHLOOp):
    """Adds each source element where `select` points in its window (max-pool's gradient)."""

    name = "stablehlo.select_and_scatter"

    operand = operand_def(AnyTensor)
    source = operand_def(AnyTensor)
    init_value = operand_def(AnyTensor)
    window_dimensions = opt_prop_def(I64Array)
    window_strides = opt_prop_def(I64Array)
    padding = opt_prop_def(Attribute)
    select = region_def("single_block")
    scatter = region_def("single_block")
    result = result_def(AnyTensor)

    traits = traits_def(RecursiveMemoryEffect())


@irdl_op_definition
class SortOp(StableHLOOp):
    """Sorts the inputs together along a dimension by the comparator."""

    name = "stablehlo.sort"

    inputs = var_operand_def(AnyTensor)
    dimension = opt_prop_def(IntegerAttr)
    is_stable = opt_prop_def(IntegerAttr)
    comparator = region_def("single_block")
    results_ = var_result_def(AnyTensor)

    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        inputs, arguments = len(self.inputs), len(self.comparator.block.args)
        check(
            inputs == len(self.results_),
            self,
            f"has {inputs} inputs and {len(self.results_)} results",
        )
        check(
            arguments == 2 * inputs,
            self,
            f"has {inputs} inputs, but its comparator takes {arguments} arguments instead of "
            f"{2 * inputs}",
        )


@irdl_op_definition
class MapOp(StableHLOOp):
    """Applies the region to the elements of the inputs."""

    name = "stablehlo.map"

    inputs = var_operand_def(AnyTensor)
    dimensions = prop_def(I64Array)
    computation = region_def("single_block")
    result = result_def(AnyTensor)

    traits = traits_def(RecursiveMemoryEffect())


OPERATIONS = [ReduceOp, ReduceWindowOp, SelectAndScatterOp, SortOp, MapOp]
