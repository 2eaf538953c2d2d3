"""Operations of the dialect `sdy`, with the pretty forms that jaxlib prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from xdsl.dialects.builtin import (
    I64,
    FunctionType,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
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
from xdsl.traits import (
    IsTerminator,
    Pure,
    RecursiveMemoryEffect,
    SymbolOpInterface,
)
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.str_enum import StrEnum

from .attributes import (
    AllToAllParamListAttr,
    AxisRefListAttr,
    ListOfAxisRefListsAttr,
    ManualAxesAttr,
    Mesh,
    MeshAttr,
    TensorShardingAttr,
    TensorShardingPerValueAttr,
)


@irdl_op_definition
class MeshOp(IRDLOperation):
    """A named mesh: `sdy.mesh @mesh = <["x"=2, "y"=4]>`."""

    name = "sdy.mesh"

    sym_name = prop_def(SymbolNameConstraint())
    mesh = prop_def(MeshAttr)

    traits = traits_def(SymbolOpInterface())
    assembly_format = "$sym_name `=` $mesh attr-dict"

    def __init__(self, name: str, mesh: Mesh):
        super().__init__(properties={"sym_name": StringAttr(name), "mesh": MeshAttr(mesh)})

    def verify_(self) -> None:
        mesh = self.mesh.data
        what = f"'{self.name}' op @{self.sym_name.data}"
        names = [name for name, _ in mesh.axes]
        for name, size in mesh.axes:
            if size < 1:
                raise VerifyException(f'{what}: axis "{name}" has size {size}, expected >= 1')
            if names.count(name) > 1:
                raise VerifyException(f'{what}: axis name "{name}" is used twice')
        if mesh.device_ids and not mesh.is_maximal:
            if sorted(mesh.device_ids) != list(range(mesh.num_devices)):
                raise VerifyException(
                    f"{what}: device_ids must be a permutation of 0 to {mesh.num_devices - 1}, "
                    f"found {list(mesh.device_ids)}"
                )


# ---- Ops of one value ----------------------------------------------------------------------------


class _UnaryOp(IRDLOperation):
    """Base of the ops that give back their operand's type."""

    T: ClassVar = VarConstraint("T", AnyAttr())

    input = operand_def(T)
    result = result_def(T)

    def __init__(self, input: SSAValue, **properties: Attribute | None):
        super().__init__(operands=[input], result_types=[input.type], properties=properties)


@irdl_op_definition
class ShardingConstraintOp(_UnaryOp):
    """The user's demand on the sharding of a value; it may move during propagation."""

    name = "sdy.sharding_constraint"
    sharding = prop_def(TensorShardingAttr)
    traits = traits_def(Pure())
    assembly_format = "$input $sharding attr-dict `:` type($result)"


@irdl_op_definition
class ReshardOp(_UnaryOp):
    """Changes the sharding of a value, here."""

    name = "sdy.reshard"
    sharding = prop_def(TensorShardingAttr)
    traits = traits_def(Pure())
    assembly_format = "$input $sharding attr-dict `:` type($result)"


@irdl_op_definition
class DataFlowEdgeOp(_UnaryOp):
    """Bridges the sources and targets of a value that flows through an op with regions."""

    name = "sdy.data_flow_edge"
    sharding = opt_prop_def(TensorShardingAttr)
    traits = traits_def(Pure())
    assembly_format = "$input (`sharding` `` `=` `` $sharding^)? attr-dict `:` type($result)"


@irdl_op_definition
class FuncDataFlowEdgeOp(_UnaryOp):
    """A data flow edge for arguments of functions and results of calls."""

    name = "sdy.func_data_flow_edge"
    traits = traits_def(Pure())
    assembly_format = "$input attr-dict `:` type($result)"


class PropagationDirection(StrEnum):
    """Which way shardings may pass a barrier; its position is the attribute's number."""

    NONE = "NONE"
    FORWARD = "FORWARD"
    BACKWARD = "BACKWARD"
    BOTH = "BOTH"


