"""The dialect `shard` as upstream MLIR (LLVM 22) has it, and `shard.permute`.

xDSL's classes are used where it has the op, with verifiers added; the ops that it lacks stand here.
mlir-opt (LLVM 22) reads what this prints and the other way round, but for `shard.permute`, which
upstream does not have. Semantics: https://mlir.llvm.org/docs/Dialects/Shard/

Grid axes are integers. The names of a grid's axes are the discardable attribute `axis_names`
of `shard.grid`; where they are absent the axes are called "0", "1", ….
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, ClassVar, TypeVar, cast

from xdsl.dialects import shard as xdsl_shard
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    ArrayAttr,
    BytesAttr,
    DenseArrayBase,
    FlatSymbolRefAttr,
    IndexType,
    IndexTypeConstr,
    IntegerAttr,
    MemRefType,
    ShapedType,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    UnitAttr,
    i16,
    i64,
)
from xdsl.dialects.shard import (
    CollectiveCommunicationOp,
    ReductionKind,
    ReductionKindAttr,
    ShardAxesArrayAttr,
    ShardAxesAttr,
    ShardingType,
)
from xdsl.dialects.utils import DynamicIndexList
from xdsl.ir import Attribute, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    VarConstraint,
    irdl_op_definition,
    irdl_to_attr_constraint,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.irdl.declarative_assembly_format import (
    AttributeVariable,
    CustomDirective,
    ParsingState,
    PrintingState,
    irdl_custom_directive,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from .sharding import Grid

__all__ = [
    "AllGatherOp",
    "AllReduceOp",
    "AllSliceOp",
    "AllToAllOp",
    "BroadcastOp",
    "CollectiveCommunicationOp",
    "GatherOp",
    "GetShardingOp",
    "GridOp",
    "GridShapeOp",
    "NeighborsLinearIndicesOp",
    "PermuteOp",
    "ProcessLinearIndexOp",
    "ProcessMultiIndexOp",
    "RecvOp",
    "ReduceOp",
    "ReduceScatterOp",
    "ReductionKind",
    "ReductionKindAttr",
    "ScatterOp",
    "SendOp",
    "Shard",
    "ShardAxesArrayAttr",
    "ShardAxesAttr",
    "ShardOp",
    "ShardShapeOp",
    "ShardingOp",
    "ShardingType",
    "ShiftOp",
    "UpdateHaloOp",
    "axes_attr",
    "find_grid",
    "grid_of",
    "grid_ops",
    "make_collective",
    "make_grid_op",
]

_NO_AXES = ShardAxesAttr(i16, BytesAttr(b""))
_TENSOR = irdl_to_attr_constraint(MemRefType.constr() | TensorType.constr())


def axes_attr(axes: Sequence[int]) -> ShardAxesAttr:
    """`grid_axes` from integers."""
    return DenseArrayBase.from_list(i16, axes)


################################################################################
# Grids                                                                        #
################################################################################


OpT = TypeVar("OpT", bound=IRDLOperation)


def _extends_xdsl(cls: type[OpT]) -> type[OpT]:
    """Finishes a subclass of one of xDSL's ops that adds methods only.

    xDSL's declarative formats look operands and results up in the class's own `__dict__`, so that
    inherited ones are not found; and a second irdl_op_definition refuses inherited fields.
    """
    base = cls.__mro__[1]
    for name, field in vars(base).items():
        if name not in vars(cls) and not name.startswith("_"):
            setattr(cls, name, field)
    return cls


def _strings(attr: Attribute | None) -> tuple[str, ...] | None:
    """The strings of a list of strings; None for anything else."""
    if not isa(attr, ArrayAttr[StringAttr]):
        return None
    return tuple(string.data for string in attr.data)


@_extends_xdsl
class GridOp(xdsl_shard.GridOp):
    """A named grid of devices: `shard.grid @mesh(shape = 2x4) {axis_names = ["data", "model"]}`.

    Discardable attributes that are read: `axis_names`, and `autopar.device_ids` (the order of
    devices that the program was written with; it never renumbers anything).
    Made by import-sdy or written by the user; gone after convert-shard-to-stablehlo.
    """

    def axis_names(self) -> tuple[str, ...]:
        names = _strings(self.attributes.get("axis_names"))
        return tuple(str(i) for i in range(len(self.shape))) if names is None else names

    def to_grid(self) -> Grid:
        """The grid as plain data."""
        ids = self.attributes.get("autopar.device_ids")
        return Grid(
            self.sym_name.data,
            tuple(zip(self.axis_names(), self.shape.get_values(), strict=True)),
            tuple(ids.get_values()) if isinstance(ids, DenseArrayBase) else None,  # pyright: ignore
        )

    def verify_(self) -> None:
        super().verify_()
        what = f"'{self.name}' op @{self.sym_name.data}"
        shape = self.shape.get_values()
        for axis, size in enumerate(shape):
            if size < 1 and size != -1 and size != DYNAMIC_INDEX:
                raise VerifyException(f"{what}: axis {axis} has size {size}, expected at least 1")
        found = self.attributes.get("axis_names")
        names = _strings(found)
        if names is None and found is not None:
            raise VerifyException(f"{what}: axis_names must be strings, found {found}")
        if names is not None:
            if len(names) != len(shape):
                raise VerifyException(
                    f"{what}: {len(names)} axis_names for {len(shape)} axes of the shape"
                )
            for name in names:
                if names.count(name) > 1:
                    raise VerifyException(f'{what}: axis name "{name}" is used twice')
        ids = self.attributes.get("autopar.device_ids")
        if isinstance(ids, DenseArrayBase):
            values: list[int] = list(ids.get_values())  # pyright: ignore
            if sorted(values) != list(range(prod(shape))):
                raise VerifyException(
                    f"{what}: autopar.device_ids must be a permutation of 0 to {prod(shape) - 1}, "
                    f"found {values}"
                )


def make_grid_op(grid: Grid) -> GridOp:
    """The `shard.grid` op of a grid."""
    op = GridOp(
        properties={
            "sym_name": StringAttr(grid.name),
            "shape": DenseArrayBase.from_list(i64, grid.shape),
        }
    )
    op.attributes["axis_names"] = ArrayAttr([StringAttr(name) for name in grid.axis_names])
    if grid.device_ids is not None:
        op.attributes["autopar.device_ids"] = DenseArrayBase.from_list(i64, grid.device_ids)
    return op


def grid_ops(op: Operation) -> Iterator[xdsl_shard.GridOp]:
    """The `shard.grid` ops that `op` sees, the nearest enclosing module's first."""
    scope: Operation | None = op
    while scope is not None:
        for region in scope.regions:
            block = region.first_block
            if block is not None and scope.name == "builtin.module":
                yield from (o for o in block.ops if isinstance(o, xdsl_shard.GridOp))
        scope = scope.parent_op()


