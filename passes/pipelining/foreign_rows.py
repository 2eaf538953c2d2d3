"""Rows of the batch by an index that comes with the batch: `x[perm]`, edges between nodes.

The index tells a place in the whole batch, and a microbatch has other rows there, or none: JAX
clamps what is out of bounds, so that nothing would be said.
"""

from __future__ import annotations

from typing import cast

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.access import attribute
from autopar.dialects.stablehlo.attributes import GatherDimensionNumbers
from autopar.dialects.tensors import shape_of

from .batch_flow import BatchFlow

_PASSED = (
    "stablehlo.add",
    "stablehlo.broadcast_in_dim",
    "stablehlo.clamp",
    "stablehlo.concatenate",
    "stablehlo.convert",
    "stablehlo.maximum",
    "stablehlo.minimum",
    "stablehlo.reshape",
    "stablehlo.select",
    "stablehlo.slice",
    "stablehlo.transpose",
)


def refuse_foreign_rows(block: Block, flow: BatchFlow) -> None:
    """DiagnosticError at an op that takes rows of the batch where an argument of it says."""
    for op in block.ops:
        if op.name != "stablehlo.gather":
            continue
        source, indices = op.operands
        if not flow.is_per_example(source) or not flow.depends(indices):
            continue
        numbers = cast(GatherDimensionNumbers, attribute(op, "dimension_numbers"))
        for component, dim in enumerate(numbers.start_index_map):
            if any(place.dim == dim for place in flow.places[source]) and _is_of_argument(
                _component(indices, numbers.index_vector_dim, component), block
            ):
                raise DiagnosticError(
                    op,
                    "this takes rows of the batch by an index that comes with the batch: it is a "
                    "place in the whole batch, and a microbatch has other rows there; take the "
                    "rows outside of the step, or num_micro_batches=1",
                )


def _component(indices: SSAValue, vector: int, component: int) -> SSAValue:
    """What makes one component of the indices."""
    op = indices.owner
    if isinstance(op, Operation) and op.name == "stablehlo.concatenate":
        for part in op.operands:
            width = shape_of(part.type)[vector] if vector < len(shape_of(part.type)) else 1
            if component < width:
                return part
            component -= width
    return indices


def _is_of_argument(index: SSAValue, block: Block) -> bool:
    """Whether an index is an argument, but for conversions and negative places made good."""
    stack, seen, found = [index], {index}, False
    while stack:
        value = stack.pop()
        if isinstance(value, BlockArgument):
            if value.owner is not block:
                return False
            found = True
            continue
        op = value.owner
        assert isinstance(op, Operation)
        if op.name == "stablehlo.constant":
            continue
        if op.name not in _PASSED:
            return False
        for other in op.operands[1:] if op.name == "stablehlo.select" else op.operands:
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return found