@irdl_custom_directive
class Direction(CustomDirective):
    """`FORWARD` for `1 : i32`."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> Any:
        direction = parser.parse_str_enum(PropagationDirection)
        self.value.set(state, IntegerAttr(list(PropagationDirection).index(direction), i32))
        return True

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        assert isinstance(op, PropagationBarrierOp)
        printer.print_string(op.direction.value)
        state.last_was_punctuation = False
        state.should_emit_space = True


@irdl_op_definition
class PropagationBarrierOp(_UnaryOp):
    """Lets shardings pass in the allowed direction only."""

    name = "sdy.propagation_barrier"
    allowed_direction = prop_def(IntegerAttr)
    traits = traits_def(Pure())
    custom_directives = (Direction,)
    assembly_format = (
        "$input `allowed_direction` `` `=` `` custom<Direction>($allowed_direction) attr-dict "
        "`:` type($result)"
    )

    @property
    def direction(self) -> PropagationDirection:
        return list(PropagationDirection)[self.allowed_direction.value.data]


@irdl_custom_directive
class GroupId(CustomDirective):
    """The bare number of an i64 attribute."""

    value: AttributeVariable

    def parse(self, parser: Parser, state: ParsingState) -> Any:
        self.value.set(state, IntegerAttr(parser.parse_integer(allow_boolean=False), 64))
        return True

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        assert isinstance(op, ShardingGroupOp)
        printer.print_string(str(op.group_id.value.data))
        state.last_was_punctuation = False
        state.should_emit_space = True


@irdl_op_definition
class ShardingGroupOp(IRDLOperation):
    """All values of one group get the same sharding."""

    name = "sdy.sharding_group"

    T: ClassVar = VarConstraint("T", AnyAttr())

    input = operand_def(T)
    group_id = prop_def(IntegerAttr[I64])
    custom_directives = (GroupId,)
    assembly_format = (
        "$input `group_id` `` `=` `` custom<GroupId>($group_id) attr-dict `:` type($input)"
    )

    def __init__(self, input: SSAValue, group_id: int):
        super().__init__(operands=[input], properties={"group_id": IntegerAttr(group_id, 64)})


@irdl_op_definition
class ConstantOp(IRDLOperation):
    """A constant, split for each user so that shardings do not spread between users."""

    name = "sdy.constant"

    value = prop_def()
    output = result_def()
    traits = traits_def(Pure())

    @classmethod
    def parse(cls, parser: Parser) -> ConstantOp:
        attributes = parser.parse_optional_attr_dict()
        value = parser.parse_attribute()
        type = getattr(value, "type", None)
        if not isinstance(type, Attribute):
            parser.raise_error("expected a dense constant with its type")
        return cls.create(properties={"value": value}, result_types=[type], attributes=attributes)

    def print(self, printer: Printer) -> None:
        printer.print_op_attributes(self.attributes)
        printer.print_string(" ")
        printer.print_attribute(self.value)


# ---- Ops with a body -----------------------------------------------------------------------------


def _parse_body_op(
    parser: Parser,
) -> tuple[Sequence[Any], dict[str, Attribute]]:
    """Parses `(%a, %b)` and the shardings after it."""
    operands = parser.parse_comma_separated_list(
        parser.Delimiter.PAREN, parser.parse_unresolved_operand
    )
    properties: dict[str, Attribute] = {}
    for name in ("in_shardings", "out_shardings"):
        if parser.parse_optional_keyword(name) is not None:
            parser.parse_punctuation("=")
            properties[name] = TensorShardingPerValueAttr(
                TensorShardingPerValueAttr.parse_stripped(parser)
            )
    return operands, properties


def _parse_body(parser: Parser) -> tuple[Region, dict[str, Attribute], FunctionType]:
    """Parses `(%arg: type, …) {…} attr-dict : type`."""
    arguments = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
    region = parser.parse_region(arguments)
    attributes = parser.parse_optional_attr_dict()
    parser.parse_punctuation(":")
    return region, attributes, parser.parse_function_type()


def _print_operands(printer: Printer, op: IRDLOperation) -> None:
    printer.print_string("(")
    printer.print_list(op.operands, printer.print_ssa_value)
    printer.print_string(")")
    for name in ("in_shardings", "out_shardings"):
        shardings = op.properties.get(name)
        if isinstance(shardings, TensorShardingPerValueAttr):
            printer.print_string(f" {name}=")
            shardings.print_stripped(printer)


def _print_body(printer: Printer, op: IRDLOperation) -> None:
    block: Block = op.regions[0].block
    printer.print_string(" (")
    printer.print_list(block.args, printer.print_block_argument)
    printer.print_string(") ")
    printer.print_region(op.regions[0], print_entry_block_args=False)
    printer.print_op_attributes(op.attributes)
    printer.print_string(" : ")
    printer.print_operation_type(op)


def _check_counts(op: IRDLOperation, what: str, shardings: Attribute | None, count: int) -> None:
    if isinstance(shardings, TensorShardingPerValueAttr) and len(shardings.data) != count:
        raise VerifyException(
            f"'{op.name}' op has {len(shardings.data)} {what} for {count} "
            + ("operands" if what == "in_shardings" else "results")
        )


@irdl_op_definition
class ManualComputationOp(IRDLOperation):
    """A body that runs per device along `manual_axes`, with local shapes and collectives."""

    name = "sdy.manual_computation"

    tensors = var_operand_def()
    in_shardings = prop_def(TensorShardingPerValueAttr)
    out_shardings = prop_def(TensorShardingPerValueAttr)
    manual_axes = prop_def(ManualAxesAttr)
    body = region_def("single_block")
    outs = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    @classmethod
    def parse(cls, parser: Parser) -> ManualComputationOp:
        operands, properties = _parse_body_op(parser)
        parser.parse_keyword("manual_axes")
        parser.parse_punctuation("=")
        properties["manual_axes"] = ManualAxesAttr(ManualAxesAttr.parse_parameter(parser))
        region, attributes, type = _parse_body(parser)
        return cls.create(
            operands=parser.resolve_operands(operands, type.inputs.data, parser.pos),
            result_types=type.outputs.data,
            properties=properties,
            attributes=attributes,
            regions=[region],
        )

    def print(self, printer: Printer) -> None:
        _print_operands(printer, self)
        printer.print_string(" manual_axes=")
        self.manual_axes.print_parameter(printer)
        _print_body(printer, self)

    def verify_(self) -> None:
        _check_counts(self, "in_shardings", self.in_shardings, len(self.operands))
        _check_counts(self, "out_shardings", self.out_shardings, len(self.results))


@irdl_op_definition
class NamedComputationOp(IRDLOperation):
    """A part of a function under a name."""

    name = "sdy.named_computation"

    op_name = prop_def(StringAttr, prop_name="name")
    arguments = var_operand_def()
    in_shardings = opt_prop_def(TensorShardingPerValueAttr)
    out_shardings = opt_prop_def(TensorShardingPerValueAttr)
    body = region_def("single_block")
    outs = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    @classmethod
    def parse(cls, parser: Parser) -> NamedComputationOp:
        with parser.in_angle_brackets():
            name = StringAttr(parser.parse_str_literal())
        operands, properties = _parse_body_op(parser)
        region, attributes, type = _parse_body(parser)
        return cls.create(
            operands=parser.resolve_operands(operands, type.inputs.data, parser.pos),
            result_types=type.outputs.data,
            properties={"name": name, **properties},
            attributes=attributes,
            regions=[region],
        )

    def print(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.op_name.data)
        _print_operands(printer, self)
        _print_body(printer, self)

    def verify_(self) -> None:
        _check_counts(self, "in_shardings", self.in_shardings, len(self.operands))
        _check_counts(self, "out_shardings", self.out_shardings, len(self.results))


@irdl_op_definition
class ReturnOp(IRDLOperation):
    """Ends the body of a manual or named computation."""

    name = "sdy.return"

    arguments = var_operand_def()
    traits = traits_def(IsTerminator())
    assembly_format = "attr-dict ($arguments^ `:` type($arguments))?"

    def __init__(self, *values: SSAValue):
        super().__init__(operands=[values])


# ---- Collectives ---------------------------------------------------------------------------------


class _CollectiveOp(IRDLOperation):
    """Base of the collectives: global types, so that operand and result have the same."""

    T: ClassVar = VarConstraint("T", AnyAttr())

    tensor = operand_def(T)
    out_sharding = prop_def(TensorShardingAttr)
    result = result_def(T)

    traits = traits_def(Pure())


_OUT = " $tensor `out_sharding` `` `=` `` $out_sharding attr-dict `:` type($result)"


@irdl_op_definition
class AllGatherOp(_CollectiveOp):
    """Gathers, dimension by dimension, the parts along some axes of a sharding."""

    name = "sdy.all_gather"
    gathering_axes = prop_def(ListOfAxisRefListsAttr)
    assembly_format = "$gathering_axes" + _OUT


@irdl_op_definition
class AllSliceOp(_CollectiveOp):
    """Splits dimensions further; needs no communication."""

    name = "sdy.all_slice"
    slicing_axes = prop_def(ListOfAxisRefListsAttr)
    assembly_format = "$slicing_axes" + _OUT


@irdl_op_definition
class AllToAllOp(_CollectiveOp):
    """Moves axes from one dimension to another."""

    name = "sdy.all_to_all"
    params = prop_def(AllToAllParamListAttr)
    assembly_format = "$params" + _OUT


@irdl_op_definition
class CollectivePermuteOp(_CollectiveOp):
    """Exchanges whole shards: another order of axes, the same shard shape."""

    name = "sdy.collective_permute"
    assembly_format = _OUT.strip()


@irdl_op_definition
class AllReduceOp(_CollectiveOp):
    """Adds up a value that is unreduced over some axes."""

    name = "sdy.all_reduce"
    reduction_axes = prop_def(AxisRefListAttr)
    reduction_op = opt_prop_def(Attribute)
    """From jaxlib 0.11 on; absent: the sum."""
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$reduction_axes" + _OUT


@irdl_op_definition
class ReduceScatterOp(_CollectiveOp):
    """Adds up a value that is unreduced over some axes, and splits the sum over them."""

    name = "sdy.reduce_scatter"
    reduce_scatter_axes = prop_def(ListOfAxisRefListsAttr)
    reduction_op = opt_prop_def(Attribute)
    """From jaxlib 0.11 on; absent: the sum."""
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$reduce_scatter_axes" + _OUT


@irdl_op_definition
class ShardedToUnreducedOp(_CollectiveOp):
    """Shards become unreduced summands: zeros elsewhere, no communication."""

    name = "sdy.sharded_to_unreduced"
    axes = prop_def(ListOfAxisRefListsAttr)
    assembly_format = "$axes" + _OUT


@irdl_op_definition
class ReplicatedToUnreducedOp(_CollectiveOp):
    """A replicated value becomes unreduced: kept on one device, zero on the others."""

    name = "sdy.replicated_to_unreduced"
    axes = prop_def(AxisRefListAttr)
    assembly_format = "$axes" + _OUT


ALL_OPS: list[type[Operation]] = [
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    CollectivePermuteOp,
    ConstantOp,
    DataFlowEdgeOp,
    FuncDataFlowEdgeOp,
    ManualComputationOp,
    MeshOp,
    NamedComputationOp,
    PropagationBarrierOp,
    ReduceScatterOp,
    ReplicatedToUnreducedOp,
    ReshardOp,
    ReturnOp,
    ShardedToUnreducedOp,
    ShardingConstraintOp,
    ShardingGroupOp,
]