def find_grid(op: Operation, name: str | None = None) -> Grid | None:
    """The grid called `name` (any, where None) that `op` sees; None where there is none."""
    for grid in grid_ops(op):
        if name is None or grid.sym_name.data == name:
            if not isinstance(grid, GridOp):
                grid = GridOp(properties=dict(grid.properties), attributes=dict(grid.attributes))
            return grid.to_grid()
    return None


def grid_of(op: Operation, name: str | None = None) -> Grid:
    """The grid that `op` (a module, or an op in it) sees. An error where there is none."""
    grid = find_grid(op, name)
    if grid is None:
        from .diagnostics import DiagnosticError

        called = "" if name is None else f" @{name}"
        raise DiagnosticError(
            op, f"'{op.name}' op needs a device grid, and the module declares no shard.grid{called}"
        )
    return grid


################################################################################
# Verification                                                                 #
################################################################################


def _grid(op: Operation, symbol: SymbolRefAttr) -> Grid:
    name = symbol.string_value()
    grid = find_grid(op, name)
    if grid is None:
        known = ", ".join(f"@{g.sym_name.data}" for g in grid_ops(op)) or "none"
        raise VerifyException(
            f"'{op.name}' op names grid @{name}, which is not declared (declared: {known})"
        )
    return grid


def _check_axes(op: Operation, grid: Grid, axes: Sequence[int], field: str) -> None:
    for axis in axes:
        if not 0 <= axis < len(grid.axes):
            named = ", ".join(f'{i}: "{n}"={s}' for i, (n, s) in enumerate(grid.axes))
            raise VerifyException(
                f"'{op.name}' op {field} = {list(axes)}: grid @{grid.name} has no axis {axis} "
                f"(its axes: {named})"
            )
        if list(axes).count(axis) > 1:
            raise VerifyException(
                f"'{op.name}' op {field} = {list(axes)}: grid axis {axis} "
                f'("{grid.axis_names[axis]}") is used twice'
            )


def _collective_axes(op: CollectiveCommunicationOp) -> tuple[Grid, tuple[int, ...]]:
    grid = _grid(op, op.grid)
    axes = op.grid_axes.get_values()
    _check_axes(op, grid, axes, "grid_axes")
    return grid, axes


