"""optimize-collectives on random blocks: every value is still made before it is used."""

from __future__ import annotations

import random

import pytest
from xdsl.context import Context
from xdsl.ir import Operation
from xdsl.parser import Parser

from autopar.dialects import make_context
from autopar.dialects.shard import AllGatherOp, PermuteOp
from autopar.lowering.parse import parse_module
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass

AXES = (2, 4)
LARGE = 64
"""Elements from which on values are scattered rather than gathered."""


def _type(size: int) -> str:
    return f"tensor<{size}xf32>"


def random_block(seed: int) -> str:
    """A function of collectives over two axes and elementwise ops that feed each other."""
    rng = random.Random(seed)
    values = [(f"%a{i}", 8) for i in range(3)]
    lines: list[str] = []
    for index in range(rng.randint(4, 20)):
        (operand, size), axis = rng.choice(values[-6:]), rng.randint(0, 1)
        name, line, after = f"%v{index}", f"on @g grid_axes = [{axis}]", size
        if rng.random() < 0.5 and size >= LARGE:
            after = size // AXES[axis]
            reduction = rng.choice(["sum", "max"])
            line = f"shard.reduce_scatter {operand} {line} reduction = {reduction} scatter_axis = 0"
        elif rng.random() < 0.5:
            after = size * AXES[axis]
            line = f"shard.all_gather {operand} {line} gather_axis = 0"
        else:
            line = f'"stablehlo.{rng.choice(["sine", "convert", "reshape"])}"({operand})'
        given = f"({_type(size)})" if line.startswith('"') else _type(size)
        lines.append(f"{name} = {line} : {given} -> {_type(after)}")
        values.append((name, after))
    results = rng.sample(values, 3)
    types = ", ".join(_type(size) for _, size in results)
    arguments = ", ".join(f"%a{i}: {_type(8)}" for i in range(3))
    return (
        f"shard.grid @g(shape = {'x'.join(map(str, AXES))})\n"
        f"func.func @main({arguments}) -> ({types}) {{\n  " + "\n  ".join(lines) + "\n  "
        f"func.return {', '.join(name for name, _ in results)} : {types}\n}}\n"
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


CHAINS = """
shard.grid @g(shape = 2x4)
func.func @main(%a: tensor<8xf32>, %b: tensor<8xf32>, %u: tensor<16xf32>, %v: tensor<16xf32>)
    -> (tensor<16xf32>, tensor<16xf32>) {
  %0 = stablehlo.sine %a : tensor<8xf32>
  %1 = stablehlo.sine %b : tensor<8xf32>
  %2 = shard.reduce_scatter %0 on @g grid_axes = [0] reduction = max scatter_axis = 0
      : tensor<8xf32> -> tensor<4xf32>
  %3 = shard.all_gather %2 on @g grid_axes = [1] gather_axis = 0 : tensor<4xf32> -> tensor<16xf32>
  %4 = stablehlo.add %3, %u : tensor<16xf32>
  %5 = shard.reduce_scatter %1 on @g grid_axes = [0] scatter_axis = 0
      : tensor<8xf32> -> tensor<4xf32>
  %6 = shard.all_gather %5 on @g grid_axes = [1] gather_axis = 0 : tensor<4xf32> -> tensor<16xf32>
  %7 = stablehlo.add %6, %v : tensor<16xf32>
  func.return %4, %7 : tensor<16xf32>, tensor<16xf32>
}
"""


RESHAPED = """
shard.grid @g(shape = 2x4)
func.func @main(%a: tensor<8xf32>, %b: tensor<8xf32>, %u: tensor<1x64xf32>)
    -> tensor<1x64xf32> {
  %0 = shard.all_gather %a on @g grid_axes = [1] gather_axis = 0 : tensor<8xf32> -> tensor<32xf32>
  %1 = stablehlo.reshape %0 : (tensor<32xf32>) -> tensor<1x32xf32>
  %2 = shard.all_gather %1 on @g grid_axes = [0] gather_axis = 1
      : tensor<1x32xf32> -> tensor<1x64xf32>
  %3 = stablehlo.add %2, %u : tensor<1x64xf32>
  %4 = shard.all_gather %b on @g grid_axes = [1] gather_axis = 0 : tensor<8xf32> -> tensor<32xf32>
  %5 = stablehlo.reshape %4 : (tensor<32xf32>) -> tensor<1x32xf32>
  %6 = shard.all_gather %5 on @g grid_axes = [0] gather_axis = 1
      : tensor<1x32xf32> -> tensor<1x64xf32>
  %7 = stablehlo.add %6, %3 : tensor<1x64xf32>
  func.return %7 : tensor<1x64xf32>
}
"""
"""Two biases, each gathered over one axis, reshaped and gathered over the other where it is
added."""


def test_what_is_reshaped_between_two_gathers_keeps_neither_from_others() -> None:
    module = parse_module(RESHAPED)
    OptimizeCollectivesPass().apply(make_context(), module)
    module.verify()
    marks = [
        op.attributes.get("autopar.combine") for op in module.walk() if isinstance(op, AllGatherOp)
    ]
    assert None not in marks and len(marks) == 4 and len(set(marks)) == 2


def test_chains_of_collectives_are_combined_in_front_of_the_first_use() -> None:
    module = parse_module(CHAINS)
    OptimizeCollectivesPass().apply(make_context(), module)
    marks = [
        op.attributes.get("autopar.combine") for op in module.walk() if isinstance(op, AllGatherOp)
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
