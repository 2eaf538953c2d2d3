"""Collectives over the devices of grid axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from math import prod
from typing import Any, ClassVar, cast

from xdsl.dialects import shard as xdsl_shard
from xdsl.dialects.builtin import (
    I64,
    BytesAttr,
    DenseArrayBase,
    FlatSymbolRefAttr,
    IndexType,
    IndexTypeConstr,
    IntegerAttr,
    MemRefType,
    SymbolRefAttr,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.shard import (
    CollectiveCommunicationOp,
    ReductionKind,
    ReductionKindAttr,
    ShardAxesArrayAttr,
)
from xdsl.dialects.utils import DynamicIndexList
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
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

from ..tensors import ranked_tensor
from .grids import axes_attr, extends_xdsl
from .verify import check_axes, check_collective, check_root, collective_axes, declared_grid

TENSOR = irdl_to_attr_constraint(MemRefType.constr() | TensorType.constr())


# ---- That xDSL has: verifiers added --------------------------------------------------------------


@extends_xdsl
class AllReduceOp(xdsl_shard.AllReduceOp):
    """The reduction of the buffers of all devices along the axes, on each of them.

    Resolves partial results. Made by shard-partition, gone after convert-shard-to-stablehlo.
    """

    def verify_(self) -> None:
        super().verify_()
        check_collective(self)


@extends_xdsl
class BroadcastOp(xdsl_shard.BroadcastOp):
    """The root's buffer on every device along the axes."""

    def verify_(self) -> None:
        super().verify_()
        check_collective(self)
        check_root(self, "root", self.root.get_values())


@extends_xdsl
class GatherOp(xdsl_shard.GatherOp):
    """The concatenation of the devices' buffers, defined on the root alone."""

    def verify_(self) -> None:
        super().verify_()
        check_collective(self, gather_axis=(self.gather_axis.value.data, 1, 0))
        check_root(self, "root", self.root.get_values())


@extends_xdsl
class ScatterOp(xdsl_shard.ScatterOp):
    """One part of the root's buffer on each device along the axes."""

    def verify_(self) -> None:
        super().verify_()
        check_collective(self, scatter_axis=(self.scatter_axis.value.data, 0, 1))
        check_root(self, "root", self.root.get_values())


@extends_xdsl
class RecvOp(xdsl_shard.RecvOp):
    """The buffer that a `shard.send` of another device sent here."""

    @classmethod
    def parse(cls, parser: Parser) -> RecvOp:
        op = super().parse(parser)
        if op.source is not None and not len(op.source) and not op.source_dynamic:
            del op.properties["source"]  # xDSL's form makes a list of what is not written
        return op

    def print(self, printer: Printer) -> None:
        if self.source is not None:
            return super().print(printer)
        self.properties["source"] = DenseArrayBase.from_list(i64, [])
        try:
            super().print(printer)
        finally:
            del self.properties["source"]

    def verify_(self) -> None:
        super().verify_()
        check_collective(self)
        if self.source is not None:
            check_root(self, "source", self.source.get_values())


@extends_xdsl
class ReduceOp(xdsl_shard.ReduceOp):
    """The reduction of the devices' buffers, defined on the root alone."""

    def verify_(self) -> None:
        super().verify_()
        check_collective(self)
        check_root(self, "root", self.root.get_values())


@extends_xdsl
class SendOp(xdsl_shard.SendOp):
    """Sends a buffer to one device; a `shard.recv` there gives it."""

    def verify_(self) -> None:
        super().verify_()
        check_collective(self)
        check_root(self, "destination", self.destination.get_values())


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
        check_collective(self)
        axes = list(self.grid_axes.get_values())
        if self.shift_axis.value.data not in axes:
            raise VerifyException(
                f"'{self.name}' op shift_axis = {self.shift_axis.value.data} is not one of "
                f"grid_axes = {axes}"
            )


# ---- That xDSL lacks -----------------------------------------------------------------------------


@irdl_op_definition
class AllGatherOp(CollectiveCommunicationOp):
    """Each device gets the parts of all devices of its group, concatenated along gather_axis."""

    name = "shard.all_gather"

    input = operand_def(TENSOR)
    gather_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `gather_axis` `=` $gather_axis "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        check_collective(self, gather_axis=(self.gather_axis.value.data, 1, 0))


@irdl_op_definition
class AllSliceOp(CollectiveCommunicationOp):
    """Each device keeps its own part along slice_axis: the inverse of all_gather, no traffic."""

    name = "shard.all_slice"

    input = operand_def(TENSOR)
    slice_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `slice_axis` `=` $slice_axis "
        "attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        check_collective(self, slice_axis=(self.slice_axis.value.data, 0, 1))


@irdl_op_definition
class AllToAllOp(CollectiveCommunicationOp):
    """Splits along split_axis, sends part i to device i of the group, concatenates along
    concat_axis."""

    name = "shard.all_to_all"

    input = operand_def(TENSOR)
    split_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    concat_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? `split_axis` `=` $split_axis "
        "`concat_axis` `=` $concat_axis attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        check_collective(
            self,
            split_axis=(self.split_axis.value.data, 0, 1),
            concat_axis=(self.concat_axis.value.data, 1, 0),
        )


@irdl_op_definition
class ReduceScatterOp(CollectiveCommunicationOp):
    """Reduces over the group; device i keeps part i of the result along scatter_axis."""

    name = "shard.reduce_scatter"

    input = operand_def(TENSOR)
    reduction = prop_def(ReductionKindAttr, default_value=ReductionKindAttr(ReductionKind.SUM))
    scatter_axis = prop_def(IntegerAttr.constr(IndexTypeConstr))
    result = result_def(TENSOR)

    traits = traits_def(Pure())
    assembly_format = (
        "$input `on` $grid (`grid_axes` `=` $grid_axes^)? (`reduction` `=` $reduction^)? "
        "`scatter_axis` `=` $scatter_axis attr-dict `:` type($input) `->` type($result)"
    )

    def verify_(self) -> None:
        check_collective(self, scatter_axis=(self.scatter_axis.value.data, 0, 1))


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

    input = operand_def(TENSOR)
    pairs = prop_def(DenseArrayBase[I64])
    result = result_def(TENSOR)

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
        check_collective(self)
        grid, axes = collective_axes(self)
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

    T: ClassVar = VarConstraint("T", TENSOR)

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
        grid = declared_grid(self, self.grid)
        axes = [a for dim in self.split_axes.axes.data for a in dim.get_values()]
        check_axes(self, grid, axes, "split_axes")


@lru_cache(maxsize=1000)  # what a program repeats is made once
def _grid_attr(name: str) -> Attribute:
    return SymbolRefAttr(name)


@lru_cache(maxsize=1000)
def _dim_attr(dim: int) -> Attribute:
    return IntegerAttr(dim, IndexType())


@cache
def _reduction_attr(kind: str) -> Attribute:
    return ReductionKindAttr(ReductionKind(kind))


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
        "grid": _grid_attr(grid),
        "grid_axes": axes_attr(axes),
        **{name: _dim_attr(dim) for name, dim in dims.items()},
    }
    if reduction is not None:
        properties["reduction"] = _reduction_attr(reduction)
    if pairs is not None:
        properties["pairs"] = DenseArrayBase.from_list(i64, [i for pair in pairs for i in pair])
    if offset is not None:
        properties["offset"] = IntegerAttr(offset, i64)
    if rotate:
        properties["rotate"] = UnitAttr()
    result = type
    if shape is not None:
        result = ranked_tensor(type.element_type, tuple(shape), type.encoding)
    return kind.create(operands=[value], result_types=[result], properties=properties)
