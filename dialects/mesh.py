"""The dialect `mesh`: MLIR's older spelling of `shard` (LLVM 17 to 20).

It is read, verified and converted (`convert-mesh-to-shard`); no other pass knows it. What it had
beyond shard: a sharding is an attribute, and may say over which axes the value is partial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    FlatSymbolRefAttr,
    IndexType,
    IndexTypeConstr,
    IntegerAttr,
    SymbolNameConstraint,
    SymbolRefAttr,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.shard import ReductionKind, ShardAxesAttr
from xdsl.dialects.utils import DimensionList, DynamicIndexList
from xdsl.ir import Data, Dialect, Operation, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import (
    IRDLOperation,
    VarConstraint,
    irdl_attr_definition,
    irdl_op_definition,
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
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import Pure, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from .shard import axes_attr
from .sharding_syntax import parse_integers, parse_list, symbol

# ---- Attributes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeshSharding:
    """`@mesh, [[0], [], [1]], partial = sum[2]`: axes of each dimension, partial axes."""

    mesh: str
    split_axes: tuple[tuple[int, ...], ...]
    partial_kind: str = ""
    partial_axes: tuple[int, ...] = ()

    def __str__(self) -> str:
        dims = ", ".join(f"[{', '.join(map(str, dim))}]" for dim in self.split_axes)
        text = f"{symbol(self.mesh)}, [{dims}]"
        if self.partial_axes:
            text += f", partial = {self.partial_kind}[{', '.join(map(str, self.partial_axes))}]"
        return text


@irdl_attr_definition
class MeshShardingAttr(Data[MeshSharding]):
    """`#mesh.shard<@mesh, [[0], [], [1]], partial = sum[2]>`."""

    name = "mesh.shard"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> MeshSharding:
        kind: str = ""
        axes: tuple[int, ...] = ()
        with parser.in_angle_brackets():
            mesh = parser.parse_symbol_name().data
            parser.parse_punctuation(",")
            dims = parse_list(parser, parse_integers)
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("partial")
                parser.parse_punctuation("=")
                kind = str(parser.parse_str_enum(ReductionKind))
                axes = parse_integers(parser)
        return MeshSharding(mesh, dims, kind, axes)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")


@irdl_attr_definition
class PartialAttr(Data[ReductionKind], SpacedOpaqueSyntaxAttribute):
    """`#mesh<partial max>`."""

    name = "mesh.partial"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> ReductionKind:
        return parser.parse_str_enum(ReductionKind)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(str(self.data))


@irdl_custom_directive
class Reduction(CustomDirective):
    """`<max>` (LLVM 17 to 19) or `max`."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> Any:
        bracket = parser.parse_optional_punctuation("<")
        self.value.set(state, PartialAttr(parser.parse_str_enum(ReductionKind)))
        if bracket is not None:
            parser.parse_punctuation(">")
        return True

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        attr = self.value.get(op)
        assert isinstance(attr, PartialAttr)
        state.print_whitespace(printer)
        printer.print_string(f"<{attr.data}>")
        state.last_was_punctuation = False
        state.should_emit_space = True

    def is_present(self, op: IRDLOperation) -> bool:
        attr = self.value.get(op)
        return isinstance(attr, PartialAttr) and attr.data is not ReductionKind.SUM

    def is_anchorable(self) -> bool:
        return True

    def set_empty(self, state: ParsingState) -> None:
        self.value.set(state, PartialAttr(ReductionKind.SUM))


# ---- Operations ----------------------------------------------------------------------------------


@irdl_op_definition
class MeshOp(IRDLOperation):
    """`mesh.mesh @mesh_2d(shape = 4x8)`."""

    name = "mesh.mesh"

    sym_name = prop_def(SymbolNameConstraint())
    shape = prop_def(DenseArrayBase[I64])

    traits = traits_def(SymbolOpInterface(), Pure())
    custom_directives = (DimensionList,)
    assembly_format = "$sym_name `(` `shape` `=` custom<DimensionList>($shape) `)` attr-dict"

    def verify_(self) -> None:
        if not self.shape.get_values():
            raise VerifyException(f"'mesh.mesh' op @{self.sym_name.data} has no axes")
        for axis, size in enumerate(self.shape.get_values()):
            if size < 1:
                raise VerifyException(
                    f"'mesh.mesh' op @{self.sym_name.data}: axis {axis} has size {size}, expected "
                    "at least 1"
                )


