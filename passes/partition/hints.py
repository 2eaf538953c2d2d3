"""Ops that only speak to propagation: gone once shardings are decided."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import ConstraintOp
from autopar.dialects.sdy import (
    DataFlowEdgeOp,
    NamedComputationOp,
    PropagationBarrierOp,
    ShardingGroupOp,
)
from autopar.passes.splice import move_body
from autopar.passes.walk import SHARDED_BODIES, ops_of

from .survey import Survey

_HINTS = (
    DataFlowEdgeOp,
    NamedComputationOp,
    PropagationBarrierOp,
    ShardingGroupOp,
)


def has_propagation_ops(found: Survey) -> bool:
    """Whether there is anything for `drop_propagation_ops` to do."""
    return found.holds(*_HINTS) or ConstraintOp in found.scalar_kinds


def drop_propagation_ops(module: ModuleOp) -> None:
    """Removes sharding groups, barriers and data-flow edges, named computations (their bodies
    stay), and constraints on the scalars of reduction bodies."""
    for op in ops_of(module, ConstraintOp, *_HINTS):
        if isinstance(op, ShardingGroupOp):
            Rewriter.erase_op(op)
        elif isinstance(op, NamedComputationOp):
            Rewriter.replace_op(op, [], move_body(op.regions[0].block, op.operands, op))
        elif not isinstance(op, ConstraintOp) or _is_on_scalars(op):
            Rewriter.replace_op(op, [], [op.operands[0]])


def _is_on_scalars(op: ConstraintOp) -> bool:
    parent = op.parent_op()
    return parent is not None and parent.name not in SHARDED_BODIES
