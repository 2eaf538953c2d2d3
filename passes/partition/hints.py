"""Ops that only speak to propagation: gone once shardings are decided."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import ConstraintOp
from autopar.dialects.sdy import (
    DataFlowEdgeOp,
    NamedComputationOp,
    PropagationBarrierOp,
    ShardingGroupOp,
)
from autopar.passes.walk import SHARDED_BODIES, ops_of

_HINTS = (
    ConstraintOp,
    DataFlowEdgeOp,
    NamedComputationOp,
    PropagationBarrierOp,
    ShardingGroupOp,
)


def drop_propagation_ops(module: ModuleOp) -> None:
    """Removes sharding groups, barriers and data-flow edges, named computations (their bodies
    stay), and constraints on the scalars of reduction bodies."""
    for op in ops_of(module, *_HINTS):
        if isinstance(op, ShardingGroupOp):
            Rewriter.erase_op(op)
        elif isinstance(op, NamedComputationOp):
            _flatten(op)
        elif not isinstance(op, ConstraintOp) or _is_on_scalars(op):
            Rewriter.replace_op(op, [], [op.operands[0]])


def _is_on_scalars(op: ConstraintOp) -> bool:
    parent = op.parent_op()
    return parent is not None and parent.name not in SHARDED_BODIES


def _flatten(op: NamedComputationOp) -> None:
    block = op.regions[0].block
    terminator = block.last_op
    assert terminator is not None
    results = [
        op.operands[value.index]
        if isinstance(value, BlockArgument) and value.block is block
        else value
        for value in terminator.operands
    ]
    for arg, operand in zip(block.args, op.operands, strict=True):
        arg.replace_all_uses_with(operand)
    Rewriter.erase_op(terminator)
    for inner in list(block.ops):
        inner.detach()
        Rewriter.insert_op(inner, InsertPoint.before(op))
    Rewriter.replace_op(op, [], results)