def _check_collective(op: CollectiveCommunicationOp, **dims: tuple[int, int, int]) -> None:
    """Checks grid, axes, and the result's shape.

    `dims`: for each named tensor dimension (dim, m, d): with n devices in a group the result's size
    is the operand's times n**m divided by n**d.
    """
    grid, axes = _collective_axes(op)
    source, target = op.operands[0].type, op.results[0].type
    if not isinstance(source, ShapedType) or not isinstance(target, ShapedType):
        return
    group = prod(grid.shape[axis] for axis in axes)
    expected = list(source.get_shape())
    if len(expected) != target.get_num_dims():
        raise VerifyException(
            f"'{op.name}' op: operand {source} and result {target} differ in rank"
        )
    over = f"the {group} devices of grid axes {list(axes)} of @{grid.name} {grid.shape}"
    for field, (dim, times, divided) in dims.items():
        if not 0 <= dim < len(expected):
            raise VerifyException(
                f"'{op.name}' op {field} = {dim}: operand {source} has no such dimension"
            )
        if expected[dim] == -1 or group < 1:
            continue
        if divided and expected[dim] % group:
            raise VerifyException(
                f"'{op.name}' op {field} = {dim}: dimension of size {expected[dim]} of {source} is "
                f"not divisible by {over}; pad it first"
            )
        if times:
            expected[dim] *= group
        if divided:
            expected[dim] //= group
    for dim, (want, have) in enumerate(zip(expected, target.get_shape(), strict=True)):
        if want != have and -1 not in (want, have):
            raise VerifyException(
                f"'{op.name}' op: result dimension {dim} has size {have}, expected {want} from "
                f"operand {source} over {over}"
            )


def _check_root(op: CollectiveCommunicationOp, field: str, root: Sequence[int]) -> None:
    grid, axes = _collective_axes(op)
    if len(root) != len(axes):
        raise VerifyException(
            f"'{op.name}' op {field} = {list(root)}: expected {len(axes)} coordinates, one for "
            f"each of grid_axes = {list(axes)}"
        )
    for axis, index in zip(axes, root, strict=True):
        if index != DYNAMIC_INDEX and not 0 <= index < grid.shape[axis]:
            raise VerifyException(
                f"'{op.name}' op {field} = {list(root)}: coordinate {index} is out of range for "
                f"grid axis {axis} of size {grid.shape[axis]}"
            )


################################################################################
# Collectives that xDSL has: verifiers added                                   #
################################################################################


@_extends_xdsl
class AllReduceOp(xdsl_shard.AllReduceOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self)


@_extends_xdsl
class BroadcastOp(xdsl_shard.BroadcastOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self)
        _check_root(self, "root", self.root.get_values())


@_extends_xdsl
class GatherOp(xdsl_shard.GatherOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self, gather_axis=(self.gather_axis.value.data, 1, 0))
        _check_root(self, "root", self.root.get_values())


@_extends_xdsl
class ScatterOp(xdsl_shard.ScatterOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self, scatter_axis=(self.scatter_axis.value.data, 0, 1))
        _check_root(self, "root", self.root.get_values())


@_extends_xdsl
class RecvOp(xdsl_shard.RecvOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self)
        if self.source is not None:
            _check_root(self, "source", self.source.get_values())


@_extends_xdsl
class ReduceOp(xdsl_shard.ReduceOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self)
        _check_root(self, "root", self.root.get_values())


@_extends_xdsl
class SendOp(xdsl_shard.SendOp):
    def verify_(self) -> None:
        super().verify_()
        _check_collective(self)
        _check_root(self, "destination", self.destination.get_values())


