"""Plans on coarser grids: they begin the search on grids of three axes, and may fit into limits."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.sharding import Grid
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.liveness import memory_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import fitting, planner
from autopar.passes.planning.coarse import coarse_choices
from autopar.passes.planning.places import searched_axes
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import Planned, make_plan
from autopar.passes.planning.problems import whole_costs
from autopar.passes.planning.repeats import Repeats
from autopar.passes.planning.road import Found
from autopar.passes.planning.search import Search
from autopar.passes.solver.evaluate import evaluate
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh


def _module(grid: Grid) -> ModuleOp:
    def step(w: Any, x: Any) -> Any:
        return w - jax.grad(lambda w: (jax.nn.relu(x @ w) ** 2).sum())(w)

    shapes = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((64, 32), (16, 64)))
    module = import_module(jax.jit(step).lower(*shapes).compiler_ir("stablehlo"))
    declare_mesh(module, grid)
    run_passes(module, IMPORT, make_context())
    return module


def _graph(sizes: tuple[int, ...]) -> PlanGraph:
    grid = Grid("mesh", tuple(zip("abcd", sizes, strict=False)))
    prices = CostModel.of(read_cluster("8xv100"), grid)
    return PlanGraph(main_function(_module(grid)), AxisTable(grid, ()), prices)


@pytest.mark.parametrize(
    ("sizes", "coarser"),
    [
        ((8,), 0),
        ((2, 4), 0),
        ((2, 1, 4), 0),
        ((2, 2, 2), 3),  # abc, a bc, ab c
        ((2, 2, 2, 2), 3),  # c and d are one
    ],
)
def test_the_coarser_grids_of_a_grid(sizes: tuple[int, ...], coarser: int) -> None:
    assert len(coarse_choices(_graph(sizes))) == coarser


@pytest.mark.parametrize(
    ("sizes", "searched"),
    [
        ((2, 2, 2), [(0,), (1,), (2,)]),
        ((4, 1, 2, 2), [(0,), (2,), (3,)]),
        ((2, 2, 2, 2), [(0,), (1,), (2, 3)]),
        ((2, 2, 8, 4), [(0, 1), (2,), (3,)]),
        ((2, 2, 2, 2, 2), [(0,), (1, 2), (3, 4)]),
    ],
)
def test_three_axes_are_searched_apart(
    sizes: tuple[int, ...], searched: list[tuple[int, ...]]
) -> None:
    table = AxisTable(Grid("mesh", tuple(zip("abcde", sizes, strict=False))), ())
    assert searched_axes(table) == searched


def test_axes_that_are_one_split_the_same_dimension() -> None:
    specs = [spec for node in _graph((2, 2, 2, 2)).nodes for spec in node.specs]
    assert any((2, 3) in spec.dims for spec in specs)
    assert all((2 in axes) == (3 in axes) for spec in specs for axes in spec.dims)


def test_axes_of_a_coarser_grid_stay_together() -> None:
    graph = _graph((2, 2, 2))
    whole, inner, outer = coarse_choices(graph)
    for node, *kept in zip(graph.nodes, whole, inner, outer, strict=True):
        for index, spec in enumerate(node.specs):
            dims = [set(axes) for axes in spec.dims if axes]
            expected = [
                all(group <= axes or not group & axes for axes in dims)
                for group in ({0, 1, 2}, {1, 2}, {0, 1})
            ]
            assert [bool(choices[index]) for choices in kept] == expected


def test_the_plan_is_no_dearer_than_any_coarser_one() -> None:
    graph = _graph((2, 2, 2))
    search = Search(graph, SolveOptions(20))
    found, problem = search.run(None), search.problem(None)
    alone = [[node] for node in range(len(graph.nodes))]
    starts = search.starts(
        Repeats(alone, alone), [whole_costs(node.seconds) for node in graph.nodes]
    )
    assert len(starts) == 3
    for start in starts:
        assert evaluate(problem, start).cost >= found.solution.cost


def test_within_a_limit_the_whole_grid_is_tried_as_one_axis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = Grid("mesh", (("a", 2), ("b", 4)))
    prices = CostModel.of(read_cluster("8xv100"), grid)

    def plan(limit: int | None) -> Planned:
        return make_plan(_module(grid), make_context(), prices, SolveOptions(5), limit)

    def nothing(*_: Any) -> None:
        return None

    def no_rivals(found: Found, _limit: int | None) -> Found:
        return found

    monkeypatch.setattr(planner, "best_of_rivals", no_rivals)
    monkeypatch.setattr(fitting, "_fitting_below", nothing)
    monkeypatch.setattr(fitting, "_fitting_above", nothing)
    whole = memory_of(_module(grid)).peak
    planned = plan(whole // 3)
    assert planned.tried is not None and planned.tried.memory.peak <= whole // 3
    (kept,) = coarse_choices(planned.graph, fewest=2)
    for choice, may in zip(planned.choices.of_node, kept, strict=True):
        assert may[choice] or not may.any()
