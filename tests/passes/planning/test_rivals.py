"""Plans that a search is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.autopar import set_arg_shardings
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid, Sharding
from autopar.dialects.tensors import shape_of
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price
from autopar.passes.cost.report import CollectiveUse
from autopar.passes.entry import main_function
from autopar.passes.importing.annotate_method import AnnotateMethodPass
from autopar.passes.importing.arguments import argument_kinds
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import completed, road
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.reshard_prices import Meets
from autopar.passes.planning.rivals import Method, methods_of, propagated_rivals, rivals_of
from autopar.passes.planning.search import Choices, Search
from autopar.passes.planning.trial import Trial
from autopar.passes.planning.words import proof_text
from autopar.passes.planning.writing import Unplanned, write_choices
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
    return _imported(step, (params, params), jax.ShapeDtypeStruct((4096, 64), np.float32))


def _tied() -> ModuleOp:
    """A step of a language model whose embedding is its head."""

    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            table = params["table"].astype(jnp.bfloat16)
            hidden = jnp.tanh(table[batch] @ params["layer"].astype(jnp.bfloat16))
            logits = (hidden @ table.T).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch).mean()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    shapes = {"table": (4096, 512), "layer": (512, 512)}
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    return _imported(step, params, jax.ShapeDtypeStruct((64, 16), np.int32))


def _imported(step: Callable[[Any, Any], Any], state: Any, batch: Any) -> ModuleOp:
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    module = import_module(lowered.compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _price(module: ModuleOp) -> float:
    return Trial(module, make_context(), PRICES).price.total


def _graph(module: ModuleOp) -> PlanGraph:
    return PlanGraph(main_function(module), AxisTable(grid_of(module), ()), PRICES)


@pytest.mark.parametrize("program", [_module, _tied])
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_what_propagation_makes_is_a_plan(
    zero: Literal[0, 2, 3], program: Callable[[], ModuleOp]
) -> None:
    module, made = program(), program()
    run_passes(made, [AnnotateMethodPass("dp" if zero == 0 else f"zero{zero}")], make_context())
    propagate_shardings(made)
    graph = _graph(module)
    bound = propagated_rivals(graph, Unplanned(module), (zero, None))[0]
    choices = Search(graph, SolveOptions(5)).within(bound)
    write_choices(graph, choices.of_node)
    propagate_shardings(module)
    planned, least = _price(module), _price(made)
    assert planned <= 1.02 * least  # ZeRO-3's phases are none of a plan's
    assert zero or planned >= 0.98 * least


def test_a_second_rival_scatters_to_where_the_gradient_lies() -> None:
    """Of the rows of an embedding, to the part that a device holds."""
    module = _tied()
    graph = _graph(module)
    first, second = propagated_rivals(graph, Unplanned(module), (3, "y"))
    (scatter,) = second.keys() - first.keys()
    strategies = graph.nodes[scatter].strategies
    split = [strategy.results[0].dims for strategy in strategies]
    assert {dims for dims, may in zip(split, second[scatter], strict=True) if may} == {((1,), ())}


def test_a_transposed_parameter_is_whole_under_zero_3() -> None:
    """So that a head reads the table that a lookup has gathered."""
    module = _tied()
    graph = _graph(module)
    bound, _ = propagated_rivals(graph, Unplanned(module), (3, None))
    turned = (op for op in graph.places.ops if shape_of(op.results[0].type) == (512, 4096))
    transpose = next(turned)
    assert transpose.name == "stablehlo.transpose"
    node = graph.node_of(transpose.results[0])
    assert node is not None
    specs = graph.nodes[node].specs
    assert [spec.dim_axes for spec, may in zip(specs, bound[node], strict=True) if may] == [set()]


def _mislead(
    monkeypatch: pytest.MonkeyPatch, is_misled: Callable[[Search, dict[int, Any]], bool]
) -> None:
    """Searches take ZeRO-2 for the cheapest plan, as where they price all others wrongly; none
    binds choices but those of methods as propagation has them."""
    within = Search.within

    def misled(search: Search, bound: dict[int, Any]) -> Choices:
        if is_misled(search, bound):
            bound = list(rivals_of(search.graph))[3]
        return within(search, bound)

    def run(search: Search, limit: int | None) -> Choices:
        return misled(search, {})

    def no_rivals(graph: PlanGraph, *, many: bool) -> list[Any]:
        return []

    monkeypatch.setattr(Search, "within", misled)
    monkeypatch.setattr(Search, "run", run)
    monkeypatch.setattr(completed, "rivals_of", no_rivals)


def _is_no_dearer_than_data_parallelism(demands: Demands | None = None) -> bool:
    planned = make_plan(_module(), make_context(), PRICES, SolveOptions(5), demands=demands)
    made = _module()
    run_passes(made, [AnnotateMethodPass("dp")], make_context())
    propagate_shardings(made)
    assert planned.tried is not None
    return planned.tried.price.total <= 1.0001 * _price(made)


def test_a_search_that_is_misled_is_held_against_propagation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _mislead(monkeypatch, lambda _, bound: not bound)
    assert _is_no_dearer_than_data_parallelism()


@pytest.mark.parametrize(
    "demands",
    [
        Demands(force_data_parallel=True),
        Demands(batch_axis="x"),
        Demands(zero=0),
        Demands(allow_all_to_all=False),
        Demands(allow_replicated_compute=False),
    ],
)
def test_rivals_are_of_use_under_options_that_they_keep_to(
    monkeypatch: pytest.MonkeyPatch, demands: Demands
) -> None:
    _mislead(monkeypatch, lambda _, bound: not bound)
    assert _is_no_dearer_than_data_parallelism(demands)


@pytest.mark.parametrize("wrong", ["all", "first"])
def test_no_plan_is_taken_for_a_program_that_options_forbid(
    monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """As where the partitioner gathers what the search does not know of: a rival that does is none,
    and one that does not is taken though it takes longer."""
    met: list[Trial] = []

    def collectives(trial: Trial) -> list[CollectiveUse]:
        met.extend([] if any(trial is other for other in met) else [trial])
        is_wrong = wrong == "all" or trial is met[0]
        return [CollectiveUse("all_gather", ("x",), 2, 1, 1.0)] if is_wrong else []

    monkeypatch.setattr(Trial, "collectives", property(collectives))
    demands = Demands(allow_all_gather=False)
    if wrong == "first":
        planned = make_plan(_module(), make_context(), PRICES, SolveOptions(5), demands=demands)
        assert planned.tried is not met[0]
    else:
        with pytest.raises(DiagnosticError, match="allow-all-gather=false: the plan that was"):
            make_plan(_module(), make_context(), PRICES, SolveOptions(5), demands=demands)
    assert len(met) > 1


def test_methods_leave_to_options_what_these_say() -> None:
    module = _module()
    func = main_function(module)
    demands = Demands(batch_axis="y", zero=2)
    graph = PlanGraph(func, AxisTable(grid_of(module), ()), PRICES, demands)
    kinds = argument_kinds(func)
    for method in methods_of(graph, many=True):
        bound = propagated_rivals(graph, Unplanned(module), method)[0]
        for argument, kind in zip(func.body.block.args, kinds, strict=True):
            node = graph.node_of(argument)
            assert node is not None
            kept = [s for s, may in zip(graph.nodes[node].specs, bound[node], strict=True) if may]
            if kind == "parameter":
                assert all(1 not in spec.dim_axes for spec in kept)
            else:
                assert all(1 in spec.dim_axes for spec in kept)


def test_methods() -> None:
    graph = _graph(_module())
    assert methods_of(graph) == [(0, None)]
    several: list[Method] = [(0, None), (2, None), (3, None), (3, "x"), (3, "y")]
    assert methods_of(graph, many=True) == several


Entropy = Callable[[jax.Array], jax.Array]


def _labelled(logits: jax.Array) -> jax.Array:
    own = jnp.arange(len(logits))
    return optax.softmax_cross_entropy_with_integer_labels(logits, own).mean()


def _diagonal(logits: jax.Array) -> jax.Array:
    return -jnp.diag(jax.nn.log_softmax(logits)).mean()


def _contrastive(entropy: Entropy, rows: int, width: int, inner: int) -> ModuleOp:
    """A step of two towers whose logits are each row's with each."""

    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = (batch["x"] @ params["a"]) @ (batch["y"] @ params["b"]).T
            return entropy(logits) + entropy(logits.T)

        return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))

    params = {name: jax.ShapeDtypeStruct((width, inner), np.float32) for name in "ab"}
    batch = {name: jax.ShapeDtypeStruct((rows, width), np.float32) for name in "xy"}
    native = jax.jit(step, donate_argnums=0).lower(params, batch).compiler_ir("stablehlo")
    merge_equal_ops(native)
    module = import_module(native)
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


