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
from xdsl.ir import Operation, SSAValue

from .access import op_name


@dataclass(frozen=True, slots=True)
class DataFlowEdge:
    """Sources flow into targets; the first target owns the edge."""

    sources: tuple[SSAValue, ...]
    targets: tuple[SSAValue, ...]
    is_entry: bool = False
    """The target is a region's argument whose source stands outside the region."""


REGION_OPS = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if"})
MANUAL = "sdy.manual_computation"
NAMED = "sdy.named_computation"
BARRIER = "stablehlo.optimization_barrier"


def has_data_flow_edges(name: str) -> bool:
    return name in REGION_OPS or name in (MANUAL, NAMED, BARRIER, "func.call")


def data_flow_edges(op: Operation) -> list[DataFlowEdge]:
    """The edges of `op`, in the order of their owners; none for ops without data flow."""
    name = op_name(op)
    if name == "stablehlo.while":
        return _while_edges(op)
    if name in ("stablehlo.case", "stablehlo.if"):
        yields = [_yielded(op, index) for index in range(len(op.regions))]
        return [
            DataFlowEdge(tuple(values[index] for values in yields), (result,))
            for index, result in enumerate(op.results)
        ]
    if name == BARRIER:
        return [
            DataFlowEdge((operand,), (result,))
            for operand, result in zip(op.operands, op.results, strict=True)
        ]
    if name in (MANUAL, NAMED):
        block = op.regions[0].block
        entries = [
            DataFlowEdge((operand,), (argument,), is_entry=True)
            for operand, argument in zip(op.operands, block.args, strict=True)
        ]
        exits = [
            DataFlowEdge((value,), (result,))
            for value, result in zip(_yielded(op, 0), op.results, strict=True)
        ]
        return entries + exits
    if name == "func.call":
        return _call_edges(op)
    return []


def _yielded(op: Operation, region: int) -> tuple[SSAValue, ...]:
    last = op.regions[region].block.last_op
    return () if last is None else tuple(last.operands)


def _while_edges(op: Operation) -> list[DataFlowEdge]:
    condition, body = op.regions[0].block, op.regions[1].block
    return [
        DataFlowEdge((init, following), (result, condition.args[index], body.args[index]))
        for index, (init, following, result) in enumerate(
            zip(op.operands, _yielded(op, 1), op.results, strict=True)
        )
    ]


def _call_edges(op: Operation) -> list[DataFlowEdge]:
    callee = callee_of(op)
    if callee is None:
        return []
    block = callee.body.block
    returned = () if block.last_op is None else tuple(block.last_op.operands)
    entries = [
        DataFlowEdge((operand,), (argument,), is_entry=True)
        for operand, argument in zip(op.operands, block.args, strict=True)
    ]
    exits = [
        DataFlowEdge((value,), (result,))
        for value, result in zip(returned, op.results, strict=True)
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
