"""What explanations say of other choices, held against brute force and against plans in which the
choice is stated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

import pytest

from autopar.dialects import make_context
from autopar.dialects.autopar import set_arg_shardings
from autopar.dialects.sharding import DimSharding, Grid, Sharding, parse_axis
from autopar.lowering.parse import parse_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.importing.grid_option import make_grid_op
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.explain import Explainer
from autopar.passes.planning.naming import UnknownValueError
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import Planned, make_plan
from autopar.passes.solver.solve import SolveOptions

TEXT = """
func.func @main(%x: tensor<4096x1024xf32> loc("batch['x']"),
                %w: tensor<1024x2048xf32> loc("params['w']"),
                %v: tensor<2048x1024xf32> loc("params['v']"))
    -> (tensor<4096x1024xf32> {jax.result_info = "result['y']"}) {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<4096x1024xf32>, tensor<1024x2048xf32>) -> tensor<4096x2048xf32>
    loc("jit(f)/mlp/up/dot_general"("/home/me/model.py":41:7))
  %1 = stablehlo.tanh %0 : tensor<4096x2048xf32>
    loc("jit(f)/mlp/tanh"("/home/me/model.py":42:7))
  %2 = stablehlo.dot_general %1, %v, contracting_dims = [1] x [0]
    : (tensor<4096x2048xf32>, tensor<2048x1024xf32>) -> tensor<4096x1024xf32>
    loc("jit(f)/mlp/down/dot_general"("/home/me/model.py":43:7))
  return %2 : tensor<4096x1024xf32>
}
"""
DOWN = "dot_general (mlp/down, model.py:43)"
LINE = Grid("mesh", (("x", 8),))
PLANE = Grid("mesh", (("x", 2), ("y", 4)))


def planned(
    grid: Grid = LINE,
    *,
    arguments: Sequence[Sharding | None] = (None, None, None),
    demands: Demands | None = None,
    limit: int | None = None,
    text: str = TEXT,
) -> Planned:
    context = make_context()
    module = parse_module(text, "model.mlir", context)
    block = module.body.block
    assert block.first_op is not None
    block.insert_op_before(make_grid_op(grid), block.first_op)
    set_arg_shardings(main_function(module), arguments)
    prices = CostModel.of(read_cluster("8xv100"), grid)
    return make_plan(module, context, prices, SolveOptions(10), limit, demands)


def explainer(plan: Planned, limit: int | None = None, demands: Demands | None = None) -> Explainer:
    return Explainer(plan.graph, plan.choices.of_node, limit=limit, demands=demands)


def cheapest_by_brute_force(graph: PlanGraph) -> dict[tuple[int, int], float]:
    """Per node and choice the least cost of all combinations with it."""
    best: dict[tuple[int, int], float] = {}
    for chosen in product(*(range(node.size) for node in graph.nodes)):
        cost = sum(float(node.seconds[c]) for node, c in zip(graph.nodes, chosen, strict=True))
        cost += sum(float(t[chosen[u], chosen[v]]) for (u, v), t in graph.edges.items())
        for item in enumerate(chosen):
            best[item] = min(best.get(item, float("inf")), cost)
    return best


def test_other_choices_cost_what_brute_force_finds() -> None:
    plan = planned()
    best = cheapest_by_brute_force(plan.graph)
    least = min(best.values())
    alternatives = explainer(plan).alternatives
    assert alternatives.seconds == pytest.approx(least)
    for node, own in enumerate(plan.graph.nodes):
        found = alternatives.of(node)
        assert {a.choice for a in found} == set(range(own.size)) - {alternatives.chosen[node]}
        assert all(a.replanned for a in found)
        for one in found:
            assert one.seconds == pytest.approx(best[node, one.choice], rel=1e-6)
            assert one.bound <= one.seconds
        assert [a.seconds for a in found] == sorted(a.seconds for a in found)


def test_what_is_near_alone_is_an_upper_bound() -> None:
    plan = planned(PLANE)
    alternatives = explainer(plan).alternatives
    for node in range(len(plan.graph.nodes)):
        exact = {a.choice: a.seconds for a in alternatives.of(node)}
        near = {a.choice: a.seconds for a in alternatives.of(node, replans=0)}
        assert near.keys() == exact.keys()
        assert all(near[choice] >= (1 - 1e-9) * exact[choice] for choice in near)


def test_other_choices_cost_what_they_cost_when_stated() -> None:
    """The second argument's: each of them planned as a sharding of the program."""
    base = planned(PLANE)
    (one,) = explainer(base).explain("params['w']")
    assert len(one.others) == one.num_choices - 1 > 5
    for other in one.others[:4]:
        dims = tuple(DimSharding(tuple(map(parse_axis, dim))) for dim in other.dims)
        stated = planned(PLANE, arguments=(None, Sharding("mesh", dims), None))
        cost = stated.choices.solution.cost - base.choices.solution.cost
        assert other.seconds == pytest.approx(cost * 1e-12, rel=1e-3, abs=1e-10)


def test_changes_add_up() -> None:
    for one in explainer(planned(PLANE)).explain("model.py:41"):
        for other in one.others:
            total = sum(change.seconds for change in other.changes)
            assert total == pytest.approx(other.seconds, abs=5e-9)