@pytest.mark.parametrize("zero", [0, 3])
def test_what_propagation_copies_is_no_new_choice(zero: Literal[0, 3]) -> None:
    """Scatters of broadcast scalars read copies of them."""
    module = _contrastive(_labelled, 128, 64, 64)
    graph = _graph(module)
    count = len(graph.nodes)
    bound = propagated_rivals(graph, Unplanned(module), (zero, None))[0]
    assert max(bound) < count == len(graph.nodes)


def test_a_plan_that_needs_less_memory_is_a_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read often, as these logits, costs less where it is split more than the search
    finds."""
    modules = [_contrastive(_diagonal, 4096, 512, 256) for _ in range(2)]
    leaner = make_plan(modules[0], make_context(), PRICES, SolveOptions(10))
    monkeypatch.setattr(Search, "leaner", lambda *_: iter(()))
    other = make_plan(modules[1], make_context(), PRICES, SolveOptions(10))
    assert leaner.choices.solution.cost < 0.9 * other.choices.solution.cost
    assert leaner.choices.bytes < 0.7 * other.choices.bytes


def test_what_a_program_says_is_completed_by_propagation() -> None:
    module = _module()
    argument = main_function(module).body.block.args[0]
    shardings: list[Sharding | None] = [None] * len(argument.block.args)
    shardings[argument.index] = Sharding.of("mesh", [["y", "x"], []])
    set_arg_shardings(main_function(module), shardings)
    graph = _graph(module)
    assert methods_of(graph) == [None, (0, None)]
    bound = propagated_rivals(graph, Unplanned(module), None)[0]
    node = graph.node_of(argument)
    assert node is not None
    kept = [
        spec.dims for spec, may in zip(graph.nodes[node].specs, bound[node], strict=True) if may
    ]
    assert kept == [((1, 0), ())]


def test_a_graph_where_collectives_meet_no_others_is_as_if_made_anew() -> None:
    graph = _graph(_module())
    again = graph.where_collectives_meet(Meets.ALONE)
    anew = PlanGraph(graph.func, graph.table, PRICES, meets=Meets.ALONE)
    assert again.edges.keys() == anew.edges.keys()
    assert all(np.array_equal(again.edges[ends], anew.edges[ends]) for ends in anew.edges)
    assert all(
        np.array_equal(one.seconds, two.seconds)
        for one, two in zip(again.nodes, anew.nodes, strict=True)
    )
    differs = [not np.array_equal(graph.edges[ends], anew.edges[ends]) for ends in anew.edges]
    assert any(differs), "that nothing is priced otherwise shows nothing"


@pytest.mark.parametrize("is_small", [True, False])
def test_a_rival_fits_where_the_search_finds_nothing(
    monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """As where the footprint of all that the search finds is too low."""

    def run(search: Search, limit: int | None) -> Choices:
        whole = list(rivals_of(search.graph))[1]
        return replace(search.within(whole), bytes=limit or 0)

    monkeypatch.setattr(Search, "run", run)
    if not is_small:
        monkeypatch.setattr(road, "_SMALL", 0)
    module = _module()
    run_passes(module, [AnnotateMethodPass("zero3")], make_context())
    propagate_shardings(module)
    limit = round(1.02 * Trial(module, make_context(), PRICES).memory.peak)
    planned = make_plan(_module(), make_context(), PRICES, SolveOptions(5), limit)
    assert planned.tried is not None and planned.tried.memory.peak <= limit


def test_hybrids_split_state_over_one_axis() -> None:
    """And the batch over all axes, or over that one alone; last comes a batch that is whole. Third
    is what splits no dimension over several axes."""
    graph = _graph(_module())
    kinds = argument_kinds(graph.func)
    few, (*found, whole) = list(rivals_of(graph)), rivals_of(graph, many=True)
    single = found.pop(2)
    assert len(found) == len(few) + 4
    for index, node in enumerate(graph.nodes):
        choices = [spec.dims for spec in node.specs] or [s.factors for s in node.strategies]
        several = [any(len(axes) > 1 for axes in own) for own in choices]
        assert not all(several) and list(single[index]) == [not more for more in several]
    batch = [arg for arg in graph.func.body.block.args if kinds[arg.index] == "batch"]
    assert whole.keys() == {graph.node_of(arg) for arg in batch}
    for node, may in whole.items():
        for spec, kept in zip(graph.nodes[node].specs, may, strict=True):
            assert kept == (not spec.dim_axes)
    for number, bound in enumerate(found[len(few) :]):
        axis, is_alone = divmod(number, 2)
        for argument, kind in zip(graph.func.body.block.args, kinds, strict=True):
            node = graph.node_of(argument)
            assert node is not None
            kept = [s for s, may in zip(graph.nodes[node].specs, bound[node], strict=True) if may]
            wanted = {0, 1} if kind == "batch" and not is_alone else {axis}
            assert kept and all(wanted <= spec.dim_axes for spec in kept)
            if kind == "batch" and is_alone:
                assert all(spec.dim_axes == {axis} for spec in kept)


def test_small_collectives_pay_for_the_message_that_they_do_not_share() -> None:
    graph = _graph(_module())
    assert graph.where_collectives_meet(Meets.FEW) is graph
    alone, many = (
        graph.where_collectives_meet(Meets.ALONE),
        graph.where_collectives_meet(Meets.MANY),
    )
    assert alone.edges.keys() == many.edges.keys() == graph.edges.keys()
    for ends, seconds in graph.edges.items():
        assert (alone.edges[ends] >= seconds).all() and (many.edges[ends] <= seconds).all()
    assert any((alone.edges[ends] > many.edges[ends]).any() for ends in graph.edges)


def test_a_plan_whose_small_collectives_are_alone_is_a_rival(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone: list[PlanGraph] = []
    meet = PlanGraph.where_collectives_meet

    def noted(graph: PlanGraph, meets: Meets) -> PlanGraph:
        found = meet(graph, meets)
        alone.extend([found] * (meets is Meets.ALONE))
        return found

    def is_misled(search: Search, _: dict[int, Any]) -> bool:
        return not any(search.graph is graph for graph in alone)

    monkeypatch.setattr(PlanGraph, "where_collectives_meet", noted)
    _mislead(monkeypatch, is_misled)
    assert _is_no_dearer_than_data_parallelism()


def test_what_a_rival_saves_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is cheaper once partitioned than what the search found is not called optimal for
    being below its bound."""
    met: list[Trial] = []

    def price(trial: Trial) -> Price:
        if not any(trial is other for other in met):
            met.append(trial)
        number = next(n for n, other in enumerate(met) if other is trial)
        return Price(compute=1e-12 / (1 + number))  # the later it is tried, the cheaper

    monkeypatch.setattr(Trial, "price", property(price))
    choices = make_plan(_module(), make_context(), PRICES, SolveOptions(5)).choices
    assert choices.searched is not None
    assert choices.solution.cost < choices.searched.lower_bound <= choices.searched.cost
    assert choices.gap == choices.searched.gap
    assert choices.is_optimal == (choices.gap == 0)
    assert choices.is_rival and _proof(choices).startswith("taken among rivals for its partitioned")


def _proof(choices: Choices) -> str:
    return proof_text(choices.gap, optimal=choices.is_optimal, rival=choices.is_rival)
