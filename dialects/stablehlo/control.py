"""Control flow, effects, tokens, tuples, calls out of the program."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FlatSymbolRefAttr,
    IntegerAttr,
    StringAttr,
)
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import (
    operand_def,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_region_def,
    var_result_def,
)
from xdsl.traits import (
    EffectInstance,
    IsTerminator,
    MemoryEffect,
    MemoryEffectKind,
    MemoryReadEffect,
    MemoryWriteEffect,
    Pure,
    RecursiveMemoryEffect,
    ReturnLike,
)

from .attributes import ChannelHandle
from .base import StableHLOOp, check, irdl_op_definition


@irdl_op_definition
class ReturnOp(StableHLOOp):
    """Ends a region and gives its results."""

    name = "stablehlo.return"

    results_ = var_operand_def()

    traits = traits_def(Pure(), IsTerminator(), ReturnLike())

    def __init__(self, *results: SSAValue):
        super().__init__(operands=[results])


def _check_region_results(op: Operation, what: str, region: Region, expected: Sequence[Attribute]):
    last = region.blocks.first.last_op if region.blocks.first else None
    check(
        isinstance(last, ReturnOp),
        op,
        f"needs a stablehlo.return at the end of its {what} region",
    )
    assert last is not None
    found = last.operand_types
    check(
        len(found) == len(expected),
        op,
        f"has {len(expected)} results, but its {what} region returns {len(found)} values",
    )
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        check(
            type(a) is type(b),
            op,
            f"has a result {index} of type {b}, but its {what} region returns {a}",
        )


@irdl_op_definition
class WhileOp(StableHLOOp):
    """Repeats the body while the condition holds; the carried values are its operands."""

    name = "stablehlo.while"

    operand = var_operand_def()
    cond = region_def("single_block")
    body = region_def("single_block")
    results_ = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    def __init__(self, operands: Sequence[SSAValue], cond: Region, body: Region):
        super().__init__(
            operands=[operands],
            regions=[cond, body],
            result_types=[[value.type for value in operands]],
        )

    def verify_(self) -> None:
        carried = len(self.operand)
        check(
            carried == len(self.results_),
            self,
            f"carries {carried} values, but has {len(self.results_)} results",
        )
        for what, region in (("condition", self.cond), ("body", self.body)):
            found = len(region.block.args)
            check(
                found == carried,
                self,
                f"carries {carried} values, but its {what} takes {found} arguments",
            )
        _check_region_results(self, "body", self.body, [value.type for value in self.results_])


@irdl_op_definition
class IfOp(StableHLOOp):
    """One of two regions by a boolean."""

    name = "stablehlo.if"

    pred = operand_def()
    true_branch = region_def("single_block")
    false_branch = region_def("single_block")
    results_ = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        types = [value.type for value in self.results_]
        _check_region_results(self, "true", self.true_branch, types)
        _check_region_results(self, "false", self.false_branch, types)


@irdl_op_definition
class CaseOp(StableHLOOp):
    """One of several regions by an index (out of range: the last)."""

    name = "stablehlo.case"

    index = operand_def()
    branches = var_region_def("single_block")
    results_ = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    def verify_(self) -> None:
        check(bool(self.branches), self, "needs at least one branch")
        types = [value.type for value in self.results_]
        for number, branch in enumerate(self.branches):
            _check_region_results(self, f"branch {number}", branch, types)


class BarrierEffect(MemoryEffect):
    """A dead barrier may go, but equal barriers are never merged (each stands for fresh values)."""

    @classmethod
    def get_effects(cls, op: Operation) -> set[EffectInstance]:
        return {EffectInstance(MemoryEffectKind.ALLOC, result) for result in op.results}


@irdl_op_definition
class OptimizationBarrierOp(StableHLOOp):
    """The operands, unchanged; nothing is moved or merged across it."""

    name = "stablehlo.optimization_barrier"

    operand = var_operand_def()
    results_ = var_result_def()

    traits = traits_def(BarrierEffect())

    def __init__(self, operands: Sequence[SSAValue]):
        super().__init__(operands=[operands], result_types=[[v.type for v in operands]])

    def verify_(self) -> None:
        check(
            len(self.operand) == len(self.results_),
            self,
            f"has {len(self.operand)} operands and {len(self.results_)} results",
        )


class CustomCallEffect(MemoryEffect):
    """Reads and writes if `has_side_effect` says so."""

    @classmethod
    def get_effects(cls, op: Operation) -> set[EffectInstance]:
        flag = op.properties.get("has_side_effect")
        if isinstance(flag, IntegerAttr) and flag.value.data:
            return {
                EffectInstance(MemoryEffectKind.READ),
                EffectInstance(MemoryEffectKind.WRITE),
            }
        return set()


@irdl_op_definition
class CustomCallOp(StableHLOOp):
    """A call of something that the backend knows by name."""

    name = "stablehlo.custom_call"

    inputs = var_operand_def()
    call_target_name = prop_def(StringAttr)
    has_side_effect = opt_prop_def(IntegerAttr)
    backend_config = opt_prop_def(Attribute)
    api_version = opt_prop_def(IntegerAttr)
    called_computations = opt_prop_def(ArrayAttr)
    operand_layouts = opt_prop_def(ArrayAttr)
    result_layouts = opt_prop_def(ArrayAttr)
    output_operand_aliases = opt_prop_def(ArrayAttr)
    result_tilings = opt_prop_def(Attribute)
    """From jaxlib 0.11 on."""
    results_ = var_result_def()

    traits = traits_def(CustomCallEffect())

    def __init__(self, target: str, inputs: Sequence[SSAValue], result_types: Sequence[Attribute]):
        super().__init__(
            operands=[inputs],
            properties={"call_target_name": StringAttr(target)},
            result_types=[result_types],
        )


@irdl_op_definition
class CompositeOp(StableHLOOp):
    """An operation made of others: the function `decomposition` says what it means."""

    name = "stablehlo.composite"

    inputs = var_operand_def()
    composite_name = prop_def(StringAttr, prop_name="name")
    composite_attributes = opt_prop_def(DictionaryAttr)
    decomposition = prop_def(FlatSymbolRefAttr)
    version = opt_prop_def(IntegerAttr)
    composite_regions = var_region_def()
    results_ = var_result_def()


@irdl_op_definition
class AfterAllOp(StableHLOOp):
    """A token that is ready when all the tokens are."""

    name = "stablehlo.after_all"

    inputs = var_operand_def()
    result = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class CreateTokenOp(StableHLOOp):
    """A fresh token (deprecated form of after_all)."""

    name = "stablehlo.create_token"

    output = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class TupleOp(StableHLOOp):
    """A tuple of values."""

    name = "stablehlo.tuple"

    val = var_operand_def()
    result = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class GetTupleElementOp(StableHLOOp):
    """One value of a tuple."""

    name = "stablehlo.get_tuple_element"

    operand = operand_def()
    index = prop_def(IntegerAttr)
    result = result_def()

    traits = traits_def(Pure())


@irdl_op_definition
class InfeedOp(StableHLOOp):
    """Values from the host's infeed."""

    name = "stablehlo.infeed"

    token = operand_def()
    infeed_config = opt_prop_def(StringAttr)
    layout = opt_prop_def(ArrayAttr)
    results_ = var_result_def()

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())


