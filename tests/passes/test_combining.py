"""optimize-collectives on random blocks: every value is still made before it is used."""

from __future__ import annotations

import random

import pytest
from xdsl.context import Context
from xdsl.ir import Operation
from xdsl.parser import Parser

from autopar.dialects import make_context
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass

VALUE = "tensor<8xf32>"


def random_block(seed: int) -> str:
    """A function of collectives over two axes and elementwise ops that feed each other."""
    rng = random.Random(seed)
    values = [f"%a{i}" for i in range(3)]
    lines: list[str] = []
    for index in range(rng.randint(4, 20)):
        operand, axis = rng.choice(values[-6:]), rng.randint(0, 1)
        name = f"%v{index}"
        if rng.random() < 0.5:
            reduction = rng.choice(["sum", "max"])
            lines.append(
                f"{name} = shard.all_reduce {operand} on @g grid_axes = [{axis}] "
                f"reduction = {reduction} : {VALUE} -> {VALUE}"
            )
        else:
            op = rng.choice(["sine", "convert", "reshape"])
            lines.append(f'{name} = "stablehlo.{op}"({operand}) : ({VALUE}) -> {VALUE}')
        values.append(name)
    results = rng.sample(values, 3)
    return (
        "shard.grid @g(shape = 2x4)\n"
        f"func.func @main({', '.join(f'%a{i}: {VALUE}' for i in range(3))}) -> "
        f"({', '.join([VALUE] * 3)}) {{\n  " + "\n  ".join(lines) + "\n  "
        f"func.return {', '.join(results)} : {', '.join([VALUE] * 3)}\n}}\n"
    )


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_values_are_made_before_they_are_used(first: int) -> None:
    context: Context = make_context()
    combined = 0
    for seed in range(first, first + 50):
        module = Parser(context, random_block(seed)).parse_module()
        OptimizeCollectivesPass().apply(context, module)
        func = list(module.body.block.ops)[-1]
        seen: set[Operation] = set()
        for op in func.regions[0].block.ops:
            for value in op.operands:
                assert not isinstance(value.owner, Operation) or value.owner in seen, seed
            seen.add(op)
            combined += "autopar.combine" in op.attributes
    assert combined
