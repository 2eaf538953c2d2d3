"""Shardings of tensors as values, and questions about grids and devices."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import shard as xdsl_shard
from xdsl.dialects.builtin import (
    I64,
    BytesAttr,
    DenseArrayBase,
    FlatSymbolRefAttr,
    IndexType,
    ShapedType,
    SymbolRefAttr,
    TensorType,
    i16,
)
from xdsl.dialects.shard import (
    ShardAxesArrayAttr,
    ShardAxesAttr,
    ShardingType,
)
from xdsl.dialects.utils import DynamicIndexList
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from .grids import axes_attr, extends_xdsl
from .verify import check_axes, declared_grid

NO_AXES = ShardAxesAttr(i16, BytesAttr(b""))


def named_dims(split_axes: ShardAxesArrayAttr) -> list[tuple[int, ...]]:
    """The grid axes of each dimension, up to the last one that has any.

    Upstream writes `[[]]` for a tensor of rank 0 (it has no empty list), and takes more after it.
    """
    dims = [tuple(dim.get_values()) for dim in split_axes.axes.data]
    while dims and not dims[-1]:
        dims.pop()
    return dims


@extends_xdsl
class ShardingOp(xdsl_shard.ShardingOp):
    """A sharding as a value. The discardable attribute `autopar.partial = "sum[1]"` says over
    which grid axes a value that has it is a partial result."""

    def verify_(self) -> None:
        super().verify_()
        grid = declared_grid(self, self.grid)
        axes = [a for dim in self.split_axes.axes.data for a in dim.get_values()]
        check_axes(self, grid, axes, "split_axes")


@extends_xdsl
class ShardOp(xdsl_shard.ShardOp):
    """How a value is to lie on the grid; with `annotate_for_users`, how its users are to see it.

    The op form of a sharding: shard-ops-to-attributes turns it into an attribute or a constraint.
    """

    def verify_(self) -> None:
        super().verify_()
        sharding, type = self.sharding.owner, self.src.type
        if isinstance(sharding, xdsl_shard.ShardingOp) and isinstance(type, ShapedType):
            dims = len(named_dims(sharding.split_axes))
            if dims > type.get_num_dims():
                raise VerifyException(
                    f"'{self.name}' op: split_axes names {dims} dimensions, the tensor {type} has "
                    f"{type.get_num_dims()}"
                )


@irdl_op_definition
class GetShardingOp(IRDLOperation):
    """The sharding of a tensor, as a value."""

    name = "shard.get_sharding"

    source = operand_def(TensorType)
    result = result_def(ShardingType)

    traits = traits_def(Pure())
    assembly_format = "$source attr-dict `:` type($source) `->` type($result)"


class _IndicesOp(IRDLOperation):
    """Base of the ops that give one index for each of `axes` (all axes where empty)."""

    grid = prop_def(FlatSymbolRefAttr)
    axes = prop_def(ShardAxesAttr, default_value=NO_AXES)
    result = var_result_def(IndexType)

    traits = traits_def(Pure())

    def __init__(self, grid: str, axes: Sequence[int] = (), rank: int = 0):
        super().__init__(
            properties={"grid": SymbolRefAttr(grid), "axes": axes_attr(axes)},
            result_types=[[IndexType()] * (len(axes) or rank)],
        )

    def verify_(self) -> None:
        grid = declared_grid(self, self.grid)
        axes = self.axes.get_values()
        check_axes(self, grid, axes, "axes")
        expected = len(axes) or len(grid.axes)
        if len(self.result) != expected:
            raise VerifyException(
                f"'{self.name}' op has {len(self.result)} results, expected {expected}, one for "
                f"each of the grid axes {list(axes) or list(range(expected))}"
            )


@irdl_op_definition
class ProcessMultiIndexOp(_IndicesOp):
    """The coordinates of this device along grid axes."""

    name = "shard.process_multi_index"
    assembly_format = "`on` $grid (`axes` `=` $axes^)? attr-dict `:` type($result)"


@irdl_op_definition
class GridShapeOp(_IndicesOp):
    """The sizes of grid axes."""

    name = "shard.grid_shape"
    assembly_format = "$grid (`axes` `=` $axes^)? attr-dict `:` type($result)"


@irdl_op_definition
class ProcessLinearIndexOp(IRDLOperation):
    """The row-major index of this device in the grid."""

    name = "shard.process_linear_index"

    grid = prop_def(FlatSymbolRefAttr)
    result = result_def(IndexType)

    traits = traits_def(Pure())
    assembly_format = "`on` $grid attr-dict `:` type($result)"

    def __init__(self, grid: str):
        super().__init__(properties={"grid": SymbolRefAttr(grid)}, result_types=[IndexType()])

    def verify_(self) -> None:
        declared_grid(self, self.grid)


@irdl_op_definition
class NeighborsLinearIndicesOp(IRDLOperation):
    """The linear indices of the two neighbours of a device along split_axes (-1: none)."""

    name = "shard.neighbors_linear_indices"

    grid = prop_def(FlatSymbolRefAttr)
    device = var_operand_def(IndexType)
    split_axes = prop_def(ShardAxesAttr)
    neighbor_down = result_def(IndexType)
    neighbor_up = result_def(IndexType)

    traits = traits_def(Pure())
    assembly_format = (
        "`on` $grid `[` $device `]` `split_axes` `=` $split_axes attr-dict `:` "
        "type($neighbor_down) `,` type($neighbor_up)"
    )

    def verify_(self) -> None:
        grid = declared_grid(self, self.grid)
        check_axes(self, grid, self.split_axes.get_values(), "split_axes")
        if len(self.device) != len(grid.axes):
            raise VerifyException(
                f"'{self.name}' op: {len(self.device)} device coordinates, expected "
                f"{len(grid.axes)}, one for each axis of @{grid.name}"
            )


@irdl_op_definition
class ShardShapeOp(IRDLOperation):
    """The local shape that a device has of a tensor of shape `dims` under a sharding."""

    name = "shard.shard_shape"

    dims_dynamic = var_operand_def(IndexType)
    sharding = operand_def(ShardingType)
    device_dynamic = var_operand_def(IndexType)
    dims = prop_def(DenseArrayBase[I64])
    device = prop_def(DenseArrayBase[I64])
    result = var_result_def(IndexType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())
    custom_directives = (DynamicIndexList,)
    assembly_format = (
        "`dims` `=` custom<DynamicIndexList>($dims_dynamic, $dims) `sharding` `=` $sharding "
        "`device` `=` custom<DynamicIndexList>($device_dynamic, $device) attr-dict "
        "`:` type($result)"
    )

    def verify_(self) -> None:
        if len(self.result) != len(self.dims):
            raise VerifyException(
                f"'{self.name}' op has {len(self.result)} results, expected {len(self.dims)}, "
                "one for each of dims"
            )