@irdl_op_definition
class ShiftOp(CollectiveCommunicationOp):
    """Shift along one grid axis by `offset`; with `rotate` in a ring.

    Declared anew: in xDSL's class `rotate` is not optional, and a shift without it is refused.
    """

    name = "shard.shift"

    input = operand_def(TensorType)
    shift_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    offset = prop_def(IntegerAttr[I64])
    rotate = opt_prop_def(UnitAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `shift_axis` `=` $shift_axis "
        "`offset` `=` $offset (`rotate` $rotate^)? attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        _check_collective(self)
        axes = list(self.grid_axes.get_values())
        if self.shift_axis.value.data not in axes:
            raise VerifyException(
                f"'{self.name}' op shift_axis = {self.shift_axis.value.data} is not one of "
                f"grid_axes = {axes}"
            )


@_extends_xdsl
class ShardingOp(xdsl_shard.ShardingOp):
    """A sharding as a value. The discardable attribute `autopar.partial = "sum[1]"` says over
    which grid axes a value that has it is a partial result."""

    def verify_(self) -> None:
        super().verify_()
        grid = _grid(self, self.grid)
        axes = [a for dim in self.split_axes.axes.data for a in dim.get_values()]
        _check_axes(self, grid, axes, "split_axes")


@_extends_xdsl
class ShardOp(xdsl_shard.ShardOp):
    def verify_(self) -> None:
        super().verify_()
        sharding, type = self.sharding.owner, self.src.type
        if isinstance(sharding, xdsl_shard.ShardingOp) and isinstance(type, ShapedType):
            dims = len(sharding.split_axes.axes.data)
            if dims > type.get_num_dims():
                raise VerifyException(
                    f"'{self.name}' op: split_axes names {dims} dimensions, the tensor {type} has "
                    f"{type.get_num_dims()}"
                )


################################################################################
# Collectives that xDSL lacks                                                  #
################################################################################


@irdl_op_definition
class AllGatherOp(CollectiveCommunicationOp):
    """Each device gets the parts of all devices of its group, concatenated along gather_axis."""

    name = "shard.all_gather"

    input = operand_def(_TENSOR)
    gather_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(_TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `gather_axis` `=` $gather_axis "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        _check_collective(self, gather_axis=(self.gather_axis.value.data, 1, 0))


@irdl_op_definition
class AllSliceOp(CollectiveCommunicationOp):
    """Each device keeps its own part along slice_axis: the inverse of all_gather, no traffic."""

    name = "shard.all_slice"

    input = operand_def(_TENSOR)
    slice_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(_TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `slice_axis` `=` $slice_axis "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        _check_collective(self, slice_axis=(self.slice_axis.value.data, 0, 1))


@irdl_op_definition
class AllToAllOp(CollectiveCommunicationOp):
    """Splits along split_axis, sends part i to device i of the group, concatenates along
    concat_axis."""

    name = "shard.all_to_all"

    input = operand_def(_TENSOR)
    split_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    concat_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(_TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `split_axis` `=` $split_axis "
        "`concat_axis` `=` $concat_axis attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        _check_collective(
            self,
            split_axis=(self.split_axis.value.data, 0, 1),
            concat_axis=(self.concat_axis.value.data, 1, 0),
        )


@irdl_op_definition
class ReduceScatterOp(CollectiveCommunicationOp):
    """Reduces over the group; device i keeps part i of the result along scatter_axis."""

    name = "shard.reduce_scatter"

    input = operand_def(_TENSOR)
    reduction = prop_def(ReductionKindAttr, default_value=ReductionKindAttr(ReductionKind.SUM))
    scatter_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(_TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? (`reduction` `=` $reduction^)? "
        "`scatter_axis` `=` $scatter_axis attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        _check_collective(self, scatter_axis=(self.scatter_axis.value.data, 0, 1))


@irdl_custom_directive
class PairList(CustomDirective):
    """`[[0, 1], [1, 0]]` for a flat dense array."""

    pairs: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> Any:
        def pair() -> list[int]:
            values = parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, lambda: parser.parse_integer(allow_boolean=False)
            )
            if len(values) != 2:
                parser.raise_error(f"expected a [source, target] pair, found {values}")
            return values

        pairs = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, pair)
        flat = [value for pair in pairs for value in pair]
        self.pairs.set(state, DenseArrayBase.from_list(i64, flat))
        return True

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        state.print_whitespace(printer)
        attr = self.pairs.get(op)
        assert isinstance(attr, DenseArrayBase)
        flat: Sequence[int] = attr.get_values()  # pyright: ignore
        pairs = ", ".join(f"[{s}, {t}]" for s, t in zip(flat[::2], flat[1::2], strict=True))
        printer.print_string(f"[{pairs}]")
        state.last_was_punctuation = False
        state.should_emit_space = True


@irdl_op_definition
class PermuteOp(CollectiveCommunicationOp):
    """Sends each device's tensor to another device of its group.

    `pairs` are [source, target], row-major indices over `grid_axes`; each at most once as source
    and once as target. A device that is no target gets zeros. Not in upstream.
    """

    name = "shard.permute"

    input = operand_def(_TENSOR)
    pairs = prop_def(DenseArrayBase[I64])
    result = result_def(_TENSOR)

    traits = traits_def(Pure())
    custom_directives = (PairList,)
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `pairs` `=` custom<PairList>($pairs) "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def source_target_pairs(self) -> list[tuple[int, int]]:
        flat = self.pairs.get_values()
        return list(zip(flat[::2], flat[1::2], strict=True))

    def verify_(self) -> None:
        _check_collective(self)
        grid, axes = _collective_axes(self)
        flat = self.pairs.get_values()
        group = prod(grid.shape[axis] for axis in axes)
        if len(flat) % 2:
            raise VerifyException(f"'{self.name}' op pairs: expected an even number of indices")
        for role, indices in (("source", flat[::2]), ("target", flat[1::2])):
            for index in indices:
                if not 0 <= index < group:
                    raise VerifyException(
                        f"'{self.name}' op pairs: {role} {index} is out of range for groups of "
                        f"{group} devices (grid axes {list(axes)} of @{grid.name} {grid.shape})"
                    )
                if list(indices).count(index) > 1:
                    raise VerifyException(
                        f"'{self.name}' op pairs: {index} stands twice as a {role}"
                    )


@irdl_op_definition
class UpdateHaloOp(IRDLOperation):
    """Fills the halo regions of sharded dimensions from the neighbours."""

    name = "shard.update_halo"

    T: ClassVar = VarConstraint("T", _TENSOR)

    destination = operand_def(T)
    halo_sizes = var_operand_def(I64)
    grid = prop_def(FlatSymbolRefAttr)
    split_axes = prop_def(ShardAxesArrayAttr)
    static_halo_sizes = prop_def(
        DenseArrayBase[I64], default_value=DenseArrayBase[I64](i64, BytesAttr(b""))
    )
    result = result_def(T)

    traits = traits_def(Pure())
    custom_directives = (DynamicIndexList,)
    assembly_format = (
        "$destination `on` $grid `split_axes` `=` $split_axes "
        "(`halo_sizes` `=` custom<DynamicIndexList>($halo_sizes, $static_halo_sizes)^)? "
        "attr-dict `:` type($result)"
    )

    def verify_(self) -> None:
        grid = _grid(self, self.grid)
        axes = [a for dim in self.split_axes.axes.data for a in dim.get_values()]
        _check_axes(self, grid, axes, "split_axes")


################################################################################
# Questions about grids and shardings                                          #
################################################################################


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
    axes = prop_def(ShardAxesAttr, default_value=_NO_AXES)
    result = var_result_def(IndexType)

    traits = traits_def(Pure())

    def __init__(self, grid: str, axes: Sequence[int] = (), rank: int = 0):
        super().__init__(
            properties={"grid": SymbolRefAttr(grid), "axes": axes_attr(axes)},
            result_types=[[IndexType()] * (len(axes) or rank)],
        )

    def verify_(self) -> None:
        grid = _grid(self, self.grid)
        axes = self.axes.get_values()
        _check_axes(self, grid, axes, "axes")
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
        _grid(self, self.grid)


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
        grid = _grid(self, self.grid)
        _check_axes(self, grid, self.split_axes.get_values(), "split_axes")
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


def make_collective(
    kind: type[CollectiveCommunicationOp],
    value: SSAValue,
    grid: str,
    axes: Sequence[int],
    shape: Sequence[int] | None = None,
    *,
    reduction: str | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
    offset: int | None = None,
    rotate: bool = False,
    **dims: int,
) -> CollectiveCommunicationOp:
    """Builds a collective: `make_collective(AllGatherOp, x, "mesh", [1], shape, gather_axis=0)`.

    `shape` is the result's shape (None: the operand's); `dims` the op's dimension properties.
    """
    type = cast(TensorType[Attribute], value.type)
    properties: dict[str, Attribute] = {
        "grid": SymbolRefAttr(grid),
        "grid_axes": axes_attr(axes),
        **{name: IntegerAttr(dim, IndexType()) for name, dim in dims.items()},
    }
    if reduction is not None:
        properties["reduction"] = ReductionKindAttr(ReductionKind(reduction))
    if pairs is not None:
        properties["pairs"] = DenseArrayBase.from_list(i64, [i for pair in pairs for i in pair])
    if offset is not None:
        properties["offset"] = IntegerAttr(offset, i64)
    if rotate:
        properties["rotate"] = UnitAttr()
    result = type if shape is None else TensorType(type.element_type, shape, type.encoding)
    return kind.create(operands=[value], result_types=[result], properties=properties)


Shard = Dialect(
    "shard",
    [
        AllGatherOp,
        AllReduceOp,
        AllSliceOp,
        AllToAllOp,
        BroadcastOp,
        GatherOp,
        GetShardingOp,
        GridOp,
        GridShapeOp,
        NeighborsLinearIndicesOp,
        PermuteOp,
        ProcessLinearIndexOp,
        ProcessMultiIndexOp,
        RecvOp,
        ReduceOp,
        ReduceScatterOp,
        ScatterOp,
        SendOp,
        ShardOp,
        ShardShapeOp,
        ShardingOp,
        ShiftOp,
        UpdateHaloOp,
    ],
    [ReductionKindAttr, ShardAxesArrayAttr, ShardingType],
)
