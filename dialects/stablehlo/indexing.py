"""Reading and writing at computed positions."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import SSAValue
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
from xdsl.traits import Pure, RecursiveMemoryEffect

from .attributes import GatherDimensionNumbers, ScatterDimensionNumbers
from .base import (
    AnyTensor,
    I64Array,
    StableHLOOp,
    check,
    check_dims,
    irdl_op_definition,
    shape_of,
)
from .shape import dims_attr, tensor_type


@irdl_op_definition
class DynamicSliceOp(StableHLOOp):
    """A window of slice_sizes at start_indices (clamped so that it fits)."""

    name = "stablehlo.dynamic_slice"

    operand = operand_def(AnyTensor)
    start_indices = var_operand_def(AnyTensor)
    slice_sizes = prop_def(I64Array)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, start: Sequence[SSAValue], sizes: Sequence[int]):
        super().__init__(
            operands=[operand, start],
            properties={"slice_sizes": dims_attr(sizes)},
            result_types=[tensor_type(operand.type, sizes)],
        )

    def verify_(self) -> None:
        rank = len(shape_of(self.operand.type))
        sizes = len(self.slice_sizes.get_values())
        check(
            len(self.start_indices) == sizes == rank,
            self,
            f"has {len(self.start_indices)} start indices and {sizes} sizes for "
            f"{self.operand.type}",
        )


@irdl_op_definition
class DynamicUpdateSliceOp(StableHLOOp):
    """The operand with a window at start_indices (clamped) replaced by the update."""

    name = "stablehlo.dynamic_update_slice"

    operand = operand_def(AnyTensor)
    update = operand_def(AnyTensor)
    start_indices = var_operand_def(AnyTensor)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def __init__(self, operand: SSAValue, update: SSAValue, start: Sequence[SSAValue]):
        super().__init__(operands=[operand, update, start], result_types=[operand.type])

    def verify_(self) -> None:
        rank = len(shape_of(self.operand.type))
        check(
            len(self.start_indices) == rank == len(shape_of(self.update.type)),
            self,
            f"has {len(self.start_indices)} start indices and the update {self.update.type} for "
            f"{self.operand.type}",
        )


@irdl_op_definition
class GatherOp(StableHLOOp):
    """Windows of the operand at positions that start_indices holds."""

    name = "stablehlo.gather"

    operand = operand_def(AnyTensor)
    start_indices = operand_def(AnyTensor)
    dimension_numbers = prop_def(GatherDimensionNumbers)
    slice_sizes = prop_def(I64Array)
    indices_are_sorted = opt_prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())

    def verify_(self) -> None:
        rank = len(shape_of(self.operand.type))
        numbers = self.dimension_numbers
        check(
            len(self.slice_sizes.get_values()) == rank,
            self,
            f"has {len(self.slice_sizes.get_values())} slice_sizes for {self.operand.type}",
        )
        check_dims(
            self,
            "collapsed_slice_dims and operand_batching_dims",
            numbers.collapsed_slice_dims + numbers.operand_batching_dims,
            rank,
        )
        check_dims(self, "offset_dims", numbers.offset_dims, len(shape_of(self.result.type)))
        check_dims(self, "start_index_map", numbers.start_index_map, rank)


@irdl_op_definition
class DynamicGatherOp(StableHLOOp):
    """gather whose slice sizes are an operand."""

    name = "stablehlo.dynamic_gather"

    operand = operand_def(AnyTensor)
    start_indices = operand_def(AnyTensor)
    slice_sizes = operand_def(AnyTensor)
    dimension_numbers = prop_def(GatherDimensionNumbers)
    indices_are_sorted = opt_prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


@irdl_op_definition
class ScatterOp(StableHLOOp):
    """The inputs with windows at scatter_indices combined with the updates by the region."""

    name = "stablehlo.scatter"

    inputs = var_operand_def(AnyTensor)
    scatter_indices = operand_def(AnyTensor)
    updates = var_operand_def(AnyTensor)
    scatter_dimension_numbers = prop_def(ScatterDimensionNumbers)
    indices_are_sorted = opt_prop_def(IntegerAttr)
    unique_indices = opt_prop_def(IntegerAttr)
    update_computation = region_def("single_block")
    results_ = var_result_def(AnyTensor)

    irdl_options = (SameVariadicOperandSize(),)
    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        inputs, updates = len(self.inputs), len(self.updates)
        check(
            inputs == updates == len(self.results_),
            self,
            f"has {inputs} inputs, {updates} updates and {len(self.results_)} results",
        )
        arguments = len(self.update_computation.block.args)
        check(
            arguments == 2 * inputs,
            self,
            f"has {inputs} inputs, but its region takes {arguments} arguments instead of "
            f"{2 * inputs}",
        )
        rank = len(shape_of(self.inputs[0].type)) if inputs else 0
        numbers = self.scatter_dimension_numbers
        check_dims(self, "inserted_window_dims", numbers.inserted_window_dims, rank)
        check_dims(self, "scatter_dims_to_operand_dims", numbers.scatter_dims_to_operand_dims, rank)


@irdl_op_definition
class TorchIndexSelectOp(StableHLOOp):
    """Rows of the operand by index (a deprecated form of gather)."""

    name = "stablehlo.torch_index_select"

    operand = operand_def(AnyTensor)
    index = operand_def(AnyTensor)
    dim = prop_def(IntegerAttr)
    batch_dims = prop_def(IntegerAttr)
    result = result_def(AnyTensor)

    traits = traits_def(Pure())


OPERATIONS = [
    DynamicSliceOp,
    DynamicUpdateSliceOp,
    GatherOp,
    DynamicGatherOp,
    ScatterOp,
    TorchIndexSelectOp,
]
