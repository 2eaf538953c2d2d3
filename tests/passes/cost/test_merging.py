"""The order of ops once collectives are merged."""

from __future__ import annotations

from xdsl.dialects.func import FuncOp

from autopar.lowering.parse import parse_module
from autopar.passes.cost.fusion import Fusion
from autopar.passes.walk import ops_in

TYPE = "tensor<4xf32>"


def order(*lines: str) -> list[str]:
    """Steps as the values that they make: `0`, or `0+2` for what runs together. A line is an op on
    the values that it names: `add 0 0`, `sum.x 1`, with `!` where it is to be combined."""
    body = ""
    for number, line in enumerate(lines):
        name, *operands = line.replace("!", "").split()
        values = ", ".join(f"%{operand}" for operand in operands)
        if name.startswith("sum"):
            mark = "{autopar.combine = 0 : i64}" if "!" in line else ""
            axis = "xy".index(name[-1])
            body += f"%{number} = shard.all_reduce {values} on @g grid_axes = [{axis}] {mark}"
            body += f" : {TYPE} -> {TYPE}\n"
        else:
            body += f"%{number} = stablehlo.{name} {values} : {TYPE}\n"
    module = parse_module(
        f"shard.grid @g(shape = 2x4)\n"
        f"func.func @main(%a: {TYPE}) -> {TYPE} {{ {body} return %{len(lines) - 1} : {TYPE} }}"
    )
    func = next(op for op in module.ops if isinstance(op, FuncOp))
    ops = list(ops_in(func.body.block))
    number_of = {op: str(number) for number, op in enumerate(ops[:-1])}
    steps = Fusion(func.body.block).steps
    assert steps[-1] == [[ops[-1]]]
    return ["+".join(number_of[op] for unit in step for op in unit) for step in steps[:-1]]


def test_independent_ones_run_where_the_last_stands() -> None:
    assert order("negate a", "sum.x 0", "negate a", "sum.x 2", "add 1 3") == [
        "0",
        "2",
        "1+3",
        "4",
    ]


def test_what_needs_the_first_waits() -> None:
    found = order("sum.x a", "negate 0", "negate 1", "abs a", "sum.x 3", "add 2 4")
    assert found == ["3", "0+4", "1", "2", "5"]


def test_dependent_ones_and_other_axes_stay_apart() -> None:
    assert order("sum.x a", "sum.x 0", "sum.y a") == ["0", "1", "2"]
    found = order("sum.x a", "abs a", "sum.x 0", "sum.x 1", "add 2 3")
    assert found == ["0", "1", "2+3", "4"]


def test_what_only_the_last_operand_needs_merges_with_what_runs_last() -> None:
    """As a loss that is returned behind the state; it stands first in the program."""
    found = order("sum.x a", "negate a", "sum.x 1", "sum.x 2", "add 3 0")
    assert found == ["1", "2", "0+3", "4"]
    found = order("sum.x a", "negate a", "sum.x 1", "sum.x 2", "add 0 3")
    assert found == ["1", "0+2", "3", "4"]


def test_combined_ones_are_one_and_merge_with_others() -> None:
    assert order("sum.x a !", "sum.x a !", "add 0 1") == ["0+1", "2"]
    assert order("sum.x a !", "sum.x a !", "sum.x a", "add 0 2") == ["0+1+2", "3"]


def test_of_groups_that_wait_for_each_other_the_first_is_one() -> None:
    """Each has a member that needs one of the other. What is met first becomes one, as in XLA; of
    the other group one is in front of that and one behind it."""
    found = order("sum.x a", "sum.y a", "sum.y 0", "sum.x 1", "add 2 3")
    assert found == ["1", "0+3", "2", "4"]
    found = order("sum.x a", "sum.y a", "sum.y 0", "sum.x 1", "sum.y 3", "add 2 3", "add 5 4")
    assert found == ["1", "0+3", "2+4", "5", "6"]


def test_a_group_waits_for_another_that_one_of_its_members_needs() -> None:
    found = order("sum.y a", "sum.x 0", "sum.x a", "sum.y a", "add 1 2", "add 3 4")
    assert found == ["0+3", "1+2", "4", "5"]


def test_scalars_that_are_broadcast_are_awaited_as_fusions_have_them() -> None:
    """Of an update what stands deeper is met later: the sum that the last factor is of comes before
    the one of the first, so that it joins the sums behind a gradient's."""
    module = parse_module(f"""
        shard.grid @g(shape = 2x4)
        func.func @main(%a: {TYPE}) -> {TYPE} {{
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %g = shard.all_reduce %a on @g grid_axes = [0] : {TYPE} -> {TYPE}
            %norm = stablehlo.reduce(%a init: %zero) applies stablehlo.add across dimensions = [0]
                : ({TYPE}, tensor<f32>) -> tensor<f32>
            %first = shard.all_reduce %norm on @g grid_axes = [0] : tensor<f32> -> tensor<f32>
            %own = stablehlo.reduce(%g init: %zero) applies stablehlo.add across dimensions = [0]
                : ({TYPE}, tensor<f32>) -> tensor<f32>
            %last = shard.all_reduce %own on @g grid_axes = [0] : tensor<f32> -> tensor<f32>
            %0 = stablehlo.broadcast_in_dim %first, dims = [] : (tensor<f32>) -> {TYPE}
            %1 = stablehlo.broadcast_in_dim %last, dims = [] : (tensor<f32>) -> {TYPE}
            %2 = stablehlo.multiply %g, %0 : {TYPE}
            %3 = stablehlo.divide %2, %1 : {TYPE}
            %4 = stablehlo.subtract %a, %3 : {TYPE}
            return %4 : {TYPE}
        }}""")
    func = next(op for op in module.ops if isinstance(op, FuncOp))
    together = [step for step in Fusion(func.body.block).steps if len(step) > 1]
    assert [[str(op.results[0].type) for unit in step for op in unit] for step in together] == [
        ["tensor<f32>", "tensor<f32>"]
    ]