def _mesh(op: Operation, reference: SymbolRefAttr | str) -> MeshOp:
    name = reference if isinstance(reference, str) else reference.string_value()
    scope: Operation | None = op
    while scope is not None:
        if scope.name == "builtin.module":
            for other in scope.regions[0].block.ops:
                if isinstance(other, MeshOp) and other.sym_name.data == name:
                    return other
        scope = scope.parent_op()
    raise VerifyException(f"'{op.name}' op names mesh @{name}, which is not declared")


def _check_axes(op: Operation, mesh: MeshOp, axes: tuple[int, ...]) -> None:
    for axis in axes:
        if not 0 <= axis < len(mesh.shape):
            raise VerifyException(
                f"'{op.name}' op: mesh @{mesh.sym_name.data} has no axis {axis}; it has "
                f"{len(mesh.shape)} axes"
            )
        if axes.count(axis) > 1:
            raise VerifyException(f"'{op.name}' op uses mesh axis {axis} twice")


@irdl_op_definition
class ShardOp(IRDLOperation):
    """`mesh.shard %a to <@mesh, [[0], []], partial = sum[1]> annotate_for_users : tensor<…>`."""

    name = "mesh.shard"

    T: ClassVar = VarConstraint("T", TensorType.constr())

    src = operand_def(T)
    shard = prop_def(MeshShardingAttr)
    annotate_for_users = opt_prop_def(UnitAttr)
    result = result_def(T)

    traits = traits_def(Pure())
    assembly_format = (
        "$src `to` $shard (`annotate_for_users` $annotate_for_users^)? attr-dict `:` type($result)"
    )

    def verify_(self) -> None:
        sharding = self.shard.data
        mesh = _mesh(self, sharding.mesh)
        axes = tuple(axis for dim in sharding.split_axes for axis in dim)
        _check_axes(self, mesh, axes + sharding.partial_axes)
        type = self.src.type
        assert isinstance(type, TensorType)
        if len(sharding.split_axes) > type.get_num_dims():
            raise VerifyException(
                f"'mesh.shard' op: sharding <{sharding}> names {len(sharding.split_axes)} "
                f"dimensions, the value of type {type} has {type.get_num_dims()}"
            )


class CollectiveOp(IRDLOperation):
    """Base of the collectives; each is shard's op of the same name."""

    mesh = prop_def(FlatSymbolRefAttr)
    mesh_axes = prop_def(ShardAxesAttr, default_value=axes_attr(()))
    input = operand_def(TensorType)
    result = result_def(TensorType)

    custom_directives = (DynamicIndexList, Reduction)

    def verify_(self) -> None:
        _check_axes(self, _mesh(self, self.mesh), tuple(self.mesh_axes.get_values()))


class _RootedOp(CollectiveOp):
    """Base of the collectives with one special device."""

    root = prop_def(DenseArrayBase[I64])
    root_dynamic = var_operand_def(IndexType)


_ON = "$input `on` $mesh (`mesh_axes` `=` $mesh_axes^)? "
_TO = "attr-dict `:` type($input) `->` type($result)"
_FN = "attr-dict `:` functional-type(operands, results)"
_RED = "(`reduction` `=` custom<Reduction>($reduction)^)? "
_ROOT = "`root` `=` custom<DynamicIndexList>($root_dynamic, $root) "
_SUM = PartialAttr(ReductionKind.SUM)
_INDEX = IntegerAttr.constr(IndexTypeConstr)


@irdl_op_definition
class AllReduceOp(CollectiveOp):
    """The older spelling of `shard.all_reduce`."""

    name = "mesh.all_reduce"
    reduction = prop_def(PartialAttr, default_value=_SUM)
    traits = traits_def(Pure())
    assembly_format = _ON + _RED + _TO


@irdl_op_definition
class AllGatherOp(CollectiveOp):
    """The older spelling of `shard.all_gather`."""

    name = "mesh.all_gather"
    gather_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + "`gather_axis` `=` $gather_axis " + _TO


@irdl_op_definition
class AllSliceOp(CollectiveOp):
    """The older spelling of `shard.all_slice`."""

    name = "mesh.all_slice"
    slice_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + "`slice_axis` `=` $slice_axis " + _TO


@irdl_op_definition
class AllToAllOp(CollectiveOp):
    """The older spelling of `shard.all_to_all`."""

    name = "mesh.all_to_all"
    split_axis = prop_def(_INDEX)
    concat_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + "`split_axis` `=` $split_axis `concat_axis` `=` $concat_axis " + _TO


@irdl_op_definition
class ReduceScatterOp(CollectiveOp):
    """The older spelling of `shard.reduce_scatter`."""

    name = "mesh.reduce_scatter"
    reduction = prop_def(PartialAttr, default_value=_SUM)
    scatter_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + _RED + "`scatter_axis` `=` $scatter_axis " + _TO


