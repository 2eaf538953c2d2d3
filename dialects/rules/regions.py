"""Ops with regions and calls: which values must share a sharding.

An edge joins the sources that flow into a value and the targets that are this value: for
`stablehlo.while` the initial and the next carry flow into the result and the region arguments.
All of them have one sharding. Inside an `sdy.manual_computation` types are local to the manual
axes, so its edges also say which side is inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp, SymbolRefAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from .access import op_name

Source = tuple[Operation, int]
"""An operand: the op and its index."""


@dataclass(frozen=True, slots=True)
class DataFlowEdge:
    """Sources flow into targets; the first target owns the edge."""

    sources: tuple[Source, ...]
    targets: tuple[SSAValue, ...]
    is_entry: bool = False
    """The target is a region's argument whose source stands outside the region."""

    @property
    def source_values(self) -> tuple[SSAValue, ...]:
        return tuple(op.operands[index] for op, index in self.sources)


REGION_OPS = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if"})
MANUAL = "sdy.manual_computation"
NAMED = "sdy.named_computation"
BARRIER = "stablehlo.optimization_barrier"


def data_flow_edges(op: Operation) -> list[DataFlowEdge]:
    """The edges of `op`, in the order of their owners; none for ops without data flow."""
    name = op_name(op)
    if name == "stablehlo.while":
        return _while_edges(op)
    if name in ("stablehlo.case", "stablehlo.if"):
        ends = [region.block.last_op for region in op.regions]
        return [
            DataFlowEdge(tuple((end, index) for end in ends if end is not None), (result,))
            for index, result in enumerate(op.results)
        ]
    if name == BARRIER:
        return [DataFlowEdge(((op, i),), (result,)) for i, result in enumerate(op.results)]
    if name in (MANUAL, NAMED):
        return _border_edges(op, op.regions[0].block)
    if name == "func.call":
        callee = callee_of(op)
        return [] if callee is None else _border_edges(op, callee.body.block)
    return []


def _while_edges(op: Operation) -> list[DataFlowEdge]:
    condition, body = op.regions[0].block, op.regions[1].block
    end = body.last_op
    return [
        DataFlowEdge(
            ((op, index),) if end is None else ((op, index), (end, index)),
            (result, condition.args[index], body.args[index]),
        )
        for index, result in enumerate(op.results)
    ]


def _border_edges(op: Operation, block: Block) -> list[DataFlowEdge]:
    """Operands into the block's arguments, what the block ends with into results."""
    entries = [
        DataFlowEdge(((op, index),), (argument,), is_entry=True)
        for index, argument in enumerate(block.args)
    ]
    end = block.last_op
    exits = [
        DataFlowEdge(() if end is None else ((end, index),), (result,))
        for index, result in enumerate(op.results)
    ]
    return entries + exits


def callee_of(op: Operation) -> FuncOp | None:
    """The function with a body that a `func.call` calls; None where there is none."""
    symbol = op.properties.get("callee")
    if not isinstance(symbol, SymbolRefAttr):
        return None
    module: Operation | None = op
    while module is not None and not isinstance(module, ModuleOp):
        module = module.parent_op()
    if module is None:
        return None
    for candidate in module.body.block.ops:
        if isinstance(candidate, FuncOp) and candidate.sym_name.data == symbol.string_value():
            return None if candidate.is_declaration else candidate
    return None