def test_collectives_are_named() -> None:
    (one,) = explainer(planned()).explain("arg1")
    assert any("over x" in change.after for other in one.others for change in other.changes)


def test_a_change_of_one_value_has_its_name() -> None:
    (one,) = explainer(planned(text=re.sub(r' loc\("params[^)]*\)', "", TEXT))).explain("arg1")
    changes = [change for other in one.others for change in other.changes if change.count == 1]
    assert any("arg1" in change.what for change in changes)
    assert not any("*" in change.what for change in changes)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("arg0", "batch['x']"),
        ("argument 0", "batch['x']"),
        ("params['w']", "params['w']"),
        ("params", "params['w'], params['v']"),
        ("out0", "result['y']"),
        ("result['y']", "result['y']"),
        ("model.py:42", "the result of tanh (mlp, model.py:42)"),
        ("me/model.py:42:7", "the result of tanh (mlp, model.py:42)"),
        ("down", f"{DOWN}, the result of {DOWN}"),
        ("jit(f)/mlp/tanh", "the result of tanh (mlp, model.py:42)"),
    ],
)  # fmt: skip
def test_names(name: str, found: str) -> None:
    assert ", ".join(one.name for one in explainer(planned()).explain(name)) == found


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("parms['w']", "params['w']"),
        ("model.py:99", "model.py:4"),
        ("mlp/upp", "mlp/up"),
        ("arg3", "arg0 to arg2"),
        ("", "out0"),
    ],
)
def test_unknown_names(name: str, near: str) -> None:
    with pytest.raises(UnknownValueError) as caught:
        explainer(planned()).explain(name)
    assert f"no value is named {name!r}" in str(caught.value)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_decided() -> None:
    rows = Sharding("mesh", (DimSharding((parse_axis("x"),)), DimSharding(())))
    demands = Demands(batch_axis="y")
    plan = planned(PLANE, arguments=(None, rows, None), demands=demands)
    told = explainer(plan, demands=demands)
    decided = {one.name: (one.decided_by, one.why) for one in told.every_argument()}
    assert decided["params['w']"] == (
        "user",
        'the program states [{"x"}, {}] for this argument',
    )
    assert decided["params['v']"][0] in ("search", "option")
    (alike,) = told.explain("model.py:42")
    assert alike.decided_by == "search"
    assert "one choice with 1 other values: dot_general (mlp/up, model.py:41)" in alike.why


EINSUM = """
func.func @main(%x: tensor<4096x4096xf32>) -> tensor<4096x4096xf32> {
  %0 = "stablehlo.einsum"(%x, %x) {einsum_config = "ij,jk->ik"}
    : (tensor<4096x4096xf32>, tensor<4096x4096xf32>) -> tensor<4096x4096xf32>
  %1 = stablehlo.add %0, %0 : tensor<4096x4096xf32>
  return %1 : tensor<4096x4096xf32>
}
"""


def test_what_every_device_computes_whole_is_read_and_written_whole() -> None:
    """So it is no cheaper where the operand or the result is split."""
    plan = planned(PLANE, arguments=(None,), text=EINSUM)
    assert plan.choices.is_optimal
    others = [other for one in explainer(plan).every_argument() for other in one.others]
    assert others and all(other.seconds > 0 for other in others)


def test_options_decide() -> None:
    demands = Demands(batch_axis="y")
    plan = planned(PLANE, demands=demands)
    one = explainer(plan, demands=demands).explain("arg0")[0]
    assert one.decided_by == "option"
    assert one.why.startswith('batch-axis=y demands [{"y", ?}, {?}] of it; the search chose')
    assert one.dims[0][:1] == ("y",)


DONATED = TEXT.replace("loc(\"batch['x']\")", "{tf.aliasing_output = 0 : i32}")


def test_what_is_stated_of_a_result_decides_before_options() -> None:
    said = "autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>, jax.result_info"
    text = DONATED.replace("jax.result_info", said)
    demands = Demands(zero=3)
    one = explainer(planned(text=text, demands=demands), demands=demands).explain("arg0")[0]
    assert (one.decided_by, one.dims) == ("user", ((), ()))
    assert "states [{}, {}] for result['y'], which takes its buffer" in one.why


def test_a_donated_result_lies_where_its_argument_does() -> None:
    one = explainer(planned(text=DONATED)).explain("out0")[0]
    assert one.decided_by == "follows"
    assert "it lies where arg0 does, whose buffer it takes" in one.why


def test_what_does_not_fit_comes_last() -> None:
    free = planned(PLANE)
    limit = int(0.8 * free.choices.bytes)
    plan = planned(PLANE, limit=limit)
    rows = explainer(plan, limit).every_argument()
    others = [other for one in rows for other in one.others]
    assert any(not other.fits and other.bytes > limit for other in others)
    for one in rows:
        fits = [other.fits for other in one.others]
        assert fits == sorted(fits, reverse=True)
    text = "\n".join(str(one) for one in explainer(plan, limit).explain("params"))
    assert "do not fit into memory" in text


def test_text() -> None:
    text = str(explainer(planned()).explain("params['w']")[0])
    first, second, third, *_ = text.splitlines()
    assert first == "params['w'] : tensor<1024x2048xf32>, argument 1 (batch)"
    assert second == "  whole: whole on each of the 8 devices"
    assert third == "  decided by the search"
    assert "(the whole program planned again)" in text
