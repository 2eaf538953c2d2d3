"""Local forms of reductions that choose among the elements (argmax)."""

from __future__ import annotations

from xdsl.ir import SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.rules.access import ints
from autopar.dialects.rules.core import FactorKind
from autopar.dialects.shard import AllGatherOp, make_collective
from autopar.dialects.tensors import shape_of

from ..local_builder import resized
from .core import LocalOp, localizer


@localizer("stablehlo.reduce", only_moving=True)
def _choose(local: LocalOp) -> None:
    """Each device chooses among its own elements, and among what all chose, in their order. The
    padding holds initial values, which a choice may meet more than once."""
    op, rule = local.op, local.rule
    count = len(op.results)
    inits = op.operands[count:]
    (dim,) = (
        dim
        for dim, (factor,) in enumerate(rule.operands[0])
        if local.factors[factor] and rule.kinds[factor] is FactorKind.PERMUTATION
    )
    for index in range(count):
        local.mask_padding(index, dim, "sum", inits[index])
    builder = local.builder()
    axes = local.operand_specs[0].dims[dim]
    types = [local.local_result_type(index) for index in range(count)]
    dims, body = ints(op, "dimensions"), op.regions[0]
    chosen = stablehlo.ReduceOp(op.operands[:count], inits, dims, body.clone(), types)
    builder.insert(chosen)
    gathered: list[SSAValue] = []
    for value in chosen.results:
        shape = shape_of(value.type)
        row = builder.op("reshape", [value], resized(value.type, (1, *shape)))
        rows = (local.table.parts(axes), *shape)
        grid = local.table.refined.name
        gathered.append(
            builder.insert(make_collective(AllGatherOp, row, grid, axes, rows, gather_axis=0))
        )
    last = stablehlo.ReduceOp(gathered, inits, [0], body.clone(), types)
    builder.insert(last)
    local.replace(last.results)