@irdl_op_definition
class ShiftOp(CollectiveOp):
    """The older spelling of `shard.shift`."""

    name = "mesh.shift"
    shift_axis = prop_def(_INDEX)
    offset = prop_def(IntegerAttr[I64])
    rotate = opt_prop_def(UnitAttr)
    traits = traits_def(Pure())
    assembly_format = (
        _ON + "`shift_axis` `=` $shift_axis `offset` `=` $offset (`rotate` $rotate^)? " + _TO
    )


@irdl_op_definition
class BroadcastOp(_RootedOp):
    """The older spelling of `shard.broadcast`."""

    name = "mesh.broadcast"
    traits = traits_def(Pure())
    assembly_format = _ON + _ROOT + _FN


@irdl_op_definition
class GatherOp(_RootedOp):
    """The older spelling of `shard.gather`."""

    name = "mesh.gather"
    gather_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + "`gather_axis` `=` $gather_axis " + _ROOT + _FN


@irdl_op_definition
class ScatterOp(_RootedOp):
    """The older spelling of `shard.scatter`."""

    name = "mesh.scatter"
    scatter_axis = prop_def(_INDEX)
    traits = traits_def(Pure())
    assembly_format = _ON + "`scatter_axis` `=` $scatter_axis " + _ROOT + _FN


@irdl_op_definition
class ReduceOp(_RootedOp):
    """The older spelling of `shard.reduce`."""

    name = "mesh.reduce"
    reduction = prop_def(PartialAttr, default_value=_SUM)
    traits = traits_def(Pure())
    assembly_format = _ON + _RED + _ROOT + _FN


@irdl_op_definition
class SendOp(CollectiveOp):
    """The older spelling of `shard.send`."""

    name = "mesh.send"
    destination = prop_def(DenseArrayBase[I64])
    destination_dynamic = var_operand_def(IndexType)
    assembly_format = (
        _ON
        + "`destination` `=` custom<DynamicIndexList>($destination_dynamic, $destination) "
        + _FN
    )


@irdl_op_definition
class RecvOp(CollectiveOp):
    """The older spelling of `shard.recv`."""

    name = "mesh.recv"
    source = opt_prop_def(DenseArrayBase[I64])
    source_dynamic = var_operand_def(IndexType)
    assembly_format = (
        _ON + "(`source` `=` custom<DynamicIndexList>($source_dynamic, $source)^)? " + _FN
    )


class _IndicesOp(IRDLOperation):
    mesh = prop_def(FlatSymbolRefAttr)
    axes = prop_def(ShardAxesAttr, default_value=axes_attr(()))
    result = var_result_def(IndexType)
    traits = traits_def(Pure())

    def verify_(self) -> None:
        mesh = _mesh(self, self.mesh)
        axes = tuple(self.axes.get_values())
        _check_axes(self, mesh, axes)
        if len(self.result) != (expected := len(axes) or len(mesh.shape)):
            raise VerifyException(
                f"'{self.name}' op has {len(self.result)} results, expected {expected}"
            )


@irdl_op_definition
class ProcessMultiIndexOp(_IndicesOp):
    """The older spelling of `shard.process_multi_index`."""

    name = "mesh.process_multi_index"
    assembly_format = "`on` $mesh (`axes` `=` $axes^)? attr-dict `:` type($result)"


@irdl_op_definition
class MeshShapeOp(_IndicesOp):
    """The older spelling of `shard.grid_shape`."""

    name = "mesh.mesh_shape"
    assembly_format = "$mesh (`axes` `=` $axes^)? attr-dict `:` type($result)"


@irdl_op_definition
class ProcessLinearIndexOp(IRDLOperation):
    """The older spelling of `shard.process_linear_index`."""

    name = "mesh.process_linear_index"
    mesh = prop_def(FlatSymbolRefAttr)
    result = result_def(IndexType)
    traits = traits_def(Pure())
    assembly_format = "`on` $mesh attr-dict `:` type($result)"


Mesh = Dialect(
    "mesh",
    [
        AllGatherOp,
        AllReduceOp,
        AllSliceOp,
        AllToAllOp,
        BroadcastOp,
        GatherOp,
        MeshOp,
        MeshShapeOp,
        ProcessLinearIndexOp,
        ProcessMultiIndexOp,
        RecvOp,
        ReduceOp,
        ReduceScatterOp,
        ScatterOp,
        SendOp,
        ShardOp,
        ShiftOp,
    ],
    [MeshShardingAttr, PartialAttr],
)