@irdl_op_definition
class OutfeedOp(StableHLOOp):
    """Values to the host's outfeed."""

    name = "stablehlo.outfeed"

    inputs = var_operand_def()
    token = operand_def()
    outfeed_config = opt_prop_def(StringAttr)
    result = result_def()

    traits = traits_def(MemoryWriteEffect())


@irdl_op_definition
class SendOp(StableHLOOp):
    """Values to a channel."""

    name = "stablehlo.send"

    inputs = var_operand_def()
    token = operand_def()
    channel_handle = prop_def(ChannelHandle)
    is_host_transfer = opt_prop_def(IntegerAttr)
    source_target_pairs = opt_prop_def(Attribute)
    result = result_def()

    traits = traits_def(MemoryWriteEffect())


@irdl_op_definition
class RecvOp(StableHLOOp):
    """Values from a channel."""

    name = "stablehlo.recv"

    token = operand_def()
    channel_handle = prop_def(ChannelHandle)
    is_host_transfer = opt_prop_def(IntegerAttr)
    source_target_pairs = opt_prop_def(Attribute)
    results_ = var_result_def()

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())


@irdl_op_definition
class AsyncStartOp(StableHLOOp):
    """Starts the operation of the region; async_done waits for it."""

    name = "stablehlo.async_start"

    operands_ = var_operand_def()
    body = region_def("single_block")
    result = result_def()


@irdl_op_definition
class AsyncDoneOp(StableHLOOp):
    """Waits for an async_start."""

    name = "stablehlo.async_done"

    operand = operand_def()
    results_ = var_result_def()


OPERATIONS = [
    ReturnOp,
    WhileOp,
    IfOp,
    CaseOp,
    OptimizationBarrierOp,
    CustomCallOp,
    CompositeOp,
    AfterAllOp,
    CreateTokenOp,
    TupleOp,
    GetTupleElementOp,
    InfeedOp,
    OutfeedOp,
    SendOp,
    RecvOp,
    AsyncStartOp,
    AsyncDoneOp,
]
