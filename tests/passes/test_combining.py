"""optimize-collectives on random blocks: every value is still made before it is used."""

from __future__ import annotations

import random

import pytest
from xdsl.context import Context
from xdsl.ir import Operation
from xdsl.parser import Parser

from autopar.dialects import make_context
from autopar.dialects.shard import AllReduceOp, PermuteOp
from autopar.lowering.parse import parse_module
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


CHAINS = f"""
shard.grid @g(shape = 2x4)
func.func @main(%a: tensor<8xf32>, %b: tensor<8xf32>, %u: {VALUE}, %v: {VALUE})
    -> ({VALUE}, {VALUE}) {{
  %0 = stablehlo.sine %a : {VALUE}
  %1 = stablehlo.sine %b : {VALUE}
  %2 = shard.all_reduce %0 on @g grid_axes = [0] reduction = max : {VALUE} -> {VALUE}
  %3 = shard.all_reduce %2 on @g grid_axes = [1] : {VALUE} -> {VALUE}
  %4 = stablehlo.add %3, %u : {VALUE}
  %5 = shard.all_reduce %1 on @g grid_axes = [0] : {VALUE} -> {VALUE}
  %6 = shard.all_reduce %5 on @g grid_axes = [1] : {VALUE} -> {VALUE}
  %7 = stablehlo.add %6, %v : {VALUE}
  func.return %4, %7 : {VALUE}, {VALUE}
}}
"""


def test_chains_of_collectives_are_combined_in_front_of_the_first_use() -> None:
    module = parse_module(CHAINS)
    OptimizeCollectivesPass().apply(make_context(), module)
    marks = [
        op.attributes.get("autopar.combine")
        for op in module.walk()
        if isinstance(op, AllReduceOp) and op.grid_axes.get_values() == (1,)
    ]
    assert len(marks) == 2 and marks[0] is not None and marks[0] == marks[1]


ROWS = """
shard.grid @g(shape = 4)
func.func @main(%a: tensor<8x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
  %0 = stablehlo.slice %a [7:8, 0:4] : (tensor<8x4xf32>) -> tensor<1x4xf32>
  %1 = shard.permute %0 on @g grid_axes = [0] pairs = [[0, 1], [1, 2], [2, 3]]
      : tensor<1x4xf32> -> tensor<1x4xf32>
  %2 = stablehlo.slice %a [7:8, 0:4] : (tensor<8x4xf32>) -> tensor<1x4xf32>
  %3 = shard.permute %2 on @g grid_axes = [0] pairs = [[0, 1], [1, 2], [2, 3]]
      : tensor<1x4xf32> -> tensor<1x4xf32>
  func.return %1, %3 : tensor<1x4xf32>, tensor<1x4xf32>
}
"""


@pytest.mark.parametrize(("rows", "count"), [("7:8", 1), ("0:1", 2)])
def test_equal_rows_are_fetched_once(rows: str, count: int) -> None:
    first, second = ROWS.split("%2 =")
    module = parse_module(f"{first}%2 ={second.replace('7:8', rows)}")
    OptimizeCollectivesPass().apply(make_context(), module)
    assert sum(isinstance(op, PermuteOp) for op in module.walk()) == count


def _scaled(line: str) -> str:
    """A step that scales pieces of two moments, gathers them, and adds gradients."""
    whole = "tensor<8xf32>"
    return f"""
shard.grid @g(shape = 4)
func.func @main(%m: tensor<2xf32>, %n: tensor<2xf32>, %u: {whole}, %v: {whole})
    -> ({whole}, {whole}) {{
  %0 = stablehlo.constant dense<0.9> : tensor<f32>
  %1 = stablehlo.broadcast_in_dim %0, dims = [] : (tensor<f32>) -> tensor<2xf32>
  %2 = stablehlo.multiply %m, %1 : tensor<2xf32>
  %3 = shard.all_gather %2 on @g grid_axes = [0] gather_axis = 0 : tensor<2xf32> -> {whole}
  %4 = stablehlo.add %3, %u : {whole}
  %5 = stablehlo.constant dense<0.9> : tensor<2xf32>
  %6 = stablehlo.slice %4 [0:2] : ({whole}) -> tensor<2xf32>
  %7 = {line} : tensor<2xf32>
  %8 = shard.all_gather %7 on @g grid_axes = [0] gather_axis = 0 : tensor<2xf32> -> {whole}
  %9 = stablehlo.add %8, %v : {whole}
  func.return %4, %9 : {whole}, {whole}
}}
"""


@pytest.mark.parametrize(
    ("line", "combined"),
    [
        ("stablehlo.multiply %n, %5", 2),
        ("stablehlo.negate %n", 2),
        ("stablehlo.multiply %n, %6", 0),  # what the first gather leads to
        ("stablehlo.multiply %n, %n", 0),  # no constant
    ],
)
def test_scaled_moments_are_gathered_as_one(line: str, combined: int) -> None:
    module = parse_module(_scaled(line))
    OptimizeCollectivesPass().apply(make_context(), module)
    module.verify()
    assert sum("autopar.combine" in op.attributes for op in module.walk()) == combined
    seen: set[Operation] = set()
    for op in module.walk():
        assert all(not isinstance(v.owner, Operation) or v.owner in seen for v in op.operands)
        seen.add(op)
