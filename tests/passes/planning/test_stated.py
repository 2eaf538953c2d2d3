"""What the program says of the results of its ops binds plans, in every spelling; so does what it
says of donation."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from autopar.dialects import make_context
from autopar.dialects.autopar import (
    BUFFER_DONOR,
    aliases,
    arg_shardings,
    entries_of,
    result_shardings,
    sharding_of,
)
from autopar.dialects.sharding import Sharding
from autopar.lowering.parse import parse_module
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import DECIDE, IMPORT, PARTITION
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.passes.planning.explain import Explainer

SHARD_GRID = 'shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}'
SDY_MESH = 'sdy.mesh @mesh = <["x"=2, "y"=4]>'
TENSOR = "tensor<256x512xf32>"
ROWS = '[{"y", "x"}, {}]'


def _layer(grid: str, attributes: str = "", after: str = "") -> str:
    """A product that is read by a tanh, as `%b` where anything stands between."""
    read = "%b" if after else "%0"
    return f"""
{grid}
func.func @main(%x: {TENSOR}, %w: tensor<512x512xf32>) -> {TENSOR} {{
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] {attributes}
    : ({TENSOR}, tensor<512x512xf32>) -> {TENSOR}
  {after}
  %1 = stablehlo.tanh {read} : {TENSOR}
  return %1 : {TENSOR}
}}
"""


_SHARDING = "%s = shard.sharding @mesh split_axes = [[1, 0], []] : !shard.sharding\n"
SPELLINGS = {
    "shard": _layer(SHARD_GRID, after=f"{_SHARDING}%b = shard.shard %0 to %s : {TENSOR}"),
    "shard twice": _layer(
        SHARD_GRID,
        after=f"{_SHARDING}%a = shard.shard %0 to %s : {TENSOR}\n"
        f"%b = shard.shard %a to %s annotate_for_users : {TENSOR}",
    ),
    "attribute": _layer(
        SHARD_GRID, f"{{autopar.sharding = [#autopar.sharding<@mesh, {ROWS}>]}}"
    ),
    "sdy": _layer(
        SDY_MESH, f"{{sdy.sharding = #sdy.sharding_per_value<[<@mesh, {ROWS}>]>}}"
    ),
    "sdy constraint": _layer(
        SDY_MESH, after=f"%b = sdy.sharding_constraint %0 <@mesh, {ROWS}> : {TENSOR}"
    ),
}  # fmt: skip


def _planned(text: str) -> ModuleOp:
    module = parse_module(text, "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    AutoShardPass(cluster="8xh100").apply(make_context(), module)
    return module


def _ops(module: ModuleOp, name: str) -> list[Operation]:
    return [op for op in module.walk() if op.name == f"stablehlo.{name}"]


def _lie(op: Operation) -> list[str]:
    shardings = [sharding_of(result) for result in op.results]
    return [f"[{', '.join(map(str, own.dims))}]" if own else "" for own in shardings]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_said_of_a_result_binds(spelling: str) -> None:
    (tanh,) = _ops(_planned(SPELLINGS[spelling]), "tanh")
    assert _lie(tanh) == [ROWS]


LOOP = f"""
{SDY_MESH}
func.func @main(%x: {TENSOR}, %w: tensor<512x512xf32>) -> ({TENSOR}, {TENSOR}) {{
  %c0 = stablehlo.constant dense<0> : tensor<i32>
  %c1 = stablehlo.constant dense<1> : tensor<i32>
  %c9 = stablehlo.constant dense<9> : tensor<i32>
  %r:4 = stablehlo.while(%i = %c0, %h = %x, %v = %w, %g = %x)
    : tensor<i32>, {TENSOR}, tensor<512x512xf32>, {TENSOR}
    attributes {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, []>,
      <@mesh, [{{"y", "x"}}, {{}}]>, <@mesh, [{{?}}, {{?}}]>, <@mesh, [{{?}}, {{"x"}}]>]>}}
  cond {{
    %p = stablehlo.compare LT, %i, %c9 : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %p : tensor<i1>
  }} do {{
    %n = stablehlo.add %i, %c1 : tensor<i32>
    %0 = stablehlo.dot_general %h, %v, contracting_dims = [1] x [0]
      {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{{}}, {{"x"}}]>]>}}
      : ({TENSOR}, tensor<512x512xf32>) -> {TENSOR}
    %1 = stablehlo.tanh %0 : {TENSOR}
    %2 = stablehlo.sine %1
      {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{{"y"}}, {{"x"}}]>]>}} : {TENSOR}
    %3 = stablehlo.add %2, %g : {TENSOR}
    stablehlo.return %n, %1, %v, %3 : tensor<i32>, {TENSOR}, tensor<512x512xf32>, {TENSOR}
  }}
  return %r#1, %r#3 : {TENSOR}, {TENSOR}
}}
"""


def test_what_a_loop_and_its_body_are_said_to_be_binds() -> None:
    """Of several results, and of what elementwise ops and the carry would join."""
    module = _planned(LOOP)
    lie = {op.name.split(".")[1]: _lie(op) for op in module.walk()}
    assert lie["dot_general"] == ['[{}, {"x"}]']
    assert lie["sine"] == ['[{"y"}, {"x"}]']
    _, carried, _, summed = lie["while"]
    assert carried == ROWS
    assert summed.endswith(', {"x"}]')
    run_passes(module, (*DECIDE, *PARTITION), make_context())
    (loop,) = _ops(module, "while")
    assert str(loop.results[1].type) == "tensor<32x512xf32>"


CHAIN = f"""
{SDY_MESH}
func.func @main(%x: {TENSOR}) -> {TENSOR} {{
  %0 = stablehlo.tanh %x {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, {ROWS}>]>}} : {TENSOR}
  %1 = stablehlo.sine %0 : {TENSOR}
  %2 = stablehlo.cosine %1
    {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{{}}, {{"x", "y"}}]>]>}} : {TENSOR}
  return %2 : {TENSOR}
}}
"""


def test_values_that_are_said_to_lie_differently_are_moved_between() -> None:
    module = parse_module(CHAIN, "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    planned, terms = AutoShardPass(cluster="8xh100").plan(make_context(), module)
    lie = [_lie(op)[0] for name in ("tanh", "cosine") for op in _ops(module, name)]
    assert lie == [ROWS, '[{}, {"x", "y"}]']
    tried = planned.partitioned(module, make_context(), terms.prices)
    assert tried.tried is not None
    communication = tried.tried.price.communication_total
    assert communication > 0
    assert planned.choices.solution.cost * 1e-12 >= communication


def test_explanations_say_that_the_program_states_it() -> None:
    module = parse_module(CHAIN, "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    planned, _ = AutoShardPass(cluster="8xh100").plan(make_context(), module)
    (told,) = Explainer(planned.graph, planned.choices.of_node).explain("out0")
    assert told.decided_by == "user"
    assert told.why.startswith('the program states [{}, {"x", "y"}] for the result of cosine')


def test_slices_that_are_said_to_lie_somewhere_are_choices_of_their_own() -> None:
    """Of a concatenation of slices, which would read what they are of."""
    rows = TENSOR.replace("256", "128")
    text = f"""
{SDY_MESH}
func.func @main(%x: {TENSOR}) -> {TENSOR} {{
  %0 = stablehlo.slice %x [0:128, 0:512]
    {{sdy.sharding = #sdy.sharding_per_value<[<@mesh, {ROWS}>]>}} : ({TENSOR}) -> {rows}
  %1 = stablehlo.slice %x [128:256, 0:512] : ({TENSOR}) -> {rows}
  %2 = stablehlo.concatenate %1, %0, dim = 0 : ({rows}, {rows}) -> {TENSOR}
  return %2 : {TENSOR}
}}
"""
    assert _lie(_ops(_planned(text), "slice")[0]) == [ROWS]


OPEN = f"""
{SDY_MESH}
func.func @main(
    %x: tensor<256x128xf32> {{sdy.sharding = #sdy.sharding<@mesh, [{{?}}, {{"y", ?}}]>}},
    %w: tensor<128x512xf32> {{sdy.sharding = #sdy.sharding<@mesh, [{{"y", "x"}}, {{}}]>}})
    -> ({TENSOR} {{sdy.sharding = #sdy.sharding<@mesh, [{{?}}, {{"x", ?}}]>}}) {{
  %c = sdy.sharding_constraint %x <@mesh, [{{?}}, {{?}}]> : tensor<256x128xf32>
  %0 = stablehlo.dot_general %c, %w, contracting_dims = [1] x [0]
    : (tensor<256x128xf32>, tensor<128x512xf32>) -> {TENSOR}
  return %0 : {TENSOR}
}}
"""


def test_constraints_that_leave_dimensions_open_are_written_as_planned() -> None:
    """Propagation would complete them otherwise."""
    module = parse_module(OPEN, "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    planned, _ = AutoShardPass(cluster="8xv100").plan(make_context(), module)
    (constraint,) = [op for op in module.walk() if op.name == "autopar.constraint"]
    graph = planned.graph
    node = graph.node_of(constraint.results[0])
    assert node is not None
    chosen = graph.nodes[node].specs[planned.choices.of_node[node]]
    assert sharding_of(constraint.results[0]) == graph.table.sharding(chosen)


DONATED = f"""
{SDY_MESH}
func.func @main(%x: {TENSOR} {{tf.aliasing_output = 0 : i32,
      sdy.sharding = #sdy.sharding<@mesh, [{{"y"}}, {{}}]>}})
    -> ({TENSOR} {{sdy.sharding = #sdy.sharding<@mesh, [{{}}, {{"y"}}]>}}) {{
  %0 = stablehlo.tanh %x : {TENSOR}
  return %0 : {TENSOR}
}}
"""


def test_a_result_that_is_said_to_lie_elsewhere_than_what_it_is_donated_is_moved_there() -> None:
    module = parse_module(DONATED, "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    planned, terms = AutoShardPass(cluster="8xh100").plan(make_context(), module)
    tried = planned.partitioned(module, make_context(), terms.prices).tried
    assert tried is not None and tried.price.communication_total > 0
    assert planned.choices.solution.cost * 1e-12 >= tried.price.communication_total


DONORS = f"""
{SDY_MESH}
func.func @main(
    %w: {TENSOR} {{jax.buffer_donor = true, sdy.sharding = #sdy.sharding<@mesh, [{{"y"}}, {{}}]>}},
    %v: {TENSOR} {{jax.buffer_donor = true}},
    %u: {TENSOR} {{jax.buffer_donor = true, sdy.sharding = #sdy.sharding<@mesh, [{{}}, {{"x"}}]>}},
    %x: {TENSOR}, %s: tensor<512x512xf32> {{jax.buffer_donor = true}})
    -> (tensor<512x512xf32>, {TENSOR},
        {TENSOR} {{sdy.sharding = #sdy.sharding<@mesh, [{{"y"}}, {{}}]>}}, {TENSOR}) {{
  %0 = stablehlo.dot_general %w, %x, contracting_dims = [0] x [0]
    : ({TENSOR}, {TENSOR}) -> tensor<512x512xf32>
  %1 = stablehlo.tanh %v : {TENSOR}
  %2 = stablehlo.sine %u : {TENSOR}
  %3 = stablehlo.dot_general %w, %s, contracting_dims = [1] x [0]
    : ({TENSOR}, tensor<512x512xf32>) -> {TENSOR}
  return %0, %1, %2, %3 : tensor<512x512xf32>, {TENSOR}, {TENSOR}, {TENSOR}
}}
"""


def test_results_lie_where_the_donors_of_their_buffers_do() -> None:
    """Of their next values, else in order; not where both are said to lie differently."""
    func = main_function(_planned(DONORS))
    assert dict(aliases(func)) == {0: 3, 1: 1, 4: 0}
    lie, given = arg_shardings(func), result_shardings(func)
    assert [lie[0], lie[1], lie[4]] == [given[3], given[1], given[0]]
    assert lie[0] == Sharding.of("mesh", [["y"], []])
    assert lie[2] == Sharding.of("mesh", [[], ["x"]])
    assert given[2] == Sharding.of("mesh", [["y"], []])
    assert BUFFER_DONOR in entries_of(func.arg_attrs, 5)[2].data
