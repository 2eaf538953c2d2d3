"""Tables that a step adds to: `table.at[indices].add(values)` as the table plus a sum of its own.

What examples add to (or multiply with, or are the largest of) is a value that does not depend on
the batch. Taken apart from it, what they add is a sum over the batch as any other.
"""

from __future__ import annotations

from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.reductions import COMBINERS
from autopar.dialects.rules.access import body_reducer
from autopar.passes.partition.local_builder import splat_neutral

from .batch_flow import BatchFlow

_OPS: dict[str, type[Operation]] = {op.name: op for op in stablehlo.StableHLO.operations}


def split_scatters(block: Block, flow: BatchFlow) -> bool:
    """Lets scatters of examples into a value without them begin with nothing; whether there were
    any. `flow` is that of the block as it was."""
    found = False
    for op in list(block.ops):
        if op.name != "stablehlo.scatter" or len(op.results) != 1:
            continue
        held, _, updates = op.operands
        kind = body_reducer(op.regions[0])
        if kind is None or flow.depends(held) or not flow.depends(updates) or _is_constant(held):
            continue
        if flow.is_per_example(op.results[0]):
            continue
        neutral = splat_neutral(kind, held.type)
        neutral.location = op.location
        Rewriter.insert_op(neutral, InsertPoint.before(op))
        combined = _OPS[COMBINERS[kind]].create(
            operands=[held, op.results[0]], result_types=[held.type]
        )
        combined.location = op.location
        Rewriter.insert_op(combined, InsertPoint.after(op))
        for use in list(op.results[0].uses):
            if use.operation is not combined:
                use.operation.operands[use.index] = combined.results[0]
        op.operands[0] = neutral.results[0]
        found = True
    return found


def _is_constant(value: SSAValue) -> bool:
    while isinstance(value.owner, Operation) and value.owner.name == "stablehlo.broadcast_in_dim":
        value = value.owner.operands[0]
    return isinstance(value.owner, Operation) and value.owner.name == "stablehlo.constant"
