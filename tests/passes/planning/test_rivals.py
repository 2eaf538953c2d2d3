"""Plans that a search is held against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.importing.arguments import argument_kinds, main_function
from autopar.passes.importing.methods import MethodName
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import planner
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import Trial, make_plan
from autopar.passes.planning.rivals import hybrids_of, propagated
from autopar.passes.planning.search import Search
from autopar.passes.planning.writing import write_choices
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh

GRID = Grid("mesh", (("x", 2), ("y", 4)))
PRICES = CostModel.of(read_cluster("8xh100"), GRID)


def _module() -> ModuleOp:
    """A step of two layers with SGD and momentum."""

    def step(state: Any, batch: Any) -> Any:
        params, moments = state

        def loss(params: Any) -> Any:
            return jnp.mean((jnp.tanh(batch @ params["up"]) @ params["down"]) ** 2)

        grads = jax.grad(loss)(params)
        moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, grads)
        return jax.tree.map(lambda p, m: p - 0.1 * m, params, moments), moments

    shapes = {"up": (64, 256), "down": (256, 64)}
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    batch = jax.ShapeDtypeStruct((4096, 64), np.float32)
    lowered = jax.jit(step, donate_argnums=0).lower((params, params), batch)
    module = import_module(lowered.compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _graph(module: ModuleOp) -> PlanGraph:
    return PlanGraph(main_function(module), AxisTable(grid_of(module), ()), PRICES)


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3"])
def test_what_propagation_makes_is_a_plan(method: MethodName) -> None:
    module = _module()
    graph = _graph(module)
    rival = propagated(module, make_context(), graph, method)
    choices = Search(graph, SolveOptions(5)).within(rival.bound)
    write_choices(graph, choices.of_node)
    propagate_shardings(module)
    planned = Trial(module, make_context(), PRICES)
    made = Trial(rival.module, make_context(), PRICES)
    assert planned.price.total <= 1.02 * made.price.total  # ZeRO-3's phases are none of a plan's


def test_a_search_that_is_misled_is_held_against_propagation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where what it prices wrongly makes every split batch dear."""
    within = Search.within

    def misled(search: Search, bound: Any) -> Any:
        batch = search.graph.node_of(search.graph.func.body.block.args[-1])
        if batch not in bound or bound[batch].all():
            split = [bool(spec.dim_axes) for spec in search.graph.nodes[batch or 0].specs]
            bound = {**bound, batch: ~np.array(split)}
        return within(search, bound)

    monkeypatch.setattr(Search, "within", misled)
    monkeypatch.setattr(Search, "run", lambda search, limit: misled(search, {}))  # pyright: ignore
    monkeypatch.setattr(planner, "rivals_of", lambda graph: [])  # pyright: ignore
    monkeypatch.setattr(planner, "hybrids_of", lambda graph: [])  # pyright: ignore
    module = _module()
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5))
    rival = propagated(_module(), make_context(), _graph(_module()), "dp")
    assert planned.tried is not None
    least = Trial(rival.module, make_context(), PRICES).price.total
    assert planned.tried.price.total <= least * 1.0001


def test_hybrids_split_state_over_one_axis() -> None:
    graph = _graph(_module())
    kinds = argument_kinds(graph.func)
    found = list(hybrids_of(graph))
    assert len(found) == 2
    for axis, bound in enumerate(found):
        for argument, kind in zip(graph.func.body.block.args, kinds, strict=True):
            node = graph.node_of(argument)
            assert node is not None
            kept = [s for s, may in zip(graph.nodes[node].specs, bound[node], strict=True) if may]
            wanted = {0, 1} if kind == "batch" else {axis}
            assert kept and all(wanted <= spec.dim_axes for spec in kept)
